"""Stored tensors -> WGTS payload, weight format 1: the other half of compress/decode.py (docs/format.md).

Codes of the same matrix in all layers share one brotli stream, column after column: 3% smaller than row by row, since
columns differ in size more than rows do. Floats are split into byte planes.

Not covered: choosing the codes (compress/quantise.py).
"""

import json
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np

from compress.container import compress
from compress.quantise import Quantised

FORMAT = b"\1"
FLOAT16, FLOAT32, CODES = 1, 2, 3  # streams; every group of matrices has its own from CODES on


def encode_weights(
    tensors: dict[str, Quantised], progress: Callable[[int, int], None] = lambda done, total: None
) -> bytes:
    """The payload; tensors keep the order of the dict. Calls progress(bytes coded, bytes in all) after each stream."""
    table, streams, groups = {}, {FLOAT16: [], FLOAT32: []}, {}
    for name, tensor in tensors.items():
        values = tensor.values.numpy()
        if tensor.codes is None:
            stream = FLOAT16 if values.dtype == np.float16 else FLOAT32
            streams[stream].append(values)
        else:
            stream = groups.setdefault(group_of(name), CODES + len(groups))
            streams.setdefault(stream, []).append(tensor.codes.numpy().T.tobytes())
            streams[FLOAT16].append(values)
        table[name] = [stream, *tensor.shape]
    plain = [json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()]
    plain += [_byte_planes(streams[FLOAT16], 2), _byte_planes(streams[FLOAT32], 4)]
    plain += [b"".join(streams[stream]) for stream in groups.values()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # brotli works outside the interpreter lock
        tasks = {pool.submit(compress, stream): len(stream) for stream in plain}
        done, total = 0, sum(tasks.values())
        for task in as_completed(tasks):
            done += tasks[task]
            progress(done, total)
    packed = [task.result() for task in tasks]
    return FORMAT + b"".join(len(stream).to_bytes(4, "little") + stream for stream in packed)


def group_of(name: str) -> str:
    """The tensor's name with layer numbers taken out: blocks.#.mlp.up.weight."""
    return re.sub(r"\d+", "#", name)


def stream_lengths(payload: bytes) -> list[int]:
    """Bytes of each brotli stream of a well-formed payload, the table of contents first."""
    lengths, start = [], len(FORMAT)
    while start < len(payload):
        lengths.append(int.from_bytes(payload[start : start + 4], "little"))
        start += 4 + lengths[-1]
    return lengths


def _byte_planes(arrays: list[np.ndarray], width: int) -> bytes:
    """All first (most significant) bytes, then all second ones, ...: the first plane hardly varies."""
    values = np.concatenate([np.zeros(0, f">f{width}"), *arrays]).astype(f">f{width}")
    return values.view(np.uint8).reshape(-1, width).T.tobytes()
