"""What train_gpt.py does about the GPU that it got, before its clock: forwards that fit, and what it expects of a step.

Memory that runs out is a stand-in that raises what torch raises; a run whose forwards were halved is held against one
that was told so at once, bit for bit. Not covered: the real allocator, and what it keeps for itself.
"""

import json
import math
import re
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import train_gpt as t
from tests.support.small_runs import MAIN, arguments, make_tokens, two_ranks, write_shard
from tools.plan import step_time

SHORT = ("--max_seconds=0", "--max_steps=3", "--checkpoint_every=0", "--document_mask", "--loops=1", "--loop_last=0")
SHORT += ("--loop_first=0", "--loop_from=0.5", "--stages=0.4:32:256")
# Raises above so many tokens in a forward, on the ranks that are named. The type of numbers is not chosen by timing
SHORTAGE = """
import os, torch, train_gpt
def choose(machine):
    machine.dtype, machine.peak_flops, machine.why = torch.float32, 1e12, "fixed"
train_gpt.Machine.choose_cpu_dtype = choose
def short_of_memory(most, ranks):
    plain = train_gpt.GPT.loss
    def loss(self, tokens, targets):
        if tokens.numel() > most and int(os.environ.get("RANK", 0)) in ranks:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return plain(self, tokens, targets)
    train_gpt.GPT.loss = loss
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_shard(folder / "train_000000.bin", make_tokens(27_000, 0))
    write_shard(folder / "dev_000000.bin", make_tokens(4000, 9))
    (folder / "tokenizer.model").write_bytes(b"stand-in for a tokenizer")
    (folder / "manifest.json").write_text(json.dumps({"splits": {"dev": {"raw_bytes": 10_000, "tokens": 4000}}}))
    return folder


def run(data, folder, *more, most: float = math.inf) -> int:
    """The exit status of train_gpt.main in this process, where memory holds forwards of at most `most` tokens."""
    handlers, threads = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)], torch.get_num_threads()
    plain, choose = t.GPT.loss, t.Machine.choose_cpu_dtype
    space = {"most": most}
    try:
        exec(SHORTAGE + "short_of_memory(most, (0,))", space)
        return t.main([*arguments(data, folder), *SHORT, *more])
    finally:
        t.GPT.loss, t.Machine.choose_cpu_dtype = plain, choose
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), handlers):
            signal.signal(number, handler)
        torch.set_num_threads(threads)


def left(folder) -> tuple[dict, dict, str]:
    """The weights, run.json, and the lines of the log that speak of memory."""
    weights = torch.load(folder / "checkpoint.pt", weights_only=True)["model"]
    lines = re.findall(r"^short of memory: .*$", (folder / "train.log").read_text(), flags=re.MULTILINE)
    return weights, json.loads((folder / "run.json").read_text()), "\n".join(lines)


@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 60))
def test_a_stage_in_smaller_forwards_keeps_its_tokens(rows, accumulate, most):
    stage = t.Stage(1.0, 0, 8, rows, accumulate, rows * accumulate * 8 * 2)
    smaller = stage.within(most)
    possible = [n for n in range(1, min(rows, most) + 1) if (rows * accumulate) % n == 0]
    assert smaller.rows == possible[-1]
    assert smaller.rows * smaller.accumulate == rows * accumulate
    assert replace(smaller, rows=rows, accumulate=accumulate) == stage


def test_forwards_are_halved_until_memory_holds_them_and_nothing_else_changes(data, tmp_path, capsys):
    assert run(data, tmp_path / "halved", most=64) == 0
    assert run(data, tmp_path / "told", "--micro_batch_tokens=64") == 0
    weights, outcome, lines = left(tmp_path / "halved")
    wanted, reference, nothing = left(tmp_path / "told")
    assert all(torch.equal(weights[name], wanted[name]) for name in wanted) and nothing == ""
    assert lines == (
        "short of memory: 128 tokens in a forward instead of 256, 4 forwards in a step of 512 tokens, as before\n"
        "short of memory: 64 tokens in a forward instead of 128, 8 forwards in a step of 512 tokens, as before"
    )
    assert outcome["micro_batch_tokens"] == reference["micro_batch_tokens"] == 64
    assert outcome["config"]["micro_batch_tokens"] == 256  # what it was told: a bare preset stays one
    same = ("tokens", "steps", "train_loss", "dev_bpb", "flops_per_token")
    assert {key: outcome[key] for key in same} == pytest.approx({key: reference[key] for key in same}, rel=1e-5)


def test_where_not_even_a_row_fits_the_run_is_refused_in_a_line(data, tmp_path, capsys):
    assert run(data, tmp_path / "run", most=63) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r"train_gpt.py: not even one row of 64 tokens fits in the memory of \S+: lower --num_layers, --model_dim, "
        r"--mlp_mult or --seq_len",
        line,
    )
    assert not (tmp_path / "run" / "run.json").exists() and not (tmp_path / "run" / "checkpoint.pt").exists()


def test_another_error_is_no_lack_of_memory(data, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(t.Run, "loss", broken)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run(data, tmp_path / "run")


def test_a_lack_of_memory_while_compiling_is_one(monkeypatch):
    """The compiler measures kernels on the GPU, and wraps what they raise."""

    class Failed(torch._dynamo.exc.BackendCompilerFailed):
        def __init__(self):
            self.inner_exception = torch.OutOfMemoryError("CUDA out of memory.")

    def fail():
        raise Failed

    run = SimpleNamespace(machine=SimpleNamespace(has_compiler=True), try_stages=fail)
    with pytest.raises(Failed) as caught:
        t.Run.try_compiler(run)
    assert t.is_out_of_memory(caught.value)
    for words in ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling", "Triton Error [CUDA]: out of memory"):
        assert t.is_out_of_memory(RuntimeError(words))
    assert not t.is_out_of_memory(RuntimeError("out of resource: shared memory"))


@pytest.mark.slow
def test_ranks_halve_together_though_one_alone_is_short_of_memory(data, tmp_path):
    code = SHORTAGE + "short_of_memory(128, (1,))\n" + MAIN
    more = (*SHORT, "--batch_tokens=1024", "--dev_tokens=2048")
    results = two_ranks(code, *arguments(data, tmp_path / "halved", *more))
    assert [result.returncode for result in results] == [0, 0], results
    results = two_ranks(SHORTAGE + MAIN, *arguments(data, tmp_path / "told", *more, "--micro_batch_tokens=128"))
    assert [result.returncode for result in results] == [0, 0], results
    weights, outcome, lines = left(tmp_path / "halved")
    wanted, reference, _ = left(tmp_path / "told")
    assert all(torch.equal(weights[name], wanted[name]) for name in wanted)
    assert len(lines.splitlines()) == 1 and outcome["micro_batch_tokens"] == reference["micro_batch_tokens"] == 128


def test_on_a_gpu_only_what_one_row_needs_is_refused_at_once(monkeypatch):
    config = t.parse_config(["--preset=16mb", "--micro_batch_tokens=33554432", "--batch_tokens=33554432"], {})
    memory = SimpleNamespace(total_memory=24 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: memory)
    machine = SimpleNamespace(on_gpu=True, world=1, device=None)
    t.check_model(config, machine)
    memory.total_memory = 2**29
    with pytest.raises(t.RunError, match="more than 1 GB of memory, of 1 here: lower --num_layers, --model_dim, "):
        t.check_model(config, machine)


# ------------------------------------------------------------------------------------------------------- expectations


@pytest.mark.parametrize("vocab_size, bytes_per_token", [(8192, 3.7267), (1, 3.7267), (4096, 3.3197)])
def test_synthetic_text_has_documents_of_finewebs_lengths(vocab_size, bytes_per_token):
    """Against the log-normal distribution itself; at 8,192 ids FineWeb's documents have 811 tokens on average."""
    torch.manual_seed(3)
    config = replace(t.Config(), vocab_size=vocab_size)
    rows = 2000
    run = SimpleNamespace(
        config=config, machine=SimpleNamespace(device=torch.device("cpu")),
        loader=SimpleNamespace(rows=rows, piece=1024), dev=SimpleNamespace(bytes_per_token=bytes_per_token),
    )  # fmt: skip
    x, y = t.Run.synthetic(run)
    assert x.shape == y.shape == (rows * 2, 1024) and x.dtype == torch.int32
    assert int(x.min()) >= 0 and int(x.max()) < vocab_size
    line = torch.cat((x.view(rows, 2048), y.view(rows, 2048)[:, -1:]), 1).flatten()
    assert torch.equal(line.view(rows, 2049)[:, 1:].flatten(), y.flatten())
    if vocab_size == 1:  # there is no id for the start of a document
        return
    lengths = np.diff(np.flatnonzero(line.numpy() == t.BOS))
    mean = 151_078_222 / 50_000 / bytes_per_token
    assert mean == pytest.approx(811, abs=1) or vocab_size != 8192
    assert lengths.mean() == pytest.approx(mean, rel=0.06)
    logarithms = np.log(lengths)
    assert logarithms.std() == pytest.approx(1.1, abs=0.05)
    assert np.median(lengths) == pytest.approx(mean * math.exp(-(1.1**2) / 2), rel=0.05)


def test_what_a_step_should_take_is_what_golf_plan_says():
    coefficients = step_time.fit(step_time.read_points())
    for more in ([], ["--document_mask=false"], ["--model_dim=256", "--num_heads=4", "--num_kv_heads=2", "--loops=0"]):
        config = t.parse_config(["--preset=16mb", *more], {})
        with torch.device("meta"):
            model = t.build_model(config)
        for attention, kernel in (("torch's own attention, no FA3: ...", "sdpa"), ("FA3", "fa3"), ("FA4", "fa3")):
            for stage in t.stages(config, 8):
                model.loops = stage.loops
                step = step_time.Step(
                    tokens=stage.tokens / 8, micro_tokens=stage.tokens / 8, layers=len(model.order()),
                    model_dim=config.model_dim, kv_share=0.5, mlp_mult=config.mlp_mult, vocab_size=config.vocab_size,
                    embed_dim=config.model_dim, seq_len=stage.length,
                    attention=kernel + "_varlen" * config.document_mask,
                )  # fmt: skip
                found = t.expected_seconds("NVIDIA H100 80GB HBM3", attention, model, config, stage, 8)
                assert 1e3 * found == pytest.approx(step_time.predict(coefficients, step), rel=2e-3)
                for gpu, factor in t.SPEED_TO_H100.items():
                    other = t.expected_seconds(f"NVIDIA {gpu}", attention, model, config, stage, 8)
                    assert other == pytest.approx(found / factor)
    assert t.expected_seconds("NVIDIA GeForce RTX 4090", "FA3", model, config, stage, 8) is None
