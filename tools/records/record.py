"""Makes a record's folder from finished runs, and draws the seeds that those runs must have.

    golf record seeds --commit HEAD --count 3
    golf record make --track pocket --number 0007 --slug wider --title "..." --idea "..." --parent PARENT \\
        --author NAME --agent-help none --seed-commit COMMIT --par par.json RUN [RUN ...]
    golf record publish records/pocket/0007_wider --hub OWNER/NAME

`make` recomputes what it can (hashes, sizes, seeds, the source in the log) and refuses runs that differ in more than
the seed. What the runs hold is a stranger's: their JSON goes through the schemas of docs/; their script is read, never
run. tools/records/publish.py has the uploads. Not covered: scoring again, significance against the parent, timing the
script beside record 0001's; it believes run.json's tokens and clock, eval.json's bpb and the file of `golf par`.
"""

import argparse
import contextlib
import datetime
import difflib
import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from golf import folders, schema, script
from golf.console import guarded
from golf.files import (
    MAX_SETTINGS_BYTES,
    ROOT,
    Failure,
    check_plain,
    decoded,
    explain,
    parse_json,
    read_bytes,
    read_metrics,
    read_text,
    sha256_file,
    sync,
    write_json,
)
from golf.foreign import terminal
from golf.tracks import DATA_SETS, RULES_VERSION, TRACKS, rules_of
from tools.records import artifacts, publish, readme, references
from tools.runs import curves, ledger
from tools.runs.export import DIFF_LINES

COMMITTED_BYTES = 1_000_000  # a larger artifact is not committed but published on the hub


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

    @property
    def is_small(self) -> bool:
        """Whether the artifact is committed."""
        return self.artifact_bytes <= COMMITTED_BYTES

    def row(self) -> dict:
        """This seed's row in record.json."""
        return {
            "seed": self.run["seed"],
            "bpb": self.score["bpb"],
            "artifact_bytes": self.artifact_bytes,
            "train_seconds": self.run["training_seconds"],
            "steps": self.run["steps"],
            "tokens": self.run["tokens"],
            "artifact_file": artifacts.artifact_file(self.run["seed"]) if self.is_small else None,
            "artifact_sha256": self.artifact_sha256,
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


def check_runs(runs: list[Run], track: str, seed_commit: str, par: dict | None) -> None:
    """Raises Failure unless the runs are seeds of one experiment on `track`, within its limits, with drawn seeds."""
    for run in runs:
        if run.run["track"] != track:
            raise Failure(f"{run.folder}: trained for the {run.run['track']} track, not for {track}")
        limits = TRACKS[track]
        if run.artifact_bytes > limits.cap_bytes:
            raise Failure(f"{run.folder}: model.golf has {run.artifact_bytes:,} bytes, the cap is {limits.cap_bytes:,}")
        if par is not None:
            check_tokens(run, track, par)
        elif limits.training_seconds is not None and run.run["training_seconds"] > limits.training_seconds:
            raise Failure(
                f"{run.folder}: trained for {run.run['training_seconds']} s, the clock is {limits.training_seconds} s"
            )
        if limits.gpus and run.run["world_size"] > limits.gpus:
            raise Failure(f"{run.folder}: trained on {run.run['world_size']} GPUs, the track has {limits.gpus}")
        check_data(run, track)
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


def check_tokens(run: Run, track: str, par: dict) -> None:
    """Raises Failure unless the run ended by a number of tokens or steps, and within what its speed allows."""
    allowed, tokens = TRACKS[track].allowed_tokens(par["low"]), run.run["tokens"]
    config = run.run["config"]
    ends = [config.get(name) for name in ("max_tokens", "max_steps")]
    if config.get("max_seconds") != 0 or not any(isinstance(end, int) and end > 0 for end in ends):
        raise Failure(
            f"{run.folder}: ended by a clock on the wall (max_seconds is {terminal(config.get('max_seconds'), 20)}): "
            f"on {track} a run ends by tokens: train with --max_seconds=0 --max_tokens={allowed}"
        )
    if tokens > allowed:
        raise Failure(
            f"{run.folder}: trained on {tokens:,} tokens, but r = {par['low']:.4g} (the lower end of `golf par`) "
            f"allows {TRACKS[track].par_tokens:,} x r = {allowed:,}: train with --max_tokens={allowed} at most"
        )


def check_data(run: Run, track: str) -> None:
    """Raises Failure unless the run's data set is one of the track's, where the track names them."""
    known, found = DATA_SETS.get(track), run.run["data"]["manifest_sha256"]
    if known is not None and found not in known.values():
        raise Failure(
            f"{run.folder}: trained on a data set (manifest {terminal(found, 12)}) that is none of the {track} "
            f"track's, {' and '.join(known)}: build one with golf data, or first add yours to golf/tracks.py"
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
    lines = decoded(path, source).splitlines(keepends=True)
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


def read_par(path: Path | None, track: str) -> dict | None:
    """What `golf par SCRIPT --json` printed into a file, of which the last line counts; None where the track needs
    none. Failure if it is missing there, not wanted here, or says something else."""
    if TRACKS[track].par_tokens is None:
        if path is not None:
            raise Failure(f"--par {path}: the {track} track has no par: its runs keep to a clock, or to none")
        return None
    if path is None:
        raise Failure(f"--par FILE: the {track} track needs it: golf par train_gpt.py --json > par.json")
    lines = read_text(path, MAX_SETTINGS_BYTES).strip().splitlines()
    try:
        par = parse_json(lines[-1] if lines else "")
    except ValueError as error:
        raise Failure(f"{path}: its last line is not JSON: {terminal(str(error), 200)}") from None
    if not isinstance(par, dict):
        raise Failure(f"{path}: its last line is no JSON object: write it with golf par train_gpt.py --json > par.json")
    if errors := schema.faults(par, "record", "par"):
        raise Failure(f"{path}: {errors[0]}: write it with golf par train_gpt.py --json > par.json")
    if not par["low"] <= par["ratio"] <= par["high"]:
        raise Failure(f"{path}: ratio {par['ratio']} is not between low {par['low']} and high {par['high']}")
    return par


def check_parent(parent: Path | None, track: str) -> None:
    """Raises Failure unless `parent` is a record's folder that a new record of the track may name. The first record of
    a track under this version of the rules may have none, or one that was made under other rules."""
    peers = [
        path.parent
        for path in sorted((ROOT / "records" / track).glob("[0-9]*/record.json"))
        if rules_of(schema.read(path, "record")) == RULES_VERSION
    ]
    if parent is None:
        if peers:
            raise Failure(f"--parent: name the record that it builds on, such as records/{track}/{peers[-1].name}")
        return
    if not (parent / "train_gpt.py").is_file():
        raise Failure(f"{parent}: not a record's folder: it has no train_gpt.py")
    check_plain(parent)
    record = schema.read(parent / "record.json", "record")
    if peers and record["track"] == track and rules_of(record) != RULES_VERSION:
        raise Failure(
            f"{parent}: made under version {record.get('rules', 1)} of the rules, with another clock: name a record of "
            f"version {RULES_VERSION}, such as records/{track}/{peers[-1].name}"
        )


def make(options: argparse.Namespace) -> dict:
    """Writes records/<track>/<number>_<slug>/ and returns its record.json. Raises Failure, leaving nothing behind."""
    with only_maker() as staging:
        return make_in(staging, options)


def make_in(staging: Path, options: argparse.Namespace) -> dict:
    """As make(), with a folder beside the records for what is half made."""
    name = f"{options.number}_{options.slug}"
    track_dir = ROOT / "records" / options.track
    taken = sorted(path.name for path in track_dir.glob(f"{options.number}_*"))
    if taken:
        raise Failure(f"records/{options.track}/{taken[0]} exists: records are never overwritten, take the next number")
    parent = options.parent and options.parent.resolve()
    check_parent(parent, options.track)
    par = read_par(options.par, options.track)
    seed_commit = full_hash(options.seed_commit)
    ledger.sync(ROOT)
    runs = [read_run(Path(folder)) for folder in options.runs]
    check_runs(runs, options.track, seed_commit, par)
    median = sorted(runs, key=lambda run: run.score["bpb"])[(len(runs) - 1) // 2]
    drawn = draw_seeds(seed_commit, len(runs))
    runs = sorted(runs, key=lambda run: drawn.index(run.run["seed"]))
    values = [run.score["bpb"] for run in runs]
    is_logged = (ROOT / "runs").is_dir()
    record = {
        "format": 2,
        "rules": RULES_VERSION,
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
            "file": artifacts.artifact_file(median.run["seed"]) if median.is_small else None,
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
        "variants": ledger.variants(ROOT, options.track, drawn)["tried"] if is_logged else None,
        "ledger_head": ledger.last_hash(ROOT) if is_logged else None,
        "par": par,
        "hub": None,
    }
    rows = [read_metrics(run.folder / "metrics.jsonl") for run in runs]
    staged = staging / name
    write_folder(staged, record, median, runs, rows, parent)
    folders.sync_tree(staged)
    track_dir.mkdir(parents=True, exist_ok=True)
    os.rename(staged, track_dir / name)
    sync(track_dir)
    return record


@contextlib.contextmanager
def only_maker() -> Iterator[Path]:
    """Nobody else makes a record in this block, which gets a folder to make one in. It lies on the file system of
    records/, and one level deeper than the records, so that nobody who looks for records/*/*/record.json finds one half
    made. What it holds goes in the end, and what a killed process left there at the beginning."""
    with folders.only_writer(ROOT / "records" / ".staging") as parent:
        shutil.rmtree(parent, ignore_errors=True)
        try:
            folder = parent / "new"
            folder.mkdir(parents=True)
            yield folder
        finally:
            shutil.rmtree(parent, ignore_errors=True)


def write_folder(
    folder: Path, record: dict, median: Run, runs: list[Run], rows: list[list[dict]], parent: Path | None
) -> None:
    """Writes every file of a record, and adds their hashes to `record`. rows: metrics.jsonl of each run. Artifacts that
    are too large to be committed go to the cache."""
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
        if run.is_small:
            (folder / "artifacts").mkdir(exist_ok=True)
            shutil.copyfile(run.folder / "model.golf", folder / artifacts.artifact_file(seed))
        else:
            artifacts.keep(read_bytes(run.folder / "model.golf"))  # until it is published
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
    readme.write(folder, record, median.run, overrides(median.source, median.run))


def publish_record(folder: Path, repo: str) -> dict:
    """Uploads a record to a repository on the hub; returns what --json shows. Raises Failure.

    Where artifacts are too large to be committed, record.json and README.md name their place afterwards."""
    folder = folder.resolve()
    record = publish.read(folder)
    published = publish.upload_artifacts(folder, record, repo)
    update_readme(folder, record, published)
    commit = publish.upload_folder(folder, published, repo)
    address = f"hf://{repo}@{commit}/" + publish.place(published, "").rstrip("/")
    return {"format": 1, "address": address, "repo": repo, "revision": commit, "record": published}


def update_readme(folder: Path, before: dict, after: dict) -> None:
    """Writes README.md for the record `after` publication, unless somebody has edited it: their words stay."""
    run = schema.read(folder / f"logs/seed{after['artifact']['seed']}.run.json", "run")
    flags = overrides(read_bytes(folder / "train_gpt.py", script.MAX_BYTES), run)
    if read_text(folder / "README.md") == readme.text(before | {"hub": None}, folder.name, run, flags):
        readme.write(folder, after, run, flags)
    elif before != after:
        print("README.md was edited, so it stays as it is: say in it where the artifacts lie")


def report(record: dict) -> None:
    """Prints what was made, and what comes next."""
    spread = "" if record["bpb_sd"] is None else f" (standard deviation {record['bpb_sd']:.4f})"
    where = f"records/{record['track']}/{record['number']}_{record['slug']}"
    is_large = any(row["artifact_file"] is None for row in record["seeds"])
    following = f"golf record publish {where} --hub OWNER/NAME" if is_large else "golf board"
    print(f"{where}: {record['bpb_mean']:.4f} bpb{spread}, {len(record['seeds'])} seeds; now run {following}")


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
    parser = argparse.ArgumentParser(prog="golf record", description="Draw seeds; make a record; publish it.")
    commands = parser.add_subparsers(dest="command", required=True)
    seeds = commands.add_parser("seeds", help="print the seeds that a commit draws")
    seeds.add_argument("--commit", default="HEAD", help="the commit that holds the script (default: %(default)s)")
    seeds.add_argument("--count", type=count, default=3, help="how many (default: %(default)s)")
    maker = commands.add_parser("make", help="write records/<track>/<number>_<slug>/")
    maker.add_argument("--track", required=True, choices=sorted(TRACKS), help="whose rules it keeps")
    maker.add_argument("--number", required=True, type=matching("[0-9]{4}", "four digits"), help="the next free one")
    slug = matching("[a-z0-9_]+", "lower-case letters, digits and _")
    maker.add_argument("--slug", required=True, type=slug, help="what its folder is called: wider in 0007_wider")
    maker.add_argument(
        "--title", required=True, type=matching(".*[^ ].*", "a line of text"), help="its name for people"
    )
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
    maker.add_argument(
        "--par",
        type=Path,
        metavar="FILE",
        help="what `golf par SCRIPT --json` printed (tracks with a fixed number of tokens)",
    )
    maker.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, packed and scored; one per seed")
    publisher = commands.add_parser("publish", help="upload a record to the Hugging Face hub")
    publisher.add_argument("record", type=Path, metavar="RECORD", help="its folder")
    publisher.add_argument(
        "--hub",
        required=True,
        type=matching(artifacts.REPO, "OWNER/NAME"),
        metavar="OWNER/NAME",
        help="a repository of models; made if it is not there",
    )
    for command in (seeds, maker, publisher):
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
        elif options.command == "make":
            result = make(options)
            report(result)
        else:
            result = publish_record(options.record, options.hub)
            print(f"published: {result['address']}")
    except (Failure, OSError) as error:
        return explain("golf record", error)
    if options.json:
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(guarded("golf record", main))
