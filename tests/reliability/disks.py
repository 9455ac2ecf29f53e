"""Disks that are full from the beginning, or fill up at each stage of a command; then there is room, and it runs again.

The disk is a file system in memory, which takes a user that may mount one: root, or root in a namespace of its own
(`unshare -rm python -m tests.reliability`). Elsewhere nothing is tried.
"""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.reliability.world import CASES, Case, Reference, Row, World, judge, run, used

SPARE_BYTES = 64 * 2**20  # of the disk, beside what the place holds


@contextlib.contextmanager
def disk(folder: Path, size: int) -> Iterator[bool]:
    """A file system of `size` bytes at `folder`, a new folder; yields False where none can be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "golf-reliability", str(folder)]
    mounted = subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def full(case: Case, world: World, folder: Path, tries: int) -> Row:
    """Leaves the command `tries` amounts of room, from none to nearly what it takes, each on a fresh disk."""
    row = Row(f"disk full: {case.name}")
    reference = Reference.of(case, world, folder)
    source = case.place(world)
    for number in range(tries):
        with disk(folder / f"disk{number}", used(source) * 2 + reference.bytes * 4 + SPARE_BYTES) as mounted:
            if not mounted:
                return row
            place = shutil.copytree(source, folder / f"disk{number}" / "place", symlinks=True)
            filler = place.parent / "filler"
            fill(filler, leave=reference.bytes * number // tries)
            wrong = run(place, case.arguments)
            filler.unlink()
            faults, left = judge(case, place, reference)
            row.count(faults + [wrong] * ("Traceback" in wrong or wrong.endswith("no word")), left)
    return row


def fill(filler: Path, leave: int) -> None:
    """Fills the disk of `filler` with that file but for some bytes."""
    with open(filler, "wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(2**16))
        file.truncate(max(0, file.tell() - leave))


TESTS = {f"disk full: {case.name}": (lambda *arguments, case=case: full(case, *arguments)) for case in CASES}
