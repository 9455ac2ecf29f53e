"""Train the best language model that fits in a fixed number of bytes within a fixed time.

    torchrun --standalone --nproc_per_node=8 train_gpt.py            # 16mb track: 600 s on 8xH100
    torchrun --standalone --nproc_per_node=1 train_gpt.py --preset=2mb    # 2mb track: 600 s on one H100
    python train_gpt.py --preset=pocket                              # pocket track: about 600 s on two CPUs
    torchrun --standalone --nproc_per_node=2 train_gpt.py --preset=tiny   # two ranks, on any machine
    python train_gpt.py --help                                       # every field, its meaning and unit
    python train_gpt.py --preset=16mb --dry-run                      # numbers for golf plan; no GPU needed

This is the one file a participant edits, and it imports nothing of the rest. Its sections, in order: Config, Schedule,
Model, Optimiser, Scorer, Data, Clock, Calibration, Run. A run writes runs/<id>/{train.log, metrics.jsonl, run.json,
checkpoint.pt, statistics.pt}; `compress` turns that folder into one .golf file and `eval_heldout.py` scores the file.
The minified text of this script travels inside that file, where only `Config`, `build_model` and `Scorer` are used.
Not covered: data preparation, packing, scoring (the dev bpb printed below is an estimate).
"""

import os
import warnings

if __name__ == "__main__":
    warnings.filterwarnings("ignore", "CUDA initialization")  # check_devices says it, in a line
    # OpenMP reads these when torch loads it, so they come first. Its threads spin while they wait: endless spinning
    # makes a step 15 to 24x slower beside a busy process, and no spinning makes it 1.2x slower on a quiet machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import atexit
import contextlib
import copy
import ctypes
import difflib
import errno
import fcntl
import glob
import hashlib
import io
import json
import math
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections import deque
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, TextIO

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.nn  # AdamW would import it later, and keep the process group alive by that
import torch.nn.functional as F
from torch import Tensor, nn

triton = None
if torch.cuda.is_available():  # elsewhere nothing runs its kernels, and importing Triton takes time
    with contextlib.suppress(ImportError):
        import triton
        import triton.language as tl


# ---- Config --------------------------------------------------------------------------------------

# What the numbers below may be: type, least, largest. The largest counts end where no machine could follow, so that a
# slip of the keyboard is one line, not a run that never starts or never stops. golf check-script reads these too.
Layers = Annotated[int, 1, 1000]
Width = Annotated[int, 1, 2**16]  # of channels or heads
Part = Annotated[int, 0, 2**16]  # of channels, layers or passes; 0: none of them
Length = Annotated[int, 1, 2**20]  # of a row, in tokens
Tokens = Annotated[int, 1, 2**28]
Count = Annotated[int, 0, 2**40]
Share = Annotated[float, 0.0, 1.0]
Memory = Annotated[float, 0.0, 0.999999]  # share of the past that a step keeps: below 1
Factor = Annotated[float, 0.0, 1000.0]
LearningRate = Annotated[float, 0.0, 1e30]  # times a Factor it is still a float32


@dataclass(frozen=True)
class ModelConfig:
    """What the artifact needs to know. A field travels in it where it differs from its default."""

    # The model
    vocab_size: Annotated[int, 1, 65_536] = 8192  # tokens that the tokenizer knows
    seq_len: Length = 2048  # tokens of context in training, and of a window in plain scoring
    num_layers: Layers = 11  # layers, each of attention and an MLP
    model_dim: Width = 512  # channels of the residual stream
    num_heads: Width = 8  # query heads of a layer
    num_kv_heads: Width = 4  # key and value heads of a layer; each serves a group of query heads
    mlp_mult: Factor = 4.0  # channels inside an MLP, as a multiple of model_dim
    rope_base: Annotated[float, 1.0, 1e12] = 10000.0  # RoPE's wavelengths go from 2 pi tokens to 2 pi times this
    logit_softcap: Annotated[float, 1.0, 38.0] = 30.0  # nats: tanh keeps logits between minus this and this

    # Techniques of the public challenge; False or 0 turns one off
    rope_dims: Part = 16  # channels of a head that RoPE rotates; 0 means all (PR #315)
    ln_scale: bool = True  # layer l reads its normalised input times 1 / sqrt(l + 1) (PR #315)
    leaky_slope: Factor = 0.5  # slope of LeakyReLU^2 below zero; 0 is ReLU^2 (PR #493)
    xsa: bool = True  # heads lose what lies along the token's own value (arXiv:2603.09078, PR #478)
    attn_gate: Part = 12  # input channels that decide how much of each head goes on (PR #1787)
    smear_gate: Part = 12  # channels that decide how much of the last embedding is added (PR #1667, #1851)
    gated_skips: bool = True  # U-Net skips mix in by a learned gate per channel (PR #1089)
    parallel_start: Part = 8  # first layer whose attention and MLP have a lane each; 0: none (PR #1530)
    loops: Annotated[int, 0, 100] = 2  # extra passes through layers loop_first to loop_last (PR #1394, #1493)
    loop_first: Part = 3  # the first looped layer, counted from 0
    loop_last: Part = 5  # the last looped layer, counted from 0

    # How the artifact is scored: see Scorer
    score_chunk: Annotated[int, 0, 2**20] = 0  # tokens that one call scores; 0 means seq_len
    score_context: Length = 1  # tokens before a chunk that the model sees with it
    score_lr: Factor = 0.0  # learning rate of Adam on text that has been scored; 0 means none
    score_keep: Share = 0.15  # share, 0 to 1, of what a document changed in the weights that stays
    score_counts: bool = False  # mix in counts of what followed the same tokens before


@dataclass(frozen=True)
class Config(ModelConfig):
    """Every knob. The defaults are the 16mb preset; `--field=value` overrides any of them."""

    # Training rows and initialisation
    document_mask: bool = True  # documents in one training row do not see each other (PR #1530)
    qk_gain_init: Factor = 5.0  # what the learned gain of every query head starts from
    ortho_init: bool = True  # matrices start orthogonal; else uniform, as PyTorch makes them

    # Optimiser: Muon for the matrices, Adam for the embedding and for gains, mixes and skips
    matrix_lr: LearningRate = 0.026  # of Muon: about the spectral norm of a square matrix's step
    embed_lr: LearningRate = 0.03  # of Adam, for the embedding
    scalar_lr: LearningRate = 0.02  # of Adam, for gains, mixes, gates and skips
    muon_momentum: Memory = 0.97  # share of the momentum that a step keeps, once it has risen
    muon_momentum_start: Memory = 0.92  # the same at the first step
    muon_momentum_steps: Count = 1500  # steps over which it rises, linearly
    muon_iterations: Annotated[int, 0, 100] = 5  # Newton-Schulz iterations that orthogonalise an update
    muon_polar: bool = True  # their coefficients are Polar Express's (arXiv:2505.16932, PR #1344)
    muon_row_norm: bool = True  # MuonEq-R: rows of equal length first (arXiv:2603.28254, PR #1260)
    weight_decay: Factor = 0.095  # of Muon's matrices, decoupled: times the learning rate, a step
    embed_decay: Factor = 0.085  # of the embedding, likewise
    decay_taper: Share = 0.0  # share of both decays that goes in the last 30% of the run (PR #1729: 0.5)
    adam_beta1: Memory = 0.9  # share of Adam's mean gradient that a step keeps
    adam_beta2: Memory = 0.99  # share of Adam's mean squared gradient that a step keeps

    # Schedule; fractions are of the run, 0 to 1
    warmdown: Share = 0.85  # the last fraction, over which learning rates fall, linearly
    min_lr: Share = 0.1  # share of the learning rates that they never fall below
    loop_from: Memory = 0.35  # the fraction at which the extra passes begin
    ema_decay: Memory = 0.9965  # share of the averaged weights, which are saved, that a step keeps
    stages: str = ""  # until:seq_len:batch_tokens,... by rising fractions: other rows and batches

    # Batch
    batch_tokens: Tokens = 786_432  # tokens of a step, over all ranks
    micro_batch_tokens: Tokens = 98_304  # most tokens of one forward on one rank; halved where memory is short

    # Clock
    max_seconds: Annotated[float, 0.0, 1e9] = 600.0  # of training and calibration; 0 means no limit of time
    max_steps: Count = 0  # steps after which a run ends; 0 means no limit of steps
    max_tokens: Count = 0  # tokens that no run exceeds, over all ranks; 0 means no limit of tokens
    checkpoint_every: Count = 1000  # steps between states to go on from, without max_seconds; 0: none
    calibration_tokens: Tokens = 262_144  # tokens, over all ranks, for packing's second moments
    dev_tokens: Tokens = 1_048_576  # tokens of the dev split for the estimates in the log
    dev_evals: Annotated[int, 0, 1000] = 4  # such estimates in a run, the one at its end included

    # The run
    preset: str = "16mb"  # which preset the other fields start from: 16mb, 2mb, pocket or tiny
    track: str = "16mb"  # the track that the artifact is meant for: it has a cap on bytes
    seed: Annotated[int, 0, 2**31 - 1] = 1337  # of the initialisation, the order of rows and the sampled labels
    data_dir: str = "data/fineweb_sp8192"  # folder of shards, tokenizer and manifest
    run_dir: str = ""  # folder of the run's files; default: runs/<preset>-<time>-s<seed>
    compile: bool = True  # torch.compile the model and the loader


# docs/techniques.md has the reasons for this shape
TWO_MB = dict(
    track="2mb", data_dir="data/fineweb_sp4096", vocab_size=4096,
    num_layers=6, model_dim=256, num_heads=4, num_kv_heads=2, mlp_mult=3.0,
    parallel_start=4, loop_first=1, loop_last=3,
    batch_tokens=262_144, micro_batch_tokens=131_072,
)  # fmt: skip
# What the small presets share
SMALL = dict(
    track="pocket", num_heads=2, num_kv_heads=1, rope_dims=0, ln_scale=False, attn_gate=0,
    parallel_start=0, loops=0, document_mask=False, qk_gain_init=1.5, ortho_init=False,
    matrix_lr=0.03, embed_lr=0.05, scalar_lr=0.04, weight_decay=0.03, embed_decay=0.0,
    muon_momentum=0.95, muon_momentum_start=0.85, muon_momentum_steps=300,
    warmdown=0.75, min_lr=0.0, ema_decay=0.99,
)  # fmt: skip
POCKET = SMALL | dict(
    data_dir="data/embedded_sp2048_case", vocab_size=2048, seq_len=512,
    num_layers=4, model_dim=128, mlp_mult=1.5,
    batch_tokens=4096, micro_batch_tokens=4096, stages="0.7:256:4096",
    max_seconds=0.0, max_tokens=20_480_000,  # golf par allows 20,515,875 with bfloat16 and no AMX: 664 to 711 s
    calibration_tokens=131_072, dev_tokens=65_536,
    score_chunk=256, score_context=257, score_lr=0.0008, score_counts=True,
)  # fmt: skip
TINY = SMALL | dict(
    data_dir="data/embedded", vocab_size=1024, seq_len=128,
    num_layers=2, model_dim=64, mlp_mult=2.0, batch_tokens=2048, micro_batch_tokens=1024, max_seconds=20.0,
    calibration_tokens=8192, dev_tokens=16_384, dev_evals=1,
)  # fmt: skip
PRESETS = {"16mb": {}, "2mb": TWO_MB, "pocket": POCKET, "tiny": TINY}
TRACKS = ("16mb", "2mb", "pocket", "open")  # whose caps packing knows
MAX_LOGITS = 2**27  # that the scorer takes from one call: tokens of a chunk times --vocab_size


class RunError(Exception):
    """A run that cannot go on: one line that says what, where and what to do."""

    code = 1  # of the process that ends with it


class UsageError(RunError):
    code = 2  # a command line that cannot be run


def require(condition: bool, why: str):
    """Raises UsageError unless the condition holds."""
    if not condition:
        raise UsageError(why)


KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def parse_argument(argument: str, following: str) -> tuple[str, object]:
    """(field, value) of `--field=value`, typed from the defaults; a bare `--field` sets a bool."""
    key, equals, text = argument.removeprefix("--").partition("=")
    key = key.replace("-", "_")
    defaults = {field.name: field.default for field in fields(Config)}
    if not argument.startswith("--") or key not in defaults:
        near = difflib.get_close_matches(key, defaults, n=1, cutoff=0.5)
        hint = f": did you mean --{near[0]}=...?" if near else ""
        raise UsageError(f"unknown argument {argument[:80]!r}{hint}")
    if not equals and following and not following.startswith("--"):
        raise UsageError(f"write --{key}={following}, as one argument")
    kind = type(defaults[key])
    try:
        if kind is bool:
            switch = {"": True, "true": True, "1": True, "false": False, "0": False}
            return key, switch[text.lower()]
        value = kind(text)
        if kind is str and not equals or kind is float and not math.isfinite(value):
            raise ValueError
        return key, value
    except (ValueError, KeyError):
        raise UsageError(f"bad value in {argument[:80]!r}: --{key} takes {KINDS[kind]}") from None


def parse_config(argv: list[str], environment: dict[str, str]) -> Config:
    """The Config of a command line.

    Raises UsageError for an unknown key (with the nearest match), a bad value, fields that do not fit together, or an
    environment variable that spells a field: `SEED=42 torchrun ...` looks as if it did something and would not.
    """
    values = dict(map(parse_argument, argv, [*argv[1:], ""]))
    for key in asdict(Config()):
        if key.upper() in environment:
            use = f"use --{key}={environment[key.upper()]}"
            raise UsageError(f"the environment sets {key.upper()}, unread here: {use}")
    preset = values.get("preset") or ("16mb" if torch.cuda.is_available() else "pocket")
    require(preset in PRESETS, f"no preset {preset!r}: choose one of {', '.join(PRESETS)}")
    config = replace(Config(), **PRESETS[preset] | values | {"preset": preset})
    check_config(config)
    return config


def bounds() -> dict[str, tuple]:
    """{field: (least, largest)} of the numbers in Config, as they are annotated."""
    annotated = {field.name: getattr(field.type, "__metadata__", ()) for field in fields(Config)}
    return {name: pair for name, pair in annotated.items() if pair}


def check_config(c: Config):
    """Raises UsageError for values that no run can have."""
    for key, (least, largest) in bounds().items():
        value = getattr(c, key)
        form = "," if type(least) is int else "g"
        what = f"{KINDS[type(least)]} from {least:{form}} to {largest:{form}}"
        require(least <= value <= largest, f"--{key}={str(value)[:20]}: write {what}")
    require(c.track in TRACKS, f"--track={c.track}: write one of {', '.join(TRACKS)}")
    require(round(c.mlp_mult * c.model_dim) >= 1, "--mlp_mult times --model_dim must be at least 1")
    require(c.model_dim % (2 * c.num_heads) == 0, "--model_dim must be an even multiple of --num_heads")
    require(c.num_heads % c.num_kv_heads == 0, "--num_heads must be a multiple of --num_kv_heads")
    fits = c.rope_dims % 2 == 0 and c.rope_dims <= c.model_dim // c.num_heads
    require(fits, "--rope_dims must be even, and within a head: at most --model_dim / --num_heads")
    gates = max(c.attn_gate, c.smear_gate)
    require(gates <= c.model_dim, "--attn_gate and --smear_gate must be within --model_dim")
    require(c.parallel_start < c.num_layers, "--parallel_start must be a layer, or 0: below --num_layers")
    last = (c.parallel_start or c.num_layers) - 1  # only layers before the two lanes can be passed again
    inside = c.loop_first <= c.loop_last <= last
    require(inside or not c.loops, f"--loop_first to --loop_last must be layers, the last one {last} at most")
    require(c.micro_batch_tokens % c.seq_len == 0, "--micro_batch_tokens must be a multiple of --seq_len")
    require(max(c.max_seconds, c.max_steps, c.max_tokens) > 0, "set --max_seconds, --max_steps or --max_tokens")
    chunk = MAX_LOGITS // c.vocab_size
    require((c.score_chunk or c.seq_len) <= chunk, f"set --score_chunk to 1 to {chunk:,}: the scorer takes no more")
    stages(c, 1)


def artifact_config(config: Config) -> dict:
    """The fields that travel in the artifact: those of ModelConfig that differ from their defaults."""
    values = {field.name: getattr(config, field.name) for field in fields(ModelConfig)}
    return {key: value for key, value in values.items() if value != getattr(ModelConfig, key)}


# ---- Schedule: all that changes during a run -----------------------------------------------------
#
#   what                         fields                          how
#   a row's and a step's tokens  stages, seq_len, batch_tokens   by stage
#   extra passes                 loops, loop_from                off, then on
#   learning rates               warmdown, min_lr                constant, then down to a floor
#   momentum of Muon             muon_momentum, _start, _steps   up, by step
#   weight decays                decay_taper                     constant, down in the last 30%
#   average of the weights       ema_decay                       a longer memory with every step


@dataclass(frozen=True)
class Stage:
    """A part of the run in which shapes and passes stay the same, and so one compiled graph."""

    until: float  # the fraction of the run at which it ends
    loops: int  # extra passes
    length: int  # tokens of a row, as the model sees it
    rows: int  # rows of seq_len tokens in one forward on one rank
    accumulate: int  # forwards of a step on one rank
    tokens: int  # of a step, over all ranks

    def within(self, most: int) -> "Stage":
        """The same step in forwards of at most `most` rows: of as many as divide it, so that its tokens stay."""
        rows = self.rows * self.accumulate
        fewer = largest_divisor(rows, min(most, self.rows))
        return replace(self, rows=fewer, accumulate=rows // fewer)


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor of a number that is at most `most`."""
    return max(d for d in range(1, most + 1) if number % d == 0)


def stages(c: Config, world: int) -> list[Stage]:
    """The run's stages in order, on any number of ranks. Raises UsageError for a bad `stages`."""
    table = parse_stages(c)
    ends = {until for until, _, _ in table}
    if c.loops and c.loop_from > 0:
        ends.add(c.loop_from)
    result = []
    for until in sorted(ends):
        length, batch = next((length, batch) for end, length, batch in table if until <= end)
        loops = c.loops if until > c.loop_from else 0
        rows = math.ceil(batch / (c.seq_len * world))  # of a step on one rank
        accumulate = math.ceil(rows * c.seq_len / c.micro_batch_tokens)
        rows = math.ceil(rows / accumulate)  # of a forward
        tokens = rows * accumulate * c.seq_len * world
        result.append(Stage(until, loops, length, rows, accumulate, tokens))
    return result


def parse_stages(c: Config) -> list[tuple[float, int, int]]:
    """(until, tokens of a row, tokens of a step) of each part of `stages`, and of the rest of the run."""
    table = []
    start = 0.0
    most = bounds()["batch_tokens"][1]
    try:
        for part in filter(None, c.stages.split(",")):
            until, length, batch = part.split(":")
            row = float(until), int(length), int(batch)
            if not start < row[0] < 1 or row[1] < 1 or c.seq_len % row[1] or not 1 <= row[2] <= most:
                raise ValueError
            table.append(row)
            start = row[0]
    except ValueError:
        rising = f"by rising fractions, with lengths that divide --seq_len and at most {most:,} tokens a step"
        why = f"--stages must be like 0.2:512:4096,0.5:1024:8192, {rising}"
        raise UsageError(why) from None
    return [*table, (1.0, c.seq_len, c.batch_tokens)]


@dataclass(frozen=True)
class Rates:
    """What one step of the optimisers uses."""

    learning_rate: float  # times that of each group
    momentum: float  # Muon's
    decay: float  # times that of each group
    average: float  # share of the averaged weights that stays


def rates(c: Config, step: int, fraction: float) -> Rates:
    """The schedules at a step, when `fraction` of the run is over."""
    falling = (1 - fraction) / c.warmdown if c.warmdown else 1.0
    risen = min(1.0, step / max(1, c.muon_momentum_steps))
    return Rates(
        learning_rate=max(min(1.0, falling), c.min_lr),
        momentum=c.muon_momentum_start + risen * (c.muon_momentum - c.muon_momentum_start),
        decay=1 - c.decay_taper * max(0.0, (fraction - 0.7) / 0.3),
        # A short memory first, so that the start is forgotten
        average=min(c.ema_decay, (1 + step) / (10 + step)),
    )


# ---- Model ---------------------------------------------------------------------------------------
#
# Shapes: B batch, T time, D width, H heads, G key/value heads, K head width, V vocabulary

BOS = 1  # the token that documents start with
BLOCK_LENGTH = 1024  # tokens of the longest rows for attend_in_blocks: it needs their square in memory
MATRIX_SIDE = 16  # of the smallest matrix that packing takes for one
MAX_SCORE = 80.0  # of attention: sums of exp() stay finite in float32. No trained model came near


def declare(parameter: nn.Parameter, group: str, rows: tuple[int, ...] = ()) -> nn.Parameter:
    """Says how a parameter is trained and packed. A matrix that nobody declared stops the run (see declarations).

    group: "muon" for matrices, or for Adam "embedding" or "scalar", each with its own learning rate and decay. rows: of
    the matrices that a Muon parameter [rows, columns] holds one below the other; left out, it is one matrix.
    """
    parameter.group = group
    parameter.row_blocks = rows or parameter.shape[:1]
    return parameter


def matrix(columns: int, *rows: int) -> nn.Linear:
    """A linear map for Muon, without bias: a matrix for each of `rows`, fused for speed."""
    linear = nn.Linear(columns, sum(rows), bias=False)
    declare(linear.weight, "muon", rows)
    return linear


def scalars(*shape: int) -> nn.Parameter:
    """Gains, mixes, gates or skips: zeros, until init_weights says otherwise."""
    return declare(nn.Parameter(torch.zeros(shape)), "scalar")


def declarations(model: nn.Module) -> dict[str, dict]:
    """{parameter: {"group", "rows"}} as declared. Raises RunError for a matrix that was not."""
    found = {}
    for name, p in model.named_parameters():
        group = getattr(p, "group", "scalar" if p.ndim < 2 else "")
        if group not in ("muon", "embedding", "scalar"):
            how = 'declare(parameter, "muon"), or "embedding" or "scalar", where it is made'
            raise RunError(f"no optimiser is declared for {name} {list(p.shape)}: write {how}")
        found[name] = {"group": group, "rows": list(getattr(p, "row_blocks", p.shape[:1]))}
    return found


def check_saved(model: nn.Module):
    """Raises RunError for what the model would miss when it is loaded: each parameter is saved once, and no buffer."""
    saved = dict(model.named_parameters())
    for name in model.state_dict():
        if name not in saved:
            how = "register a buffer with persistent=False; read a tied weight as F.linear(x, self.embed.weight)"
            raise RunError(f"{name} is a buffer or a second name of a weight, which no checkpoint would hold: {how}")


def is_matrix(p: nn.Parameter) -> bool:
    """Whether packing looks for second moments of a parameter: with a shorter side it is a few vectors."""
    return p.ndim > 1 and min(p.size(-1), p.numel() // max(1, p.size(-1))) >= MATRIX_SIDE


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are declared to be Muon's; their `row_blocks` say how many matrices each holds."""
    declared = declarations(model)
    return [p for name, p in model.named_parameters() if declared[name]["group"] == "muon"]


def norm(x: Tensor) -> Tensor:
    """RMS norm over the last axis, without a gain."""
    return F.rms_norm(x, (x.size(-1),))


def rope_table(length: int, dims: int, base: float) -> Tensor:
    """Cosines and sines of RoPE's angles [2, T, dims / 2] (Su et al. 2021)."""
    frequency = base ** (-torch.arange(dims // 2, dtype=torch.float64) / (dims // 2))
    angle = torch.outer(torch.arange(length, dtype=torch.float64), frequency)
    return torch.stack((angle.cos(), angle.sin()))


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """RoPE on the first dims of K in [B, N, T, K], pairing their first half with their second."""
    cos, sin = table.to(x.dtype)
    half = cos.size(1)
    a, b, rest = x.split((half, half, x.size(-1) - 2 * half), -1)
    return torch.cat((a * cos + b * sin, b * cos - a * sin, rest), -1)


def document_mask(tokens: Tensor) -> Tensor:
    """[B, 1, T, T] of packed rows [B, T]: true where i may read j, in the same document."""
    document = (tokens == BOS).cumsum(1)
    return (document[:, :, None] == document[:, None]).tril()[:, None]


def document_bounds(tokens: Tensor, max_documents: int) -> Tensor:
    """The same for kernels of variable length: where segments of the flattened batch start, and its end, int32.

    Their number is fixed, so that shapes are static: spare ones are empty and lie at the end. From the max_documents-th
    on, a document stays with the one before it in its row.
    """
    B, T = tokens.shape
    end = tokens.numel()
    position = torch.arange(end, device=tokens.device).view(B, T)
    # Sorted by this, rows come first, then documents, then all other tokens. Rows must not be dropped: without the
    # start of one a segment could be longer than T.
    order = torch.where(tokens == BOS, position + end, 2 * end)
    order[:, 0] = position[:, 0]
    cuts = order.flatten().sort().values[:max_documents]
    starts = torch.where(cuts < 2 * end, cuts % end, end)
    return F.pad(starts.sort().values, (0, 1), value=end).int()


def takes_blocks(length: int, compiled: bool, masked: bool) -> bool:
    """Whether a CPU trains with attend_in_blocks; uncompiled it is slower than torch's own attention."""
    return compiled and not masked and length <= BLOCK_LENGTH


def attend(q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None) -> Tensor:
    """Causal attention of q [B, H, T, K] over k, v [B, G, T, K]; within documents if given their mask or bounds.

    Where there are more keys than queries, the queries are those of the last keys.
    """
    if k.size(2) > q.size(2):
        before = k.size(2) - q.size(2)
        mask = torch.ones(q.size(2), k.size(2), dtype=torch.bool, device=q.device).tril(before)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    masked = documents is not None
    compiled = torch.compiler.is_compiling()
    if q.is_cpu and q.requires_grad and takes_blocks(q.size(2), compiled, masked):
        return attend_in_blocks(q, k, v)
    if not masked or documents.ndim == 4:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=documents, is_causal=not masked, enable_gqa=True)
    from torch.nn.attention.varlen import varlen_attn

    B, H, T, K = q.shape
    # The kernels take the tokens of all rows in one line, and no type wider than 16 bits
    flat = [x.transpose(1, 2).flatten(0, 1).bfloat16() for x in (q, k, v)]
    # Before torch 2.13 groups of heads went without saying
    groups = {"enable_gqa": True} if "enable_gqa" in varlen_attn.__kwdefaults__ else {}
    y = varlen_attn(*flat, documents, documents, T, T, window_size=(-1, 0), **groups)
    return y.view(B, T, H, K).transpose(1, 2).to(q.dtype)


def attend_in_blocks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention for training on a CPU, where torch's own spends 60% of a step in its backward pass.

    Products of whole blocks, with compiled exponentials in between: first the blocks on the diagonal, masked; then, for
    widths w, 2w, 4w ..., each odd block of queries with the block of keys before it. Together they are all pairs.

    It relies on scores of at most MAX_SCORE: the softmax subtracts no maximum. Attention clamps its gains for that.
    """
    B, H, T, K = q.shape
    G = k.size(1)
    exact = torch.promote_types(q.dtype, torch.float32)
    q = (q / math.sqrt(K)).reshape(B * G, -1, T, K)  # [B G, H / G, T, K]
    k, v = k.reshape(B * G, -1, T, K), v.reshape(B * G, -1, T, K)
    first = 64 if T % 64 == 0 and T & (T - 1) == 0 else T  # a power of two is made of such blocks
    lower = torch.ones(first, first, dtype=torch.bool, device=q.device).tril()
    total = 0.0  # [B G, H / G, T, K], the values weighted by exp(score)
    weight = 0.0  # [B G, H / G, T], the sum of these weights
    # The offset is how far a block's keys lie before its queries: 0 on the diagonal
    for offset in [0] + [first << n for n in range((T // first).bit_length() - 1)]:
        width = offset or first
        # [B G, T / width, H / G, width, K]
        queries = q.unflatten(2, (-1, width)).transpose(1, 2)
        keys = k.unflatten(2, (-1, width)).transpose(1, 2)
        values = v.unflatten(2, (-1, width)).transpose(1, 2)
        if offset:
            queries, keys, values = queries[:, 1::2], keys[:, ::2], values[:, ::2]
        # The heads of a group share their keys, so they stand one below the other in one product
        scores = queries.flatten(2, 3) @ keys.flatten(2, 3).mT
        scores = scores.to(exact).unflatten(2, (-1, width)).exp()  # finite: see MAX_SCORE
        if not offset:
            scores = torch.where(lower, scores, 0.0)
        sums = scores.to(v.dtype).flatten(2, 3) @ values.flatten(2, 3)
        sums = sums.to(exact).unflatten(2, (-1, width)).transpose(1, 2)
        total = total + F.pad(sums, (0, 0, offset, 0)).flatten(2, 3)
        weight = weight + F.pad(scores.sum(-1).transpose(1, 2), (offset, 0)).flatten(2, 3)
    return (total / weight[..., None]).to(q.dtype).view(B, H, T, K)


def choose_attention(config: Config, device: torch.device) -> str:
    """Activates the first FlashAttention that runs here, forward and backward: its name, or why it is torch's own.
    Raises RunError where documents must be kept apart, and torch's own does not do that either."""
    if device.type == "cpu":
        blocks = takes_blocks(config.seq_len, config.compile, config.document_mask)
        return "attend_in_blocks" if blocks else "scaled_dot_product_attention"
    H, G, T = config.num_heads, config.num_kv_heads, 128
    result = "torch's own attention"
    shape = (1, H + 2 * G, T, config.model_dim // H)
    qkv = torch.randn(*shape, device=device, dtype=torch.bfloat16, requires_grad=True)

    def try_documents():
        documents = torch.tensor([0, 50, T], device=device, dtype=torch.int32)
        attend(*qkv.split((H, G, G), 1), documents).sum().backward()

    for name in ("FA3", "FA4"):  # made for Hopper; in beta, for Hopper and Blackwell
        try:
            torch.nn.attention.activate_flash_attention_impl(name)
            try_documents()
            # Where rows are not cut, torch might prefer cuDNN's
            torch.backends.cuda.enable_cudnn_sdp(False)
            return name
        except Exception as error:  # importing or running other people's kernels raises anything
            result += f", no {name}: {error!r:.60}"
    torch.nn.attention.restore_flash_attention_impl(False)
    if config.document_mask:
        try:
            try_documents()
        except Exception as error:
            why = f"{error!r:.200}".replace("\n", " ")
            raise RunError(f"{result}, which fails: {why}: give --document_mask=false, or install FA3") from None
    return result


class KeyValues:
    """Keys before RoPE and values [B, G, M, K] of the text before a call, in one pass through a layer."""

    def __init__(self):
        self.kept: list[Tensor] | None = None  # of text that commit() was told of
        self.new: list[Tensor] | None = None  # of the last call

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v [B, G, T, K] of a call -> both behind those of the text before it [B, G, M + T, K]."""
        self.new = [k.detach(), v.detach()]
        if self.kept is None:
            return k, v
        return torch.cat((self.kept[0], k), 2), torch.cat((self.kept[1], v), 2)

    def commit(self, most: int):
        """The last call's tokens become text; of all text the last `most` tokens are kept."""
        text = self.new if self.kept is None else [torch.cat(pair, 2) for pair in zip(self.kept, self.new)]
        self.kept = [x[:, :, max(0, x.size(2) - most) :] for x in text]


class TextMemory:
    """What a model keeps of text that it reads in chunks, each token once, as in Transformer-XL (Dai et al. 2019).

    A chunk sees the keys and values of at most `most` tokens before it. They stay as the weights of their time made
    them, and gradients end at them.
    """

    def __init__(self, passes: int, most: int):
        self.most = most
        self.passes = [KeyValues() for _ in range(passes)]
        self.last: Tensor | None = None  # [B, 1], the last token of the text
        self.new: Tensor | None = None

    def commit(self):
        """The tokens of the last call become text."""
        self.last = self.new
        for keys_and_values in self.passes:
            keys_and_values.commit(self.most)


class Attention(nn.Module):
    """Causal grouped-query attention with QK-norm, RoPE and a learned gain per query head.

    xsa removes from a head's output its part along the token's own value vector; the gate scales each head's output
    by a sigmoid of a few channels of the input.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.heads, self.kv_heads = config.num_heads, config.num_kv_heads
        self.width = config.model_dim // config.num_heads
        self.xsa = config.xsa
        self.rope = (config.rope_dims or self.width, config.rope_base)
        # A buffer, as a table made in the forward pass would be computed again in every kernel that reads it
        self.register_buffer("table", rope_table(config.seq_len, *self.rope), persistent=False)
        kv_width = self.kv_heads * self.width
        self.qkv = matrix(config.model_dim, config.model_dim, kv_width, kv_width)
        self.proj = matrix(config.model_dim, config.model_dim)
        self.gain = scalars(self.heads)
        self.gate = scalars(self.heads, config.attn_gate) if config.attn_gate else None

    def forward(self, x: Tensor, documents: Tensor | None, past: KeyValues | None = None) -> Tensor:
        """x [B, T, D]; documents: for attend; past: of the text before x."""
        B, T, D = x.shape
        heads = self.qkv(x).view(B, T, -1, self.width).transpose(1, 2)  # [B, H + 2 G, T, K]
        q, k, v = heads.split((self.heads, self.kv_heads, self.kv_heads), 1)
        q, k, own = norm(q), norm(k), v
        if past is not None:
            k, v = past.extend(k, v)
        table = self.table[:, : k.size(2)]
        if k.size(2) > self.table.size(1):  # a longer window than in training
            table = rope_table(k.size(2), *self.rope).to(x.device)
        # Queries and keys have norm sqrt(K) here, so a score is at most gain * sqrt(K): attend_in_blocks needs a bound
        q, k = rotate(q, table[:, -T:]), rotate(k, table)
        bound = MAX_SCORE / math.sqrt(self.width)
        q = q * self.gain.clamp(-bound, bound).to(q.dtype)[:, None, None]
        # Autocast leaves the three in different types, and attention wants one
        own, v = own.to(q.dtype), v.to(q.dtype)
        y = attend(q, k.to(q.dtype), v, documents)
        if self.xsa:
            # One value vector for H / G heads: [B, G, 1, T, K]
            own = F.normalize(own, dim=-1).to(y.dtype)[:, :, None]
            y = y.view(B, self.kv_heads, -1, T, self.width)
            y = (y - (y * own).sum(-1, keepdim=True) * own).flatten(1, 2)
        if self.gate is not None:
            # [B, T, H]. Half the slope, so that gates move more slowly (PR #1855)
            gate = torch.sigmoid(0.5 * F.linear(x[..., : self.gate.size(1)], self.gate))
            y = y * gate.transpose(1, 2)[..., None]
        return self.proj(y.transpose(1, 2).reshape(B, T, D))


class MLP(nn.Module):
    """Two projections around LeakyReLU^2; with slope 0 it is ReLU^2 (So et al. 2021)."""

    def __init__(self, config: Config):
        super().__init__()
        hidden = round(config.mlp_mult * config.model_dim)
        self.up = matrix(config.model_dim, hidden)
        self.down = matrix(hidden, config.model_dim)
        self.slope = config.leaky_slope

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.leaky_relu(self.up(x), self.slope).square())


class Block(nn.Module):
    """x, x0 -> x: mixes the embedding back in, then adds attention and MLP, each with a gain per channel.

    From `parallel_start` on there are two lanes: attention reads the first, the MLP at the same time the second, and
    both add to both, weighted by `route` [lane, (lane itself, attention, MLP)].
    """

    def __init__(self, config: Config, layer: int):
        super().__init__()
        self.attn, self.mlp = Attention(config), MLP(config)
        self.mix = scalars(2, config.model_dim)
        self.attn_gain = scalars(config.model_dim)
        self.mlp_gain = scalars(config.model_dim)
        self.scale = (layer + 1) ** -0.5 if config.ln_scale else 1.0
        self.parallel = 0 < config.parallel_start <= layer
        if self.parallel:
            self.route = scalars(2, 3)

    def forward(
        self, x: Tensor, lane: Tensor | None, x0: Tensor, documents: Tensor | None, past: KeyValues | None = None
    ):
        """Returns both lanes, the second None before parallel_start."""
        mixed = self.mix[0] * x + self.mix[1] * x0
        attention = self.attn_gain * self.attn(norm(mixed) * self.scale, documents, past)
        if not self.parallel:
            mixed = mixed + attention
            return mixed + self.mlp_gain * self.mlp(norm(mixed) * self.scale), None
        mlp = self.mlp_gain * self.mlp(norm(lane) * self.scale)
        first, second = self.route
        # The first lane keeps x as it came in: what mixed adds to it, attention has read
        x = first[0] * x + first[1] * attention + first[2] * mlp
        lane = second[0] * lane + second[1] * attention + second[2] * mlp
        return x, lane


# The loss on a GPU, of rows of logits z [N, V] before the softcap. With c = 2 cap it is that of y = c sigmoid(4 z / c)
# = cap tanh(z / cap) + cap: softmax ignores a constant, and what is at most c needs no maximum subtracted. z is read
# once each way, and nothing of its size is kept in float32. c is a constant of the kernels, as compiled code (of torch
# 2.13) hands numbers to them in float64.
if triton:

    @triton.jit
    def loss_kernel(z_ptr, target_ptr, loss_ptr, lse_ptr, c: tl.constexpr, V: tl.constexpr, BLOCK: tl.constexpr):
        """A row's loss and logsumexp."""
        i = tl.program_id(0).to(tl.int64)
        sums = tl.zeros((BLOCK,), tl.float32)
        for at in range(0, V, BLOCK):
            j = at + tl.arange(0, BLOCK)
            s = tl.sigmoid(4 / c * tl.load(z_ptr + i * V + j, j < V).to(tl.float32))
            sums += tl.where(j < V, tl.exp(c * s), 0.0)
        s = tl.sigmoid(4 / c * tl.load(z_ptr + i * V + tl.load(target_ptr + i)).to(tl.float32))
        lse = tl.log(tl.sum(sums))
        tl.store(loss_ptr + i, lse - c * s)
        tl.store(lse_ptr + i, lse)

    @triton.jit
    def gradient_kernel(
        z_ptr, target_ptr, scale_ptr, lse_ptr, dz_ptr, c: tl.constexpr, V: tl.constexpr, BLOCK: tl.constexpr
    ):
        """A block of a row of dz [N, V], the gradient of scale times the sum of losses."""
        i = tl.program_id(0).to(tl.int64)
        j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        s = tl.sigmoid(4 / c * tl.load(z_ptr + i * V + j, j < V).to(tl.float32))
        h = tl.where(j == tl.load(target_ptr + i), 1.0, 0.0)
        dz = tl.load(scale_ptr) * (tl.exp(c * s - tl.load(lse_ptr + i)) - h) * 4 * s * (1 - s)
        tl.store(dz_ptr + i * V + j, dz, j < V)

    class FusedLoss(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z, targets, c):
            loss = torch.empty(len(z), device=z.device)
            lse = torch.empty(len(z), device=z.device)
            loss_kernel[(len(z),)](z, targets, loss, lse, c, z.size(1), 1024)
            ctx.save_for_backward(z, targets, lse)
            ctx.c = c
            return loss.mean()

        @staticmethod
        def backward(ctx, scale):
            z, targets, lse = ctx.saved_tensors
            dz = torch.empty_like(z)
            grid = (len(z), triton.cdiv(z.size(1), 1024))
            gradient_kernel[grid](z, targets, scale / len(z), lse, dz, ctx.c, z.size(1), 1024)
            return dz, None, None


class GPT(nn.Module):
    """Tied embedding, U-Net skips between the two halves of the layers as they are passed, softcapped logits.

    `loops` is the number of extra passes that are on; training starts with none. In training mode documents that share
    a row do not see each other (`document_mask`); in evaluation a row is one document.
    """

    def __init__(self, config: Config):
        super().__init__()
        c = config
        self.config = config
        self.loops = c.loops
        self.embed = nn.Embedding(c.vocab_size, c.model_dim)
        declare(self.embed.weight, "embedding")
        self.blocks = nn.ModuleList(Block(c, layer) for layer in range(c.num_layers))
        slots = len(self.order()) // 2
        self.skip = scalars(slots, c.model_dim)
        self.skip_gate = scalars(slots, c.model_dim) if c.gated_skips else None
        if c.smear_gate:
            self.smear = scalars(1, c.smear_gate)
            self.smear_scale = scalars(1)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self):
        """What every parameter starts from, if it is not a matrix as PyTorch makes it, or zeros."""
        c = self.config
        nn.init.normal_(self.embed.weight, std=0.005)
        if c.ortho_init:
            for p in matrices(self):
                for rows in p.data.split(list(p.row_blocks)):
                    nn.init.orthogonal_(rows)
        nn.init.ones_(self.skip)
        for block in self.blocks:
            nn.init.constant_(block.attn.gain, c.qk_gain_init)
            # Each block starts as the identity
            nn.init.zeros_(block.attn.proj.weight)
            nn.init.zeros_(block.mlp.down.weight)
            nn.init.ones_(block.mix[0])
            nn.init.ones_(block.attn_gain)
            nn.init.ones_(block.mlp_gain)
            if block.parallel:
                nn.init.ones_(block.route)
                nn.init.constant_(block.route[:, 0], 1.1)

    def order(self) -> list[int]:
        """The layers in the order in which they are passed."""
        layers = list(range(self.config.num_layers))
        first, end = self.config.loop_first, self.config.loop_last + 1
        return layers[:first] + layers[first:end] * (1 + self.loops) + layers[end:]

    def embedded(self, tokens: Tensor, last: Tensor | None = None) -> Tensor:
        """tokens [B, T] -> their embeddings [B, T, D], each with a share of the one before it in its document.

        last: the token before the first one [B, 1], if there is text before it.
        """
        x = self.embed(tokens)
        width = self.config.smear_gate
        if not width:
            return x
        inside = tokens != BOS  # at BOS there is no token before
        gate = self.smear_scale * torch.sigmoid(F.linear(x[..., :width], self.smear))
        if last is not None:
            return x + gate * inside[..., None] * torch.cat((self.embed(last), x[:, :-1]), 1)
        inside[:, 0] = False
        return x + gate * inside[..., None] * x.roll(1, 1)

    def documents(self, tokens: Tensor) -> Tensor | None:
        """What attend needs to keep the documents of packed rows apart; None where a row is one document."""
        if not self.config.document_mask or not self.training:
            return None
        if not tokens.is_cuda:  # CPUs have no kernels of variable length
            return document_mask(tokens)
        # No corpus has documents of less than 128 tokens on average
        return document_bounds(tokens, len(tokens) + tokens.numel() // 128)

    def hidden(self, tokens: Tensor, memory: TextMemory | None = None) -> Tensor:
        """tokens [B, T] -> what the output head reads [B, T, D]; memory: of the text before them."""
        documents = self.documents(tokens)
        last = None
        if memory is not None:
            last, memory.new = memory.last, tokens[:, -1:]
        x = x0 = norm(self.embedded(tokens, last))
        lane = None
        order = self.order()
        half = len(order) // 2
        saved = []  # outputs of the first half, which the second half reads, last one first
        for i, layer in enumerate(order):
            block = self.blocks[layer]
            if block.parallel and lane is None:
                lane = x  # both lanes go on from the same place
            # With an odd number of passes the one in the middle has no partner
            if i >= len(order) - half:
                back = saved.pop()
                slot = len(saved)
                back = self.skip[slot] * back
                if self.skip_gate is None:
                    x = x + back
                else:
                    x = torch.lerp(back, x, torch.sigmoid(self.skip_gate[slot]))
            x, lane = block(x, lane, x0, documents, memory and memory.passes[i])
            if i < half:
                saved.append(x)
        return norm(x if lane is None else (x + lane) / 2)

    def forward(self, tokens: Tensor, memory: TextMemory | None = None) -> Tensor:
        """tokens [B, T] -> logits [B, T, V] in float32; logits[:, i] predicts tokens[:, i + 1].

        memory: of the text before the tokens; it takes them up with memory.commit().
        """
        z = F.linear(self.hidden(tokens, memory), self.embed.weight)
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        return self.config.logit_softcap * torch.tanh(z / self.config.logit_softcap)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean negative log-likelihood of targets [B, T] in nats per token."""
        cap = self.config.logit_softcap
        z = F.linear(self.hidden(tokens), self.embed.weight)
        if triton and z.is_cuda:
            return FusedLoss.apply(z.flatten(0, 1), targets.flatten(), 2 * cap)
        # cap * tanh(z / cap) + cap: at most 2 cap, so there is no maximum to subtract
        y = 2 * cap * torch.sigmoid(z.to(torch.promote_types(z.dtype, torch.float32)) * (2 / cap))
        hit = torch.arange(y.size(-1), device=y.device) == targets[..., None]
        return (y.exp().sum(-1).log() - torch.where(hit, y, 0.0).sum(-1)).mean()


def build_model(config: Config) -> nn.Module:
    """The model of a Config; model(tokens [B, T]) gives logits [B, T, V]."""
    return GPT(config)


def multiplied_weights(model: GPT) -> int:
    """Matrix weights that one token meets: a layer's once per pass, the tied embedding's once."""
    block = sum(p.numel() for p in matrices(model.blocks[0]))
    return len(model.order()) * block + model.embed.weight.numel()


def flops_per_token(model: GPT, config: Config) -> int:
    """Training FLOPs of one token: 6 per matrix weight, and half of attention's 12 T D per layer."""
    attention = 6 * len(model.order()) * config.seq_len * config.model_dim
    return 6 * multiplied_weights(model) + attention


# ---- Optimiser -----------------------------------------------------------------------------------

QUINTIC = ((3.4445, -4.7750, 2.0315),)  # Jordan et al. 2024
POLAR_EXPRESS = (  # one for each iteration, rounded to what float32 can tell apart
    (8.156555, -22.483293, 15.878770),
    (4.042930, -2.808917, 0.500018),
    (3.891668, -2.772484, 0.506065),
    (3.285754, -2.368129, 0.464490),
    (2.346541, -1.709783, 0.423236),
)


def newton_schulz(g: Tensor, iterations: int, coefficients: tuple = QUINTIC) -> Tensor:
    """Orthogonalises each matrix of g [N, rows, columns] approximately; the last coefficients repeat."""
    tall = g.size(-2) > g.size(-1)
    x = g.mT if tall else g  # the products below are of the shorter side squared
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for i in range(iterations):
        a, b, c = coefficients[min(i, len(coefficients) - 1)]
        s = x @ x.mT
        x = a * x + (b * s + c * (s @ s)) @ x
    return x.mT if tall else x


class Muon:
    """Momentum with orthogonalised updates, sharded over ranks (Jordan et al. 2024; sharding as in public PR #399).

    matrices: (parameter, rows) of the row blocks of 2-D parameters; fused projections give several. Blocks of one shape
    form a bank: gradients are reduce-scattered, every rank orthogonalises the matrices it owns, and the updates are
    all-gathered, so that the update is that of one process. Weight decay is decoupled and follows the learning rate.
    """

    def __init__(self, matrices: list[tuple], config: Config, dtype: torch.dtype, world: int):
        self.config, self.dtype, self.world = config, dtype, world
        shapes: dict[tuple, list] = {}
        for parameter, rows in matrices:
            shapes.setdefault(tuple(parameter[rows].shape), []).append((parameter, rows))
        self.banks = list(shapes.items())
        self.momentum = []
        for shape, bank in self.banks:
            own = math.ceil(len(bank) / world)  # the last rank's bank is padded with zeros
            self.momentum.append(torch.zeros(own, *shape, device=bank[0][0].device))

    @torch.no_grad()
    def step(self, lr: float, momentum: float, decay: float):
        """One update from the parameters' .grad , each rank's own mean."""
        updates = [
            self.update(shape, bank, buffer, lr, momentum, decay)
            for (shape, bank), buffer in zip(self.banks, self.momentum)
        ]
        for _ in range(3):  # one bank's messages travel while others are computed
            for update in updates:
                next(update, None)

    def update(self, shape: tuple, bank: list, buffer: Tensor, lr: float, momentum: float, decay: float):
        """Updates a bank; yields where it would wait for other ranks, if there are any: twice."""
        grad = torch.stack([p.grad[rows] for p, rows in bank])
        if self.world > 1:
            missing = buffer.size(0) * self.world - len(bank)
            padded = F.pad(grad, (0, 0, 0, 0, 0, missing))
            grad = torch.empty_like(buffer)
            sent = dist.reduce_scatter_tensor(grad, padded, op=dist.ReduceOp.SUM, async_op=True)
            yield
            sent.wait()
            grad /= self.world
        buffer.mul_(momentum).add_(grad)
        grad.add_(buffer, alpha=momentum)  # Nesterov's look ahead
        if self.config.muon_row_norm:
            grad /= grad.norm(dim=-1, keepdim=True).clamp_min(1e-7)
        coefficients = POLAR_EXPRESS if self.config.muon_polar else QUINTIC
        update = newton_schulz(grad.to(self.dtype), self.config.muon_iterations, coefficients)
        if self.world > 1:
            own = update.contiguous()
            update = own.new_empty(own.size(0) * self.world, *shape)
            sent = dist.all_gather_into_tensor(update, own, async_op=True)
            yield
            sent.wait()
        # Tall matrices get longer steps, so that outputs change as much as those of square ones
        scale = lr * math.sqrt(max(1.0, shape[0] / shape[1]))
        for (p, rows), u in zip(bank, update):
            p.data[rows].mul_(1 - lr * decay).sub_(u, alpha=scale)


class Optimizers:
    """Muon and Adam behind one step, and the exponential moving average of the weights.

    Which parameter goes where is what `declare` said of it. Raises RunError if a matrix was not declared.
    """

    def __init__(self, model: GPT, config: Config, dtype: torch.dtype, world: int, rank: int):
        self.config, self.world, self.rank = config, world, rank
        self.names, self.params = zip(*model.named_parameters())
        blocks = []
        groups = {"embedding": [], "scalar": []}
        self.adam_params = []
        for p, declared in zip(self.params, declarations(model).values()):
            if declared["group"] == "muon":
                end = 0
                for count in declared["rows"]:
                    blocks.append((p, slice(end, end + count)))
                    end += count
            else:
                groups[declared["group"]].append(p)
                self.adam_params.append(p)
        self.muon = Muon(blocks, config, dtype, world)
        adam_groups = [
            dict(params=groups["embedding"], base_lr=config.embed_lr, base_decay=config.embed_decay),
            dict(params=groups["scalar"], base_lr=config.scalar_lr, base_decay=0.0),
        ]
        betas = (config.adam_beta1, config.adam_beta2)
        self.adam = torch.optim.AdamW(adam_groups, lr=0.0, betas=betas, fused=True)
        self.ema = [p.detach().clone() for p in self.params]

    @torch.no_grad()
    def step(self, rates: Rates):
        """One update from the parameters' .grad."""
        c = self.config
        if self.world > 1:  # all small gradients in one message, which travels while Muon works
            flat = torch.cat([p.grad.flatten() for p in self.adam_params])
            sent = dist.all_reduce(flat, async_op=True)
        lr = c.matrix_lr * rates.learning_rate
        self.muon.step(lr, rates.momentum, c.weight_decay * rates.decay)
        if self.world > 1:
            sent.wait()
            flat /= self.world
            for p, g in zip(self.adam_params, flat.split([p.numel() for p in self.adam_params])):
                p.grad.copy_(g.view_as(p))
        for group in self.adam.param_groups:
            group["lr"] = group["base_lr"] * rates.learning_rate
            group["weight_decay"] = group["base_decay"] * rates.decay
        self.adam.step()
        torch._foreach_lerp_(self.ema, [p.detach() for p in self.params], 1 - rates.average)
        for p in self.params:
            p.grad = None

    def state(self) -> dict:
        """A copy of all that a step changes on this rank."""
        lists = [[x.detach() for x in each] for each in (self.params, self.ema, self.muon.momentum)]
        return copy.deepcopy({"lists": lists, "adam": self.adam.state_dict()["state"]})

    @torch.no_grad()
    def load(self, state: dict):
        """Goes back to what state() gave."""
        for own, saved in zip((self.params, self.ema, self.muon.momentum), state["lists"]):
            torch._foreach_copy_(list(own), saved)
        self.adam.load_state_dict(self.adam.state_dict() | {"state": state["adam"]})

    @contextlib.contextmanager
    def averaged(self):
        """Inside, the model holds the averaged weights."""
        params = [p.detach() for p in self.params]
        live = copy.deepcopy(params)
        torch._foreach_copy_(params, self.ema)
        yield
        torch._foreach_copy_(params, live)


# ---- Scorer: how the artifact is scored ----------------------------------------------------------
class Followers:
    """How often each token followed each context of `order` tokens in the text that was added.

    A log-structured merge tree (O'Neil et al. 1996) of few sorted tables, in torch. A key is a hash of the context with
    the token in its low bits: 62 bits together. Two contexts share a hash once in 10^8 questions, with 8,192 ids and a
    million contexts.
    """

    GROWTH = 8  # a table this many times longer than the next one stays as it is

    def __init__(self, order: int, vocab_size: int):
        self.order = order
        self.bits = (vocab_size - 1).bit_length()
        self.tables: list[tuple[Tensor, Tensor]] = []  # sorted keys and their counts, the longest first

    def contexts(self, text: Tensor, rows: int) -> Tensor:
        """Hashes [B, rows] of what precedes each of the last `rows` tokens of text [B, T]; short ones are contexts of
        their own."""
        text = F.pad(text + 1, (self.order, 0))
        mixed = torch.zeros_like(text[:, -rows:])
        for distance in range(self.order, 0, -1):
            end = text.size(1) - distance
            mixed = (mixed + text[:, end - rows : end]) * -7046029254386353131  # odd, bits at random; int64 wraps
            mixed = mixed ^ (mixed >> 32)
        return mixed & ((1 << (62 - self.bits)) - 1)

    def add(self, contexts: Tensor, tokens: Tensor):
        """Each of the tokens [N] followed the context [N] beside it."""
        keys, counts = torch.unique(contexts << self.bits | tokens, return_counts=True)
        while self.tables and len(self.tables[-1][0]) < self.GROWTH * len(keys):
            longer, its_counts = self.tables.pop()
            keys, place = torch.unique(torch.cat((longer, keys)), return_inverse=True)
            counts = torch.zeros_like(keys).index_add_(0, place, torch.cat((its_counts, counts)))
        self.tables.append((keys, counts))

    def find(self, contexts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What followed the contexts [N]: for each finding its place in them, token and count; a token may be found
        several times."""
        places, tokens, found = [], [], []
        for keys, counts in self.tables:
            first = torch.searchsorted(keys, contexts << self.bits)
            many = torch.searchsorted(keys, contexts + 1 << self.bits) - first
            place = torch.repeat_interleave(many)
            # The i-th finding of a context is i behind its first one
            at = torch.arange(len(place), device=keys.device) + (first - many.cumsum(0) + many)[place]
            places.append(place)
            tokens.append(keys[at] & ((1 << self.bits) - 1))
            found.append(counts[at])
        empty = contexts.new_zeros(0)
        return torch.cat([empty, *places]), torch.cat([empty, *tokens]), torch.cat([empty, *found])


class Scorer:
    """A memory of the text before, steps on text whose score is final, counts of that text.

    A call's tokens [B, C] are predicted with the `score_context` tokens before them, as far as their document has so
    many; the model has read those when they were scored. Scope document, unless it learns over the stream of documents.
    `score_lr`: each chunk, once scored, gives one step of Adam (no momentum) on all weights (dynamic evaluation, Krause
    et al. 2018; PR #549, PR #1413); at the end of a document all but `score_keep` of what it changed is undone.
    `score_counts`: the model's row is the base of a Dirichlet mixture, with discount, of what followed the same tokens
    before: the last one and two in this document, the last 3 and 5 anywhere (as in Teh 2006, no sampler).
    """

    # (tokens before the predicted one, mass of the row below); the first two count in the document alone
    ORDERS = ((1, 100.0), (2, 1.0), (3, 100.0), (5, 1.0))
    DISCOUNT = 0.7

    def __init__(self, model: nn.Module, config: Config):
        self.model, self.config = model, config
        self.params = list(model.parameters())
        self.chunk = config.score_chunk or config.seq_len
        learns = config.score_lr or config.score_counts
        self.scope = "stream" if learns else "document"
        self.seen = [Followers(order, config.vocab_size) for order, _ in self.ORDERS]
        if config.score_lr:
            self.adam = torch.optim.Adam(self.params, config.score_lr, betas=(0.0, 0.99), fused=True)
            self.kept = [p.detach().clone() for p in self.params]

    @torch.no_grad()
    def start(self, lanes: int):
        """New documents begin in `lanes` lanes."""
        self.past = torch.full((lanes, 1), BOS, device=self.params[0].device)  # enough of the text for all contexts
        self.memory = None
        if self.config.score_context > 1:  # the last token of the text is in the call
            self.memory = TextMemory(len(self.model.order()), self.config.score_context - 1)
        for seen in self.seen[:2]:
            seen.tables.clear()
        if self.config.score_lr:
            torch._foreach_lerp_(self.kept, self.params, self.config.score_keep)
            torch._foreach_copy_(self.params, self.kept)

    def logits(self, tokens: Tensor) -> Tensor:
        """tokens [B, C] -> logits [B, C, V]; row i predicts tokens[:, i] from what came before it."""
        self.tokens = tokens
        # observe() goes back through these rows
        with torch.set_grad_enabled(self.config.score_lr > 0):
            self.rows = self.model(torch.cat((self.past[:, -1:], tokens[:, :-1]), 1), self.memory)
        self.probabilities = self.rows.detach().softmax(-1)
        return self.mix() if self.config.score_counts else self.rows

    @torch.no_grad()
    def mix(self) -> Tensor:
        """Log-probabilities [B, C, V]. The chunk's own text, before a row, counts like scored text."""
        B, C, V = self.rows.shape
        text = torch.cat((self.past, self.tokens), 1)
        left = torch.ones(B * C, device=text.device)  # share of the row below that is left, of the model's row first
        added = []  # (cells of [B C V], probability that an order adds there before later ones take their share, left)
        for seen, (_, mass) in zip(self.seen, self.ORDERS):
            contexts = seen.contexts(text, C)
            place, token, count = seen.find(contexts.flatten())
            # Pairs of rows of the chunk with one context: what followed the earlier one counts for the later one
            lane, later, earlier = (contexts[:, :, None] == contexts[:, None]).tril(-1).nonzero(as_tuple=True)
            place = torch.cat((place, lane * C + later))
            token = torch.cat((token, self.tokens[lane, earlier]))
            count = torch.cat((count, torch.ones_like(later)))
            cell, which = torch.unique(place * V + token, return_inverse=True)
            own = left.new_zeros(len(cell)).index_add_(0, which, count.to(left))
            row = cell // V
            total = mass + torch.zeros_like(left).index_add_(0, row, own)
            # Each kind of token that was seen gives the discount to the row below
            below = (mass + self.DISCOUNT * torch.bincount(row, minlength=B * C)) / total
            left = left * below
            added.append((cell, row, (own - self.DISCOUNT) / total[row], left))
        p = self.probabilities * left.view(B, C, 1)
        for cell, row, share, then in added:
            p.view(-1).index_add_(0, cell, share * (left / then)[row])
        return p.log_()

    def observe(self):
        """The chunk's score is final: learn from it."""
        if self.memory is not None:
            self.memory.commit()
        text = torch.cat((self.past, self.tokens), 1)
        if self.config.score_counts:
            for seen in self.seen:
                seen.add(seen.contexts(text, self.tokens.size(1)).flatten(), self.tokens.flatten())
        self.past = text[:, -self.ORDERS[-1][0] :]
        if self.config.score_lr:
            # The gradient of the sum of losses, -log softmax(row)[token]
            ones = torch.ones_like(self.probabilities[..., :1])
            self.rows.backward(self.probabilities.scatter_add_(2, self.tokens[..., None], -ones))
            self.adam.step()
            self.adam.zero_grad()


# ---- Data ----------------------------------------------------------------------------------------

SHARD_MAGIC = 20240520
SHARD_VERSION = 1
SHARD_HEADER_BYTES = 1024
ONE_DATA_SET = "give --data_dir and --vocab_size of one data set, or build it again with golf data"


def open_shard(path: Path, vocab_size: int) -> np.memmap:
    """Maps a shard's uint16 tokens; raises RunError if header and size disagree."""
    try:
        header = np.fromfile(path, dtype="<i4", count=SHARD_HEADER_BYTES // 4)
    except OSError as error:
        raise cannot_read(path, error) from None
    whole = len(header) == SHARD_HEADER_BYTES // 4
    if not whole or header[0] != SHARD_MAGIC or header[1] != SHARD_VERSION:
        raise RunError(f"{path} has a bad header: build it again with golf data")
    count = int(header[2])
    if path.stat().st_size != SHARD_HEADER_BYTES + 2 * count:
        raise RunError(f"{path} is truncated: build it again with golf data")
    tokens = np.memmap(path, dtype="<u2", mode="r", offset=SHARD_HEADER_BYTES, shape=(count,))
    highest = int(tokens[: 1 << 20].max(initial=0))
    if count == 0 or highest >= vocab_size:
        what = f"has the token {highest}, beyond --vocab_size={vocab_size}" if count else "has no tokens"
        raise RunError(f"{path} {what}: {ONE_DATA_SET}")
    return tokens


def check_tokenizer(config: Config, tokenizer: bytes, manifest: bytes):
    """Raises RunError unless tokenizer.model is the one that the manifest names, if it does, of --vocab_size ids."""
    digest = hashlib.sha256(tokenizer).hexdigest()
    try:
        named = json.loads(manifest).get("tokenizer", {})
        ids, found = named.get("vocab_size", config.vocab_size), named.get("sha256", digest)
    except (AttributeError, RecursionError, ValueError):
        why = f"{config.data_dir}/manifest.json does not say which tokenizer it is made with"
        raise RunError(f"{why}: build the data again with golf data") from None
    if ids != config.vocab_size:
        why = f"{config.data_dir} has a tokenizer of {ids!r:.20} ids, and logits must be as many"
        raise RunError(f"--vocab_size={config.vocab_size}: {why}: set --vocab_size={ids!r:.20}")
    if found != digest:
        raise RunError(
            f"tokenizer.model in {config.data_dir} is not its manifest's: build the data again with golf data"
        )


def find_shards(data_dir: str, split: str) -> list[Path]:
    """A split's shards in order. Raises RunError, with the command that makes them."""
    paths = sorted(Path(data_dir).glob(f"{split}_*.bin"))
    if not paths:
        name, _, variant = Path(data_dir).name.partition("_")
        recipe = f"{name} --variant {variant or 'sp1024'}"
        raise RunError(f"no {split} shards in {data_dir}: run `golf data {recipe}` or give --data_dir")
    return paths


def read_share(shards: list[np.ndarray], rank: int, world: int) -> np.ndarray:
    """This rank's part of the shards: equal parts, each border moved on to the next document."""
    firsts = np.cumsum([0] + [len(shard) for shard in shards])
    total = firsts[-1]

    def border(r: int) -> int:
        """Where rank r's part begins, and that of the rank before it ends."""
        position = total * r // world
        if r in (0, world):
            return position
        for shard, first in zip(shards, firsts):
            if position < first + len(shard):
                documents = np.flatnonzero(shard[max(0, position - first) :] == BOS)
                if len(documents):
                    return int(max(position, first) + documents[0])
        return total

    low, high = border(rank), border(rank + 1)
    return np.concatenate([s[max(0, low - first) : max(0, high - first)] for s, first in zip(shards, firsts)])


def row_starts(tokens: np.ndarray, length: int) -> np.ndarray:
    """Starts of training rows of length + 1 tokens: the next row starts at the first document that begins in the last
    quarter of this one, else where this one ends. So rows start at documents where that costs little re-reading."""
    documents = np.flatnonzero(tokens == BOS).tolist() + [len(tokens) + length]
    starts, position, i = [], 0, 0
    while position + length < len(tokens):
        starts.append(position)
        end = position + length
        while documents[i] < end - length // 4:
            i += 1
        position = min(documents[i], end)
    return np.array(starts, dtype=np.int64)


def cut_rows(data: Tensor, starts: Tensor, order: Tensor, cursor: Tensor, rows: int, length: int) -> tuple:
    """Inputs and targets one token later, int32 [rows, length], without leaving the device."""
    first = starts[order[cursor + torch.arange(rows, device=data.device)]]
    window = data[first[:, None] + torch.arange(length + 1, device=data.device)]
    window = window.int() & 0xFFFF  # tokens are unsigned; PyTorch's 16-bit integers are not
    return window[:, :-1], window[:, 1:]


class Loader:
    """Endless batches from this rank's tokens, which stay on the device as 16-bit integers; order fixed by the seed.

    `rows` and `piece`, the length in which rows are handed out, may change between batches. `state` is enough to go on
    exactly where a checkpoint stopped (same data, seed and world size).
    """

    def __init__(self, tokens: np.ndarray, rows: int, config: Config, rank: int, device: torch.device):
        starts = row_starts(tokens, config.seq_len)
        if len(starts) < rows:
            why = f"rank {rank} has {len(starts)} rows of {config.data_dir}, a micro-batch has {rows}"
            raise RunError(f"{why}: use more data or lower --micro_batch_tokens")
        self.rows = rows
        self.length = self.piece = config.seq_len
        self.seed = config.seed * 1_000_003 + rank
        self.data = torch.from_numpy(tokens.astype(np.uint16, copy=True).view(np.int16)).to(device)
        self.starts = torch.from_numpy(starts).to(device)
        self.cut = torch.compile(cut_rows, dynamic=False) if config.compile else cut_rows
        self.load({"epoch": 0, "cursor": 0})

    def load(self, state: dict):
        """Goes to a state: each epoch has an order of its own."""
        self.state = dict(state)
        generator = torch.Generator().manual_seed(self.seed + 7919 * state["epoch"])
        self.order = torch.randperm(len(self.starts), generator=generator).to(self.data.device)
        # The cursor is counted on the device too, so that a step reads no host memory
        self.position = torch.tensor(state["cursor"], device=self.data.device)

    def next(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the next `rows` rows, cut into pieces [rows * length / piece, piece]."""
        if self.state["cursor"] + self.rows > len(self.starts):
            self.load({"epoch": self.state["epoch"] + 1, "cursor": 0})
        x, y = self.cut(self.data, self.starts, self.order, self.position, self.rows, self.length)
        self.state["cursor"] += self.rows
        self.position += self.rows
        return x.reshape(-1, self.piece), y.reshape(-1, self.piece)

    def warm_up(self):
        """Compiles the gather on blank tokens: nothing reads training data outside the clock."""
        blank = torch.zeros_like(self.data)
        self.cut(blank, self.starts, self.order, self.position, self.rows, self.length)


class DevSet:
    """The first `dev_tokens` of the dev split, for the estimates in the log: rows start anywhere, and bytes are the
    split's mean per token from the manifest."""

    def __init__(self, config: Config, machine: "Machine"):
        shards = [open_shard(path, config.vocab_size) for path in find_shards(config.data_dir, "dev")]
        count = config.dev_tokens + 1
        tokens = np.concatenate([shard[:count] for shard in shards])[:count]
        tokens = torch.from_numpy(tokens.astype(np.int32)).to(machine.device)
        self.machine = machine
        self.rows = config.micro_batch_tokens // config.seq_len
        batches = (len(tokens) - 1) // (config.seq_len * self.rows)
        if batches < machine.world:
            why = f"{config.data_dir} gives {len(tokens)} dev tokens, too few for a micro-batch on each rank"
            raise RunError(f"{why}: lower --micro_batch_tokens or raise --dev_tokens")
        size = batches // machine.world * machine.world * self.rows * config.seq_len
        self.x = tokens[:size].view(-1, config.seq_len)
        self.y = tokens[1 : size + 1].view(-1, config.seq_len)
        try:
            manifest = json.loads(read_data_file(config.data_dir, "manifest.json"))
            split = manifest["splits"]["dev"]
            self.bytes_per_token = split["raw_bytes"] / split["tokens"]
            good = 0 < self.bytes_per_token < math.inf
        except (ArithmeticError, KeyError, RecursionError, TypeError, ValueError):
            good = False
        if not good:
            why = f"{config.data_dir}/manifest.json does not say how many bytes the dev split has"
            raise RunError(f"{why}: build the data again with golf data")

    @torch.no_grad()
    def bpb(self, loss_fn) -> float:
        """Bits per byte, as estimated on all ranks together."""
        first = self.machine.rank * self.rows
        losses = []
        for i in range(first, len(self.x), self.rows * self.machine.world):
            losses.append(loss_fn(self.x[i : i + self.rows], self.y[i : i + self.rows]))
        return self.machine.mean(torch.stack(losses).mean()) / math.log(2) / self.bytes_per_token


# ---- Clock, and the machine that it runs on ------------------------------------------------------
def seconds(work) -> float:
    """Wall time of work(), with what it started on a GPU."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def keep_freed_memory():
    """glibc gives large freed blocks back to the kernel: each step would fault their pages in."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def is_out_of_memory(error: Exception) -> bool:
    """Whether a GPU or the host had no memory left; torch, its compiler, cuBLAS and Triton each say it in their way."""
    cause = getattr(error, "inner_exception", error)
    words = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(cause, torch.OutOfMemoryError) or any(word in str(cause) for word in words)


def check_cache() -> str:
    """Chooses another folder for what torch compiles if nothing can be written to the one that the environment names:
    importing the compiler fails then. Returns what to say of it."""
    name = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    try:
        if name:
            os.makedirs(name, exist_ok=True)
            tempfile.TemporaryFile(dir=name).close()
        return ""
    except OSError as error:
        other = tempfile.mkdtemp(prefix="torchinductor_")
        atexit.register(shutil.rmtree, other, ignore_errors=True)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = other
        return f"cannot write TORCHINDUCTOR_CACHE_DIR {name} ({error.strerror}): what is compiled is not kept"


def available_cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def has_compiler() -> bool:
    """Whether torch.compile finds what it needs on a CPU."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def check_devices(argv: list[str], environment: dict[str, str]):
    """Raises RunError where a run would be another than it looks: CUDA does not start on a machine with a GPU, more
    ranks than devices, several ranks without a GPU and a preset's name. Who has a torch for CPUs, or sets
    CUDA_VISIBLE_DEVICES to nothing, wants CPUs."""
    ranks = int(environment.get("LOCAL_WORLD_SIZE") or environment.get("WORLD_SIZE") or 1)
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        if ranks > count:
            why = f"{ranks} ranks here and {count} GPUs: give torchrun --nproc_per_node={count}"
            raise RunError(f"{why}, or name more in CUDA_VISIBLE_DEVICES")
        return
    hidden = environment.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    if torch.version.cuda and not hidden and has_nvidia_gpu():
        build = f"torch {torch.__version__} is built for CUDA {torch.version.cuda}"
        why = f"this machine has a GPU and CUDA does not start: {cuda_fault()} ({build})"
        raise RunError(f"{why}: update the driver, install a build for it, or set CUDA_VISIBLE_DEVICES= to use CPUs")
    if ranks > 1 and not any(argument.startswith("--preset=") for argument in argv):
        raise RunError(f"{ranks} ranks here and no GPU: name a preset to train on CPUs, as in --preset=pocket")
    cores = available_cores()
    if ranks > cores:
        raise RunError(f"{ranks} ranks here, {cores} CPU cores and no GPU: give torchrun --nproc_per_node={cores}")


def has_nvidia_gpu() -> bool:
    """Whether the machine has one, by the files of its driver; the second is that of Linux on Windows."""
    return bool(glob.glob("/dev/nvidia[0-9]*")) or os.path.exists("/usr/lib/wsl/lib/libcuda.so.1")


def cuda_fault() -> str:
    """What torch says when CUDA is to start and cannot: its first sentence."""
    try:
        torch.cuda.init()
    except Exception as error:
        return str(error).partition("\n")[0].partition(". ")[0]
    return "it finds no device"


class Machine:
    """What this process runs on: rank, device, compute type and the peak it is measured against."""

    def __init__(self):
        # The only environment that this script reads is what torchrun sets
        self.rank = int(os.environ.get("RANK", 0))
        self.world = int(os.environ.get("WORLD_SIZE", 1))
        self.on_gpu = torch.cuda.is_available()
        if self.on_gpu:
            self.use_gpu(int(os.environ.get("LOCAL_RANK", 0)))
        else:
            self.use_cpu(int(os.environ.get("LOCAL_WORLD_SIZE", self.world)))

    def use_gpu(self, local_rank: int):
        """One GPU for this rank, in bfloat16."""
        self.device = torch.device("cuda", local_rank)
        torch.cuda.set_device(self.device)
        self.name = torch.cuda.get_device_name(self.device)
        self.has_compiler = True
        dense_bf16 = {"H100": 989.5e12, "H200": 989.5e12, "B200": 2250e12, "A100": 312e12}
        known = [flops for key, flops in dense_bf16.items() if key in self.name]
        self.peak_flops = known[0] if known else None
        self.dtype = torch.bfloat16
        self.why = f"bfloat16 on {self.name}, data sheet's dense peak"

    def use_cpu(self, local_world: int):
        """This rank's share of the cores, in the type that is faster here."""
        self.device = torch.device("cpu")
        self.name = platform.processor() or platform.machine()
        self.has_compiler = has_compiler()
        cores = available_cores()
        torch.set_num_threads(max(1, cores // local_world))
        # A seed then gives the same weights, bit for bit, whatever else the machine does: gradients of gathered rows
        # would otherwise be summed in the order in which threads reach them
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # takes time, and nothing reads such memory
        keep_freed_memory()
        self.choose_cpu_dtype()

    def choose_cpu_dtype(self):
        """CPUs differ by 10x in bfloat16, so both types are timed (0.1 s)."""

        def rate(dtype: torch.dtype) -> float:
            a = torch.randn(1024, 512).to(dtype)
            b = torch.randn(512, 1024).to(dtype)
            a @ b
            return 2 * 1024 * 512 * 1024 / min(seconds(lambda: a @ b) for _ in range(20))

        rates = {dtype: rate(dtype) for dtype in (torch.float32, torch.bfloat16)}
        self.dtype = max(rates, key=rates.get)
        self.peak_flops = rates[self.dtype]
        float32, bfloat16 = (rate / 1e9 for rate in rates.values())
        self.why = f"measured matrix GFLOP/s: float32 {float32:.0f}, bfloat16 {bfloat16:.0f}"

    @contextlib.contextmanager
    def spare_memory(self):
        """Inside, a part of a GPU's memory is held: for what is not tried before, as optimisers and messages."""
        held = None
        if self.on_gpu:
            total = torch.cuda.get_device_properties(self.device).total_memory
            held = torch.empty(total // 20, dtype=torch.uint8, device=self.device)
        yield
        del held

    def largest(self, value: float | Tensor, operation=dist.ReduceOp.MAX) -> float:
        """The largest value of all ranks, or another reduction."""
        value = torch.as_tensor(value, dtype=torch.float64, device=self.device).detach()
        if self.world > 1:
            dist.all_reduce(value, op=operation)
        return float(value)

    def mean(self, value: Tensor) -> float:
        """The mean of a scalar over ranks."""
        return self.largest(value, dist.ReduceOp.SUM) / self.world

    def mfu(self, tokens_per_second: float, token_flops: float) -> float | None:
        """Model FLOP utilisation: the share of the matrix peak that the model's own FLOPs use."""
        if not self.peak_flops:
            return None
        return round(tokens_per_second * token_flops / self.world / self.peak_flops, 4)

    def describe(self, config: Config) -> dict:
        """What the log and run.json say of where a run was made."""
        return dict(
            python=platform.python_version(), torch=torch.__version__, platform=platform.platform(),
            device=self.name, threads=torch.get_num_threads(), world_size=self.world,
            compute=str(self.dtype).removeprefix("torch."), why=self.why,
            compiled=config.compile and self.has_compiler,
        )  # fmt: skip


SIGNALS = {signal.SIGINT: "sigint", signal.SIGTERM: "sigterm"}  # those that end training: what run.json calls them


class Clock:
    """Wall seconds by phase, and the guard that stops training before the cap on all ranks at the same step.

    `elapsed` counts training alone. After each step the ranks agree on the largest elapsed time, the largest of their
    last eight step times and on whether anybody was told to stop; the schedule reads the agreed time, so that ranks
    never differ. A GPU works behind the host, which launches a step before it waits for the one before: then `elapsed`
    ends with that one, and the guard leaves room for the step under way too.
    """

    def __init__(self, config: Config, world: int, device: torch.device):
        self.config, self.world = config, world
        self.on_gpu = device.type == "cuda"
        self.ledger: dict[str, float] = {}  # phase -> seconds
        self.reserve = 0.0  # seconds of the cap kept for calibration
        # This rank's own
        self.last = time.perf_counter()
        self.launched = None  # the event behind the last step on a GPU
        self.used = 0.0  # seconds of training
        self.steps: deque[float] = deque(maxlen=8)  # seconds of the last steps
        self.signalled = 0  # the number of the first signal that said stop
        # What the ranks agreed on
        self.elapsed = self.step_seconds = self.told_to_stop = 0.0

    @contextlib.contextmanager
    def phase(self, name: str):
        """Adds the seconds inside to the ledger."""
        start = time.perf_counter()
        yield
        self.ledger[name] = self.ledger.get(name, 0.0) + time.perf_counter() - start

    def obey_signals(self):
        """SIGTERM and the first Ctrl-C end training after the step at hand; the second aborts."""

        def stop(number, _):
            self.signalled = self.signalled or number
            signal.signal(signal.SIGINT, signal.default_int_handler)

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)

    def start(self):
        """From now on time counts; what came before was a pause."""
        self.last = time.perf_counter()

    def tick(self):
        """Call after each step, and again to wait for a GPU: adds its time, agreed with others."""
        if self.on_gpu:
            event = torch.cuda.current_stream().record_event()
            # How long the first step takes must be known before the second
            (self.launched or event).synchronize()
            self.launched = event
        now = time.perf_counter()
        self.used += now - self.last
        self.steps.append(now - self.last)
        self.last = now
        own = (self.used, max(self.steps), float(self.signalled))
        # Not on a GPU, which would have to finish its work first
        agreed = torch.tensor(own, dtype=torch.float64)
        if self.world > 1:
            dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
        self.elapsed, self.step_seconds, self.told_to_stop = agreed.tolist()

    @property
    def budget(self) -> float:
        """Seconds that training may take."""
        return self.config.max_seconds - self.reserve

    def fraction(self, progress: "Progress") -> float:
        """How much of the run is over, in [0, 1]: by time, steps or tokens, whichever is furthest."""
        config = self.config
        by_time = self.elapsed / self.budget if config.max_seconds > 0 else 0.0
        by_step = progress.step / config.max_steps if config.max_steps > 0 else 0.0
        by_tokens = progress.tokens / config.max_tokens if config.max_tokens > 0 else 0.0
        return min(1.0, max(by_time, by_step, by_tokens))

    def verdict(self, progress: "Progress", step_tokens: int) -> str:
        """Why to stop: one of SIGNALS, "clock" (a step would not end in time), "steps", "tokens" (a step of step_tokens
        would be too many); "" to go on."""
        if self.told_to_stop:
            return SIGNALS[int(self.told_to_stop)]
        # The next step may take 10% longer than any of the last ones; on a GPU another is under way
        end = self.elapsed + 1.1 * (1 + self.on_gpu) * self.step_seconds
        if self.config.max_seconds > 0 and end > self.budget:
            return "clock"
        if 0 < self.config.max_steps <= progress.step:
            return "steps"
        return "tokens" if 0 < self.config.max_tokens < progress.tokens + step_tokens else ""


# ---- Calibration: the second moments that quantisation needs, gathered inside the clock ----------

CALIBRATION_TOKENS = 8192  # in one forward, at most: it keeps everything in float32
CALIBRATION_SHARE = 0.2  # of the clock, at most


class SecondMoments(torch.overrides.TorchFunctionMode):
    """Watches F.linear and F.embedding on named parameters and sums second moments of inputs and output gradients. Any
    model will do whose matrices reach these two functions as parameters (run it without autocast); what reaches neither
    has no statistics, and packing says so. Linear maps that read the same tensor share a tap, so its matrix is kept
    once."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.names = {id(p): name for name, p in model.named_parameters()}
        self.device = next(model.parameters()).device
        self.tokens = 0
        self.taps = {}  # tap -> sum of x x^T
        self.linear = {}  # parameter -> its tap, and sums of squared output gradients
        self.embedding = {}  # parameter -> sums of g g^T, and of |g|^2 by row
        # In one forward, address and shape of an input -> its tap. Inputs live on, or addresses recur
        self.seen: dict[tuple, str] = {}
        self.alive: list[Tensor] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func in (F.linear, F.embedding):
            name = self.names.get(id(args[1]))
            if name and func is F.linear:
                self.watch_linear(name, args[0].detach(), out)
            elif name:
                self.watch_embedding(name, args[0], args[1], out)
        return out

    def add(self, store: dict, key: str, value: Tensor):
        store[key] = store[key] + value if key in store else value

    def watch_linear(self, name: str, x: Tensor, out: Tensor):
        own = name.removesuffix(".weight")
        tap = self.seen.setdefault((x.data_ptr(), x.shape), own)
        entry = self.linear.setdefault(name, {"tap": tap})
        if tap == own:
            flat = x.flatten(0, -2)
            self.alive.append(x)
            self.add(self.taps, tap, flat.T @ flat)
        out.register_hook(lambda g: self.add(entry, "output_gradient", g.flatten(0, -2).square().sum(0)))

    def watch_embedding(self, name: str, ids: Tensor, weight: Tensor, out: Tensor):
        entry = self.embedding.setdefault(name, {})

        def hook(gradient: Tensor):
            g = gradient.flatten(0, -2)
            self.add(entry, "gradient_second_moment", g.T @ g)
            by_row = g.new_zeros(len(weight)).index_add_(0, ids.flatten(), g.square().sum(1))
            self.add(entry, "row_gradient", by_row)

        out.register_hook(hook)

    def batch(self, model: nn.Module, tokens: Tensor, generator: torch.Generator):
        """Adds a batch [B, T], with labels that the model draws (K-FAC; Martens & Grosse 2015)."""
        with torch.enable_grad(), self:
            logits = model(tokens)
            with torch._C.DisableTorchFunction():
                flat = logits.flatten(0, -2)
                labels = torch.multinomial(flat.detach().softmax(-1), 1, generator=generator)
                (flat.logsumexp(-1) - flat.gather(-1, labels)[:, 0]).sum().backward()
        model.zero_grad(set_to_none=True)
        self.tokens += tokens.numel()
        self.seen.clear()
        self.alive.clear()

    def missing(self, model: nn.Module) -> list[str]:
        """The matrices of the model for which no batch gave second moments."""
        found = {name for name, entry in self.linear.items() if len(entry) > 1}
        found |= {name for name, entry in self.embedding.items() if entry}
        return [name for name, p in model.named_parameters() if is_matrix(p) and name not in found]

    def result(self, world: int) -> dict:
        """Means over the tokens of all ranks, in the layout of statistics.pt."""
        # A map whose output the loss ignores was seen, but got no gradient: it has no statistics
        self.linear = {name: entry for name, entry in self.linear.items() if len(entry) > 1}
        self.embedding = {name: entry for name, entry in self.embedding.items() if entry}
        stores = (self.taps, *self.linear.values(), *self.embedding.values())
        sums = [(store, key) for store in stores for key in store if key != "tap"]
        tokens = torch.tensor(float(self.tokens), device=self.device)
        if world > 1:
            for store, key in sums:
                dist.all_reduce(store[key])
            dist.all_reduce(tokens)
        for store, key in sums:
            store[key] = (store[key] / tokens).cpu()
        return dict(format=1, tokens=int(tokens), linear=self.linear, taps=self.taps, embedding=self.embedding)


def calibrate(model: nn.Module, next_tokens, limit: float, config: Config, machine: Machine) -> dict:
    """Second moments over `calibration_tokens` tokens, or as many as `limit` seconds allow, should the machine have
    become slower; next_tokens() gives a batch [B, T]."""
    moments = SecondMoments(model)
    generator = torch.Generator(machine.device).manual_seed(config.seed + machine.rank)
    start = time.perf_counter()
    spent, last = 0.0, 0.0
    while moments.tokens * machine.world < config.calibration_tokens:
        if last and spent + 1.5 * last >= limit:
            break
        moments.batch(model, next_tokens(), generator)
        last = time.perf_counter() - start - spent
        spent = time.perf_counter() - start
    return moments.result(machine.world)


# ---- Run: what it needs of the machine ----------------------------------------------------------
SMALLER_MODEL = "lower --num_layers, --model_dim, --mlp_mult"


def check_model(config: Config, machine: Machine):
    """Raises RunError for a model that could not be trained or saved, or that this machine's memory cannot hold: what
    is sure is counted, and it may still need more. Nothing has been written by then."""
    try:
        with torch.device("meta"):  # takes no memory
            model = build_model(config)
    except (RuntimeError, NotImplementedError):
        return  # it reads values while it is made
    check_saved(model)
    declarations(model)
    params = sum(p.numel() for p in model.parameters())
    if machine.on_gpu:
        memory = torch.cuda.get_device_properties(machine.device).total_memory
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # On a GPU the rows of a forward are halved until it fits; a host ends processes that take too much
    rows = 1 if machine.on_gpu else max(stage.rows for stage in stages(config, machine.world))
    # In float32 weights, gradients, averages, and warming up's copy of the first and the last; in bfloat16 logits
    need = 20 * params + 2 * rows * config.seq_len * config.vocab_size
    if need > memory:
        why = SMALLER_MODEL if machine.on_gpu else f"{SMALLER_MODEL} or --micro_batch_tokens"
        raise RunError(f"a step takes more than {need / 1e9:.0f} GB of memory, of {memory / 1e9:.0f} here: {why}")


def check_space(folder: Path, model: nn.Module, optimizers: Optimizers, resumable_ranks: int):
    """Raises RunError unless the disk of the run's folder has room for its checkpoint, its statistics, and the old and
    the new state to go on from of so many ranks."""
    state = [*optimizers.params, *optimizers.ema, *optimizers.muon.momentum, *(2 * optimizers.adam_params)]
    need = sum(p.nbytes for p in model.parameters())
    need += sum(4 * p.size(-1) ** 2 for p in model.parameters() if is_matrix(p))
    need += 2 * resumable_ranks * sum(p.nbytes for p in state)
    free = shutil.disk_usage(folder).free
    if free < need:
        why = "free some space or give --run_dir another place"
        raise RunError(f"{folder}: the run's files take {need / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free: {why}")


# ---- Run: its files ------------------------------------------------------------------------------
def cannot_write(path: Path, error: OSError) -> RunError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = "free some space or give --run_dir another place" if full else "give --run_dir another place"
    return RunError(f"cannot write {path}: {error.strerror or error}; {advice}")


def cannot_read(path: Path, error: OSError) -> RunError:
    return RunError(f"cannot read {path}: {error.strerror or error}; mend that or give --data_dir another place")


def write_whole(path: Path, data: bytes):
    """Writes a file completely or not at all. Raises RunError when the disk refuses."""
    temporary = path.with_name(path.name + ".part")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # it must outlast the power, as the state before it is then removed
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise cannot_write(path, error) from None


def save_tensors(path: Path, content: dict):
    """torch.save in memory first: its own file writer can abort the process on a full disk."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_whole(path, buffer.getvalue())


def read_data_file(data_dir: str, name: str) -> bytes:
    """A file that lies beside the shards. Raises RunError if it does not."""
    path = Path(data_dir) / name
    if not path.exists():
        raise RunError(f"no {name} in {data_dir}: build the data again with golf data")
    try:
        return path.read_bytes()
    except OSError as error:
        raise cannot_read(path, error) from None


def say(line: str, stream: TextIO | None):
    """Prints a line, and goes on if nobody reads it any more: a run does not need its console."""
    try:
        print(line, file=stream, flush=True)
    except OSError:
        # Python would try again at its end, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Log:
    """train.log and metrics.jsonl of rank 0, echoed to the console; other ranks write nothing."""

    def __init__(self, folder: Path | None):
        self.folder = folder

    def append(self, name: str, text: str):
        if self.folder:
            try:
                with open(self.folder / name, "a", encoding="utf-8", errors="backslashreplace") as file:
                    file.write(text)
            except OSError as error:
                raise cannot_write(self.folder / name, error) from None

    def __call__(self, line: str):
        if self.folder:
            say(line, sys.stdout)
            self.append("train.log", line + "\n")

    def metrics(self, row: dict):
        self.append("metrics.jsonl", json.dumps(row) + "\n")


def new_folder(config: Config) -> Path:
    """Makes a folder for a run that was given none: named by time and seed, with a number if another run has the name.
    Raises OSError."""
    name = f"{config.preset}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-s{config.seed}"
    number = 1
    while True:
        folder = Path("runs", name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1


def open_folder(config: Config, world: int) -> tuple[Path, str, TextIO]:
    """For rank 0: the run's folder; the newest step that all ranks saved, or ""; the log, which is locked while it is
    open: no other run trains into the folder meanwhile."""
    try:
        folder = Path(config.run_dir) if config.run_dir else new_folder(config)
        folder.mkdir(parents=True, exist_ok=True)
        log = open(folder / "train.log", "a", encoding="utf-8")
    except OSError as error:
        raise cannot_write(Path(config.run_dir or "runs"), error) from None
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        why = "another run is training into it: wait for its end or give --run_dir another name"
        raise RunError(f"{folder}: {why}") from None
    except OSError:
        pass  # a file system without locks
    if (folder / "run.json").exists():
        raise RunError(f"{folder} already holds a finished run: remove it or give --run_dir another name")
    saved = []  # the steps that each rank has
    for r in range(world):
        steps = {path.name.split("_")[1] for path in folder.glob(f"resume_*_{r}of{world}.pt")}
        saved.append({step for step in steps if step.isdecimal()})
    newest = max(set.intersection(*saved), key=int, default="")
    if not newest:
        if list(folder.glob("resume_*.pt")):
            raise RunError(f"{folder} holds the state of another number of ranks: start as many, or remove it")
        try:
            # What a run that was cut off left
            log.truncate(0)
            for name in ("metrics.jsonl", "checkpoint.pt", "statistics.pt"):
                (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(folder, error) from None
    return folder, newest, log


def cut_back(path: Path, step: int):
    """Leaves the whole rows up to `step`: the run writes the others again, and a row that was cut off in the middle
    would be one with the next."""
    if path.exists():
        rows = [row for row in path.read_bytes().splitlines(keepends=True) if row.endswith(b"\n")]
        try:
            rows = [row for row in rows if json.loads(row)["step"] <= step]
        except (KeyError, RecursionError, TypeError, ValueError):
            raise RunError(f"{path} has a row that is none: remove it or give --run_dir another name") from None
        write_whole(path, b"".join(rows))


def read_state(path: Path, identity: dict, device: torch.device) -> dict:
    """What save_state() wrote; a tensor that claims more than the file holds is not made. Raises RunError if it cannot
    be read, or is another run's."""
    try:
        saved = torch.load(path, map_location=device, weights_only=True, mmap=True)
        found = saved["identity"]
        other = [key for key, value in identity.items() if not (like(found.get(key), value) and found[key] == value)]
    except Exception:  # torch raises many kinds
        raise RunError(f"{path} cannot be read: {START_OVER}") from None
    if other:
        raise RunError(f"{path} has another {', '.join(other)}: {START_OVER}")
    return saved


def like(value, own) -> bool:
    """Whether a value that was saved can take the place of one's own: its types, keys and shapes."""
    if isinstance(own, Tensor):
        alike = isinstance(value, Tensor) and value.layout == own.layout and not value.is_meta
        return alike and value.shape == own.shape and value.dtype == own.dtype
    if isinstance(own, dict):
        return isinstance(value, dict) and value.keys() == own.keys() and all(like(value[key], own[key]) for key in own)
    if isinstance(own, list | tuple):
        return type(value) is type(own) and len(value) == len(own) and all(map(like, value, own))
    return type(value) is type(own)


# Milliseconds on an H100 of a TFLOP in matrices, of one in attention (torch's own; FlashAttention), of a TB that
# elementwise kernels move, and of a step beside these: golf plan's fit to public logs
H100_MS = dict(matrices=1.263, own=4.297, flash=2.121, elementwise=752.3, step=4.07)
# How many times as fast other GPUs are: two public logs of H200s; for a B200 the ratio of the data sheets' FLOP/s
SPEED_TO_H100 = {"H100": 1.0, "H200": 1.07, "B200": 2.27}


def expected_seconds(gpu: str, attention: str, model: GPT, config: Config, stage: Stage, world: int) -> float | None:
    """What golf plan expects of a step, where it knows the GPU; tools/plan/step_time.py has the reasons."""
    speeds = [speed for key, speed in SPEED_TO_H100.items() if key in gpu]
    if not speeds:
        return None
    tera_tokens = stage.tokens / world / 1e12
    layers, width = len(model.order()), config.model_dim
    attended = stage.length * (0.63 if config.document_mask else 1.0)
    kernel = "flash" if attention.startswith("FA") else "own"
    moved = 2 * layers * width * (42 + 5 * config.mlp_mult) + 8 * config.vocab_size  # bytes of a token
    work = H100_MS["matrices"] * 6 * multiplied_weights(model)
    work += H100_MS[kernel] * 6 * layers * attended * width
    work += H100_MS["elementwise"] * moved
    return (work * tera_tokens + H100_MS["step"]) / speeds[0] / 1e3


def speed_lines(gpu: str, attention: str, seconds: float, expected: float | None, flops: float) -> list[str]:
    """What to say before the clock starts of a step's time, against what was expected; flops: of a step on each GPU."""
    loss = "Triton" if triton else "torch"
    line = f"{gpu}, {attention}, loss by {loss}: a step of the last stage takes {seconds * 1e3:.1f} ms"
    if not expected:
        return [line]
    lines = [line + f", expected {expected * 1e3:.1f} ms at {flops / expected / 1e12:.0f} TFLOP/s per GPU"]
    if seconds > 1.2 * expected:
        lines.append(f"WARNING: {seconds / expected - 1:.0%} slower than planned: try another machine")
    return lines


def progress_line(row: dict, left: float, config: Config) -> str:
    """A row of metrics.jsonl for the console, `left` seconds before the end."""
    limit = f"/{config.max_seconds:.0f}" if config.max_seconds > 0 else ""
    parts = [f"step {row['step']:6d}", f"{row['elapsed']:6.1f}{limit} s", f"eta {left:5.0f} s"]
    parts.append(f"loss {row['loss']:.4f}")
    parts.append(f"{row['tokens_per_second'] / 1e3:8.1f}k tok/s")
    if row["mfu"] is not None:
        parts.append(f"mfu {row['mfu']:6.1%}")
    if "dev_bpb" in row:
        parts.append(f"dev bpb ~{row['dev_bpb']:.4f}")
    return "  ".join(parts)


# ---- Run -----------------------------------------------------------------------------------------
DOCUMENT_BYTES = 3022  # of a document, on average: FineWeb's validation set has 50,000 in 151,078,222 bytes
DOCUMENT_SPREAD = 1.1  # standard deviation of the logarithms of documents' lengths, as golf plan has it
START_OVER = "remove it to train from the start, or give --run_dir another name"


@dataclass
class Progress:  # how far training has come
    step: int = 0
    tokens: int = 0  # over all ranks
    flops: int = 0  # of the model, over all ranks


class Run:
    """One rank's part of a run: made ready, then warm_up(), loop(), finish(). Raises RunError."""

    # ---- Prepare ---------------------------------------------------------------------------------

    def __init__(self, config: Config, source: str):
        start = time.perf_counter()
        self.config, self.source = config, source
        self.machine = Machine()
        # What is wrong with the data is found before ranks wait for each other
        shards = [open_shard(path, config.vocab_size) for path in find_shards(config.data_dir, "train")]
        self.dev = DevSet(config, self.machine)
        self.tokenizer = read_data_file(config.data_dir, "tokenizer.model")
        self.manifest = read_data_file(config.data_dir, "manifest.json")
        check_tokenizer(config, self.tokenizer, self.manifest)
        check_model(config, self.machine)
        if self.machine.world > 1:
            dist.init_process_group("cpu:gloo,cuda:nccl" if self.machine.on_gpu else "gloo")
        self.clock = Clock(config, self.machine.world, self.machine.device)
        self.open_files()
        self.build(shards)
        self.clock.ledger["setup"] = time.perf_counter() - start

    def open_files(self):
        """The folder, the head of its log, and the state to go on from if the run was cut off."""
        config, machine = self.config, self.machine
        self.folder, newest = self.agree_on_folder()
        resume = newest and self.folder / f"resume_{newest}_{machine.rank}of{machine.world}.pt"
        self.log = Log(self.folder if self.machine.rank == 0 else None)
        self.sha = hashlib.sha256(self.source.encode()).hexdigest()
        self.identity = asdict(config) | {"source_sha256": self.sha, "run_dir": ""}
        self.saved = None
        self.progress = Progress()
        if resume:
            if machine.rank == 0:
                cut_back(self.folder / "metrics.jsonl", int(newest))
            self.saved = read_state(resume, self.identity, self.machine.device)
            self.saved_at = resume
        else:
            self.log.append("train.log", f"{self.source}\n# source_sha256 {self.sha}\n")
        self.environment = self.machine.describe(config)
        self.log(f"config {json.dumps(asdict(config))}\nenvironment {json.dumps(self.environment)}")

    def agree_on_folder(self) -> tuple[Path, str]:
        """Rank 0 opens the folder and tells the others: its name, the step to go on from or "", and what is wrong."""
        folder, newest, wrong = "", "", ""
        if self.machine.rank == 0:
            try:
                path, newest, self.locked_log = open_folder(self.config, self.machine.world)
                folder = str(path)
            except RunError as error:
                wrong = str(error)
        if self.machine.world > 1:
            told = [folder, newest, wrong]
            dist.broadcast_object_list(told, device=torch.device("cpu"))
            folder, newest, wrong = told
        if wrong:
            raise RunError(wrong)
        return Path(folder), newest

    def build(self, shards: list[np.ndarray]):
        """Model, optimisers, loader, and the stages that they go through."""
        config, machine = self.config, self.machine
        torch.manual_seed(config.seed)
        self.model = build_model(config).to(machine.device)
        check_saved(self.model)
        self.params = sum(p.numel() for p in self.model.parameters())
        muon_dtype = machine.dtype if machine.on_gpu else torch.float32
        self.optimizers = Optimizers(self.model, config, muon_dtype, machine.world, machine.rank)
        self.resumable = config.max_seconds <= 0 < config.checkpoint_every
        check_space(self.folder, self.model, self.optimizers, machine.world * self.resumable)
        self.stages = stages(config, machine.world)
        self.attention = choose_attention(config, machine.device)
        share = read_share(shards, machine.rank, machine.world)
        if share.max(initial=0) >= config.vocab_size:
            why = f"token {share.max()} in the shards of {config.data_dir} is beyond --vocab_size={config.vocab_size}"
            raise RunError(f"{why}: {ONE_DATA_SET}")
        rows = max(stage.rows for stage in self.stages)
        self.loader = Loader(share, rows, config, machine.rank, machine.device)
        for stage in self.stages:
            self.enter(stage)
            step = f"{stage.tokens:,} tokens a step in rows of {stage.length}"
            work = f"{machine.world} ranks x {stage.accumulate} forwards"
            self.log(f"until {stage.until:.0%}: {step}, {work}, {self.token_flops / 1e6:.2f} MFLOP per token")
        self.log(f"{self.params:,} parameters, {len(self.loader.data):,} training tokens on rank 0")
        self.compiled_loss = self.model.loss
        if config.compile:
            # Each stage compiles the loss anew, estimates do once more; torch's own limit is 8 in all
            if hasattr(torch._dynamo.config, "recompile_limit"):
                torch._dynamo.config.recompile_limit = max(64, 4 * len(self.stages))
            self.compiled_loss = torch.compile(self.model.loss, dynamic=False, fullgraph=True)

    # ---- One step --------------------------------------------------------------------------------

    def enter(self, stage: Stage):
        """From here on model and loader work as the stage says."""
        self.stage = stage
        self.model.loops = stage.loops
        self.loader.rows, self.loader.piece = stage.rows, stage.length
        self.token_flops = flops_per_token(self.model, replace(self.config, seq_len=stage.length))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The model's loss in the machine's compute type."""
        half = self.machine.dtype == torch.bfloat16
        with torch.autocast(self.machine.device.type, dtype=torch.bfloat16, enabled=half):
            return self.compiled_loss(x, y)

    def step(self, rates: Rates, next_batch) -> Tensor:
        """One step of the optimisers; returns this rank's mean loss, still on the device."""
        total = torch.zeros((), device=self.machine.device)
        for _ in range(self.stage.accumulate):
            loss = self.loss(*next_batch()) / self.stage.accumulate
            loss.backward()
            total += loss.detach()
        self.optimizers.step(rates)
        return total

    def estimate(self) -> float:
        """Bits per byte of the averaged weights on the dev split."""
        with self.optimizers.averaged():
            return round(self.dev.bpb(self.loss), 5)

    # ---- Warm up: all that is compiled or timed before the clock starts, on synthetic tokens -----

    def synthetic(self) -> tuple[Tensor, Tensor]:
        """Random tokens in documents of FineWeb's lengths, since attention takes as long as these make it; strided like
        the loader's: another layout would compile again."""
        config, device = self.config, self.machine.device
        shape = (self.loader.rows, config.seq_len + 1)
        window = torch.randint(0, config.vocab_size, shape, dtype=torch.int32, device=device)
        window[window == BOS] = 0
        mean = DOCUMENT_BYTES / self.dev.bytes_per_token
        lengths = torch.empty(2 * math.ceil(window.numel() / mean) + 8, device=device)
        lengths.log_normal_(math.log(mean) - DOCUMENT_SPREAD**2 / 2, DOCUMENT_SPREAD)
        starts = lengths.cumsum(0).long().clamp(max=window.numel() - 1)
        window.view(-1)[starts] = min(BOS, config.vocab_size - 1)
        return tuple(part.reshape(-1, self.loader.piece) for part in (window[:, :-1], window[:, 1:]))

    def idle_step(self):
        """A step that moves no weight: its learning rate is 0."""
        self.step(replace(rates(self.config, 0, 0.0), learning_rate=0.0), self.synthetic)

    def compile(self):
        """Compiles whatever a schedule will switch to. Where that does not work, a CPU trains without."""
        if self.machine.has_compiler:
            self.log("compiling: 20-60 s on a CPU the first time, not timed ...")
        wrong = self.fit(self.try_compiler)
        # Ranks that differ would wait for each other
        if not self.machine.largest(float(bool(wrong))):
            return
        wrong = f"torch.compile does not work: {wrong or 'on another rank'}"
        if self.machine.on_gpu:
            raise RunError(f"{wrong}: mend that, or give --compile=false, which is much slower")
        cost = f": fewer steps in {self.config.max_seconds:g} s, and a worse model" * (self.config.max_seconds > 0)
        self.log(f"{wrong}; training without it, which is slower{cost}")
        self.config = replace(self.config, compile=False)
        self.environment["compiled"] = False
        self.compiled_loss, self.loader.cut = self.model.loss, cut_rows
        self.attention = choose_attention(self.config, self.machine.device)

    def try_compiler(self) -> str:
        """try_stages(), compiled; returns what is wrong with the compiler or its cache."""
        if not self.machine.has_compiler:
            return "no C++ compiler (g++ or clang++)"
        try:
            self.try_stages()
        except (torch._dynamo.exc.BackendCompilerFailed, OSError) as error:
            if is_out_of_memory(error):
                raise
            cause = getattr(error, "inner_exception", error)
            return f"{type(cause).__name__}: {cause}".splitlines()[0][:200]
        return ""

    def try_stages(self):
        """The forwards and backwards of all stages, and the forward on dev, of this rank alone."""
        try:
            for stage in reversed(self.stages):  # the last has the most passes, and so takes the most memory
                self.enter(stage)
                self.loader.warm_up()
                for _ in range(min(2, stage.accumulate)):  # gradients of the first lie beside the second
                    self.loss(*self.synthetic()).backward()
                with torch.no_grad():
                    self.loss(self.dev.x[: self.dev.rows], self.dev.y[: self.dev.rows])
        finally:
            self.model.zero_grad(set_to_none=True)

    def fit(self, trial) -> str | None:
        """What trial() gives, in forwards of half as many rows until the memory of every rank holds them. It waits for
        no other rank: one without memory would keep the others waiting. Raises RunError if no memory holds one row."""
        self.machine.largest(0.0)  # what ranks need to talk is in memory from now on
        while True:
            outcome = None
            short = 0.0
            try:
                with self.machine.spare_memory():
                    outcome = trial()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                short = 1.0
            if self.machine.on_gpu:
                torch.cuda.empty_cache()  # others than torch may have it now
            if not self.machine.largest(short):
                return outcome
            self.halve_forwards()

    def halve_forwards(self):
        """From here on a forward has half as many rows, and a step more forwards: as many tokens as before."""
        rows = max(stage.rows for stage in self.stages)
        if rows == 1:
            what = f"not even one row of {self.config.seq_len:,} tokens fits in the memory of {self.machine.name}"
            raise RunError(f"{what}: {SMALLER_MODEL} or --seq_len")
        self.stages = [stage.within(rows // 2) for stage in self.stages]
        self.dev.rows = largest_divisor(self.dev.rows, rows // 2)
        if self.config.compile:
            torch._dynamo.reset()  # graphs of the rows before would count against its limit
        less = f"{self.forward_tokens:,} tokens in a forward instead of {rows * self.config.seq_len:,}"
        work = f"{self.stages[-1].accumulate} forwards in a step of {self.stages[-1].tokens:,} tokens, as before"
        self.log(f"short of memory: {less}, {work}")

    @property
    def forward_tokens(self) -> int:
        """The most tokens that a forward has on this rank: --micro_batch_tokens, or less where memory is short."""
        return max(stage.rows for stage in self.stages) * self.config.seq_len

    def warm_up(self):
        """Compiles what a run needs, times it, and undoes what that changed."""
        with self.clock.phase("compile"):
            initial = self.optimizers.state()
            if self.config.compile:
                self.compile()
            if not self.config.compile:
                self.fit(self.try_stages)
            for stage in self.stages:
                self.enter(stage)
                self.loader.warm_up()
                self.idle_step()
                self.estimate()
        with self.clock.phase("warmup"):
            self.time_steps()
            self.time_calibration()
            self.check_state()
            self.optimizers.load(initial)
            self.enter(self.stages[0])
        if self.config.max_seconds > 0 and self.clock.budget <= 0:
            why = f"leaves nothing to train: calibration takes {self.clock.reserve:.1f} s"
            raise RunError(f"--max_seconds={self.config.max_seconds:g} {why}: lower --calibration_tokens")
        spent = ", ".join(f"{name} {self.clock.ledger[name]:.1f} s" for name in ("setup", "compile", "warmup"))
        kept = f"; {self.clock.reserve:.1f} s of the clock are kept for calibration"
        self.log(spent + kept if self.config.max_seconds > 0 else spent)

    def check_state(self):
        """Raises RunError unless this run can go on from the saved state, if there is one. Only after a step do the
        optimisers have all of theirs to compare with."""
        if not self.saved:
            return
        saved, step = self.saved, int(self.saved_at.name.split("_")[1])
        own = self.state() | {"used": 0.0}
        good = like(saved, own) and saved["progress"]["step"] == step and 0 <= saved["used"] < math.inf
        good = good and 0 <= saved["loader"]["epoch"] < 1 << 40  # of which Torch makes a seed
        good = good and 0 <= saved["loader"]["cursor"] <= len(self.loader.starts)
        if not good or min(saved["progress"].values()) < 0:
            raise RunError(f"{self.saved_at} is not the state of this run: {START_OVER}")

    def time_steps(self):
        """Says how long a step of the last stage takes: on a GPU, the median of those of 2 s."""
        machine = self.machine
        timed = [seconds(self.idle_step)]
        repeat = min(100, int(machine.largest(2 / timed[0]))) if machine.on_gpu else 0
        timed += [seconds(self.idle_step) for _ in range(repeat)]
        median = machine.largest(sorted(timed)[len(timed) // 2])
        flops = 6 * multiplied_weights(self.model) * self.stage.tokens / machine.world
        expected = expected_seconds(machine.name, self.attention, self.model, self.config, self.stage, machine.world)
        for line in speed_lines(machine.name, self.attention, median, expected, flops):
            self.log(line)

    def time_calibration(self):
        """Keeps as much of the clock as calibration will take, by the time of its second batch, but no more than a
        fifth or one batch. On a slow machine calibration then has fewer tokens."""
        config = self.config
        self.calibration_rows = min(self.stage.rows, max(1, CALIBRATION_TOKENS // config.seq_len))
        self.loader.rows, self.loader.piece = self.calibration_rows, config.seq_len
        moments = SecondMoments(self.model)
        generator = torch.Generator(self.machine.device)
        for _ in range(2):
            taken = seconds(lambda: moments.batch(self.model, self.synthetic()[0], generator))
        for name in moments.missing(self.model):
            what = "reaches neither F.linear nor F.embedding as a parameter, or the loss does not use it"
            self.log(f"WARNING: {name} {what}: packing will not know how much it matters")
        tokens = self.calibration_rows * config.seq_len * self.machine.world
        batches = math.ceil(config.calibration_tokens / tokens)
        most = max(CALIBRATION_SHARE * config.max_seconds, 1.5 * taken) if config.max_seconds > 0 else math.inf
        self.clock.reserve = self.machine.largest(min(1.3 * taken * batches + 0.3, most))

    # ---- The loop: from here on the clock runs; estimates on dev, no training data, pause it -------

    def loop(self):
        """Trains until the clock, the count of steps or a signal says stop."""
        config, clock = self.config, self.clock
        self.prepare_loop()
        progress = self.progress
        clock.obey_signals()  # before, there is nothing to save
        clock.start()
        while not self.stopped:
            fraction = clock.fraction(progress)
            if fraction >= self.stage.until:  # the last stage has no end
                later = [stage for stage in self.stages if fraction < stage.until]
                self.enter(later[0] if later else self.stages[-1])
            now = rates(config, progress.step, fraction)
            loss = self.step(now, self.loader.next)
            progress.step += 1
            progress.tokens += self.stage.tokens
            progress.flops += self.stage.tokens * self.token_flops
            clock.tick()
            self.stopped = clock.verdict(progress, self.next_tokens())
            want_dev = bool(self.dev_at) and clock.fraction(progress) >= self.dev_at[0]
            if self.machine.on_gpu and (self.stopped or want_dev):
                clock.tick()  # no pause before the step under way has been counted
            if self.resumable and self.stopped not in ("steps", "tokens"):
                if self.stopped or progress.step % config.checkpoint_every == 0:
                    self.save_state()
            if self.stopped or want_dev or clock.elapsed >= self.next_log:
                self.report(loss, now, want_dev)
        clock.ledger["train"] = clock.elapsed

    def next_tokens(self) -> int:
        """The most tokens that the next step may have: of this stage, or of one that it may enter."""
        return max(stage.tokens for stage in self.stages if stage.until >= self.stage.until)

    def prepare_loop(self):
        """What the loop counts; from the saved state on, if there is one."""
        config = self.config
        self.stopped = ""  # once the loop is over, why
        if self.saved:
            self.optimizers.load(self.saved["optimizers"])
            self.loader.load(self.saved["loader"])
            self.progress = Progress(**self.saved["progress"])
            self.clock.used = self.saved["used"]
            self.log(f"going on from step {self.progress.step}")
        # The estimate at the end of the run is not among these
        at = [(i + 1) / config.dev_evals for i in range(config.dev_evals - 1)]
        over = self.clock.fraction(self.progress)
        self.dev_at = deque(fraction for fraction in at if not self.saved or fraction > over)
        self.next_log = 0.0
        self.logged_tokens, self.logged_time = self.progress.tokens, self.clock.used

    def state(self) -> dict:
        """All that a run needs to go on exactly from here."""
        return dict(
            identity=self.identity, optimizers=self.optimizers.state(), loader=self.loader.state,
            progress=asdict(self.progress), used=self.clock.used,
        )  # fmt: skip

    def save_state(self):
        """Writes the state. The clock stands still meanwhile."""
        with self.clock.phase("save"):
            rank = f"{self.machine.rank}of{self.machine.world}.pt"
            path = self.folder / f"resume_{self.progress.step}_{rank}"
            save_tensors(path, self.state())
            # The state before goes once all ranks have this one
            if self.machine.world > 1:
                dist.barrier()
            for old in set(self.folder.glob(f"resume_*_{rank}")) - {path}:
                old.unlink()
        self.clock.start()

    def report(self, loss: Tensor, rates: Rates, want_dev: bool):
        """A line in the log, a row in metrics.jsonl. Raises RunError if the loss is not finite."""
        clock, step = self.clock, self.progress.step
        value = self.machine.mean(loss)
        if not math.isfinite(value):
            raise RunError(f"the loss is {value} at step {step}: lower --matrix_lr, --embed_lr or --scalar_lr")
        rate = (self.progress.tokens - self.logged_tokens) / max(1e-9, clock.elapsed - self.logged_time)
        self.logged_tokens, self.logged_time = self.progress.tokens, clock.elapsed
        fraction = clock.fraction(self.progress)
        expected = clock.elapsed / fraction  # seconds of the whole run
        self.next_log = clock.elapsed + max(1.0, expected / 100)
        self.row = dict(
            step=step, tokens=self.progress.tokens, elapsed=round(clock.elapsed, 3), loss=round(value, 5),
            tokens_per_second=round(rate), mfu=self.machine.mfu(rate, self.token_flops),
            lr_scale=round(rates.learning_rate, 4),
        )  # fmt: skip
        if want_dev:
            self.dev_at.popleft()
            with clock.phase("dev"):
                self.row["dev_bpb"] = self.estimate()
            clock.start()
        self.log(progress_line(self.row, expected - clock.elapsed, self.config))
        self.log.metrics(self.row)

    # ---- Finish ----------------------------------------------------------------------------------

    def finish(self) -> dict:
        """Calibrates, saves, and returns what run.json holds."""
        statistics = None
        # Whoever sent a signal may kill soon: then the checkpoint comes first and alone
        if self.stopped not in SIGNALS.values():
            statistics = self.calibrate()
            self.row = {key: self.row[key] for key in ("step", "tokens", "elapsed", "loss")}
            with self.clock.phase("dev"):
                self.row["dev_bpb"] = self.estimate()
            self.log.metrics(self.row)
        with self.clock.phase("save"):
            if self.machine.rank == 0:
                self.save(statistics)
        result = self.result(bool(statistics))
        self.log("---")
        for key, value in result.items():
            if not isinstance(value, (dict, list)):
                self.log(f"{key}: {value}")
        self.log(f"run_dir: {self.folder}")
        if self.resumable and self.stopped in SIGNALS.values():
            self.log(f"the same command with --run_dir={self.folder} goes on from here")
        elif self.machine.rank == 0:
            write_whole(self.folder / "run.json", json.dumps(result, indent=1).encode())
            for path in self.folder.glob("resume_*.pt"):
                path.unlink()
        if self.machine.world > 1:
            dist.destroy_process_group()
        return result

    def calibrate(self) -> dict:
        """Second moments of the averaged weights, on the rows that come next."""
        config = self.config
        with self.clock.phase("calibrate"), self.optimizers.averaged():
            self.loader.rows, self.loader.piece = self.calibration_rows, config.seq_len
            self.loader.cut = cut_rows  # no compiling now
            left = config.max_seconds - self.clock.elapsed if config.max_seconds > 0 else math.inf
            return calibrate(self.model, lambda: self.loader.next()[0].long(), left, config, self.machine)

    def save(self, statistics: dict | None):
        """checkpoint.pt, the averaged weights and what packing needs with them, and statistics.pt."""
        weights = zip(self.optimizers.names, self.optimizers.ema)
        checkpoint = dict(
            format=1, track=self.config.track, config=artifact_config(self.config),
            source=self.source, source_sha256=self.sha,
            tokenizer=torch.frombuffer(bytearray(self.tokenizer), dtype=torch.uint8),
            model={name: value.cpu() for name, value in weights},
            parameters=declarations(self.model),
            step=self.progress.step, loader=self.loader.state, bytes_per_token=self.dev.bytes_per_token,
        )  # fmt: skip
        save_tensors(self.folder / "checkpoint.pt", checkpoint)
        if statistics:
            save_tensors(self.folder / "statistics.pt", statistics)

    def result(self, has_statistics: bool) -> dict:
        """What run.json holds."""
        config, progress, ledger = self.config, self.progress, self.clock.ledger
        rate = progress.tokens / ledger["train"]
        files = ["train.log", "metrics.jsonl", "checkpoint.pt"]
        if has_statistics:
            files.append("statistics.pt")
        return dict(
            format=1, id=self.folder.name, track=config.track, preset=config.preset,
            world_size=self.machine.world, seed=config.seed, config=asdict(config),
            source_sha256=self.sha, environment=self.environment,
            data={"dir": config.data_dir, "manifest_sha256": hashlib.sha256(self.manifest).hexdigest()},
            clock={name: round(value, 3) for name, value in ledger.items()},
            training_seconds=round(ledger["train"] + ledger.get("calibrate", 0.0), 3),
            steps=progress.step, tokens=progress.tokens, tokens_per_second=round(rate),
            mfu=self.machine.mfu(rate, progress.flops / progress.tokens), params=self.params,
            flops_per_token=progress.flops // progress.tokens, micro_batch_tokens=self.forward_tokens,
            train_loss=self.row["loss"], dev_bpb=self.row.get("dev_bpb"), stopped=self.stopped, files=files,
        )  # fmt: skip


def train(config: Config, source: str) -> dict:
    """Trains, calibrates and saves on this rank; returns what run.json holds. Raises RunError."""
    run = Run(config, source)
    run.warm_up()
    run.loop()
    return run.finish()


def dry_run(config: Config):
    """Prints what the real configuration needs, as a line of JSON that golf plan reads.

    A training step is traced on fake tensors, which takes no GPU and no memory. Memory is an upper bound: nothing is
    fused.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    world = int(os.environ.get("WORLD_SIZE", 8 if config.track == "16mb" else 1))
    plan = stages(config, world)
    with FakeTensorMode():
        # Without the dense mask of CPUs, which a GPU does not hold
        model = build_model(replace(config, document_mask=False))
        tokens = torch.zeros(plan[-1].rows, config.seq_len, dtype=torch.int64)
        tracker = MemTracker()
        tracker.track_external(model)
        with tracker, torch.autocast("cpu", dtype=torch.bfloat16):
            model.forward = model.loss  # the tracker follows calls of modules
            model(tokens, tokens).backward()
        peak = next(iter(tracker.get_tracker_snapshot("peak").values()))["Total"]
    params = sum(p.numel() for p in model.parameters())
    muon = sum(p.numel() for p in matrices(model))
    # In float32: the average, Adam's two moments, this rank's share of Muon's momentum
    optimiser = 4 * (params + 2 * (params - muon) + muon // world)
    flops = flops_per_token(model, config)
    report = dict(
        config=asdict(config), stages=[asdict(stage) for stage in plan], params=params,
        flops_per_token=flops, flops_per_step=flops * plan[-1].tokens,
        memory_per_gpu_bytes=int(peak + optimiser),
    )  # fmt: skip
    say(json.dumps(report), sys.stdout)


def help_text(source: str) -> str:
    """The head of this file, then its fields and presets, as they stand in it."""
    head = source.split('"""')[1]  # not __doc__, which would keep the text in the artifact
    return head + "\n" + source[source.index("# What the numbers below") : source.index("class RunError")]


def main(argv: list[str] | None = None) -> int:
    """Runs the command line. Returns the exit code: 1 if the run failed, 2 for a bad command."""
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may be in no encoding that a console has
    try:
        source = Path(__file__).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        say(f"train_gpt.py: the script is not UTF-8 in line {line}: save it as UTF-8", sys.stderr)
        return 1
    if "--help" in argv or "-h" in argv:
        say(help_text(source), sys.stdout)
        return 0
    try:
        if "--dry-run" not in argv:
            check_devices(argv, dict(os.environ))
        arguments = [argument for argument in argv if argument != "--dry-run"]
        config = parse_config(arguments, dict(os.environ))
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: ends with the torchrun that started it
        if wrong := check_cache():
            say(f"train_gpt.py: {wrong}", sys.stderr)
        if "--dry-run" in argv:
            dry_run(config)
        else:
            train(config, source)
        return 0
    except RunError as error:
        why, code = error, error.code
    except OSError as error:
        why, code = f"{error.filename or 'the system'}: {error.strerror or error}", 1
    except KeyboardInterrupt:
        why, code = "interrupted, nothing was saved", 130
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        half = max(config.seq_len, config.micro_batch_tokens // 2)
        why, code = f"out of memory: try --micro_batch_tokens={half}, or a smaller model", 1
    say(f"train_gpt.py: {why}", sys.stderr)
    if dist.is_initialized():
        os._exit(code)  # NCCL's shutdown waits for ranks that did not fail
    return code


if __name__ == "__main__":
    sys.exit(main())
