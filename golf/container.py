"""The .golf file: magic, section table, four payloads, checksum (docs/format.md, container version 1).

Shared by the packer and the scorer, so it holds what both must agree on: the container, the CODE and CONF payloads,
and the compression of texts (PPMd var. I, Shkarin 2002; older files: brotli) with a bound on what comes out.

Not covered: what TOKN holds (golf/tokenizer_section.py) and what WGTS holds (the decoder that travels in CODE). The
checksum finds accidents, not malice: a file with a right checksum can still hold any code.
"""

import hashlib
import json
import os
import struct
from pathlib import Path

import brotli
import pyppmd

from golf.files import write_durable

MAGIC = b"GOLF"
VERSION = 1
TAGS = ("CODE", "CONF", "TOKN", "WGTS")  # in the order of the file
CHECKSUM_BYTES = 8  # of SHA-256
HEADER = struct.Struct("<4sB" + "4sI" * len(TAGS))
OVERHEAD_BYTES = HEADER.size + CHECKSUM_BYTES
SOURCE_LIMIT_BYTES = 4_000_000  # of both sources together, decompressed
CONFIG_LIMIT_BYTES = 1_000_000
PPMD = b"\x11"  # how a PPMd text begins, and no brotli stream does: RFC 7932, 9.1, reserves it
ORDER, MEMORY_BYTES = 12, 1 << 24
CHUNK_BYTES = 256
# More than a decoder can take in for a chunk: a byte of text is at most ORDER + 2 decisions of at most 4 bytes.
PADDING_BYTES = 64 * CHUNK_BYTES
DAMAGED = "damaged PPMd stream, or bytes after its end"


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
    """Writes the file at once: a reader sees all of it or none."""
    write_durable(Path(path), to_bytes(sections))


def compress(text: bytes) -> bytes:
    """The payload for a text: PPMD, then one PPMd stream with its end mark."""
    encoder = pyppmd.Ppmd8Encoder(ORDER, MEMORY_BYTES)
    return PPMD + encoder.encode(text) + encoder.flush()


def decompress(payload: bytes, limit: int) -> bytes:
    """The text of a payload, at most `limit` bytes, allocated as it comes.

    Raises FormatError if the stream is damaged, cut short, followed by anything, or longer than `limit`.
    """
    if payload.startswith(PPMD):
        return _read_ppmd(payload.removeprefix(PPMD), limit)
    return _read_brotli(payload, limit)


def _read_ppmd(stream: bytes, limit: int) -> bytes:
    # Each chunk is encoded again, which tells how much of the stream it took: no other stream gives the same text, and
    # the padding keeps pyppmd's decoder from ever running out of input. Where it does, it leaves a thread behind that
    # waits for more, and reads freed memory when it is woken.
    if stream.startswith(b"\xff\xff\xff\xff"):  # no encoder starts so, and pyppmd raises a SystemError
        raise FormatError(DAMAGED)
    decoder, encoder = pyppmd.Ppmd8Decoder(ORDER, MEMORY_BYTES), pyppmd.Ppmd8Encoder(ORDER, MEMORY_BYTES)
    text, taken, data = bytearray(), 0, stream + bytes(PADDING_BYTES)
    while not decoder.eof:
        try:
            part = decoder.decode(data, CHUNK_BYTES)
        except ValueError:
            raise FormatError(DAMAGED) from None
        again = encoder.encode(part) + (encoder.flush() if decoder.eof else b"")
        if stream[taken : taken + len(again)] != again:
            raise FormatError("PPMd stream cut short" if again.startswith(stream[taken:]) else DAMAGED)
        text += part
        taken, data = taken + len(again), b""
        if len(text) > limit:
            raise FormatError(f"PPMd stream holds more than the {limit} bytes allowed")
    if taken < len(stream):
        raise FormatError(DAMAGED)
    return bytes(text)


def _read_brotli(payload: bytes, limit: int) -> bytes:
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


def code_pack(train_source: str, decode_source: str) -> bytes:
    """CODE payload: both sources, with a zero byte (which no Python source can hold) between."""
    for source in (train_source, decode_source):
        if "\0" in source:
            raise ValueError("source holds a zero byte")
    both = f"{train_source}\0{decode_source}".encode()
    if len(both) > SOURCE_LIMIT_BYTES:
        raise ValueError(f"source of {len(both)} bytes; at most {SOURCE_LIMIT_BYTES} can be packed")
    return compress(both)


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
    """CONF payload: {"config": config} as compact JSON with sorted keys. ValueError if JSON cannot say it."""
    value = {"config": config}
    try:
        text = json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False, allow_nan=False)
    except TypeError as error:
        raise ValueError(f"config: {error}") from None
    return compress(text.encode())


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
