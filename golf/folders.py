"""Writes folders whole: a folder has one writer at a time, and stands under its name complete or not at all.

Beside the folder NAME lie, while it is written: `.NAME.lock`, the writer's lock; `.NAME.<8 hex>.part`, what is being
made, or what is being deleted; and for a moment `.NAME.<8 hex>.old`, what had the name before. A killed writer leaves
them to the next one, which puts an .old back if nothing has its name, and deletes the rest.

Not covered: who may write what, and which files are somebody's own (each caller's `judge`); file systems without locks
(golf/locks.py).
"""

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from golf import locks
from golf.files import Failure, is_part, part_name, sync
from golf.foreign import terminal


@contextlib.contextmanager
def only_writer(target: Path) -> Iterator[Path]:
    """Nobody else writes the folder `target` in this block, which gets its true path. Waits for whoever does, and says
    so.

    Failure if no folder can be put there: it is a file, a file system of its own, or holds the folder that we are in.
    Folders above it are made."""
    path = true_path(target)
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = path.with_name(f".{path.name}.lock")
            is_locked = stack.enter_context(locks.held(lock, say_that_we_wait_for(target)))
        except OSError as error:
            raise Failure(f"{target}: cannot write beside it: {error.strerror}") from None
        if is_locked:
            _tidy(path)
        yield path


def say_that_we_wait_for(target: Path) -> Callable[[], None]:
    """For locks.held: a line on stderr says that another process has `target`."""
    line = f"{terminal(str(target))}: waiting for another process that writes it"
    return lambda: print(line, file=sys.stderr, flush=True)


def true_path(target: Path) -> Path:
    """The folder that `target` is or will be, links followed. Failure if none can be put there."""
    path = Path(os.path.realpath(target))
    if path.exists() and not path.is_dir():
        raise Failure(f"{target}: a file lies there: name a folder")
    if os.path.ismount(path):
        raise Failure(f"{target}: a file system of its own, which nothing can replace: name a folder in it")
    if path.exists() and Path.cwd().is_relative_to(path):
        raise Failure(f"{target}: you are in this folder, which would be replaced: name another, or go up")
    return path


@contextlib.contextmanager
def replaced(target: Path, judge: Callable[[Path], None]) -> Iterator[Path]:
    """A new folder, which takes the name of `target` when the block ends well, and goes when it does not. For whoever
    is the only writer of `target`, a true path.

    judge: raises Failure if what has the name holds files that must stay; asked before the block and after it. What
    cannot be made again, a block ends with sync_tree()."""
    judge(target)
    folder = target.with_name(part_name(target))
    try:
        folder.mkdir()
        yield folder
        judge(target)
        _put_in_place(folder, target)
    except OSError as error:
        if error.filename is None:  # of a write: the system names no file
            raise OSError(error.errno, error.strerror or str(error), str(target)) from None
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def judge_empty(target: Path) -> None:
    """Failure unless nothing lies at `target`, or an empty folder."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Failure(f"{target} exists and is not an empty folder; name a new one")


def judge_listed(target: Path, listed: set[str], what: str) -> None:
    """Failure if the folder `target` holds a file that is not `listed` (paths from it, with /). what: the folder, in
    words."""
    if not target.exists():
        return
    for folder, names, files in os.walk(target):
        links = [name for name in names if os.path.islink(os.path.join(folder, name))]
        for name in sorted(files + links):
            path = Path(folder, name).relative_to(target)
            if path.as_posix() not in listed:
                raise Failure(
                    f"{target} holds {terminal(path.as_posix(), 200)}, which is no part of {what}: move it away"
                )


def sync_tree(folder: Path) -> None:
    """Waits until all files of a folder, and their names, are on the disk. Raises OSError."""
    for parent, _, names in os.walk(folder):
        for name in names:
            sync(Path(parent, name))
        sync(Path(parent))


def _put_in_place(new: Path, target: Path) -> None:
    """Gives the folder `new` the name `target`; only then what had the name is deleted."""
    old = new.with_suffix(".old")
    if target.exists():
        os.rename(target, old)
    try:
        os.rename(new, target)
    except OSError:
        if old.exists():
            os.rename(old, target)
        raise
    sync(target.parent)
    if old.exists():
        os.rename(old, new)  # from here on it is nothing that should be put back
        shutil.rmtree(new, ignore_errors=True)


def _tidy(target: Path) -> None:
    """Takes away what killed writers left beside `target`, whose lock we hold."""
    left = [path for path in target.parent.iterdir() if path.is_dir() and not path.is_symlink()]
    for path in left:
        if re.fullmatch(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.old", path.name):
            if not target.exists():
                os.rename(path, target)
            else:
                shutil.rmtree(path, ignore_errors=True)
        elif is_part(path.name, target):
            shutil.rmtree(path, ignore_errors=True)
