"""The experiment log: what was run, packed and scored, what was tried for which reason, and what came of it.

    golf log sync                       # rows for everything in runs/ that has none yet
    golf log note RUN --hypothesis "a wider MLP helps" --verdict discard --who agent
    golf log show | best | compare A B | plot | export --csv F | verify

Training, packing and scoring know nothing of this log. `sync` reads what they leave in runs/<id>/ and the tools call it
before they answer, so rows appear by themselves. A run whose train.log has been quiet for ten minutes without a
run.json is a crash. The scripts are kept once each as runs/scripts/<sha256>.py. tools/runs/store.py has the file
format, tools/runs/rows.py what a row may hold: a run whose files say something else is left out and named, once.

Not covered: runs outside runs/; what a run did between two syncs, where a folder was used twice.
"""

import argparse
import csv
import datetime
import difflib
import hashlib
import io
import json
import os
import re
import sqlite3
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from golf.files import ROOT, Failure, explain, read_metrics, sha256_file, write_atomic
from golf.foreign import spreadsheet, terminal, terminal_lines
from tools.runs import rows
from tools.runs.store import COLUMNS, Ledger

QUIET_SECONDS = 600  # without a line in train.log: longer than any compilation seen, then the run counts as crashed
NOT_THE_VARIANT = ("seed", "run_dir", "data_dir")  # fields in which runs of one variant may differ
FROM_RUN = (
    "track",
    "preset",
    "seed",
    "world_size",
    "config",
    "environment",
    "clock",
    "steps",
    "tokens",
    "params",
    "train_loss",
    "dev_bpb",
    "stopped",
)
CURVES = ("loss", "dev_bpb", "tokens_per_second", "lr_scale")  # columns of metrics.jsonl that are exported


def variant_of(code: str, config: dict, data: str | None) -> str:
    """12 hex digits: the same script, config (seed and folders aside) and data give the same variant."""
    fields = {key: value for key, value in config.items() if key not in NOT_THE_VARIANT}
    return hashlib.sha256(json.dumps([code, fields, data], sort_keys=True).encode()).hexdigest()[:12]


def script_in_log(log: Path) -> bytes | None:
    """The script at the head of train.log, up to the line `# source_sha256 HEX` that fits it; None if there is none."""
    data = log.read_bytes()
    for match in re.finditer(rb"\n# source_sha256 ([0-9a-f]{64})\n", data):
        if hashlib.sha256(data[: match.start()]).hexdigest().encode() == match[1]:
            return data[: match.start()]
    return None


def changed_lines(before: bytes, after: bytes) -> tuple[int, int]:
    """(added, removed) lines of a diff."""
    lines = list(
        difflib.unified_diff(
            before.decode(errors="replace").splitlines(), after.decode(errors="replace").splitlines(), n=0
        )
    )[2:]
    return sum(line.startswith("+") for line in lines), sum(line.startswith("-") for line in lines)


def read_left(path: Path) -> dict:
    """The JSON object that a run left in `path`, with null for NaN and infinities: a run that diverged has a row."""
    try:
        value = json.loads(path.read_bytes(), parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise Failure(f"{path.name}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise Failure(f"{path.name}: expected a JSON object, found a {type(value).__name__}")
    return value


def item(value: object, key: str) -> object:
    """value[key] if `value` is an object that has it, else None."""
    return value.get(key) if isinstance(value, dict) else None


def checked(row: dict) -> dict:
    """The row. Failure, naming field and value, if it holds what a row of the log may not hold."""
    if wrong := rows.fault(row):
        raise Failure(f"{row['kind']}: {wrong}")
    return row


class Scan:
    """One pass over runs/: the rows that the ledger lacks. Used under the ledger's lock."""

    def __init__(self, ledger: Ledger, database: sqlite3.Connection, ended: Path | None):
        self.ledger, self.database, self.ended = ledger, database, ended
        self.rows: list[dict] = []
        self.seen = {row["path"]: (row["mtime_ns"], row["size"]) for row in database.execute("SELECT * FROM seen")}
        last = database.execute(
            "SELECT body FROM rows WHERE kind IN ('run', 'crash') ORDER BY n DESC LIMIT 1"
        ).fetchone()
        self.parent = json.loads(last["body"])["code"] if last else None

    def known(self, run: str, kind: str, sha256: str) -> bool:
        """Whether this run has a row of this kind for this content of its file."""
        rows = self.database.execute("SELECT body FROM rows WHERE run = ? AND kind = ?", (run, kind))
        return any(json.loads(row["body"])["file_sha256"] == sha256 for row in rows)

    def fresh(self, path: Path) -> bool:
        """Whether the file is there and was not looked at before with this size and time."""
        try:
            stat = path.stat()
        except OSError:
            return False
        key = f"{path.parent.name}/{path.name}"
        if self.seen.get(key) == (stat.st_mtime_ns, stat.st_size):
            return False
        self.database.execute("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", (key, stat.st_mtime_ns, stat.st_size))
        return True

    def code(self, folder: Path) -> dict:
        """Hash of the run's script and how far it is from the run before; keeps the script."""
        log = folder / "train.log"
        source = script_in_log(log) if log.is_file() else None
        if source is None:
            return {"code": None, "parent_code": self.parent, "lines_added": None, "lines_removed": None}
        scripts = self.ledger.runs / "scripts"
        scripts.mkdir(exist_ok=True)
        code = hashlib.sha256(source).hexdigest()
        if not (scripts / f"{code}.py").exists():
            write_atomic(scripts / f"{code}.py", source)
        before = scripts / f"{self.parent}.py"
        added, removed = changed_lines(before.read_bytes(), source) if before.exists() else (None, None)
        row = {"code": code, "parent_code": self.parent, "lines_added": added, "lines_removed": removed}
        self.parent = code
        return row

    def folder(self, folder: Path) -> None:
        """Collects the rows of one run's folder. Failure if one of its files holds what a row cannot."""
        if not rows.is_folder(folder.name):
            raise Failure(f"run should be {rows.FOLDER.words}")
        done, log = folder / "run.json", folder / "train.log"
        if done.exists():
            if self.fresh(done) and not self.known(folder.name, "run", sha256_file(done)):
                self.rows.append(self.run_row(folder, done))
        elif log.exists() and (folder == self.ended or time.time() - log.stat().st_mtime > QUIET_SECONDS):
            if self.fresh(log) and not self.known(folder.name, "crash", sha256_file(log)):
                self.rows.append(self.crash_row(folder, log))
        artifact, score = folder / "model.golf", folder / "eval.json"
        if self.fresh(artifact):
            sha256 = sha256_file(artifact)
            if not self.known(folder.name, "pack", sha256):
                self.rows.append(
                    {
                        "kind": "pack",
                        "run": folder.name,
                        "file_sha256": sha256,
                        "artifact": sha256,
                        "bytes": artifact.stat().st_size,
                    }
                )
        if self.fresh(score) and not self.known(folder.name, "score", sha256_file(score)):
            self.rows.append(self.score_row(folder, score))

    def run_row(self, folder: Path, done: Path) -> dict:
        """The row of a run that has ended, from its run.json."""
        run = read_left(done)
        row = checked(
            {
                "kind": "run",
                "run": folder.name,
                "file_sha256": sha256_file(done),
                **{key: run.get(key) for key in FROM_RUN},
                "data": item(run.get("data"), "manifest_sha256"),
                "seconds": run.get("training_seconds"),
                "finished": done.stat().st_mtime,
            }
        )
        code = self.code(folder)
        return (
            row
            | code
            | {
                "source_matches": code["code"] == run.get("source_sha256"),
                "variant": variant_of(code["code"] or "", row["config"], row["data"]),
            }
        )

    def crash_row(self, folder: Path, log: Path) -> dict:
        """The row of a run that stopped without a run.json, from its log."""
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        config = next((line for line in lines if line.startswith("config {")), "config {}")
        try:
            config = json.loads(config.removeprefix("config "))
        except ValueError:
            config = {}
        row = checked(
            {
                "kind": "crash",
                "run": folder.name,
                "file_sha256": sha256_file(log),
                "config": config,
                **{key: config.get(key) for key in ("track", "preset", "seed")},
                "last_line": lines[-1][:200] if lines else "",
                "finished": log.stat().st_mtime,
            }
        )
        return row | self.code(folder)

    def score_row(self, folder: Path, score: Path) -> dict:
        """The row of a score, from its eval.json."""
        result = read_left(score)
        slices = result.get("slices", {})
        if isinstance(slices, dict):
            slices = {name: item(part, "bpb") for name, part in slices.items()}
        return checked(
            {
                "kind": "score",
                "run": folder.name,
                "file_sha256": sha256_file(score),
                "bpb": result.get("bpb"),
                "scope": result.get("scope"),
                "artifact": item(result.get("artifact"), "sha256"),
                "split": item(result.get("data"), "split"),
                "docs": item(result.get("data"), "docs_sha256"),
                "bpb_interval": result.get("bpb_interval"),
                "clock": result.get("clock"),
                "slices": slices,
            }
        )


def progress(items: Collection, what: str) -> Iterator:
    """Yields the items. If that takes longer than a second, a terminal on stderr shows a bar with the time left."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task, begin = bar.add_task(terminal(what), total=len(items), visible=False), time.monotonic()
        for item in items:
            yield item
            bar.update(task, advance=1, visible=time.monotonic() > begin + 1)


def sync(root: Path, ended: Path | None = None) -> list[dict]:
    """Adds the rows that root/runs has none for; returns them. `ended`: a run's folder whose process is gone.

    A folder that cannot be read, or whose files hold what a row cannot, is left out and named on stderr: a broken run
    must not hide the others. It is named again when its files change.
    """
    if not (root / "runs").is_dir():
        return []
    ledger = Ledger(root / "runs")
    with ledger.locked(), ledger.index() as database:
        scan = Scan(ledger, database, ended)
        folders = [path for path in (root / "runs").iterdir() if path.is_dir() and path.name != "scripts"]
        for folder in progress(sorted(folders, key=lambda path: path.stat().st_mtime), "reading runs"):
            try:
                scan.folder(folder)
            except (Failure, OSError, RecursionError) as error:
                print(f"golf log: left out {terminal(folder.name, 100)}: {terminal(str(error))}", file=sys.stderr)
        rows = ledger.append(scan.rows) if scan.rows else []
        database.commit()
    return rows


def note(root: Path, run: str, values: dict) -> dict:
    """Adds a row of what a person or an agent says about a run; the run may still be planned."""
    ledger = Ledger(root / "runs")
    with ledger.locked():
        with ledger.index():  # Failure if a row that was there is damaged: nothing may be written after it
            pass
        return ledger.append([{"kind": "note", "run": run, **values}])[0]


def query(root: Path, text: str, values: tuple = ()) -> list[dict]:
    """Rows of the index as dicts."""
    if not (root / "runs").is_dir():
        raise Failure("no runs/ here: nothing was logged yet")
    with Ledger(root / "runs").index() as database:
        return [dict(row) for row in database.execute(text, values)]


def best(root: Path, track: str | None, count: int) -> list[dict]:
    """The `count` runs with the lowest dev score whose scored artifact is the packed one."""
    return query(
        root,
        "SELECT * FROM runs WHERE bpb IS NOT NULL AND (?1 IS NULL OR track = ?1) ORDER BY bpb, finished LIMIT ?2",
        (track, count),
    )


def variants(root: Path, track: str, seeds: list[int]) -> dict:
    """How many variants of a track the log holds: {"tried", "rivals"}.

    Rivals could have been shown in place of the one with these seeds: they have a number (of the training script or of
    the scorer) on one of these seeds, or on as many seeds. A search on other seeds adds no rivals: it chose, and the
    claim was then made on new seeds.
    """
    rows = query(
        root,
        "SELECT variant, seed FROM runs WHERE track = ? AND variant IS NOT NULL AND "
        "(bpb IS NOT NULL OR dev_bpb IS NOT NULL)",
        (track,),
    )
    by_variant: dict[str, set] = {}
    for row in rows:
        by_variant.setdefault(row["variant"], set()).add(row["seed"])
    rivals = [name for name, used in by_variant.items() if used & set(seeds) or len(used) >= len(set(seeds))]
    return {"tried": len(by_variant), "rivals": len(rivals)}


def rows_of(root: Path, run: str) -> list[dict]:
    """All rows of a run, oldest first. Failure, with the nearest names, if there are none."""
    rows = [json.loads(row["body"]) for row in query(root, "SELECT body FROM rows WHERE run = ? ORDER BY n", (run,))]
    if not rows:
        names = [row["run"] for row in query(root, "SELECT run FROM runs")]
        near = difflib.get_close_matches(run, names, n=1)
        raise Failure(f"no row of a run {run!r}" + (f": did you mean {terminal(near[0])}?" if near else ""))
    return rows


def script_lines(root: Path, code: str | None) -> list[str]:
    """The lines of a script that the log keeps; none if it does not."""
    path = root / "runs" / "scripts" / f"{code}.py"
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []


def compare(root: Path, first: str, second: str) -> dict:
    """What differs between two runs: fields of the config, lines of the script, numbers."""
    trained = [
        next((row for row in reversed(rows_of(root, run)) if row["kind"] in ("run", "crash")), None)
        for run in (first, second)
    ]
    if None in trained:
        raise Failure(f"{(first, second)[trained.index(None)]}: it was never trained, so there is nothing to compare")
    a, b = (row["config"] for row in trained)
    codes = [row.get("code") for row in trained]
    diff = (
        ""
        if codes[0] == codes[1]
        else "".join(
            f"{line}\n"
            for line in difflib.unified_diff(*(script_lines(root, code) for code in codes), first, second, lineterm="")
        )
    )
    numbers = [query(root, "SELECT * FROM runs WHERE run = ?", (run,))[0] for run in (first, second)]
    return {
        "config": {key: [a.get(key), b.get(key)] for key in sorted({**a, **b}) if a.get(key) != b.get(key)},
        "numbers": {key: [row[key] for row in numbers] for key in COLUMNS if key != "config"},
        "diff": diff,
    }


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
        table.add_column(name, justify=justify, no_wrap=name != "hypothesis")
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


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; exits with 2 on bad usage."""
    parser = argparse.ArgumentParser(prog="golf log", description="The experiment log of runs/.")
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--json", action="store_true", help="end with one JSON object")
        return command

    add("sync", "add rows for runs, packs and scores that have none")
    add("verify", "read every row; exit with 1 if one was edited, moved or removed")
    command = add("note", "write down a hypothesis or a verdict")
    command.add_argument("run")
    command.add_argument("--hypothesis", help="what should get better, and why, in one sentence")
    command.add_argument("--verdict", choices=("keep", "discard", "crash"))
    command.add_argument("--who", choices=("person", "agent", "both"), required=True)
    command = add("show", "the latest runs, or everything about one")
    command.add_argument("run", nargs="?")
    command.add_argument("--count", type=int, default=20)
    command = add("best", "the lowest dev scores")
    command.add_argument("--track", choices=("pocket", "16mb", "open"))
    command.add_argument("--count", type=int, default=10)
    command = add("compare", "config, script and numbers of two runs")
    command.add_argument("first")
    command.add_argument("second")
    command = add("plot", "dev bpb over the runs as a PNG")
    command.add_argument("--out", type=Path, default=ROOT / "runs" / "ledger.png")
    command = add("export", "the runs as CSV, or their curves for TensorBoard or trackio")
    kinds = command.add_mutually_exclusive_group(required=True)
    kinds.add_argument("--csv", type=Path, metavar="FILE")
    kinds.add_argument("--tensorboard", type=Path, metavar="DIR")
    kinds.add_argument("--trackio", type=Path, metavar="DIR", help="then: TRACKIO_DIR=DIR trackio show --project golf")
    return parser.parse_args(argv)


def run_command(options: argparse.Namespace) -> dict:
    """Does what was asked, prints it, and returns what --json shows."""
    if options.command == "verify":
        count, last = Ledger(ROOT / "runs").verify()
        print(f"{count} rows, all as they were written; the last hash is {last}")
        skipped = [row["n"] for row in query(ROOT, "SELECT n FROM rows WHERE kind IS NULL ORDER BY n")]
        if skipped:
            print(f"rows that cannot be used and are skipped: {', '.join(map(str, skipped))}")
        return {"rows": count, "last_hash": last, "skipped": skipped}
    if options.command == "note":
        if not (options.hypothesis or options.verdict):
            raise Failure("a note needs --hypothesis or --verdict", code=2)
        if not options.hypothesis:  # a verdict is on something that the log knows: a misspelt name is not
            sync(ROOT)
            rows_of(ROOT, options.run)
        row = note(ROOT, options.run, {key: getattr(options, key) for key in ("hypothesis", "verdict", "who")})
        print(f"row {row['n']}: {terminal(options.run)}")
        return {"row": row}
    new = sync(ROOT)
    if options.command == "sync":
        print(f"{len(new)} new rows" + "".join(f"\n{row['n']:6} {row['kind']:6} {terminal(row['run'])}" for row in new))
        return {"rows": new}
    if options.command == "show" and options.run:
        rows = rows_of(ROOT, options.run)
        print_run(ROOT, rows)
        return {"rows": rows}
    if options.command == "compare":
        result = compare(ROOT, options.first, options.second)
        for part in ("numbers", "config"):
            for key, (a, b) in result[part].items():
                if a != b:
                    print(f"{terminal(key):>20}  {terminal(a)}  ->  {terminal(b)}")
        print(terminal_lines(result["diff"]) or "the scripts are the same")
        return result
    if options.command == "best":
        runs = best(ROOT, options.track, options.count)
    else:
        runs = query(
            ROOT,
            "SELECT * FROM runs ORDER BY finished DESC"
            + (f" LIMIT {options.count}" if options.command == "show" else ""),
        )
    if options.command == "plot":
        plot(runs, options.out)
        print(options.out)
    elif options.command == "export":
        if options.csv:
            export_csv(runs, options.csv)
        elif options.tensorboard:
            export_tensorboard(ROOT, runs, options.tensorboard)
        else:
            export_trackio(ROOT, runs, options.trackio)
        print(options.csv or options.tensorboard or options.trackio)
    else:
        print_runs(runs)
    return {"runs": runs}


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 when a row was edited or the input is bad."""
    options = parse(argv)
    try:
        result = run_command(options)
    except (Failure, OSError) as error:
        return explain("golf log", error)
    if options.json:
        print(json.dumps({"format": 1, **result}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
