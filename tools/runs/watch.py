"""A live view of the runs in a folder: curve, eta, tokens/s, flop utilisation, clock by phase, and the verdict.

    golf watch              # runs/, until Ctrl-C
    golf watch --once       # one frame
    golf watch --json       # one JSON object

It only reads: train.log (config, latest line), metrics.jsonl, run.json, eval.json. A run without run.json whose files
have been quiet for ten minutes, and whose log no process holds locked, counts as crashed, as in the log of runs. What
cannot be read, or is no number where there should be one, is left out.

Not covered: GPU temperature and the like (nvidia-smi); runs on other machines whose folders are not visible here.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from golf.console import guarded
from golf.files import MAX_SETTINGS_BYTES, MAX_TEXT_BYTES, ROOT, Failure, explain, open_regular, read_json
from golf.foreign import terminal
from tools.runs.curves import smooth
from tools.runs.folder import config_in, head, is_crashed, last_lines
from tools.runs.fraction import LIMITS, fraction
from tools.runs.rows import is_number

RUNS = ROOT / "runs"
FRAME_SECONDS = 2.0
RUNNING = ("starting", "training", "saving")
RECENT = 8  # finished runs in a frame
LARGEST = 1e15  # of the numbers that are shown; what is larger is no number of a run
METRICS_BYTES = 2**23  # of metrics.jsonl that are read: 50,000 rows
CURVE_ROWS = 4  # of a curve; a character has 2 x 4 dots
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # of a Braille character: by column, from the top


def braille(points: list[tuple[float, float]], width: int, height: int) -> list[str]:
    """`height` lines of `width` characters with the points as dots; y upwards, from the lowest to the highest one.

    The first steps of a run would squeeze the rest into a flat line: what comes before a twentieth of the points and is
    higher than all after it stands at the upper edge.
    """
    high_y = max(y for _, y in points[len(points) // 20 :])
    points = [(x, min(y, high_y)) for x, y in points]
    low_x, high_x = min(x for x, _ in points), max(x for x, _ in points)
    low_y = min(y for _, y in points)
    cells = [[0] * width for _ in range(height)]
    for x, y in points:
        column = round((x - low_x) / (high_x - low_x or 1) * (2 * width - 1))
        row = round((high_y - y) / (high_y - low_y or 1) * (4 * height - 1))
        cells[row // 4][column // 2] |= DOTS[column % 2][row % 4]
    return ["".join(chr(0x2800 + cell) for cell in line) for line in cells]


def read_object(path: Path, limit: int) -> dict:
    """The JSON object in a file that another process may be writing or removing; {} if there is none."""
    try:
        return read_json(path, limit=limit)
    except (Failure, RecursionError):
        return {}


def as_object(value: object) -> dict:
    """`value` if it is an object, else {}."""
    return value if isinstance(value, dict) else {}


def can_be_shown(value: object) -> bool:
    """Whether it is a number that fits into a picture."""
    return is_number(value) and abs(value) < LARGEST


def number(value, form: str) -> str:
    """A number for people; - if it is none."""
    return format(value, form) if can_be_shown(value) else "-"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds; - if there are too many."""
    if not seconds < LARGEST:
        return "-"
    seconds = max(0, round(seconds))
    hours = f"{seconds // 3600}:" if seconds >= 3600 else ""
    return f"{hours}{seconds // 60 % 60:0{2 if hours else 1}}:{seconds % 60:02}"


class Run:
    """What is known of one run's folder; update() reads what is new in it."""

    def __init__(self, folder: Path):
        self.folder, self.name = folder, folder.name
        self.folder_stamp = 0.0  # changes when a file comes or goes
        self.config: dict = {}
        self.rows: list[dict] = []  # of metrics.jsonl
        self.read_bytes = 0  # of metrics.jsonl
        self.result: dict = {}  # run.json
        self.score: dict = {}  # eval.json
        self.stamps: tuple = ()
        self.changed = 0.0  # when one of the files was last written
        self.last_line = ""

    def update(self) -> bool:
        """Reads the files that changed; False if the folder holds no run (any more)."""
        stats = []
        for name in ("train.log", "metrics.jsonl", "run.json", "eval.json"):
            try:
                stat = os.stat(self.folder / name)
                stats.append((stat.st_mtime, stat.st_size))
            except OSError:
                stats.append(None)
        if not any(stats[:3]):
            return False
        self.changed = max(stat[0] for stat in stats if stat)
        if self.stamps != (stamps := tuple(stats)):
            old, self.stamps = self.stamps or (None,) * 4, stamps
            if stats[0] and stats[0] != old[0]:
                self.read_log(fresh=old[0] is None or stats[0][1] < old[0][1])
            if stats[1] != old[1]:
                self.read_metrics(stats[1][1] if stats[1] else 0)
            self.result = read_object(self.folder / "run.json", MAX_SETTINGS_BYTES) if stats[2] else {}
            score = read_object(self.folder / "eval.json", MAX_TEXT_BYTES) if stats[3] else {}
            self.score = {key: score[key] for key in ("bpb", "clock") if key in score}
            self.config = as_object(self.result.get("config")) or self.config
        return True

    def read_log(self, fresh: bool) -> None:
        """The config, which stands after the script's text, and the last whole line."""
        log = self.folder / "train.log"
        try:
            if fresh or not self.config:
                self.config = config_in(head(log))
            lines = last_lines(log)[:-1]  # the last one may still be written
            self.last_line = lines[-1] if lines else ""
        except (Failure, OSError):
            pass

    def read_metrics(self, size: int) -> None:
        """New whole rows of metrics.jsonl; from the start if it has become shorter."""
        if size < self.read_bytes:
            self.rows, self.read_bytes = [], 0
        try:
            with open_regular(self.folder / "metrics.jsonl") as file:
                file.seek(self.read_bytes)
                data = file.read(max(0, METRICS_BYTES - self.read_bytes))
        except (Failure, OSError):
            return
        data = data[: data.rfind(b"\n") + 1]
        self.read_bytes += len(data)
        for line in data.splitlines():
            try:
                row = json.loads(line)
                if all(can_be_shown(row[key]) for key in ("step", "elapsed")):
                    self.rows.append(row)
            except (ValueError, KeyError, TypeError, RecursionError):
                continue

    def latest(self, key: str):
        """The newest value of a column of metrics.jsonl, or None."""
        return next((row[key] for row in reversed(self.rows) if can_be_shown(row.get(key))), None)

    @property
    def state(self) -> str:
        """starting, training, saving, crashed; or, of a finished run, what it ended by: clock, steps, tokens,
        sigint or sigterm."""
        if self.result:
            stopped = self.result.get("stopped")
            return stopped if isinstance(stopped, str) and stopped not in ("", *RUNNING) else "done"
        if is_crashed(self.folder / "train.log", self.changed):
            return "crashed"
        if not self.rows:
            return "starting"
        return "saving" if self.rows[-1].get("tokens_per_second") is None else "training"

    @property
    def running(self) -> bool:
        return self.state in RUNNING

    def fraction(self) -> float | None:
        """How much of the training is over, by the limit that is nearest."""
        return fraction(self.config, {key: self.latest(key) for key in LIMITS.values()})

    def eta(self) -> float | None:
        """Seconds of training left, at the pace so far."""
        fraction, elapsed = self.fraction(), self.latest("elapsed")
        return elapsed * (1 / fraction - 1) if fraction and elapsed is not None and self.running else None

    def phases(self) -> dict[str, float]:
        """Wall seconds by phase: run.json's clock and the scorer's; of a running one its training so far."""
        if not self.result:
            return {} if self.latest("elapsed") is None else {"train": self.latest("elapsed")}
        phases = {**as_object(self.result.get("clock")), "score": as_object(self.score.get("clock")).get("total")}
        return {key: value for key, value in phases.items() if can_be_shown(value)}

    def summary(self) -> dict:
        """What --json shows of the run."""
        return {
            "run": self.name,
            "state": self.state,
            "fraction": self.fraction(),
            "eta_seconds": self.eta(),
            "step": self.latest("step"),
            "elapsed": self.latest("elapsed"),
            "loss": self.latest("loss"),
            "dev_bpb": self.latest("dev_bpb"),
            "tokens_per_second": self.latest("tokens_per_second"),
            "mfu": self.latest("mfu"),
            "clock": self.phases(),
            "bpb": self.score.get("bpb"),
        }


class Watch:
    """All runs of a folder; one that has ended is read again only when a file came or went."""

    def __init__(self, folder: Path):
        self.folder, self.runs = folder, {}

    def look(self) -> tuple[list[Run], list[Run], int]:
        """(running, the latest finished ones, how many have finished), each newest first."""
        try:
            names = {entry.name: entry.path for entry in os.scandir(self.folder) if entry.is_dir()}
        except OSError as error:
            if self.folder != RUNS or not isinstance(error, FileNotFoundError):
                raise Failure(f"{self.folder}: {error.strerror}: nothing was run here yet") from None
            names = {}  # a fresh clone: the folder comes with the first run
        for name in self.runs.keys() - names.keys():
            del self.runs[name]
        for name, path in names.items():
            run = self.runs.get(name) or Run(Path(path))
            try:
                stamp = os.stat(path).st_mtime
            except OSError:
                stamp = 0.0
            if run.result and stamp == run.folder_stamp:
                continue
            run.folder_stamp = stamp
            if run.update():
                self.runs[name] = run
            else:
                self.runs.pop(name, None)
        order = sorted(self.runs.values(), key=lambda run: -run.changed)
        ended = [run for run in order if not run.running]
        return [run for run in order if run.running], ended[:RECENT], len(ended)


def panel(run: Run, width: int) -> Panel:
    """A running one: numbers, the curve of its loss, its dev estimates."""
    fraction = run.fraction() or 0.0
    rows = [row for row in run.rows if can_be_shown(row.get("loss"))]
    curve = list(zip((row["elapsed"] for row in rows), smooth([row["loss"] for row in rows])))
    inner = max(20, width - 4)
    dev = "  ".join(
        f"{row['dev_bpb']:.4f} at {duration(row['elapsed'])}" for row in run.rows if can_be_shown(row.get("dev_bpb"))
    )
    bar = "━" * round(fraction * 20)
    eta = "-" if run.eta() is None else duration(run.eta())
    first = f"{bar:─<20} {fraction:4.0%}  {terminal(run.state)}  eta {eta}"
    second = (
        f"step {number(run.latest('step'), ',')}  loss {number(run.latest('loss'), '.4f')}  "
        f"{number(run.latest('tokens_per_second'), ',')} tok/s  mfu {number(run.latest('mfu'), '.1%')}  "
        + ", ".join(f"{terminal(name)} {value:.0f} s" for name, value in run.phases().items())
    )
    picture = braille(curve, inner, CURVE_ROWS) if len(curve) > 1 else [terminal(run.last_line, inner)]
    lines = [first, second, *picture, f"dev bpb {dev}" if dev else "no dev estimate yet"]
    return Panel(
        Text("\n".join(lines), overflow="ellipsis", no_wrap=True), title=Text(terminal(run.name)), title_align="left"
    )


def frame(watch: Watch, width: int, height: int) -> Group:
    """One picture of the folder: running ones as far as they fit, then the latest that ended."""
    running, ended, count = watch.look()
    room = max(1, (height - len(ended) - 6) // (CURVE_ROWS + 5))
    parts = [panel(run, width) for run in running[:room]]
    if len(running) > room:
        parts.append(Text(f"and {len(running) - room} more are running"))
    if not running:
        parts.append(Text("nothing is running"))
    if ended:
        table = Table(
            box=None,
            pad_edge=False,
            padding=(0, 1, 0, 0),
            title_justify="left",
            title=f"{count:d} ended, the latest {len(ended)}; the clock in seconds",
        )
        phases = ("compile", "train", "calibrate", "score")
        for name in ("run", "ended", "packed", "dev", "tok/s", "mfu", "compile", "train", "calib.", "score"):
            is_word = name in ("run", "ended")  # goes on in the next line where the terminal is narrow
            table.add_column(name, justify="left" if is_word else "right", no_wrap=not is_word, overflow="fold")
        for run in ended:
            table.add_row(
                Text(terminal(run.name)),
                Text(terminal(run.state)),
                number(run.score.get("bpb"), ".4f"),
                number(run.latest("dev_bpb"), ".4f"),
                number(run.result.get("tokens_per_second"), ","),
                number(run.result.get("mfu"), ".1%"),
                *(number(run.phases().get(phase), ".0f") for phase in phases),
            )
        parts.append(table)
        parts += [
            Text(f"{terminal(run.name)} crashed after: {terminal(run.last_line, 200)}")
            for run in ended
            if run.state == "crashed"
        ]
    return Group(*parts)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 when the folder is not there."""
    parser = argparse.ArgumentParser(prog="golf watch", description="A live view of the runs in a folder.")
    parser.add_argument("runs", type=Path, nargs="?", default=RUNS, metavar="RUNS_DIR")
    parser.add_argument("--once", action="store_true", help="one frame")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a picture")
    options = parser.parse_args(argv)
    console, watch = Console(), Watch(options.runs)
    try:
        if options.json:
            running, ended, count = watch.look()
            print(
                json.dumps(
                    {
                        "format": 1,
                        "running": [run.summary() for run in running],
                        "ended_count": count,
                        "ended": [run.summary() for run in ended],
                    }
                )
            )
        elif options.once:
            console.print(frame(watch, console.width, 10_000))
        else:
            with Live(frame(watch, console.width, console.height), console=console, auto_refresh=False) as live:
                while True:
                    time.sleep(FRAME_SECONDS)
                    live.update(frame(watch, console.width, console.height), refresh=True)
    except (Failure, OSError) as error:
        return explain("golf watch", error)
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(guarded("golf watch", main))
