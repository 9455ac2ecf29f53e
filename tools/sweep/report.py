"""What a person and a program see of a sweep: a line for each trial, the table at the end, the object of --json.

Not covered: the progress of a sweep, which engine.py shows while it works.
"""

import statistics

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from golf.foreign import terminal
from tools.sweep.configuration import Configuration, Run
from tools.sweep.spec import Spec


def shown(value) -> str:
    """A field's value for people."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def describe(run: Run) -> str:
    """The run's fields of [space] and its seed."""
    names = [f"{key}={shown(run.config[key])}" for key in run.values]
    return ", ".join([*names, f"seed={run.seed}"])


def table(spec: Spec, configurations: list[Configuration]) -> Table:
    """A line per configuration, best first."""
    seeds = len(spec.seeds)
    table = Table(box=SIMPLE, pad_edge=False)
    for name in (
        "configuration",
        "bpb" if spec.objective == "packed" else "dev bpb",
        "±" if seeds > 1 else "",
        "bytes",
        "runs",
        *spec.space,
    ):
        table.add_column(
            Text(terminal(name)), justify="left" if name in ("configuration", "runs") else "right", no_wrap=True
        )
    for each in sorted(configurations, key=lambda each: (each.mean is None, each.mean or 0, each.number)):
        values = [run.value for run in each.runs if run.value is not None]
        spread = f"{statistics.stdev(values):.4f}" if len(values) > 1 else ""
        bytes_ = max((run.bytes for run in each.runs if run.bytes), default=None)
        counts = {
            status: sum(run.status == status for run in each.runs)
            for status in dict.fromkeys(run.status for run in each.runs)
        }
        name = each.runs[0].name.rpartition("-s")[0] if each.runs else f"#{each.number}"
        outcome = each.error or ", ".join(f"{count} {status}" for status, count in counts.items())
        table.add_row(
            Text(terminal(name)),
            "-" if each.mean is None else f"{each.mean:.4f}",
            Text(spread),
            "-" if bytes_ is None else f"{bytes_:,}",
            Text(terminal(outcome)),
            *(Text(terminal(shown(each.values[key]))) for key in spec.space),
        )
    return table


def summary(spec: Spec, code: str, best: Run | None, configurations: list[Configuration]) -> dict:
    """What --json prints. code: SHA-256 of the training script."""
    return {
        "format": 1,
        "sweep": spec.name,
        "objective": spec.objective,
        "code": code,
        "best": best.holder if best else None,
        "configurations": [
            {
                "number": each.number,
                "values": each.values,
                "error": each.error,
                "mean": each.mean,
                "runs": [
                    {
                        "run": run.name,
                        "seed": run.seed,
                        "status": run.status,
                        "value": run.value,
                        "bytes": run.bytes,
                        "held_by": run.holder or None,
                        "error": run.error,
                        "arguments": list(run.arguments),
                    }
                    for run in each.runs
                ],
            }
            for each in configurations
        ],
    }
