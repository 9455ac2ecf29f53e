"""`python -m tests.redteam.fuzz.weights FILE [--count N]`: odd artifacts through the reader behind `compress inspect`.

Each one has a right checksum and random edits in its weights. The reader runs in a child with the limits of
compress/bounded.py and must end with a result or with one line that can be printed.

Not covered: the command line around it (tests/compress/test_bounded.py).
"""

import argparse
import collections
import json
import os
import random
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from compress import bounded
from golf import container
from tests.support.odd_artifacts import odd_artifact

FUNCTION = "compress.lab.inspection:inspect"


@dataclass
class Found:
    """What became of the odd artifacts."""

    read: int = 0
    messages: collections.Counter = field(default_factory=collections.Counter)
    faults: list[str] = field(default_factory=list)  # messages that no reader should see
    most_memory_bytes: int = 0
    most_cpu_seconds: float = 0.0


def fuzz(file: Path, count: int, seed: int = 0, on_case=lambda: None) -> Found:
    """Reads `count` odd artifacts made of a sound one."""
    __import__(FUNCTION.partition(":")[0])  # once, for all children
    rng = random.Random(seed)
    sections = container.read(file.read_bytes())
    found = Found()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "odd.golf"
        for number in range(count):
            path.write_bytes(odd_artifact(rng, sections))
            read_one(path, number, found)
            on_case()
    return found


def read_one(path: Path, number: int, found: Found) -> None:
    """Reads one file in a child and adds what came of it."""
    output = path.with_suffix(".out")
    child = os.fork()
    if child == 0:
        read_and_exit(path, output)
    _, status, usage = os.wait4(child, 0)
    found.most_memory_bytes = max(found.most_memory_bytes, 1024 * usage.ru_maxrss)
    found.most_cpu_seconds = max(found.most_cpu_seconds, usage.ru_utime + usage.ru_stime)
    try:
        bounded.result_of(os.waitstatus_to_exitcode(status), output.read_bytes())
        found.read += 1
    except ValueError as error:
        text = str(error)
        found.messages[text] += 1
        known = text.startswith("WGTS: ") or text in (bounded.MEMORY_TEXT, bounded.TIME_TEXT) or "frequency" in text
        if not known or not text.isprintable():
            found.faults.append(f"case {number}: {text}")


def read_and_exit(path: Path, output: Path) -> None:
    """The child."""
    status = 1
    try:
        output.write_bytes(b"")
        sys.stderr = open(os.devnull, "w")
        bounded.limit()
        output.write_text(bounded.answer(FUNCTION, {"file": str(path), "run": None}), encoding="utf-8")
        status = 0
    finally:
        os._exit(status)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.redteam.fuzz.weights", description="Odd artifacts.")
    parser.add_argument("file", type=Path, help="a sound .golf file")
    parser.add_argument("--count", type=int, default=500, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    options = parser.parse_args()
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("fuzz", total=options.count)
        found = fuzz(options.file, options.count, options.seed, lambda: progress.advance(task))
    for line in found.faults:
        print(line)
    for text, times in found.messages.most_common():
        print(f"{times:5} x {text}")
    print(
        f"{options.count:,} artifacts: {found.read:,} read, {sum(found.messages.values()):,} refused, "
        f"{len(found.faults)} badly, at most {found.most_memory_bytes / 1e9:.2f} GB and {found.most_cpu_seconds:.0f} s"
    )
    if options.json:
        print(json.dumps(vars(found)))
    return 1 if found.faults else 0


if __name__ == "__main__":
    sys.exit(main())
