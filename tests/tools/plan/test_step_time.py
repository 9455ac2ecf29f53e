"""The model of step times: known coefficients come back, no record trains on itself, the facts are the public ones.

Not covered: whether the public logs are right.
"""

import csv
from dataclasses import replace

import numpy as np
import pytest

from tools.plan import step_time
from tools.plan.step_time import Point, Step

TRUE = np.array([1.6, 4.4, 2.2, 700.0, 3.5])  # ms per TFLOP, TFLOP, TFLOP, TB, and per step
BASELINE = Step(
    tokens=65_536,
    micro_tokens=65_536,
    layers=9,
    model_dim=512,
    kv_share=0.5,
    mlp_mult=2.0,
    vocab_size=1024,
    embed_dim=512,
    seq_len=1024,
    attention="sdpa",
)


def made_up(number: int, noise: float = 0.0, seed: int = 0) -> list[Point]:
    """Points whose times follow TRUE, times a log-normal factor."""
    random = np.random.default_rng(seed)
    points = []
    for i in range(number):
        step = Step(
            tokens=65_536 * int(random.integers(1, 9)),
            micro_tokens=65_536,
            layers=int(random.integers(4, 20)),
            model_dim=64 * int(random.integers(4, 33)),
            kv_share=0.5,
            mlp_mult=float(random.choice([1, 2, 3, 4])),
            vocab_size=2 ** int(random.integers(10, 15)),
            embed_dim=512,
            seq_len=2 ** int(random.integers(8, 14)),
            attention=("sdpa", "fa3", "fa3_varlen")[i % 3],
        )
        ms = float(step_time.features(step) @ TRUE * np.exp(noise * random.standard_normal()))
        points.append(Point(f"record {i}", "", (i,), step, ms, None))
    return points


def test_fit_recovers_known_coefficients():
    assert step_time.fit(made_up(60)) == pytest.approx(TRUE, rel=1e-3)


def test_fit_shrugs_off_slow_pods():
    points = [replace(p, ms=p.ms * (1.6 if i % 8 == 0 else 1.0)) for i, p in enumerate(made_up(64, noise=0.02))]
    coefficients = step_time.fit(points)
    errors = [step_time.predict(coefficients, p.step) / (step_time.features(p.step) @ TRUE) - 1 for p in points]
    assert np.median(np.abs(errors)) < 0.02 and np.max(np.abs(errors)) < 0.06


def test_no_rate_is_faster_than_the_data_sheet():
    points = [replace(p, ms=p.ms / 100) for p in made_up(30)]
    rates = 1e3 / step_time.fit(points)[:4]
    assert (rates <= np.array([0.8 * 989.5, 989.5, 989.5, 3.35]) * (1 + 1e-6)).all()


def test_features_by_hand():
    # PR #1530's model: 11 layers of 2 D^2 + 2 D D/2 + 2 D 4D = 2,883,584 weights and a head of 8,192 x 512
    step = replace(BASELINE, layers=11, mlp_mult=4.0, vocab_size=8192, seq_len=2048, attention="fa3_varlen")
    assert step_time.matrix_flops(step) == 6 * 35_913_728
    assert step_time.matrix_flops(BASELINE) == 6 * 17_039_360
    matrices, sdpa, fa3, moved, one = step_time.features(step)
    assert (matrices, sdpa, one) == (pytest.approx(6 * 35_913_728 * 65_536 / 1e12), 0, 1)
    pairs = sum(range(1, 2049)) / 2048  # positions that a token attends on average in a whole row
    per_token = 11 * pairs * (4 * 512) * 3 * 0.63  # QK^T and PV, backward twice forward
    assert fa3 == pytest.approx(per_token * 65_536 / 1e12, rel=1e-3)
    assert moved == pytest.approx(65_536 * (11 * 512 * 2 * (42 + 20) + 8 * 8192) / 1e12)
    assert step_time.features(BASELINE)[1] > 0 and step_time.features(BASELINE)[2] == 0


def test_a_record_never_trains_on_itself():
    points = made_up(20, noise=0.1)
    points[3] = replace(points[3], record=points[2].record, shape=points[2].shape)
    moved = [replace(p, ms=p.ms * 3) if p.record == points[2].record else p for p in points]
    for key in (lambda p: p.record, lambda p: p.shape):
        before, after = step_time.held_out(points, key), step_time.held_out(moved, key)
        assert before[2:4] == after[2:4]  # its own times do not reach its prediction
        assert all(a != b for i, (a, b) in enumerate(zip(before, after)) if i not in (2, 3))  # and reach all others
        others = [p for p in points if p.record != points[2].record]
        assert before[2] == step_time.predict(step_time.fit(others), points[2].step)


def test_spread_covers_what_it_says():
    random = np.random.default_rng(1)
    draws = np.exp(random.standard_normal((3000, 18)))
    inside = [max(row[-1], 1 / row[-1]) <= step_time.spread(list(row[:-1])) for row in draws]
    assert 0.80 <= np.mean(inside) < 0.86  # rank 15 of 18: 0.833
    assert step_time.spread([1.1, 1 / 1.3]) == pytest.approx(1.3)  # too few to leave any out


def test_median_error_of_the_shipped_facts():
    result = step_time.validate(step_time.read_points())
    errors = {}
    for row in result["rows"]:
        assert row["error"] == pytest.approx(row["predicted_ms"] / row["ms"] - 1, abs=1e-3)
        errors.setdefault(row["record"], []).append(abs(row["error"]))
    assert result["records"] == len(errors) == 45
    assert result["median_error"] == pytest.approx(np.median([np.mean(e) for e in errors.values()]), abs=2e-4)
    assert result["median_error"] < 0.08 and result["median_error_new_shape"] < 0.08
    assert 0.7 <= result["spread_covers"] <= 0.95


def test_memory_follows_the_logs():
    points = step_time.read_points()
    coefficients = step_time.fit_memory(points)
    looped = replace(BASELINE, layers=17, micro_tokens=98_304, vocab_size=8192, mlp_mult=4.0)
    for step, mib in ((BASELINE, 10_184), (looped, 39_045)):
        assert step_time.memory_features(step) @ coefficients == pytest.approx(mib, rel=0.05)
    assert 1 < step_time.memory_spread(points) < 1.15


# Typed by hand from the public logs: start of the record's name, log, GPUs, attention, layers, MLP, vocabulary,
# context, batch, parameters, layer applications before and after, ms before and after, MiB
CHECKED = """
2026-03-17_NaiveBaseline train.log 8 sdpa 9 2 1024 1024 524288 17059912 9 9 43.549 - 10184
2026-03-17_LoRA_TTT train_v1.txt 2 sdpa 9 2 1024 1024 524288 17059912 9 9 169.353 - 10334
2026-03-20_11L_EfficientPartialXSA train.log 8 fa3 11 3 1024 2048 786432 26829913 11 11 86.13 - 20300
2026-04-05_SP8192 train_seed42.log 8 fa3 11 4 8192 2048 786432 35943512 11 15 101.822 140.169 35372
2026-04-27_SP8192_LQER train_seed0.log 8 fa3_varlen 11 4 8192 2048 786432 35945671 11 17 96.161 141.908 41707
2026-04-04_GDN logs_experiment/baseline_1xh100_600s_seq8192.txt 1 sdpa 9 2 1024 8192 393216 17059912 9 9 593.484 - 7779
"""


def read_facts() -> list[dict]:
    with open(step_time.RUNS, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_facts_equal_rows_checked_by_hand():
    keys = """gpus attention num_layers mlp_mult vocab_size seq_len batch_tokens params layers_before layers_after
        ms_before ms_after peak_mib""".split()
    for line in CHECKED.strip().splitlines():
        record, log, *values = line.split()
        [row] = [row for row in read_facts() if row["record"].startswith(record) and row["log"] == log]
        assert [row[key] or "-" for key in keys] == values, (record, log)


def test_facts_hold_what_the_notes_say():
    rows = read_facts()
    assert not [row for row in rows if row["pr"] == "1412"]
    assert not [row for row in rows if "LowerLR" in row["record"] or "MixedPrecision" in row["record"]]  # H200
    measured = [(row["params"], row["ms_before"], row["ms_after"], row["peak_mib"]) for row in rows if row["ms_after"]]
    assert len(set(measured)) == len(measured)  # a log that lies in two folders counts once
    widths = {row["model_dim"] for row in rows}
    assert widths == {"512", "768"}
