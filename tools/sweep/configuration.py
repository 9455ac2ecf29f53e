"""What a sweep knows of its configurations and of their runs. Not covered: how it comes to know it (engine.py)."""

import statistics
from dataclasses import dataclass, field


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
