"""One seed gives the same weights and statistics bit for bit: on two threads, alone or beside a process that takes a
core away; the pocket preset compiled, all techniques uncompiled (compiling them takes minutes). Reference: the first
run.

The models are wide enough for the products and gathers to be split among threads. Not covered: GPUs, where the clock on
the wall rules and FlashAttention's backward pass adds in changing order; other kinds of processors.
"""

import contextlib
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.support import ROOT
from tests.support.small_models import ALL
from tests.support.small_runs import ENVIRONMENT, write_shard

pytestmark = [pytest.mark.long, pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")]
STEPS, BATCH = 12, 4096
SHAPE = [
    "--preset=pocket", "--vocab_size=2048", "--max_seconds=0", f"--max_tokens={STEPS * BATCH}", "--seq_len=256",
    "--stages=0.5:128:4096", "--calibration_tokens=4096", "--dev_tokens=8192", "--dev_evals=1", "--seed=5",
]  # fmt: skip
BUSY = "while True: sum(range(10_000))"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(3)
    for name, count in (("train_000000", 200_000), ("dev_000000", 20_000)):
        tokens = np.minimum(rng.zipf(1.3, count) + 3, 2047).astype(np.uint16)
        tokens[::97] = 1
        write_shard(folder / f"{name}.bin", tokens)
    (folder / "tokenizer.model").write_bytes(b"stand-in for a tokenizer")
    (folder / "manifest.json").write_text('{"splits": {"dev": {"raw_bytes": 50000, "tokens": 20000}}}')
    return folder


def train(data, folder, fields, cache) -> tuple[bytes, bytes]:
    """checkpoint.pt and statistics.pt of a run."""
    command = [sys.executable, "train_gpt.py", *SHAPE, *fields, f"--data_dir={data}", f"--run_dir={folder}"]
    environment = ENVIRONMENT | {"OMP_NUM_THREADS": "2", "TORCHINDUCTOR_CACHE_DIR": str(cache)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    assert "stopped: tokens" in done.stdout and "'threads': 2" in done.stdout.replace('"', "'")
    return (folder / "checkpoint.pt").read_bytes(), (folder / "statistics.pt").read_bytes()


@contextlib.contextmanager
def busy_processes(count):
    """Inside, so many processes compute without end."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


ALL_FIELDS = ["--compile=false", f"--max_tokens={3 * BATCH}", *(f"--{key}={value}" for key, value in ALL.items())]


@pytest.mark.parametrize("fields", [["--num_layers=2"], ALL_FIELDS], ids=["pocket", "all"])
def test_a_seed_gives_the_same_bits(data, tmp_path, fields):
    """The preset of pocket with half its layers, which are all alike, and every technique of the 16mb preset."""
    first = train(data, tmp_path / "first", fields, tmp_path / "cache")
    assert train(data, tmp_path / "second", fields, tmp_path / "cache") == first
    with busy_processes(1):
        assert train(data, tmp_path / "disturbed", fields, tmp_path / "cache") == first
