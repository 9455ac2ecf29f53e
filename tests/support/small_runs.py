"""Small data sets, and arguments for short runs of train_gpt.py on them."""

import concurrent.futures
import os
import socket
import sys
from dataclasses import fields

import numpy as np

import train_gpt as t
from tests.support import ROOT, warm

ENVIRONMENT = {k: v for k, v in os.environ.items() if k.upper() not in {f.name.upper() for f in fields(t.Config)}} | {
    "OMP_WAIT_POLICY": "passive"
}


def write_shard(path, tokens):
    header = np.zeros(256, "<i4")
    header[:3] = t.SHARD_MAGIC, t.SHARD_VERSION, len(tokens)
    path.write_bytes(header.tobytes() + np.asarray(tokens, "<u2").tobytes())


def make_tokens(count, seed, vocab=64):
    """Documents of a first-order Markov chain, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    tokens = (4 + (np.cumsum(rng.choice([1, 2, 7], count, p=[0.8, 0.15, 0.05])) % (vocab - 4))).astype(np.uint16)
    tokens[0] = tokens[rng.integers(0, count, count // 90)] = t.BOS
    return tokens


def arguments(data, run_dir, *more):
    return [
        "--preset=tiny",
        f"--data_dir={data}",
        f"--run_dir={run_dir}",
        "--vocab_size=64",
        "--seq_len=64",
        "--model_dim=32",
        "--batch_tokens=512",
        "--micro_batch_tokens=256",
        "--calibration_tokens=512",
        "--dev_tokens=1024",
        "--compile=false",
        *more,
    ]


def python(code, *argv, cwd=ROOT):
    """What `python -c CODE ARGV` ends with; torch is imported already."""
    command = [sys.executable, "-c", code, *map(str, argv)]
    return warm.run(command, cwd=cwd, env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)}, timeout=240)


def two_ranks(code, *argv):
    """What two ranks of one run end with, each `python -c CODE ARGV` with what torchrun would put in its environment;
    torchrun itself is several seconds of work (tests/train/test_tiny.py starts it)."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": str(ROOT)}

    def run(rank):
        environment = ENVIRONMENT | group | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        command = [sys.executable, "-c", code, *map(str, argv)]
        return warm.run(command, cwd=ROOT, env=environment, timeout=240)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, (0, 1)))


MAIN = "import sys, train_gpt; sys.exit(train_gpt.main(sys.argv[1:]))"
