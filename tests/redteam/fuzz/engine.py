"""Runs the cases of a kind of file and reports. In process: one child a kind, with a limit on its memory, which goes on
after a case that killed it. Through the commands: each in a process of its own.

A case is a kind, a seed and a number, and can be repeated alone.

Not covered: which mutations there are, and who reads the files (kinds.py).
"""

import abc
import collections
import contextlib
import dataclasses
import io
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from golf.files import Failure
from tests.support import ROOT, warm

CPU_SECONDS = 60  # of one case; a reader that only computes needs as many on a busy machine
PATIENCE_SECONDS = 900  # by the clock, for one that waits
MEMORY_BYTES = 2_000_000_000  # private to a process
MAX_MESSAGE = 2000


class Hang(BaseException):
    """A case took too long. No reader catches it."""


class Kind(abc.ABC):
    """A kind of file: how it is made, mutated and read."""

    name: str
    target: Path  # where the mutated file goes
    root: Path = ROOT  # of the sources that commands() run

    @abc.abstractmethod
    def __init__(self, folder: Path):
        """Makes the sound files in a folder of its own."""

    @abc.abstractmethod
    def mutate(self, rng: random.Random) -> bytes:
        """The bytes of a mutated file."""

    @abc.abstractmethod
    def read(self, number: int) -> None:
        """Reads the target, in this process. Raises what the reader raises."""

    @abc.abstractmethod
    def commands(self) -> list[list[str]]:
        """What reads the target: words after `python -m`."""


@dataclass
class Report:
    """What became of the mutated files of a kind."""

    kind: str
    how: str  # in process, or through the commands
    files: int = 0
    refused: int = 0
    accepted: int = 0
    faults: list[str] = field(default_factory=list)  # tracebacks, unclear messages, deaths
    hangs: int = 0
    left_behind: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0  # of processor time
    most_memory_bytes: int = 0  # resident, of all cases together
    messages: collections.Counter = field(default_factory=collections.Counter)

    @property
    def good(self) -> bool:
        return not (self.faults or self.hangs or self.left_behind)

    def as_json(self) -> dict:
        return dataclasses.asdict(self) | {"messages": len(self.messages)}

    def line(self) -> str:
        return (
            f"{self.kind}, {self.how}: {self.files:,} files, {self.refused:,} refused, {self.accepted:,} accepted, "
            f"{len(self.faults)} faults, {self.hangs} hangs, slowest {self.slowest_seconds:.1f} s, "
            f"{self.most_memory_bytes / 1e9:.2f} GB"
        )


def rng_of(kind: str, seed: int, number: int) -> random.Random:
    return random.Random(f"{kind} {seed} {number}")


def run_cases(kind: Kind, seed: int, numbers: range, report: Report, on_case: Callable[[int], None]) -> None:
    """Runs cases in this process. on_case(number) is called before each."""
    before = signal.signal(signal.SIGPROF, _hang)
    folder = kind.target.parent
    files = _files(folder) | {str(kind.target)}
    try:
        for number in numbers:
            on_case(number)
            kind.target.write_bytes(kind.mutate(rng_of(kind.name, seed, number)))
            started = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
            _run_case(kind, f"seed {seed}, case {number}", number, report)
            signal.setitimer(signal.ITIMER_PROF, 0)
            report.slowest_seconds = max(report.slowest_seconds, time.process_time() - started)
            report.most_memory_bytes = max(report.most_memory_bytes, _resident())
            report.files += 1
            if new := _files(folder) - files:
                report.left_behind += [f"seed {seed}, case {number}: {name}" for name in sorted(new)]
                files |= new
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _run_case(kind: Kind, case: str, number: int, report: Report) -> None:
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            kind.read(number)
        report.accepted += 1
    except Hang:
        report.hangs += 1
        report.faults.append(f"{case}: over {CPU_SECONDS} s")
    except Exception as error:  # noqa: BLE001  (whatever else it is, a user would see a traceback)
        report.refused += 1
        text = " ".join(str(error).split())
        if not is_refusal(error) or len(text) > MAX_MESSAGE or not text.isprintable():
            where = traceback.extract_tb(error.__traceback__)[-1]
            report.faults.append(
                f"{case}: {type(error).__name__}: {ascii(text[:200])} ({Path(where.filename).name}:{where.lineno})"
            )
        report.messages[text.replace(str(kind.target), "FILE")[:120]] += 1


def is_refusal(error: Exception) -> bool:
    """Whether the kit itself raised an error that its commands print as one line: of numpy, torch or json it would be
    luck that the line says anything."""
    if isinstance(error, Failure) or type(error).__name__ in ("RunError", "UsageError"):
        return True
    file = traceback.extract_tb(error.__traceback__)[-1].filename
    own = file.startswith(str(ROOT)) and "site-packages" not in file
    return isinstance(error, OSError) or (isinstance(error, ValueError) and own)


def _hang(*_) -> None:
    raise Hang


def _resident() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _files(folder: Path) -> set[str]:
    return {os.path.join(place, name) for place, _, names in os.walk(folder) for name in names}


# ---- In a child -----------------------------------------------------------------------------------


def fuzz(make: type[Kind], count: int, seed: int, on_case: Callable[[], None] = lambda: None) -> Report:
    """Runs `count` cases in a child with MEMORY_BYTES; another one goes on where one died."""
    whole = Report(make.name, "in process")
    begin = 0
    while begin < count:
        begin = _fuzz_from(make, begin, count, seed, whole, on_case)
    return whole


def _fuzz_from(make, begin: int, count: int, seed: int, whole: Report, on_case) -> int:
    """Runs cases until all are run or the child dies; returns the number to go on from."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(make, begin, count, seed, there))
    child.start()
    there.close()
    number = begin - 1
    try:
        while here.poll(PATIENCE_SECONDS):
            message = here.recv()
            if isinstance(message, Report):
                _add(whole, message)
                return count
            number = message
            on_case()
        ended = f"no answer within {PATIENCE_SECONDS} s"
        whole.hangs += 1
    except EOFError:
        child.join()
        ended = f"the process ended with status {child.exitcode}"
    finally:
        child.kill()
        child.join()
    if number < begin:
        raise RuntimeError(f"{make.name}: {ended} before its first case")
    whole.faults.append(f"seed {seed}, case {number}: {ended}")
    whole.files += number + 1 - begin
    return number + 1


def _child(make, begin: int, count: int, seed: int, pipe) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    report = Report(make.name, "in process")
    with tempfile.TemporaryDirectory(prefix="golf-fuzz-") as folder:
        run_cases(make(Path(folder)), seed, range(begin, count), report, pipe.send)
    pipe.send(report)


def _add(whole: Report, part: Report) -> None:
    for one in dataclasses.fields(Report):
        mine, new = getattr(whole, one.name), getattr(part, one.name)
        if one.name in ("slowest_seconds", "most_memory_bytes"):
            setattr(whole, one.name, max(mine, new))
        elif not isinstance(mine, str):
            setattr(whole, one.name, mine + new)


# ---- Through the commands -------------------------------------------------------------------------


def fuzz_commands(make: type[Kind], count: int, seed: int, on_case: Callable[[], None] = lambda: None) -> Report:
    """Runs `count` files through the kind's commands, in turn, each with a limit on its memory (limited.py)."""
    report = Report(make.name, "through the commands")
    with tempfile.TemporaryDirectory(prefix="golf-fuzz-") as folder:
        kind = make(Path(folder))
        commands = kind.commands()
        files = _files(kind.target.parent) | {str(kind.target)}
        for number in range(count):
            kind.target.write_bytes(kind.mutate(rng_of(kind.name, seed, number)))
            words = commands[number % len(commands)]
            case = f"seed {seed}, case {number}, {' '.join(words[:3])}"
            report.faults += [f"{case}: {fault}" for fault in _command_faults(words, kind.root, Path(folder), report)]
            report.files += 1
            new = _files(kind.target.parent) - files
            report.left_behind += [f"{case}: {name}" for name in sorted(new) if ".part" in name or "golf-box" in name]
            for name in new:
                os.unlink(name)
            on_case()
    return report


def _command_faults(words: list[str], root: Path, folder: Path, report: Report) -> Iterator[str]:
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1", "COLUMNS": "2000"}
    command = [sys.executable, "-m", "tests.redteam.fuzz.limited", str(MEMORY_BYTES), *words]
    try:
        done = warm.run(command, cwd=folder, env=environment, timeout=PATIENCE_SECONDS)
    except warm.subprocess.TimeoutExpired:
        report.hangs += 1
        yield f"over {PATIENCE_SECONDS} s"
        return
    said = done.stdout + done.stderr
    if done.returncode == 0:
        report.accepted += 1
    else:
        report.refused += 1
        report.messages[done.stderr.strip().rpartition("\n")[2][:120]] += 1
    if "Traceback" in said:
        yield f"traceback: {ascii(done.stderr.strip().rpartition(chr(10))[2][:200])}"
    elif done.returncode not in (0, 1, 3, 4):
        yield f"exit status {done.returncode}: {ascii(done.stderr[-200:])}"
    elif done.returncode and not said.strip():
        yield "fails without a word"
    elif odd := {character for character in said if not character.isprintable()} - set("\n\r\t"):
        yield f"prints {sorted(map(ascii, odd))}"
    elif any(len(line) > MAX_MESSAGE for line in done.stderr.splitlines()):
        yield "prints a line of more than 2,000 characters"
