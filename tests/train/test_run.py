"""Runs of train_gpt.py: configuration, loader, clock, and what is left on the disk when things go wrong.

The loader is held against numpy, the guard against a simulated clock, runs against each other, and no time decides.
Not covered: the model's numbers (test_model.py).
"""

import json
import re
import signal
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import train_gpt as t
from tests.support import ROOT
from tests.support.small_runs import ENVIRONMENT, MAIN, arguments, make_tokens, python, two_ranks, write_shard
from tools.data.cli import parser as data_parser


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    [write_shard(folder / f"train_{i:06d}.bin", make_tokens(9000, i)) for i in range(3)]
    write_shard(folder / "dev_000000.bin", make_tokens(4000, 9))
    (folder / "tokenizer.model").write_bytes(b"stand-in for a tokenizer")
    (folder / "manifest.json").write_text(json.dumps({"splits": {"dev": {"raw_bytes": 10_000, "tokens": 4000}}}))
    return folder


# ------------------------------------------------------------------------------------------------------ configuration


def test_import_has_no_side_effect(tmp_path):
    code = (
        "import os, signal, torch\n"
        "state = lambda: (dict(os.environ), signal.getsignal(signal.SIGTERM), torch.initial_seed())\n"
        "before = state()\n"
        "import train_gpt\n"
        "assert before == state()\n"
        "assert not torch.cuda.is_initialized() and not torch.distributed.is_initialized()\n"
        "print('clean')"
    )
    result = python(code, cwd=tmp_path)
    assert result.stdout == "clean\n" and result.stderr == "" and list(tmp_path.iterdir()) == []


def test_overrides_are_typed_and_mistakes_are_named():
    config = t.parse_config(
        ["--preset=pocket", "--num-layers=5", "--matrix_lr=3e-2", "--compile=false", "--data_dir=x"], {}
    )
    assert (config.num_layers, config.matrix_lr, config.compile, config.data_dir) == (5, 0.03, False, "x")
    assert config.track == "pocket" and config.model_dim == t.PRESETS["pocket"]["model_dim"]
    for argv, environment, expected in (
        (["--matrx_lr=1"], {}, "did you mean --matrix_lr"),
        (["seed=1"], {}, "unknown argument 'seed=1'"),
        (["--num_layers=2.5"], {}, "--num_layers takes a whole number"),
        (["--seed"], {}, "--seed takes a whole number"),
        (["--max_seconds=nan"], {}, "--max_seconds takes a number"),
        (["--compile=maybe"], {}, "--compile takes true or false"),
        ([], {"SEED": "42"}, "use --seed=42"),
        (["--preset=huge"], {}, "no preset 'huge'"),
        (["--num_heads=5"], {}, "--num_heads"),
        (["--max_seconds=0", "--max_tokens=0"], {}, "set --max_seconds, --max_steps or --max_tokens"),
        (["--micro_batch_tokens=1000"], {}, "multiple of --seq_len"),
        (["--calibration_tokens=0"], {}, "--calibration_tokens=0: write a whole number from 1 to 268,435,456"),
        (["--num_heads=0"], {}, "--num_heads=0: write a whole number from 1 to 65,536"),
        (["--seq_len=0"], {}, "--seq_len=0: write a whole number from 1 to"),
        (["--matrix_lr=-1"], {}, "--matrix_lr=-1.0: write a number from 0 to"),
        (["--stages=nan:256:4096"], {}, "--stages must be like"),
        (["--preset=pocket", "--stages=0.5:256:99999999999"], {}, "at most 268,435,456 tokens a step"),
        (["--track=moon"], {}, "--track=moon: write one of 16mb, 2mb, pocket, open"),
        (["--ema_decay=1"], {}, "--ema_decay=1.0: write a number from 0 to 0.999999"),
        (["--logit_softcap=0"], {}, "--logit_softcap=0.0: write a number from 1 to 38"),
        (["--preset=16mb", "--score_chunk=16385"], {}, "set --score_chunk to 1 to 16,384"),
        (
            ["--seed=99999999999999999999"],
            {},
            "--seed=99999999999999999999: write a whole number from 0 to 2,147,483,647",
        ),
        (["--mlp_mult=1e300"], {}, "--mlp_mult=1e.300: write a number from 0 to 1000"),
        (["--dev_evals=99999999999"], {}, "--dev_evals=99999999999: write a whole number from 0 to 1,000"),
        (
            ["--batch_tokens=99999999999999999999"],
            {},
            "--batch_tokens=99999999999999999999: write a whole number from 1 to",
        ),
        (["--preset", "pocket"], {}, "write --preset=pocket"),
        (["--compile", "false"], {}, "write --compile=false"),
        (["--preset"], {}, "--preset takes a text"),
    ):
        with pytest.raises(t.UsageError, match=expected.replace("(", r"\(")):
            t.parse_config(argv, environment)
    assert t.parse_config(["--xsa", "--preset=pocket"], {}).xsa  # a bare switch before another argument


@given(
    st.fixed_dictionaries(
        {
            "seed": st.integers(0, 2**31 - 1),
            "matrix_lr": st.floats(0, 1e3),
            "run_dir": st.text(max_size=20),
            "compile": st.booleans(),
        }
    )
)
def test_every_value_survives_the_command_line(values):
    config = t.parse_config([f"--{k}={v}" for k, v in values.items()], {})
    assert {k: getattr(config, k) for k in values} == values


def test_a_mistake_ends_in_one_line_and_a_non_zero_exit(data, tmp_path):
    usage, run = (["--sede=1"], 2, "did you mean --seed"), ([f"--data_dir={tmp_path}"], 1, "golf data")
    for argv, code, words in (usage, run):
        result = python(MAIN, *argv)
        assert result.returncode == code and words in result.stderr and len(result.stderr.splitlines()) == 1


def test_help_shows_every_field_with_its_comment_as_it_stands_in_the_file(capsys):
    assert t.main(["--help"]) == 0
    shown = capsys.readouterr().out.splitlines()
    source = Path(t.__file__).read_text()
    assert shown[0] == source.splitlines()[0].removeprefix('"""')
    for field in fields(t.Config):
        [line] = [line for line in source.splitlines() if re.match(rf"    {field.name}: [\w\[\], .*-]+ = ", line)]
        assert line in shown and len(line.partition("  # ")[2]) > 10, f"{field.name} has no comment"


def test_the_fields_that_travel_in_the_artifact_are_those_of_the_model():
    """As they always were for a preset, in order: CONF holds them as they come."""
    assert t.artifact_config(t.parse_config(["--preset=16mb"], {})) == {}
    config = t.parse_config(["--preset=pocket", "--matrix_lr=0.5", "--num_layers=11", "--num_kv_heads=2"], {})
    assert list(t.artifact_config(config).items()) == [
        ("vocab_size", 2048), ("seq_len", 512), ("model_dim", 128), ("num_heads", 2), ("num_kv_heads", 2),
        ("mlp_mult", 1.5), ("rope_dims", 0), ("ln_scale", False), ("attn_gate", 0), ("parallel_start", 0), ("loops", 0),
        ("score_chunk", 256), ("score_context", 257), ("score_lr", 0.0008), ("score_counts", True),
    ]  # fmt: skip


@pytest.mark.parametrize("name, recipe", [
    ("embedded", "embedded --variant sp1024"), ("embedded_sp2048_case", "embedded --variant sp2048_case"),
    ("fineweb_sp8192", "fineweb --variant sp8192"),
])  # fmt: skip
def test_missing_data_names_the_command_that_makes_it(tmp_path, name, recipe):
    with pytest.raises(t.RunError, match=rf"no train shards in .*/{name}: run `golf data {recipe}` or"):
        t.find_shards(str(tmp_path / name), "train")
    data_parser().parse_args(recipe.split())  # and it takes it


# -------------------------------------------------------------------------------------------------------------- loader


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.booleans(), max_size=40), min_size=1, max_size=4), st.integers(1, 5))
def test_shares_are_disjoint_start_at_documents_and_cover_everything(shards, world):
    stream = np.concatenate([[t.BOS]] + [np.where(s, t.BOS, 5) for s in shards if s])
    cuts = np.cumsum([1 + len(shards[0])] + [len(s) for s in shards[1:]])[:-1]
    parts = [t.read_share(np.split(stream, cuts), rank, world) for rank in range(world)]
    assert np.array_equal(np.concatenate(parts), stream)
    assert all(len(p) == 0 or p[0] == t.BOS for p in parts)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=30), st.integers(4, 16))
def test_rows_start_where_a_naive_search_says(lengths, length):
    tokens = np.concatenate([[t.BOS] + [5] * (n - 1) for n in lengths])
    starts, position = [], 0
    while position + length < len(tokens):
        starts.append(position)
        late = [
            i
            for i in range(position + length - length // 4, position + length + 1)
            if i < len(tokens) and tokens[i] == t.BOS
        ]
        position = late[0] if late else position + length
    assert t.row_starts(tokens, length).tolist() == starts


def loader(tokens, seed=1, rank=0, rows=4, length=16):
    config = t.Config(seed=seed, seq_len=length, compile=False)
    return t.Loader(tokens, rows, config, rank, torch.device("cpu"))


def test_batches_are_slices_of_the_tokens_each_row_once_an_epoch():
    tokens = np.random.default_rng(0).integers(2, 65_536, 2000).astype(np.uint16)  # the whole range of 16 bits
    tokens[::100] = t.BOS
    loaded = loader(tokens)
    starts = t.row_starts(tokens, 16)
    expected = {tuple(tokens[s : s + 17].tolist()) for s in starts}
    seen = []
    for _ in range(len(starts) // 4):
        x, y = loaded.next()
        assert torch.equal(x[:, 1:], y[:, :-1])
        seen += [tuple(row) for row in torch.cat((x, y[:, -1:]), 1).tolist()]
    assert len(set(seen)) == len(seen) == len(starts) // 4 * 4 and set(seen) <= expected
    assert loaded.state == {"epoch": 0, "cursor": len(seen)}
    loaded.next()
    assert loaded.state["epoch"] == 1


def test_order_follows_the_seed_and_a_saved_state_goes_on():
    tokens = make_tokens(3000, 0)
    a, b, other, rank = loader(tokens), loader(tokens), loader(tokens, seed=2), loader(tokens, rank=1)
    for _ in range(3):
        x = a.next()[0]
        assert torch.equal(x, b.next()[0])
    assert not torch.equal(x, other.next()[0]) and not torch.equal(x, rank.next()[0])
    for _ in range(60):  # over the end of an epoch
        a.next()
    resumed = loader(tokens)
    resumed.load(a.state)
    assert torch.equal(a.next()[0], resumed.next()[0])


@pytest.mark.slow
def test_the_compiled_gather_equals_the_plain_one():
    """Without a precompiled header, which costs more than this one kernel, and without trying whether compiler and
    processor understand each other: else the kernel would fail."""
    tokens = torch.randint(-(2**15), 2**15, (500,), dtype=torch.int16)
    args = tokens, torch.arange(0, 400, 7), torch.randperm(50), torch.tensor(3), 5, 16
    options = {"cpp_cache_precompile_headers": False, "cpp.vec_isa_ok": True}
    compiled = torch.compile(t.cut_rows, dynamic=False, options=options)
    for a, b in zip(compiled(*args), t.cut_rows(*args)):
        assert torch.equal(a, b) and a.min() >= 0


def test_broken_shards_are_named(tmp_path):
    path = tmp_path / "train_000000.bin"
    write_shard(path, [1, 2, 3, 4])
    assert t.open_shard(path, 10).tolist() == [1, 2, 3, 4]
    whole = path.read_bytes()
    for content, words in (
        (b"", "bad header"),
        (whole[:-2], "truncated"),
        (whole + b"xx", "truncated"),
        (b"\0" * len(whole), "bad header"),
        (whole[: 1024 - 1], "bad header"),
    ):
        path.write_bytes(content)
        with pytest.raises(t.RunError, match=words):
            t.open_shard(path, 10)
    path.write_bytes(whole)
    with pytest.raises(t.RunError, match="vocab_size=4"):
        t.open_shard(path, 4)


# --------------------------------------------------------------------------------------------------------------- clock


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0.05, 2.0), min_size=1, max_size=60), st.floats(0.5, 20.0), st.floats(0.0, 3.0))
def test_the_guard_stops_before_the_cap_on_a_simulated_clock(durations, cap, reserve):
    """Whatever the steps take, training never ends later than cap - reserve, unless a step is over 10% slower than the
    slowest of the eight before it (nothing can foresee that); and it never stops while such a step would still fit."""
    now = [0.0]
    clock = t.Clock(t.Config(max_seconds=cap), 1, torch.device("cpu"))
    clock.reserve = reserve
    original, t.time.perf_counter = t.time.perf_counter, lambda: now[0]
    try:
        clock.start()
        recent, foreseen = [], True
        for step, duration in enumerate(durations, 1):
            foreseen = not recent or duration <= 1.1 * max(recent[-8:])
            now[0] += duration
            recent.append(duration)
            clock.tick()
            assert clock.elapsed == pytest.approx(sum(recent))
            fits = clock.elapsed + 1.1 * max(recent[-8:]) <= cap - reserve
            assert (clock.verdict(t.Progress(step), 0) == "") == fits
            if step > 1 and foreseen:
                assert clock.elapsed <= cap - reserve + 1e-9
            if not fits:
                break
    finally:
        t.time.perf_counter = original


@pytest.mark.parametrize("batch, kept", [(0.5, 1.3 * 16 * 0.5 + 0.3), (8.0, 0.2 * 120), (30.0, 1.5 * 30)])
def test_a_slow_machine_still_trains_for_four_fifths_of_the_clock(batch, kept, monkeypatch):
    """`batch`: seconds that a batch of the calibration's 16 takes. calibrate() stops where the clock does."""
    monkeypatch.setattr(t, "seconds", lambda work: batch)
    run = SimpleNamespace(
        config=t.parse_config(["--preset=pocket", "--max_seconds=120"], {}),
        stage=SimpleNamespace(rows=64),
        loader=SimpleNamespace(rows=0, piece=0),
        model=torch.nn.Linear(1, 1),
        machine=SimpleNamespace(device=torch.device("cpu"), world=1, largest=float),
        clock=SimpleNamespace(reserve=0.0),
    )
    t.Run.time_calibration(run)
    assert run.clock.reserve == pytest.approx(kept)


def test_a_slowed_step_makes_the_run_stop_earlier():
    def steps_until_stop(durations):
        now = [0.0]
        clock = t.Clock(t.Config(max_seconds=10.0), 1, torch.device("cpu"))
        original, t.time.perf_counter = t.time.perf_counter, lambda: now[0]
        try:
            clock.start()
            for step, duration in enumerate(durations, 1):
                now[0] += duration
                clock.tick()
                if clock.verdict(t.Progress(step), 0):
                    return step, now[0]
        finally:
            t.time.perf_counter = original

    assert steps_until_stop([1.0] * 20) == (9, 9.0)
    assert steps_until_stop([1.0] * 6 + [2.5] + [1.0] * 20) == (7, 8.5)


@given(
    st.lists(st.tuples(st.floats(0.01, 0.99), st.integers(1, 9)), max_size=4, unique_by=lambda stage: stage[0]),
    st.integers(1, 9),
    st.integers(1, 400),
)
def test_no_run_exceeds_its_tokens_or_leaves_a_step_of_them(parts, last, limit):
    """Stages of any batches, walked through as Run.loop does; a batch is so many times 8 tokens."""
    table = [f"{until}:8:{8 * batch}" for until, batch in sorted(parts)]
    config = t.Config(max_seconds=0.0, max_tokens=8 * limit, seq_len=8, batch_tokens=8 * last, stages=",".join(table),
                      micro_batch_tokens=8, loops=0)  # fmt: skip
    run = SimpleNamespace(stages=t.stages(config, 1))
    clock, progress = t.Clock(config, 1, torch.device("cpu")), t.Progress()
    run.stage, stopped, fractions = run.stages[0], "", []
    while not stopped:
        fraction = clock.fraction(progress)
        fractions.append(fraction)
        run.stage = next((stage for stage in run.stages if fraction < stage.until), run.stages[-1])
        progress.step += 1
        progress.tokens += run.stage.tokens
        stopped = clock.verdict(progress, t.Run.next_tokens(run))
    assert stopped == "tokens" and fractions == sorted(fractions)
    left = 8 * limit - progress.tokens
    assert left >= 0 or progress.step == 1  # the first step is taken whatever it is
    assert left < t.Run.next_tokens(run)


def test_the_nearest_limit_decides_how_much_of_a_run_is_over():
    clock = t.Clock(t.Config(max_seconds=10.0, max_steps=100, max_tokens=1000), 1, torch.device("cpu"))
    clock.elapsed = 2.0
    assert clock.fraction(t.Progress(step=1, tokens=1)) == pytest.approx(0.2)
    assert clock.fraction(t.Progress(step=30, tokens=1)) == pytest.approx(0.3)
    assert clock.fraction(t.Progress(step=30, tokens=400)) == pytest.approx(0.4)
    assert clock.verdict(t.Progress(step=99, tokens=990), 10) == "" != clock.verdict(t.Progress(99, 990), 11)
    assert clock.verdict(t.Progress(step=100), 10) == "steps"


# ---------------------------------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    result = python(MAIN, *arguments(data, folder, "--max_seconds=0", "--max_steps=30"))
    assert result.returncode == 0, result.stderr
    return folder, result


def test_a_run_leaves_what_it_promises(finished, data):
    folder, result = finished
    run = json.loads((folder / "run.json").read_text())
    source = Path(t.__file__).read_text()
    log = (folder / "train.log").read_text()
    assert log.startswith(source + f"\n# source_sha256 {run['source_sha256']}\n")
    assert run["world_size"] == 1 and run["seed"] == 1337 and run["steps"] == 30 and run["stopped"] == "steps"
    assert {"setup", "compile", "warmup", "train", "calibrate", "dev", "save"} <= set(run["clock"])
    tail = log[log.rindex("\n---\n") :].splitlines()
    for key in ("seed", "steps", "tokens", "train_loss", "dev_bpb", "stopped"):
        assert f"{key}: {run[key]}" in tail
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.3  # it learns
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert (
        checkpoint["source"] == source
        and bytes(checkpoint["tokenizer"].numpy()) == (data / "tokenizer.model").read_bytes()
    )
    config = t.Config(**checkpoint["config"])
    model = t.build_model(config)
    model.load_state_dict(checkpoint["model"], strict=True)
    assert checkpoint["parameters"] == t.declarations(model)
    # the checkpoint's weights are what the last dev estimate scored, up to bf16
    dev = torch.from_numpy(np.fromfile(data / "dev_000000.bin", "<u2")[512 : 512 + 1025].astype(np.int64))
    with torch.no_grad():
        nats = model.loss(dev[:1024].view(-1, 64), dev[1:1025].view(-1, 64)).item()
    assert nats / np.log(2) / (10_000 / 4000) == pytest.approx(run["dev_bpb"], rel=0.02)
    statistics = torch.load(folder / "statistics.pt", weights_only=True)
    assert statistics["tokens"] == 512
    for name, entry in statistics["linear"].items():
        rows_, columns = checkpoint["model"][name].shape
        tap = statistics["taps"][entry["tap"]]
        assert tap.shape == (columns, columns) and entry["output_gradient"].shape == (rows_,)
        assert torch.linalg.eigvalsh(tap.double()).min() > -1e-6 * tap.diagonal().max()


def test_steps_are_deterministic_and_follow_the_seed(finished, data, tmp_path):
    folder, _ = finished
    first = torch.load(folder / "checkpoint.pt", weights_only=True)["model"]
    for seed, same in ((1337, True), (7, False)):
        run = tmp_path / str(seed)
        assert (
            python(MAIN, *arguments(data, run, "--max_seconds=0", "--max_steps=30", f"--seed={seed}")).returncode == 0
        )
        second = torch.load(run / "checkpoint.pt", weights_only=True)["model"]
        close = all(torch.allclose(first[k], second[k], atol=1e-6) for k in first)
        assert close == same


def test_a_finished_run_is_not_overwritten(finished, data):
    folder, _ = finished
    before = (folder / "checkpoint.pt").read_bytes()
    result = python(MAIN, *arguments(data, folder, "--max_steps=1"))
    assert result.returncode == 1 and "already holds a finished run" in result.stderr
    assert (folder / "checkpoint.pt").read_bytes() == before


def test_sigterm_leaves_a_complete_checkpoint(data, tmp_path):
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments(data, run, "--max_seconds=200")],
        cwd=ROOT,
        text=True,
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    for line in process.stdout:
        if line.startswith("step"):
            break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 0
    result = json.loads((run / "run.json").read_text())
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    assert result["stopped"] == "sigterm" and result["steps"] == checkpoint["step"] >= 1
    t.build_model(t.Config(**checkpoint["config"])).load_state_dict(checkpoint["model"], strict=True)


def test_a_full_disk_ends_in_one_line_and_leaves_nothing_half_written(data, tmp_path):
    """The kernel refuses to let files grow beyond a limit: the log, with the source, fits, the checkpoint does not."""
    run = tmp_path / "run"
    limit = Path(t.__file__).stat().st_size + 20_000
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
    ) + MAIN
    result = python(code, *arguments(data, run, "--max_seconds=0", "--max_steps=2"))
    assert result.returncode == 1
    assert "cannot write" in result.stderr and "checkpoint.pt" in result.stderr and len(result.stderr.splitlines()) == 1
    assert sorted(p.name for p in run.iterdir()) == ["metrics.jsonl", "train.log"]


@pytest.mark.long
def test_a_straggling_rank_stops_both_at_the_same_step(data, tmp_path):
    """Rank 1 sleeps in every step: both ranks must use its clock, or one would wait in a collective for ever."""
    run = tmp_path / "run"
    code = (
        "import os, sys, time, train_gpt\n"
        "plain = train_gpt.Loader.next\n"
        "def slow(self):\n"
        "    time.sleep(0.2 * (os.environ['RANK'] == '1'))\n"
        "    return plain(self)\n"
        "train_gpt.Loader.next = slow\n"
        "tick = train_gpt.Clock.tick\n"
        "def spy(self):\n"
        "    tick(self)\n"
        f"    open({str(tmp_path)!r} + '/ticks' + os.environ['RANK'], 'a').write(f'{{self.elapsed}}\\n')\n"
        "train_gpt.Clock.tick = spy\n" + MAIN
    )
    results = two_ranks(code, *arguments(data, run, "--max_seconds=6", "--dev_evals=2"))
    assert [result.returncode for result in results] == [0, 0], results
    ticks = [(tmp_path / f"ticks{rank}").read_text() for rank in (0, 1)]
    assert ticks[0] == ticks[1]
    outcome = json.loads((run / "run.json").read_text())
    assert (
        outcome["world_size"] == 2 and outcome["stopped"] == "clock" and outcome["steps"] == len(ticks[0].splitlines())
    )
    assert outcome["steps"] < 6 / 0.2
    torch.load(run / "checkpoint.pt", weights_only=True)


def test_two_ranks_start_like_one(data, tmp_path):
    """At the first step the models are equal, so the mean loss over two ranks is that of the rows both of them read."""
    run = tmp_path / "run"
    results = two_ranks(MAIN, *arguments(data, run, "--max_seconds=0", "--max_steps=1"))
    assert [result.returncode for result in results] == [0, 0], results
    loss = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    config = t.parse_config(arguments(data, run), {})
    torch.manual_seed(config.seed)
    model = t.build_model(config)
    shards = [t.open_shard(p, 64) for p in t.find_shards(str(data), "train")]
    parts = [t.Loader(t.read_share(shards, rank, 2), 4, config, rank, torch.device("cpu")).next() for rank in (0, 1)]
    with torch.no_grad():
        assert loss == pytest.approx(np.mean([model.loss(x, y).item() for x, y in parts]), rel=2e-3)


def test_a_diverging_run_says_which_flags_to_lower(data, tmp_path):
    result = python(MAIN, *arguments(data, tmp_path / "run", "--max_seconds=0", "--max_steps=40", "--embed_lr=1e30"))
    assert result.returncode == 1 and "--matrix_lr" in result.stderr and not (tmp_path / "run" / "run.json").exists()


def test_without_a_compiler_it_trains_uncompiled_and_says_so(data, tmp_path):
    argv = [a for a in arguments(data, tmp_path / "run", "--max_seconds=0", "--max_steps=1") if a != "--compile=false"]
    result = python("import train_gpt; train_gpt.has_compiler = lambda: False\n" + MAIN, *argv)
    assert result.returncode == 0 and sum("no C++ compiler" in line for line in result.stdout.splitlines()) == 1


COMPILED = """
import sys, torch, train_gpt as t
t.CALIBRATION_TOKENS, known, late, start = 128, set(), [], t.Clock.start

def compile(function, **options):
    def call(*values):
        kinds = [(v.shape, v.stride(), v.dtype) if isinstance(v, torch.Tensor) else v for v in values]
        model = getattr(function, "__self__", None)
        key = str((function.__name__, getattr(model, "loops", None), torch.is_grad_enabled(), kinds))
        if begun and key not in known:
            late.append(key)
        known.add(key)
        return function(*values)
    return call

def started(clock):
    global begun
    begun = True
    start(clock)

torch.compile, t.Clock.start, begun = compile, started, False
"""


def test_nothing_compiles_after_the_clock_has_started(data, tmp_path):
    """torch.compile(dynamic=False) makes a graph for each set of shapes and numbers, so none may be new by then.
    Calibration has other rows than the stages here, as in the 16mb preset."""
    argv = arguments(data, tmp_path / "run", "--max_seconds=0", "--max_steps=6", "--stages=0.5:32:256", "--loops=1",
                     "--loop_first=0", "--loop_last=0", "--loop_from=0.3")  # fmt: skip
    code = COMPILED + "code = t.main(sys.argv[1:])\nassert known and not late, late\nsys.exit(code)"
    result = python(code, *(a for a in argv if a != "--compile=false"))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "statistics.pt").exists()


def test_a_failed_rank_says_why_and_leaves_without_the_others(monkeypatch, capsys):
    """NCCL's shutdown is collective: a rank that enters it alone waits until a watchdog kills it."""

    def fail(*_):
        raise t.RunError("the disk is full")

    left = []
    monkeypatch.setattr(t, "train", fail)
    monkeypatch.setattr(t.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(t.dist, "destroy_process_group", lambda: pytest.fail("waits"))
    monkeypatch.setattr(t.os, "_exit", lambda code: left.append((code, capsys.readouterr().err)))
    t.main(["--preset=tiny"])
    assert left == [(1, "train_gpt.py: the disk is full\n")]


def test_a_clock_starts_when_it_is_told(monkeypatch):
    """golf bench-train takes its turns in the place of start, which it expects once."""
    started = []
    monkeypatch.setattr(t.Clock, "start", started.append)
    clock = t.Clock(t.parse_config(["--preset=tiny"], {}), 1, torch.device("cpu"))
    assert clock.last > 0 and not started


def test_dry_run_traces_the_real_configuration():
    result = python(MAIN, "--preset=16mb", "--dry-run")
    assert result.returncode == 0, result.stderr
    [line] = result.stdout.splitlines()
    values = json.loads(line)
    assert values["config"] == asdict(t.parse_config(["--preset=16mb"], {}))
    assert values["stages"] == [asdict(stage) for stage in t.stages(t.parse_config(["--preset=16mb"], {}), 8)]
    assert values["flops_per_step"] == values["flops_per_token"] * 786_432
    assert values["params"] == 35_945_623
    assert 4 * 35_945_623 < values["memory_per_gpu_bytes"] < 80e9
    layer = 2 * 512 * 512 + 2 * 512 * 256 + 2 * 512 * 2048
    matmul = 6 * (17 * layer + 8192 * 512)
    assert values["flops_per_token"] == matmul + 6 * 17 * 2048 * 512
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        config = replace(t.parse_config(["--preset=16mb"], {}), document_mask=False)
        tokens = torch.zeros(2, 2048, dtype=torch.int64)
        t.build_model(config).loss(tokens, tokens).backward()
    assert counter.get_total_flops() == pytest.approx(matmul * tokens.numel(), rel=0.02)  # no attention on fake CPUs
