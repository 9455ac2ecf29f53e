"""Reads documents from a folder: .txt (one document a file), .jsonl and .jsonl.zst (one object a line, its "text" the
document).

The text is taken as it is: nothing is cleaned. The slice (`source`) of a .txt file is its parent folder, of the others
the file's stem. Names that are not UTF-8 are shown with their bytes escaped.

Not covered: what lies behind linked folders; other formats and encodings than UTF-8; what is then done with the
documents (tools/data/build.py).
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

from golf.files import Failure, decoded
from tools.data.embedded import Document

SUFFIXES = (".txt", ".jsonl", ".jsonl.zst")
MAX_WINDOW_BYTES = 2**31  # of a zstd file, its format's largest; zstd itself stops at 2^27 unless told


def files(folder: Path) -> tuple[list[Path], dict[str, int]]:
    """(the files of a folder, at any depth, that hold documents; how many others were left out, by reason).

    Endings may be in capitals. Raises Failure if no file holds documents.
    """
    if not folder.is_dir():
        raise Failure(f"{folder}: no such folder")
    found: list[Path] = []
    left_out: Counter[str] = Counter()

    def unreadable(error: OSError) -> None:
        left_out["folders that cannot be read"] += 1

    for where, folders, names in os.walk(folder, onerror=unreadable):
        left_out["linked folders"] += sum(os.path.islink(os.path.join(where, name)) for name in folders)
        for name in names:
            path = Path(where, name)
            if not name.lower().endswith(SUFFIXES):
                left_out[f"files that end in {path.suffix or 'nothing'}"] += 1
            elif not path.is_file():
                left_out["links that lead nowhere, pipes and the like"] += 1
            else:
                found.append(path)
    if not found:
        raise Failure(f"{folder}: no {', '.join(SUFFIXES)} files in it")
    return sorted(found), {reason: count for reason, count in sorted(left_out.items()) if count}


def shown_name(name: str) -> str:
    """A file's or folder's name as text: bytes that are not UTF-8 become \\xe9."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def slice_name(folder: Path) -> str:
    """What a folder is called, also where it is "." or the root of all."""
    path = os.path.abspath(folder)
    return shown_name(os.path.basename(path) or path)


def read(path: Path) -> Iterator[Document]:
    """The documents of one file, empty ones too, which a .jsonl file may also have as null. Raises Failure with file
    and line for what is not UTF-8, not JSON or has no "text"."""
    if path.name.lower().endswith(".txt"):
        yield Document(decoded(path, path.read_bytes()), slice_name(path.parent))
        return
    source = shown_name(path.name[: path.name.lower().index(".jsonl")] or path.name)
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
            text = "" if text is None else text
            text.encode("utf-8")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise Failure(f'{path}:{number}: not a JSON object with a string "text" in UTF-8') from None
        yield Document(text, source)


def _lines(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        if not path.name.lower().endswith(".zst"):
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
    unpacker = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    frame, inside = unpacker.decompressobj(), False
    try:
        while data := file.read(1 << 20):
            while data:
                yield frame.decompress(data)
                inside, data = not frame.eof, frame.unused_data
                if frame.eof:
                    frame = unpacker.decompressobj()
    except zstandard.ZstdError as error:
        raise Failure(f"{path}: not a zstd file: {error}") from None
    if inside:
        raise Failure(f"{path}: the zstd file is cut short")
