"""The .golf file: magic, section table, four payloads, checksum (docs/format.md, container version 1).

Shared by the packer and the scorer, so it holds what both must agree on: the container, the CODE and CONF payloads,
and brotli with a bound on what comes out. Standard library and brotli only.

Not covered: what TOKN holds (compress/tokenizer.py) and what WGTS holds (the decoder that travels in CODE). The
checksum finds accidents, not malice: a file with a right checksum can still hold any code.
"""

import hashlib
import json
import os
import struct
from pathlib import Path

import brotli

MAGIC = b"GOLF"
VERSION = 1
TAGS = ("CODE", "CONF", "TOKN", "WGTS")  # in the order of the file
CHECKSUM_BYTES = 8  # of SHA-256
HEADER = struct.Struct("<4sB" + "4sI" * len(TAGS))
OVERHEAD_BYTES = HEADER.size + CHECKSUM_BYTES
SOURCE_LIMIT_BYTES = 4_000_000  # of both sources together, decompressed
CONFIG_LIMIT_BYTES = 1_000_000


class FormatError(ValueError):
    """The bytes are no valid .golf file; the message says in one line what is wrong."""


def to_bytes(sections: dict[str, bytes]) -> bytes:
    """The file that holds these payloads. Raises ValueError unless the keys are exactly TAGS."""
    if set(sections) != set(TAGS):
        raise ValueError(f"an artifact has the sections {', '.join(TAGS)}; got {', '.join(sorted(sections)) or 'none'}")
    table = [field for tag in TAGS for field in (tag.encode(), len(sections[tag]))]
    body = HEADER.pack(MAGIC, VERSION, *table) + b"".join(sections[tag] for tag in TAGS)
    return body + hashlib.sha256(body).digest()[:CHECKSUM_BYTES]


def read(data: bytes) -> dict[str, bytes]:
    """Payload of each tag. Raises FormatError on anything that `to_bytes` does not write."""
    if not data.startswith(MAGIC):
        raise FormatError("not a .golf file: it does not start with GOLF")
    if len(data) < OVERHEAD_BYTES:
        raise FormatError(f"file cut short: {len(data)} bytes, an artifact has at least {OVERHEAD_BYTES}")
    _, version, *table = HEADER.unpack_from(data)
    if version != VERSION:
        raise FormatError(f"container version {version}; this program reads version {VERSION}")
    tags, lengths = table[0::2], table[1::2]
    if tags != [tag.encode() for tag in TAGS]:
        raise FormatError(f"section table holds {b' '.join(tags)!r}, expected {' '.join(TAGS)}")
    expected = OVERHEAD_BYTES + sum(lengths)
    if len(data) < expected:
        raise FormatError(f"file cut short: {len(data)} bytes, its section table asks for {expected}")
    if len(data) > expected:
        raise FormatError(f"{len(data) - expected} bytes after the end of the artifact")
    body, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    if hashlib.sha256(body).digest()[:CHECKSUM_BYTES] != checksum:
        raise FormatError("checksum does not match: the file is damaged")
    sections, start = {}, HEADER.size
    for tag, length in zip(TAGS, lengths, strict=True):
        sections[tag] = data[start : start + length]
        start += length
    return sections


def write(path: str | os.PathLike, sections: dict[str, bytes]) -> None:
    """Writes the file under a temporary name in the same folder, then renames: a reader sees all of it or none."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(to_bytes(sections))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def decompress(payload: bytes, limit: int) -> bytes:
    """One whole brotli stream of at most `limit` bytes, output allocated as it comes.

    Raises FormatError if the stream is damaged, cut short, followed by anything, or longer than `limit`.
    """
    stream, parts, size, data = brotli.Decompressor(), [], 0, payload
    try:
        while size <= limit and not stream.is_finished():
            part = stream.process(data, output_buffer_limit=limit + 1 - size)
            if not part and not data:
                raise FormatError("brotli stream cut short")
            parts.append(part)
            size, data = size + len(part), b""
    except brotli.error:
        raise FormatError("damaged brotli stream, or bytes after its end") from None
    if size > limit:
        raise FormatError(f"brotli stream holds more than the {limit} bytes allowed")
    return b"".join(parts)


def compress(data: bytes, mode: int = brotli.MODE_GENERIC) -> bytes:
    """Brotli at its highest quality and largest standard window."""
    return brotli.compress(data, mode=mode, quality=11, lgwin=24)


def code_pack(train_source: str, decode_source: str) -> bytes:
    """CODE payload: both sources, with a zero byte (which no Python source can hold) between, in one brotli stream."""
    for source in (train_source, decode_source):
        if "\0" in source:
            raise ValueError("source holds a zero byte")
    both = f"{train_source}\0{decode_source}".encode()
    if len(both) > SOURCE_LIMIT_BYTES:
        raise ValueError(f"source of {len(both)} bytes; at most {SOURCE_LIMIT_BYTES} can be packed")
    return compress(both, brotli.MODE_TEXT)


def code_unpack(payload: bytes) -> tuple[str, str]:
    """(train_gpt.py, decode.py) of a CODE payload. Raises FormatError."""
    try:
        sources = decompress(payload, SOURCE_LIMIT_BYTES).decode().split("\0")
    except UnicodeDecodeError:
        raise FormatError("CODE: the sources are not valid UTF-8") from None
    if len(sources) != 2:
        raise FormatError(f"CODE: {len(sources)} sources, expected two")
    return sources[0], sources[1]


def config_pack(config: dict) -> bytes:
    """CONF payload: brotli of {"config": config} as compact JSON with sorted keys. ValueError if JSON cannot say it."""
    value = {"config": config}
    try:
        text = json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False, allow_nan=False)
    except TypeError as error:
        raise ValueError(f"config: {error}") from None
    return compress(text.encode(), brotli.MODE_TEXT)


def config_unpack(payload: bytes) -> dict:
    """The fields of Config that differ from the script's defaults. Raises FormatError."""
    try:
        value = json.loads(decompress(payload, CONFIG_LIMIT_BYTES))
    except FormatError:
        raise
    except (ValueError, RecursionError):
        raise FormatError("CONF: not JSON") from None
    if not isinstance(value, dict) or list(value) != ["config"] or not isinstance(value["config"], dict):
        raise FormatError('CONF: expected one object {"config": {...}}')
    return value["config"]
