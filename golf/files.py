"""Reading and writing the small files that the tools exchange: JSON, hashes, atomic writes.

Every file here may be a stranger's: only regular files of a bounded size are read, and JSON only with numbers that can
be computed with. What the values mean is for golf/schema.py and for whoever reads them.

Not covered: shards and artifacts, whose formats belong to golf data and to compress/.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from golf import locks
from golf.foreign import terminal, terminal_lines

ROOT = Path(__file__).resolve().parent.parent  # of the checkout that these sources are in
MAX_BYTES = 64 * 2**20  # of a file that is read whole
# Of a text or a JSON file: in memory `[[],[],...` takes 25 times its length. 50,000 documents of a score take half.
MAX_TEXT_BYTES = 16 * 2**20
MAX_SETTINGS_BYTES = 2**20  # of a JSON file without documents, such as record.json and run.json
MAX_HASHED_BYTES = 4 * 2**30  # a file with holes has terabytes that are on no disk
MAX_DEPTH = 32  # levels of lists and objects in JSON: comparing and printing values recurses as deep as they are
MAX_INTEGER = 2**64
MAX_METRIC = 1e15  # of a value in metrics.jsonl: larger ones break a picture's axes
MAX_ENTRIES = 2000  # files and folders in a record; three seeds need 18
MAX_FOLDER_BYTES = 64 * 2**20  # of all files of a record together


class Failure(Exception):
    """Something the user can put right. main() prints it as one line on stderr and exits with `code`."""

    def __init__(self, message: str, code: int = 1):
        super().__init__(message)
        self.code = code


def explain(program: str, error: Failure | OSError) -> int:
    """Prints one line about what ended a program on stderr; returns its exit code. A pipe that nobody reads any more is
    raised again, for golf/console.py."""
    if isinstance(error, BrokenPipeError):
        raise error
    if isinstance(error, Failure):
        text = str(error)
    else:
        where = f"{terminal(os.fsdecode(error.filename))}: " if isinstance(error.filename, (str, bytes)) else ""
        text = where + (error.strerror or str(error)) + advice(error)
    print(f"{program}: {terminal_lines(text)}", file=sys.stderr)
    return error.code if isinstance(error, Failure) else 1


def advice(error: OSError) -> str:
    """What to do about an error of the system, to follow its own words; "" where these say it all."""
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return ": make room there and run it again" if is_full else ""


def open_regular(path: Path) -> BinaryIO:
    """The regular file `path`, open for reading. Failure if it is something else: a pipe could be waited for without
    end. Raises OSError."""
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise Failure(f"{terminal(str(path), 1000)}: not a regular file")


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """What the regular file `path` holds. Failure if it is something else, has more than `limit` bytes, or cannot be
    read."""
    try:
        with open_regular(path) as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise Failure(f"{path}: cannot read it: {error.strerror}") from None
    if len(data) > limit:
        raise Failure(f"{path}: more than {limit:,} bytes")
    return data


def read_text(path: Path, limit: int = MAX_TEXT_BYTES) -> str:
    """As read_bytes; the file must be UTF-8."""
    return decoded(path, read_bytes(path, limit))


def decoded(path: Path, data: bytes) -> str:
    """The text of a file's bytes. Raises Failure, with the line, if they are not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Failure(f"{path}: not UTF-8 in line {line:,} (byte {error.start:,}): {error.reason}") from None


def check_plain(folder: Path) -> None:
    """Raises Failure unless `folder` holds only folders and regular files of a bounded size, and no symbolic link: a
    link would lead out of it, and a pipe can be waited for without end."""
    if folder.is_symlink():
        raise Failure(f"{folder}: a symbolic link: name the folder itself")
    waiting, entries, size = [folder], 0, 0
    while waiting:
        for entry in os.scandir(waiting.pop()):
            entries += 1
            where = terminal(entry.path, 1000)
            status = entry.stat(follow_symlinks=False)
            size += status.st_size
            if stat.S_ISDIR(status.st_mode):
                waiting.append(Path(entry.path))
            elif not stat.S_ISREG(status.st_mode):
                kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "not a regular file"
                raise Failure(f"{where}: {kind}: a record holds its files itself")
            elif status.st_size > MAX_BYTES:
                raise Failure(f"{where}: {status.st_size:,} bytes: a file of a record has at most {MAX_BYTES:,}")
            if entries > MAX_ENTRIES:
                raise Failure(f"{folder}: more than {MAX_ENTRIES:,} files: a record has some twenty")
            if size > MAX_FOLDER_BYTES:
                raise Failure(f"{folder}: more than {MAX_FOLDER_BYTES:,} bytes in all: a record has a few million")


def unusable(value: object) -> str:
    """Where and why a value that json.loads gave cannot be computed with, "" if it can: NaN, infinities (1e999 is one),
    integers of 2^64 or more, lists and objects more than MAX_DEPTH deep."""
    path: list = []  # of keys and indices that lead to the item at hand
    waiting = [iter([(None, value)])]  # a stack of its own: a deep value would end Python's
    while waiting:
        step = next(waiting[-1], None)
        if step is None:
            waiting.pop()
            del path[-1:]
            continue
        key, item = step
        here = (*path[1:], key) if path else ()
        if isinstance(item, float) and not math.isfinite(item):
            return f"{dotted(here)}{item} is not a finite number"
        if isinstance(item, int) and abs(item) >= MAX_INTEGER:
            return f"{dotted(here)}an integer of 2^64 or more"
        if not isinstance(item, (dict, list)):
            continue
        if len(waiting) > MAX_DEPTH:
            return f"more than {MAX_DEPTH} lists and objects inside each other"
        path.append(key)
        waiting.append(iter(item.items() if isinstance(item, dict) else enumerate(item)))
    return ""


def dotted(path: tuple) -> str:
    """Keys and indices as "seeds.0.bpb: "; "" for the whole."""
    return terminal(".".join(map(str, path)), 100) + ": " if path else ""


def parse_json(text: str | bytes) -> object:
    """As json.loads. ValueError also for what `unusable` names."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("too many lists and objects inside each other") from None
    if reason := unusable(value):
        raise ValueError(reason)
    return value


def read_json(path: Path, keys: tuple[str, ...] = (), limit: int = MAX_TEXT_BYTES) -> dict:
    """The JSON object in `path`. Failure names the file when it is missing, too long, not JSON, no object, or
    lacks a key."""
    try:
        value = parse_json(read_bytes(path, limit))
    except ValueError as error:
        raise Failure(f"{path}: not JSON: {terminal(str(error), 200)}") from None
    if not isinstance(value, dict):
        raise Failure(f"{path}: expected a JSON object, found a {type(value).__name__}")
    missing = [key for key in keys if key not in value]
    if missing:
        raise Failure(f"{path}: no key {', '.join(map(repr, missing))}")
    return value


def read_metrics(path: Path) -> list[dict]:
    """The rows of a metrics.jsonl: step is an integer, elapsed a finite number, all other values such numbers or null.

    A last line without its newline (a run cut short) is left out. Raises Failure."""
    rows = []
    for number, line in enumerate(read_text(path).split("\n")[:-1], start=1):
        try:
            row = parse_json(line)
            for key, value in row.items():
                number_like = isinstance(value, (int, float)) and not isinstance(value, bool)
                if value is not None and not (number_like and abs(value) <= MAX_METRIC):
                    raise ValueError(f"{terminal(key, 60)}: {terminal(value, 60)} is no number of ordinary size")
            if type(row["step"]) is not int or row["elapsed"] is None:
                raise ValueError("step is not an integer, or elapsed is null")
        except (AttributeError, KeyError, ValueError) as error:
            raise Failure(
                f"{path}:{number}: not a row with step and elapsed ({terminal(str(error), 120)}): {terminal(line, 60)}"
            ) from None
        rows.append({"step": row["step"], "elapsed": row["elapsed"], **row})
    return rows


def sha256_file(path: Path, limit: int = MAX_HASHED_BYTES) -> str:
    """Hex digest of a regular file's bytes. Failure if it is something else, or larger than `limit`. Raises OSError."""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > limit:
            raise Failure(f"{terminal(str(path), 1000)}: more than {limit:,} bytes")
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path | str, data: bytes) -> None:
    """Replaces `path` by a file that holds `data`; a reader sees the old bytes or the new ones, never a part.

    What writers of the same path left that were killed meanwhile is removed. Raises OSError, which names `path`."""
    _replace_file(Path(path), data, is_durable=False)


def write_durable(path: Path | str, data: bytes) -> None:
    """As write_atomic; once it returns, the file also outlasts a machine that loses its power. For what cannot be
    computed again: an artifact, a score."""
    _replace_file(Path(path), data, is_durable=True)


def _replace_file(path: Path, data: bytes, is_durable: bool) -> None:
    if path.is_dir():  # also "." and "..", beside which nothing can be written that would become it
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    try:
        with part(path, data, is_durable) as temporary:
            os.replace(temporary, path)
        if is_durable:
            sync(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


@contextlib.contextmanager
def part(path: Path, data: bytes, is_durable: bool) -> Iterator[Path]:
    """A file that holds `data` and lies beside `path`, to be given a name in the block; what is left of it then goes.
    Parts of `path` that killed writers left go too. is_durable: whether the data is on the disk. Raises OSError."""
    _remove_stale(path)
    temporary = path.with_name(part_name(path))
    try:
        # Locked for as long as its writer lives: others see by it whether the file is stale
        file, _ = locks.acquire(temporary, os.O_EXCL, lambda: None)
        with file:
            file.write(data)
            file.flush()
            if is_durable:
                os.fsync(file.fileno())
            yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def part_name(path: Path) -> str:
    """A name that nothing has, for what is to become `path` and lies beside it until it is whole."""
    return f".{path.name}.{secrets.token_hex(4)}.part"


def is_part(name: str, path: Path) -> bool:
    """Whether part_name(path) may have given this name."""
    return re.fullmatch(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.part", name) is not None


def sync(path: Path) -> None:
    """Waits until a file, or the list of a folder's files, is on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_stale(path: Path) -> None:
    """Removes what writers of `path` left that were killed: nobody has its lock any more."""
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):
            if is_part(name, path):
                _remove_unlocked(path.parent / name)


def _remove_unlocked(path: Path) -> None:
    with contextlib.suppress(OSError):  # it is in use, gone, or not ours
        with open(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            if os.fstat(file.fileno()).st_uid == os.getuid() and not locks.is_taken(file.fileno()):
                path.unlink()


def write_json(path: Path, value: dict) -> None:
    """`value` as indented JSON, atomically."""
    write_atomic(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())
