"""Train the best language model that fits in a fixed number of bytes within a fixed time.

    torchrun --standalone --nproc_per_node=8 train_gpt.py            # 16mb track: 600 s on 8xH100
    python train_gpt.py --preset=pocket                              # pocket track: 600 s on two CPU cores
    torchrun --standalone --nproc_per_node=2 train_gpt.py --preset=tiny   # the same code path, two gloo ranks
    python train_gpt.py --preset=16mb --dry-run                      # shapes, FLOPs, memory and bytes; no GPU needed

This is the one file a participant edits. It is self-contained: model, Muon, loader, clock, calibration, checkpoint. It
writes runs/<id>/{train.log, metrics.jsonl, run.json, checkpoint.pt, statistics.pt}; `compress` turns that folder into
one .golf file and `eval_heldout.py` scores the file. The minified text of this script travels inside that file, where
only `Config`, `build_model` and `Scorer` are used. Not covered: data preparation, packing, scoring (the dev bpb printed
below is an estimate).
"""

if __name__ == "__main__":  # before torch loads OpenMP: endless spinning makes a step 15-24x slower beside a busy
    for _key, _value in ("OMP_WAIT_POLICY", "passive"), ("GOMP_SPINCOUNT", "10000"):  # process, none 1.2x on its own
        __import__("os").environ.setdefault(_key, _value)

import contextlib
import copy
import ctypes
import difflib
import hashlib
import io
import json
import lzma
import math
import os
import platform
import shutil
import signal
import sys
import time
from collections import deque, namedtuple
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.nn  # now: AdamW would import it later, and its defaults keep the group that is up alive
import torch.nn.functional as F
from torch import Tensor, nn

triton = None
if torch.cuda.is_available():  # elsewhere nothing runs its kernels, and importing Triton takes time
    with contextlib.suppress(ImportError):
        import triton
        import triton.language as tl

SHARD_MAGIC, SHARD_VERSION, SHARD_HEADER_BYTES, BOS = 20240520, 1, 1024, 1


# ---- Configuration ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Config:
    """Every knob. The defaults are the 16mb preset; `--field=value` overrides any of them."""

    # Model. Fields down to score_counts travel in the artifact where they differ from the defaults.
    vocab_size: int = 8192
    seq_len: int = 2048  # tokens of context in training, and of a window in plain scoring
    num_layers: int = 11
    model_dim: int = 512
    num_heads: int = 8
    num_kv_heads: int = 4
    mlp_mult: float = 4.0
    rope_base: float = 10000.0
    logit_softcap: float = 30.0
    # Techniques of the public challenge; False or 0 turns one off
    rope_dims: int = 16  # of a head that rotate, 0: all (PR #315)
    ln_scale: bool = True  # layer l reads its normalised input times 1 / sqrt(l + 1) (PR #315)
    leaky_slope: float = 0.5  # of the activation LeakyReLU^2 for negative inputs; 0 is ReLU^2 (PR #493)
    xsa: bool = True  # heads lose what points along the token's own value (arXiv:2603.09078, PR #478)
    attn_gate: int = 12  # channels that decide how much of each head goes on (PR #1787)
    smear_gate: int = 12  # channels that decide how much of the previous token's embedding is added (PR #1667, #1851)
    gated_skips: bool = True  # U-Net skips mix in by a gate per channel (PR #1089)
    parallel_start: int = 8  # from this layer on, attention and MLP have a lane each (PR #1530)
    loops: int = 2  # extra passes through layers loop_first to loop_last (PR #1394, #1493)
    loop_first: int = 3
    loop_last: int = 5
    # Scoring (Scorer): tokens of a call (0: seq_len), tokens that it sees before them; Adam on scored text (0: none),
    # share of a document's change that stays; counts of scored text
    score_chunk: int = 0
    score_context: int = 1
    score_lr: float = 0.0
    score_keep: float = 0.15
    score_counts: bool = False
    document_mask: bool = True  # training rows hold several documents, which do not see each other (PR #1530)
    # Initialisation
    qk_gain_init: float = 5.0
    ortho_init: bool = True
    # Optimiser: Muon for the matrices, Adam for the embedding and for gains, mixes and skips
    matrix_lr: float = 0.026
    embed_lr: float = 0.03
    scalar_lr: float = 0.02
    muon_momentum: float = 0.97
    muon_momentum_start: float = 0.92
    muon_momentum_steps: int = 1500
    muon_iterations: int = 5
    muon_polar: bool = True  # coefficients of Polar Express (arXiv:2505.16932, PR #1344), not one fixed polynomial
    muon_row_norm: bool = True  # MuonEq-R: rows of equal length first (arXiv:2603.28254, PR #1260)
    weight_decay: float = 0.095  # of Muon; decoupled, times the learning rate
    embed_decay: float = 0.085
    decay_taper: float = 0.0  # share of both decays that goes, linearly over the last 30% of the run (PR #1729: 0.5)
    adam_beta1: float = 0.9
    adam_beta2: float = 0.99
    # Schedule, by elapsed fraction of the clock: constant, then linear down to `min_lr` over the last `warmdown`
    warmdown: float = 0.85
    min_lr: float = 0.1
    loop_from: float = 0.35  # the fraction of the run at which the extra passes begin
    ema_decay: float = 0.9965
    # Batch, in tokens: of a step over all ranks, and of one forward on one rank
    batch_tokens: int = 786_432
    micro_batch_tokens: int = 98_304
    stages: str = ""  # until:seq_len:batch_tokens,... with rising fractions of the run: shorter rows, smaller batches
    # The clock. Zero means no limit; one of the two must be set
    max_seconds: float = 600.0
    max_steps: int = 0
    checkpoint_every: int = 1000  # steps of a run without max_seconds, which goes on from there if it was cut off
    calibration_tokens: int = 262_144  # over all ranks, for the second moments that packing needs
    dev_tokens: int = 1_048_576  # of the dev split, for the estimates in the log
    dev_evals: int = 4
    # The run
    preset: str = "16mb"
    track: str = "16mb"
    seed: int = 1337
    data_dir: str = "data/fineweb_sp8192"
    run_dir: str = ""  # default: runs/<preset>-<time>-s<seed>
    compile: bool = True


NAMES = [field.name for field in fields(Config)]
MODEL_FIELDS = NAMES[: NAMES.index("document_mask")]
SMALL = dict(
    track="pocket", num_heads=2, num_kv_heads=1, rope_dims=0, ln_scale=False, attn_gate=0, parallel_start=0, loops=0,
    document_mask=False, qk_gain_init=1.5, ortho_init=False, matrix_lr=0.03, embed_lr=0.05, scalar_lr=0.04,
    muon_momentum=0.95, muon_momentum_start=0.85, muon_momentum_steps=300, weight_decay=0.03, embed_decay=0.0,
    warmdown=0.75, min_lr=0.0, ema_decay=0.99,
)  # fmt: skip
POCKET = SMALL | dict(
    data_dir="data/embedded_sp2048_case", vocab_size=2048, seq_len=512, num_layers=4, model_dim=128, mlp_mult=1.5,
    batch_tokens=4096, micro_batch_tokens=4096, stages="0.7:256:4096", calibration_tokens=131_072, dev_tokens=65_536,
    score_chunk=256, score_context=257, score_lr=0.0008, score_counts=True,
)  # fmt: skip
TINY = SMALL | dict(
    data_dir="data/embedded", vocab_size=1024, seq_len=128, num_layers=2, model_dim=64, mlp_mult=2.0,
    batch_tokens=2048, micro_batch_tokens=1024, max_seconds=20.0, calibration_tokens=8192, dev_tokens=16_384,
    dev_evals=1,
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
            switch = {"": True, "true": True, "1": True, "false": False, "0": False}
            values[key] = switch[text.lower()] if kind is bool else kind(text)
            if kind is str and not has_value or kind is float and not math.isfinite(values[key]):
                raise ValueError
        except (ValueError, KeyError):
            raise RunError(f"bad value in {argument!r}: --{key} takes a {kind.__name__}") from None
    for key in (key for key in known if key.upper() in environment):
        use = f"use --{key}={environment[key.upper()]}"
        raise RunError(f"the environment sets {key.upper()}, unread here: {use}")
    preset = values.get("preset") or ("16mb" if torch.cuda.is_available() else "pocket")
    if preset not in PRESETS:
        raise RunError(f"no preset {preset!r}: choose one of {', '.join(PRESETS)}")
    c = replace(Config(), **PRESETS[preset] | values | {"preset": preset})
    sizes = (c.vocab_size, c.seq_len, c.num_layers, c.model_dim, c.num_heads, c.num_kv_heads, c.batch_tokens,
             c.micro_batch_tokens, c.calibration_tokens, c.score_context, round(c.mlp_mult * c.model_dim))  # fmt: skip
    negative = [key for key, value in asdict(c).items() if key != "seed" and not isinstance(value, str) and value < 0]
    looped = c.parallel_start or c.num_layers  # only layers before the two lanes can be passed again
    for bad, why in (
        (negative, f"--{', --'.join(negative)} must not be negative"),
        (min(sizes) < 1, "sizes must be at least 1"),
        (max(c.warmdown, c.score_keep) > 1, "--warmdown and --score_keep must be at most 1"),
        (max(c.ema_decay, c.loop_from) >= 1, "--ema_decay and --loop_from must be below 1"),
        (c.vocab_size > 65_536, "--vocab_size must fit in the shards' 16 bits"),
        (c.model_dim % (2 * c.num_heads), "--model_dim must be an even multiple of --num_heads"),
        (c.num_heads % c.num_kv_heads, "--num_heads must be a multiple of --num_kv_heads"),
        (c.rope_dims % 2 or c.rope_dims > c.model_dim // c.num_heads, "--rope_dims must be even, and within a head"),
        (max(c.attn_gate, c.smear_gate) > c.model_dim, "--attn_gate and --smear_gate must be within --model_dim"),
        (c.parallel_start >= c.num_layers, "--parallel_start must be a layer"),
        (c.loops and not c.loop_first <= c.loop_last < looped, "--loop_first to --loop_last must be layers"),
        (c.micro_batch_tokens % c.seq_len, "--micro_batch_tokens must be a multiple of --seq_len"),
        (c.max_seconds <= 0 and c.max_steps <= 0, "set --max_seconds or --max_steps"),
    ):
        if bad:
            raise RunError(why)
    stages(c, 1)
    return c


# What the schedules keep constant until a fraction of the run, and so one compiled graph: extra passes, length of rows,
# rows (of seq_len tokens) in one forward on one rank, forwards of a step, tokens of a step over all ranks.
Stage = namedtuple("Stage", "until loops length rows accumulate tokens")


def stages(config: Config, world: int) -> list[Stage]:
    """The run's stages in order, on any number of ranks. Raises RunError if `config.stages` cannot be read."""
    c, result = config, []
    try:
        parts = [part.split(":") for part in c.stages.split(",") if part]
        plan = [(float(until), int(length), int(batch)) for until, length, batch in parts]
        ends = [0.0] + [until for until, _, _ in plan] + [1.0]
        if any(a >= b for a, b in zip(ends, ends[1:])) or any(n < 1 or c.seq_len % n or b < 1 for _, n, b in plan):
            raise ValueError
    except ValueError:
        raise RunError("--stages must be like 0.2:512:4096,0.5:1024:8192, with lengths that divide --seq_len") from None
    plan.append((1.0, c.seq_len, c.batch_tokens))
    for until in sorted({until for until, _, _ in plan} | ({c.loop_from} - {0.0} if c.loops else set())):
        length, batch = next(values for end, *values in plan if until <= end)
        rows = -(-batch // (c.seq_len * world))  # of a step on one rank
        accumulate = -(-rows * c.seq_len // c.micro_batch_tokens)
        rows, loops = -(-rows // accumulate), c.loops if until > c.loop_from else 0
        result.append(Stage(until, loops, length, rows, accumulate, rows * accumulate * c.seq_len * world))
    return result


# ---- Model. Shapes: B batch, T time, D width, H heads, G key/value heads, K head width, V vocabulary -----------------
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
    a, b, rest = x.split((cos.size(1), cos.size(1), x.size(-1) - 2 * cos.size(1)), -1)
    return torch.cat((a * cos + b * sin, b * cos - a * sin, rest), -1)


def document_mask(tokens: Tensor) -> Tensor:
    """[B, 1, T, T] of packed rows [B, T]: true where i may read j, in the same document. Documents start at BOS."""
    document = (tokens == BOS).cumsum(1)
    return (document[:, :, None] == document[:, None]).tril()[:, None]


def document_bounds(tokens: Tensor, max_documents: int) -> Tensor:
    """The same for kernels of variable length: where segments of the flattened batch start, and its end, int32. Their
    number is fixed, so that shapes are static: spare ones are empty and lie at the end, and from the max_documents-th
    on, a document stays with the one before it in its row."""
    (B, T), end = tokens.shape, tokens.numel()
    position = torch.arange(end, device=tokens.device).view(B, T)
    order = torch.where(tokens == BOS, position + end, 2 * end)
    order[:, 0] = position[:, 0]  # rows come first: without their starts a segment could be longer than T
    cuts = order.flatten().sort().values[:max_documents]
    return F.pad(torch.where(cuts < 2 * end, cuts % end, end).sort().values, (0, 1), value=end).int()


def attend(q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None) -> Tensor:
    """Causal attention of q [B, H, T, K] over k, v [B, G, T, K]; within documents if given their mask or bounds."""
    if documents is None and q.is_cpu and q.requires_grad and q.size(2) <= 1024 and torch.compiler.is_compiling():
        return attend_in_blocks(q, k, v)  # long rows would need too much memory; uncompiled it is slower than torch's
    if documents is None or documents.ndim == 4:
        causal = documents is None
        return F.scaled_dot_product_attention(q, k, v, attn_mask=documents, is_causal=causal, enable_gqa=True)
    from torch.nn.attention.varlen import varlen_attn

    (B, H, T, K), flat = q.shape, [x.transpose(1, 2).flatten(0, 1).bfloat16() for x in (q, k, v)]
    y = varlen_attn(*flat, documents, documents, T, T, window_size=(-1, 0), enable_gqa=True)
    return y.view(B, T, H, K).transpose(1, 2).to(q.dtype)


def attend_in_blocks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention for training on a CPU, where torch's own spends 60% of a step in its backward pass.

    Products of whole blocks: those on the diagonal, masked, then for widths w, 2w, 4w ... each odd block of queries
    with the block of keys before it; with compiled exponentials in between. There is no maximum to subtract:
    Attention bounds the scores.
    """
    (B, H, T, K), G, exact = q.shape, k.size(1), torch.promote_types(q.dtype, torch.float32)
    first = 64 if T % 64 == 0 and T & (T - 1) == 0 else T
    q, k, v = (x.reshape(B * G, -1, T, K) for x in (q / math.sqrt(K), k, v))
    lower, total, weight = torch.ones(first, first, dtype=torch.bool, device=q.device).tril(), 0.0, 0.0
    for offset in [0] + [first << n for n in range((T // first).bit_length() - 1)]:  # from queries back to their keys
        width, every = offset or first, 2 if offset else 1
        q_, k_, v_ = (x.unflatten(2, (-1, width)).transpose(1, 2) for x in (q, k, v))  # [B G, T/w, heads, w, K]
        q_, k_, v_ = (x[:, ::every].flatten(2, 3) for x in (q_[:, every - 1 :], k_, v_))
        scores = (q_ @ k_.mT).to(exact).unflatten(2, (-1, width)).exp()
        scores = scores if offset else torch.where(lower, scores, 0.0)
        part = (scores.to(v.dtype).flatten(2, 3) @ v_).to(exact).unflatten(2, (-1, width))
        total = total + F.pad(part.transpose(1, 2), (0, 0, offset, 0)).flatten(2, 3)  # [B G, heads, T, K]
        weight = weight + F.pad(scores.sum(-1).transpose(1, 2), (offset, 0)).flatten(2, 3)  # [B G, heads, T]
    return (total / weight[..., None]).to(q.dtype).view(B, H, T, K)


def choose_attention(config: Config, device: torch.device) -> str:
    """Activates the first FlashAttention that runs here, forward and backward: its name, or why it is torch's own."""
    if device.type == "cpu":
        blocks = config.compile and config.seq_len <= 1024 and not config.document_mask
        return "attend_in_blocks" if blocks else "scaled_dot_product_attention"
    H, G, T, result = config.num_heads, config.num_kv_heads, 128, "torch's own attention"
    qkv = torch.randn(1, H + 2 * G, T, config.model_dim // H, device=device, dtype=torch.bfloat16, requires_grad=True)
    for name in ("FA3", "FA4"):  # made for Hopper; in beta, for Hopper and Blackwell
        try:
            torch.nn.attention.activate_flash_attention_impl(name)
            documents = torch.tensor([0, 50, T], device=device, dtype=torch.int32)
            attend(*qkv.split((H, G, G), 1), documents).sum().backward()
            torch.backends.cuda.enable_cudnn_sdp(False)  # where rows are not cut torch might prefer it
            return name
        except Exception as error:  # of other people's kernels, or of importing them: anything may come
            result += f", no {name}: {error!r:.60}"
    torch.nn.attention.restore_flash_attention_impl(False)
    return result


class Attention(nn.Module):
    """Causal grouped-query attention with QK-norm, RoPE and a learned gain per query head.

    xsa removes from a head's output its part along the token's own value vector; the gate scales each head's output
    by a sigmoid of a few channels of the input.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.heads, self.kv_heads = config.num_heads, config.num_kv_heads
        self.width = config.model_dim // config.num_heads
        self.rope, self.xsa = (config.rope_dims or self.width, config.rope_base), config.xsa
        self.register_buffer("table", rope_table(config.seq_len, *self.rope), persistent=False)  # not in the kernels
        self.qkv = nn.Linear(config.model_dim, (self.heads + 2 * self.kv_heads) * self.width, bias=False)
        self.proj = nn.Linear(config.model_dim, config.model_dim, bias=False)
        self.gain = nn.Parameter(torch.full((self.heads,), config.qk_gain_init))
        self.gate = nn.Parameter(torch.zeros(self.heads, config.attn_gate)) if config.attn_gate else None

    def forward(self, x: Tensor, documents: Tensor | None) -> Tensor:
        """x [B, T, D]; documents: for attend."""
        B, T, D = x.shape
        heads = self.qkv(x).view(B, T, -1, self.width).transpose(1, 2)  # [B, H+2G, T, K]
        q, k, v = heads.split((self.heads, self.kv_heads, self.kv_heads), 1)
        table = self.table[:, :T] if T <= self.table.size(1) else rope_table(T, *self.rope).to(x.device)
        q, k = (rotate(norm(z), table) for z in (q, k))
        gain = self.gain.clamp(max=80 / math.sqrt(self.width))  # scores stay where exp() is finite; none ever came near
        q = q * gain.to(q.dtype)[:, None, None]
        v = v.to(q.dtype)
        y = attend(q, k.to(q.dtype), v, documents)
        if self.xsa:
            own = F.normalize(v, dim=-1).to(y.dtype)[:, :, None]  # [B, G, 1, T, K]: one for H / G heads
            y = y.view(B, self.kv_heads, -1, T, self.width)
            y = (y - (y * own).sum(-1, keepdim=True) * own).flatten(1, 2)
        if self.gate is not None:
            gate = torch.sigmoid(0.5 * F.linear(x[..., : self.gate.size(1)], self.gate))  # [B, T, H]; 0.5: PR #1855
            y = y * gate.transpose(1, 2)[..., None]
        return self.proj(y.transpose(1, 2).reshape(B, T, D))


class MLP(nn.Module):
    """Two projections around LeakyReLU^2; with slope 0 it is ReLU^2 (So et al. 2021)."""

    def __init__(self, config: Config):
        super().__init__()
        hidden = round(config.mlp_mult * config.model_dim)
        self.up = nn.Linear(config.model_dim, hidden, bias=False)
        self.down = nn.Linear(hidden, config.model_dim, bias=False)
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
        self.mix = nn.Parameter(torch.stack((torch.ones(config.model_dim), torch.zeros(config.model_dim))))
        self.attn_gain, self.mlp_gain = (nn.Parameter(torch.ones(config.model_dim)) for _ in range(2))
        self.scale = (layer + 1) ** -0.5 if config.ln_scale else 1.0
        self.parallel = 0 < config.parallel_start <= layer
        if self.parallel:
            self.route = nn.Parameter(torch.tensor([[1.1, 1.0, 1.0]] * 2))

    def forward(self, x: Tensor, lane: Tensor | None, x0: Tensor, documents: Tensor | None):
        """Returns both lanes, the second None before parallel_start."""
        u = self.mix[0] * x + self.mix[1] * x0
        attention = self.attn_gain * self.attn(norm(u) * self.scale, documents)
        if not self.parallel:
            u = u + attention
            return u + self.mlp_gain * self.mlp(norm(u) * self.scale), None
        mlp = self.mlp_gain * self.mlp(norm(lane) * self.scale)
        return tuple(r[0] * old + r[1] * attention + r[2] * mlp for r, old in zip(self.route, (x, lane)))


# The loss on a GPU, of rows of logits z [N, V] before the softcap. With c = 2 cap it is that of y = c sigmoid(4 z / c)
# = cap tanh(z / cap) + cap: softmax ignores a constant, and what is at most c needs no maximum subtracted. z is read
# once each way, and nothing of its size is kept in float32. c is a constant of the kernels, as compiled code (of torch
# 2.13) hands numbers to them in float64.
if triton:

    @triton.jit
    def loss_kernel(z_ptr, target_ptr, loss_ptr, lse_ptr, c: tl.constexpr, V: tl.constexpr, BLOCK: tl.constexpr):
        """A row's loss and logsumexp."""
        i, sums = tl.program_id(0).to(tl.int64), tl.zeros((BLOCK,), tl.float32)
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
        i, j = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        s = tl.sigmoid(4 / c * tl.load(z_ptr + i * V + j, j < V).to(tl.float32))
        h = tl.where(j == tl.load(target_ptr + i), 1.0, 0.0)
        dz = tl.load(scale_ptr) * (tl.exp(c * s - tl.load(lse_ptr + i)) - h) * 4 * s * (1 - s)
        tl.store(dz_ptr + i * V + j, dz, j < V)

    class FusedLoss(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z, targets, c):
            loss, lse = (torch.empty(len(z), device=z.device) for _ in range(2))
            loss_kernel[(len(z),)](z, targets, loss, lse, c, z.size(1), 1024)
            ctx.save_for_backward(z, targets, lse)
            ctx.c = c
            return loss.mean()

        @staticmethod
        def backward(ctx, scale):
            z, targets, lse = ctx.saved_tensors
            dz, grid = torch.empty_like(z), (len(z), triton.cdiv(z.size(1), 1024))
            gradient_kernel[grid](z, targets, scale / len(z), lse, dz, ctx.c, z.size(1), 1024)
            return dz, None, None


class GPT(nn.Module):
    """Tied embedding, U-Net skips between the two halves of the layers as they are passed, softcapped logits.

    `loops` is the number of extra passes that are on; training starts with none. In training mode documents that share
    a row do not see each other (`document_mask`); in evaluation a row is one document.
    """

    def __init__(self, config: Config):
        super().__init__()
        c = self.config = config
        self.loops = c.loops
        self.embed = nn.Embedding(c.vocab_size, c.model_dim)
        self.blocks = nn.ModuleList(Block(c, layer) for layer in range(c.num_layers))
        slots = len(self.order()) // 2
        self.skip = nn.Parameter(torch.ones(slots, c.model_dim))
        self.skip_gate = nn.Parameter(torch.zeros(slots, c.model_dim)) if c.gated_skips else None
        nn.init.normal_(self.embed.weight, std=0.005)
        if c.smear_gate:
            self.smear = nn.Parameter(torch.zeros(1, c.smear_gate))
            self.smear_scale = nn.Parameter(torch.zeros(1))
        if c.ortho_init:
            for name, p in self.named_parameters():
                for rows in matrix_parts(name, p, c):
                    nn.init.orthogonal_(p.data[rows])
        for block in self.blocks:  # each block starts as the identity
            nn.init.zeros_(block.attn.proj.weight)
            nn.init.zeros_(block.mlp.down.weight)

    def order(self) -> list[int]:
        """The layers in the order in which they are passed."""
        layers, first, end = list(range(self.config.num_layers)), self.config.loop_first, self.config.loop_last + 1
        return layers[:first] + layers[first:end] * (1 + self.loops) + layers[end:]

    def hidden(self, tokens: Tensor) -> Tensor:
        """tokens [B, T] -> what the output head reads [B, T, D]."""
        c, order, documents, x = self.config, self.order(), None, self.embed(tokens)
        if c.smear_gate:
            inside = tokens != BOS  # at BOS there is no token before
            inside[:, 0] = False
            gate = self.smear_scale * torch.sigmoid(F.linear(x[..., : c.smear_gate], self.smear))
            x = x + gate * inside[..., None] * x.roll(1, 1)
        if c.document_mask and self.training:  # CPUs have no kernels of variable length
            most = len(tokens) + tokens.numel() // 128  # no corpus has documents so short
            documents = document_bounds(tokens, most) if tokens.is_cuda else document_mask(tokens)
        x = x0 = norm(x)
        half, saved, lane = len(order) // 2, [], None
        for i, layer in enumerate(order):
            block = self.blocks[layer]
            if block.parallel and lane is None:
                lane = x
            if i >= len(order) - half:  # the second half reads the first half's outputs, last one first
                slot = len(saved) - 1
                back = self.skip[slot] * saved.pop()
                x = x + back if self.skip_gate is None else torch.lerp(back, x, torch.sigmoid(self.skip_gate[slot]))
            x, lane = block(x, lane, x0, documents)
            if i < half:
                saved.append(x)
        return norm(x if lane is None else (x + lane) / 2)

    def forward(self, tokens: Tensor, first: int = 0) -> Tensor:
        """tokens [B, T] -> logits [B, T - first, V] in float32; logits[:, i] predicts tokens[:, first + i + 1]."""
        z = F.linear(self.hidden(tokens)[:, first:], self.embed.weight)
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        return self.config.logit_softcap * torch.tanh(z / self.config.logit_softcap)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean negative log-likelihood of targets [B, T] in nats per token."""
        cap, z = self.config.logit_softcap, F.linear(self.hidden(tokens), self.embed.weight)
        if triton and z.is_cuda:
            return FusedLoss.apply(z.flatten(0, 1), targets.flatten(), 2 * cap)
        # cap * tanh(z / cap) + cap: at most 2 cap, so there is no maximum to subtract
        y = 2 * cap * torch.sigmoid(z.to(torch.promote_types(z.dtype, torch.float32)) * (2 / cap))
        hit = torch.arange(y.size(-1), device=y.device) == targets[..., None]
        return (y.exp().sum(-1).log() - torch.where(hit, y, 0.0).sum(-1)).mean()


def matrix_parts(name: str, p: Tensor, config: Config) -> list[slice]:
    """The matrices in a parameter as slices of its rows: none in a table or a vector, three in a fused projection."""
    if not name.endswith(".weight") or "embed" in name:
        return []
    width = config.model_dim // config.num_heads
    parts = [config.num_heads * width] + [config.num_kv_heads * width] * 2 if "qkv" in name else [p.size(0)]
    return [slice(end - n, end) for end, n in zip(np.cumsum(parts).tolist(), parts)]


def build_model(config: Config) -> nn.Module:
    return GPT(config)


class Scorer:
    """How the artifact is scored: windows that keep context, steps on text whose score is final, counts of that text.

    A call's tokens [B, C] are predicted with the `score_context` tokens before them, as far as their document has so
    many. Scope document, unless it learns over the stream of documents, one lane at a time. `score_lr`: each chunk,
    once scored, gives one step of Adam (no momentum) on all weights (dynamic evaluation, Krause et al. 2018; PR #549,
    PR #1413); at the end of a document all but `score_keep` of what it changed is undone. `score_counts`: the model's
    row is the base of a Dirichlet mixture, with discount, of what followed the same tokens before: the last one and
    two in this document, the last 3 and 5 anywhere (as in Teh 2006, no sampler).
    """

    # (tokens before the predicted one, mass of the row below); the first two count in the document alone
    ORDERS, DISCOUNT = ((1, 100.0), (2, 1.0), (3, 100.0), (5, 1.0)), 0.7

    def __init__(self, model: nn.Module, config: Config):
        self.model, self.config, self.params = model, config, list(model.parameters())
        self.chunk = config.score_chunk or config.seq_len
        self.scope = "stream" if config.score_lr or config.score_counts else "document"
        self.seen, self.new = [{} for _ in self.ORDERS], []  # context -> what followed it: committed, in the last call
        if config.score_lr:
            self.adam = torch.optim.Adam(self.params, config.score_lr, betas=(0.0, 0.99), fused=True)
            self.kept = [p.detach().clone() for p in self.params]

    @torch.no_grad()
    def start(self, lanes: int):
        """New documents begin in `lanes` lanes."""
        self.past = torch.full((lanes, 1), BOS, device=self.params[0].device)
        self.seen[:2] = {}, {}
        if self.config.score_lr:
            torch._foreach_lerp_(self.kept, self.params, self.config.score_keep)
            torch._foreach_copy_(self.params, self.kept)

    def logits(self, tokens: Tensor) -> Tensor:
        """tokens [B, C] -> logits [B, C, V]; row i predicts tokens[:, i] from what came before it. No state changes."""
        self.tokens, past = tokens, self.past[:, -self.config.score_context :]
        with torch.set_grad_enabled(self.config.score_lr > 0):
            self.rows = self.model(torch.cat((past, tokens[:, :-1]), 1), past.size(1) - 1)
        return self.mix() if self.config.score_counts else self.rows

    def mix(self) -> Tensor:
        """Log-probabilities [1, C, V]. What followed in the chunk, before a row, counts like what is committed."""
        p, self.new = self.rows[0].detach().float().softmax(1), []
        text = torch.cat((self.past, self.tokens), 1)[0].tolist()
        for seen, (order, mass) in zip(self.seen, self.ORDERS):
            found, inside = [], {}
            for row, i in enumerate(range(self.past.size(1), len(text))):
                context = tuple(text[max(0, i - order) : i])
                found += [row * p.size(1) + t for t in seen.get(context, []) + inside.setdefault(context, [])]
                inside[context].append(text[i])
            self.new.append(inside)
            counts = torch.bincount(torch.tensor(found, dtype=torch.int64), minlength=p.numel()).view_as(p).to(p)
            below = mass + self.DISCOUNT * (counts > 0).sum(1, keepdim=True)
            p = ((counts - self.DISCOUNT).clamp_min(0) + below * p) / (counts.sum(1, keepdim=True) + mass)
        return p.log()[None]

    def observe(self):
        """The chunk's score is final: learn from it."""
        self.past = torch.cat((self.past, self.tokens), 1)[:, -max(self.config.score_context, self.ORDERS[-1][0]) :]
        for seen, inside in zip(self.seen, self.new):
            for context, followed in inside.items():
                seen.setdefault(context, []).extend(followed)
        if self.config.score_lr:
            F.cross_entropy(self.rows.flatten(0, 1).float(), self.tokens.flatten(), reduction="sum").backward()
            self.adam.step()
            self.adam.zero_grad()


def multiplied_weights(model: GPT) -> int:
    """Matrix weights that one token meets: looped layers count once per pass, the tied embedding once, as the head."""
    block = sum(p.numel() for name, p in model.blocks[0].named_parameters() if name.endswith(".weight"))
    return len(model.order()) * block + model.embed.weight.numel()


def flops_per_token(model: GPT, config: Config) -> int:
    """Training FLOPs of one token: 6 per matrix weight, and the causal half of attention's 12 T D per layer."""
    return 6 * multiplied_weights(model) + 6 * len(model.order()) * config.seq_len * config.model_dim


# ---- Optimiser -------------------------------------------------------------------------------------------------------
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
    x = g.mT if g.size(-2) > g.size(-1) else g
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for i in range(iterations):
        a, b, c = coefficients[min(i, len(coefficients) - 1)]
        s = x @ x.mT
        x = a * x + (b * s + c * (s @ s)) @ x
    return x.mT if g.size(-2) > g.size(-1) else x


class Muon:
    """Momentum with orthogonalised updates, sharded over ranks (Jordan et al. 2024; sharding as in public PR #399).

    matrices: row blocks of 2-D parameters; fused projections give several. Blocks of one shape form a bank: gradients
    are reduce-scattered, every rank orthogonalises the matrices it owns, and the updates are all-gathered, so that the
    update is that of one process. Weight decay is decoupled and follows the learning rate.
    """

    def __init__(self, matrices: list[tuple], config: Config, dtype: torch.dtype, world: int, rank: int):
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
    def step(self, lr: float, momentum: float, decay: float):
        """One update from the parameters' .grad (each rank's own mean); lr and decay include the schedule."""
        updates = [self.update(*bank, lr, momentum, decay) for bank in zip(self.banks, self.momentum)]
        for _ in range(3):  # one bank's messages travel while others are computed
            for update in updates:
                next(update, None)

    def update(self, bank: tuple, buffer: Tensor, lr: float, momentum: float, decay: float):
        """Updates a bank; yields where it would wait for other ranks: twice, or never if there are none."""
        shape, matrices = bank
        grad = torch.stack([p.grad[rows] for p, rows in matrices])
        if self.world > 1:
            padded = F.pad(grad, (0, 0, 0, 0, 0, buffer.size(0) * self.world - len(matrices)))
            grad = torch.empty_like(buffer)
            sent = dist.reduce_scatter_tensor(grad, padded, op=dist.ReduceOp.SUM, async_op=True)
            yield
            sent.wait()
            grad /= self.world
        buffer.mul_(momentum).add_(grad)
        grad.add_(buffer, alpha=momentum)
        if self.config.muon_row_norm:
            grad /= grad.norm(dim=-1, keepdim=True).clamp_min(1e-7)
        coefficients = POLAR_EXPRESS if self.config.muon_polar else QUINTIC
        update = newton_schulz(grad.to(self.dtype), self.config.muon_iterations, coefficients)
        if self.world > 1:
            own, update = update.contiguous(), update.new_empty(update.size(0) * self.world, *shape)
            sent = dist.all_gather_into_tensor(update, own, async_op=True)
            yield
            sent.wait()
        scale = lr * math.sqrt(max(1.0, shape[0] / shape[1]))
        for (p, rows), u in zip(matrices, update):
            p.data[rows].mul_(1 - lr * decay).sub_(u, alpha=scale)


class Optimizers:
    """Muon and Adam behind one step, and the exponential moving average of the weights."""

    def __init__(self, model: GPT, config: Config, dtype: torch.dtype, world: int, rank: int):
        self.config, self.world, self.rank = config, world, rank
        self.names, self.params = zip(*model.named_parameters())
        matrices, self.adam_params = [], []
        for name, p in zip(self.names, self.params):
            parts = matrix_parts(name, p, config)  # q, k and v are fused for speed and orthogonalised apart
            matrices += [(p, rows) for rows in parts]
            if not parts:
                self.adam_params.append(p)
        self.muon = Muon(matrices, config, dtype, world, rank)
        tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
        scalars = [p for p in self.adam_params if all(p is not table for table in tables)]
        groups = (tables, config.embed_lr, config.embed_decay), (scalars, config.scalar_lr, 0.0)
        groups = [dict(params=params, base_lr=lr, base_decay=decay) for params, lr, decay in groups]
        self.adam = torch.optim.AdamW(groups, lr=0.0, betas=(config.adam_beta1, config.adam_beta2), fused=True)
        self.ema = [p.detach().clone() for p in self.params]

    @torch.no_grad()
    def step(self, step: int, lr_scale: float, fraction: float = 0.0):
        """One update; `fraction` of the run is over."""
        c = self.config
        if self.world > 1:  # all small gradients in one message
            flat = torch.cat([p.grad.flatten() for p in self.adam_params])
            sent = dist.all_reduce(flat, async_op=True)
        warm = min(1.0, step / max(1, c.muon_momentum_steps))
        momentum = c.muon_momentum_start + warm * (c.muon_momentum - c.muon_momentum_start)
        taper = 1 - c.decay_taper * max(0.0, (fraction - 0.7) / 0.3)
        self.muon.step(c.matrix_lr * lr_scale, momentum, c.weight_decay * taper)
        if self.world > 1:
            sent.wait()
            flat /= self.world
            for p, g in zip(self.adam_params, flat.split([p.numel() for p in self.adam_params])):
                p.grad.copy_(g.view_as(p))
        for group in self.adam.param_groups:
            group["lr"], group["weight_decay"] = group["base_lr"] * lr_scale, group["base_decay"] * taper
        self.adam.step()
        decay = min(c.ema_decay, (1 + step) / (10 + step))  # short memory first, so that the start is forgotten
        torch._foreach_lerp_(self.ema, [p.detach() for p in self.params], 1 - decay)
        for p in self.params:
            p.grad = None

    def state(self) -> dict:
        """A copy of all that a step changes on this rank."""
        lists = [[x.detach() for x in each] for each in (self.params, self.ema, self.muon.momentum)]
        return copy.deepcopy({"lists": lists, "adam": self.adam.state_dict()})

    @torch.no_grad()
    def load(self, state: dict):
        for own, saved in zip((self.params, self.ema, self.muon.momentum), state["lists"]):
            torch._foreach_copy_(list(own), saved)
        self.adam.load_state_dict(state["adam"])

    @contextlib.contextmanager
    def averaged(self):
        """Inside, the model holds the averaged weights."""
        params = [p.detach() for p in self.params]
        live = copy.deepcopy(params)
        torch._foreach_copy_(params, self.ema)
        yield
        torch._foreach_copy_(params, live)


# ---- Data ------------------------------------------------------------------------------------------------------------
def open_shard(path: Path, vocab_size: int) -> np.memmap:
    """Maps a shard's uint16 tokens; raises RunError if header and size disagree."""
    header = np.fromfile(path, dtype="<i4", count=SHARD_HEADER_BYTES // 4)
    if len(header) < SHARD_HEADER_BYTES // 4 or header[0] != SHARD_MAGIC or header[1] != SHARD_VERSION:
        raise RunError(f"{path} has a bad header: build it again with golf data")
    if path.stat().st_size != SHARD_HEADER_BYTES + 2 * int(header[2]):
        raise RunError(f"{path} is truncated: build it again with golf data")
    tokens = np.memmap(path, dtype="<u2", mode="r", offset=SHARD_HEADER_BYTES, shape=(int(header[2]),))
    if len(tokens) == 0 or int(tokens[: 1 << 20].max()) >= vocab_size:
        raise RunError(f"{path} is empty or has tokens beyond --vocab_size={vocab_size}: another tokenizer's shard?")
    return tokens


def find_shards(data_dir: str, split: str) -> list[Path]:
    paths = sorted(Path(data_dir).glob(f"{split}_*.bin"))
    if not paths:
        name, _, variant = Path(data_dir).name.partition("_")
        recipe = f"{name} --variant {variant or 'sp1024'}"
        raise RunError(f"no {split} shards in {data_dir}: run `golf data {recipe}` or give --data_dir")
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


def cut_rows(data: Tensor, starts: Tensor, order: Tensor, cursor: Tensor, rows: int, length: int) -> tuple:
    """Gathers rows [rows, length] of inputs and of targets one token later, as int32, without leaving the device."""
    first = starts[order[cursor + torch.arange(rows, device=data.device)]]
    window = data[first[:, None] + torch.arange(length + 1, device=data.device)].int() & 0xFFFF
    return window[:, :-1], window[:, 1:]


class Loader:
    """Endless batches from this rank's tokens, which stay on the device as 16-bit integers; order fixed by the seed.

    `rows` and `piece`, the length in which rows are handed out, may change between batches. `state` is enough to go on
    exactly where a checkpoint stopped (same data, seed and world size).
    """

    def __init__(self, tokens: np.ndarray, rows: int, config: Config, rank: int, device: torch.device):
        starts = row_starts(tokens, config.seq_len)
        if len(starts) < rows:
            why = f"rank {rank} has {len(starts)} rows, a micro-batch has {rows}"
            raise RunError(f"{why}: use more data or lower --micro_batch_tokens")
        self.rows, self.length, self.seed = rows, config.seq_len, config.seed * 1_000_003 + rank
        self.piece = self.length
        self.data = torch.from_numpy(tokens.astype(np.uint16, copy=True).view(np.int16)).to(device)
        self.starts = torch.from_numpy(starts).to(device)
        self.cut = torch.compile(cut_rows, dynamic=False) if config.compile else cut_rows
        self.load({"epoch": 0, "cursor": 0})

    def load(self, state: dict):
        self.state = dict(state)
        generator = torch.Generator().manual_seed(self.seed + 7919 * state["epoch"])
        self.order = torch.randperm(len(self.starts), generator=generator).to(self.data.device)
        # the cursor is counted on the device too, so that a step reads no host memory
        self.position = torch.tensor(state["cursor"], device=self.data.device)

    def next(self) -> tuple[Tensor, Tensor]:
        if self.state["cursor"] + self.rows > len(self.starts):
            self.load({"epoch": self.state["epoch"] + 1, "cursor": 0})
        batch = self.cut(self.data, self.starts, self.order, self.position, self.rows, self.length)
        self.state["cursor"] += self.rows
        self.position += self.rows
        return tuple(part.reshape(-1, self.piece) for part in batch)

    def warm_up(self):
        """Compiles the gather on blank tokens, so that nothing reads training data outside the clock."""
        self.cut(torch.zeros_like(self.data), self.starts, self.order, self.position, self.rows, self.length)


# ---- The clock -------------------------------------------------------------------------------------------------------
def learning_rate_scale(config: Config, fraction: float) -> float:
    """Constant, then linear to 0 over the last `warmdown` of the run, but never below `min_lr`."""
    return max(min(1.0, (1 - fraction) / config.warmdown if config.warmdown else 1.0), config.min_lr)


class Clock:
    """Wall seconds by phase, and the guard that stops training before the cap on all ranks at the same step.

    `elapsed` counts training alone. After each step the ranks agree on the largest elapsed time, the largest of their
    last eight step times and on whether anybody was told to stop; the schedule reads the agreed time, so that ranks
    never differ. A GPU works behind the host, which launches a step before it waits for the one before: then `elapsed`
    ends with that one, and the guard leaves room for the step under way too.
    """

    def __init__(self, config: Config, world: int, device: torch.device):
        self.config, self.world = config, world
        self.on_gpu, self.launched = device.type == "cuda", None
        self.ledger: dict[str, float] = {}
        self.reserve = 0.0  # seconds of the cap kept for calibration
        self.steps: deque[float] = deque(maxlen=8)
        self.used, self.elapsed, self.step_seconds, self.told_to_stop, self.signalled = 0.0, 0.0, 0.0, 0.0, False
        self.last = time.perf_counter()

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
        """Call after each step (again, to wait for a GPU): adds it to this rank's time and agrees with the others."""
        if self.on_gpu:
            event = torch.cuda.current_stream().record_event()
            (self.launched or event).synchronize()  # how long the first step takes must be known before the second
            self.launched = event
        now = time.perf_counter()
        self.used += now - self.last
        self.steps.append(now - self.last)
        self.last = now
        own = self.used, max(self.steps), float(self.signalled)
        agreed = torch.tensor(own, dtype=torch.float64)  # not on a GPU, which would have to finish its work first
        if self.world > 1:
            dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
        self.elapsed, self.step_seconds, self.told_to_stop = agreed.tolist()

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
        if self.config.max_seconds > 0 and self.elapsed + 1.1 * (1 + self.on_gpu) * self.step_seconds > self.budget:
            return "clock"
        return "steps" if 0 < self.config.max_steps <= step else ""


# ---- Calibration: the second moments that quantisation needs, gathered inside the clock ------------------------------
class SecondMoments(torch.overrides.TorchFunctionMode):
    """Watches F.linear and F.embedding on named parameters and sums second moments of inputs and output gradients. Any
    model will do whose matrices reach these two functions as parameters (run it without autocast). Linear maps that
    read the same tensor share a tap, so its matrix is kept once."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.names = {id(p): n for n, p in model.named_parameters()}
        self.taps, self.linear, self.embedding, self.tokens = {}, {}, {}, 0
        self.seen: dict[tuple, str] = {}  # of one forward: address and shape of an input -> its tap
        self.alive: list[Tensor] = []  # inputs must outlive the forward, or an address could come back

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func in (F.linear, F.embedding) and (name := self.names.get(id(args[1]))):
            (self.watch_linear if func is F.linear else self.watch_embedding)(name, args[0].detach(), args[1], out)
        return out

    def add(self, store: dict, key: str, value: Tensor):
        store[key] = store[key] + value if key in store else value

    def watch_linear(self, name: str, x: Tensor, _, out: Tensor):
        tap = self.seen.setdefault((x.data_ptr(), x.shape), name.removesuffix(".weight"))
        entry = self.linear.setdefault(name, {"tap": tap})
        if name.removesuffix(".weight") == tap:
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
        stores = self.taps, *self.linear.values(), *self.embedding.values()
        sums = [(store, key) for store in stores for key in store if key != "tap"]
        tokens = torch.tensor(float(self.tokens), device=next(iter(self.taps.values())).device)
        if world > 1:
            for store, key in sums:
                dist.all_reduce(store[key])
            dist.all_reduce(tokens)
        for store, key in sums:
            store[key] = (store[key] / tokens).cpu()
        return dict(format=1, tokens=int(tokens), linear=self.linear, taps=self.taps, embedding=self.embedding)


CALIBRATION_TOKENS = 8192  # in one forward, at most: it keeps everything in float32


def calibrate(model, next_tokens, limit: float, config: Config, world: int, rank: int, device: torch.device) -> dict:
    """Second moments over `calibration_tokens` tokens, or as many as `limit` seconds allow, should the machine have
    become slower; next_tokens() gives a batch [B, T]."""
    moments, start, spent, last = SecondMoments(model), time.perf_counter(), 0.0, 0.0
    generator = torch.Generator(device).manual_seed(config.seed + rank)
    while moments.tokens * world < config.calibration_tokens and (not last or spent + 1.5 * last < limit):
        moments.batch(model, next_tokens(), generator)
        last, spent = time.perf_counter() - start - spent, time.perf_counter() - start
    return moments.result(world)


# ---- Files -----------------------------------------------------------------------------------------------------------
def cannot_write(path: Path, error: OSError) -> RunError:
    why = error.strerror or error
    return RunError(f"cannot write {path}: {why}; free some space or give --run_dir another place")


def write_whole(path: Path, data: bytes):
    """Writes a file completely or not at all. Raises RunError when the disk refuses."""
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise cannot_write(path, error) from None


def save_tensors(path: Path, content: dict):
    torch.save(content, buffer := io.BytesIO())  # torch's own file writer can abort the process on a full disk
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
                raise cannot_write(self.folder / name, error) from None

    def __call__(self, line: str):
        if self.folder:
            print(line, flush=True)
            self.append("train.log", line + "\n")

    def metrics(self, row: dict):
        self.append("metrics.jsonl", json.dumps(row) + "\n")


# ---- The machine -----------------------------------------------------------------------------------------------------
def seconds(work) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def keep_freed_memory():
    """glibc gives large blocks back to the kernel when they are freed: each step would fault their pages in again."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


class Machine:
    """What this process runs on: rank, device, compute type and the peak it is measured against."""

    def __init__(self):
        # the only environment this script reads is what torchrun sets
        defaults = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}
        self.rank, self.world, local_rank = (int(os.environ.get(k, default)) for k, default in defaults.items())
        self.on_gpu = torch.cuda.is_available()
        self.device = torch.device("cuda", local_rank) if self.on_gpu else torch.device("cpu")
        if self.on_gpu:
            torch.cuda.set_device(self.device)
            self.name = torch.cuda.get_device_name(self.device)
            dense_bf16 = {"H100": 989.5e12, "H200": 989.5e12, "B200": 2250e12, "A100": 312e12}
            self.peak_flops = next((flops for key, flops in dense_bf16.items() if key in self.name), None)
            self.expected_flops = 200e12 if "H100" in self.name else None  # 6 per weight and token, from PR #1530 on
            self.dtype, self.why = torch.bfloat16, f"bfloat16 on {self.name}, data sheet's dense peak"
        else:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
            torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", self.world))))
            self.name, self.expected_flops = platform.processor() or platform.machine(), None
            keep_freed_memory()
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

    def largest(self, value: float | Tensor, operation=dist.ReduceOp.MAX) -> float:
        """The largest value of all ranks."""
        value = torch.as_tensor(value, dtype=torch.float64, device=self.device).detach()
        if self.world > 1:
            dist.all_reduce(value, op=operation)
        return float(value)

    def mean(self, value: Tensor) -> float:
        """The mean of a scalar over ranks."""
        return self.largest(value, dist.ReduceOp.SUM) / self.world


def has_compiler() -> bool:
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


# ---- The run ---------------------------------------------------------------------------------------------------------
class DevSet:
    """The first `dev_tokens` of the dev split, for the estimates in the log: rows start anywhere, and bytes are the
    split's mean per token from the manifest."""

    def __init__(self, config: Config, machine: Machine):
        shards = [open_shard(path, config.vocab_size) for path in find_shards(config.data_dir, "dev")]
        tokens = np.concatenate([s[: config.dev_tokens + 1] for s in shards])[: config.dev_tokens + 1]
        tokens = torch.from_numpy(tokens.astype(np.int32)).to(machine.device)
        self.rows = config.micro_batch_tokens // config.seq_len
        batches = (len(tokens) - 1) // (config.seq_len * self.rows)
        if batches < machine.world:
            why = f"the dev split has {len(tokens)} tokens, too few for a micro-batch on each rank"
            raise RunError(f"{why}: lower --micro_batch_tokens or raise --dev_tokens")
        size = batches // machine.world * machine.world * self.rows * config.seq_len
        self.x, self.y = (tokens[i : i + size].view(-1, config.seq_len) for i in (0, 1))
        self.machine = machine
        try:
            split = json.loads((Path(config.data_dir) / "manifest.json").read_text())["splits"]["dev"]
            self.bytes_per_token = split["raw_bytes"] / split["tokens"]
        except (OSError, KeyError, TypeError, ValueError, ZeroDivisionError):
            why = f"{config.data_dir}/manifest.json does not say how many bytes the dev split has"
            raise RunError(f"{why}: build the data again with golf data") from None

    @torch.no_grad()
    def bpb(self, loss_fn) -> float:
        first, stride = self.machine.rank * self.rows, self.rows * self.machine.world
        losses = [loss_fn(*(z[i : i + self.rows] for z in (self.x, self.y))) for i in range(first, len(self.x), stride)]
        return self.machine.mean(torch.stack(losses).mean()) / math.log(2) / self.bytes_per_token


def open_folder(config: Config, rank: int, world: int) -> tuple[Path, Path | None]:
    """The run's folder, and this rank's file of the newest state that all ranks saved, if the run was cut off."""
    name = f"{config.preset}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-s{config.seed}"
    folder = Path(config.run_dir or f"runs/{name}")
    if (folder / "run.json").exists():
        raise RunError(f"{folder} already holds a finished run: remove it or give --run_dir another name")
    saved = [{p.name.split("_")[1] for p in folder.glob(f"resume_*_{r}of{world}.pt")} for r in range(world)]
    newest = max(set.intersection(*saved), key=int, default=None)
    if newest is not None:
        return folder, folder / f"resume_{newest}_{rank}of{world}.pt"
    if list(folder.glob("resume_*.pt")):
        raise RunError(f"{folder} holds the state of another number of ranks: start as many, or remove it")
    if rank == 0:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("train.log", "metrics.jsonl", "checkpoint.pt", "statistics.pt"):  # of a run that was cut off
                (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(folder, error) from None
    return folder, None


def save_resume(folder: Path, machine: Machine, step: int, content: dict):
    """This rank's state under the step's name; the one before it goes when all ranks have theirs."""
    name = f"resume_%s_{machine.rank}of{machine.world}.pt"
    save_tensors(folder / (name % step), content)
    if machine.world > 1:
        dist.barrier()
    for old in set(folder.glob(name % "*")) - {folder / (name % step)}:
        old.unlink()


def progress_line(row: dict, clock: Clock, config: Config) -> str:
    timed = config.max_seconds > 0
    left = clock.budget - clock.elapsed if timed else (config.max_steps - row["step"]) * clock.step_seconds
    elapsed = f"{row['elapsed']:6.1f}{f'/{config.max_seconds:.0f}' * timed} s"
    line = f"step {row['step']:6d}  {elapsed}  eta {max(0.0, left):5.0f} s  loss {row['loss']:.4f}  "
    line += f"{row['tokens_per_second'] / 1e3:8.1f}k tok/s" + ("" if row["mfu"] is None else f"  mfu {row['mfu']:6.1%}")
    return line + (f"  dev bpb ~{row['dev_bpb']:.4f}" if "dev_bpb" in row else "")


def train(config: Config, source: str) -> dict:
    """Trains, calibrates and saves on this rank; returns what run.json holds. Raises RunError."""
    setup_start, machine = time.perf_counter(), Machine()
    rank, world, device = machine.rank, machine.world, machine.device
    shards = [open_shard(path, config.vocab_size) for path in find_shards(config.data_dir, "train")]
    dev = DevSet(config, machine)
    data_dir = Path(config.data_dir)
    if not (data_dir / "tokenizer.model").is_file():
        raise RunError(f"no tokenizer.model in {data_dir}: build the data again with golf data")
    tokenizer, manifest = ((data_dir / name).read_bytes() for name in ("tokenizer.model", "manifest.json"))
    if world > 1:
        dist.init_process_group("cpu:gloo,cuda:nccl" if machine.on_gpu else "gloo")
    clock = Clock(config, world, device)
    clock.obey_signals()
    folder, resume = open_folder(config, rank, world)
    log = Log(folder if rank == 0 else None)
    sha = hashlib.sha256(source.encode()).hexdigest()
    identity = asdict(config) | {"source_sha256": sha, "run_dir": ""}
    saved = torch.load(resume, map_location=device, weights_only=True) if resume else None
    if saved and (other := [key for key, value in identity.items() if saved["identity"].get(key) != value]):
        raise RunError(f"{resume} has another {', '.join(other)}: remove it or give --run_dir another name")
    environment = dict(
        python=platform.python_version(), torch=torch.__version__, platform=platform.platform(), device=machine.name,
        threads=torch.get_num_threads(), world_size=world, compute=str(machine.dtype).removeprefix("torch."),
        why=machine.why, compiled=config.compile and machine.has_compiler,
    )  # fmt: skip
    if not saved:
        log.append("train.log", f"{source}\n# source_sha256 {sha}\n")
    log(f"config {json.dumps(asdict(config))}\nenvironment {json.dumps(environment)}")
    if config.compile and not machine.has_compiler:
        log("no C++ compiler (g++ or clang++): training is slower")
        config = replace(config, compile=False)
    torch.manual_seed(config.seed)
    model = build_model(config).to(device)
    params = sum(p.numel() for p in model.parameters())
    optimizers = Optimizers(model, config, machine.dtype if machine.on_gpu else torch.float32, world, rank)
    plan, attention = stages(config, world), choose_attention(config, device)
    stage, token_flops = plan[0], 0
    loader = Loader(read_share(shards, rank, world), max(s.rows for s in plan), config, rank, device)

    def enter(new: Stage):
        nonlocal stage, token_flops
        stage, model.loops, loader.rows, loader.piece = new, new.loops, new.rows, new.length
        token_flops = flops_per_token(model, replace(config, seq_len=new.length))

    for each in plan:
        enter(each)
        forwards = f"{world} ranks x {each.accumulate} forwards, {token_flops / 1e6:.2f} MFLOP per token"
        log(f"until {each.until:.0%}: {each.tokens:,} tokens a step in rows of {each.length}, {forwards}")
    log(f"{params:,} parameters, {len(loader.data):,} training tokens on rank 0")
    compiled_loss = torch.compile(model.loss, dynamic=False, fullgraph=True) if config.compile else model.loss

    def loss_fn(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=machine.dtype == torch.bfloat16):
            return compiled_loss(x, y)

    def train_step(step: int, lr_scale: float, next_batch, fraction: float = 0.0) -> Tensor:
        total = torch.zeros((), device=device)
        for _ in range(stage.accumulate):
            loss = loss_fn(*next_batch()) / stage.accumulate
            loss.backward()
            total += loss.detach()
        optimizers.step(step, lr_scale, fraction)
        return total

    def estimate() -> float:
        with optimizers.averaged():
            return round(dev.bpb(loss_fn), 5)

    def synthetic() -> tuple[Tensor, Tensor]:
        shape = loader.rows, config.seq_len + 1
        window = torch.randint(0, config.vocab_size, shape, dtype=torch.int32, device=device)
        # strided like the loader's batches: another layout would compile again
        return tuple(part.reshape(-1, loader.piece) for part in (window[:, :-1], window[:, 1:]))

    clock.ledger["setup"] = time.perf_counter() - setup_start
    if config.compile:
        log("compiling: 20-60 s on a CPU the first time, not timed ...")
    with clock.phase("compile"):
        initial = optimizers.state()
        for each in plan:  # whatever a schedule will switch to is compiled before the clock starts
            enter(each)
            loader.warm_up()
            train_step(0, 0.0, synthetic)
            estimate()
    with clock.phase("warmup"):
        timed = [seconds(lambda: train_step(0, 0.0, synthetic))]
        repeat = min(100, int(machine.largest(2 / timed[0]))) if machine.on_gpu else 0
        timed += [seconds(lambda: train_step(0, 0.0, synthetic)) for _ in range(repeat)]
        wanted, median = 6 * multiplied_weights(model) * stage.tokens / world, sorted(timed)[len(timed) // 2]
        for line in speed_lines(machine, attention, machine.largest(median), wanted):
            log(line)
        # the time of a calibration batch on synthetic tokens says how much of the clock to keep for calibration
        loader.rows, loader.piece = min(stage.rows, max(1, CALIBRATION_TOKENS // config.seq_len)), config.seq_len
        calibration_rows, moments = loader.rows, SecondMoments(model)
        timed = [seconds(lambda: moments.batch(model, synthetic()[0], torch.Generator(device))) for _ in range(2)]
        batches = -(-config.calibration_tokens // (loader.rows * config.seq_len * world))
        clock.reserve = machine.largest(1.3 * timed[-1] * batches + 0.3)
        optimizers.load(initial)
        enter(plan[0])
    if config.max_seconds > 0 and clock.budget <= 0:
        why = f"leaves nothing to train: calibration takes {clock.reserve:.1f} s"
        raise RunError(f"--max_seconds={config.max_seconds:g} {why}")
    before = ", ".join(f"{name} {clock.ledger[name]:.1f} s" for name in ("setup", "compile", "warmup"))
    log(f"{before}; {clock.reserve:.1f} s of the clock are kept for calibration")

    # From here on the clock runs. Dev estimates touch no training data: they pause it and are a phase of their own.
    step, tokens, flops, stopped, row = 0, 0, 0, "", {}
    log_every, next_log, logged_tokens, logged_time = max(1.0, config.max_seconds / 100), 0.0, 0, 0.0
    dev_at = deque((i + 1) / config.dev_evals for i in range(config.dev_evals - 1))
    resumable = config.max_seconds <= 0 < config.checkpoint_every
    if saved:
        optimizers.load(saved["optimizers"])
        loader.load(saved["loader"])
        step, tokens, flops, clock.used = saved["progress"]
        log(f"going on from step {step}")
        dev_at = deque(at for at in dev_at if at > clock.fraction(step))
        logged_tokens, logged_time = tokens, clock.used
    clock.start()
    while not stopped:
        fraction = clock.fraction(step)
        if fraction >= stage.until:  # the last stage has no end
            enter(next((each for each in plan if fraction < each.until), plan[-1]))
        lr_scale = learning_rate_scale(config, fraction)
        loss = train_step(step, lr_scale, loader.next, fraction)
        step, tokens, flops = step + 1, tokens + stage.tokens, flops + stage.tokens * token_flops
        clock.tick()
        stopped = clock.verdict(step)
        want_dev = bool(dev_at) and clock.fraction(step) >= dev_at[0]
        if machine.on_gpu and (stopped or want_dev):
            clock.tick()  # no pause before the step under way has been counted
        if resumable and stopped != "steps" and (stopped or step % config.checkpoint_every == 0):
            with clock.phase("save"):
                progress = [step, tokens, flops, clock.used]
                content = dict(identity=identity, optimizers=optimizers.state(), loader=loader.state, progress=progress)
                save_resume(folder, machine, step, content)
            clock.start()
        if not (stopped or want_dev or clock.elapsed >= next_log):
            continue
        value = machine.mean(loss)
        if not math.isfinite(value):
            raise RunError(f"the loss is {value} at step {step}: lower --matrix_lr, --embed_lr or --scalar_lr")
        rate = (tokens - logged_tokens) / max(1e-9, clock.elapsed - logged_time)
        logged_tokens, logged_time, next_log = tokens, clock.elapsed, clock.elapsed + log_every
        row = dict(
            step=step, elapsed=round(clock.elapsed, 3), loss=round(value, 5), tokens_per_second=round(rate),
            mfu=mfu(rate, token_flops, machine), lr_scale=round(lr_scale, 4),
        )  # fmt: skip
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
            loader.rows, loader.piece, loader.cut = calibration_rows, config.seq_len, cut_rows  # no compiling now
            left = config.max_seconds - clock.elapsed if config.max_seconds > 0 else math.inf
            statistics = calibrate(model, lambda: loader.next()[0].long(), left, config, world, rank, device)
        with clock.phase("dev"):
            row = {"step": step, "elapsed": row["elapsed"], "loss": row["loss"], "dev_bpb": estimate()}
        log.metrics(row)
    with clock.phase("save"):
        if rank == 0:
            model_config = {k: getattr(config, k) for k in MODEL_FIELDS if getattr(config, k) != getattr(Config(), k)}
            weights = {name: value.cpu() for name, value in zip(optimizers.names, optimizers.ema)}
            checkpoint = dict(
                format=1, track=config.track, config=model_config, source=source, source_sha256=sha,
                tokenizer=torch.frombuffer(bytearray(tokenizer), dtype=torch.uint8), model=weights, step=step,
                loader=loader.state, bytes_per_token=dev.bytes_per_token,
            )  # fmt: skip
            save_tensors(folder / "checkpoint.pt", checkpoint)
            if statistics:
                save_tensors(folder / "statistics.pt", statistics)
    rate = tokens / clock.ledger["train"]
    result = dict(
        format=1, id=folder.name, track=config.track, preset=config.preset, world_size=world, seed=config.seed,
        config=asdict(config), source_sha256=sha, environment=environment,
        data={"dir": config.data_dir, "manifest_sha256": hashlib.sha256(manifest).hexdigest()},
        clock={k: round(v, 3) for k, v in clock.ledger.items()},
        training_seconds=round(clock.ledger["train"] + clock.ledger.get("calibrate", 0.0), 3),
        steps=step, tokens=tokens, tokens_per_second=round(rate), mfu=mfu(rate, flops / tokens, machine), params=params,
        flops_per_token=flops // tokens, train_loss=row["loss"], dev_bpb=row.get("dev_bpb"), stopped=stopped,
        files=["train.log", "metrics.jsonl", "checkpoint.pt"] + ["statistics.pt"] * bool(statistics),
    )  # fmt: skip
    log("---")
    for key, value in result.items():
        if not isinstance(value, (dict, list)):
            log(f"{key}: {value}")
    log(f"run_dir: {folder}")
    if resumable and stopped == "sigterm":
        log(f"the same command with --run_dir={folder} goes on from here")
    elif rank == 0:
        write_whole(folder / "run.json", json.dumps(result, indent=1).encode())
        for path in folder.glob("resume_*.pt"):
            path.unlink()
    if world > 1:
        dist.destroy_process_group()
    return result


def speed_lines(machine: Machine, attention: str, step_seconds: float, step_flops: float) -> list[str]:
    """What to say before the clock starts about a step's time, against `step_flops` on each GPU at the known rate."""
    loss = "Triton" if triton else "torch"
    lines = [f"{machine.name}, {attention}, loss by {loss}: a step of the last stage takes {step_seconds * 1e3:.1f} ms"]
    if machine.expected_flops:
        rate = machine.expected_flops * (1.1 if attention.startswith("FA") else 1.0)
        expected = step_flops / rate
        lines[0] += f", expected {expected * 1e3:.1f} ms at {rate / 1e12:.0f} TFLOP/s per GPU"
        if step_seconds > 1.2 * expected:
            lines.append(f"WARNING: {step_seconds / expected - 1:.0%} slower than planned: try another machine")
    return lines


def mfu(tokens_per_second: float, token_flops: float, machine: Machine) -> float | None:
    """Model FLOP utilisation: the share of the machine's matrix peak that the model's own FLOPs use."""
    flops = tokens_per_second * token_flops / machine.world
    return round(flops / machine.peak_flops, 4) if machine.peak_flops else None


def dry_run(config: Config, source: str) -> dict:
    """Traces a training step of the real configuration on fake tensors (no GPU, no memory) and prints what it needs."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    world = int(os.environ.get("WORLD_SIZE", 8 if config.track == "16mb" else 1))
    stage = stages(config, world)[-1]
    with FakeTensorMode():
        model = build_model(replace(config, document_mask=False))  # the dense mask of CPUs is not what a GPU holds
        tokens = torch.zeros(stage.rows, config.seq_len, dtype=torch.int64)
        tracker = MemTracker()
        tracker.track_external(model)
        with tracker, torch.autocast("cpu", dtype=torch.bfloat16):
            model.forward = model.loss  # the tracker follows calls of modules
            model(tokens, tokens).backward()
        peak = next(iter(tracker.get_tracker_snapshot("peak").values()))["Total"]
    params = sum(p.numel() for p in model.parameters())
    matrices = sum(p.numel() for name, p in model.named_parameters() if matrix_parts(name, p, config))
    optimiser = 4 * (params + 2 * (params - matrices) + matrices // world)  # EMA, Adam's moments, this rank's momentum
    # Gaussian rows on the packer's grids (PR #1394): a matrix weight costs 3.32 bits, one of the embedding 4.7
    artifact = (3.32 * matrices + 4.7 * (params - matrices)) / 8 + 2.6 * config.vocab_size
    artifact, flops = artifact + len(lzma.compress(source.encode(), preset=9)), flops_per_token(model, config)
    report = dict(
        params=params, flops_per_token=flops, flops_per_step=flops * stage.tokens,
        memory_per_gpu_bytes=int(peak + optimiser), predicted_artifact_bytes=int(artifact),
    )  # fmt: skip
    print(f"config: {json.dumps(asdict(config))}")  # these two for golf plan
    print(f"stages: {json.dumps([s._asdict() for s in stages(config, world)])}")
    for key, value in report.items():
        print(f"{key}: {value:,}")
    print("Memory is an upper bound, traced without fusion; the artifact's size is a prediction.")
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
        why, code = error, 1
    except KeyboardInterrupt:
        why, code = "interrupted, nothing was saved", 130
    except torch.OutOfMemoryError:
        half = max(config.seq_len, config.micro_batch_tokens // 2)
        why, code = f"out of GPU memory: try --micro_batch_tokens={half}", 1
    print(f"train_gpt.py: {why}", file=sys.stderr, flush=True)
    return os._exit(code) if dist.is_initialized() else code  # NCCL's shutdown waits for ranks that did not fail


if __name__ == "__main__":
    sys.exit(main())
