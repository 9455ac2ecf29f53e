"""One checkpoint under this coder and under others, at several rates: bytes at equal loss.

The loss of a file is KL(unquantised || packed) in bits per byte on the first tokens of the dev split, all sets of
weights in one process (compress/lab/measure.py). Between the rates measured, log KL is interpolated linearly in bytes.
The GPTQ peers are tuned: for each type of matrix alone KL and brotli bytes are measured over a range of steps, and
every rate takes the steps that give the least bytes for their sum, so that a peer's curve is its lower envelope. Ours
has nothing tuned to the text.

A part of ours is turned off alone, the others stay:
tensor, row, column: the step does not follow the loss in that respect (compress/allocate.py: Parts);
trellis: one state; contexts: one frequency table for each quantiser instead of 34;
side: steps and magnitudes as bytes, other tensors as fp16, all through brotli instead of the stream.

Not covered: the peers themselves (compress/lab/peers.py), pictures (compress/lab/plot.py).
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import brotli
import numpy as np
import torch

from compress import decode
from compress.allocate import Parts
from compress.checkpoint import Checkpoint, Statistics, load_checkpoint, load_statistics
from compress.decode import STEPS
from compress.entropy import Encoded, Layout, Symbols, encode_weights, frequencies, magnitudes, rans, symbols
from compress.lab.measure import dev_text, measure_sets
from compress.lab.peers import Rows, coded_size, coders, int8_rows, matrix_names, sdclip, streams
from compress.minify import DECODER, minify
from compress.quantise import STATES, Plan, decoded, make_plan, quantise, type_of
from golf import container, tokenizer_section

LEVELS = (0.0025, 0.008, 0.015, 0.03)  # KL in bits per byte at which coders are compared
MAIN = 0.008  # the public challenge's typical gap
RATES = (0.0018, 0.005, 0.013, 0.034)  # KL that the points aim at, by forecast: real ones differ by up to a third
TOKENS, TUNING_TOKENS = 16_384, 8_192
STEPS_TRIED = tuple(2.0 ** (n / 2) for n in range(-12, 2))  # of SDClip, over a row's deviation
INT8_LEVELS = (127, 63, 31, 15)
PARTS = {
    "tensor": (STATES, Parts(tensor=False)),
    "column": (STATES, Parts(column=False)),
    "row": (STATES, Parts(row=False)),
    "trellis": (1, Parts()),
}
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Point:
    """A coder at one rate. bytes: the whole file. Seconds are by the clock, but of our decoder processor time."""

    coder: str
    bytes: int
    bits_per_weight: float
    encode_seconds: float
    decode_seconds: float | None
    kl: float = math.nan
    bpb: float = math.nan


def newest_run(folder: Path) -> Path:
    """The finished run with statistics whose checkpoint is the youngest. Raises ValueError if there is none."""
    needed = ("checkpoint.pt", "statistics.pt", "run.json")
    runs = [run for run in folder.glob("*") if all((run / name).is_file() for name in needed)]
    if not runs:
        raise ValueError(
            f"no finished run in {folder}/; make one: "
            "python train_gpt.py --preset=pocket --max_seconds=120 --run_dir=runs/mine"
        )
    return max(runs, key=lambda run: (run / "checkpoint.pt").stat().st_mtime)


def bench(run: Path, data: Path, progress: Progress = lambda stage, done, total: None) -> dict:
    """What `bench --json` prints. Raises ValueError."""
    checkpoint = load_checkpoint(run)
    statistics = load_statistics(run, checkpoint.model)
    if statistics is None:
        raise ValueError(f"{run}: no statistics.pt, so the coders cannot be compared; take another run")
    bytes_per_token = dev_text(data, checkpoint.tokenizer, TOKENS).bytes_per_token
    nats = [rate * bytes_per_token * math.log(2) for rate in RATES]
    entries = list(own_points(checkpoint, statistics, nats, progress))
    entries += int8_points(checkpoint)
    entries += gptq_points(checkpoint, statistics, data, progress)
    measured = measure_sets(checkpoint, [entry.weights for entry in entries], data, TOKENS, progress)
    points = [replace(entry.point, **result) for entry, result in zip(entries, measured, strict=True)]
    weights = sum(tensor.numel() for tensor in checkpoint.model.values())
    return {"run": str(run), "weights": weights, "tokens": TOKENS} | summary(points, weights)


def summary(points: list[Point], weights: int) -> dict:
    """Bytes of every coder at the LEVELS, savings of ours and what each of its parts is worth there."""
    names = list(dict.fromkeys(point.coder for point in points))
    curves = {name: [point for point in points if point.coder == name] for name in names}
    at = {name: {str(level): bytes_at(curve, level) for level in LEVELS} for name, curve in curves.items()}

    def saving(peer: str, level: float = MAIN) -> float | None:
        return 1 - at["ours"][str(level)][0] / at[peer][str(level)][0] if peer in at else None

    off = {name: name.removeprefix("ours, no ") for name in names if name.startswith("ours, no ")}
    ours = at["ours"][str(MAIN)][0]
    own = min(curves["ours"], key=lambda point: abs(math.log(max(point.kl, 1e-12) / MAIN)))
    extrapolated = [f"{name} at {level}" for name in names for level in LEVELS if not at[name][str(level)][1]]
    peers = [name for name in names if not name.startswith("ours")]
    return {
        "points": [vars(point) for name in names for point in curves[name]],
        "bytes_at": {name: {level: size for level, (size, _) in row.items()} for name, row in at.items()},
        "extrapolated": extrapolated,
        "savings": {name: {str(level): saving(name, level) for level in LEVELS} for name in peers},
        "saving_vs_gptq_brotli": saving("gptq+brotli"),
        "saving_vs_gptq_lrzip": saving("gptq+lrzip"),
        "parts": {part: 8 * (at[name][str(MAIN)][0] - ours) / weights for name, part in off.items()},
        "decode_seconds_per_million": own.decode_seconds / weights * 1e6,
    }


def bytes_at(curve: list[Point], kl: float) -> tuple[float, bool]:
    """(bytes at this KL, whether it lies between two points): log KL linear in bytes, also beyond the ends."""
    ordered = sorted(curve, key=lambda point: -point.kl)
    log, sizes = [math.log(point.kl) for point in ordered], [point.bytes for point in ordered]
    index = min(max(sum(value > math.log(kl) for value in log), 1), len(log) - 1)
    part = (log[index - 1] - math.log(kl)) / (log[index - 1] - log[index])
    return sizes[index - 1] + part * (sizes[index] - sizes[index - 1]), log[-1] <= math.log(kl) <= log[0]


def other_bytes(checkpoint: Checkpoint, decoder: str = "") -> int:
    """What a file holds beside the weights. Peers get their decoder for nothing."""
    parts = [
        container.code_pack(minify(checkpoint.source), decoder),
        container.config_pack(checkpoint.config),
        tokenizer_section.serialise(checkpoint.tokenizer),
    ]
    return sum(map(len, parts)) + container.OVERHEAD_BYTES


@dataclass(frozen=True)
class Entry:
    """A point that is still without its loss, and the tensors that decide it."""

    point: Point
    weights: dict[str, torch.Tensor]


def own_points(
    checkpoint: Checkpoint, statistics: Statistics, nats: list[float], progress: Progress
) -> Iterator[Entry]:
    """This coder, whole and with each part off, at dials whose forecast loss is that of `nats`."""
    outside = other_bytes(checkpoint, minify(DECODER.read_text(encoding="utf-8")))
    count = sum(tensor.numel() for tensor in checkpoint.model.values())
    variants = {"ours": (STATES, Parts())}
    variants |= {f"ours, no {part}": variant for part, variant in PARTS.items()}
    done = 0
    for name, (states, parts) in variants.items():
        plan = make_plan(checkpoint.model, statistics, states, parts, checkpoint.groups)
        for dial in dials(plan, nats):
            progress("our coder", done, len(variants) * len(nats))
            done += 1
            started = time.perf_counter()
            model = quantise(plan, dial)
            rounding_seconds = time.perf_counter() - started
            encoded = encode_weights(model)
            encode_seconds = time.perf_counter() - started
            weights = decoded(model)
            decode_seconds = min(decode_time(encoded, weights) for _ in range(3 if name == "ours" else 1))
            size = len(encoded.payload)
            yield Entry(Point(name, outside + size, 8 * size / count, encode_seconds, decode_seconds), weights)
            if name != "ours":
                continue
            for part, size in (("contexts", without_contexts(encoded)), ("side", without_side(encoded))):
                point = Point(f"ours, no {part}", outside + size, 8 * size / count, rounding_seconds, None)
                yield Entry(point, weights)


def decode_time(encoded: Encoded, weights: dict[str, torch.Tensor]) -> float:
    """Seconds of one core, whatever else runs. Raises ValueError unless the decoder gives these weights."""
    started = time.process_time()
    result = decode.decode_weights(encoded.payload)
    seconds = time.process_time() - started
    if not all(torch.equal(result[name], value) for name, value in weights.items()):
        raise ValueError("the decoder does not give back what was coded")
    return seconds


def dials(plan: Plan, nats: list[float]) -> list[float]:
    """Dials at which the forecast loss of the matrices is this many nats per token."""
    forecast = plan.forecast()
    result = []
    for target in nats:
        low, high = -60.0, 40.0
        for _ in range(50):
            middle = (low + high) / 2
            if forecast(2.0**middle).nats < target:
                low = middle
            else:
                high = middle
        result.append(2.0**low)
    return result


def without_contexts(encoded: Encoded) -> int:
    """Bytes of a payload if codes had one table for each quantiser and no magnitudes were sent."""
    coded = symbols(encoded.layout, encoded.model)
    contexts, tokens = [], []
    for context, token in zip(coded.contexts, coded.tokens, strict=True):
        plain = np.where(context < STEPS, context & 1, context)
        if plain[0] not in (STEPS + 1, STEPS + 3):
            contexts.append(plain)
            tokens.append(token)
    few = Symbols(contexts, tokens, coded.plain)
    lanes = encoded.layout.lanes
    return len(encoded.payload) - stream_size(coded, lanes) + stream_size(few, lanes)


def without_side(encoded: Encoded) -> int:
    """Bytes of a payload if steps and magnitudes of matrices, and other tensors as fp16, went through brotli."""
    order = encoded.layout
    coded = symbols(order, encoded.model)
    sent = [index for index, context in enumerate(coded.contexts) if context[0] < STEPS]
    few = Symbols([coded.contexts[index] for index in sent], [coded.tokens[index] for index in sent], coded.plain)
    parts = []
    for matrix in order.matrices.values():
        rows, priors, _ = magnitudes(matrix)
        parts += [values.astype(np.int8).tobytes() for values in (matrix.rows, rows, matrix.columns, priors)]
    for vector in order.vectors.values():
        values = np.ldexp((vector.codes + vector.centre).astype(np.float64), vector.exponent)
        parts.append(values.astype("<f2").tobytes())
    vectors_alone = symbols(Layout(order.lanes, {}, order.vectors), encoded.model)
    signs = sum(bits.size for bits in vectors_alone.plain) / 8
    size = len(encoded.payload) - stream_size(coded, order.lanes) + stream_size(few, order.lanes) - round(signs)
    return size + len(brotli.compress(b"".join(parts), quality=11, lgwin=24))


def stream_size(coded: Symbols, lanes: int) -> int:
    """Bytes of words and of frequency tables (through brotli)."""
    tables = frequencies(coded)
    words = rans(np.full(lanes, 1 << 16, np.uint64), coded, decode.rans_table(tables), lambda *_: None)
    return 2 * words.size + len(brotli.compress(tables, quality=11))


def int8_points(checkpoint: Checkpoint) -> list[Entry]:
    """The public baseline, with fewer levels for smaller files."""
    model = checkpoint.model
    result = []
    for levels in INT8_LEVELS:
        rows = {name: int8_rows(model[name].flatten(0, -2), levels) for name in matrix_names(model)}
        result += peer_points(checkpoint, rows, {"int8+zlib": "zlib"}, 0.0)
    return result


def gptq_points(checkpoint: Checkpoint, statistics: Statistics, data: Path, progress: Progress) -> list[Entry]:
    """GPTQ with tuned steps under each archiver but zlib."""
    chosen = tuned_steps(checkpoint, statistics, data, progress)
    result = []
    for number, steps in enumerate(chosen):
        progress("archivers", number, len(chosen))
        started = time.perf_counter()
        rows = sdclip(checkpoint.model, statistics, steps, lambda *_: None)
        names = {f"gptq+{coder}": coder for coder in coders() if coder != "zlib"}
        result += peer_points(checkpoint, rows, names, time.perf_counter() - started)
    progress("archivers", 1, 1)
    return result


def peer_points(checkpoint: Checkpoint, rows: dict[str, Rows], names: dict[str, str], seconds: float) -> list[Entry]:
    """Quantised matrices under archivers. names: of the curve -> of the archiver; seconds: that quantising took."""
    weights = {
        name: rows[name].values(tensor.shape) if name in rows else tensor.half().float()
        for name, tensor in checkpoint.model.items()
    }
    found = coders()
    outside = other_bytes(checkpoint)
    count = sum(tensor.numel() for tensor in checkpoint.model.values())
    result = []
    for name, coder in names.items():
        coded = coded_size(found[coder], checkpoint.model, rows)
        size = coded["bytes"]
        encode_seconds = seconds + coded["encode_seconds"]
        point = Point(name, outside + size, 8 * size / count, encode_seconds, coded["decode_seconds"])
        result.append(Entry(point, weights))
    return result


def tuned_steps(checkpoint: Checkpoint, statistics: Statistics, data: Path, progress: Progress) -> list[dict]:
    """For every rate: name of a matrix -> step of its rows over their deviation. One step for each type of matrix."""
    types: dict[str, list[str]] = {}
    for name in matrix_names(checkpoint.model):
        types.setdefault(type_of(name), []).append(name)
    sets, sizes = [], []
    for names in types.values():
        for step in STEPS_TRIED:
            progress("tuning GPTQ", len(sets), len(types) * len(STEPS_TRIED))
            rows = sdclip(checkpoint.model, statistics, dict.fromkeys(names, step), lambda *_: None)
            sets.append({name: rows[name].values(checkpoint.model[name].shape) for name in names})
            sizes.append(len(brotli.compress(streams({}, rows)[type_of(names[0])], quality=9, lgwin=24)))
    measured = measure_sets(checkpoint, sets, data, TUNING_TOKENS, lambda _, *done: progress("tuning's KL", *done))
    loss = np.array([result["kl"] for result in measured]).reshape(len(types), -1)
    found = envelope(loss, np.array(sizes, float).reshape(len(types), -1), list(RATES))
    return [
        {name: step for names, step in zip(types.values(), steps, strict=True) for name in names} for steps in found
    ]


def envelope(loss: np.ndarray, sizes: np.ndarray, targets: list[float]) -> list[np.ndarray]:
    """For every target the steps [types] of least bytes whose losses add up to it: equal slopes everywhere.

    loss, sizes: [types, STEPS_TRIED], measured; between them log loss and bytes are linear in the log of the step.
    """
    octaves = np.log2(STEPS_TRIED)
    fine = np.arange(octaves[0], octaves[-1] + 1e-9, 1 / 16)
    loss = np.stack([np.exp(np.interp(fine, octaves, np.log(np.maximum(row, 1e-12)))) for row in loss])
    sizes = np.stack([np.interp(fine, octaves, row) for row in sizes])
    result = []
    for target in targets:
        low, high = -40.0, 10.0  # log2 of the loss that a byte is worth
        for _ in range(60):
            middle = (low + high) / 2
            chosen = (loss + 2.0**middle * sizes).argmin(1)
            total = loss[np.arange(len(loss)), chosen].sum()
            low, high = (middle, high) if total < target else (low, middle)
        result.append(2.0 ** fine[(loss + 2.0**low * sizes).argmin(1)])
    return result
