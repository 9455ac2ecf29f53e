"""Many runs: a grid, random or Optuna search over `Config` fields and seeds, here or on a Slurm cluster.

    golf sweep SPEC.toml --dry-run         # what would run; tools/sweep/spec.py explains a spec
    golf sweep SPEC.toml
    golf sweep SPEC.toml --cluster slurm   # jobs through sbatch; this process watches them

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

Not covered: the gate and final splits (golf ladder); one trial on several nodes (docs/gpu.md); Ctrl-C leaves Slurm
jobs in their queue.
"""

import argparse
import contextlib
import hashlib
import json
import math
import os
import statistics
import sys
import time
from collections import deque
from pathlib import Path

from rich.console import Console

from golf import locks
from golf.console import say
from golf.files import ROOT, Failure, read_json, read_metrics, sha256_file, write_atomic
from golf.foreign import terminal
from golf.progress import Progress
from tools.plan.dry_run import code_bytes
from tools.runs import ledger
from tools.runs.folder import TOLD_TO_STOP
from tools.runs.fraction import fraction
from tools.runs.store import body_of
from tools.sweep import spec as spec_module
from tools.sweep import trial
from tools.sweep.configuration import Configuration, Run
from tools.sweep.report import describe, summary, table
from tools.sweep.spec import STARTUP_TRIALS, Grid, Script, Spec, Study, arguments, check_fields, check_seeds, read_spec

TICK_SECONDS = 0.5
CLOSED = ("done", "stopped", "failed")  # not run again


def dev_curve(rows: list[dict], config: dict) -> list[tuple[float, float]]:
    """(fraction of the run, dev bpb) of each row of metrics.jsonl that has an estimate."""
    return [(fraction(config, row) or 0.0, row["dev_bpb"]) for row in rows if row.get("dev_bpb") is not None]


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

    def __init__(self, spec: Spec, script: Script, cluster: str, dry: bool):
        self.spec, self.script, self.cluster = spec, script, cluster
        self.folder = ROOT / "runs" / "sweeps" / spec.name
        source = (ROOT / "train_gpt.py").read_text(encoding="utf-8").encode()
        self.code = hashlib.sha256(source).hexdigest()
        self.data: dict[str, str] = {}  # data_dir -> hash of its manifest
        check_fields(spec, script.defaults)
        check_seeds(spec, script)
        if not dry:
            if spec.objective == "packed":
                code_bytes()
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(ROOT / "runs" / "scripts" / f"{self.code}.py", source)
            jobs = self.folder / "jobs"
            self.jobs = (
                trial.LocalJobs(jobs, spec.parallel)
                if cluster == "local"
                else trial.SlurmJobs(jobs, spec.slurm, self.job_minutes())
            )
        self.search = (
            Grid(spec)
            if spec.search == "grid"
            else Study(spec, script.defaults, None if dry else self.folder / "study.log", [self.code])
        )
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
                raise Failure(f"no {manifest}: build the data with golf data")
            self.data[config["data_dir"]] = sha256_file(manifest)
        variant = ledger.variant_of(self.code, config, self.data[config["data_dir"]])
        chosen = {**spec.fixed, "preset": config["preset"], **configuration.values}
        for seed in spec.seeds:
            name = f"{spec.name}-{variant[:8]}-s{seed}"
            if name not in self.runs:  # a search may draw a configuration twice
                self.runs[name] = Run(
                    name,
                    seed,
                    {**config, "seed": seed},
                    variant,
                    tuple(arguments({**chosen, "seed": seed})),
                    configuration.values,
                )
                self.look_up(self.runs[name])
            configuration.runs.append(self.runs[name])
        return configuration

    def look_up(self, run: Run) -> None:
        """Brings the run's status up to date with the log."""
        rows = ledger.query(
            ROOT,
            "SELECT * FROM runs WHERE run = ?1 OR (variant = ?2 AND seed = ?3) ORDER BY run != ?1",
            (run.name, run.variant, run.seed),
        )
        for row in rows:
            trained = row["status"] not in ("crash", *TOLD_TO_STOP) and row["dev_bpb"] is not None
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
        return [body_of(row) for row in rows]

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
            self.note(
                run,
                {
                    "outcome": left["outcome"],
                    "verdict": verdict,
                    "error": left["error"],
                    "stop": left["stop"],
                    "file_sha256": sha256_file(path),
                },
            )

    # --------------------------------------------------------------------------------------------------------- the loop

    def start(self, run: Run) -> None:
        """Notes the hypothesis and submits the trial."""
        folder = ROOT / "runs" / run.name
        if not trial.has_job(folder):
            ledger.sync(ROOT, ended=folder)  # a job that died while no sweep was watching is a row too
        for name in ("stop.json", "trial.json"):
            (folder / name).unlink(missing_ok=True)
        self.note(run, {"hypothesis": self.spec.hypothesis})
        job = self.jobs.submit(
            trial.Trial(
                run=run.name,
                arguments=run.arguments,
                code=self.code,
                data_dir=run.config["data_dir"],
                processes=self.spec.processes,
                score=self.spec.objective == "packed",
            )
        )
        run.status, run.started = "running", time.monotonic()
        self.running.append(run)
        self.say(f"{run.name} started as job {job}: {describe(run)}")

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
            if left is None and read_json(folder / "run.json").get("stopped") in TOLD_TO_STOP:
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
        finished = [(run.value, number) for number, run in enumerate(self.runs.values()) if run.value is not None]
        return list(self.runs.values())[min(finished)[1]] if finished else None

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
                expected = at_fraction(level, curve[-1][0]) if curve else None
                if expected is not None and is_loser(curve, level, self.spec.stop_margin):
                    fraction, bpb = curve[-1]
                    trial.request_stop(
                        folder,
                        {
                            "reason": "loser",
                            "best": best.holder,
                            "fraction": round(fraction, 4),
                            "dev_bpb": bpb,
                            "best_dev_bpb": round(expected, 5),
                        },
                    )
                    self.say(f"{run.name} stops: dev bpb {bpb:.4f} at {fraction:.0%}, {best.holder} had {expected:.4f}")

    def work(self) -> None:
        """Runs the sweep to its end. KeyboardInterrupt passes through after the local trials were stopped in order."""
        ledger.sync(ROOT)
        with Progress() as progress:
            progress.phase(self.spec.name, total=len(self.search) * len(self.spec.seeds), unit="trials")
            try:
                self.fill()
                while self.running:
                    self.show(progress)
                    time.sleep(TICK_SECONDS)
                    self.stop_losers()
                    alive = self.jobs.alive()
                    for run in list(self.running):
                        if alive is not None and run.name not in alive:
                            self.settle(run)
                    self.fill()
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
            alive = self.jobs.alive() or set()
            for run in [run for run in self.running if run.name not in alive]:
                self.settle(run)
            time.sleep(trial.LOOK_SECONDS)

    # -------------------------------------------------------------------------------------------------------- reporting

    def say(self, text: str) -> None:
        """A line on standard output, above the bar. A sweep goes on without a reader."""
        say(terminal(text, 10_000))

    def show(self, progress: Progress) -> None:
        """Brings the bar up to date."""
        progress(self.spec.name, self.closed(), len(self.search) * len(self.spec.seeds))
        best = self.best()
        progress.note(f"best {best.value:.4f} {best.holder}" if best else "", self.eta_seconds())

    def closed(self) -> int:
        """Runs that need no more work; those of a refused configuration count."""
        return sum(
            len(self.spec.seeds) if each.error else sum(run.status not in ("planned", "running") for run in each.runs)
            for each in self.configurations
        )

    def eta_seconds(self) -> float:
        """How long the rest will take: from the trials of this session, before them from their clock."""
        left = len(self.search) * len(self.spec.seeds) - self.closed()
        each = statistics.fmean(self.seconds) if self.seconds else 1.3 * self.clock_seconds() + 60
        ahead = sum(min(each, time.monotonic() - run.started) for run in self.running)
        return max(0.0, left * each - ahead) / min(self.spec.parallel, max(1, left))


@contextlib.contextmanager
def only_one(folder: Path):
    """Failure if another process works on this sweep."""

    def refuse() -> None:
        raise Failure(f"this sweep is running already: {folder} is locked")

    folder.mkdir(parents=True, exist_ok=True)
    with locks.held(folder / "lock", refuse):
        yield


def make(options: argparse.Namespace) -> tuple[dict, int]:
    """Runs or lists the sweep and prints its table; returns what --json shows, and the exit status."""
    spec = read_spec(options.spec)
    with contextlib.closing(Script(ROOT / "train_gpt.py", ROOT)) as script, contextlib.ExitStack() as stack:
        (ROOT / "runs" / "scripts").mkdir(parents=True, exist_ok=True)
        if not options.dry_run:
            stack.enter_context(only_one(ROOT / "runs" / "sweeps" / spec.name))
        sweep = Sweep(spec, script, options.cluster, options.dry_run)
        if options.dry_run:
            ledger.sync(ROOT)
            known = len(sweep.search) if spec.search != "optuna" else min(len(sweep.search), STARTUP_TRIALS)
            for number in range(known):
                configuration = sweep.configure(number)
                if configuration.error:
                    sweep.say(f"refused  {' '.join(arguments(configuration.values))}: {configuration.error}")
                for run in configuration.runs:
                    sweep.say(f"{run.status:8} {run.name}  train_gpt.py {' '.join(run.arguments)}")
            if known < len(sweep.search):
                sweep.say(f"{len(sweep.search) - known} configurations more depend on what comes of these")
            sweep.say(
                f"{len(sweep.search) * len(spec.seeds)} trials, {sweep.closed()} of them refused or in the log already"
            )
            return summary(spec, sweep.code, sweep.best(), sweep.configurations), 0
        try:
            sweep.work()
        finally:
            sweep.say(f"{spec.name}: {spec.hypothesis}")
            Console().print(table(spec, sweep.configurations))
        return summary(spec, sweep.code, sweep.best(), sweep.configurations), 0 if sweep.best() else 1


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 if nothing has a score. Raises Failure if the spec is bad or on Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="golf sweep",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{__doc__}\nA spec:\n\n{spec_module.__doc__}",
    )
    parser.add_argument("spec", type=Path, metavar="SPEC.toml")
    parser.add_argument("--cluster", choices=("local", "slurm"), default="local")
    parser.add_argument("--dry-run", action="store_true", help="list the trials and what the log holds of them")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args(argv)
    options.spec = options.spec.resolve()
    os.chdir(ROOT)  # where jobs start, here and on Slurm
    try:
        result, status = make(options)
    except KeyboardInterrupt:
        raise Failure("interrupted: start it again to go on", code=130) from None
    if status:
        print("golf sweep: no trial has a score (see the table)", file=sys.stderr)
    if options.json:
        print(json.dumps(result))
    return status
