"""train_gpt.py in a bad place: its console, compiler or cache does not work, a signal comes.

Not covered: the same of the other commands (tests/golf/test_environment.py); disks that are really full, and runs that
are really killed (tests/reliability).
"""

import json
import os
import re
import signal
import sys
from types import SimpleNamespace

import pytest
import torch

import train_gpt as t
from tests.support.small_runs import MAIN, arguments, make_tokens, python, write_shard

STEPS = ("--max_seconds=0", "--max_steps=2")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_shard(folder / "train_000000.bin", make_tokens(20_000, 1))
    write_shard(folder / "dev_000000.bin", make_tokens(4_000, 2))
    (folder / "tokenizer.model").write_bytes(b"t")
    (folder / "manifest.json").write_text('{"splits": {"dev": {"raw_bytes": 10000, "tokens": 4000}}}')
    return folder


@pytest.fixture(scope="module")
def uncompiled(data, tmp_path_factory):
    """The folder of a run that was told not to compile."""
    folder = tmp_path_factory.mktemp("runs") / "uncompiled"
    assert python(MAIN, *arguments(data, folder, *STEPS)).returncode == 0
    return folder


def weights(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)["model"]


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())


def test_a_run_goes_on_without_its_console(data, tmp_path, uncompiled):
    """The reader of both streams has gone before the first line."""
    gone = (
        "import os, sys\nread, write = os.pipe()\nos.close(read)\nfor stream in (1, 2): os.dup2(write, stream)\n"
        "sys.stdout, sys.stderr = open(1, 'w'), open(2, 'w')\n"
    )
    result = python(gone + MAIN, *arguments(data, tmp_path / "run", *STEPS))
    assert result.returncode == 0
    assert same(weights(tmp_path / "run"), weights(uncompiled))
    heads = [[line.split(" ")[0] for line in lines(folder)] for folder in (tmp_path / "run", uncompiled)]
    assert heads[0] == heads[1] and "stopped: steps" in lines(tmp_path / "run")


@pytest.mark.long
def test_a_schedule_may_have_more_stages_than_torch_compiles_by_itself(data, tmp_path):
    """Each shape is another graph. (Traced only: what a graph becomes is not the question.)"""
    traced = (
        "import torch, train_gpt\nreal = torch.compile\n"
        "torch.compile = lambda function, **options: real(function, backend='eager', **options)\n"
    )
    stages = "0.1:32:512,0.2:16:512,0.3:8:512,0.4:4:512,0.5:2:512,0.6:64:128,0.7:32:128,0.8:16:128,0.9:8:128"
    more = (*STEPS, "--compile=true", f"--stages={stages}", "--num_layers=1", "--parallel_start=0")
    result = python(traced + MAIN, *arguments(data, tmp_path / "run", *more))
    assert result.returncode == 0 and result.stderr == ""
    assert json.loads((tmp_path / "run/run.json").read_text())["environment"]["compiled"] is True


@pytest.mark.parametrize("build, devices, ranks, words", [
    ("13.0", 0, 1, "this machine has a GPU and CUDA does not start: The NVIDIA driver on your system is too old "
     r"\(found version 12020\) \(torch .* is built for CUDA 13.0\): update the driver, .* CUDA_VISIBLE_DEVICES= "),
    ("13.0", 1, 8, "8 ranks here and 1 GPUs: give torchrun --nproc_per_node=1,"),
    (None, 0, 8, "8 ranks here and no GPU: name a preset to train on CPUs"),
])  # fmt: skip
def test_a_run_that_would_be_another_is_refused_before_all_else(monkeypatch, capsys, build, devices, ranks, words):
    """A driver too old for the build of torch; more ranks than GPUs; ranks and no GPU."""
    pretend_devices(monkeypatch, build, devices)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    monkeypatch.setattr(t, "train", lambda *_: pytest.fail("it trains"))
    assert t.main(["--max_seconds=0"]) == 1
    said = capsys.readouterr().err
    assert re.match(f"train_gpt.py: {words}", said) and said.count("\n") == 1


@pytest.mark.parametrize("build, devices, ranks, hidden, preset", [
    (None, 0, 1, None, []),  # a torch for CPUs beside a GPU
    ("13.0", 0, 1, "", []),  # its GPU is hidden on purpose
    ("13.0", 0, 2, "-1", ["--preset=tiny"]),
    ("13.0", 8, 8, None, []),
    ("13.0", 8, 2, None, []),
])  # fmt: skip
def test_what_was_asked_for_is_trained(monkeypatch, build, devices, ranks, hidden, preset):
    pretend_devices(monkeypatch, build, devices)
    hidden = {} if hidden is None else {"CUDA_VISIBLE_DEVICES": hidden}
    t.check_devices(preset, {"LOCAL_WORLD_SIZE": str(ranks), **hidden})


def test_more_ranks_than_cores_are_refused(monkeypatch):
    monkeypatch.setattr(t, "available_cores", lambda: 4)
    t.check_devices(["--preset=tiny"], {"WORLD_SIZE": "4"})
    with pytest.raises(t.RunError, match="5 ranks here, 4 CPU cores and no GPU: give torchrun --nproc_per_node=4"):
        t.check_devices(["--preset=tiny"], {"WORLD_SIZE": "5"})


def pretend_devices(monkeypatch, build, devices):
    """A machine with GPUs, where a build of torch for CUDA `build` sees as many."""

    def init():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12020). Please update it.\nMore")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.version, "cuda", build)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(t, "has_nvidia_gpu", lambda: True)
    monkeypatch.setattr(t, "available_cores", lambda: 4)


def lines(folder):
    """What a run said."""
    return (folder / "train.log").read_text().partition("\n# source_sha256 ")[2].splitlines()[1:]


def test_where_the_compiler_fails_a_cpu_trains_without_and_says_so(data, tmp_path, uncompiled):
    broken = (
        "import torch, train_gpt\n"
        "def fail(*_): raise OSError(28, 'No space left on device')\n"
        "torch.compile = lambda function, **options: fail\n"
    )
    more = ("--compile=true", "--max_seconds=9000", "--max_steps=2")
    result = python(broken + MAIN, *arguments(data, tmp_path / "run", *more))
    assert result.returncode == 0 and result.stderr == ""
    said = [line for line in lines(tmp_path / "run") if "torch.compile" in line]
    assert len(said) == 1 and "No space left on device; training without it" in said[0] and "9000 s" in said[0]
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert run["environment"]["compiled"] is False and run["config"]["compile"] is False


def made_to_fail(error):
    """A Run whose stages meet an error when they are compiled."""

    def fail():
        raise error

    return SimpleNamespace(machine=SimpleNamespace(has_compiler=True), try_stages=fail)


def test_only_the_compilers_own_faults_are_borne():
    import torch._dynamo

    inner = torch._dynamo.exc.BackendCompilerFailed(print, RuntimeError("C++ compile error"), None)
    assert t.Run.try_compiler(made_to_fail(inner)) == "RuntimeError: C++ compile error"
    full = OSError(28, "No space left on device")
    assert t.Run.try_compiler(made_to_fail(full)) == "OSError: [Errno 28] No space left on device"
    with pytest.raises(TypeError):
        t.Run.try_compiler(made_to_fail(TypeError("a bug of the script")))


def test_a_gpu_does_not_train_uncompiled_unless_it_is_told_to():
    run = SimpleNamespace(
        machine=SimpleNamespace(has_compiler=True, on_gpu=True, largest=lambda value: value),
        log=lambda line: None,
        try_compiler=lambda: "Failed to find C compiler",
        fit=lambda trial: trial(),
    )
    with pytest.raises(t.RunError, match="Failed to find C compiler: mend that, or give --compile=false"):
        t.Run.compile(run)


def test_a_cache_that_cannot_be_written_is_replaced(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "new"))
    assert t.check_cache() == "" and os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "new")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/proc/none")
    assert "cannot write TORCHINDUCTOR_CACHE_DIR /proc/none (No such file or directory)" in t.check_cache()
    other = os.environ["TORCHINDUCTOR_CACHE_DIR"]
    assert os.listdir(other) == []
    os.rmdir(other)


@pytest.mark.parametrize("number, name", [(signal.SIGINT, "sigint"), (signal.SIGTERM, "sigterm")])
def test_a_run_says_what_ended_it(number, name):
    clock = t.Clock(t.parse_config(["--preset=tiny"], {}), 1, torch.device("cpu"))
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        clock.obey_signals()
        clock.tick()
        assert clock.verdict(t.Progress(), 1) == ""
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)
        clock.tick()
        assert clock.verdict(t.Progress(), 1) == name
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_training_a_signal_ends_a_run_at_once(monkeypatch, capsys, number):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(t, "train", lambda *_: os.kill(os.getpid(), number))
    try:
        assert t.main(["--preset=tiny"]) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().err == "train_gpt.py: interrupted, nothing was saved\n"


def test_a_name_that_no_console_can_show_is_shown_in_ascii(monkeypatch, tmp_path):
    with open(tmp_path / "out", "w", encoding="ascii") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert t.main(["--help"]) == 0
        t.say("runs/\udcff \u00e9", stream)
    assert (tmp_path / "out").read_text().endswith("runs/\\udcff \\xe9\n")


def test_the_compiler_is_found_on_the_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert not t.has_compiler()
    (tmp_path / "clang++").write_text("#!/bin/sh\n")
    (tmp_path / "clang++").chmod(0o755)
    assert t.has_compiler()
