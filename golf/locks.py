"""Locks: who holds one is the only user of what it stands for, until it lets go or ends, in whatever way.

A lock is a file, locked by the kernel, which takes the lock back from a process that was killed. The file goes when the
lock is let go; one that a killed process left holds nobody up, and goes with the next holder. A folder can be locked
too, by whoever it is for.

Not covered: file systems without locks, as some of networks are: there everybody holds every lock.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def held(path: Path, wait: Callable[[], None]) -> Iterator[bool]:
    """Holds the lock `path`, a file that is made for it. Yields whether the file system has locks.

    wait: called once if somebody else holds it; what it raises is raised, and if it returns, this waits. Raises OSError
    if the file cannot be made."""
    file, is_locked = acquire(path, 0, wait)
    try:
        yield is_locked
    finally:
        path.unlink(missing_ok=True)  # while it is held: whoever waits for this file begins again
        file.close()


def acquire(path: Path, flags: int, wait: Callable[[], None]) -> tuple[BinaryIO, bool]:
    """(the file `path`, made if it is not there, open for writing and locked until it is closed; whether the file
    system has locks). flags: of open(2), beside those that make the file.

    Somebody may remove the file while we wait for its lock, which then comes to nothing: we begin again."""
    flags |= os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        file = open(os.open(path, flags, 0o666), "wb")
        try:
            is_locked = lock(file.fileno(), wait)
            if is_at(path, file.fileno()):
                return file, is_locked
        except BaseException:
            file.close()
            raise
        file.close()


def open_folder(path: Path) -> int:
    """A descriptor of the folder `path`, to lock it by. Raises OSError."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def lock(descriptor: int, wait: Callable[[], None]) -> bool:
    """Locks an open file or folder until it is closed; False where the file system has no locks. wait: as of held()."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        wait()
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def is_taken(descriptor: int) -> bool:
    """Whether somebody else has the lock of an open file or folder, or nobody can tell; else it is ours now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def is_held(path: Path) -> bool:
    """Whether somebody is known to hold the lock `path`, which may be another's file that we can only read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)
    return False


def is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file or folder is the one that `path` names now."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
