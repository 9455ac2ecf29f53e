"""Other weight coders, as the public challenge and the archivers have them, for compress/lab/bench.py.

int8: rows of a matrix rounded to nearest, scale 99.99984th percentile of |w| / 127 in fp16, zlib (the public baseline).
SDClip: GPTQ with activation order, step of a row = clip * deviation of the row / levels in fp16 (public PR 1394). Here
nothing is clamped and the step is any multiple of the deviation, chosen for each type of matrix, the embedding too.
Codes lie transposed, type by type, and go through an archiver. All peers store other tensors as fp16. Every stream is
decompressed again and compared.

Not covered: what is counted for a peer's decoder (nothing: it costs them some hundred bytes), and how the steps are
chosen (compress/lab/bench.py).
"""

import json
import lzma
import shutil
import subprocess
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import brotli
import numpy as np
import torch
import zstandard

from compress.checkpoint import Statistics
from compress.gptq import Target, descending, gptq, inverse_factor
from compress.quantise import is_matrix, type_of
from golf import temporary

PERCENTILE = 0.9999984
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Rows:
    """A matrix [R, C] as codes times fp16 scales of its rows."""

    codes: np.ndarray  # int32 [R, C]
    scales: np.ndarray  # float16 [R]

    def values(self, shape: torch.Size) -> torch.Tensor:
        return torch.from_numpy(self.codes * self.scales.astype(np.float32)[:, None]).float().view(shape)


def int8_rows(weight: torch.Tensor, levels: int = 127) -> Rows:
    """A matrix [R, C] rounded to nearest, its rows clipped at a percentile; fewer levels make smaller files."""
    weight = weight.float()
    clip = torch.quantile(weight.abs(), PERCENTILE, dim=1)
    scales = (clip / levels).clamp(min=2.0**-24).half()
    codes = (weight.clamp(-clip[:, None], clip[:, None]) / scales.float()[:, None]).round().clamp(-levels, levels)
    return Rows(codes.int().numpy(), scales.numpy())


def sdclip(
    model: dict[str, torch.Tensor], statistics: Statistics, steps: dict[str, float], progress: Progress
) -> dict[str, Rows]:
    """GPTQ of the matrices named in `steps`; steps: name -> step of a row over the deviation of its weights.

    The Hessian is E[x x^T] of the input; a matrix that is only an embedding has none and is rounded to nearest.
    """
    targets, scales = [], []
    for name, step in steps.items():
        weight = model[name].flatten(0, -2).double()
        head = statistics.linear.get(name)
        hessian = statistics.taps[head["tap"]].double() if head else torch.eye(weight.shape[1], dtype=torch.float64)
        weight = torch.where(hessian.diagonal() > 0, weight, 0)
        order = descending(hessian)
        factor, _ = inverse_factor(hessian[order][:, order])
        scales.append((step * weight.std(1)).clamp(min=2.0**-24).half())
        columns = torch.ones(weight.shape[1], dtype=torch.float64)
        # A trellis of one state cuts at 2 x step.
        targets.append(Target(weight, scales[-1].double() / 2, columns, order, factor))
    total = sum(target.weight.numel() for target in targets)
    codes = gptq(targets, [0, 0], max([1, *(len(target.weight) for target in targets)]), lambda n: progress(n, total))
    return {name: Rows(code.numpy(), scale.numpy()) for name, code, scale in zip(steps, codes, scales, strict=True)}


def streams(model: dict[str, torch.Tensor], matrices: dict[str, Rows], similar: bool = False) -> dict[str, bytes]:
    """What a peer's file holds: one stream of transposed codes for each type of matrix, and "rest".

    similar: rows are sorted so that neighbours look alike, and the order goes into "rest" too. Codes beyond int8 add a
    plane of high bytes to their type.
    """
    groups: dict[str, list[np.ndarray]] = {}
    shapes = json.dumps([[name, *tensor.shape] for name, tensor in model.items()]).encode()
    rest = [shapes]
    for name, rows in matrices.items():
        codes = rows.codes
        if similar:
            order = similarity_order(codes)
            codes = codes[order]
            rest.append(order.astype("<u2").tobytes())
        groups.setdefault(type_of(name), []).append(codes.T)
        rest.append(rows.scales.tobytes())
    rest += [tensor.half().numpy().tobytes() for name, tensor in model.items() if name not in matrices]
    result = {}
    for kind, parts in groups.items():
        codes = np.concatenate([part.ravel() for part in parts])
        planes = [codes.astype(np.int8).tobytes()]
        if np.abs(codes).max(initial=0) > 127:
            planes.append((codes - codes.astype(np.int8) >> 8).astype("<i2").tobytes())
        result[kind] = b"".join(planes)
    return result | {"rest": b"".join(rest)}


def similarity_order(codes: np.ndarray) -> np.ndarray:
    """Rows in a greedy chain: from row 0 on always the nearest row left, by L1 distance. Ties go to the first."""
    left, chain = np.arange(len(codes)), []
    at = 0
    while True:
        row = left[at]
        chain.append(row)
        left = np.delete(left, at)
        if not left.size:
            return np.array(chain)
        at = int(np.abs(codes[left] - codes[row]).sum(1).argmin())


@dataclass(frozen=True)
class Coder:
    """An archiver. compress and decompress: bytes -> bytes."""

    name: str
    compress: Callable[[bytes], bytes]
    decompress: Callable[[bytes], bytes]
    grouped: bool = False  # each type of matrix is a file of its own


def coders() -> dict[str, Coder]:
    """The archivers that are here: brotli, zlib, lzma and zstd always, the others where they are installed."""
    found = [
        Coder("zlib", lambda data: zlib.compress(data, 9), zlib.decompress),
        Coder("brotli", lambda data: brotli.compress(data, quality=11, lgwin=24), brotli.decompress),
        Coder("lzma", _lzma, lambda data: lzma.decompress(data, lzma.FORMAT_RAW, filters=LZMA)),
    ]
    zstd = zstandard.ZstdCompressor(level=22), zstandard.ZstdDecompressor()
    found.append(Coder("zstd", zstd[0].compress, zstd[1].decompress))
    try:
        import zpaq  # pip install zpaq

        found.append(Coder("zpaq", lambda data: zpaq.compress(data, level=5, threads=1), zpaq.decompress))
    except ImportError:
        pass
    if shutil.which("lrzip"):
        found.append(Coder("lrzip", lambda data: min(_lrzip(data), _lrzip(data, "-T"), key=len), _unlrzip, True))
    return {coder.name: coder for coder in found}


# Codes are bytes without words: no literal context but the last byte's high bits, no position bits.
LZMA = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 0, "pb": 0}]


def _lzma(data: bytes) -> bytes:
    return lzma.compress(data, lzma.FORMAT_RAW, filters=LZMA)


def _lrzip(data: bytes, *options: str) -> bytes:
    """lrzip -z -L 9. Without -T it stores what its quick test finds incompressible: a silent cliff."""
    return _program(["lrzip", "-q", "-f", "-z", "-L", "9", "-p", "1", *options], data, "x", "x.lrz")


def _unlrzip(data: bytes) -> bytes:
    return _program(["lrzip", "-q", "-f", "-d", "-p", "1"], data, "x.lrz", "x")


def _program(command: list[str], data: bytes, source: str, target: str) -> bytes:
    with temporary.folder("peer") as folder:
        (folder / source).write_bytes(data)
        done = subprocess.run([*command, source], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True)
        if done.returncode or not (folder / target).exists():
            lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
            raise ValueError(f"{command[0]} failed: {lines[-1][:200]}")
        return (folder / target).read_bytes()


def coded_size(coder: Coder, model: dict[str, torch.Tensor], matrices: dict[str, Rows]) -> dict:
    """{"bytes", "encode_seconds", "decode_seconds", "stored"} of a model's weights under an archiver.

    Grouped coders take each type in the better of natural and sorted order, and brotli for the rest; stored counts the
    types that the program left uncompressed before it was told to try. Raises ValueError if a stream does not return.
    """
    started = time.perf_counter()
    parts, stored = streams(model, matrices), 0
    if coder.grouped:
        other = streams(model, matrices, similar=True)
        kinds = [kind for kind in parts if kind != "rest"]
        plain, alike = ({kind: coder.compress(part[kind]) for kind in kinds} for part in (parts, other))
        stored = sum(len(_lrzip(parts[kind])) >= len(parts[kind]) for kind in kinds)
        tails = [brotli.compress(part["rest"], quality=11, lgwin=24) for part in (parts, other)]
        sizes = [sum(map(len, files.values())) + len(tail) for files, tail in zip((plain, alike), tails, strict=True)]
        best = int(np.argmin(sizes))
        packed, parts, size = (plain, alike)[best], (parts, other)[best], sizes[best] + 4 * len(kinds)
        pairs = [(packed[kind], parts[kind]) for kind in kinds]
    else:
        whole = b"".join(parts.values())
        pairs = [(coder.compress(whole), whole)]
        size = len(pairs[0][0])
    encoded = time.perf_counter()
    for data, original in pairs:
        if coder.decompress(data) != original:
            raise ValueError(f"{coder.name} does not give back what it was given")
    return {
        "bytes": size,
        "encode_seconds": encoded - started,
        "decode_seconds": time.perf_counter() - encoded,
        "stored": stored,
    }


def matrix_names(model: dict[str, torch.Tensor]) -> list[str]:
    """What all coders of the benchmark quantise: the tensors that ours counts as matrices."""
    return [name for name, tensor in model.items() if is_matrix(tensor)]
