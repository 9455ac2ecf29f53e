"""Schedules of train_gpt.py and a run with every technique on: stages, resuming, packing.

Schedules are held against formulas, a resumed run against one that was never stopped, bit for bit. Not covered here:
the model's and the optimiser's numbers (test_train_model.py), the clock and the disk (test_train_run.py).
"""

import gc
import json
import math
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import train_gpt as t
from compress.decode import decode_weights
from compress.pack import pack_run
from compress.quantise import is_matrix
from golf import container
from tests.support.packed import TOKENIZER
from tests.support.small_models import ALL, SMALL, packed_tokens, small_model
from tests.support.small_runs import arguments, make_tokens, write_shard

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_boxes")]

# ----------------------------------------------------------------------------------------------------------- schedules


@given(st.integers(1, 13), st.integers(1, 40), st.integers(1, 9), st.sampled_from([0.0, 0.35, 0.5]))
def test_stages_keep_the_batch_on_any_number_of_ranks(world, batch_rows, micro_rows, loop_from):
    """As many tokens as asked for, rounded up by less than a row for each forward, in forwards that fit in memory."""
    config = replace(
        SMALL, loops=2, loop_from=loop_from, batch_tokens=12 * batch_rows, micro_batch_tokens=12 * micro_rows,
        stages="0.2:4:36,0.5:6:12",
    )  # fmt: skip
    plan = t.stages(config, world)
    assert [s.until for s in plan] == sorted({0.2, 0.5, 1.0, loop_from} - {0.0})
    for fraction in (0.0, 0.1, 0.2, 0.34, 0.4, 0.5, 0.99):
        stage = next(s for s in plan if fraction < s.until)
        length, batch = (4, 36) if fraction < 0.2 else (6, 12) if fraction < 0.5 else (12, 12 * batch_rows)
        assert (stage.loops, stage.length) == (2 if fraction >= loop_from else 0, length)
        assert stage.tokens == stage.rows * stage.accumulate * 12 * world
        assert batch <= stage.tokens < batch + 12 * world * stage.accumulate and stage.rows <= micro_rows


def test_without_schedules_there_is_one_stage_and_mistakes_are_named():
    pocket = t.parse_config(["--preset=pocket", "--stages=", "--loops=0"], {})
    assert [s.until for s in t.stages(pocket, 1)] == [1.0]
    for text in "0.5:256 0.5:300:4096 0.5:256:0 1.0:256:4096 0.5:256:4096,0.4:512:4096 x 0:256:4096".split():
        with pytest.raises(t.RunError, match="--stages must be like"):
            t.parse_config(["--preset=pocket", f"--stages={text}"], {})


def test_schedules_follow_their_formulas():
    """By the fraction of the run: learning rate and decay; by the step: momentum and the memory of the average."""
    config = replace(
        SMALL, warmdown=0.85, min_lr=0.1, decay_taper=0.5, ema_decay=0.9, muon_momentum=0.95, muon_momentum_start=0.85,
        muon_momentum_steps=20,
    )  # fmt: skip
    for step, fraction in enumerate(np.linspace(0, 1, 41)):
        now = t.rates(config, step, fraction)
        assert now.learning_rate == pytest.approx(1.0 if fraction < 0.15 else max((1 - fraction) / 0.85, 0.1))
        assert now.decay == pytest.approx(1.0 if fraction < 0.7 else 1 - 0.5 * (fraction - 0.7) / 0.3)
        assert now.momentum == pytest.approx(0.85 + 0.005 * step if step < 20 else 0.95)
        assert now.average == pytest.approx((1 + step) / (10 + step) if step < 80 else 0.9) and now.average <= 0.9
    assert t.rates(replace(config, warmdown=0.0, min_lr=0.0), 0, 1.0).learning_rate == 1.0


def test_pieces_of_rows_are_those_rows_cut_and_a_changed_number_of_rows_goes_on():
    tokens, config = make_tokens(3000, 0), replace(SMALL, seq_len=16)
    long, short = (t.Loader(tokens, 4, config, 0, torch.device("cpu")) for _ in range(2))
    short.rows, short.piece = 2, 8
    whole = [part.clone() for part in long.next()]
    first, second = short.next(), short.next()
    for parts in zip(whole, first, second):
        assert parts[1].shape == (4, 8)
        assert torch.equal(parts[0], torch.cat(parts[1:]).view(4, 16))
    short.rows, short.piece = 4, 16
    assert short.state == long.state and torch.equal(short.next()[1], long.next()[1])


def test_a_slow_machine_is_named_before_the_clock_starts():
    flops = 6 * 53_238_784 * 98_304  # the looped 16mb model, a micro-batch: 141.6 ms were measured (PR #1855)
    lines = t.speed_lines("H100", "FA3", 0.1416, 0.1427, flops)
    assert len(lines) == 1 and "H100, FA3, loss by" in lines[0]
    assert "141.6 ms, expected 142.7 ms at 220 TFLOP/s" in lines[0]
    own = "torch's own attention, no FA3: ..."
    assert "24% slower" in t.speed_lines("H100", own, 1.24 * 0.157, 0.157, flops)[1]
    assert len(t.speed_lines("CPU", "", 99.0, None, flops)) == 1


def test_switching_loops_uses_two_graphs_whole_and_each_equals_the_plain_model():
    config = replace(SMALL, **ALL)
    model, plain = small_model(config), small_model(config)
    tokens, targets = packed_tokens(2, 12), packed_tokens(2, 12, seed=1)
    graphs, losses = [], set()

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model.loss, backend=keep, fullgraph=True, dynamic=False)
    for loops in (0, 2, 0, 2, 2, 0):
        model.loops = plain.loops = loops
        loss = compiled(tokens, targets)
        torch.testing.assert_close(loss, plain.loss(tokens, targets))
        losses.add(loss.item())
    assert len(graphs) == 2 and len(losses) == 2


# ----------------------------------------------------------------------------------------------------- a run, all of it


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_shard(folder / "train_000000.bin", make_tokens(27_000, 0))
    write_shard(folder / "dev_000000.bin", make_tokens(4000, 9))
    (folder / "tokenizer.model").write_bytes(TOKENIZER)
    (folder / "manifest.json").write_text(json.dumps({"splits": {"dev": {"raw_bytes": 10_000, "tokens": 4000}}}))
    return folder


EVERYTHING = """--rope_dims=8 --ln_scale --leaky_slope=0.5 --xsa --attn_gate=12 --smear_gate=12 --gated_skips
    --loops=2 --num_layers=4 --parallel_start=3 --loop_first=1 --loop_last=2 --loop_from=0.35
    --document_mask --ortho_init --muon_polar --muon_row_norm --weight_decay=0.1 --embed_decay=0.1
    --decay_taper=0.5 --stages=0.25:32:256 --dev_evals=3 --micro_batch_tokens=512 --max_seconds=0
    --max_steps=40 --checkpoint_every=10""".split()


def run(data, folder, monkeypatch, stop=lambda clock: None, extra=()):
    """train_gpt.main in this process; stop(clock) is called after each step, with clock.ticks steps behind it."""
    tick = t.Clock.tick

    def spied(clock):
        tick(clock)
        clock.ticks = getattr(clock, "ticks", 0) + 1
        stop(clock)

    handlers, threads = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)], torch.get_num_threads()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(t.Clock, "tick", spied)
            return t.main([*arguments(data, folder), *EVERYTHING, *extra])
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), handlers):
            signal.signal(number, handler)
        torch.set_num_threads(threads)
        gc.collect()  # a run that failed has its folder until it is collected; else it ends with its process


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        assert run(data, folder, patch) == 0
    return folder


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_everything_on_learns_and_says_what_the_schedules_did(finished, data):
    result = json.loads((finished / "run.json").read_text())
    tokens = np.fromfile(data / "train_000000.bin", "<u2", offset=1024)
    share = np.bincount(tokens) / len(tokens)
    entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
    assert result["train_loss"] < entropy - 2.5  # of single tokens; that of the chain is 0.6
    assert result["steps"] == 40 and result["tokens"] == 10 * 256 + 30 * 512
    log = (finished / "train.log").read_text().rpartition("# source_sha256")[2]
    stages = [line for line in log.splitlines() if "tokens a step in rows of" in line]
    assert [line.split(":")[0] for line in stages] == [f"until {at}" for at in ("25%", "35%", "100%")]
    assert result["config"]["loops"] == 2 and not list(finished.glob("resume_*"))


def test_a_run_that_was_cut_off_twice_ends_like_one_that_was_not(finished, data, tmp_path, monkeypatch, capsys):
    """Once by a crash after 17 steps, so from step 10 on; once by SIGTERM in the looped and noisy part."""

    def crash(clock):
        if clock.ticks == 17:
            raise KeyboardInterrupt

    def told(clock):
        clock.told_to_stop = signal.SIGTERM if clock.ticks == 16 else 0

    folder = tmp_path / "run"
    assert run(data, folder, monkeypatch, crash) == 130
    assert [p.name for p in folder.glob("resume_*")] == ["resume_10_0of1.pt"] and not (folder / "run.json").exists()
    assert run(data, folder, monkeypatch, extra=["--matrix_lr=0.1"]) == 1
    assert "another matrix_lr" in capsys.readouterr().err
    assert run(data, folder, monkeypatch, told) == 0
    assert [p.name for p in folder.glob("resume_*")] == ["resume_26_0of1.pt"] and not (folder / "run.json").exists()
    t.build_model(t.Config(**torch.load(folder / "checkpoint.pt")["config"]))  # complete, although not the last
    assert run(data, folder, monkeypatch) == 0
    out = capsys.readouterr().out
    assert "going on from step 10\n" in out and "going on from step 26\n" in out and not list(folder.glob("resume_*"))
    for name in ("checkpoint.pt", "statistics.pt"):
        one, other = (torch.load(f / name, weights_only=True) for f in (finished, folder))
        assert same(one, other)
    last, expected = (rows_of(f)[-1] for f in (folder, finished))
    assert {k: last[k] for k in ("step", "loss", "dev_bpb")} == {k: expected[k] for k in ("step", "loss", "dev_bpb")}
    both = [json.loads((f / "run.json").read_text()) for f in (folder, finished)]
    assert both[0]["tokens"] == both[1]["tokens"] and both[0]["flops_per_token"] == both[1]["flops_per_token"]


def test_everything_on_packs_and_unpacks(finished, tmp_path):
    """Statistics for each matrix, tables and passes of looped layers included; gates are vectors; the file decodes."""
    checkpoint = torch.load(finished / "checkpoint.pt", weights_only=True)
    statistics = torch.load(finished / "statistics.pt", weights_only=True)
    known = set(statistics["linear"]) | set(statistics["embedding"])
    matrices = {name for name, tensor in checkpoint["model"].items() if is_matrix(tensor)}
    assert matrices <= known and "embed.weight" in matrices
    assert {"blocks.0.attn.gate", "smear"} <= known - matrices
    # the same tap is read once a pass: layers 1 and 2 three times, so the sum has three times the trace of a unit norm
    passes = {layer: statistics["taps"][f"blocks.{layer}.mlp.up"].trace().item() for layer in range(3)}
    for layer, times in ((0, 1), (1, 3), (2, 3)):
        assert passes[layer] == pytest.approx(times * 32 / (layer + 1), rel=0.01)
    lines = []
    report = pack_run(finished, tmp_path / "m.golf", track="pocket", announce=lines.append)
    assert len(report["warnings"]) == 1 and "train a larger model" in report["warnings"][0]
    assert "bits per byte" in lines[0] and 0 < report["predicted_rise"] < 0.001
    sections = container.read((tmp_path / "m.golf").read_bytes())
    config = container.config_unpack(sections["CONF"])
    model, packed = (t.build_model(t.Config(**config)).eval() for _ in range(2))
    model.load_state_dict(checkpoint["model"])
    packed.load_state_dict(decode_weights(sections["WGTS"]))
    tokens = torch.from_numpy(make_tokens(512, 3).astype(np.int64)).view(8, 64)
    with torch.no_grad():
        before, after = (torch.nn.functional.log_softmax(m(tokens), -1) for m in (model, packed))
    kl = (before.exp() * (before - after)).sum(-1).mean().item() / math.log(2) / 2.5
    assert kl < 5 * report["predicted_rise"]
