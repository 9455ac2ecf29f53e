"""Reads documents from a folder: .txt (one document a file), .jsonl and .jsonl.zst (one object a line, its "text" the
document).

The text is taken as it is: nothing is cleaned. The slice (`source`) of a .txt file is its parent folder, of the others
the file's stem.

Not covered: other formats and encodings than UTF-8; what is then done with the documents (tools/data/build.py).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

from golf.files import Failure
from tools.data.embedded import Document

SUFFIXES = (".txt", ".jsonl", ".jsonl.zst")


def files(folder: Path) -> list[Path]:
    """The files of a folder, at any depth, that hold documents. Raises Failure if there are none."""
    if not folder.is_dir():
        raise Failure(f"{folder}: no such folder")
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.name.endswith(SUFFIXES))
    if not found:
        raise Failure(f"{folder}: no {', '.join(SUFFIXES)} files in it")
    return found


def read(path: Path) -> Iterator[Document]:
    """The documents of one file. Raises Failure with file and line for what is not UTF-8, not JSON or has no "text"."""
    if path.name.endswith(".txt"):
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise Failure(f"{path}: not UTF-8 at byte {error.start}") from None
        if text.strip():
            yield Document(text, path.parent.name)
        return
    source = path.name.split(".jsonl")[0]
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
            text.encode("utf-8")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Failure(f'{path}:{number}: not a JSON object with a string "text" in UTF-8') from None
        if text.strip():
            yield Document(text, source)


def _lines(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        if not path.name.endswith(".zst"):
            yield from file
            return
        rest = b""
        for block in _unpack(file, path):
            *lines, rest = (rest + block).split(b"\n")
            yield from lines
        yield rest


def _unpack(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """The blocks of a zstd file, frame by frame. (zstandard's own reader takes a file that is cut short for a whole
    one.)
    """
    frame, inside = zstandard.ZstdDecompressor().decompressobj(), False
    try:
        while data := file.read(1 << 20):
            while data:
                yield frame.decompress(data)
                inside, data = not frame.eof, frame.unused_data
                if frame.eof:
                    frame = zstandard.ZstdDecompressor().decompressobj()
    except zstandard.ZstdError as error:
        raise Failure(f"{path}: not a zstd file: {error}") from None
    if inside:
        raise Failure(f"{path}: the zstd file is cut short")
