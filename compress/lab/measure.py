"""What packing cost, on held-out text: KL of the packed model from the unquantised one, change in bits per byte.

KL(unquantised || packed) per byte tracks the rise of the loss with far less noise than the difference of two losses.
Runs the artifact's own script and decoder in a fresh process, as `compress verify` does: only for files you trust.
This is the one part of the package that reads data, and only to report on a file that is already packed.

Not covered: the score (eval_heldout.py): windows here are cut from the shard without regard to documents.
"""

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from compress.checkpoint import Checkpoint
from compress.verify import unpack_into

TOKENS = 32_768
TIMEOUT_SECONDS = 3600

# Runs as `python -I -c` in the folder of the unpacked files; arguments: shard, tokens. Prints one JSON line.
CHILD = """
import json, math, os, sys
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, os.getcwd())
import numpy, torch, train_gpt
shard, count = sys.argv[1], int(sys.argv[2])
header = numpy.fromfile(shard, "<i4", 256)
if header[0] != 20240520 or header[1] != 1:
    sys.exit("not a shard of tokens")
tokens = torch.from_numpy(numpy.fromfile(shard, "<u2", count + 1, offset=1024).astype(numpy.int64))
whole = torch.load("whole.pt", weights_only=True)
with open("config.json", encoding="utf-8") as file:
    config = train_gpt.Config(**json.load(file))
with open("groups.json", encoding="utf-8") as file:
    groups = json.load(file)
changes = {}
if groups:
    import decode
    with open("weights.bin", "rb") as file:
        packed = decode.decode_weights(file.read())
    changes = {group: {name: packed[name] for name in names} for group, names in groups.items()}
for file in sorted(file for file in os.listdir() if file.startswith("set_")):
    changes[file] = torch.load(file, weights_only=True, mmap=True)
model = train_gpt.build_model(config).eval()
length = min(getattr(config, "seq_len", 512), len(tokens) - 1)
rows = (len(tokens) - 1) // length
x, y = tokens[: rows * length].view(rows, length), tokens[1 : rows * length + 1].view(rows, length)
size = max(1, 4096 // length)
zeros = dict.fromkeys(changes, 0.0)
sums = {"tokens": rows * length, "loss": 0.0, "packed_loss": zeros, "kl": dict(zeros)}
with torch.inference_mode():
    for at in range(0, rows, size):
        def logs(weights):
            model.load_state_dict(weights, strict=True)
            return model(x[at : at + size]).double().log_softmax(-1)
        reference = logs(whole)
        target = y[at : at + size, :, None]
        sums["loss"] -= reference.gather(-1, target).sum().item()
        share = reference.exp()
        for group, changed in changes.items():
            other = logs({**whole, **changed})
            sums["kl"][group] += (share * (reference - other)).sum().item()
            sums["packed_loss"][group] -= other.gather(-1, target).sum().item()
        print(min(rows, at + size), rows, flush=True)
print(json.dumps(sums))
"""


def measure(
    artifact: bytes,
    model: dict[str, torch.Tensor],
    groups: dict[str, list[str]],
    data: Path,
    tokens: int = TOKENS,
    progress=lambda stage, done, total: None,
) -> dict:
    """KL and losses on the first tokens of the dev split of a data folder.

    groups: name -> tensors; besides the whole file, the KL is measured with only this group's tensors packed. Returns
    {"tokens", "bytes_per_token", "bpb", "packed_bpb", "kl" (bits per byte), "group_kl": {group: nats per token}}.
    Raises ValueError if the folder is not one that golf data wrote, or the artifact's script fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        unpack_into(artifact, Path(folder))
        shard, bytes_per_token = dev_shard(Path(data), (Path(folder) / "tokenizer.model").read_bytes())
        torch.save(model, Path(folder) / "whole.pt")
        (Path(folder) / "groups.json").write_text(json.dumps({"all": sorted(model), **groups}), encoding="utf-8")
        sums = _run(folder, shard, tokens, progress)
    nats = 1 / sums["tokens"]
    bits_per_byte = nats / bytes_per_token / math.log(2)
    kl = sums["kl"]
    return {
        "tokens": sums["tokens"],
        "bytes_per_token": bytes_per_token,
        "bpb": sums["loss"] * bits_per_byte,
        "packed_bpb": sums["packed_loss"]["all"] * bits_per_byte,
        "kl": kl.pop("all") * bits_per_byte,
        "group_kl": {group: value * nats for group, value in kl.items()},
    }


def measure_sets(
    checkpoint: Checkpoint,
    sets: list[dict[str, torch.Tensor]],
    data: Path,
    tokens: int = TOKENS,
    progress=lambda stage, done, total: None,
) -> list[dict]:
    """{"kl", "bpb"} in bits per byte for every set of tensors that takes the place of the checkpoint's, in one process.

    Reads the dev split as `measure` does, through the checkpoint's own script. Raises ValueError.
    """
    shard, bytes_per_token = dev_shard(Path(data), checkpoint.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "train_gpt.py").write_text(checkpoint.source, encoding="utf-8")
        (path / "config.json").write_text(json.dumps(checkpoint.config), encoding="utf-8")
        (path / "groups.json").write_text("{}", encoding="utf-8")
        torch.save(checkpoint.model, path / "whole.pt")
        for number, tensors in enumerate(sets):
            torch.save(tensors, path / f"set_{number:06}")
        sums = _run(folder, shard, tokens, progress)
    scale = 1 / (sums["tokens"] * bytes_per_token * math.log(2))
    return [{"kl": sums["kl"][key] * scale, "bpb": sums["packed_loss"][key] * scale} for key in sorted(sums["kl"])]


def dev_shard(data: Path, tokenizer: bytes) -> tuple[str, float]:
    """(first shard of the dev split, raw bytes per token) of a data folder. Raises ValueError if it is none, or has
    another tokenizer than this one: ids would be read that mean something else."""
    own = data / "tokenizer.model"
    if own.exists() and own.read_bytes() != tokenizer:
        raise ValueError(f"{data} has another tokenizer than the model: name the data that it was trained on")
    try:
        split = json.loads((data / "manifest.json").read_text(encoding="utf-8"))["splits"]["dev"]
        shard = (data / next(file["name"] for file in split["files"] if file["name"].endswith(".bin"))).resolve()
        shard.stat()
        return str(shard), split["raw_bytes"] / split["tokens"]
    except (OSError, KeyError, TypeError, ValueError, StopIteration):
        raise ValueError(f"{data}: no dev split with a manifest; make it with golf data") from None


def _run(folder: str, shard: str, tokens: int, progress) -> dict:
    errors = Path(folder) / "stderr"
    with errors.open("wb") as stderr:
        child = subprocess.Popen(
            [sys.executable, "-I", "-c", CHILD, shard, str(tokens)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
        with child:
            try:
                for line in child.stdout:
                    if line.startswith(b"{"):
                        child.wait(TIMEOUT_SECONDS)
                        return json.loads(line)
                    done, total = map(int, line.split())
                    progress("measuring", done, total)
            finally:
                child.kill()
    lines = errors.read_text(errors="replace").strip().splitlines() or [f"exit status {child.returncode}"]
    raise ValueError(f"measuring failed in the artifact's own script: {lines[-1][:300]}")
