"""Codes -> WGTS payload, weight format 2: the other half of compress/decode.py (docs/format.md).

Static rANS in lanes: rows in sequence, columns in parallel. Contexts, tables and the order of symbols are those of the
decoder; this side chooses what it may choose: the groups' order, the magnitudes that make contexts, the frequencies.
The encoder runs backwards from states whose low halves carry the first plain bits (signs), so a lane costs one byte,
not three.

Not covered: choosing the codes (compress/gptq.py).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

import brotli
import numpy as np

from compress import decode
from compress.codes import Matrix, QuantisedModel, Vector
from compress.decode import BITS, COLUMNS, GRID, LOWEST, MAGNITUDES, PRIORS, REFRESH, ROWS, STEPS, TOKENS, UNIT, VECTORS
from compress.trellis import trellis_bits

FORMAT = b"\2"
FACTOR_RANGE = 14  # of rows and columns, in thirds of an octave: GRID begins 15 below its unit
SIDE_RANGE = TOKENS // 2 - 1  # largest number of the side information; steps within +-40 keep to it
COUNTED_STEPS = 256  # at a time: a bound on memory
WEIGHTS_PER_LANE = 4000  # a lane costs a byte or so; fewer lanes make decoding slower


@dataclass(frozen=True)
class Layout:
    """The tensors in the order of the file."""

    lanes: int
    matrices: dict[str, Matrix]
    vectors: dict[str, Vector]


@dataclass(frozen=True)
class Symbols:
    """What the decoder takes from the stream, step by step, an item a lane; and the plain bits in its order."""

    contexts: list[np.ndarray]  # which frequency table
    tokens: list[np.ndarray]
    plain: list[np.ndarray]  # uint8, one bit each


@dataclass(frozen=True)
class Encoded:
    """A model as bytes, together with all that reports of these bytes need."""

    model: QuantisedModel
    layout: Layout
    tables: bytes  # frequencies, as rans_table of the decoder reads them
    payload: bytes  # WGTS


def encode_weights(model: QuantisedModel, progress: Callable[[int, int], None] = lambda done, total: None) -> Encoded:
    """The WGTS payload of a model.

    Calls progress(symbol rows coded, rows in all). Raises ValueError if a code or step is out of range.
    """
    order = layout(model.tensors)
    coded = symbols(order, model)
    tables = frequencies(coded)
    bits = np.concatenate([*coded.plain, np.zeros(0, np.uint8)])
    carried = np.zeros(16 * order.lanes, np.uint8)
    carried[: bits.size] = bits[: carried.size]
    states = np.packbits(carried).view("<u2").astype(np.uint64) | 1 << 16
    words = rans(states, coded, decode.rans_table(tables), progress)
    scales = [float(np.float32(scale)) for scale in model.scales]
    head = [order.lanes, words.size, model.restart, model.trellis, scales]
    head.append([[name, matrix.base, magnitudes(matrix)[2], *matrix.shape] for name, matrix in order.matrices.items()])
    head.append([[name, vector.exponent, vector.centre, *vector.shape] for name, vector in order.vectors.items()])
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode() + b"\0" + tables
    packed = brotli.compress(text, quality=11, lgwin=24)
    if len(text) > decode.MAX_HEAD_BYTES:
        raise ValueError(f"{len(text):,} bytes of names, shapes and frequencies; at most {decode.MAX_HEAD_BYTES:,}")
    stream = states.astype("<u4").tobytes() + words.astype("<u2").tobytes()
    tail = np.packbits(bits[carried.size :]).tobytes()
    payload = FORMAT + len(packed).to_bytes(3, "little") + packed + stream + tail
    return Encoded(model, order, tables, payload)


def read_weights(payload: bytes) -> Encoded:
    """The model and the tables in a payload that encode_weights wrote, or another encoder of weight format 2.

    Raises ValueError, one line, on anything malformed.
    """
    try:
        return _read(payload)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        if str(error).startswith("WGTS: "):
            raise
        raise ValueError("WGTS: malformed") from None  # a library's words would tell a user nothing


def _read(payload: bytes) -> Encoded:
    tensors = decode.read_codes(payload)
    head_end = 4 + int.from_bytes(payload[1:4], "little")
    text, _, tables = brotli.decompress(payload[4:head_end]).partition(b"\0")  # its size was checked by read_codes
    lanes, _, restart, trellis, scales, matrix_entries, vector_entries = json.loads(text)
    matrices = {}
    for name, base, _, *shape in matrix_entries:
        _, codes, _, steps, columns, _ = tensors[name]
        matrices[name] = Matrix(tuple(shape), codes, base, steps - base, columns)
    vectors = {}
    for name, exponent, centre, *shape in vector_entries:
        values = tensors[name][-1].astype(np.float64)
        codes = np.ldexp(values, -exponent).astype(np.int64) - centre
        vectors[name] = Vector(tuple(shape), codes, exponent, centre)
    model = QuantisedModel(matrices | vectors, trellis, restart, np.array(scales, np.float32))
    return Encoded(model, Layout(lanes, matrices, vectors), tables, payload)


def layout(tensors: dict[str, Matrix | Vector]) -> Layout:
    """The order that this encoder chooses: tallest matrices first, so that those of one height lie side by side."""
    matrices = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, Matrix)}
    vectors = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, Vector)}
    matrices = dict(sorted(matrices.items(), key=lambda item: -item[1].codes.shape[0]))
    weights = sum(matrix.codes.size for matrix in matrices.values())
    widest = max((matrix.codes.shape[1] for matrix in matrices.values()), default=1)
    lanes = max(widest, 32 * round(weights / WEIGHTS_PER_LANE / 32), 1)
    if lanes > decode.MAX_LANES:
        raise ValueError(f"a matrix of {widest:,} columns; at most {decode.MAX_LANES:,}")
    return Layout(lanes, matrices, vectors)


def groups_of(order: Layout) -> list[dict[str, Matrix]]:
    """Neighbours with as many rows stand side by side while the lanes last."""
    groups: list[dict[str, Matrix]] = []
    height, width = 0, 0  # of the last group
    for name, matrix in order.matrices.items():
        rows, columns = matrix.codes.shape
        if not groups or height != rows or width + columns > order.lanes:
            groups.append({})
            height, width = rows, 0
        groups[-1][name] = matrix
        width += columns
    return groups


def symbols(order: Layout, model: QuantisedModel) -> Symbols:
    """The symbols of the tensors in `order`; the trellis is the model's."""
    lanes = order.lanes
    contexts, tokens, plain = [], [], []

    def side(context: int, values: np.ndarray):
        values = values.reshape(-1).astype(np.int64)
        values = np.where(values < 0, -2 * values - 1, 2 * values)
        for at in range(0, values.size, lanes):
            tokens.append(values[at : at + lanes])
            contexts.append(np.full(tokens[-1].size, context))

    for group in map(dict.values, groups_of(order)):
        codes = np.concatenate([matrix.codes for matrix in group], 1)
        factors, priors, centres = zip(*map(magnitudes, group), strict=True)
        rows = np.stack([matrix.rows for matrix in group]).astype(np.int64)
        columns = np.concatenate([matrix.columns for matrix in group]).astype(np.int64)
        side(STEPS, rows)
        side(ROWS, np.stack(factors) + 3 * rows // 4)
        side(COLUMNS, columns)
        widths = [matrix.codes.shape[1] for matrix in group]
        side(PRIORS, np.concatenate(priors) + 3 * columns // 4 - np.repeat(centres, widths))
        token = tokens_of(np.abs(codes)).astype(np.uint8)  # a large model has 10^8 of them
        wide = np.stack(factors).repeat(widths, 0).T
        context = 2 * levels(token, wide, np.concatenate(priors)) + trellis_bits(codes, model.trellis, model.restart)
        contexts += list(context.astype(np.uint8))
        tokens += list(token)
        plain += plain_bits(codes, token)
    for vector in order.vectors.values():
        token = tokens_of(np.abs(vector.codes))
        for at in range(0, token.size, lanes):
            tokens.append(token[at : at + lanes])
            contexts.append(np.full(tokens[-1].size, VECTORS))
        plain += plain_bits(vector.codes, token)
    return Symbols(contexts, tokens, plain)


def tokens_of(size: np.ndarray) -> np.ndarray:
    """Token of each absolute code: itself up to 15, then by bit length, second highest and lowest bit."""
    if size.size and size.max() >= 1 << 23:
        raise ValueError("a code has over 23 bits: the step is too fine for the largest weight")
    exponent = np.frexp(np.maximum(size, 1).astype(np.float64))[1] - 1  # exact: position of the highest bit
    large = 4 * exponent + 2 * (size >> np.maximum(exponent - 1, 0) & 1) + (size & 1)
    return np.where(size < 16, size, large)


def plain_bits(codes: np.ndarray, token: np.ndarray) -> list[np.ndarray]:
    """Middle bits of large codes, highest plane first, then the signs (1: negative) of codes that are not 0."""
    size, need = np.abs(codes), BITS[token]
    planes = [(size[need >= bit] >> bit & 1).astype(np.uint8) for bit in range(need.max(initial=0), 0, -1)]
    return [*planes, (codes[codes != 0] < 0).astype(np.uint8)]


def magnitudes(matrix: Matrix) -> tuple[np.ndarray, np.ndarray, int]:
    """(factors of rows, priors of columns, centre of what columns' steps do not predict), in 1/3 octaves."""
    size = np.abs(matrix.codes)
    rows = _thirds(size.mean(1) / max(size.mean(), 1e-9))
    priors = _thirds(size.sum(0) / np.exp2(rows / 3).sum())
    left = priors + 3 * matrix.columns // 4
    return rows, priors, int(np.clip(np.median(left), left.max() - SIDE_RANGE, left.min() + SIDE_RANGE))


def _thirds(ratio: np.ndarray) -> np.ndarray:
    return np.clip(np.round(3 * np.log2(np.maximum(ratio, 1e-9))), -FACTOR_RANGE, FACTOR_RANGE).astype(np.int64)


def levels(token: np.ndarray, factors: np.ndarray, priors: np.ndarray) -> np.ndarray:
    """Magnitude contexts [R, C] as the decoder finds them: the columns' means above, times the row's factor."""
    rows = len(token)
    blocks = range(0, rows - REFRESH, REFRESH)
    mass = [8 * GRID[UNIT + priors]] + [LOWEST[token[at : at + REFRESH]].sum(0) << 10 for at in blocks]
    weight = [np.full(priors.size, 8 * 1024)] + [GRID[UNIT + factors[at : at + REFRESH]].sum(0) for at in blocks]
    level = np.searchsorted(GRID, (np.cumsum(mass, 0) << 10) // np.cumsum(weight, 0))
    return np.clip(level.repeat(REFRESH, 0)[:rows] + factors, 0, MAGNITUDES - 1)


def counts_of(coded: Symbols) -> np.ndarray:
    """How often each token occurs in each context: int64 [VECTORS + 1, TOKENS]."""
    counts = np.zeros((VECTORS + 1) * TOKENS, np.int64)
    for at in range(0, len(coded.contexts), COUNTED_STEPS):
        steps = slice(at, at + COUNTED_STEPS)
        context = np.concatenate(coded.contexts[steps]).astype(np.int64)
        token = np.concatenate(coded.tokens[steps])
        counts += np.bincount(context * TOKENS + token, minlength=counts.size)
    return counts.reshape(VECTORS + 1, TOKENS)


def frequencies(coded: Symbols) -> bytes:
    """Tables for rans_table: for each context chances out of 256, each given that no token before it came."""
    return b"".join(map(_chances, counts_of(coded)))


def _chances(counts: np.ndarray) -> bytes:
    used = np.flatnonzero(counts)
    last = used[-1] if used.size else 0
    left, chances = 4096, []
    for token in range(last):
        rest, later = counts[token:].sum(), np.count_nonzero(counts[token + 1 :])
        chance = int(np.clip(round(256 * counts[token] / rest), 1, 255)) if counts[token] else 0
        while chance > 1 and left - max(1, left * chance >> 8) < later:
            chance -= 1  # every later token needs a slot
        left -= max(1, left * chance >> 8) if chance else 0
        chances.append(chance)
    return bytes([last, *chances])


def costs(table: np.ndarray) -> np.ndarray:
    """Bits of each (context, token) under a table of rans_table; infinite where it cannot be coded."""
    result = np.full((VECTORS + 1, TOKENS), np.inf)
    context = np.repeat(np.arange(VECTORS + 1), 4096)
    result[context, table >> 24] = 12 - np.log2((table >> 12 & 4095) + 1)
    return result


def rans(states: np.ndarray, coded: Symbols, table: np.ndarray, progress: Callable[[int, int], None]) -> np.ndarray:
    """Codes all steps backwards from `states` (uint64, changed in place), returns the words in the decoder's order."""
    slots = table.reshape(-1, 4096)
    frequency, start = np.zeros((2, len(slots), TOKENS), np.uint64)
    for context, slot in enumerate(slots):
        first = np.flatnonzero((slot & 4095) == 0)
        frequency[context, slot[first] >> 24] = (slot[first] >> 12 & 4095) + 1
        start[context, slot[first] >> 24] = first
    twelve, sixteen, twenty = (np.uint64(n) for n in (12, 16, 20))
    words = []
    steps = len(coded.contexts)
    for index in range(steps - 1, -1, -1):
        context = coded.contexts[index]
        token = coded.tokens[index]
        x = states[: context.size]
        f = frequency[context, token]
        high = x >= f << twenty
        words.append((x[high] & np.uint64(65535)).astype(np.uint16))
        x[high] >>= sixteen
        states[: context.size] = (x // f << twelve) + x % f + start[context, token]
        if not index % 256:
            progress(steps - index, steps)
    return np.concatenate([*words[::-1], np.zeros(0, np.uint16)])
