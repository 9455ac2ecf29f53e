"""Training scripts that take turns of a few steps on one machine, so that whatever else it does hits all alike.

Each script runs for real in a process of its own (tools/plan/turns.py), in a box unless it is trusted. The seconds are
taken here, from the question to the answer; while it waits, all processes of a script are stopped, so that none works
in another's turn. What other programs take of the cores meanwhile is counted (Trainer.others).

Not covered: what a script does differently because it is timed (tools/plan/par.py says what that leaves open); GPUs;
several ranks.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path

from golf import temporary
from golf.box import training
from golf.files import Failure, parse_json
from golf.foreign import terminal

TURNS = Path(__file__).with_name("turns.py")
COMPILE_SECONDS = 900.0  # the most that a script may take until its first step
TURN_SECONDS = 600.0  # the most that it may take for a turn, or for its calibration
MAX_ANSWER_BYTES = 1 << 22
STOP_SECONDS = 10.0  # the most that stopping all processes of a script may take
TAIL_BYTES = 4000
STANDING = ("T", "t", "Z", "X")  # states of a thread that is stopped, traced or has ended: proc(5)
# Processor seconds that a script may take while it waits: stopping takes a moment, and the kernel counts in 0.01 s.
MOST_IN_REST, MOST_SHARE_IN_REST = 0.2, 0.01


def descendants(pid: int) -> list[int]:
    """The process and all that it has started, from /proc; the process alone where there is no such folder."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text(encoding="ascii").split())
    return found


def stand_still(pids: set[int]) -> bool:
    """Whether all threads of these processes are stopped or have ended: a stopped thread still ends what it is in the
    middle of. True where there is no /proc."""
    for pid in pids:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                state = (task / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
                if state not in STANDING:
                    return False
    return True


def processor_seconds(pids: list[int]) -> float:
    """Processor time that these processes, and those of their children that have ended, have taken: proc(5)."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError):
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def busy_seconds() -> float:
    """Processor time that the cores of this process have spent on anything at all since the machine started, with what
    its host took from them: proc(5). 0 where the system does not tell."""
    try:
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    mine = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    ticks = 0
    for line in lines:
        name, *counts = line.split()
        if name in mine:
            user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, counts[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")


def send(pid: int, number: int) -> None:
    """Sends a signal to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


class Trainer:
    """A script that trains when told to. Raises Failure with the script's last line once it has ended."""

    def __init__(self, name: str, script: Path, arguments: list[str], data: Path, folder: Path, trust: bool):
        """name: what messages call it. arguments: fields of its Config; data and run folder are added. data: the data
        set. folder: an empty folder for the run. trust: as of trainers()."""
        self.name = name
        self.buffer = b""
        self.asked = self.rest = 0.0  # seconds in its turns, and processor seconds between them
        self.before_rest = 0.0  # processor seconds when it was stopped
        self.others = 0.0  # processor seconds that anything else took of this process's cores during the last question
        self.folder = folder
        self.log_path = folder.with_suffix(".txt")  # beside the folder: in it, the script could put a link in its place
        command = [str(TURNS), str(script), *arguments, f"--data_dir={data}", f"--run_dir={folder / 'run'}"]
        with open(self.log_path, "wb") as log:
            self.process = training.start(
                command,
                readable=[TURNS, script, data],
                writable=folder,
                trust=trust,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self.process.stdin and self.process.stdout
        self.questions, self.answers = self.process.stdin, self.process.stdout
        try:
            ready = self.answer(("ready",), COMPILE_SECONDS)
            self.shape = ready.get("shape")
            self.steps, self.tokens = ready.get("steps"), ready.get("tokens")
            counts = (self.steps, self.tokens)
            if not isinstance(self.shape, dict) or not (counts == (None, None) or all(type(n) is int for n in counts)):
                raise Failure(f"{name}: its process does not say how long it trains")
            self.pause()
        except BaseException:
            self.stop()
            raise

    def turn(self, steps: int) -> float:
        """Seconds of the next steps; with 0 steps, of all that are left."""
        seconds, _ = self.ask({"steps": steps}, ("turn", "trained") if steps else ("trained",))
        return seconds

    def calibrate(self) -> float:
        """Seconds of the calibration, once the training has ended."""
        seconds, _ = self.ask({"calibrate": True}, ("calibrated",))
        return seconds

    def profile(self, steps: int) -> list[tuple[str, float, float]]:
        """What torch's profiler saw of the next steps: operator, microseconds by itself, microseconds in all."""
        _, answer = self.ask({"profile": steps}, ("profile",))
        return [tuple(row) for row in answer["rows"]]

    def ask(self, question: dict, expected: tuple[str, ...]) -> tuple[float, dict]:
        """(seconds until the answer, the answer)."""
        if self.buffer or select.select([self.answers], [], [], 0)[0]:
            raise Failure(f"{self.name}: its process answered before it was asked, or ended early: {self.last_line()}")
        processes = descendants(self.process.pid)
        own = self.check_rest(processes)
        busy, here = busy_seconds(), time.process_time()
        for pid in processes:  # all of them: none runs that could start another
            send(pid, signal.SIGCONT)
        begin = time.perf_counter()
        with contextlib.suppress(BrokenPipeError):  # it has ended: answer() says why
            os.write(self.questions.fileno(), json.dumps(question).encode() + b"\n")
        answer = self.answer(expected, TURN_SECONDS)
        seconds = time.perf_counter() - begin
        self.asked += seconds
        self.pause()
        known = self.before_rest - own + time.process_time() - here
        self.others = max(0.0, busy_seconds() - busy - known)
        return seconds, answer

    def check_rest(self, processes: list[int]) -> float:
        """The script's processor seconds so far. Failure if it has worked while it was to wait: a timer of its own can
        wake a stopped process."""
        own = processor_seconds(processes)
        self.rest += max(0.0, own - self.before_rest)
        if self.rest > MOST_IN_REST + MOST_SHARE_IN_REST * self.asked:
            raise Failure(f"{self.name}: worked {self.rest:.1f} s while another script was timed")
        return own

    def answer(self, expected: tuple[str, ...], limit: float) -> dict:
        """What the script says next, within `limit` seconds."""
        line = self.read_line(time.monotonic() + limit, limit)
        try:
            answer = parse_json(line.decode())
            if not isinstance(answer, dict) or answer.get("says") not in expected:
                raise ValueError
        except ValueError:
            raise Failure(f"{self.name}: its process answered {terminal(repr(line), 80)}") from None
        return answer

    def read_line(self, deadline: float, limit: float) -> bytes:
        """The next line of the script's answers."""
        while b"\n" not in self.buffer:
            wait = deadline - time.monotonic()
            if wait <= 0 or not select.select([self.answers], [], [], wait)[0]:
                raise Failure(f"{self.name}: no answer within {limit:g} s")
            part = os.read(self.answers.fileno(), 1 << 16)
            if not part:
                raise Failure(f"{self.name} ended early: {self.last_line()}")
            self.buffer += part
            if len(self.buffer) > MAX_ANSWER_BYTES:
                raise Failure(f"{self.name}: answered more than {MAX_ANSWER_BYTES:,} bytes")
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line

    def last_line(self) -> str:
        """The last line that the script printed."""
        with open(self.log_path, "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = log.read().decode(errors="replace").strip().splitlines()
        return terminal(lines[-1], 300) if lines else "it printed nothing"

    def pause(self) -> None:
        """From now on no process of the script runs. One that does not stand still yet may start another meanwhile, so
        it is looked again until all do and none is new."""
        stopped: set[int] = set()
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            still = stand_still(stopped)  # before the look for new ones: what stands still by then starts none
            new = set(descendants(self.process.pid)) - stopped
            if still and not new:
                self.before_rest = processor_seconds(list(stopped))
                return
            for pid in new:
                send(pid, signal.SIGSTOP)
            stopped |= new
            if not new:
                time.sleep(0.001)
        raise Failure(f"{self.name}: its processes cannot be stopped within {STOP_SECONDS:g} s")

    def stop(self) -> None:
        """Ends the script."""
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def trainers(trust: bool):
    """Gives a function that starts a Trainer: (name, script, arguments, data) -> Trainer. All end with the block."""
    running: list[Trainer] = []
    with temporary.folder("turns") as folder:

        def start(name: str, script: Path, arguments: list[str], data: Path) -> Trainer:
            place = folder / str(len(running))
            place.mkdir()
            trainer = Trainer(name, script.resolve(), arguments, data.resolve(), place, trust)
            running.append(trainer)
            return trainer

        try:
            yield start
        finally:
            for trainer in running:
                trainer.stop()
