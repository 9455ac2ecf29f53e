"""The counted decoder: WGTS payload -> state dict. It travels minified inside the artifact (docs/format.md).

Reads weight format 2. All symbols of the file stand in one static rANS stream (Duda 2013, arXiv:1311.2540) with 12-bit
frequencies, 32-bit states and 16-bit words: the lanes are the columns of a group of matrices, a step is one row. The
context of a symbol is the expected magnitude of the code and the quantiser that the trellis is in. All decisions are
integer ones, and a weight is one integer times one float32, so every machine gives the same bits.

Signs and the low bits of large codes need no model: they are plain bits behind the stream, and the first of them fill
the lanes' final states, which thereby check the stream. Nothing is allocated beyond what the checked shapes need.

Not covered: the container and its checksum, how the codes were chosen (compress/quantise.py).
"""

import json
import math

import brotli
import numpy as np
import torch

MAX_WEIGHTS = 1 << 28  # 1 GiB as float32; a 16 MB file at half a bit per weight
MAX_HEAD_BYTES = 1 << 20
MAX_LANES = 1 << 16
TOKENS = 92  # of codes up to 2^23: with the doubling below still exact as float32
REFRESH = 8  # rows between two estimates of the columns' magnitudes
MAGNITUDES = 34  # contexts, a third of an octave each
STEPS, ROWS, COLUMNS, PRIORS, VECTORS = range(2 * MAGNITUDES, 2 * MAGNITUDES + 5)  # tables of the side information
# 1024 x magnitude: thresholds of the contexts (from 1/32 on, a third of an octave apart), and the factors of rows.
GRID = np.array([c << i >> 7 for i in range(24) for c in (4096, 5161, 6502)])
UNIT = 15  # GRID[UNIT] is 1
# Codes up to 15 are tokens of their own; a larger one shares its token with those of the same length, second highest
# and lowest bit (the trellis needs the lowest one).
LOWEST = np.array([t if t < 16 else (2 + (t >> 1 & 1) << (t >> 2) - 1) + (t & 1) for t in range(TOKENS)], np.int32)
BITS = np.array([max(0, (t >> 2) - 2) if t > 15 else 0 for t in range(TOKENS)])


def fail(what):
    raise ValueError("WGTS: " + what)


def rans_table(data):
    """One int64 [contexts * 4096] of token << 24 | frequency - 1 << 12 | offset in the token, for each slot.

    data: for each context a length n, then n bytes: the chance out of 256 that the token is the next one, given that
    it is none of those before; the last token takes the rest. Zero excludes a token.
    """
    parts, at = [], 0
    while at < len(data):
        left, counts = 4096, []
        for byte in data[at + 1 : at + 1 + data[at]]:
            counts.append(byte and max(1, left * byte >> 8))
            left -= counts[-1]
        at += 1 + data[at]
        if left < 1 or at > len(data) or len(counts) >= TOKENS:
            fail("bad frequencies")
        counts = np.array(counts + [left])
        token = np.repeat(np.arange(counts.size), counts)
        parts.append(token << 24 | counts[token] - 1 << 12 | np.arange(4096) - (counts.cumsum() - counts)[token])
    if len(parts) != VECTORS + 1:
        fail("bad frequencies")
    return np.concatenate(parts)


def read_codes(payload):
    """{name: (shape, codes, trellis bits, steps of rows, steps of columns, values)} of a payload.

    A matrix has int32 codes [rows, columns], uint8 bits of the same shape and its steps in quarter octaves; any other
    tensor has None there. The values are float32, of the codes' shape.
    """
    if payload[:1] != b"\2":
        fail("unknown weight format")
    start = 4 + int.from_bytes(payload[1:4], "little")
    stream = brotli.Decompressor()
    try:
        head = stream.process(payload[4:start], output_buffer_limit=MAX_HEAD_BYTES)
    except brotli.error:
        fail("damaged head")
    if not stream.is_finished() or start > len(payload):
        fail("head cut short or too long")
    text, _, data = head.partition(b"\0")
    lanes, count, restart, trellis, scales, matrices, vectors = json.loads(text)
    total = 0
    for least, entries in ((1, matrices), (0, vectors)):
        for name, *numbers in entries:
            shape = numbers[2:]
            if type(name) is not str or not all(type(n) is int and abs(n) <= MAX_WEIGHTS for n in numbers):
                fail("bad table")
            if not 2 * least <= len(shape) <= 8 or min(shape, default=least) < least:
                fail("bad table")
            total += math.prod(shape)
    start_words = start + 4 * lanes
    start_bits = start_words + 2 * count
    if not (0 < lanes <= MAX_LANES and 0 <= count and start_bits <= len(payload) and restart > 0):
        fail("bad sizes")
    if total > MAX_WEIGHTS or len({entry[0] for entry in matrices + vectors}) < len(matrices + vectors):
        fail("too many weights, or two of one name")
    table = rans_table(data)
    trellis, scales = np.array(trellis, np.int64), np.array(scales, np.float32)
    if trellis.min() < 0 or 2 * trellis.max() + 1 >= trellis.size or scales.shape != (4,):
        fail("bad trellis")
    states = np.frombuffer(payload[start:start_words], "<u4").astype(np.int64)
    words = np.frombuffer(payload[start_words:start_bits], "<u2").astype(np.int64)
    position = 0

    def pull(context):
        """Tokens of the first lanes, one each; context: index of the table times 4096."""
        nonlocal position
        x = states[: context.size]
        entry = table[context + (x & 4095)]
        x = ((entry >> 12 & 4095) + 1) * (x >> 12) + (entry & 4095)
        (low,) = (x < 65536).nonzero()
        end = position + low.size
        if end > count:
            fail("stream cut short")
        x[low] = x[low] << 16 | words[position:end]
        position = end
        states[: context.size] = x
        return entry >> 24

    def row_of(context, size):
        """`size` tokens of one context."""
        parts = [pull(np.full(min(lanes, size - at), context << 12)) for at in range(0, size, lanes)]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def side(context, size):
        """The same as signed numbers 0, -1, 1, -2, ..."""
        tokens = row_of(context, size)
        return tokens >> 1 ^ -(tokens & 1)

    groups = []
    while matrices:
        rows, width, group = math.prod(matrices[0][3:-1]), 0, []
        while matrices and math.prod(matrices[0][3:-1]) == rows and (not group or width + matrices[0][-1] <= lanes):
            width += matrices[0][-1]
            group.append(matrices.pop(0))
        if width > lanes:
            fail("bad sizes")
        columns = np.array([entry[-1] for entry in group])
        steps = side(STEPS, len(group) * rows).reshape(len(group), rows)
        # Large steps make small codes: magnitudes are sent as what is left of a prediction from the steps.
        factors = (side(ROWS, len(group) * rows).reshape(len(group), rows) - 3 * steps // 4).repeat(columns, 0).T
        scale = side(COLUMNS, width)
        centres = np.array([entry[2] for entry in group]).repeat(columns)
        mass = 8 * GRID[UNIT + side(PRIORS, width) - 3 * scale // 4 + centres]
        weight = np.full(width, 8 * 1024)
        tokens, bits = np.empty((rows, width), np.uint8), np.empty((rows, width), np.uint8)
        for row in range(rows):
            if row % REFRESH == 0:
                if row:
                    mass += LOWEST[tokens[row - REFRESH : row]].sum(0) << 10
                    weight += GRID[UNIT + factors[row - REFRESH : row]].sum(0)
                level = np.searchsorted(GRID, (mass << 10) // weight)
                context = np.clip(level + factors[row : row + REFRESH], 0, MAGNITUDES - 1) << 13
            if row % restart == 0:
                state = np.zeros(width, np.int64)
            bits[row] = bit = state & 1
            tokens[row] = token = pull(context[row % REFRESH] | bit << 12)
            state = trellis[2 * state + (token & 1)]
        groups.append((group, tokens, bits, steps, scale))
    for entry in vectors:
        groups.append(([entry], row_of(VECTORS, math.prod(entry[3:])), 0, None, None))
    if position != count or (states >> 16 != 1).any():
        fail("damaged stream")
    plain = np.unpackbits(np.frombuffer((states & 65535).astype("<u2").tobytes() + payload[start_bits:], np.uint8))
    position = 0

    def take(size):
        nonlocal position
        position += size
        if position > plain.size:
            fail("bits cut short")
        return plain[position - size : position]

    result = {}
    for group, tokens, bits, steps, scale in groups:
        codes, need = LOWEST[tokens], BITS[tokens]
        for bit in range(need.max(initial=0), 0, -1):
            more = need >= bit
            codes[more] += take(more.sum()).astype(np.int32) << bit
        some = codes > 0
        signs = 1 - 2 * take(some.sum()).astype(np.int32)
        codes[some] *= signs
        if steps is None:
            name, exponent, centre, *shape = group[0]
            values = np.ldexp((codes + centre).astype(np.float32), exponent)
            result[name] = shape, None, None, None, None, values
            continue
        at = 0
        for (name, low, centre, *shape), row_steps in zip(group, steps):  # noqa: B007, B905 (counted bytes)
            part = slice(at, at := at + shape[-1])
            exponent = low + row_steps[:, None] + scale[part]
            values = (2 * codes[:, part] - bits[:, part] * np.sign(codes[:, part])).astype(np.float32)
            values = np.ldexp(values * scales[exponent & 3], exponent >> 2)
            result[name] = shape, codes[:, part], bits[:, part], low + row_steps, scale[part], values
    if plain[position:].any() or start_bits < len(payload) and plain.size - position > 7:
        fail("bits left over")
    return result


def decode_weights(payload):
    """{name: float32 tensor} of a WGTS payload (bytes). Raises ValueError, one line, on anything malformed."""
    result = {}
    try:
        for name, (shape, *_, values) in read_codes(payload).items():
            if not np.isfinite(values).all():
                fail("not a finite number")
            result[name] = torch.from_numpy(values.reshape(shape))
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError):
        raise ValueError("WGTS: malformed") from None
    return result
