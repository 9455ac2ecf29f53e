"""`python -m tests.scale [--json] [--records N] [--documents N] [--large-bytes N]`: what the largest worlds cost.

A row for each command: processor seconds of it and its children, bytes of memory that all of them held at once, and the
limits. Exit status 1 if a row is over its limits. The rows "first" have no limit of time: what they compute is
remembered, by the hashes of what it came from, and is not computed again when a record is added.

Not covered: training, whose cost is set by its clock.
"""

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from tests.scale import worlds
from tests.support import ROOT

SOURCES = ("golf", "compress", "scoring", "tools", "docs")
FILES = ("train_gpt.py", "eval_heldout.py", "RULES.md", "pyproject.toml", ".gitignore")
RECORDS, DOCUMENTS, LARGE_BYTES = 300, 200_000, 20_000_000
RECORDS_LIMIT, DOCUMENTS_LIMIT = 20, 600  # processor seconds
LIMIT_BYTES = 2_000_000_000
BOARD = ("-m", "golf", "board")
SITE = (*BOARD, "--site")
LINEAGE = ("-m", "golf", "lineage")
BUILD = ("-m", "golf", "data", "text", "texts", "--out", "data/set", "--variant", "sp1024")
CHECK = ("-m", "golf", "data", "check", "data/set")
TRAIN = ("train_gpt.py", "--preset=tiny", "--compile=false", "--max_seconds=0", "--max_steps=20",
         "--data_dir=data/set", "--run_dir=runs/a")  # fmt: skip
PACK = ("-m", "golf", "pack", "runs/a")
SCORE = ("eval_heldout.py", "runs/a/model.golf", "--data", "data/set", "--split", "dev")


@dataclasses.dataclass(frozen=True)
class Row:
    test: str
    seconds: float  # of processors
    peak_bytes: int
    limit: int | None  # of seconds
    limit_bytes: int = LIMIT_BYTES

    def is_good(self) -> bool:
        return self.peak_bytes <= self.limit_bytes and (self.limit is None or self.seconds <= self.limit)


class Watch(threading.Thread):
    """Follows the memory of a process and its descendants."""

    def __init__(self, process: int):
        super().__init__(daemon=True)
        self.process, self.peak_bytes, self.ended = process, 0, threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.2):
            self.peak_bytes = max(self.peak_bytes, sum(map(held_bytes, family(self.process))))


def family(process: int) -> list[int]:
    """The process and its descendants."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(folder.name))
    found = [process]
    for each in found:
        found += children.get(each, [])
    return found


def held_bytes(process: int) -> int:
    """Memory of a process, with its part of what it shares with others."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def measured(place: Path, test: str, arguments: tuple[str, ...], limit: int | None) -> Row:
    """Runs `python ARGUMENTS` in a place. RuntimeError if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(place), "XDG_CACHE_HOME": str(place / "cache"), "COLUMNS": "120"}
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen([sys.executable, *arguments], cwd=place, env=environment, stdout=said, stderr=said)
        watch = Watch(child.pid)
        watch.start()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        watch.ended.set()
        watch.join()
        if child.returncode:
            said.seek(0)
            raise RuntimeError(f"{test}: exit status {child.returncode}: {said.read()[-500:].decode()}")
    return Row(test, round(usage.ru_utime + usage.ru_stime, 1), watch.peak_bytes, limit)


def kit(place: Path) -> None:
    """The kit's sources, without records."""
    for name in SOURCES:
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy2(ROOT / name, place / name)


def records(place: Path, count: int):
    """Rows about `count` records, of which the last is added when the others are known."""
    kit(place)
    worlds.records(place, count)
    last = sorted((place / "records/pocket").iterdir())[-1]
    aside = place / "aside"
    last.rename(aside)
    yield measured(place, "first: golf board --site", SITE, None)
    yield measured(place, "first: golf lineage", LINEAGE, None)
    aside.rename(last)
    for name, arguments in (("golf board", BOARD), ("golf board --site", SITE), ("golf lineage", LINEAGE)):
        yield measured(place, name, arguments, RECORDS_LIMIT)


def documents(place: Path, count: int, large_bytes: int):
    """Rows about a data set of `count` documents and a large one."""
    kit(place)
    (place / "data").mkdir()
    worlds.texts(place / "texts", count, large_bytes)
    yield measured(place, "golf data text", BUILD, DOCUMENTS_LIMIT)
    yield measured(place, "golf data check", CHECK, DOCUMENTS_LIMIT)
    for arguments in (TRAIN, PACK):
        measured(place, " ".join(arguments), arguments, None)
    yield measured(place, "eval_heldout.py", SCORE, DOCUMENTS_LIMIT)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=RECORDS, metavar="N", help="default: %(default)s; 0: none")
    parser.add_argument("--documents", type=int, default=DOCUMENTS, metavar="N", help="default: %(default)s; 0: none")
    parser.add_argument("--large-bytes", type=int, default=LARGE_BYTES, metavar="N", help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each row")
    options = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory(prefix="golf-scale-") as name:
        for count, test, more in (
            (options.records, records, ()),
            (options.documents, documents, (options.large_bytes,)),
        ):
            place = Path(name) / test.__name__
            place.mkdir()
            for row in test(place, count, *more) if count else ():
                good &= row.is_good()
                if options.json:
                    print(json.dumps(dataclasses.asdict(row)), flush=True)
                else:
                    limit = "no limit" if row.limit is None else f"at most {row.limit}"
                    print(f"{row.test}: {row.seconds} s ({limit}), {row.peak_bytes / 1e6:,.0f} MB", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
