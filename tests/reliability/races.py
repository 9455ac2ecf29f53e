"""Two of a command at once in one place: each does its work, or refuses in a line, and what lies there is whole."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.reliability.world import (
    CASES,
    NOTE,
    SWEEP,
    TRAIN_ANYWHERE,
    Case,
    Reference,
    Row,
    World,
    files,
    logged,
    said,
    start,
    still_there,
)

NOTES = 20  # at once


def raced(case: Case, world: World, folder: Path, tries: int, processes: int = 2) -> Row:
    """Runs the command twice at once, `tries` times, each in a fresh place."""
    row = Row(f"two at once: {case.name}")
    reference = Reference.of(case, world, folder)
    for number in range(tries):
        place = shutil.copytree(case.place(world), folder / f"raced{number}", symlinks=True)
        wrong = at_once(place, [case.arguments] * processes)
        try:
            if case.result(place) != reference.after:
                wrong.append("another result")
        except Exception as error:  # whatever is wrong with a file that should be whole
            wrong.append(f"{type(error).__name__}: {error}")
        row.count(wrong, files(place) - reference.files)
        shutil.rmtree(place)
    return row


def at_once(place: Path, commands: list[tuple[str, ...]]) -> list[str]:
    """Runs commands at once; returns what is wrong with their ends: all may do their work, all but one may refuse."""
    running = [start(place, arguments) for arguments in commands]
    ends = [process.wait() for process in running]
    text = said(place)
    wrong = [f"exit status {status}" for status in ends if status not in (0, 1)]
    if 0 not in ends:
        wrong.append(f"none did its work: {text.strip()[-200:]}")
    if "Traceback" in text:
        wrong.append("a traceback")
    if left := still_there(place):
        wrong.append(f"{len(left)} processes went on")
    return wrong


def notes(world: World, folder: Path, tries: int) -> Row:
    """Many notes at once: each is a row."""
    row = Row(f"{NOTES} at once: golf log note")
    for number in range(tries):
        place = shutil.copytree(world.tree, folder / f"notes{number}", symlinks=True)
        wrong = at_once(place, [NOTE] * NOTES)
        if (count := len(logged(place))) != NOTES:
            wrong.append(f"{count} rows")
        row.count(wrong, {name for name in files(place) if name.startswith(("runs/.", "tmp/"))})
        shutil.rmtree(place)
    return row


def unnamed_runs(world: World, folder: Path, tries: int) -> Row:
    """Runs without --run_dir that start in one second: each has a folder."""
    row = Row("two at once: train_gpt.py without --run_dir")
    for number in range(tries):
        place = shutil.copytree(world.data_set, folder / f"unnamed{number}", symlinks=True)
        wrong = at_once(place, [(*TRAIN_ANYWHERE, f"--matrix_lr={rate}") for rate in (0.01, 0.02)])
        if (count := len(list(place.glob("runs/*/run.json")))) != 2:
            wrong.append(f"{count} runs")
        row.count(wrong, {name for name in files(place) if name.startswith(("runs/.", "tmp/"))})
        shutil.rmtree(place)
    return row


def sweeps(world: World, folder: Path, tries: int) -> Row:
    """One sweep twice: its run is trained once, and each time to the same weights. Its jobs' files have names by
    process, and are not looked at."""
    row = Row("two at once: golf sweep")
    weights: set[str] = set()
    for number in range(tries):
        place = shutil.copytree(world.with_spec, folder / f"swept{number}", symlinks=True)
        wrong = at_once(place, [SWEEP] * 2)
        found = [hashlib.sha256(path.read_bytes()).hexdigest() for path in place.glob("runs/*/checkpoint.pt")]
        weights |= set(found)
        if len(found) != 1 or len(weights) != 1:
            wrong.append(f"{len(found)} runs, {len(weights)} kinds of weights")
        row.count(wrong, {name for name in files(place) if name.startswith(("runs/.", "tmp/"))})
        shutil.rmtree(place)
    return row


TESTS: dict[str, Callable] = {
    f"two at once: {case.name}": (lambda *arguments, case=case: raced(case, *arguments))
    for case in CASES
    if case.name != "golf log note"
}
TESTS |= {
    f"{NOTES} at once: golf log note": notes,
    "two at once: train_gpt.py without --run_dir": unnamed_runs,
    "two at once: golf sweep": sweeps,
}
