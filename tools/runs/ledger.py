"""The experiment log: what was run, packed and scored, what was tried for which reason, and what came of it.

    golf log sync                       # rows for everything in runs/ that has none yet
    golf log note RUN --hypothesis "a wider MLP helps" --verdict discard --who agent
    golf log show | best | compare A B | plot | export --csv F | verify

Training, packing and scoring know nothing of this log. `sync` reads what they leave in runs/<id>/ and the tools call it
before they answer, so rows appear by themselves. A run without a run.json is a crash once its train.log has been quiet
for ten minutes and no process holds it locked. The scripts are kept once each as runs/scripts/<sha256>.py.
tools/runs/store.py has the file format, tools/runs/rows.py what a row may hold: a run whose files say something else is
left out and named, once.

Not covered: runs outside runs/; what a run did between two syncs, where a folder was used twice.
"""

import argparse
import difflib
import hashlib
import json
import sqlite3
import sys
from pathlib import Path

from golf.console import guarded
from golf.files import MAX_TEXT_BYTES, ROOT, Failure, explain, read_bytes, sha256_file, write_atomic
from golf.foreign import terminal, terminal_lines
from golf.progress import track
from golf.tracks import TRACKS
from tools.runs import rows
from tools.runs.export import (
    DIFF_LINES,
    export_csv,
    export_tensorboard,
    export_trackio,
    plot,
    print_run,
    print_runs,
    script_lines,
)
from tools.runs.folder import config_in, head, is_crashed, last_lines, script_in
from tools.runs.store import COLUMNS, Ledger, body_of

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


def variant_of(code: str, config: dict, data: str | None) -> str:
    """12 hex digits: the same script, config (seed and folders aside) and data give the same variant."""
    fields = {key: value for key, value in config.items() if key not in NOT_THE_VARIANT}
    return hashlib.sha256(json.dumps([code, fields, data], sort_keys=True).encode()).hexdigest()[:12]


def changed_lines(before: bytes, after: bytes) -> tuple[int, int] | tuple[None, None]:
    """(added, removed) lines of a diff; None for scripts so long that comparing them takes minutes."""
    sides = [source.decode(errors="replace").splitlines() for source in (before, after)]
    if max(map(len, sides)) > DIFF_LINES:
        return None, None
    lines = list(difflib.unified_diff(*sides, n=0))[2:]
    return sum(line.startswith("+") for line in lines), sum(line.startswith("-") for line in lines)


def read_left(path: Path) -> dict:
    """The JSON object that a run left in `path`, with null for NaN and infinities: a run that diverged has a row."""
    try:
        value = json.loads(read_bytes(path, MAX_TEXT_BYTES), parse_constant=lambda _: None)
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
        self.parent = body_of(last)["code"] if last else None

    def known(self, run: str, kind: str, sha256: str) -> bool:
        """Whether this run has a row of this kind for this content of its file."""
        rows = self.database.execute("SELECT body FROM rows WHERE run = ? AND kind = ?", (run, kind))
        return any(body_of(row)["file_sha256"] == sha256 for row in rows)

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
        source = script_in(head(log)) if log.exists() else None
        if source is None:
            return {"code": None, "parent_code": self.parent, "lines_added": None, "lines_removed": None}
        scripts = self.ledger.runs / "scripts"
        if scripts.is_symlink():
            raise Failure(f"{scripts}: a symbolic link: scripts are not written through it: remove it")
        scripts.mkdir(exist_ok=True)
        code = hashlib.sha256(source).hexdigest()
        if not (scripts / f"{code}.py").exists():
            write_atomic(scripts / f"{code}.py", source)
        before = scripts / f"{self.parent}.py"
        added, removed = changed_lines(read_bytes(before), source) if before.exists() else (None, None)
        row = {"code": code, "parent_code": self.parent, "lines_added": added, "lines_removed": removed}
        self.parent = code
        return row

    def folder(self, folder: Path) -> None:
        """Collects the rows of one run's folder. Failure if one of its files holds what a row cannot."""
        if not rows.is_folder(folder.name):
            raise Failure(f"run should be {rows.FOLDER.words}")
        done, log = folder / "run.json", folder / "train.log"
        if done.exists():
            if self.fresh(done) and not self.known(folder.name, "run", sha256_file(done, MAX_TEXT_BYTES)):
                self.rows.append(self.run_row(folder, done))
        elif log.exists() and (folder == self.ended or is_crashed(log, log.stat().st_mtime)):
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
        if self.fresh(score) and not self.known(folder.name, "score", sha256_file(score, MAX_TEXT_BYTES)):
            self.rows.append(self.score_row(folder, score))

    def run_row(self, folder: Path, done: Path) -> dict:
        """The row of a run that has ended, from its run.json."""
        run = read_left(done)
        row = checked(
            {
                "kind": "run",
                "run": folder.name,
                "file_sha256": sha256_file(done, MAX_TEXT_BYTES),
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
                "variant": variant_of(code["code"] or "", row["config"] or {}, row["data"]),
            }
        )

    def crash_row(self, folder: Path, log: Path) -> dict:
        """The row of a run that stopped without a run.json, from its log."""
        config = config_in(head(log))
        lines = [line for line in last_lines(log) if line]
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
                "file_sha256": sha256_file(score, MAX_TEXT_BYTES),
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
        for folder in track(sorted(folders, key=lambda path: path.stat().st_mtime), "reading runs", unit="folders"):
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


def last_hash(root: Path) -> str | None:
    """The hash of the log's last row, after reading all; None for a log without rows. Failure if one was edited."""
    return Ledger(root / "runs").verify()[1] or None


def rows_of(root: Path, run: str) -> list[dict]:
    """All rows of a run, oldest first. Failure, with the nearest names, if there are none."""
    rows = [body_of(row) for row in query(root, "SELECT body FROM rows WHERE run = ? ORDER BY n", (run,))]
    if not rows:
        names = [row["run"] for row in query(root, "SELECT run FROM runs")]
        near = difflib.get_close_matches(run, names, n=1)
        raise Failure(f"no row of a run {run!r}" + (f": did you mean {terminal(near[0])}?" if near else ""))
    return rows


def compare(root: Path, first: str, second: str) -> dict:
    """What differs between two runs: fields of the config, lines of the script, numbers."""
    trained = [
        next((row for row in reversed(rows_of(root, run)) if row["kind"] in ("run", "crash")), None)
        for run in (first, second)
    ]
    if None in trained:
        raise Failure(f"{(first, second)[trained.index(None)]}: it was never trained, so there is nothing to compare")
    a, b = (row.get("config") or {} for row in trained)
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
    command.add_argument("--track", choices=tuple(TRACKS))
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
        skipped = []
        if count:
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
    if not (ROOT / "runs").is_dir() and options.command in ("best", "show") and not getattr(options, "run", None):
        print("nothing was logged yet")
        return {"runs": []}
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
    sys.exit(guarded("golf log", main))
