"""Many runs: a grid, random or Optuna search over `Config` fields and seeds, here or on a Slurm cluster.

    python tools/sweep.py SPEC.toml --dry-run         # what would run; tools/sweep_spec.py explains a spec
    python tools/sweep.py SPEC.toml
    python tools/sweep.py SPEC.toml --cluster slurm   # jobs through sbatch; this process watches them

A trial is training, packing and scoring on dev, in a folder runs/<sweep>-<configuration>-s<seed>. The log of runs gets
its rows as ever, and a note with the hypothesis and the sweep's name before each trial. Started again, a sweep skips
what the log holds: the same script, config and seed, whoever ran it; trials that were stopped as losers or failed by
themselves (another name makes it try again). What was killed or interrupted runs again. Trials use a copy of
train_gpt.py, so that it may be edited meanwhile.

The rule for losers: at each of its dev estimates a trial is compared with the best finished trial of the sweep at the
same fraction of the run (linear between that one's estimates; nothing before its first). A trial that is worse by more
than stop_margin is told to stop, and its configuration gets no further seeds. The default of 0.05 bpb is four times
what the three seeds of records/pocket/0001_baseline differ by at a quarter, half and three quarters of a run (0.010 to
0.012). Unlike the median rule (Golovin et al. 2017, Google Vizier) it needs one finished trial, and never stops one
that is about as good as the best.

Not covered: the gate and final splits (tools/ladder.py); one trial on several nodes (docs/h100.md); Ctrl-C leaves Slurm
jobs in their queue.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import math
import os
import signal
import statistics
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if not __package__:  # run as a file: import from the repository's root, not from tools/
    sys.path[0] = str(ROOT)

from rich.box import SIMPLE  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: E402
from rich.table import Table  # noqa: E402
from rich.text import Text  # noqa: E402

from golf.foreign import terminal  # noqa: E402
from tools import ledger, sweep_spec, trial  # noqa: E402
from tools.files import Failure, explain, read_json, read_metrics, sha256_file, write_atomic  # noqa: E402

TICK_SECONDS = 0.5
CLOSED = ("done", "stopped", "failed")  # not run again


@dataclass(eq=False)
class Run:
    """One trial: a configuration with a seed. Status: planned, running, interrupted, crash, skipped, or in CLOSED."""

    name: str
    seed: int
    config: dict  # every field, resolved
    variant: str  # as in the log
    arguments: tuple[str, ...]
    values: dict  # of its configuration
    status: str = "planned"
    value: float | None = None  # the objective, bpb
    bytes: int | None = None
    holder: str = ""  # the run that has the value: another one if this was run before under another name
    error: str | None = None
    started: float = 0.0


@dataclass
class Configuration:
    """A point of the space, with a run per seed. `error`: what the script has against it."""

    number: int
    values: dict
    runs: list[Run] = field(default_factory=list)
    error: str | None = None
    told: bool = False  # to the search

    @property
    def outcome(self) -> str | None:
        """done, stopped or failed; None while a run is open, or was cut off and will run again."""
        statuses = {run.status for run in self.runs}
        if self.error or "failed" in statuses:
            return "failed"
        if statuses & {"planned", "running", "interrupted", "crash"}:
            return None
        return "stopped" if "stopped" in statuses else "done"

    @property
    def mean(self) -> float | None:
        """Mean objective over the seeds that have one."""
        values = [run.value for run in self.runs if run.value is not None]
        return statistics.fmean(values) if values else None


def dev_curve(rows: list[dict], config: dict) -> list[tuple[float, float]]:
    """(fraction of the run, dev bpb) of each row of metrics.jsonl that has an estimate."""
    seconds, steps = config["max_seconds"], config["max_steps"]
    return [(max(row["elapsed"] / seconds if seconds > 0 else 0.0, row["step"] / steps if steps > 0 else 0.0),
             row["dev_bpb"]) for row in rows if row.get("dev_bpb") is not None]


def at_fraction(curve: list[tuple[float, float]], fraction: float) -> float | None:
    """Dev bpb at `fraction`: linear between points, the last one after the end, None before the first."""
    if not curve or fraction < curve[0][0]:
        return None
    for (x0, y0), (x1, y1) in zip(curve, curve[1:]):
        if fraction < x1:
            return y0 + (y1 - y0) * (fraction - x0) / (x1 - x0)
    return curve[-1][1]


def is_loser(curve: list[tuple[float, float]], best: list[tuple[float, float]], margin: float) -> bool:
    """Whether the last point of `curve` is more than `margin` above `best` at the same fraction."""
    level = at_fraction(best, curve[-1][0]) if curve else None
    return level is not None and curve[-1][1] > level + margin


class Sweep:
    """The state of a sweep, and the loop that fills the machine."""

    def __init__(self, spec: sweep_spec.Spec, script: sweep_spec.Script, cluster: str, dry: bool):
        self.spec, self.script, self.cluster = spec, script, cluster
        self.folder = ROOT / "runs" / "sweeps" / spec.name
        source = (ROOT / "train_gpt.py").read_text(encoding="utf-8").encode()
        self.code = hashlib.sha256(source).hexdigest()
        self.console = Console()
        self.data: dict[str, str] = {}  # data_dir -> hash of its manifest
        sweep_spec.check_fields(spec, script.defaults)
        if not dry:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(ROOT / "runs" / "scripts" / f"{self.code}.py", source)
            jobs = self.folder / "jobs"
            self.jobs = (trial.LocalJobs(jobs, spec.parallel) if cluster == "local" else
                         trial.SlurmJobs(jobs, spec.slurm, self.job_minutes()))
        self.search = sweep_spec.Grid(spec) if spec.search == "grid" else sweep_spec.Study(
            spec, script.defaults, None if dry else self.folder / "study.log", [self.code])
        self.configurations: list[Configuration] = []
        self.runs: dict[str, Run] = {}
        self.queue: deque[Run] = deque()
        self.running: list[Run] = []
        self.seconds: list[float] = []  # wall time of the trials that ended in this session

    def clock_seconds(self) -> float:
        """The longest training clock of a trial, as far as the spec says it."""
        entry = {**self.script.defaults, **self.spec.fixed, **self.spec.space}["max_seconds"]
        return entry["high"] if isinstance(entry, dict) else max(entry) if isinstance(entry, list) else entry

    def job_minutes(self) -> int:
        """Slurm's time limit: twice the training clock and an hour; [slurm] timeout_min sets another."""
        return math.ceil(60 + 2 * self.clock_seconds() / 60)

    # ------------------------------------------------------------------------------------------------- configurations

    def configure(self, number: int) -> Configuration:
        """Draws configuration `number`, resolves it and looks its runs up in the log."""
        spec = self.spec
        configuration = Configuration(number, self.search.point(number))
        self.configurations.append(configuration)
        try:
            config = self.script.resolve({**spec.fixed, **configuration.values})
        except Failure as error:
            configuration.error = str(error)
            return configuration
        if config["data_dir"] not in self.data:
            manifest = ROOT / config["data_dir"] / "manifest.json"
            if not manifest.is_file():
                raise Failure(f"no {manifest}: build the data with tools/data.py")
            self.data[config["data_dir"]] = sha256_file(manifest)
        variant = ledger.variant_of(self.code, config, self.data[config["data_dir"]])
        chosen = {**spec.fixed, "preset": config["preset"], **configuration.values}
        for seed in spec.seeds:
            name = f"{spec.name}-{variant[:8]}-s{seed}"
            if name not in self.runs:  # a search may draw a configuration twice
                self.runs[name] = Run(name, seed, {**config, "seed": seed}, variant,
                                      tuple(sweep_spec.arguments({**chosen, "seed": seed})), configuration.values)
                self.look_up(self.runs[name])
            configuration.runs.append(self.runs[name])
        return configuration

    def look_up(self, run: Run) -> None:
        """Brings the run's status up to date with the log."""
        rows = ledger.query(ROOT, "SELECT * FROM runs WHERE run = ?1 OR (variant = ?2 AND seed = ?3) "
                                  "ORDER BY run != ?1", (run.name, run.variant, run.seed))
        for row in rows:
            trained = row["status"] not in ("crash", "sigterm") and row["dev_bpb"] is not None
            value = row["bpb"] if self.spec.objective == "packed" else row["dev_bpb"] if trained else None
            if value is not None:
                run.status, run.value, run.bytes, run.holder, run.error = "done", value, row["bytes"], row["run"], None
                return
        outcomes = [note for note in self.notes(run) if "outcome" in note]
        if outcomes:
            run.status, run.error = outcomes[-1]["outcome"], outcomes[-1].get("error")

    def notes(self, run: Run) -> list[dict]:
        """The log's notes about a run, oldest first."""
        rows = ledger.query(ROOT, "SELECT body FROM rows WHERE run = ? AND kind = 'note' ORDER BY n", (run.name,))
        return [json.loads(row["body"]) for row in rows]

    def note(self, run: Run, values: dict) -> None:
        """Adds a note about a run unless the log has it."""
        body = {"sweep": self.spec.name, "who": self.spec.who, **values}
        if not any(body.items() <= note.items() for note in self.notes(run)):
            ledger.note(ROOT, run.name, body)

    def note_outcome(self, run: Run) -> None:
        """Writes down why a trial was stopped or failed, so that it is not run again."""
        path = ROOT / "runs" / run.name / "trial.json"
        left = trial.outcome_of(path.parent)
        if left and left["outcome"] in ("stopped", "failed"):
            verdict = "discard" if left["outcome"] == "stopped" else "crash"
            self.note(run, {"outcome": left["outcome"], "verdict": verdict, "error": left["error"],
                            "stop": left["stop"], "file_sha256": sha256_file(path)})

    # --------------------------------------------------------------------------------------------------------- the loop

    def start(self, run: Run) -> None:
        """Notes the hypothesis and submits the trial."""
        folder = ROOT / "runs" / run.name
        if not trial.has_job(folder):
            ledger.sync(ROOT, ended=folder)  # a job that died while no sweep was watching is a row too
        for name in ("stop.json", "trial.json"):
            (folder / name).unlink(missing_ok=True)
        self.note(run, {"hypothesis": self.spec.hypothesis})
        job = self.jobs.submit(trial.Trial(
            run=run.name, arguments=run.arguments, code=self.code, data_dir=run.config["data_dir"],
            processes=self.spec.processes, score=self.spec.objective == "packed"))
        run.status, run.started = "running", time.monotonic()
        self.running.append(run)
        self.say(f"{run.name} started as job {job}: {self.describe(run)}")

    def settle(self, run: Run) -> None:
        """Takes the result of a trial whose job has ended."""
        folder = ROOT / "runs" / run.name
        self.running.remove(run)
        self.seconds.append(time.monotonic() - run.started)
        ledger.sync(ROOT, ended=folder)
        self.note_outcome(run)
        left = trial.outcome_of(folder)
        run.status, run.error = "crash", (left or {}).get("error") or "its job was killed"
        with contextlib.suppress(Failure):
            if left is None and read_json(folder / "run.json").get("stopped") == "sigterm":
                run.status, run.error = "interrupted", None
        self.look_up(run)
        for configuration in self.configurations:
            self.conclude(configuration)
        shown = "" if run.value is None else f" {run.value:.4f} bpb"
        self.say(f"{run.name} {run.status}{shown} after {self.seconds[-1]:.0f} s" + f": {run.error}" * bool(run.error))

    def fill(self) -> None:
        """Starts trials until `parallel` of them run or nothing is left that may start now."""
        while len(self.running) < self.spec.parallel:
            if self.queue:
                run = self.queue.popleft()
                if run.status != "skipped":
                    self.start(run)
                continue
            if len(self.configurations) == len(self.search):
                return
            configuration = self.configure(len(self.configurations))
            while (alive := self.jobs.alive()) is None:  # what a sweep left in Slurm must not run twice
                self.say("squeue does not answer: asking again")
                time.sleep(trial.SQUEUE_SECONDS)
            for run in configuration.runs:
                if run in self.running or run in self.queue:
                    continue
                if run.name in alive:
                    run.status, run.started = "running", time.monotonic()
                    self.running.append(run)
                    self.say(f"{run.name} is in the queue already")
                elif run.status not in CLOSED:
                    self.note_outcome(run)  # of a job that ended while no sweep was watching
                    self.look_up(run)
                if run.status not in (*CLOSED, "running"):
                    self.queue.append(run)
            self.conclude(configuration)

    def conclude(self, configuration: Configuration) -> None:
        """Skips the other seeds of a loser, and tells the search what came of a configuration that is complete."""
        if any(run.status == "stopped" for run in configuration.runs):
            for run in configuration.runs:
                if run.status == "planned":
                    run.status = "skipped"
        outcome = configuration.outcome
        if outcome is not None and not configuration.told:
            configuration.told = True
            self.search.tell(configuration.number, outcome, configuration.mean if outcome == "done" else None)

    def best(self) -> Run | None:
        """The finished run with the lowest objective."""
        finished = [run for run in self.runs.values() if run.value is not None]
        return min(finished, key=lambda run: run.value, default=None)

    def stop_losers(self) -> None:
        """Tells running trials to stop that have fallen behind the best finished one."""
        best = self.best()
        if best is None or not math.isfinite(self.spec.stop_margin):
            return
        for run in self.running:
            folder = ROOT / "runs" / run.name
            with contextlib.suppress(Failure):  # a metrics.jsonl that is not there yet, or no more
                if (folder / "run.json").exists() or (folder / "stop.json").exists():
                    continue
                level = dev_curve(read_metrics(ROOT / "runs" / best.holder / "metrics.jsonl"), best.config)
                curve = dev_curve(read_metrics(folder / "metrics.jsonl"), run.config)
                if is_loser(curve, level, self.spec.stop_margin):
                    fraction, bpb = curve[-1]
                    expected = at_fraction(level, fraction)
                    trial.request_stop(folder, {"reason": "loser", "best": best.holder, "fraction": round(fraction, 4),
                                                "dev_bpb": bpb, "best_dev_bpb": round(expected, 5)})
                    self.say(f"{run.name} stops: dev bpb {bpb:.4f} at {fraction:.0%}, {best.holder} had {expected:.4f}")

    def work(self) -> None:
        """Runs the sweep to its end. KeyboardInterrupt passes through after the local trials were stopped in order."""
        ledger.sync(ROOT)
        with Progress(TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                      TextColumn("{task.fields[text]}", markup=False), console=self.console,
                      refresh_per_second=1) as progress:
            bar = progress.add_task(terminal(self.spec.name), total=len(self.search) * len(self.spec.seeds), text="")
            try:
                self.fill()
                while self.running:
                    progress.update(bar, completed=self.closed(), text=self.status())
                    time.sleep(TICK_SECONDS)
                    self.stop_losers()
                    alive = self.jobs.alive()
                    for run in list(self.running):
                        if alive is not None and run.name not in alive:
                            self.settle(run)
                    self.fill()
                progress.update(bar, completed=self.closed(), text="")
            except (KeyboardInterrupt, Failure):
                self.interrupt()
                raise

    def interrupt(self) -> None:
        """Ends local trials in order; leaves Slurm's where they are."""
        if self.cluster == "slurm":
            names = ",".join(run.name for run in self.running)
            self.say(f"left in Slurm: scancel --name={names} removes them" if names else "nothing is in Slurm")
            return
        if self.running:
            self.say("stopping the trials that run (Ctrl-C again leaves them to themselves)")
        for run in self.running:
            trial.request_stop(ROOT / "runs" / run.name, {"reason": "interrupt"})
        while self.running:
            alive = self.jobs.alive()
            for run in [run for run in self.running if run.name not in alive]:
                self.settle(run)
            time.sleep(trial.LOOK_SECONDS)

    # -------------------------------------------------------------------------------------------------------- reporting

    def say(self, text: str) -> None:
        """A line above the bar."""
        self.console.print(Text(terminal(text, 10_000)), highlight=False, soft_wrap=True)

    def describe(self, run: Run) -> str:
        """The run's fields of [space] and its seed."""
        names = [f"{key}={self.shown(run.config[key])}" for key in run.values]
        return ", ".join([*names, f"seed={run.seed}"])

    @staticmethod
    def shown(value) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    def closed(self) -> int:
        """Runs that need no more work; those of a refused configuration count."""
        return sum(len(self.spec.seeds) if each.error else
                   sum(run.status not in ("planned", "running") for run in each.runs) for each in self.configurations)

    def status(self) -> str:
        """Best so far, and how long it will take: from the trials of this session, before them from their clock."""
        left = len(self.search) * len(self.spec.seeds) - self.closed()
        each = statistics.fmean(self.seconds) if self.seconds else 1.3 * self.clock_seconds() + 60
        ahead = sum(min(each, time.monotonic() - run.started) for run in self.running)
        eta = max(0.0, left * each - ahead) / min(self.spec.parallel, max(1, left))
        best = self.best()
        text = f"eta {int(eta) // 3600}:{int(eta) // 60 % 60:02}:{int(eta) % 60:02}"
        return text + (f"  best {best.value:.4f} {terminal(best.holder)}" if best else "")

    def table(self) -> Table:
        """A line per configuration, best first."""
        seeds = len(self.spec.seeds)
        table = Table(box=SIMPLE, pad_edge=False)
        for name in ("configuration", "bpb" if self.spec.objective == "packed" else "dev bpb", "±" if seeds > 1 else "",
                     "bytes", "runs", *self.spec.space):
            table.add_column(Text(terminal(name)), justify="left" if name in ("configuration", "runs") else "right",
                             no_wrap=True)
        for each in sorted(self.configurations, key=lambda each: (each.mean is None, each.mean or 0, each.number)):
            values = [run.value for run in each.runs if run.value is not None]
            spread = f"{statistics.stdev(values):.4f}" if len(values) > 1 else ""
            bytes_ = max((run.bytes for run in each.runs if run.bytes), default=None)
            counts = {status: sum(run.status == status for run in each.runs) for status in
                      dict.fromkeys(run.status for run in each.runs)}
            name = each.runs[0].name.rpartition("-s")[0] if each.runs else f"#{each.number}"
            outcome = each.error or ", ".join(f"{count} {status}" for status, count in counts.items())
            table.add_row(Text(terminal(name)), "-" if each.mean is None else f"{each.mean:.4f}", Text(spread),
                          "-" if bytes_ is None else f"{bytes_:,d}", Text(terminal(outcome)),
                          *(Text(terminal(self.shown(each.values[key]))) for key in self.spec.space))
        return table

    def summary(self) -> dict:
        """What --json prints."""
        best = self.best()
        return {"format": 1, "sweep": self.spec.name, "objective": self.spec.objective, "code": self.code,
                "best": best and best.holder, "configurations": [
                    {"number": each.number, "values": each.values, "error": each.error, "mean": each.mean, "runs": [
                        {"run": run.name, "seed": run.seed, "status": run.status, "value": run.value,
                         "bytes": run.bytes, "held_by": run.holder or None, "error": run.error,
                         "arguments": list(run.arguments)} for run in each.runs]} for each in self.configurations]}


@contextlib.contextmanager
def only_one(folder: Path):
    """Failure if another process works on this sweep."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure(f"this sweep is running already: {folder} is locked") from None
        yield


def make(options: argparse.Namespace) -> tuple[dict, int]:
    """Runs or lists the sweep and prints its table; returns what --json shows, and the exit code."""
    spec = sweep_spec.read_spec(options.spec)
    with contextlib.closing(sweep_spec.Script(ROOT / "train_gpt.py", ROOT)) as script, contextlib.ExitStack() as stack:
        (ROOT / "runs" / "scripts").mkdir(parents=True, exist_ok=True)
        if not options.dry_run:
            stack.enter_context(only_one(ROOT / "runs" / "sweeps" / spec.name))
        sweep = Sweep(spec, script, options.cluster, options.dry_run)
        if options.dry_run:
            ledger.sync(ROOT)
            known = len(sweep.search) if spec.search != "optuna" else min(len(sweep.search), sweep_spec.STARTUP_TRIALS)
            for number in range(known):
                for run in sweep.configure(number).runs:
                    sweep.say(f"{run.status:8} {run.name}  train_gpt.py {' '.join(run.arguments)}")
            if known < len(sweep.search):
                sweep.say(f"{len(sweep.search) - known} configurations more depend on what comes of these")
            sweep.say(f"{len(sweep.search) * len(spec.seeds)} trials, {sweep.closed()} of them in the log already")
            return sweep.summary(), 0
        try:
            sweep.work()
        finally:
            sweep.say(f"{spec.name}: {spec.hypothesis}")
            sweep.console.print(sweep.table())
        return sweep.summary(), 0 if sweep.best() else 1


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, 1 if nothing has a score or the spec is bad, 130 when interrupted."""
    parser = argparse.ArgumentParser(
        prog="tools/sweep.py", formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{__doc__}\nA spec:\n\n{sweep_spec.__doc__}")
    parser.add_argument("spec", type=Path, metavar="SPEC.toml")
    parser.add_argument("--cluster", choices=("local", "slurm"), default="local")
    parser.add_argument("--dry-run", action="store_true", help="list the trials and what the log holds of them")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args(argv)
    options.spec = options.spec.resolve()
    os.chdir(ROOT)  # where jobs start, here and on Slurm
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        summary, code = make(options)
    except (Failure, OSError) as error:
        return explain("sweep.py", error)
    except KeyboardInterrupt:
        print("sweep.py: interrupted: start it again to go on", file=sys.stderr)
        return 130
    if code:
        print("sweep.py: no trial has a score (see the table)", file=sys.stderr)
    if options.json:
        print(json.dumps(summary))
    return code


if __name__ == "__main__":
    sys.exit(main())
