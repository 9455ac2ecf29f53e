"""Small data sets, and arguments for short runs of train_gpt.py on them."""

import os
import subprocess
import sys
from dataclasses import fields

import numpy as np

import train_gpt as t
from tests.support import ROOT

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


def python(code, *argv, cwd=ROOT, **kwargs):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, argv)],
        cwd=cwd,
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        **kwargs,
    )


MAIN = "import sys, train_gpt; sys.exit(train_gpt.main(sys.argv[1:]))"
