"""Train the best language model that fits in a fixed number of bytes within a fixed time.

    torchrun --standalone --nproc_per_node=8 train_gpt.py            # 16mb track: 600 s on 8xH100
    python train_gpt.py --preset=pocket                              # pocket track: 600 s on two CPU cores
    torchrun --standalone --nproc_per_node=2 train_gpt.py --preset=tiny   # the same code path, two gloo ranks
    python train_gpt.py --preset=16mb --dry-run                      # shapes, FLOPs, memory and bytes; no GPU needed

This is the one file a participant edits. It is self-contained: model, Muon, loader, clock, calibration, checkpoint. It
writes runs/<id>/{train.log, metrics.jsonl, run.json, checkpoint.pt, statistics.pt}; `compress` turns that folder into
one .golf file and `eval_heldout.py` scores the file. The minified text of this script travels inside that file, where
only `Config` and `build_model` are used.

Not covered here: data preparation, packing, scoring (the dev bpb printed below is an estimate).
"""

if (
    __name__ == "__main__"
):  # before torch loads OpenMP: spinning waits make a step 15-24x slower beside one busy process
    __import__("os").environ.setdefault("OMP_WAIT_POLICY", "passive")

import contextlib
import difflib
import hashlib
import io
import json
import math
import os
import platform
import shutil
import signal
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

SHARD_MAGIC, SHARD_VERSION, SHARD_HEADER_BYTES, BOS = 20240520, 1, 1024, 1


# ----------------------------------------------------------------------------------------------------------------------
# Configuration


@dataclass(frozen=True)
class Config:
    """Every knob. The defaults are the 16mb preset; `--field=value` overrides any of them."""

    # Model. These fields, where they differ from the defaults, travel in the artifact for `build_model`.
    vocab_size: int = 1024
    seq_len: int = 1024  # tokens of context in training, and of a window in plain scoring
    num_layers: int = 9
    model_dim: int = 512
    num_heads: int = 8
    num_kv_heads: int = 4
    mlp_mult: float = 2.0
    rope_base: float = 10000.0
    logit_softcap: float = 30.0
    # Initialisation
    qk_gain_init: float = 1.5
    embed_init_std: float = 0.005
    # Optimiser: Muon for the matrices of the blocks, Adam for the embedding and for gains, mixes and skips
    matrix_lr: float = 0.04
    embed_lr: float = 0.05
    scalar_lr: float = 0.04
    muon_momentum: float = 0.95
    muon_momentum_start: float = 0.85
    muon_momentum_steps: int = 500
    muon_iterations: int = 5
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    # Schedule, by elapsed fraction of the clock: constant, then linear down to `min_lr` over the last `warmdown`
    warmdown: float = 0.4
    min_lr: float = 0.0
    ema_decay: float = 0.997
    # Batch, in tokens: of a step over all ranks, and of one forward on one rank
    batch_tokens: int = 524_288
    micro_batch_tokens: int = 65_536
    # The clock. Zero means no limit; one of the two must be set
    max_seconds: float = 600.0
    max_steps: int = 0
    calibration_tokens: int = 262_144  # over all ranks, for the second moments that packing needs
    dev_tokens: int = 1_048_576  # of the dev split, for the estimates in the log
    dev_evals: int = 4
    # The run
    preset: str = "16mb"
    track: str = "16mb"
    seed: int = 1337
    data_dir: str = "data/fineweb_sp1024"
    run_dir: str = ""  # default: runs/<preset>-<time>-s<seed>
    compile: bool = True


MODEL_FIELDS = (
    "vocab_size",
    "seq_len",
    "num_layers",
    "model_dim",
    "num_heads",
    "num_kv_heads",
    "mlp_mult",
    "rope_base",
    "logit_softcap",
)
POCKET = dict(
    track="pocket", data_dir="data/embedded", seq_len=512, num_layers=6, model_dim=96, num_heads=3, num_kv_heads=1,
    batch_tokens=4096, micro_batch_tokens=4096, muon_momentum_steps=300, ema_decay=0.99, calibration_tokens=32_768,
    dev_tokens=65_536, max_seconds=0.0, max_steps=2150,
)  # fmt: skip
TINY = POCKET | dict(
    seq_len=128, num_layers=2, model_dim=64, num_heads=2, batch_tokens=2048, micro_batch_tokens=1024, max_seconds=20.0,
    max_steps=0, calibration_tokens=8192, dev_tokens=16_384, dev_evals=1,
)  # fmt: skip
PRESETS = {"16mb": {}, "pocket": POCKET, "tiny": TINY}


class RunError(Exception):
    """A run that cannot go on: one line that says what, where and what to do."""


def parse_config(argv: list[str], environment: dict[str, str]) -> Config:
    """Builds the Config from `--field=value` arguments (a bare `--field` sets a bool), typed from the annotations.

    Raises RunError for an unknown key (with the nearest match), a bad value, or an environment variable that spells a
    field: `SEED=42 torchrun ...` looks as if it did something and would not.
    """
    known = {f.name: f for f in fields(Config)}
    values = {}
    for argument in argv:
        key, has_value, text = argument.removeprefix("--").partition("=")
        key = key.replace("-", "_")
        if not argument.startswith("--") or key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            raise RunError(f"unknown argument {argument!r}" + (f": did you mean --{near[0]}=...?" if near else ""))
        kind = type(known[key].default)
        try:
            if kind is bool:
                values[key] = {"": True, "true": True, "1": True, "false": False, "0": False}[text.lower()]
            elif has_value:
                values[key] = kind(text)
            else:
                raise ValueError
            if kind is float and not math.isfinite(values[key]):
                raise ValueError
        except (ValueError, KeyError):
            raise RunError(f"bad value in {argument!r}: --{key} takes a {kind.__name__}") from None
    for key in known:
        if key.upper() in environment:
            raise RunError(
                f"the environment sets {key.upper()}, which this script does not read: "
                f"use --{key}={environment[key.upper()]}"
            )
    preset = values.get("preset") or ("16mb" if torch.cuda.is_available() else "pocket")
    if preset not in PRESETS:
        raise RunError(f"no preset {preset!r}: choose one of {', '.join(PRESETS)}")
    config = replace(Config(), **PRESETS[preset] | values | {"preset": preset})
    c = config
    for bad, why in (
        (
            min(
                c.vocab_size,
                c.seq_len,
                c.num_layers,
                c.model_dim,
                c.num_heads,
                c.num_kv_heads,
                c.batch_tokens,
                c.micro_batch_tokens,
            )
            < 1,
            "sizes of the model and of the batch must be at least 1",
        ),
        (c.vocab_size > 65_536, "--vocab_size must fit in the shards' 16 bits"),
        (
            c.model_dim % c.num_heads or (c.model_dim // c.num_heads) % 2,
            "--model_dim must be an even multiple of --num_heads",
        ),
        (c.num_heads % c.num_kv_heads, "--num_heads must be a multiple of --num_kv_heads"),
        (round(c.mlp_mult * c.model_dim) < 1, "--mlp_mult is too small"),
        (c.micro_batch_tokens % c.seq_len, "--micro_batch_tokens must be a multiple of --seq_len"),
        (c.max_seconds <= 0 and c.max_steps <= 0, "set --max_seconds or --max_steps"),
        (not 0 <= c.ema_decay < 1, "--ema_decay must be in [0, 1)"),
        (not 0 <= c.warmdown <= 1, "--warmdown must be in [0, 1]"),
    ):
        if bad:
            raise RunError(why)
    return config


# ----------------------------------------------------------------------------------------------------------------------
# Model. Shapes: B batch, T time, D width, H heads, G key/value heads, K head width, V vocabulary


def norm(x: Tensor) -> Tensor:
    """RMS norm over the last axis, without a gain."""
    return F.rms_norm(x, (x.size(-1),))


def rotate(x: Tensor, base: float) -> Tensor:
    """RoPE on [B, N, T, K], pairing the first half of K with the second (Su et al. 2021)."""
    half, exact = x.size(-1) // 2, torch.promote_types(x.dtype, torch.float32)
    frequency = base ** (-torch.arange(half, device=x.device, dtype=exact) / half)
    angle = torch.outer(torch.arange(x.size(2), device=x.device, dtype=exact), frequency)  # [T, K/2]
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * cos + b * sin, b * cos - a * sin), -1)


class Attention(nn.Module):
    """Causal grouped-query attention with QK-norm, RoPE and a learned gain per query head."""

    def __init__(self, config: Config):
        super().__init__()
        self.heads, self.kv_heads, self.width = (
            config.num_heads,
            config.num_kv_heads,
            config.model_dim // config.num_heads,
        )
        self.rope_base = config.rope_base
        self.qkv = nn.Linear(config.model_dim, (self.heads + 2 * self.kv_heads) * self.width, bias=False)
        self.proj = nn.Linear(config.model_dim, config.model_dim, bias=False)
        self.gain = nn.Parameter(torch.full((self.heads,), config.qk_gain_init))

    def forward(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        heads = self.qkv(x).view(B, T, -1, self.width).transpose(1, 2)  # [B, H+2G, T, K]
        q, k, v = heads.split((self.heads, self.kv_heads, self.kv_heads), 1)
        q, k = rotate(norm(q), self.rope_base), rotate(norm(k), self.rope_base)
        q = q * self.gain.to(q.dtype)[:, None, None]
        y = F.scaled_dot_product_attention(q, k.to(q.dtype), v.to(q.dtype), is_causal=True, enable_gqa=True)
        return self.proj(y.transpose(1, 2).reshape(B, T, D))


class MLP(nn.Module):
    """Two projections around ReLU^2 (So et al. 2021)."""

    def __init__(self, config: Config):
        super().__init__()
        hidden = round(config.mlp_mult * config.model_dim)
        self.up = nn.Linear(config.model_dim, hidden, bias=False)
        self.down = nn.Linear(hidden, config.model_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)).square())


class Block(nn.Module):
    """x, x0 -> x: mixes the embedding back in, then adds attention and MLP, each with a gain per channel."""

    def __init__(self, config: Config):
        super().__init__()
        self.attn, self.mlp = Attention(config), MLP(config)
        self.mix = nn.Parameter(torch.stack((torch.ones(config.model_dim), torch.zeros(config.model_dim))))
        self.attn_gain = nn.Parameter(torch.ones(config.model_dim))
        self.mlp_gain = nn.Parameter(torch.ones(config.model_dim))

    def forward(self, x: Tensor, x0: Tensor) -> Tensor:
        x = self.mix[0] * x + self.mix[1] * x0
        x = x + self.attn_gain * self.attn(norm(x))
        return x + self.mlp_gain * self.mlp(norm(x))


class GPT(nn.Module):
    """The public challenge's baseline model: tied embedding, U-Net skips between the two halves, softcapped logits."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.model_dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.skip = nn.Parameter(torch.ones(config.num_layers // 2, config.model_dim))
        nn.init.normal_(self.embed.weight, std=config.embed_init_std)
        for block in self.blocks:  # each block starts as the identity
            nn.init.zeros_(block.attn.proj.weight)
            nn.init.zeros_(block.mlp.down.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [B, T] -> logits [B, T, V] in float32; logits[:, i] predicts tokens[:, i + 1]."""
        x = x0 = norm(self.embed(tokens))
        half, saved = len(self.skip), []
        for i, block in enumerate(self.blocks):
            if i >= len(self.blocks) - half:  # the second half reads the first half's outputs, last one first
                x = x + self.skip[len(saved) - 1] * saved.pop()
            x = block(x, x0)
            if i < half:
                saved.append(x)
        z = F.linear(norm(x), self.embed.weight)
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        return self.config.logit_softcap * torch.tanh(z / self.config.logit_softcap)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean negative log-likelihood of targets [B, T] in nats per token."""
        return F.cross_entropy(self(tokens).flatten(0, 1), targets.flatten().long())


def build_model(config: Config) -> nn.Module:
    return GPT(config)


def flops_per_token(model: nn.Module, config: Config) -> int:
    """Training FLOPs of one token: 6 per matrix weight, and the causal half of attention's 12 T D per layer."""
    matrices = sum(p.numel() for name, p in model.named_parameters() if name.endswith(".weight"))
    return 6 * matrices + 6 * config.num_layers * config.seq_len * config.model_dim


# ----------------------------------------------------------------------------------------------------------------------
# Optimiser


def newton_schulz(g: Tensor, iterations: int) -> Tensor:
    """Orthogonalises each matrix of g [N, rows, columns] approximately (Jordan et al. 2024, quintic iteration)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.mT if g.size(-2) > g.size(-1) else g
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        s = x @ x.mT
        x = a * x + (b * s + c * (s @ s)) @ x
    return x.mT if g.size(-2) > g.size(-1) else x


class Muon:
    """Momentum with orthogonalised updates, sharded over ranks (Jordan et al. 2024; sharding as in public PR #399).

    matrices: row blocks of 2-D parameters; fused projections give several. Blocks of one shape form a bank: gradients
    are reduce-scattered, every rank orthogonalises the matrices it owns, and the updates are all-gathered, so that the
    update is that of one process. `weight_decay` is decoupled and follows the learning rate.
    """

    def __init__(
        self, matrices: list[tuple[nn.Parameter, slice]], config: Config, dtype: torch.dtype, world: int, rank: int
    ):
        self.config, self.dtype, self.world, self.rank = config, dtype, world, rank
        shapes: dict[tuple, list] = {}
        for parameter, rows in matrices:
            shapes.setdefault(tuple(parameter[rows].shape), []).append((parameter, rows))
        self.banks = list(shapes.items())
        self.momentum = []
        for shape, bank in self.banks:
            own = -(-len(bank) // world)  # ceil: the last rank's bank is padded with zeros
            self.momentum.append(torch.zeros(own, *shape, device=bank[0][0].device))

    @torch.no_grad()
    def step(self, lr: float, momentum: float):
        """One update from the parameters' .grad (each rank's own mean); lr includes the schedule."""
        for (shape, bank), buffer in zip(self.banks, self.momentum):
            grad = torch.stack([p.grad[rows] for p, rows in bank])
            if self.world > 1:
                padded = F.pad(grad, (0, 0, 0, 0, 0, buffer.size(0) * self.world - len(bank)))
                grad = torch.empty_like(buffer)
                dist.reduce_scatter_tensor(grad, padded, op=dist.ReduceOp.SUM)
                grad /= self.world
            buffer.mul_(momentum).add_(grad)
            update = newton_schulz(grad.add_(buffer, alpha=momentum).to(self.dtype), self.config.muon_iterations)
            if self.world > 1:
                own, update = update.contiguous(), update.new_empty(update.size(0) * self.world, *shape)
                dist.all_gather_into_tensor(update, own)
            scale = lr * math.sqrt(max(1.0, shape[0] / shape[1]))
            for (p, rows), u in zip(bank, update):
                p.data[rows].mul_(1 - lr * self.config.weight_decay).sub_(u, alpha=scale)


class Optimizers:
    """Muon and Adam behind one step, and the exponential moving average of the weights."""

    def __init__(self, model: GPT, config: Config, dtype: torch.dtype, world: int, rank: int):
        self.config, self.world, self.model = config, world, model
        self.names, self.params = zip(*model.named_parameters())
        matrices, self.adam_params = [], []
        for name, p in zip(self.names, self.params):
            if name.startswith("blocks.") and name.endswith(".weight"):
                width = config.model_dim // config.num_heads
                parts = [config.num_heads * width] + [config.num_kv_heads * width] * 2 if "qkv" in name else [p.size(0)]
                ends = np.cumsum(parts).tolist()  # q, k and v are fused for speed and orthogonalised apart
                matrices += [(p, slice(end - n, end)) for end, n in zip(ends, parts)]
            else:
                self.adam_params.append(p)
        self.muon = Muon(matrices, config, dtype, world, rank)
        scalars = [p for p in self.adam_params if p is not model.embed.weight]
        self.adam = torch.optim.Adam(
            [
                dict(params=[model.embed.weight], base_lr=config.embed_lr),
                dict(params=scalars, base_lr=config.scalar_lr),
            ],
            lr=0.0,
            betas=(config.adam_beta1, config.adam_beta2),
            fused=True,
        )
        self.ema = [p.detach().clone() for p in self.params]

    @torch.no_grad()
    def step(self, step: int, lr_scale: float):
        c = self.config
        if self.world > 1:  # all small gradients in one message
            flat = torch.cat([p.grad.flatten() for p in self.adam_params])
            dist.all_reduce(flat)
            flat /= self.world
            for p, g in zip(self.adam_params, flat.split([p.numel() for p in self.adam_params])):
                p.grad.copy_(g.view_as(p))
        warm = min(1.0, step / max(1, c.muon_momentum_steps))
        self.muon.step(c.matrix_lr * lr_scale, c.muon_momentum_start + warm * (c.muon_momentum - c.muon_momentum_start))
        for group in self.adam.param_groups:
            group["lr"] = group["base_lr"] * lr_scale
        self.adam.step()
        decay = min(c.ema_decay, (1 + step) / (10 + step))  # short memory first, so that the start is forgotten
        torch._foreach_lerp_(self.ema, [p.detach() for p in self.params], 1 - decay)
        for p in self.params:
            p.grad = None

    @torch.no_grad()
    def restore(self, weights: list[Tensor]):
        """Back to `weights` and to empty optimiser state: undoes the warm-up steps."""
        for p, e, w in zip(self.params, self.ema, weights):
            p.copy_(w)
            e.copy_(w)
            p.grad = None
        self.adam.state.clear()
        for buffer in self.muon.momentum:
            buffer.zero_()

    @contextlib.contextmanager
    def averaged(self):
        """Inside, the model holds the averaged weights."""
        live = [p.detach().clone() for p in self.params]
        with torch.no_grad():
            torch._foreach_copy_(list(self.params), self.ema)
        yield
        with torch.no_grad():
            torch._foreach_copy_(list(self.params), live)


# ----------------------------------------------------------------------------------------------------------------------
# Data


def open_shard(path: Path, vocab_size: int) -> np.memmap:
    """Maps a shard's uint16 tokens; raises RunError if header and size disagree."""
    header = np.fromfile(path, dtype="<i4", count=SHARD_HEADER_BYTES // 4)
    if len(header) < SHARD_HEADER_BYTES // 4 or header[0] != SHARD_MAGIC or header[1] != SHARD_VERSION:
        raise RunError(f"{path} is not a token shard (bad header): build or download it again with tools/data.py")
    if path.stat().st_size != SHARD_HEADER_BYTES + 2 * int(header[2]):
        raise RunError(
            f"{path} is truncated: {path.stat().st_size} bytes for {header[2]} tokens; build or download it again"
        )
    tokens = np.memmap(path, dtype="<u2", mode="r", offset=SHARD_HEADER_BYTES, shape=(int(header[2]),))
    if len(tokens) == 0 or int(tokens[: 1 << 20].max()) >= vocab_size:
        raise RunError(f"{path} is empty or holds tokens beyond --vocab_size={vocab_size}: another tokenizer's shard?")
    return tokens


def find_shards(data_dir: str, split: str) -> list[Path]:
    paths = sorted(Path(data_dir).glob(f"{split}_*.bin"))
    if not paths:
        recipe = "embedded" if Path(data_dir).name == "embedded" else "fineweb --variant sp1024"
        raise RunError(
            f"no {split} shards in {data_dir}: run `python tools/data.py {recipe}` first, or give --data_dir"
        )
    return paths


def read_share(shards: list[np.ndarray], rank: int, world: int) -> np.ndarray:
    """This rank's part of the concatenated shards: equal parts, each border moved on to the next document."""
    sizes = [len(s) for s in shards]
    total, firsts = sum(sizes), np.cumsum([0] + sizes)

    def border(position: int) -> int:
        for shard, first in zip(shards, firsts):
            if position < first + len(shard):
                hits = np.flatnonzero(shard[max(0, position - first) :] == BOS)
                if len(hits):
                    return int(max(position, first) + hits[0])
        return total

    low, high = (border(total * r // world) if 0 < r < world else total * r // world for r in (rank, rank + 1))
    parts = [s[max(0, low - f) : max(0, high - f)] for s, f in zip(shards, firsts)]
    return np.concatenate(parts)


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


def cut_rows(
    data: Tensor, starts: Tensor, order: Tensor, cursor: Tensor, rows: int, length: int
) -> tuple[Tensor, Tensor]:
    """Gathers rows [rows, length] of inputs and of targets one token later, as int32, without leaving the device."""
    first = starts[order[cursor + torch.arange(rows, device=data.device)]]
    window = data[first[:, None] + torch.arange(length + 1, device=data.device)].int() & 0xFFFF
    return window[:, :-1], window[:, 1:]


class Loader:
    """Endless batches from this rank's tokens, which stay on the device as 16-bit integers; order fixed by the seed.

    state: {"epoch", "cursor"}, enough to go on exactly where a checkpoint stopped (same data, seed and world size).
    """

    def __init__(self, tokens: np.ndarray, rows: int, config: Config, rank: int, device: torch.device):
        starts = row_starts(tokens, config.seq_len)
        if len(starts) < rows:
            raise RunError(
                f"rank {rank} has {len(starts)} rows of --seq_len={config.seq_len} tokens, fewer than a micro-batch of "
                f"{rows}: use more data or lower --micro_batch_tokens"
            )
        self.rows, self.length, self.seed = rows, config.seq_len, config.seed * 1_000_003 + rank
        self.data = torch.from_numpy(tokens.astype(np.uint16, copy=True).view(np.int16)).to(device)
        self.starts = torch.from_numpy(starts).to(device)
        self.cut = torch.compile(cut_rows, dynamic=False) if config.compile else cut_rows
        self.load({"epoch": 0, "cursor": 0})

    def load(self, state: dict):
        self.epoch, self.cursor = state["epoch"], state["cursor"]
        generator = torch.Generator().manual_seed(self.seed + 7919 * self.epoch)
        self.order = torch.randperm(len(self.starts), generator=generator).to(self.data.device)
        self.position = torch.tensor(
            self.cursor, device=self.data.device
        )  # counted on the device: a step reads no host memory

    @property
    def state(self) -> dict:
        return {"epoch": self.epoch, "cursor": self.cursor}

    def next(self) -> tuple[Tensor, Tensor]:
        if self.cursor + self.rows > len(self.starts):
            self.load({"epoch": self.epoch + 1, "cursor": 0})
        batch = self.cut(self.data, self.starts, self.order, self.position, self.rows, self.length)
        self.cursor += self.rows
        self.position += self.rows
        return batch

    def warm_up(self):
        """Compiles the gather on blank tokens, so that nothing reads training data outside the clock."""
        self.cut(torch.zeros_like(self.data), self.starts, self.order, self.position, self.rows, self.length)


# ----------------------------------------------------------------------------------------------------------------------
# The clock


class Clock:
    """Wall seconds by phase, and the guard that stops training before the cap on all ranks at the same step.

    `elapsed` counts training alone. After each step the ranks agree on the largest elapsed time, the largest of their
    last eight step times and on whether anybody was told to stop; the schedule reads the agreed time, so that ranks
    never differ.
    """

    def __init__(self, config: Config, world: int, device: torch.device):
        self.config, self.world, self.device = config, world, device
        self.ledger: dict[str, float] = {}
        self.reserve = 0.0  # seconds of the cap kept for calibration
        self.steps: deque[float] = deque(maxlen=8)
        self.elapsed, self.step_seconds, self.told_to_stop = 0.0, 0.0, False
        self.signalled = False
        self.last = time.perf_counter()
        self.used = 0.0

    @contextlib.contextmanager
    def phase(self, name: str):
        start = time.perf_counter()
        yield
        self.ledger[name] = self.ledger.get(name, 0.0) + time.perf_counter() - start

    def obey_signals(self):
        """SIGTERM, and the first Ctrl-C, end training after the step at hand; the second Ctrl-C aborts."""

        def stop(number, _):
            self.signalled = True
            signal.signal(signal.SIGINT, signal.default_int_handler)

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)

    def start(self):
        self.last = time.perf_counter()

    def tick(self):
        """Call after each step: adds it to this rank's time and agrees with the others."""
        now = time.perf_counter()
        self.used += now - self.last
        self.steps.append(now - self.last)
        self.last = now
        agreed = torch.tensor(
            [self.used, max(self.steps), float(self.signalled)], dtype=torch.float64, device=self.device
        )
        if self.world > 1:
            dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
        self.elapsed, self.step_seconds, stop = agreed.tolist()
        self.told_to_stop = bool(stop)

    @property
    def budget(self) -> float:
        return self.config.max_seconds - self.reserve

    def fraction(self, step: int) -> float:
        """How much of the run is over, in [0, 1], by the clock or by the count of steps, whichever is further."""
        by_time = self.elapsed / self.budget if self.config.max_seconds > 0 else 0.0
        by_step = step / self.config.max_steps if self.config.max_steps > 0 else 0.0
        return min(1.0, max(by_time, by_step))

    def verdict(self, step: int) -> str:
        """ "" to go on, else why to stop: "sigterm", "clock" (the next step would not end in time) or "steps"."""
        if self.told_to_stop:
            return "sigterm"
        if self.config.max_seconds > 0 and self.elapsed + 1.1 * self.step_seconds > self.budget:
            return "clock"
        return "steps" if 0 < self.config.max_steps <= step else ""


# ----------------------------------------------------------------------------------------------------------------------
# Calibration: the second moments that quantisation needs, gathered inside the clock


class SecondMoments(torch.overrides.TorchFunctionMode):
    """Watches F.linear and F.embedding on named parameters and sums second moments of inputs and output gradients.

    Works on any model whose matrices reach these two functions as parameters (run it without autocast). Linear maps
    that read the same tensor share a tap, so its matrix is kept once.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.names = {id(p): n for n, p in model.named_parameters()}
        self.taps: dict[str, Tensor] = {}
        self.linear: dict[str, dict] = {}
        self.embedding: dict[str, dict] = {}
        self.tokens = 0
        self.seen: dict[int, str] = {}  # of one forward: id of an input -> its tap
        self.alive: list[Tensor] = []  # inputs must outlive the forward, or an id could come back

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is F.linear and id(args[1]) in self.names:
            self.watch_linear(self.names[id(args[1])], args[0].detach(), out)
        elif func is F.embedding and id(args[1]) in self.names:
            self.watch_embedding(self.names[id(args[1])], args[0], out, args[1].size(0))
        return out

    def add(self, store: dict, key: str, value: Tensor):
        store[key] = store[key] + value if key in store else value

    def watch_linear(self, name: str, x: Tensor, out: Tensor):
        tap = self.seen.setdefault(x.data_ptr(), name.removesuffix(".weight"))
        entry = self.linear.setdefault(name, {"tap": tap})
        if name.removesuffix(".weight") == tap:
            flat = x.flatten(0, -2)
            self.alive.append(x)
            self.add(self.taps, tap, flat.T @ flat)
        out.register_hook(lambda g: self.add(entry, "output_gradient", g.flatten(0, -2).square().sum(0)))

    def watch_embedding(self, name: str, ids: Tensor, out: Tensor, rows: int):
        entry = self.embedding.setdefault(name, {})

        def hook(gradient: Tensor):
            g = gradient.flatten(0, -2)
            self.add(entry, "gradient_second_moment", g.T @ g)
            by_row = g.new_zeros(rows).index_add_(0, ids.flatten(), g.square().sum(1))
            self.add(entry, "row_gradient", by_row)

        out.register_hook(hook)

    def batch(self, model: nn.Module, tokens: Tensor, generator: torch.Generator):
        """Adds one batch [B, T]: labels sampled from the model (K-FAC; Martens & Grosse 2015), the loss summed."""
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

    def result(self, world: int) -> dict:
        """Means over the tokens of all ranks, in the layout of statistics.pt."""
        sums = [
            (store, key)
            for store in (self.taps, *self.linear.values(), *self.embedding.values())
            for key in store
            if key != "tap"
        ]
        tokens = torch.tensor(float(self.tokens), device=next(iter(self.taps.values())).device)
        if world > 1:
            for store, key in sums:
                dist.all_reduce(store[key])
            dist.all_reduce(tokens)
        for store, key in sums:
            store[key] = (store[key] / tokens).cpu()
        return {
            "format": 1,
            "tokens": int(tokens),
            "linear": self.linear,
            "taps": self.taps,
            "embedding": self.embedding,
        }


def calibrate(model: nn.Module, next_tokens, config: Config, world: int, rank: int, device: torch.device) -> dict:
    """Second moments over `calibration_tokens` tokens; next_tokens() gives a batch [B, T]."""
    moments = SecondMoments(model)
    generator = torch.Generator(device).manual_seed(config.seed + rank)
    while moments.tokens * world < config.calibration_tokens:
        moments.batch(model, next_tokens(), generator)
    return moments.result(world)


# ----------------------------------------------------------------------------------------------------------------------
# Files


def write_whole(path: Path, data: bytes):
    """Writes a file completely or not at all. Raises RunError when the disk refuses."""
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise RunError(
            f"cannot write {path}: {error.strerror or error}; free some space or give --run_dir another place"
        ) from None


def save_tensors(path: Path, content: dict):
    buffer = io.BytesIO()  # in memory first: torch's own file writer can abort the process on a full disk
    torch.save(content, buffer)
    write_whole(path, buffer.getvalue())


class Log:
    """train.log and metrics.jsonl of rank 0, echoed to the console; other ranks write nothing."""

    def __init__(self, folder: Path | None):
        self.folder = folder

    def append(self, name: str, text: str):
        if self.folder:
            try:
                with open(self.folder / name, "a", encoding="utf-8") as file:
                    file.write(text)
            except OSError as error:
                raise RunError(
                    f"cannot write {self.folder / name}: {error.strerror or error}; free some space or give --run_dir "
                    "another place"
                ) from None

    def __call__(self, line: str):
        if self.folder:
            print(line, flush=True)
            self.append("train.log", line + "\n")

    def metrics(self, row: dict):
        self.append("metrics.jsonl", json.dumps(row) + "\n")


# ----------------------------------------------------------------------------------------------------------------------
# The machine


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class Machine:
    """What this process runs on: rank, device, compute type and the peak it is measured against."""

    def __init__(self):
        # the only environment this script reads is what torchrun sets
        self.rank, self.world, local_rank = (
            int(os.environ.get(k, d)) for k, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
        )
        self.on_gpu = torch.cuda.is_available()
        self.device = torch.device("cuda", local_rank) if self.on_gpu else torch.device("cpu")
        if self.on_gpu:
            torch.cuda.set_device(self.device)
            self.name = torch.cuda.get_device_name(self.device)
            dense_bf16 = {"H100": 989.5e12, "H200": 989.5e12, "B200": 2250e12, "A100": 312e12}
            self.peak_flops = next((flops for key, flops in dense_bf16.items() if key in self.name), None)
            self.dtype, self.why = torch.bfloat16, f"bfloat16 on {self.name}, data sheet's dense peak"
        else:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
            torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", self.world))))
            # A seed then gives the same weights, bit for bit, whatever else the machine does
            torch.use_deterministic_algorithms(True)
            torch.utils.deterministic.fill_uninitialized_memory = False
            self.name = platform.processor() or platform.machine()
            self.choose_cpu_dtype()
        self.has_compiler = self.on_gpu or has_compiler()

    def choose_cpu_dtype(self):
        """CPUs differ by 10x in bfloat16, so both types are timed (0.1 s) and the faster one is taken."""
        rates = {}
        for dtype in (torch.float32, torch.bfloat16):
            a, b = torch.randn(1024, 512).to(dtype), torch.randn(512, 1024).to(dtype)
            a @ b
            rates[dtype] = 2 * 1024 * 512 * 1024 / min(seconds(lambda: a @ b) for _ in range(20))
        self.dtype = max(rates, key=rates.get)
        self.peak_flops = rates[self.dtype]
        float32, bfloat16 = (rates[d] / 1e9 for d in (torch.float32, torch.bfloat16))
        self.why = f"measured matrix GFLOP/s: float32 {float32:.0f}, bfloat16 {bfloat16:.0f}"

    def describe(self, compiled: bool) -> dict:
        return {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "platform": platform.platform(),
            "device": self.name,
            "threads": torch.get_num_threads(),
            "world_size": self.world,
            "compute": str(self.dtype).removeprefix("torch."),
            "why": self.why,
            "compiled": compiled,
        }

    def mean(self, value: Tensor) -> float:
        """The mean of a scalar over ranks."""
        value = value.detach().double()
        if self.world > 1:
            dist.all_reduce(value)
        return float(value) / self.world


def has_compiler() -> bool:
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


# ----------------------------------------------------------------------------------------------------------------------
# The run


class DevSet:
    """The first `dev_tokens` of the dev split, for the estimates in the log: rows ignore documents, and bytes are the
    split's mean per token from the manifest."""

    def __init__(self, config: Config, machine: Machine):
        shards = [open_shard(path, config.vocab_size) for path in find_shards(config.data_dir, "dev")]
        tokens = np.concatenate([s[: config.dev_tokens + 1] for s in shards])[: config.dev_tokens + 1].astype(np.int32)
        self.rows = config.micro_batch_tokens // config.seq_len
        batches = (len(tokens) - 1) // (config.seq_len * self.rows)
        if batches < machine.world:
            raise RunError(
                f"the dev split of {config.data_dir} holds {len(tokens)} tokens, fewer than a micro-batch per "
                "rank: lower --micro_batch_tokens or raise --dev_tokens"
            )
        size = batches // machine.world * machine.world * self.rows * config.seq_len
        self.x, self.y = (
            torch.from_numpy(tokens[i : i + size]).view(-1, config.seq_len).to(machine.device) for i in (0, 1)
        )
        self.machine = machine
        try:
            split = json.loads((Path(config.data_dir) / "manifest.json").read_text())["splits"]["dev"]
            self.bytes_per_token = split["raw_bytes"] / split["tokens"]
        except (OSError, KeyError, TypeError, ValueError, ZeroDivisionError):
            raise RunError(
                f"{config.data_dir}/manifest.json is missing or does not say how many bytes the dev split has: "
                "build the data with tools/data.py"
            ) from None

    @torch.no_grad()
    def bpb(self, loss_fn) -> float:
        first, stride = self.machine.rank * self.rows, self.rows * self.machine.world
        losses = [
            loss_fn(self.x[i : i + self.rows], self.y[i : i + self.rows]) for i in range(first, len(self.x), stride)
        ]
        return self.machine.mean(torch.stack(losses).mean()) / math.log(2) / self.bytes_per_token


def open_folder(config: Config, rank: int) -> Path:
    name = f"{config.preset}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-s{config.seed}"
    folder = Path(config.run_dir or f"runs/{name}")
    if (folder / "run.json").exists():
        raise RunError(f"{folder} already holds a finished run: remove it or give --run_dir another name")
    if rank == 0:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("train.log", "metrics.jsonl", "checkpoint.pt", "statistics.pt"):  # of a run that was cut off
                (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"cannot use {folder}: {error.strerror}; give --run_dir another place") from None
    return folder


def progress_line(row: dict, clock: Clock, config: Config) -> str:
    timed = config.max_seconds > 0
    left = clock.budget - clock.elapsed if timed else (config.max_steps - row["step"]) * clock.step_seconds
    parts = [
        f"step {row['step']:6d}",
        f"{row['elapsed']:6.1f}{f'/{config.max_seconds:.0f}' * timed} s",
        f"eta {max(0.0, left):5.0f} s",
        f"loss {row['loss']:.4f}",
        f"{row['tokens_per_second'] / 1e3:8.1f}k tok/s",
    ]
    if row["mfu"] is not None:
        parts.append(f"mfu {row['mfu']:6.1%}")
    if "dev_bpb" in row:
        parts.append(f"dev bpb ~{row['dev_bpb']:.4f}")
    return "  ".join(parts)


def train(config: Config, source: str) -> dict:
    """Trains, calibrates and saves on this rank; returns what run.json holds. Raises RunError."""
    setup_start = time.perf_counter()
    machine = Machine()
    rank, world, device = machine.rank, machine.world, machine.device
    shards = [open_shard(path, config.vocab_size) for path in find_shards(config.data_dir, "train")]
    dev = DevSet(config, machine)
    data_dir = Path(config.data_dir)
    if not (data_dir / "tokenizer.model").is_file():
        raise RunError(f"no tokenizer.model in {data_dir}: build the data again with tools/data.py")
    tokenizer, manifest = ((data_dir / name).read_bytes() for name in ("tokenizer.model", "manifest.json"))
    if world > 1:
        dist.init_process_group("nccl" if machine.on_gpu else "gloo")
    clock = Clock(config, world, device)
    clock.obey_signals()

    folder = open_folder(config, rank)
    log = Log(folder if rank == 0 else None)
    sha = hashlib.sha256(source.encode()).hexdigest()
    environment = machine.describe(config.compile and machine.has_compiler)
    log.append("train.log", f"{source}\n# source_sha256 {sha}\n")
    log(f"config {json.dumps(asdict(config))}")
    log(f"environment {json.dumps(environment)}")
    if config.compile and not machine.has_compiler:
        log("no C++ compiler was found: training uncompiled, which is slower (install g++ or clang++)")
        config = replace(config, compile=False)

    torch.manual_seed(config.seed)
    model = build_model(config).to(device)
    params, token_flops = sum(p.numel() for p in model.parameters()), flops_per_token(model, config)
    optimizers = Optimizers(model, config, machine.dtype if machine.on_gpu else torch.float32, world, rank)
    rows = config.micro_batch_tokens // config.seq_len
    accumulate = max(1, -(-config.batch_tokens // (config.micro_batch_tokens * world)))
    step_tokens = accumulate * config.micro_batch_tokens * world
    if step_tokens != config.batch_tokens:
        log(
            f"a step has {step_tokens} tokens instead of {config.batch_tokens}: "
            f"{world} ranks x {accumulate} micro-batches of {config.micro_batch_tokens}"
        )
    loader = Loader(read_share(shards, rank, world), rows, config, rank, device)
    log(
        f"{params:,} parameters, {token_flops / 1e6:.2f} MFLOP per token, "
        f"{len(loader.data):,} training tokens on rank 0"
    )

    compiled_loss = torch.compile(model.loss, dynamic=False) if config.compile else model.loss

    def loss_fn(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=machine.dtype == torch.bfloat16):
            return compiled_loss(x, y)

    def train_step(step: int, lr_scale: float, next_batch) -> Tensor:
        total = torch.zeros((), device=device)
        for _ in range(accumulate):
            loss = loss_fn(*next_batch()) / accumulate
            loss.backward()
            total += loss.detach()
        optimizers.step(step, lr_scale)
        return total

    def estimate() -> float:
        with optimizers.averaged():
            return round(dev.bpb(loss_fn), 5)

    def synthetic() -> tuple[Tensor, Tensor]:
        window = torch.randint(0, config.vocab_size, (rows, config.seq_len + 1), dtype=torch.int32, device=device)
        return window[:, :-1], window[:, 1:]  # strided like the loader's batches: another layout would compile again

    clock.ledger["setup"] = time.perf_counter() - setup_start
    if config.compile:
        log("compiling: 20-60 s on a CPU the first time, not timed ...")
    with clock.phase("compile"):
        initial = [p.detach().clone() for p in optimizers.params]
        loader.warm_up()
        train_step(0, 0.0, synthetic)
        estimate()
    with clock.phase("warmup"):
        train_step(0, 0.0, synthetic)
        # the time of a calibration batch on synthetic tokens says how much of the clock to keep for calibration
        moments = SecondMoments(model)
        timed = [seconds(lambda: moments.batch(model, synthetic()[0], torch.Generator(device))) for _ in range(2)]
        batches = -(-config.calibration_tokens // (config.micro_batch_tokens * world))
        reserve = torch.tensor(1.3 * timed[-1] * batches + 0.3, dtype=torch.float64, device=device)
        if world > 1:
            dist.all_reduce(reserve, op=dist.ReduceOp.MAX)
        clock.reserve = float(reserve)
        optimizers.restore(initial)
    if config.max_seconds > 0 and clock.budget <= 0:
        raise RunError(
            f"--max_seconds={config.max_seconds:g} leaves nothing to train: calibration takes {clock.reserve:.1f} s"
        )
    log(
        f"compiled in {clock.ledger['compile']:.1f} s, warmed up in {clock.ledger['warmup']:.1f} s; "
        f"{clock.reserve:.1f} s of the clock are kept for calibration"
    )

    # From here on the clock runs. Dev estimates touch no training data: they pause it and are a phase of their own.
    step, stopped, row = 0, "", {}
    log_every, next_log, logged_step, logged_time = max(1.0, config.max_seconds / 100), 0.0, 0, 0.0
    dev_at = deque((i + 1) / config.dev_evals for i in range(config.dev_evals - 1))
    clock.start()
    while not stopped:
        left = 1 - clock.fraction(step)
        lr_scale = max(min(1.0, left / config.warmdown if config.warmdown else 1.0), config.min_lr)
        loss = train_step(step, lr_scale, loader.next)
        step += 1
        clock.tick()
        stopped = clock.verdict(step)
        want_dev = bool(dev_at) and clock.fraction(step) >= dev_at[0]
        if not (stopped or want_dev or clock.elapsed >= next_log):
            continue
        value = machine.mean(loss)
        if not math.isfinite(value):
            raise RunError(f"the loss is {value} at step {step}: lower --matrix_lr, --embed_lr or --scalar_lr")
        rate = (step - logged_step) * step_tokens / max(1e-9, clock.elapsed - logged_time)
        logged_step, logged_time, next_log = step, clock.elapsed, clock.elapsed + log_every
        row = {
            "step": step,
            "elapsed": round(clock.elapsed, 3),
            "loss": round(value, 5),
            "tokens_per_second": round(rate),
            "mfu": mfu(rate, token_flops, machine),
            "lr_scale": round(lr_scale, 4),
        }
        if want_dev:
            dev_at.popleft()
            with clock.phase("dev"):
                row["dev_bpb"] = estimate()
            clock.start()
        log(progress_line(row, clock, config))
        log.metrics(row)
    clock.ledger["train"] = clock.elapsed

    statistics = None
    if stopped != "sigterm":  # whoever sent the signal may kill soon: then the checkpoint comes first and alone
        with clock.phase("calibrate"), optimizers.averaged():
            statistics = calibrate(model, lambda: loader.next()[0].long(), config, world, rank, device)
        with clock.phase("dev"):
            row = {"step": step, "elapsed": row["elapsed"], "loss": row["loss"], "dev_bpb": estimate()}
        log.metrics(row)
    with clock.phase("save"):
        if rank == 0:
            model_config = {k: getattr(config, k) for k in MODEL_FIELDS if getattr(config, k) != getattr(Config(), k)}
            weights = {name: value.cpu() for name, value in zip(optimizers.names, optimizers.ema)}
            save_tensors(
                folder / "checkpoint.pt",
                {
                    "format": 1,
                    "track": config.track,
                    "config": model_config,
                    "source": source,
                    "source_sha256": sha,
                    "tokenizer": torch.frombuffer(bytearray(tokenizer), dtype=torch.uint8),
                    "model": weights,
                    "step": step,
                    "loader": loader.state,
                },
            )
            if statistics:
                save_tensors(folder / "statistics.pt", statistics)
    rate = step * step_tokens / clock.ledger["train"]
    result = {
        "format": 1,
        "id": folder.name,
        "track": config.track,
        "preset": config.preset,
        "world_size": world,
        "seed": config.seed,
        "config": asdict(config),
        "source_sha256": sha,
        "environment": environment,
        "data": {"dir": config.data_dir, "manifest_sha256": hashlib.sha256(manifest).hexdigest()},
        "clock": {k: round(v, 3) for k, v in clock.ledger.items()},
        "training_seconds": round(clock.ledger["train"] + clock.ledger.get("calibrate", 0.0), 3),
        "steps": step,
        "tokens": step * step_tokens,
        "tokens_per_second": round(rate),
        "mfu": mfu(rate, token_flops, machine),
        "params": params,
        "flops_per_token": token_flops,
        "train_loss": row["loss"],
        "dev_bpb": row.get("dev_bpb"),
        "stopped": stopped,
        "files": ["train.log", "metrics.jsonl", "checkpoint.pt"] + ["statistics.pt"] * bool(statistics),
    }
    log("---")
    for key in (
        "world_size",
        "seed",
        "steps",
        "tokens",
        "tokens_per_second",
        "mfu",
        "params",
        "training_seconds",
        "train_loss",
        "dev_bpb",
        "stopped",
    ):
        log(f"{key}: {result[key]}")
    log(f"run_dir: {folder}")
    if rank == 0:
        write_whole(folder / "run.json", json.dumps(result, indent=1).encode())
    return result


def mfu(tokens_per_second: float, token_flops: int, machine: Machine) -> float | None:
    """Model FLOP utilisation: the share of the machine's matrix peak that the model's own FLOPs use."""
    return (
        round(tokens_per_second * token_flops / (machine.peak_flops * machine.world), 4) if machine.peak_flops else None
    )


def dry_run(config: Config, source: str) -> dict:
    """Traces a training step of the real configuration on fake tensors (no GPU, no memory) and prints what it needs."""
    import lzma

    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker
    from torch.utils.flop_counter import FlopCounterMode

    world = 8 if config.track == "16mb" else 1
    with FakeTensorMode():
        model = build_model(config)
        tokens = torch.zeros(config.micro_batch_tokens // config.seq_len, config.seq_len, dtype=torch.int64)
        tracker, counter = MemTracker(), FlopCounterMode(display=False)
        tracker.track_external(model)
        with tracker, counter, torch.autocast("cpu", dtype=torch.bfloat16):
            model.loss(tokens, tokens).backward()
        peak = next(iter(tracker.get_tracker_snapshot("peak").values()))["Total"]
    params = sum(p.numel() for p in model.parameters())
    matrices = sum(
        p.numel() for name, p in model.named_parameters() if name.startswith("blocks.") and name.endswith(".weight")
    )
    optimiser = 4 * (params + 2 * (params - matrices) + matrices // world)  # EMA, Adam's moments, this rank's momentum
    # Gaussian rows on the packer's grids (PR #1394): a matrix weight costs 3.32 bits, one of the embedding 4.7
    weights = (3.32 * matrices + 4.7 * (params - matrices)) / 8
    code, vocabulary = len(lzma.compress(source.encode(), preset=9)), 2.6 * config.vocab_size
    report = {
        "params": params,
        "flops_per_token": flops_per_token(model, config),
        "flops_per_step": flops_per_token(model, config) * config.batch_tokens,
        "traced_flops_of_a_micro_batch": counter.get_total_flops(),
        "memory_per_gpu_bytes": int(peak + optimiser),
        "predicted_artifact_bytes": int(weights + code + vocabulary),
    }
    for key, value in report.items():
        print(f"{key}: {value:,}")
    print("Memory is traced without fusion, an upper bound. The artifact's size is a prediction from Gaussian weights.")
    return report


def main(argv: list[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if "--help" in argv or "-h" in argv:
        print(Path(__file__).read_text(encoding="utf-8").split('"""')[1])  # __doc__ would keep the text in the artifact
        print("fields:", *(f"--{f.name}={f.default}" for f in fields(Config)), sep="\n  ")
        return 0
    try:
        source = Path(__file__).read_text(encoding="utf-8")
        config = parse_config([a for a in argv if a != "--dry-run"], dict(os.environ))
        (dry_run if "--dry-run" in argv else train)(config, source)
        return 0
    except RunError as error:
        print(f"train_gpt.py: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print("train_gpt.py: interrupted, nothing was saved", file=sys.stderr, flush=True)
        return 130
    except torch.OutOfMemoryError:
        half = max(config.seq_len, config.micro_batch_tokens // 2)
        print(f"train_gpt.py: out of GPU memory: try --micro_batch_tokens={half}", file=sys.stderr, flush=True)
        return 1
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
