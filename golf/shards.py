"""The file format of tokens, which is the field's own: a header of 256 little-endian int32, then uint16 tokens.

The header holds a magic number, the format's version and the number of tokens; the rest of it is zero. A document
begins with BOS. train_gpt.py reads the same files with its own code, because it stands alone.

Not covered: which documents are in a shard, and the manifest that lists shards (tools/data).
"""

import os
from pathlib import Path

import numpy as np

from golf.files import Failure, open_regular

MAGIC = 20240520
VERSION = 1
HEADER_VALUES = 256
HEADER_BYTES = 4 * HEADER_VALUES
BOS = 1  # the token before every document


def shard_bytes(count: int) -> int:
    """Size of the file of `count` tokens."""
    return HEADER_BYTES + 2 * count


def write_shard(path: Path, tokens: np.ndarray) -> None:
    """Writes one shard. tokens: [T], of which each fits 16 bits."""
    header = np.zeros(HEADER_VALUES, dtype="<i4")
    header[:3] = MAGIC, VERSION, len(tokens)
    with open(path, "wb") as file:
        file.write(header.tobytes())
        file.write(np.ascontiguousarray(tokens, dtype="<u2").tobytes())


def read_shard(path: Path) -> np.ndarray:
    """Tokens [T] uint16 of a shard, memory-mapped. Raises Failure naming the file and its fault (header, size)."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            header = np.fromfile(file, dtype="<i4", count=HEADER_VALUES)
    except OSError as error:
        raise Failure(f"{path}: cannot read it: {error.strerror}") from None
    if size < HEADER_BYTES:
        raise Failure(f"{path}: {size} bytes, shorter than a shard's header of {HEADER_BYTES}")
    if header[0] != MAGIC or header[1] != VERSION:
        raise Failure(
            f"{path}: not a token shard (magic {header[0]}, version {header[1]}; expected {MAGIC}, {VERSION})"
        )
    count = int(header[2])
    if count < 0 or size != shard_bytes(count):
        raise Failure(f"{path}: {size} bytes, but its header says {count} tokens, {shard_bytes(count)} bytes")
    if not count:
        return np.empty(0, dtype="<u2")
    return np.memmap(path, dtype="<u2", mode="r", offset=HEADER_BYTES, shape=(count,))
