"""The counted decoder: WGTS payload -> state dict. It travels minified inside the artifact (docs/format.md).

Reads weight format 1: a JSON table of contents, then brotli streams of 16-bit floats, 32-bit floats and integer codes.
A weight is code x row scale: at most 8 bits times 11, so the product is exact in float32, the same on every machine.
Nothing is allocated beyond what the checked shapes need, and MAX_WEIGHTS bounds those.

Not covered: the container and its checksum, how the codes were chosen (compress/quantise.py).
"""

import json
import math

import brotli
import numpy as np
import torch

MAX_WEIGHTS = 1 << 28  # 1 GiB as float32; a 16 MB file at half a bit per weight
MAX_TABLE_BYTES = 1 << 20


def inflate(data, limit):
    """Bytes of one whole brotli stream, at most `limit` of them."""
    stream = brotli.Decompressor()
    try:
        out = stream.process(data, output_buffer_limit=limit + 1)
    except brotli.error:
        raise ValueError("WGTS: damaged stream") from None
    if len(out) > limit or not stream.is_finished():
        raise ValueError("WGTS: stream cut short or too long")
    return out


def read_codes(payload):
    """{name: (shape, codes int8 [rows, columns] or None, float32 row scales, or the values if there are no codes)}."""
    if payload[:1] != b"\1":
        raise ValueError("WGTS: unknown weight format")
    streams, start = [], 1
    while start < len(payload):
        end = start + 4 + int.from_bytes(payload[start : start + 4], "little")
        if end > len(payload):
            raise ValueError("WGTS: stream runs past the end")
        streams.append(payload[start + 4 : end])
        start = end
    if len(streams) < 3:
        raise ValueError("WGTS: streams missing")
    try:
        table = json.loads(inflate(streams[0], MAX_TABLE_BYTES))
        entries = [(stream, shape) for stream, *shape in table.values()]
    except (AttributeError, TypeError, RecursionError):
        raise ValueError("WGTS: bad table") from None
    # Sizes first: bytes each stream must hold. Stream 1: float16, stream 2: float32, from 3 on: codes.
    sizes = [0] * len(streams)
    for stream, shape in entries:
        if len(shape) > 8 or not all(type(n) is int and 0 <= n <= MAX_WEIGHTS for n in (stream, *shape)):
            raise ValueError("WGTS: bad table")
        if not 0 < stream < len(streams) or stream > 2 and len(shape) < 2:
            raise ValueError("WGTS: bad table")
        sizes[stream] += math.prod(shape) * (2, 4, 1)[min(stream, 3) - 1]
        if stream > 2:
            sizes[1] += 2 * math.prod(shape[:-1])
        if sum(sizes) > 4 * MAX_WEIGHTS:
            raise ValueError("WGTS: too many weights")
    data = [[]]
    for stream, size in zip(streams[1:], sizes[1:]):
        out = np.frombuffer(inflate(stream, size), np.uint8)
        if out.size != size:
            raise ValueError("WGTS: stream shorter than its tensors")
        if len(data) < 3:  # byte planes, most significant first, to big-endian floats
            width = 2 * len(data)
            out = np.ascontiguousarray(out.reshape(width, -1).T).view(f">f{width}").reshape(-1)
            if not np.isfinite(out).all():
                raise ValueError("WGTS: not a finite number")
        data.append(out)
    result = {}

    def take(stream, count):
        head, data[stream] = data[stream][:count], data[stream][count:]
        return head

    for name, (stream, *shape) in table.items():
        if stream < 3:
            result[name] = shape, None, take(stream, math.prod(shape)).astype(np.float32)
        else:
            rows = math.prod(shape[:-1])
            codes = take(stream, rows * shape[-1]).view(np.int8).reshape(shape[-1], rows).T
            result[name] = shape, codes, take(1, rows).astype(np.float32)
    return result


def decode_weights(payload):
    """{name: float32 tensor} of a WGTS payload (bytes). Raises ValueError, one line, on anything malformed."""
    result = {}
    for name, (shape, codes, values) in read_codes(payload).items():
        if codes is not None:
            values = codes * values[:, None]
        result[name] = torch.from_numpy(np.ascontiguousarray(values)).reshape(shape)
    return result
