"""What leaves the log: tables for people, CSV for spreadsheets, curves for TensorBoard and trackio, a picture.

Not covered: what the rows mean, and how they come about (ledger.py).
"""

import csv
import datetime
import difflib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from golf.files import Failure, read_bytes, read_metrics, write_atomic
from golf.foreign import spreadsheet, terminal, terminal_lines
from tools.runs import rows
from tools.runs.store import COLUMNS

DIFF_LINES = 3000  # of a script that is compared with another; RULES.md allows 2,000
CURVES = ("loss", "dev_bpb", "tokens_per_second", "lr_scale")  # columns of metrics.jsonl that are exported


def script_lines(root: Path, code: str | None) -> list[str]:
    """The lines of a script that the log keeps; none if it does not. Of a long one, one line that says so."""
    path = root / "runs" / "scripts" / f"{code}.py"
    lines = read_bytes(path).decode(errors="replace").splitlines() if path.is_file() else []
    return lines if len(lines) <= DIFF_LINES else [f"# {len(lines):,} lines: at most {DIFF_LINES:,} are compared"]


def export_csv(rows: list[dict], path: Path) -> None:
    """One line per run, columns as in the index. No text of a run becomes a formula in a spreadsheet."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows({key: spreadsheet(value) for key, value in row.items()} for row in rows)
    write_atomic(path, text.getvalue().encode())


def curve(row: dict, metrics: Path) -> list[tuple[float, int, dict]]:
    """(unix time, step, {metric: value}) of each row of a metrics.jsonl. Failure if one is no point of a curve."""
    start, points = (row["finished"] or 0) - (row["seconds"] or 0), []
    for number, point in enumerate(read_metrics(metrics), start=1):
        values = {key: point[key] for key in CURVES if point.get(key) is not None}
        good = rows.is_whole(point["step"]) and all(map(rows.is_number, values.values()))
        if not good or not rows.is_number(point["elapsed"]) or not rows.MOMENT.fits(start + point["elapsed"]):
            raise Failure(f"{metrics}:{number}: step, elapsed or a metric is not the number that it should be")
        points.append((start + point["elapsed"], point["step"], values))
    return points


def curves_of(root: Path, rows: list[dict]) -> Iterator[tuple[dict, list]]:
    """(row, its curve) of every run that has a metrics.jsonl; one that cannot be used is named on stderr."""
    for row in rows:
        metrics = root / "runs" / row["run"] / "metrics.jsonl"
        if metrics.exists():
            try:
                points = curve(row, metrics)
            except (Failure, ValueError, RecursionError) as error:
                print(f"golf log: left out {terminal(row['run'], 100)}: {terminal(str(error))}", file=sys.stderr)
                continue
            yield row, points


def export_tensorboard(root: Path, rows: list[dict], folder: Path) -> None:
    """Loss and dev bpb of every run by step as TensorBoard event files. Failure if the package is not installed."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError:
        raise Failure("the package tensorboard is not installed: pip install tensorboard") from None

    for row, points in curves_of(root, rows):
        writer = EventFileWriter(str(folder / row["run"]))
        for when, step, values in points:
            for key, value in values.items():
                summary = Summary(value=[Summary.Value(tag=key, simple_value=value)])
                writer.add_event(Event(wall_time=when, step=step, summary=summary))
        writer.close()


def export_trackio(root: Path, rows: list[dict], folder: Path) -> None:
    """The same curves, and what the log says of each run, as the project "golf" of a trackio folder on this machine.

    Exported again, only what is new is added. Failure if the package is not installed.
    """
    os.environ["TRACKIO_DIR"] = str(folder.resolve())  # the package reads it once, when it is imported
    try:
        from trackio.sqlite_storage import SQLiteStorage
    except ImportError:
        raise Failure("the package trackio is not installed: pip install trackio") from None

    for row, points in curves_of(root, rows):
        times = [datetime.datetime.fromtimestamp(when, datetime.UTC).isoformat() for when, _, _ in points]
        SQLiteStorage.bulk_log(
            "golf",
            row["run"],
            [values for _, _, values in points],
            steps=[step for _, step, _ in points],
            timestamps=times,
            config={key: value for key, value in row.items() if value is not None},
            log_ids=[f"{row['run']}/{row['finished']}/{i}" for i in range(len(points))],
        )


def plot(rows: list[dict], path: Path) -> None:
    """PNG: dev bpb of every scored run in the order they finished, and the best so far."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scored = sorted((row for row in rows if row["bpb"] is not None), key=lambda row: row["finished"] or 0)
    if not scored:
        raise Failure("no run has a score yet: pack and score one first")
    values = [row["bpb"] for row in scored]
    figure = Figure(figsize=(8, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.plot(range(1, len(values) + 1), values, "o", markersize=4, alpha=0.5, label="a run")
    axis.step(
        range(1, len(values) + 1),
        [min(values[: i + 1]) for i in range(len(values))],
        where="post",
        label=f"best so far: {min(values):.4f}",
    )
    axis.set(xlabel="scored runs, oldest first", ylabel="bpb (dev)")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomic(path, buffer.getvalue())


def print_runs(rows: list[dict]) -> None:
    """A table of runs."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def number(value, form):
        return "-" if value is None else format(value, form)

    table = Table(box=SIMPLE, pad_edge=False)
    for name, justify in (
        ("run", "left"),
        ("bpb", "right"),
        ("bytes", "right"),
        ("seed", "right"),
        ("seconds", "right"),
        ("ended by", "left"),
        ("verdict", "left"),
        ("who", "left"),
        ("hypothesis", "left"),
    ):
        # Words go on in the next line where the terminal is narrow; numbers are never cut
        table.add_column(name, justify=justify, no_wrap=justify == "right", overflow="fold")
    for row in rows:
        table.add_row(
            Text(terminal(row["run"])),
            number(row["bpb"], ".4f"),
            number(row["bytes"], ",d"),
            number(row["seed"], "d"),
            number(row["seconds"], ".1f"),
            *(Text(terminal(row[key] or "-")) for key in ("status", "verdict", "who", "hypothesis")),
        )
    Console().print(table)


def print_run(root: Path, rows: list[dict]) -> None:
    """Every row of one run, and the script's difference from the run before it."""
    for row in rows:
        shown = {key: value for key, value in row.items() if key not in ("hash", "previous", "config", "run")}
        print(terminal_lines(json.dumps(shown, ensure_ascii=False)))
    trained = [row for row in rows if row["kind"] in ("run", "crash")]
    if trained and trained[-1].get("lines_added"):
        before, after = (script_lines(root, trained[-1].get(key)) for key in ("parent_code", "code"))
        for line in difflib.unified_diff(before, after, "the run before", rows[0]["run"], lineterm=""):
            print(terminal_lines(line))
