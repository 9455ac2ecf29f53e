"""Reading and writing the small files that the tools exchange: JSON, hashes, atomic writes.

Not covered: shards and artifacts, whose formats belong to golf data and to compress/.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import sys
from pathlib import Path
from typing import BinaryIO

ROOT = Path(__file__).resolve().parent.parent  # of the checkout that these sources are in


class Failure(Exception):
    """Something the user can put right. main() prints it as one line on stderr and exits with `code`."""

    def __init__(self, message: str, code: int = 1):
        super().__init__(message)
        self.code = code


def explain(program: str, error: Failure | OSError) -> int:
    """Prints one line about what ended a program on stderr; returns its exit code."""
    if isinstance(error, Failure):
        text = str(error)
    else:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
    print(f"{program}: {text}", file=sys.stderr)
    return error.code if isinstance(error, Failure) else 1


def read_json(path: Path, keys: tuple[str, ...] = ()) -> dict:
    """The JSON object in `path`. Failure names the file when it is missing, not JSON, no object, or lacks a key."""
    try:
        value = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise Failure(f"{path}: cannot read it: {error.strerror}") from None
    except ValueError as error:
        raise Failure(f"{path}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise Failure(f"{path}: expected a JSON object, found a {type(value).__name__}")
    missing = [key for key in keys if key not in value]
    if missing:
        raise Failure(f"{path}: no key {', '.join(map(repr, missing))}")
    return value


def read_metrics(path: Path) -> list[dict]:
    """The rows of a metrics.jsonl. A last line without its newline (a run cut short) is left out."""
    rows = []
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise Failure(f"{path}: cannot read it: {error.strerror}") from None
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            row = json.loads(line)
            rows.append({"step": row["step"], "elapsed": row["elapsed"], **row})
        except (ValueError, KeyError, TypeError):
            raise Failure(f"{path}:{number}: not a row with step and elapsed: {line[:60]!r}") from None
    return rows


def sha256_file(path: Path) -> str:
    """Hex digest of the file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Replaces `path` by a file that holds `data`; a reader sees the old bytes or the new ones, never a part.

    What writers of the same path left that were killed meanwhile is removed. Raises OSError, which names `path`."""
    path = Path(path)
    _remove_stale(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with _locked(temporary) as file:
            file.write(data)
            file.flush()
            os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def _locked(path: Path) -> BinaryIO:
    """The file `path`, new and open for writing, with a lock for as long as its writer lives, where the file system has
    locks.

    Another process may be about to remove a stale file of this name: the lock then comes to nothing, and we begin
    again."""
    while True:
        file = open(path, "wb")
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
            return file
        file.close()


def _remove_stale(path: Path) -> None:
    """Removes the temporary files of write_atomic(path) whose writers were killed: nobody has their lock any more."""
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):
            if re.fullmatch(rf"\.{re.escape(path.name)}\.\d+", name):
                _remove_unlocked(path.parent / name)


def _remove_unlocked(path: Path) -> None:
    with contextlib.suppress(OSError):  # it is in use, gone, or not ours
        with open(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_uid == os.getuid():
                path.unlink()


def write_json(path: Path, value: dict) -> None:
    """`value` as indented JSON, atomically."""
    write_atomic(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())
