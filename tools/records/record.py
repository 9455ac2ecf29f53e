"""Makes a record's folder from finished runs, and draws the seeds that those runs must have.

    golf record seeds --commit HEAD --count 3
    golf record make --track pocket --number 0001 --slug baseline --title "..." --idea "..." \\
        --author NAME --agent-help none --seed-commit COMMIT RUN [RUN ...]

`make` recomputes what it can (hashes, sizes, seeds, the source in the log) and refuses runs that differ in more than
the seed. What the runs hold is a stranger's: their JSON goes through the schemas of docs/; their script is read, never
run. Not covered: scoring again, significance against the parent; it believes run.json's clock and eval.json's bpb.
"""

import argparse
import contextlib
import datetime
import difflib
import hashlib
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from golf import schema, script
from golf.files import ROOT, Failure, check_plain, explain, read_bytes, read_metrics, sha256_file, write_json
from golf.foreign import markdown, terminal
from golf.tracks import TRACKS
from tools.records import references
from tools.runs import curves, ledger
from tools.runs.export import DIFF_LINES

COMMITTED_BYTES = 1_000_000  # a larger artifact is named by its hash and not committed


def draw_seeds(commit: str, count: int) -> list[int]:
    """The first `count` seeds of a full commit hash. Nobody picks a seed: the commit that holds the script does."""
    return [int(hashlib.sha256(f"{commit}:{i}".encode()).hexdigest()[:8], 16) % 2**31 for i in range(count)]


def full_hash(commit: str) -> str:
    """The full hash of a commit of this repository."""
    done = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise Failure(f"{commit!r} names no commit of {ROOT}")
    return done.stdout.strip()


@dataclass
class Run:
    """One seed of the experiment, with its files read and checked."""

    folder: Path
    run: dict
    score: dict
    source: bytes
    artifact_sha256: str
    artifact_bytes: int

    @property
    def config(self) -> dict:
        """Every field but those in which the seeds of one experiment differ."""
        return {key: value for key, value in self.run["config"].items() if key not in ("seed", "run_dir")}

    def row(self) -> dict:
        """This seed's row in record.json."""
        return {
            "seed": self.run["seed"],
            "bpb": self.score["bpb"],
            "artifact_bytes": self.artifact_bytes,
            "train_seconds": self.run["training_seconds"],
            "steps": self.run["steps"],
            "tokens": self.run["tokens"],
        }


def source_in_log(log: Path, sha256: str) -> bytes:
    """The script at the head of train.log: the beginning of the file whose hash is `sha256`, found line by line."""
    digest, length = hashlib.sha256(), 0
    data = read_bytes(log)[: script.MAX_BYTES]
    for line in data.splitlines(keepends=True):
        for part in (line.rstrip(b"\n"), line):  # the script's last line may or may not have ended in a newline
            whole = digest.copy()
            whole.update(part)
            if whole.hexdigest() == sha256:
                return data[: length + len(part)]
        digest.update(line)
        length += len(line)
    raise Failure(f"{log}: its head is not the script whose sha256 run.json gives ({sha256[:12]}...)")


def read_run(folder: Path) -> Run:
    """Reads one run's folder; Failure says which file is missing or contradicts another."""
    missing = [
        name
        for name in ("run.json", "model.golf", "eval.json", "train.log", "metrics.jsonl")
        if not (folder / name).is_file()
    ]
    if missing:
        raise Failure(f"{folder}: no {', '.join(missing)}: train, pack and score the run first")
    run = schema.read(folder / "run.json", "run")
    score = schema.read(folder / "eval.json", "eval")
    artifact = read_bytes(folder / "model.golf")
    sha256 = hashlib.sha256(artifact).hexdigest()
    if score["artifact"]["sha256"] != sha256:
        raise Failure(f"{folder}: eval.json scored another artifact than model.golf: score it again")
    if score["data"]["manifest_sha256"] != run["data"]["manifest_sha256"]:
        raise Failure(f"{folder}: trained and scored on different data (the manifests' hashes differ)")
    return Run(folder, run, score, source_in_log(folder / "train.log", run["source_sha256"]), sha256, len(artifact))


def check_same(runs: list[Run], what: str, values: list) -> None:
    """Raises Failure, naming the first run that differs, unless all values are equal."""
    for run, value in zip(runs, values):
        if value == values[0]:
            continue
        if isinstance(value, dict):
            differing = [key for key in sorted({**value, **values[0]}) if value.get(key) != values[0].get(key)]
            what = f"{what} ({', '.join(map(terminal, differing))})"
        raise Failure(f"{run.folder}: not the same {what} as {runs[0].folder}: a record is one experiment")


def check_runs(runs: list[Run], track: str, seed_commit: str) -> None:
    """Raises Failure unless the runs are seeds of one experiment on `track`, within its limits, with drawn seeds."""
    for run in runs:
        if run.run["track"] != track:
            raise Failure(f"{run.folder}: trained for the {run.run['track']} track, not for {track}")
        limits = TRACKS[track]
        if run.artifact_bytes > limits.cap_bytes:
            raise Failure(f"{run.folder}: model.golf has {run.artifact_bytes:,} bytes, the cap is {limits.cap_bytes:,}")
        seconds = run.run["training_seconds"]
        if limits.training_seconds is not None and seconds > limits.training_seconds:
            raise Failure(f"{run.folder}: trained for {seconds} s, the clock is {limits.training_seconds} s")
    check_same(runs, "script", [run.run["source_sha256"] for run in runs])
    check_same(runs, "config", [run.config for run in runs])
    check_same(runs, "world size", [run.run["world_size"] for run in runs])
    check_same(runs, "scope", [run.score["scope"] for run in runs])
    check_same(runs, "held-out data", [run.score["data"] for run in runs])
    seeds = [run.run["seed"] for run in runs]
    if len(set(seeds)) != len(seeds):
        raise Failure(f"two runs have the same seed: {', '.join(map(str, sorted(seeds)))}")
    drawn = draw_seeds(seed_commit, len(runs))
    if set(seeds) != set(drawn):
        raise Failure(
            f"the seeds are {', '.join(map(str, seeds))}, but commit {seed_commit[:12]} draws "
            f"{', '.join(map(str, drawn))} (golf record seeds)"
        )


def overrides(source: bytes, run: dict) -> list[str]:
    """The `--field=value` arguments that turn the script's preset into the run's config (seed and run_dir aside)."""
    preset = script.read(source, run["preset"])
    return [
        f"--{key}={value}"
        for key, value in run["config"].items()
        if key not in ("seed", "run_dir", "preset") and preset.get(key) != value
    ]


def source_lines(path: Path, source: bytes) -> list[str]:
    """The lines of a script, with their ends. Failure if it is not UTF-8, or so long that comparing takes minutes."""
    try:
        lines = source.decode().splitlines(keepends=True)
    except UnicodeDecodeError as error:
        raise Failure(f"{path}: not UTF-8: {error.reason} at byte {error.start:,}") from None
    if len(lines) > DIFF_LINES:
        raise Failure(f"{path}: {len(lines):,} lines: at most {DIFF_LINES:,} are compared with the parent")
    return lines


def parent_diff(parent: Path | None, name: str, source: bytes) -> str:
    """Unified diff from the parent's train_gpt.py, or its reference where that is nearer (references.py), as `patch`
    reads it; empty without a parent."""
    if parent is None:
        return ""
    after = source_lines(Path(name) / "train_gpt.py", source)
    start = references.start_of(parent, source)
    lines = difflib.unified_diff(
        source_lines(parent.parent.parent / start.name, start.source),
        after,
        f"a/{start.name}",
        f"b/{name}/train_gpt.py",
    )
    return "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines)


def schema_errors(record: dict) -> list[str]:
    """Where a record.json departs from docs/record.schema.json; empty if nowhere."""
    return schema.faults(record, "record")


def interval(values: list[float]) -> tuple[float, float]:
    """95% interval of the mean by Student's t; at least two values."""
    from scipy import stats

    return tuple(
        float(x)
        for x in stats.t.interval(
            0.95, len(values) - 1, loc=statistics.mean(values), scale=statistics.stdev(values) / len(values) ** 0.5
        )
    )


def readme(record: dict, name: str, run: Run, flags: list[str]) -> str:
    """The record's README.md."""
    values = [row["bpb"] for row in record["seeds"]]
    summary = f"Mean {record['bpb_mean']:.4f} bpb"
    if len(values) > 1:
        low, high = interval(values)
        summary += (
            f", standard deviation {record['bpb_sd']:.4f} (n - 1), "
            f"95% interval of the mean {low:.4f} to {high:.4f} (Student's t, df = {len(values) - 1})"
        )
    rows = "\n".join(
        f"| {r['seed']} | {r['bpb']:.4f} | {r['artifact_bytes']:,} | {r['train_seconds']:.1f} "
        f"| {r['steps']:,} | {r['tokens']:,} |"
        for r in record["seeds"]
    )
    folder, seed = f"records/{record['track']}/{name}", record["artifact"]["seed"]
    world, data, split = run.run["world_size"], run.run["data"]["dir"], record["data"]["split"]
    start = "python" if world == 1 else f"torchrun --standalone --nproc_per_node={world}"
    out = f"runs/{name}_s{seed}"
    command = f"{start} " + shlex.join(
        [f"{folder}/train_gpt.py", f"--preset={run.run['preset']}", *flags, f"--seed={seed}", f"--run_dir={out}"]
    )
    data_options = shlex.join(["--data", data, "--split", split])
    artifact = record["artifact"]
    scored = f"{folder}/{artifact['file']}" if artifact["file"] else None
    shown = f"The artifact of seed {seed}, the median, has sha256 {artifact['sha256']} and is not committed."
    if scored:
        shown = f"`{artifact['file']}` is the artifact of seed {seed}, the median."
    return f"""# {markdown(record["title"])}

{markdown(record["idea"])}

Track {record["track"]}, scope {record["scope"]}, parent {record["parent"] or "none"}; {record["date"]}, \
by {", ".join(map(markdown, record["authors"]))}; help from agents: {record["agent_help"]}.

| seed | bpb ({split}) | artifact bytes | train seconds | steps | tokens |
|---:|---:|---:|---:|---:|---:|
{rows}

{summary}. The seeds are the first {len(values)} that commit {record["seed_commit"][:12]} draws.
{shown}

![loss curves](curves.png)

## Run it again

From the root of the repository, with the environment that `make venv` builds and the data in `{data}`:

```
{command}
python -m compress pack {out}
python eval_heldout.py {out}/model.golf {data_options}
```
""" + (
        f"""
Score the artifact that lies here:

```
python eval_heldout.py {scored} {data_options}
```
"""
        if scored
        else ""
    )


def make(options: argparse.Namespace) -> dict:
    """Writes records/<track>/<number>_<slug>/ and returns its record.json. Raises Failure, leaving nothing behind."""
    name = f"{options.number}_{options.slug}"
    track_dir = ROOT / "records" / options.track
    taken = sorted(path.name for path in track_dir.glob(f"{options.number}_*"))
    if taken:
        raise Failure(f"records/{options.track}/{taken[0]} exists: records are never overwritten, take the next number")
    parent = options.parent
    if parent is not None:
        if not (parent / "train_gpt.py").is_file():
            raise Failure(f"{parent}: not a record's folder: it has no train_gpt.py")
        parent = parent.resolve()
        check_plain(parent)
    seed_commit = full_hash(options.seed_commit)
    ledger.sync(ROOT)
    runs = [read_run(Path(folder)) for folder in options.runs]
    check_runs(runs, options.track, seed_commit)
    median = sorted(runs, key=lambda run: run.score["bpb"])[(len(runs) - 1) // 2]
    drawn = draw_seeds(seed_commit, len(runs))
    runs = sorted(runs, key=lambda run: drawn.index(run.run["seed"]))
    values = [run.score["bpb"] for run in runs]
    record = {
        "format": 1,
        "track": options.track,
        "number": options.number,
        "slug": options.slug,
        "title": options.title,
        "idea": options.idea,
        "parent": parent.name if parent else None,
        "authors": options.author,
        "sources": options.source,
        "agent_help": options.agent_help,
        "date": datetime.date.today().isoformat(),
        "script_sha256": median.run["source_sha256"],
        "artifact": {
            "file": f"{options.slug}.golf" if median.artifact_bytes <= COMMITTED_BYTES else None,
            "bytes": median.artifact_bytes,
            "sha256": median.artifact_sha256,
            "seed": median.run["seed"],
        },
        "config": median.config,
        "scope": median.score["scope"],
        "data": {key: median.score["data"][key] for key in ("manifest_sha256", "split", "docs_sha256")},
        "seeds": [run.row() for run in runs],
        "seed_commit": seed_commit,
        "bpb_mean": statistics.mean(values),
        "bpb_sd": statistics.stdev(values) if len(values) > 1 else None,
        "environment": median.run["environment"],
        "variants": ledger.variants(ROOT, options.track, drawn)["tried"] if (ROOT / "runs").is_dir() else None,
    }
    rows = [read_metrics(run.folder / "metrics.jsonl") for run in runs]
    with staging() as folder:
        staged = folder / name
        write_folder(staged, record, median, runs, rows, parent)
        track_dir.mkdir(parents=True, exist_ok=True)
        os.rename(staged, track_dir / name)
    return record


@contextlib.contextmanager
def staging() -> Iterator[Path]:
    """A folder to make a record in, which is removed in the end. It lies on the file system of records/, and one level
    deeper than the records, so that nobody who looks for records/*/*/record.json finds one half made."""
    parent = ROOT / "records" / ".staging"
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # another record is being made
            parent.rmdir()


def write_folder(
    folder: Path, record: dict, median: Run, runs: list[Run], rows: list[list[dict]], parent: Path | None
) -> None:
    """Writes every file of a record, and adds their hashes to `record`. rows: metrics.jsonl of each run."""
    for name in ("logs", "eval"):
        (folder / name).mkdir(parents=True)
    (folder / "train_gpt.py").write_bytes(median.source)
    (folder / "parent.diff").write_bytes(parent_diff(parent, folder.name, median.source).encode())
    for run in runs:
        seed = run.run["seed"]
        for file, copy in (
            ("train.log", f"logs/seed{seed}.log"),
            ("run.json", f"logs/seed{seed}.run.json"),
            ("metrics.jsonl", f"logs/seed{seed}.metrics.jsonl"),
            ("eval.json", f"eval/seed{seed}.json"),
        ):
            shutil.copyfile(run.folder / file, folder / copy)
    if record["artifact"]["file"]:
        shutil.copyfile(median.folder / "model.golf", folder / record["artifact"]["file"])
    curves.draw(
        folder / "curves.png",
        f"{record['track']}/{folder.name}",
        [(f"seed {run.run['seed']}", points) for run, points in zip(runs, rows)],
    )
    record["files"] = {
        path.relative_to(folder).as_posix(): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".png"
    }
    if errors := schema_errors(record):
        raise Failure(f"the runs make no valid record: {errors[0]}")
    write_json(folder / "record.json", record)
    text = readme(record, folder.name, median, overrides(median.source, median.run))
    (folder / "README.md").write_text(text, encoding="utf-8")


def matching(pattern: str, meaning: str):
    """An argparse type: text that matches `pattern`."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"{text!r} is not {meaning}")
        return text

    return check


def count(text: str) -> int:
    """An argparse type: a whole number from 1."""
    return int(matching("[1-9][0-9]{0,3}", "a number from 1 to 9999")(text))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; exits with 2 on bad usage."""
    parser = argparse.ArgumentParser(prog="golf record", description="Draw seeds; make a record's folder from runs.")
    commands = parser.add_subparsers(dest="command", required=True)
    seeds = commands.add_parser("seeds", help="print the seeds that a commit draws")
    seeds.add_argument("--commit", default="HEAD", help="the commit that holds the script (default: %(default)s)")
    seeds.add_argument("--count", type=count, default=3, help="how many (default: %(default)s)")
    maker = commands.add_parser("make", help="write records/<track>/<number>_<slug>/")
    maker.add_argument("--track", required=True, choices=sorted(TRACKS))
    maker.add_argument("--number", required=True, type=matching("[0-9]{4}", "a number of four digits"))
    maker.add_argument("--slug", required=True, type=matching("[a-z0-9_]+", "lower-case letters, digits and _"))
    maker.add_argument("--title", required=True, type=matching(".*[^ ].*", "a line of text"))
    maker.add_argument(
        "--idea", required=True, type=matching(".*[^ ].*", "a line of text"), help="the idea in one sentence"
    )
    maker.add_argument("--parent", type=Path, help="folder of the record that this one builds on")
    maker.add_argument("--author", action="append", required=True, help="repeat it for several authors")
    maker.add_argument(
        "--source",
        action="append",
        default=[],
        type=matching(".*[^ ].*", "a line of text"),
        help="where the idea comes from: a paper, a pull request, an address; repeat it for several",
    )
    maker.add_argument(
        "--agent-help", required=True, choices=("none", "some", "most"), help="how much of it coding agents did"
    )
    maker.add_argument("--seed-commit", required=True, help="the commit that drew the seeds")
    maker.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, packed and scored; one per seed")
    for command in (seeds, maker):
        command.add_argument("--json", action="store_true", help="end with one JSON object")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 when the runs make no record."""
    options = parse(argv)
    try:
        if options.command == "seeds":
            commit = full_hash(options.commit)
            seeds = draw_seeds(commit, options.count)
            print(*seeds, sep="\n")
            result = {"format": 1, "commit": commit, "seeds": seeds}
        else:
            result = make(options)
            spread = "" if result["bpb_sd"] is None else f" (standard deviation {result['bpb_sd']:.4f})"
            print(
                f"records/{options.track}/{options.number}_{options.slug}: {result['bpb_mean']:.4f} bpb{spread}, "
                f"{len(result['seeds'])} seeds; now run golf board"
            )
    except (Failure, OSError) as error:
        return explain("golf record", error)
    if options.json:
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
