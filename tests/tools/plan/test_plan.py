"""golf plan: against a clock walked step by step, hand-made runs, the dry run that is there, and bad input.

Not covered: what five seconds of training print (tests/train/test_run.py trains); whether predictions come true.
"""

import contextlib
import io
import json
import math
import os
import platform
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

import train_gpt
from compress.__main__ import main as compress
from compress.minify import minify
from golf import container
from golf.__main__ import main as golf
from golf.files import Failure, sha256_file
from golf.tracks import TRACKS
from tools.plan import dry_run, plan, step_time

CONFIG = {
    "preset": "16mb", "track": "16mb", "vocab_size": 8192, "seq_len": 2048, "num_layers": 11, "model_dim": 512,
    "num_heads": 8, "num_kv_heads": 4, "mlp_mult": 4.0, "batch_tokens": 786_432, "micro_batch_tokens": 98_304,
    "max_seconds": 600.0, "max_steps": 0, "seed": 1, "run_dir": "", "calibration_tokens": 250_000,  # 5 s
}  # fmt: skip
LOOPED = CONFIG | {"loops": 2, "loop_first": 3, "loop_last": 5, "document_mask": True}
NUMBERS = {
    "params": 35_945_671,
    "flops_per_token": 3 * 10**8,
    "flops_per_step": 10**14,
    "memory_per_gpu_bytes": 7 * 10**10,
}


def stage(until=1.0, loops=0, length=2048, rows=48, accumulate=1, gpus=8):
    return {"until": until, "loops": loops, "length": length, "rows": rows, "accumulate": accumulate,
            "tokens": rows * 2048 * accumulate * gpus}  # fmt: skip


@pytest.fixture
def planned(monkeypatch):
    """planned(config, stages, gpus, dollars, kind): the plan, with the dry run and the packer's count made up."""

    def make(config, stages=None, gpus=None, dollars=None, kind=None):
        monkeypatch.setattr(plan, "dry_run", lambda arguments, gpus: (NUMBERS, config, stages or [stage()]))
        monkeypatch.setattr(plan, "code_bytes", lambda: 15_000)
        return plan.make_plan([], gpus, dollars, kind)

    return make


def walk(config: dict, stages: list[dict], step_ms: list[float]) -> tuple[float, int, int]:
    """Seconds, steps and tokens of a run that is walked through step by step, the schedule as in the script."""
    clock = config["max_seconds"] - 5.0 if config["max_seconds"] else float("inf")
    limit = config["max_steps"] or float("inf")
    seconds, steps, tokens = 0.0, 0, 0
    while seconds < clock and steps < limit:
        done = max(seconds / clock, steps / limit)
        index = next(i for i, s in enumerate(stages) if done < s["until"])
        seconds, steps, tokens = seconds + step_ms[index] / 1e3, steps + 1, tokens + stages[index]["tokens"]
    return seconds, steps, tokens


SCHEDULE = [stage(0.2, length=512, rows=24), stage(0.35), stage(1.0, loops=2)]


@pytest.mark.parametrize(
    "limits", [{}, {"max_steps": 900}, {"max_steps": 900, "max_seconds": 0.0}, {"max_seconds": 60.0}]
)
def test_steps_are_those_of_a_clock_walked_through(planned, limits):
    config = LOOPED | limits
    result = planned(config, SCHEDULE)
    assert [s["layers"] for s in result["stages"]] == [11, 11, 17]  # layers 3 to 5 three times, as in PR #1493
    for speed in result["speed"].values():
        assert speed["step_ms"] == sorted(speed["step_ms"])
        seconds, steps, tokens = walk(config, SCHEDULE, speed["step_ms"])
        assert speed["seconds"] == pytest.approx(seconds, abs=0.3)
        assert speed["steps"] == pytest.approx(steps, abs=3) and speed["tokens"] == pytest.approx(tokens, rel=0.01)
        low, high = speed["steps_interval"]
        assert low <= speed["steps"] <= high and (low < high or limits)
    assert result["speed"]["fa3"]["steps"] >= result["speed"]["sdpa"]["steps"]


def test_record_shape_gives_the_records_numbers(planned):
    result = planned(LOOPED, [stage(0.35), stage(1.0, loops=2)])
    speed = result["speed"]["fa3"]  # PR #1855: 96.4 and 141.6 ms, 4,931 steps, 41,707 MiB; its packing cost 0.0087 bpb
    assert speed["step_ms"] == pytest.approx([96.4, 141.6], rel=0.02)
    assert speed["steps"] == pytest.approx(4931, rel=0.02)
    assert speed["tflops_per_gpu"] == pytest.approx([220, 222], rel=0.02)
    assert result["gpus"] == 8 and result["memory_bytes"] == pytest.approx(41_707 * 2**20, rel=0.05)
    assert result["packing_loss_bpb"][0] < 0.011 and result["artifact_bytes"] == 16_000_000


def test_fewer_gpus_take_as_many_times_longer(planned):
    eight, one = planned(CONFIG), planned(CONFIG, [stage(accumulate=8, gpus=1)], gpus=1)
    assert (eight["gpus"], one["gpus"]) == (8, 1) and eight["memory_bytes"] == one["memory_bytes"]
    fast, slow = eight["speed"]["fa3"]["step_ms"][0], one["speed"]["fa3"]["step_ms"][0]
    assert 7 * fast < slow < 8 * fast  # all but the constant grows


def test_price(planned):
    result = planned(CONFIG, dollars=24.0)
    assert result["dollars"] == 4.0 and result["dollars_with_the_rest"] == [6.0, 16.0]


def test_packing_loss_passes_through_what_was_measured():
    for loss in (0.0025, 0.03):
        low, high = plan.bits_at(loss)  # the smaller model needs fewer bits
        assert plan.packing_loss(low)[0] == pytest.approx(loss) and plan.packing_loss(high)[1] == pytest.approx(loss)
    assert plan.bits_at(0.008) == (pytest.approx(3.600, abs=2e-3), pytest.approx(3.904, abs=2e-3))  # docs/coder.md
    losses = [plan.packing_loss(bits)[1] for bits in (2.0, 3.0, 4.0, 5.0)]
    assert losses == sorted(losses, reverse=True)


def test_a_model_beyond_the_cap_is_refused(planned):
    with pytest.raises(Failure, match="do not fit under 250,000 bytes"):
        planned(CONFIG | {"track": "pocket"})


def test_other_gpus_take_a_share_of_the_time(planned):
    """The logs of 8 H200s (step_time.GPUS) are not in the fit: it puts their shapes within 1% by the factor alone."""
    coefficients = step_time.fit(step_time.read_points())
    for layers, ms in ((9, 41.6), (10, 45.793)):
        shape = step_time.Step(65_536, 65_536, layers, 512, 0.5, 2.0, 1024, 512, 1024, "sdpa")
        assert step_time.predict(coefficients, shape) / step_time.GPUS["H200"].speed == pytest.approx(ms, rel=0.01)
    speeds = {kind: planned(LOOPED, kind=kind)["speed"]["fa3"] for kind in step_time.GPUS}
    for kind, gpu in step_time.GPUS.items():
        assert speeds[kind]["step_ms"][0] == pytest.approx(speeds["H100"]["step_ms"][0] / gpu.speed, rel=1e-3)
    assert speeds["H100"]["steps"] < speeds["H200"]["steps"] < speeds["B200"]["steps"]
    assert "2.27 times the speed of an H100 by data sheets alone" in planned(LOOPED, kind="B200")["warnings"][-1]
    assert {kind: gpu.speed for kind, gpu in step_time.GPUS.items()} == train_gpt.SPEED_TO_H100


@given(st.integers(1, 64), st.integers(1, 8), st.integers(1, 100))
def test_forwards_that_fit_are_those_that_the_script_comes_to(rows, accumulate, room):
    """Walked through with the script's own halving, of the largest stage, while a row takes a byte."""
    now = train_gpt.Stage(1.0, 0, 1, rows, accumulate, rows * accumulate)
    while now.rows > room:
        now = now.within(now.rows // 2)
    assert plan.fitting_rows([{"rows": rows, "accumulate": accumulate}], 1.0, room) == now.rows
    assert plan.fitting_rows([{"rows": rows, "accumulate": accumulate}], 1.0, 0.5) == 0


def test_what_a_user_should_look_at_is_warned_of(planned, monkeypatch):
    result = planned(CONFIG | {"model_dim": 1024}, [stage(rows=96)])
    warnings = " ".join(result["warnings"])
    assert "1024 wide" in warnings and "halve --micro_batch_tokens by itself, here to 98,304" in warnings
    assert result["micro_batch_tokens"] == 98_304 and result["memory_interval"][1] < 0.95 * 80e9
    assert planned(CONFIG | {"model_dim": 1024}, [stage(rows=96)], kind="B200")["micro_batch_tokens"] == 196_608
    huge = planned(CONFIG | {"model_dim": 65_536, "num_layers": 1000}, [stage(rows=2)])
    assert "not even one row may fit in 80 GB" in " ".join(huge["warnings"])
    assert planned(LOOPED)["warnings"] == []
    monkeypatch.setitem(NUMBERS, "params", 17_059_912)  # the baseline's, at 7.5 bits each
    [warning] = planned(CONFIG)["warnings"]
    assert "small for the cap" in warning


@pytest.mark.slow
def test_dry_run_prints_what_the_plan_reads(monkeypatch):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert train_gpt.main(["--dry-run", "--preset=tiny", "--seed=7"]) == 0
    done = subprocess.CompletedProcess([], 0, printed.getvalue(), "")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: done)
    numbers, config, stages = dry_run.dry_run([], None)
    model = train_gpt.build_model(train_gpt.parse_config(["--preset=tiny"], {}))
    assert numbers["params"] == sum(p.numel() for p in model.parameters())
    assert config["seed"] == 7 and config["model_dim"] == 64
    assert stages[-1]["tokens"] == numbers["flops_per_step"] / numbers["flops_per_token"] == config["batch_tokens"]
    result = plan.plan_gpus(config, stages, numbers["memory_per_gpu_bytes"])  # every field that the plan reads is there
    assert result["speed"]["sdpa"]["steps"] > 0 and result["gpus"] == 1
    for broken in (done.stdout.replace('"config": ', '"settings": '), done.stdout[:-9], "[]", ""):
        done.stdout = broken
        with pytest.raises(Failure, match="does not print"):
            dry_run.dry_run([], None)


@pytest.mark.slow
@pytest.mark.parametrize("track", ["2mb", pytest.param("16mb", marks=pytest.mark.long)])
def test_the_presets_of_gpu_tracks_are_planned_from_start_to_end(track, capsys):
    """As many weights as the cap holds at the loss of packing of the public records, and forwards that fit."""
    assert golf(["plan", f"--preset={track}", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["track"] == track and result["gpus"] == TRACKS[track].gpus
    assert result["artifact_bytes"] == TRACKS[track].cap_bytes
    assert 0.008 < result["packing_loss_bpb"][0] < result["packing_loss_bpb"][1] < 0.018
    config = train_gpt.parse_config([f"--preset={track}"], {})
    assert result["micro_batch_tokens"] == config.micro_batch_tokens
    assert [s["tokens"] for s in result["stages"]] == [config.batch_tokens] * 2


def write_run(root, name, tokens_per_second, age, **changes):
    folder = root / "runs" / name
    folder.mkdir(parents=True)
    run = {
        "id": name, "source_sha256": sha256_file(root / "train_gpt.py"), "world_size": 1, "steps": 100,
        "environment": {"platform": platform.platform()}, "config": CONFIG, "tokens_per_second": tokens_per_second,
    } | changes  # fmt: skip
    (folder / "run.json").write_text(json.dumps(run))
    stamp = 1_000_000_000 - age
    os.utime(folder / "run.json", (stamp, stamp))


def test_cpu_plan_goes_by_runs_of_this_script_shape_and_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    (tmp_path / "train_gpt.py").write_text("pass\n")
    write_run(tmp_path, "older", 1500.0, age=50)
    write_run(tmp_path, "newer", 2000.0, age=10, config=CONFIG | {"seed": 5, "run_dir": "elsewhere"})
    write_run(tmp_path, "other_script", 9000.0, age=0, source_sha256="0" * 64)
    write_run(tmp_path, "other_shape", 9000.0, age=0, config=CONFIG | {"num_layers": 4})
    write_run(tmp_path, "other_machine", 9000.0, age=0, environment={"platform": "somewhere"})
    write_run(tmp_path, "two_ranks", 9000.0, age=0, world_size=2)
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "run.json").write_text("{")
    cpu = plan.plan_cpu([], CONFIG | {"max_seconds": 105.0}, [stage()])
    assert "2 such run(s)" in cpu["basis"] and "newer" in cpu["basis"] and cpu["tokens_per_second"] == 2000.0
    assert cpu["step_ms"] == [pytest.approx(1e3 * 786_432 / 2000)]
    assert cpu["steps"] == math.floor(100 * 2000 / 786_432)
    low, high = cpu["tokens_interval"]
    assert low <= 100 * 1500 and high >= cpu["tokens"]


def test_cpu_plan_without_a_run_takes_a_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    (tmp_path / "train_gpt.py").write_text("raise SystemExit('no data: build it')\n")
    with pytest.raises(Failure, match="a sample failed: no data: build it"):
        plan.plan_cpu([], CONFIG, [stage()])
    (tmp_path / "train_gpt.py").write_text(
        "import json, pathlib, sys\n"
        "folder = pathlib.Path([a for a in sys.argv if 'run_dir' in a][0].split('=')[1])\n"
        "folder.mkdir()\n"
        "(folder / 'run.json').write_text(json.dumps({'tokens_per_second': 3000, 'steps': 9}))\n"
    )
    cpu = plan.plan_cpu([], CONFIG, [stage()])
    assert cpu["tokens_per_second"] == 3000 and "just now" in cpu["basis"]


def test_unknown_field_gives_the_nearest_match(capsys):
    assert golf(["plan", "--preset=tiny", "--num_layer=3", "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err == "golf plan: unknown argument '--num_layer=3': did you mean --num_layers=...?\n"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--dollar_per_hour=3"], "did you mean --dollars-per-hour"),
        (["--gpu=4"], "did you mean --gpus"),
        (["--gpu_kind=V100"], "invalid choice: 'V100'"),
        (["--gpus=0"], "at least 1"),
        (["--dollars_per_hour=nan"], "must be a price"),
        (["--validate", "--num_layers=3"], "takes no other argument: --num_layers=3"),
    ],
)
def test_wrong_usage(arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        golf(["plan", *arguments])
    assert error.value.code == 2 and message in capsys.readouterr().err


def test_validate_prints_its_table_and_ends_with_json(capsys, monkeypatch):
    assert golf(["plan", "--validate", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["median_error"] < 0.08 and len(result["rows"]) == len(step_time.read_points())
    monkeypatch.setattr(step_time, "validate", lambda points: result)
    assert golf(["plan", "--validate"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("2026-04-27_SP8192_LQER") == 2 and f"{result['median_error']:.1%}" in printed
    monkeypatch.setattr(step_time, "validate", lambda points: result | {"median_error": 0.081})
    assert golf(["plan", "--validate"]) == 1
    assert capsys.readouterr().err == "golf plan: median error 8.1% is not under 8%\n"


def test_plan_prints_every_number(planned, capsys, monkeypatch):
    result = planned(LOOPED, SCHEDULE, dollars=24.0)
    assert golf(["plan", "--dollars_per_hour=24"]) == 0
    printed = capsys.readouterr().out
    for number in ("35,945,671", "16,000,000", "15,000", "4.00", f"{result['speed']['fa3']['steps']:,}"):
        assert number in printed
    assert golf(["plan", "--dollars_per_hour=24", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == result


def test_code_bytes_are_those_of_the_packed_section(tmp_path, capsys):
    script = tmp_path / "script.py"
    script.write_text('"""Long docstring."""\n# comment\ndef build_model(config):\n    return config\n')
    assert compress(["code", str(script), "--json"]) == 0
    decoder = (plan.ROOT / "compress" / "decode.py").read_text(encoding="utf-8")
    section = container.code_pack(minify(script.read_text()), minify(decoder))
    assert json.loads(capsys.readouterr().out) == {"code_bytes": len(section)}
    script.write_text("def (:\n")
    assert compress(["code", str(script)]) == 1
    assert "is not Python: line 1" in capsys.readouterr().err
