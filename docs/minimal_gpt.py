"""A plain GPT that keeps the kit's contract (docs/contract.md), in one file and without a trick: the on-ramp.

    python docs/minimal_gpt.py --run_dir=runs/minimal                # minutes; with --preset=tiny, seconds
    golf pack runs/minimal
    golf score runs/minimal/model.golf --data data/embedded_sp2048_case --split dev

LayerNorm, learned positions, GELU, a tied head; AdamW, warm-up, linear decay; random windows of the text; no Scorer. A
run leaves train.log, metrics.jsonl, checkpoint.pt, statistics.pt and, last, run.json. Not covered: GPUs, several
processes, a clock on the wall, going on with a run that was cut off, estimates on dev, speed (train_gpt.py).
"""

import hashlib
import json
import math
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


# ---- Config: literals only, since golf reads them without running this file. Numbers: type, least, largest -----------
@dataclass(frozen=True)
class ModelConfig:
    """What the artifact needs to know. A field travels in it where it differs from its default."""

    vocab_size: Annotated[int, 260, 65_536] = 2048  # tokens that the tokenizer knows
    seq_len: Annotated[int, 1, 65_536] = 256  # tokens of a row in training, and of a window in scoring
    num_layers: Annotated[int, 1, 1000] = 4  # layers, each of attention and an MLP
    model_dim: Annotated[int, 1, 16_384] = 128  # channels of the residual stream
    num_heads: Annotated[int, 1, 1000] = 4  # heads of a layer's attention


@dataclass(frozen=True)
class Config(ModelConfig):
    """Every knob; `--field=value` sets one. The defaults are the open preset."""

    learning_rate: Annotated[float, 0.0, 1e3] = 0.003  # of AdamW, at its highest
    weight_decay: Annotated[float, 0.0, 1e3] = 0.1  # decoupled: times the learning rate, a step
    warmup: Annotated[float, 0.0, 1.0] = 0.02  # the first fraction of the run, over which the learning rate rises
    clip: Annotated[float, 0.0, 1e9] = 1.0  # the largest norm of a gradient; longer ones are cut to it
    batch_tokens: Annotated[int, 1, 2**30] = 4096  # tokens of a step
    max_tokens: Annotated[int, 1, 2**40] = 4_096_000  # tokens that end a run
    calibration_tokens: Annotated[int, 1, 2**30] = 65_536  # tokens for packing's second moments, at its end
    preset: str = "open"  # which preset the other fields start from
    track: str = "open"  # whose rules the artifact is made for
    seed: Annotated[int, 0, 2**31 - 1] = 1337  # of the initialisation, the rows and the sampled labels
    data_dir: str = "data/embedded_sp2048_case"  # folder of shards, tokenizer and manifest
    run_dir: str = ""  # folder of the run's files; default: runs/minimal-<preset>-s<seed>


PRESETS = {
    "open": {},
    "tiny": dict(num_layers=2, model_dim=64, seq_len=128, max_tokens=409_600, calibration_tokens=8192),
}


class RunError(Exception):
    """A run that cannot go on: one line that says what, where and what to do."""


def require(condition: bool, why: str):
    """Raises RunError unless the condition holds."""
    if not condition:
        raise RunError(why)


def parse_config(arguments: list[str]) -> Config:
    """The Config of a command line. Raises RunError for an unknown field, a bad value, or fields that do not fit."""
    kinds = {field.name: type(field.default) for field in fields(Config)}
    values = {}
    for argument in arguments:
        name, equals, text = argument.removeprefix("--").partition("=")
        known = argument.startswith("--") and equals and name in kinds
        require(known, f"unknown argument {argument!r}: write --field=value, with one of {', '.join(kinds)}")
        try:
            values[name] = kinds[name](text)
        except ValueError:
            raise RunError(f"bad value in {argument[:80]!r}: --{name} takes a {kinds[name].__name__}") from None
    preset = values.get("preset", Config.preset)
    require(preset in PRESETS, f"no preset {preset!r}: choose one of {', '.join(PRESETS)}")
    config = replace(Config(), **PRESETS[preset] | values | {"preset": preset})
    bounds = {field.name: getattr(field.type, "__metadata__", ()) for field in fields(Config)}
    for name, (least, largest) in {name: pair for name, pair in bounds.items() if pair}.items():
        require(least <= getattr(config, name) <= largest, f"--{name} must be from {least:,} to {largest:,}")
    require(config.track in ("pocket", "2mb", "16mb", "open"), "--track must be pocket, 2mb, 16mb or open")
    weights = config.model_dim * (12 * config.num_layers * config.model_dim + config.vocab_size + config.seq_len)
    why = "at most 2^30 weights, and logits of a step: lower --model_dim or --batch_tokens"
    require(max(weights, config.batch_tokens * config.vocab_size) <= 2**30, why)
    require(config.model_dim % config.num_heads == 0, "--model_dim must be a multiple of --num_heads")
    require(config.batch_tokens % config.seq_len == 0, "--batch_tokens must be a multiple of --seq_len")
    require(config.max_tokens >= config.batch_tokens, "--max_tokens must be at least --batch_tokens")
    return config


# ---- Model: B batch, T time, D width, H heads, V vocabulary --------------------------------------
class Block(nn.Module):
    """Attention, then an MLP; each reads the normalised stream and adds to it."""

    def __init__(self, config: Config):
        super().__init__()
        D = config.model_dim
        self.heads = config.num_heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(D), nn.LayerNorm(D)
        self.qkv = nn.Linear(D, 3 * D, bias=False)
        self.proj = nn.Linear(D, D, bias=False)
        self.up = nn.Linear(D, 4 * D, bias=False)
        self.down = nn.Linear(4 * D, D, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, D] -> the same shape."""
        B, T, D = x.shape
        # [3, B, H, T, D / H]
        q, k, v = self.qkv(self.attention_norm(x)).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(B, T, D))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))


class GPT(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.model_dim)
        self.position = nn.Embedding(config.seq_len, config.model_dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.model_dim)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
            if name.endswith(("proj.weight", "down.weight")):  # what adds to the stream: it stays of one size
                parameter.data /= math.sqrt(2 * config.num_layers)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [B, T], T at most seq_len -> logits [B, T, V]; logits[:, i] predicts the token after tokens[:, i]."""
        x = self.embed(tokens) + self.position(torch.arange(tokens.size(1), device=tokens.device))
        for block in self.blocks:
            x = block(x)
        # The head is the embedding. A second name for it, as head.weight, would be a second tensor in the artifact
        return F.linear(self.norm(x), self.embed.weight)


def build_model(config: Config) -> nn.Module:
    """The model of a Config, for this script and for the scorer."""
    return GPT(config)


# ---- Data ----------------------------------------------------------------------------------------
def read_tokens(config: Config) -> np.ndarray:
    """All training tokens, uint16: shards are 256 int32, of which the third is the count, then the tokens."""
    paths = sorted(Path(config.data_dir).glob("train_*.bin"))
    require(bool(paths), f"no train shards in {config.data_dir}: build the data with golf data, or give --data_dir")
    tokens = np.concatenate([np.fromfile(path, "<u2", offset=1024) for path in paths])
    require(len(tokens) > config.seq_len, f"{config.data_dir} has too few tokens for a row of --seq_len")
    highest = int(tokens.max())
    require(highest < config.vocab_size, f"{config.data_dir} has the token {highest}: --vocab_size is too small")
    return tokens


def batch(tokens: np.ndarray, rows: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs and targets, one token later, int64 [rows, length] each, from random places."""
    starts = torch.randint(len(tokens) - length, (rows,), generator=generator).tolist()
    window = torch.from_numpy(np.stack([tokens[start : start + length + 1] for start in starts]).astype(np.int64))
    return window[:, :-1], window[:, 1:]


# ---- Second moments: how much each weight matters, for packing -----------------------------------
class SecondMoments(torch.overrides.TorchFunctionMode):
    """Sums second moments of what F.linear and F.embedding read, and of the gradients of what they give."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.sums: dict[tuple[str, str], Tensor] = {}  # (parameter, what) -> sum over tokens

    def add(self, name: str, what: str, value: Tensor):
        self.sums[name, what] = self.sums.get((name, what), 0.0) + value

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = self.names.get(id(args[1])) if func in (F.linear, F.embedding) else None
        if name and func is F.linear:
            x = args[0].detach().flatten(0, -2)
            self.add(name, "inputs", x.T @ x)
            out.register_hook(lambda g: self.add(name, "output_gradient", g.flatten(0, -2).square().sum(0)))
        elif name:
            out.register_hook(lambda g: self.watch_embedding(name, args[0].flatten(), args[1], g.flatten(0, -2)))
        return out

    def watch_embedding(self, name: str, ids: Tensor, weight: Tensor, gradient: Tensor):
        """ids [N], weight [V, D], gradient [N, D] of the rows that were looked up."""
        by_row = gradient.new_zeros(len(weight)).index_add_(0, ids, gradient.square().sum(1))
        self.add(name, "gradient_second_moment", gradient.T @ gradient)
        self.add(name, "row_gradient", by_row)

    def result(self, tokens: int) -> dict:
        """What statistics.pt holds."""
        linear, taps, embedding = {}, {}, {}
        for (name, what), value in self.sums.items():
            if what == "inputs":
                taps[name] = value / tokens
                linear.setdefault(name, {})["tap"] = name
            elif what == "output_gradient":
                linear.setdefault(name, {})[what] = value / tokens
            else:
                embedding.setdefault(name, {})[what] = value / tokens
        return dict(format=1, tokens=tokens, linear=linear, taps=taps, embedding=embedding)


def calibrate(model: nn.Module, tokens: np.ndarray, config: Config, generator: torch.Generator) -> dict:
    """Second moments on training tokens, with labels that the model draws itself (K-FAC; Martens & Grosse 2015)."""
    moments = SecondMoments(model)
    rows, done = config.batch_tokens // config.seq_len, 0
    while done < config.calibration_tokens:
        x, _ = batch(tokens, rows, config.seq_len, generator)
        with moments:
            logits = model(x).flatten(0, 1)
        labels = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
        F.cross_entropy(logits, labels, reduction="sum").backward()
        model.zero_grad()
        done += x.numel()
    return moments.result(done)


# ---- Run -----------------------------------------------------------------------------------------
class Log:
    """train.log, which is printed too, and metrics.jsonl."""

    def __init__(self, folder: Path, source: str, sha256: str):
        self.folder = folder
        self.append("train.log", f"{source}\n# source_sha256 {sha256}\n")

    def append(self, name: str, text: str):
        with open(self.folder / name, "a", encoding="utf-8") as file:
            file.write(text)

    def __call__(self, line: str):
        print(line, flush=True)
        self.append("train.log", line + "\n")

    def step(self, row: dict):
        """A logged step: the line in train.log is the row of metrics.jsonl."""
        self(f"step {row['step']:6d}  {row['elapsed']:6.1f} s  loss {row['loss']:.4f}  lr x {row['lr_scale']:.3f}")
        self.append("metrics.jsonl", json.dumps(row) + "\n")


def save(path: Path, write):
    """write(path) makes the file; it appears under its name completely or not at all."""
    part = path.with_name(path.name + ".part")
    write(part)
    os.replace(part, path)


def train(config: Config, source: str) -> dict:
    """Trains, calibrates, saves; returns what run.json holds. Raises RunError."""
    begin = time.perf_counter()
    torch.use_deterministic_algorithms(True)  # a seed gives the same weights, bit for bit
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    folder = Path(config.run_dir or f"runs/minimal-{config.preset}-s{config.seed}")
    require(not folder.exists(), f"{folder} exists: remove it or give --run_dir another name")
    tokens = read_tokens(config)
    manifest, tokenizer = (Path(config.data_dir, name).read_bytes() for name in ("manifest.json", "tokenizer.model"))
    about = json.loads(manifest)
    known = about["tokenizer"]["vocab_size"]
    require(known == config.vocab_size, f"{config.data_dir} has a tokenizer of {known} ids: write --vocab_size={known}")
    dev = about["splits"]["dev"]
    model = build_model(config)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.95), weight_decay=config.weight_decay)

    folder.mkdir(parents=True)
    sha256 = hashlib.sha256(source.encode()).hexdigest()
    environment = dict(
        python=platform.python_version(), torch=torch.__version__, platform=platform.platform(),
        device=platform.processor() or platform.machine(), threads=torch.get_num_threads(), compute="float32",
    )  # fmt: skip
    log = Log(folder, source, sha256)
    log(f"config {json.dumps(asdict(config))}\nenvironment {json.dumps(environment)}")
    params = sum(p.numel() for p in parameters)
    log(f"{params:,} parameters, {len(tokens):,} training tokens")
    clock = {"setup": time.perf_counter() - begin}

    begin = time.perf_counter()
    steps, rows = config.max_tokens // config.batch_tokens, config.batch_tokens // config.seq_len
    for step in range(steps):
        fraction = step / steps
        scale = min(1.0, (step + 1) / max(1.0, config.warmup * steps), (1 - fraction) / 0.9)
        optimizer.param_groups[0]["lr"] = config.learning_rate * scale
        x, y = batch(tokens, rows, config.seq_len, generator)
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, config.clip)
        optimizer.step()
        optimizer.zero_grad()
        if step % max(1, steps // 100) == 0 or step == steps - 1:
            require(math.isfinite(loss.item()), f"the loss is {loss.item()} at step {step}: lower --learning_rate")
            log.step(dict(
                step=step + 1, tokens=(step + 1) * config.batch_tokens, loss=round(loss.item(), 5),
                elapsed=round(time.perf_counter() - begin, 3), lr_scale=round(scale, 4),
            ))  # fmt: skip
    clock["train"] = time.perf_counter() - begin

    begin = time.perf_counter()
    statistics = calibrate(model, tokens, config, generator)
    clock["calibrate"] = time.perf_counter() - begin
    own = {field.name: getattr(config, field.name) for field in fields(ModelConfig)}
    checkpoint = dict(
        format=1, track=config.track, source=source, source_sha256=sha256,
        config={name: value for name, value in own.items() if value != getattr(ModelConfig, name)},
        tokenizer=torch.frombuffer(bytearray(tokenizer), dtype=torch.uint8), model=model.state_dict(),
        bytes_per_token=dev["raw_bytes"] / dev["tokens"],
    )  # fmt: skip
    save(folder / "checkpoint.pt", lambda path: torch.save(checkpoint, path))
    save(folder / "statistics.pt", lambda path: torch.save(statistics, path))

    result = dict(
        format=1, id=folder.name, track=config.track, preset=config.preset, world_size=1, seed=config.seed,
        config=asdict(config), source_sha256=sha256, environment=environment,
        data={"dir": config.data_dir, "manifest_sha256": hashlib.sha256(manifest).hexdigest()},
        clock={name: round(seconds, 3) for name, seconds in clock.items()},
        training_seconds=round(clock["train"] + clock["calibrate"], 3),
        steps=steps, tokens=steps * config.batch_tokens, params=params, train_loss=round(loss.item(), 5), dev_bpb=None,
        stopped="tokens", files=["train.log", "metrics.jsonl", "checkpoint.pt", "statistics.pt"],
    )  # fmt: skip
    for name, value in result.items():
        if not isinstance(value, (dict, list)):
            log(f"{name}: {value}")
    save(folder / "run.json", lambda path: path.write_text(json.dumps(result, indent=1), encoding="utf-8"))
    return result


def main() -> int:
    """Runs the command line; returns the exit status."""
    try:
        train(parse_config(sys.argv[1:]), Path(__file__).read_text(encoding="utf-8"))
        return 0
    except (RunError, OSError) as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
