"""Runs to pack, made in a moment, and what tests of the packer share.

Not covered: runs that were trained (tests/train).
"""

import contextlib
import functools
import hashlib
import io
import json
import subprocess
import tempfile
from pathlib import Path

import brotli
import numpy as np
import torch

from compress.__main__ import main
from compress.checkpoint import load_checkpoint, load_statistics
from compress.codes import QuantisedModel
from compress.entropy import encode_weights
from compress.pack import pack_run
from golf import container, tokenizer_section
from golf.shards import write_shard

TOKENIZER = tokenizer_section.rebuild(brotli.compress(b"th\nthe\n an"))
SCALES = np.array([1.0, 1.25, 1.5, 1.75], np.float32)
CONFIG = {"width": 48, "layers": 2}
NARROW = {"width": 16, "layers": 1}  # packs in a third of the time, which goes by columns
SOURCE = '''
"""A toy in the shape of train_gpt.py."""
from dataclasses import dataclass
import torch
from torch import nn

@dataclass(frozen=True)
class Config:
    """Every knob."""
    vocab_size: int = 300
    width: int = 32
    layers: int = 1
    seq_len: int = 512

class Block(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.up = nn.Linear(config.width, 4 * config.width, bias=False)
        self.down = nn.Linear(4 * config.width, config.width, bias=False)
        self.gain = nn.Parameter(torch.ones(config.width))  # a comment

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        return stream + self.gain * self.down(torch.relu(self.up(stream)).square())

class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for layer in range(config.layers))
        self.temperature = nn.Parameter(torch.tensor(1.0))

    def forward(self, tokens):
        stream = self.embed(tokens)
        for block in self.blocks:
            stream = block(stream)
        return stream @ self.embed.weight.T * self.temperature

def build_model(config):
    return GPT(config)
'''


SMALL_SOURCE = """
from dataclasses import dataclass
import torch
@dataclass
class Config:
    seq_len: int = 32
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(300, 24)
        self.up = torch.nn.Linear(24, 32, bias=False)
        self.down = torch.nn.Linear(32, 24, bias=False)
        self.gain = torch.nn.Parameter(torch.ones(24))
    def forward(self, tokens):
        x = self.embed(tokens)
        x = x + self.down(self.up(x).relu()) * self.gain
        return x @ self.embed.weight.T
def build_model(config):
    return Model()
"""


def correlated(rows, columns, generator, rank=None):
    """E[x x^T] of inputs with a decaying spectrum: [columns, columns]."""
    inputs = torch.randn(rows, rank or columns, generator=generator, dtype=torch.float64)
    mixed = inputs @ torch.randn(rank or columns, columns, generator=generator, dtype=torch.float64)
    mixed *= torch.linspace(0.1, 2, columns, dtype=torch.float64)
    return mixed.T @ mixed / rows


def make_run(folder, seed=0, track="pocket", source=SOURCE, config=CONFIG, edit=lambda checkpoint: None):
    """A run folder with a checkpoint of SOURCE's model (correlated weights) and its statistics."""
    generator = torch.Generator().manual_seed(seed)
    width, layers = config["width"], config["layers"]
    shapes = {"embed.weight": (300, width), "temperature": ()}
    for layer in range(layers):
        shapes |= {
            f"blocks.{layer}.gain": (width,),
            f"blocks.{layer}.up.weight": (4 * width, width),
            f"blocks.{layer}.down.weight": (width, 4 * width),
        }
    model = {name: 0.05 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    taps = {"head": width} | {
        f"{layer}.{part}": columns
        for layer in range(layers)
        for part, columns in (("in", width), ("hidden", 4 * width))
    }
    linear = {"embed.weight": "head"} | {
        f"blocks.{layer}.{name}.weight": f"{layer}.{tap}"
        for layer in range(layers)
        for name, tap in (("up", "in"), ("down", "hidden"))
    }
    checkpoint = {
        "format": 1,
        "track": track,
        "config": dict(config),
        "source": source,
        "source_sha256": hashlib.sha256(source.encode()).hexdigest(),
        "tokenizer": torch.frombuffer(bytearray(TOKENIZER), dtype=torch.uint8),
        "model": model,
        "step": 3,
        "loader": {},
    }
    statistics = {
        "format": 1,
        "tokens": 999,
        "linear": {name: {"tap": tap, "output_gradient": torch.ones(shapes[name][0])} for name, tap in linear.items()},
        "taps": {tap: correlated(500, columns, generator).float() for tap, columns in taps.items()},
        "embedding": {"embed.weight": {"gradient_second_moment": torch.eye(width), "row_gradient": torch.ones(300)}},
    }
    edit(checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, folder / "checkpoint.pt")
    torch.save(statistics, folder / "statistics.pt")
    return folder


def make_measured_run(folder):
    """FOLDER/runs/one, which is returned: an untrained model with real second moments; FOLDER/data: random tokens."""
    run, data = folder / "runs" / "one", folder / "data"
    run.mkdir(parents=True)
    data.mkdir()
    space = {}
    exec(SMALL_SOURCE, space)
    torch.manual_seed(0)
    model = space["build_model"](None)
    with torch.no_grad():
        model.embed.weight.mul_(0.3 * torch.exp(0.5 * torch.randn(24)))  # uneven columns
        model.gain.normal_()
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 300, (64, 32), generator=generator)
    moments, taps, linear = {}, {}, {}
    for name, layer in (("up", model.up), ("down", model.down)):
        layer.register_forward_hook(lambda _, args, out, name=name: moments.update({name: (args[0], out)}) or None)
    x = model.embed(tokens)
    x.retain_grad()
    h = x + model.down(model.up(x).relu()) * model.gain
    logits = h @ model.embed.weight.T
    logits.retain_grad()
    for _, out in moments.values():
        out.retain_grad()
    labels = torch.distributions.Categorical(logits=logits).sample()
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").backward()
    moments["embed"] = (h, logits)
    for name, (inner, out) in moments.items():
        inner = inner.detach().flatten(0, 1)
        taps[name] = inner.T @ inner / len(inner)
        gradient = out.grad.flatten(0, 1).square().mean(0)
        linear[f"{name}.weight"] = {"tap": name, "output_gradient": gradient}
    g = x.grad.flatten(0, 1)
    rows = torch.zeros(300).index_add_(0, tokens.flatten(), g.square().sum(1)) / len(g)
    embedding = {"embed.weight": {"gradient_second_moment": g.T @ g / len(g), "row_gradient": rows}}
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    torch.save(
        {
            "format": 1,
            "track": "pocket",
            "config": {},
            "source": SMALL_SOURCE,
            "source_sha256": hashlib.sha256(SMALL_SOURCE.encode()).hexdigest(),
            "tokenizer": torch.tensor(list(TOKENIZER), dtype=torch.uint8),
            "model": weights,
            "step": 1,
            "loader": {},
        },
        run / "checkpoint.pt",
    )
    torch.save(
        {"format": 1, "tokens": 2048, "linear": linear, "taps": taps, "embedding": embedding}, run / "statistics.pt"
    )
    (run / "run.json").write_text("{}")
    write_shard(data / "dev_000000.bin", np.random.default_rng(2).integers(0, 300, 2049))
    split = {"raw_bytes": 2049 * 2, "tokens": 2049, "files": [{"name": "dev_000000.bin"}]}
    (data / "manifest.json").write_text(json.dumps({"splits": {"dev": split}}))
    return run


_HOME = tempfile.TemporaryDirectory(prefix="golf-tests-")  # as long as this process lives


def _new_folder() -> Path:
    """A folder that nothing lies in yet: what a test that was cut off has left is in another one."""
    return Path(tempfile.mkdtemp(dir=_HOME.name))


@functools.cache
def packed_toy():
    """(run, report of the packer) of make_run's toy, packed once for all tests of a process. Nobody writes there."""
    run = make_run(_new_folder() / "toy")
    return run, pack_run(run)


@functools.cache
def measured_run():
    """The run of make_measured_run, packed, with its data, likewise."""
    run = make_measured_run(_new_folder() / "measured")
    pack_run(run)
    return run


def load_run(run):
    """(model, statistics) of a run."""
    model = load_checkpoint(run).model
    return model, load_statistics(run, model)


def weights_section(file: Path) -> bytes:
    """The WGTS payload of a .golf file."""
    return container.read(file.read_bytes())["WGTS"]


def encoded(tensors, trellis, restart):
    """Matrices and vectors in their encoded form, with SCALES for steps."""
    return encode_weights(QuantisedModel(tensors, trellis, restart, SCALES))


def compress_cli(*arguments) -> subprocess.CompletedProcess:
    """`python -m compress` in this process: a fresh one imports torch for seconds."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(map(str, arguments)))
        except SystemExit as stop:  # argparse
            code = stop.code
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def one_line(done: subprocess.CompletedProcess, *parts: str) -> None:
    """The command failed with exit status 1 and one line on stderr that holds all parts."""
    assert done.returncode == 1, done
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and all(part in lines[0] for part in parts), done.stderr
