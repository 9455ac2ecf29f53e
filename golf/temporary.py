"""Temporary folders: each is locked for as long as whoever made it lives, and goes when its block ends. What one left
who was killed is removed by the next one who makes a folder in the same place.

Not covered: file systems without locks, where what a killed one left stays.
"""

import contextlib
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from golf import locks

NAME = re.compile(r"\.?golf-[a-z]+-[0-9a-f]{16}")  # nobody calls a folder of his own that


@contextlib.contextmanager
def folder(what: str, parent: Path | None = None) -> Iterator[Path]:
    """A new folder, which is removed when the block ends. what: a word of small letters, for its name. parent: where it
    lies, hidden there (default: where temporary files lie). Raises OSError."""
    path, lock = make(what, parent)
    try:
        yield path
    finally:
        remove(path)
        os.close(lock)


def make(what: str, parent: Path | None = None) -> tuple[Path, int]:
    """As folder(), for a folder that is to be removed by remove(). Returns it with the descriptor that holds its lock,
    which is closed after that."""
    remove_stale(parent)
    hidden = "" if parent is None else "."
    while True:
        path = _place(parent) / f"{hidden}golf-{what}-{secrets.token_hex(8)}"
        path.mkdir(mode=stat.S_IRWXU)
        # Somebody may take it for one that was left, before it has its lock
        with contextlib.suppress(FileNotFoundError):
            lock = locks.open_folder(path)
            locks.lock(lock, lambda: None)
            if locks.is_at(path, lock):
                return path, lock
            os.close(lock)


def remove_stale(parent: Path | None = None) -> None:
    """Removes the folders that this user's processes left in `parent` when they were killed: nobody has their lock."""
    with contextlib.suppress(OSError):  # a place that cannot be listed
        for entry in os.scandir(_place(parent)):
            if NAME.fullmatch(entry.name):
                with contextlib.suppress(OSError):  # it is in use, gone, or not ours
                    _remove_unlocked(Path(entry.path))


def _remove_unlocked(path: Path) -> None:
    lock = locks.open_folder(path)
    try:
        if os.fstat(lock).st_uid == os.getuid() and not locks.is_taken(lock):
            remove(path)
    finally:
        os.close(lock)


def remove(path: Path) -> None:
    """Removes a folder, also where somebody took away the permissions in it."""
    for parent, names, _ in os.walk(path):
        for name in names:
            inner = os.path.join(parent, name)
            if not os.path.islink(inner):
                with contextlib.suppress(OSError):
                    os.chmod(inner, stat.S_IRWXU)
    shutil.rmtree(path, ignore_errors=True)


def _place(parent: Path | None) -> Path:
    return Path(tempfile.gettempdir()) if parent is None else parent
