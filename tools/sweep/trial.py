"""One trial of a sweep as a job: train, pack, score on dev; and the machines that run such jobs, through submitit.

The stages are the public commands, in processes of their own that die with the job. A trial that comes to its end by
itself leaves runs/<id>/trial.json: what came of it, and why. A job that was killed leaves none, one that was
interrupted or put back into the queue neither: it runs again. The file stop.json in the folder ends a trial.

Not covered: macOS has no signal for a dead parent, so there a stage outlives a job that was killed by force; GPUs
shared by trials on one machine.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from golf import locks
from golf.children import end_with_parent
from golf.files import ROOT, Failure, read_json, write_json
from golf.foreign import terminal_lines
from tools.runs.folder import finished

SPLIT = "dev"  # the only split that may guide a search (RULES.md, R7)
LOOK_SECONDS = 0.5  # between looks for stop.json
SQUEUE_SECONDS = 5.0  # between questions to Slurm about jobs that left nothing


class Ended(Exception):
    """A stage did not reach its end: (outcome, error). Outcomes: stopped, interrupted, failed, killed."""


@dataclass(frozen=True)
class Trial:
    """What a job runs. submitit pickles it and calls it, in the repository's root."""

    run: str  # name of the folder in runs/
    arguments: tuple[str, ...]  # of the training script, run_dir aside
    code: str  # sha256 of the training script, which lies in runs/scripts/
    data_dir: str
    processes: int  # of training; more than one go through torchrun
    score: bool  # pack and score as well
    gpus: str | None = None  # CUDA_VISIBLE_DEVICES of a local trial's stages
    cores: tuple[int, ...] = ()  # of the CPU that the stages may use; none: all

    def __call__(self) -> None:
        Worker(self).work()

    def checkpoint(self):
        """What submitit asks of a job that Slurm preempts: put it back into the queue as it is."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class Worker:
    """The process that takes a trial through its stages."""

    def __init__(self, trial: Trial):
        self.trial, self.folder = trial, ROOT / "runs" / trial.run
        self.terminated = False  # by SIGTERM: Slurm's way to cancel a job or to put it back into the queue
        self.seconds: dict[str, float] = {}  # wall time by stage

    def work(self) -> None:
        """Runs the stages and leaves trial.json, unless the trial was interrupted."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "train.log").touch()  # a job that dies before the script's first line is a crash too
        if self.trial.cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, self.trial.cores)
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "terminated", True))
        with locks.held(self.folder / "trial.lock", lambda: None):  # by a job that outlived its sweep: wait for it
            try:
                self.stages()
                outcome, error = "done", None
            except Ended as ended:
                outcome, error = ended.args
            if outcome != "interrupted":
                stop = read_json(self.folder / "stop.json") if outcome == "stopped" else None
                write_json(
                    self.folder / "trial.json",
                    {"format": 1, "outcome": outcome, "error": error, "stop": stop, "seconds": self.seconds},
                )

    def stages(self) -> None:
        """Trains unless that is done, then packs and scores. Raises Ended."""
        trial, run = self.trial, f"runs/{self.trial.run}"
        if not finished(self.folder):
            (self.folder / "run.json").unlink(missing_ok=True)  # of a run that was told to stop: it runs again
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={trial.processes}"]
            self.stage(
                "train",
                [
                    *launcher * (trial.processes > 1),
                    f"runs/scripts/{trial.code}.py",
                    *trial.arguments,
                    f"--run_dir={run}",
                ],
            )
            if not finished(self.folder):  # Slurm, or Ctrl-C in a terminal, may have told it to stop
                raise Ended("interrupted", None)
        if trial.score:
            self.stage("pack", ["-m", "compress", "pack", run])
            self.stage("score", ["eval_heldout.py", f"{run}/model.golf", "--data", trial.data_dir, "--split", SPLIT])

    def told_to_stop(self) -> str | None:
        """The outcome that a signal or stop.json asks for."""
        if self.terminated:
            return "interrupted"
        try:
            reason = read_json(self.folder / "stop.json").get("reason")
        except Failure:
            return None
        return "stopped" if reason == "loser" else "interrupted"

    def stage(self, name: str, arguments: list[str]) -> None:
        """Runs `python ARGUMENTS` to its end. Raises Ended if it fails, is killed, or is told to stop."""
        if asked := self.told_to_stop():
            raise Ended(asked, None)
        environment = dict(os.environ)
        if environment.get("SUBMITIT_EXECUTOR") == "local":  # there submitit hides the GPUs: show them again
            del environment["CUDA_VISIBLE_DEVICES"]
            environment |= {} if self.trial.gpus is None else {"CUDA_VISIBLE_DEVICES": self.trial.gpus}
        if name == "train":  # the script needs no module of runs/scripts: a torch.py there would be somebody else's
            environment["PYTHONSAFEPATH"] = "1"
        start = time.monotonic()
        with tempfile.TemporaryFile("w+", errors="replace") as errors:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env=environment,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                preexec_fn=end_with_parent(),
            )
            while process.returncode is None:
                if asked is None and (asked := self.told_to_stop()):
                    process.terminate()  # training stops after the step at hand and saves
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(LOOK_SECONDS)
            self.seconds[name] = round(time.monotonic() - start, 2)
            errors.seek(0)
            said = errors.read()
        sys.stderr.write(terminal_lines(said))
        if asked := asked or self.told_to_stop():
            raise Ended(asked, None)
        if process.returncode < 0:
            raise Ended("killed", f"{name}: killed by {signal.Signals(-process.returncode).name}")
        if process.returncode:
            lines = said.strip().splitlines() or [f"exit status {process.returncode}"]
            raise Ended("failed", f"{name}: {lines[-1][:300]}")


class LocalJobs:
    """Trials as processes of this machine."""

    def __init__(self, folder: Path, parallel: int):
        import submitit

        self.executor = submitit.AutoExecutor(folder, cluster="local")
        self.executor.update_parameters(timeout_min=60 * 24 * 30, stderr_to_stdout=True)
        self.jobs: dict[str, submitit.Job] = {}  # by run
        self.places: dict[str, int] = {}  # by run: which part of the cores it has
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self.parts = [tuple(cores[i::parallel]) if 1 < parallel <= len(cores) else () for i in range(parallel)]

    def submit(self, trial: Trial) -> str:
        """Starts the trial on cores that no other trial uses; returns the job's id."""
        taken = {self.places[run] for run in self.alive()}
        place = min(set(range(len(self.parts))) - taken)
        trial = replace(trial, gpus=os.environ.get("CUDA_VISIBLE_DEVICES"), cores=self.parts[place])
        # The job inherits this: Ctrl-C is for the sweep, which then stops its trials in order.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self.jobs[trial.run], self.places[trial.run] = self.executor.submit(trial), place
        finally:
            signal.signal(signal.SIGINT, handler)
        return self.jobs[trial.run].job_id

    def alive(self) -> set[str]:
        """Names of the runs whose job has not ended."""
        return {run for run, job in self.jobs.items() if not job.done()}


class SlurmJobs:
    """Trials as jobs of a Slurm cluster that shares this folder. Found again by their name and folder.

    Liveness comes from squeue: submitit asks sacct, which needs accounting, and would wait for a killed job for ever.
    """

    def __init__(self, folder: Path, parameters: dict, minutes: int):
        import submitit

        try:
            self.executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=0)
            extra = {"requeue": True} | parameters.get("additional_parameters", {})
            self.executor.update_parameters(
                **{"timeout_min": minutes, "stderr_to_stdout": True}
                | {f"slurm_{key}": value for key, value in (parameters | {"additional_parameters": extra}).items()}
            )
        except RuntimeError:
            raise Failure("no srun here: --cluster slurm needs a machine that can submit to Slurm") from None
        except (NameError, ValueError, AssertionError) as error:
            raise Failure(f"[slurm]: {str(error).splitlines()[0]}") from None
        self.asked = 0.0  # when squeue was asked last
        self.known: set[str] | None = None  # what it said

    def submit(self, trial: Trial) -> str:
        """Puts the trial into the queue; returns the job's id. Failure says what sbatch does not like."""
        import submitit

        self.executor.update_parameters(name=trial.run)
        try:
            job = self.executor.submit(trial)
        except (
            submitit.core.utils.FailedJobError,
            submitit.core.utils.FailedSubmissionError,
            subprocess.CalledProcessError,
        ) as error:
            raise Failure(f"sbatch: {(str(error).strip().splitlines() or ['no answer'])[-1]}") from None
        self.known = None
        return job.job_id

    def alive(self) -> set[str] | None:
        """Names of the runs whose job waits or runs, in this folder; None while Slurm does not answer."""
        now = time.monotonic()
        if self.known is None or now - self.asked > SQUEUE_SECONDS:
            done = subprocess.run(["squeue", "--me", "--noheader", "--format=%j|%T|%Z"], capture_output=True, text=True)
            if done.returncode != 0:
                return None
            rows = [line.split("|", 2) for line in done.stdout.splitlines() if line.count("|") >= 2]
            self.asked = now
            self.known = {name for name, _, folder in rows if Path(folder) == ROOT}
        return {name for name in self.known if outcome_of(ROOT / "runs" / name) is None}  # sooner than squeue


def has_job(folder: Path) -> bool:
    """Whether a job of this machine works on the trial in `folder`: it holds the lock."""
    return locks.is_held(folder / "trial.lock")


def request_stop(folder: Path, reason: dict) -> None:
    """Asks the trial in `folder` to end: {"reason": "loser" | "interrupt", ...}."""
    if not (folder / "stop.json").exists():
        write_json(folder / "stop.json", reason)


def outcome_of(folder: Path) -> dict | None:
    """The trial.json of a trial that came to its end; None if there is none that can be used."""
    with contextlib.suppress(Failure):
        left = read_json(folder / "trial.json", ("outcome", "error", "stop"))
        kinds = {"outcome": str, "error": str | None, "stop": dict | None}
        if all(isinstance(left[key], kind) for key, kind in kinds.items()):
            return left
    return None
