"""Trains a record's script again, packs and scores it, and says whether the record's number comes out.

    golf reproduce records/pocket/0006_case_operators_under_par             # its own seed
    golf reproduce records/pocket/0006_case_operators_under_par --seeds 3   # then two new ones, drawn from HEAD

The script runs in a box without network (golf/box/training.py), on this machine's copy of its data set without the
held-out text (training_data.py), with the settings that the record states. What it leaves is packed by the packer of
today and scored with --certify. Each run becomes a file in the record's folder additions/; nothing else of the record
is touched, and the run itself is not kept.
Exit status: 0 reproduced, 1 not.

What a number may differ by:
- The record's seed under par does the same work here. On the record's kind of processor and with its torch the bpb is
  equal to EXACT_BPB.
- Elsewhere roundings differ, and training carries a difference of one bit into weights as different as those of two
  seeds; so do new seeds, which are compared with the mean. Then SPREAD_BPB holds.
- Where a clock on the wall ended the record's runs (version 1 of the rules), this machine does another amount of work:
  the same bound, and only a worse score speaks against the claim.

Not covered: runs of several processes; whether the record keeps to the rules (golf check); speed (golf par).
"""

import argparse
import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from golf import schema, temporary
from golf.box import training
from golf.console import say
from golf.files import ROOT, Failure, read_bytes, read_json, read_metrics, sha256_file
from golf.foreign import terminal
from golf.processor import kind_of, own_kind, pinned, processor_class
from golf.progress import Progress
from tools.records import additions, again, training_data
from tools.records.record import count, draw_seeds, full_hash, overrides
from tools.runs.pipeline import stage

EXACT_BPB = 1e-9  # roundings of the sum over documents
# 99% of the differences between one run and the mean of a record's three seeds: 2.58 x sqrt(1 + 1/3) x 0.0041, the
# standard deviation of record 0004's seeds. Those of the records 0001 to 0004 are 0.0066, 0.0046, 0.0008 and 0.0041.
SPREAD_BPB = 0.012
WHERE = ("seed", "run_dir", "data_dir")  # of Config: in these a reproduction differs
TOLD = ("why", "threads", "compute", "compiled")  # of the run's environment: "why" holds the matrix rate
CHECKPOINT, ARTIFACT = "checkpoint.pt", "model.golf"
MAX_SECONDS_BETWEEN_LOOKS = 1.0
COMPILE_SECONDS = 300.0  # of setting up, compiling and warming up
PATIENCE = 10.0  # times the record's own seconds: a slow and busy machine still trains
TAIL_BYTES = 4000


@dataclass(frozen=True)
class Plan:
    """How a record is to be trained again. flags: `--field=value` beside the preset. trust: see training.start()."""

    record: again.Record
    flags: list[str]
    audit: str
    by: str
    trust: bool


@dataclass(frozen=True)
class Verdict:
    """What one run says of the claim. outcome: "exactly", "within the spread" or "not"."""

    outcome: str
    sentence: str


EXACTLY, WITHIN, NOT = "exactly", "within the spread", "not"


def plan_seeds(record: again.Record, wanted: int, commit: str) -> list[int]:
    """The record's own seed (of its median artifact), then new ones that `commit` draws."""
    own = [row["seed"] for row in record.about["seeds"]]
    drawn = [seed for seed in draw_seeds(commit, wanted + len(own)) if seed not in own]
    return [record.about["artifact"]["seed"], *dict.fromkeys(drawn)][:wanted]


def check_run(record: again.Record) -> None:
    """Failure if the record's run is one that this command cannot do again."""
    run = record.run
    if run["world_size"] != 1:
        raise Failure(
            f"{record.name}: trained by {run['world_size']} processes, which the box without network cannot join: "
            "run it by hand, as its README.md says"
        )
    if run["source_sha256"] != record.about["script_sha256"]:
        raise Failure(f"{record.folder}: the run of seed {run['seed']} is of another script than the record's")


def train(plan: Plan, seed: int, place: Path) -> tuple[Path, float]:
    """Trains in a box whose folder is `place`/box; returns the run's folder, all of whose files are a stranger's, and
    the seconds from start to end, by this machine's clock. Raises Failure."""
    record, box = plan.record, place / "box"
    data = Path("data") / record.data.name
    shown = training_data.show(record.data, box / data)  # as the script names it: relative to where it runs
    script = record.folder / "train_gpt.py"
    arguments = [
        str(script),
        f"--preset={record.run['preset']}",
        *plan.flags,
        f"--seed={seed}",
        f"--data_dir={data}",
        "--run_dir=run",
    ]
    say(f"== train: {script.relative_to(record.folder.parent)} {' '.join(map(terminal, arguments[1:]))}")
    with open(place / "output", "w+b") as output:
        begin = time.monotonic()
        with pinned(cores(record)):
            process = training.start(
                arguments,
                readable=[script, *shown],
                writable=box,
                trust=plan.trust,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            watch(process, record, seed, box / "run")
            seconds = time.monotonic() - begin
        finally:
            process.kill()
            process.wait()
        if process.returncode != 0:
            output.seek(max(0, output.seek(0, 2) - TAIL_BYTES))
            lines = output.read().decode(errors="replace").strip().splitlines()
            last = terminal(lines[-1], 300) if lines else "it printed nothing"
            raise Failure(f"{record.name}: training ended with exit status {process.returncode}: {last}")
    check_files(record, box / "run")
    return box / "run", seconds


def cores(record: again.Record) -> int:
    """How many cores the record's run had, as far as it says."""
    threads = record.run["environment"].get("threads")
    return threads if type(threads) is int and threads > 0 else os.cpu_count() or 1


def trained_class() -> str:
    """The class of processor that a script trains on here."""
    return "gpu" if list(Path("/dev").glob("nvidia[0-9]*")) else processor_class()


def watch(process: subprocess.Popen, record: again.Record, seed: int, run: Path) -> None:
    """Waits for a training process and shows how far it is. Failure once it has taken far longer than the record's."""
    clock = record.run["config"].get("max_seconds") or 0
    key, total = ("elapsed", float(clock)) if is_timed(record) else ("step", float(record.run["steps"]))
    limit = PATIENCE * (record.run["training_seconds"] + COMPILE_SECONDS)
    end = time.monotonic() + limit
    with Progress() as progress:
        while process.poll() is None:
            if time.monotonic() > end:
                raise Failure(f"{record.name}: seed {seed} still trains after {limit:,.0f} s, and was ended")
            progress(f"training seed {seed}", min(total, last_row(run).get(key) or 0), total)
            try:
                process.wait(MAX_SECONDS_BETWEEN_LOOKS)
            except subprocess.TimeoutExpired:
                continue


def last_row(run: Path) -> dict:
    """The last row of metrics.jsonl of a run that goes on; {} where there is none."""
    path = run / "metrics.jsonl"
    if run.is_symlink() or path.is_symlink():
        return {}
    try:
        return (read_metrics(path) or [{}])[-1]
    except (Failure, OSError):
        return {}


def check_files(record: again.Record, run: Path) -> None:
    """Failure unless the files of a run that are read from here on are files, in a folder: links lead elsewhere."""
    for path in (run, *(run / name for name in (CHECKPOINT, "statistics.pt", "run.json"))):
        if path.is_symlink() or not path.exists() and path.name != "statistics.pt":
            raise Failure(f"{record.name}: the script left no {path.name}, or a link in its place")
        if path.exists() and path != run and not path.is_file():
            raise Failure(f"{record.name}: the script left a {path.name} that is no file")


def is_timed(record: again.Record) -> bool:
    """Whether a clock on the wall ended the record's runs: another machine does another amount of work then."""
    return bool(record.run["config"].get("max_seconds"))


def read_run(plan: Plan, seed: int, run: Path) -> dict:
    """run.json of a reproduction. Failure if it is not the run that was asked for."""
    record, found = plan.record, schema.read(run / "run.json", "run")
    if (found["seed"], found["source_sha256"]) != (seed, record.about["script_sha256"]):
        raise Failure(f"{record.name}: its run.json names another seed or script than those that were started")
    for key in sorted(found["config"].keys() | record.about["config"].keys()):
        if key not in WHERE and found["config"].get(key) != record.about["config"].get(key):
            raise Failure(
                f"{record.name}: trained with {terminal(key, 60)} {terminal(found['config'].get(key), 60)}, the record "
                f"says {terminal(record.about['config'].get(key), 60)}: its script does not do what the record states"
            )
    return found


def reproduce(plan: Plan, seed: int, seed_commit: str | None, speed: dict | None) -> dict:
    """One run, from training to the addition: {"seed", "bpb", "outcome", "sentence", "file"}. Raises Failure."""
    record = plan.record
    (ROOT / "runs").mkdir(exist_ok=True)
    with temporary.folder("reproduce", ROOT / "runs") as place:
        folder, wall_seconds = train(plan, seed, place)
        run = read_run(plan, seed, folder)
        artifact = place / ARTIFACT
        stage("pack", ["-m", "compress", "pack", str(folder), "--out", str(artifact), "--track", record.about["track"]])
        result = again.score(record, artifact, plan.audit, not plan.trust, place / "eval.json")
        checkpoint_sha256 = sha256_file(folder / CHECKPOINT)

    verdict = judge(record, seed, run, result["bpb"])
    addition = again.addition(record, additions.TRAINED, plan.by, seed, result) | {"seed_commit": seed_commit}
    addition["train"] = {
        "seconds": run["training_seconds"],
        "tokens": run["tokens"],
        "steps": run["steps"],
        "checkpoint_sha256": checkpoint_sha256,
        "same_artifact": result["artifact"]["sha256"] in known_artifacts(record.about, seed),
        "ratio": speed["ratio"] if speed else None,
        "processor_class": trained_class(),
    }
    told = {key: run["environment"][key] for key in TOLD if key in run["environment"]}
    # The script says itself how long it trained; from start to end, compiling included, it cannot.
    addition["environment"] = told | addition["environment"] | {"wall_seconds": round(wall_seconds, 1)}
    written = additions.write(record.folder, addition)
    say(f"added {terminal(str(written))}")
    return {
        "seed": seed,
        "bpb": result["bpb"],
        "outcome": verdict.outcome,
        "sentence": verdict.sentence,
        "file": str(written),
    }


def known_artifacts(about: dict, seed: int) -> set[str]:
    """SHA-256 of a seed's artifact, where record.json states it."""
    own = about["artifact"]
    known = {row["artifact_sha256"] for row in about["seeds"] if row["seed"] == seed and "artifact_sha256" in row}
    return known | ({own["sha256"]} if own["seed"] == seed else set())


def judge(record: again.Record, seed: int, run: dict, bpb: float) -> Verdict:
    """Holds the bpb of one run against the record's."""
    row = record.row(seed)
    claim = record.about["bpb_mean"] if row is None else row["bpb"]
    what = "the mean of its seeds is" if row is None else "the record says"
    worse_by = bpb - claim
    head = f"{record.name}, seed {seed}: {bpb:.6f} bpb, {what} {claim:.6f}"
    same_work = row is not None and not is_timed(record) and run["tokens"] == row["tokens"]
    if same_work and abs(worse_by) <= EXACT_BPB:
        return Verdict(EXACTLY, f"{head}: reproduced exactly, the same work and the same bpb to {EXACT_BPB:g}")

    deviation = worse_by if is_timed(record) else abs(worse_by)
    outcome = WITHIN if deviation <= SPREAD_BPB else NOT
    how = f"reproduced within the stated spread of {SPREAD_BPB:g}" if outcome == WITHIN else "NOT reproduced"
    return Verdict(outcome, f"{head}: {how} ({worse_by:+.4f}); {difference(record, row, run)}")


def difference(record: again.Record, row: dict | None, run: dict) -> str:
    """Why a run need not give the record's number to the last digit."""
    if is_timed(record):
        steps = record.run["steps"] if row is None else row["steps"]
        return (
            f"a clock on the wall ended it after {run['steps']:,} steps, the record's after {steps:,}: "
            "another amount of work"
        )
    if row is None:
        return "a new seed"
    if run["tokens"] != row["tokens"]:
        return f"it trained on {run['tokens']:,} tokens, the record's run on {row['tokens']:,}: not the same work"
    par = record.about.get("par")
    ours = "gpu" if trained_class() == "gpu" else own_kind()
    theirs = kind_of(par["processor_class"], par["processor"]) if par else "not known"
    if ours != theirs:
        return f"the same work on another kind of processor ({ours}; the record's is {terminal(theirs, 100)})"
    versions = record.run["environment"].get("torch"), run["environment"].get("torch")
    if versions[0] != versions[1]:
        return f"the same work under torch {terminal(versions[1], 30)}, the record's is {terminal(versions[0], 30)}"
    return (
        "the same work on the same kind of processor: it should be equal; another compiler, library or packer may "
        "round differently"
    )


def read_speed(path: Path | None) -> dict | None:
    """What `golf par SCRIPT --json` gave on this machine, where it was asked for. Raises Failure."""
    if path is None:
        return None
    speed = read_json(path, ("ratio", "processor_class"))
    ratio = speed["ratio"]
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio <= 1000:
        raise Failure(f"{path}: ratio: not a number above 0: golf par SCRIPT --json makes the file")
    if speed["processor_class"] != processor_class():
        raise Failure(f"{path}: timed on another class of processor than this one ({processor_class()})")
    return speed


def prepare(options: argparse.Namespace) -> Plan:
    """Everything that can be refused before minutes of training. Raises Failure."""
    by = again.author(options.by)
    record = again.open_record(options.record, options.data)
    if not options.trust:  # its score is to be certified
        again.check_torch(record)
    check_run(record)
    source = read_bytes(record.folder / "train_gpt.py")
    flags = [flag for flag in overrides(source, record.run) if not flag.startswith("--data_dir=")]
    return Plan(record, flags, options.audit, by, options.trust)


def summary(plan: Plan, runs: list[dict]) -> str:
    """One sentence on all runs."""
    held = sum(run["outcome"] != NOT for run in runs)
    if len(runs) == 1:
        return runs[0]["sentence"]
    mean = sum(run["bpb"] for run in runs) / len(runs)
    word = "reproduced" if held == len(runs) else "NOT reproduced"
    return (
        f"{plan.record.name}: {word}: {held} of {len(runs)} runs hold; mean {mean:.6f} bpb, the record says "
        f"{plan.record.about['bpb_mean']:.6f}"
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; exits with 2 on bad usage."""
    parser = argparse.ArgumentParser(
        prog="golf reproduce",
        description="Train a record's script again in a box, hold the score against its claim, and add what came of it "
        "to the record's folder additions/.",
    )
    parser.add_argument("record", type=Path, metavar="RECORD", help="a record's folder")
    parser.add_argument(
        "--seeds", type=count, default=1, metavar="N", help="runs: its own seed, then new ones (default: %(default)s)"
    )
    parser.add_argument("--by", metavar="NAME", help="who does it (default: git's user.name)")
    parser.add_argument("--data", type=Path, metavar="SET", help="the data set (default: where the runs had it)")
    parser.add_argument("--audit", choices=again.AUDITS, default=again.DEFAULT_AUDIT, help=again.AUDIT_HELP)
    parser.add_argument(
        "--par", type=Path, metavar="FILE", help="what golf par SCRIPT --json printed on this machine: r is stated too"
    )
    parser.add_argument(
        "--trust", action="store_true", help="train where this machine has no box to train in, and score uncertified"
    )
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status. Raises Failure and OSError."""
    options = parse(argv)
    speed = read_speed(options.par)
    plan = prepare(options)
    commit = full_hash("HEAD")
    runs = []
    for number, seed in enumerate(plan_seeds(plan.record, options.seeds, commit)):
        runs.append(reproduce(plan, seed, commit if number else None, speed))
        if options.seeds > 1:
            print(terminal(runs[-1]["sentence"], 1000))
    print(terminal(summary(plan, runs), 1000))
    if options.json:
        print(json.dumps({"format": 1, "record": plan.record.name, "commit": commit, "runs": runs}))
    return 0 if all(run["outcome"] != NOT for run in runs) else 1
