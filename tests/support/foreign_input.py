"""Mutated records and runs through check_submission, record and prove, in process. A helper, and a command:

    python -m tests.support.foreign_input --count 2000 [--seed 1]

A case passes if the command ends by itself with one of its exit codes, prints no control character, writes nothing but
what it is there to write, and runs nothing that travels with the record. Its scripts, and a json.py beside each, would
leave a file. Not covered: ledger, leaderboard and lineage; the scorer, whose box has its own tests.
"""

import argparse
import contextlib
import hashlib
import io
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import traceback
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support import ROOT, copy_record, edit_json
from tests.support.made_records import PAR
from tests.support.mutations import mutations
from tools.claims import prove
from tools.records import check, record
from tools.runs import curves, ledger

DOCUMENTS = 4  # of each score that are kept: whole ones would take a second a case
NUMBERS = ("0001", "0004")
IDENTITY = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


@dataclass
class Target:
    """A file to mutate, and the commands that read it."""

    path: Path
    commands: list[tuple[str, Callable[[], int], tuple[int, ...]]]  # name, call, exit codes that it may give
    line: int | None = None  # of a .jsonl file: the row that is mutated


def shortened(score: dict) -> dict:
    """An eval.json object of the first documents, whose sums agree."""
    rows = score["per_document"][:DOCUMENTS]
    nats, raw_bytes = (sum(row[key] for row in rows) for key in ("nats", "raw_bytes"))
    return score | {
        "per_document": rows,
        "documents": len(rows),
        "raw_bytes": raw_bytes,
        "nats": nats,
        "tokens": sum(row["tokens"] for row in rows),
        "bpb": nats / math.log(2) / raw_bytes,
    }


class Workplace:
    """A repository with two records that pass, and three runs that make a third; all scripts would leave `mark`."""

    def __init__(self, folder: Path):
        self.top = folder
        self.root, self.mark = folder / "repository", folder / "a script ran"
        self.runs = folder / "given"
        self.planted = f"open({str(self.mark)!r}, 'w')\n"
        (folder / "here").mkdir()
        for number in NUMBERS:
            self.copy(next(ROOT.glob(f"records/pocket/{number}_*")))
        self.child = next(self.root.glob("records/pocket/0004_*"))
        self.parent = next(self.root.glob("records/pocket/0001_*"))
        script = (self.child / "train_gpt.py").read_bytes()
        (self.child / "parent.diff").write_text(record.parent_diff(self.parent, self.child.name, script))
        edit_json(self.child / "record.json", parent=self.parent.name)
        subprocess.run(
            "git init -q -b main && git add -A && git commit -qm one",
            shell=True,
            check=True,
            cwd=self.root,
            env=os.environ | IDENTITY,
        )
        self.head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=self.root, text=True).strip()
        self.make_runs()
        self.par = folder / "par.json"
        self.par.write_text(json.dumps(PAR | {"low": 3.0, "ratio": 3.0, "high": 3.0}))

    def copy(self, source: Path) -> None:
        """A record with few documents, and with a script and a json.py that leave the mark."""
        folder = self.root / "records/pocket" / source.name
        copy_record(source, folder)
        before = (folder / "train_gpt.py").read_text()
        after = self.planted + before
        sha256 = hashlib.sha256(after.encode()).hexdigest()
        (folder / "train_gpt.py").write_text(after)
        (folder / "json.py").write_text(self.planted)
        for log in folder.glob("logs/*.log"):
            log.write_text(after + log.read_text().removeprefix(before))
        for run in folder.glob("logs/*.run.json"):
            edit_json(run, source_sha256=sha256)
        value = json.loads((folder / "record.json").read_text())
        for row in value["seeds"]:
            score = folder / f"eval/seed{row['seed']}.json"
            row["bpb"] = edit_json(score, **shortened(json.loads(score.read_text())))["bpb"]
        values = [row["bpb"] for row in value["seeds"]]
        mean = sum(values) / 3
        deviation = math.sqrt(sum((bpb - mean) ** 2 for bpb in values) / 2)
        value.pop("files", None)
        (folder / "record.json").write_text(
            json.dumps(value | {"script_sha256": sha256, "bpb_mean": mean, "bpb_sd": deviation})
        )

    def make_runs(self) -> None:
        """Runs that the last record could have come from, with the seeds that the repository's commit draws."""
        seeds = [row["seed"] for row in json.loads((self.child / "record.json").read_text())["seeds"]]
        for old, new in zip(seeds, record.draw_seeds(self.head, 3)):
            folder = self.runs / str(new)
            folder.mkdir(parents=True)
            for source, name in (
                (f"logs/seed{old}.log", "train.log"),
                (f"logs/seed{old}.run.json", "run.json"),
                (f"logs/seed{old}.metrics.jsonl", "metrics.jsonl"),
                (f"eval/seed{old}.json", "eval.json"),
                ("json.py", "json.py"),
            ):
                shutil.copyfile(self.child / source, folder / name)
            (folder / "model.golf").write_bytes(b"GOLF%d" % new)
            sha256 = hashlib.sha256(b"GOLF%d" % new).hexdigest()
            edit_json(folder / "eval.json", artifact={"name": "model.golf", "bytes": 14, "sha256": sha256})
            config = json.loads((folder / "run.json").read_text())["config"]
            edit_json(
                folder / "run.json", seed=new, config=config | {"seed": new, "max_seconds": 0.0, "max_steps": 10_000}
            )

    def check(self) -> int:
        return check.main([str(self.child), "--quick"])

    def prove(self) -> int:
        return prove.main([str(self.child), str(self.parent), "--json"])

    def prove_runs(self) -> int:
        return prove.main([",".join(map(str, sorted(self.runs.iterdir()))), str(self.parent)])

    def make(self) -> int:
        """Makes the record, and takes it away again."""
        made = self.root / "records/pocket/0005_next"
        try:
            return record.main(
                [
                    "make",
                    "--track",
                    "pocket",
                    "--number",
                    "0005",
                    "--slug",
                    "next",
                    "--title",
                    "Next",
                    "--idea",
                    "More.",
                    "--author",
                    "Ann",
                    "--agent-help",
                    "some",
                    "--parent",
                    str(self.parent),
                    "--seed-commit",
                    self.head,
                    "--par",
                    str(self.par),
                    *map(str, sorted(self.runs.iterdir())),
                ]
            )
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def targets(self) -> list[Target]:
        """What is mutated, and how it is read. `prove` exits with 3 where nothing is proven."""
        checked, proof = (
            ("check", self.check, (0, 1, check.INCOMPLETE)),
            ("prove", self.prove, (0, 1, prove.NOT_PROVEN)),
        )
        make = ("record make", self.make, (0, 1))
        prove_runs = ("prove RUNS", self.prove_runs, (0, 1, prove.NOT_PROVEN))
        seed = json.loads((self.child / "record.json").read_text())["seeds"][0]["seed"]
        run = min(self.runs.iterdir())
        return [
            Target(self.child / "record.json", [checked, proof]),
            Target(self.child / f"logs/seed{seed}.run.json", [checked, proof]),
            Target(self.child / f"eval/seed{seed}.json", [checked, proof]),
            Target(self.child / f"logs/seed{seed}.metrics.jsonl", [checked], line=1),
            Target(run / "run.json", [make, prove_runs]),
            Target(run / "eval.json", [make, prove_runs]),
            Target(run / "metrics.jsonl", [make], line=1),
            Target(self.par, [make]),
        ]

    def files(self) -> set[str]:
        """All files and folders but git's own, which every git command touches."""
        return {
            os.path.join(place, name)
            for place, folders, files in os.walk(self.top)
            if ".git" not in place
            for name in (*folders, *files)
        }

    @contextlib.contextmanager
    def active(self, pictures: bool) -> Iterator[None]:
        """The tools take the repository here for theirs, and start in a folder where nothing may appear. pictures:
        whether records get their loss curves, half of the time that making one takes."""
        modules = (check, ledger, prove, record)
        before = [module.ROOT for module in modules], prove.SLICE_RESAMPLES, curves.draw, os.getcwd()
        try:
            for module in modules:
                module.ROOT = self.root
            prove.SLICE_RESAMPLES = 10
            if not pictures:
                curves.draw = lambda path, title, runs: path.write_bytes(b"no picture")
            os.chdir(self.top / "here")
            yield
        finally:
            for module, root in zip(modules, before[0]):
                module.ROOT = root
            prove.SLICE_RESAMPLES, curves.draw = before[1:3]
            os.chdir(before[3])


def control_characters(text: str) -> set[str]:
    """What a terminal could act on, newlines aside."""
    return {character for character in text if unicodedata.category(character) in ("Cc", "Cf", "Cs")} - {"\n"}


def faults(place: Workplace, call: Callable[[], int], codes: tuple[int, ...]) -> list[str]:
    """What one call of a command did that it must not do; empty if nothing."""
    before, out, err = place.files(), io.StringIO(), io.StringIO()
    found = []
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = call()
        if code not in codes:
            found.append(f"exit code {code}")
        if code == 1 and not out.getvalue() + err.getvalue():
            found.append("fails without a word")
    except (Exception, SystemExit):
        found.append(traceback.format_exc())
    if odd := control_characters(out.getvalue() + err.getvalue()):
        found.append(f"prints {sorted(odd)}")
    longest = max(map(len, err.getvalue().splitlines()), default=0)
    if longest > 2000:
        found.append(f"prints a line of {longest} characters")
    if place.mark.exists():
        place.mark.unlink()
        found.append("ran a stranger's script")
    if new := place.files() ^ before:
        found.append(f"wrote or removed {sorted(new)}")
    return found


def cases(place: Workplace, count: int, rng: random.Random) -> Iterator[tuple[str, list[str]]]:
    """(case, faults) of `count` mutants: the targets in turn, and the commands that read each in turn."""
    targets = place.targets()
    originals = [target.path.read_bytes() for target in targets]
    rows = [original.splitlines() for original in originals]
    values = [
        json.loads(original if target.line is None else lines[target.line])
        for target, original, lines in zip(targets, originals, rows)
    ]
    mutants = [mutations(value, rng) for value in values]
    for number in range(count):
        turn, index = divmod(number, len(targets))
        target, original = targets[index], originals[index]
        what, text = next(mutants[index])
        data = text.encode(errors="surrogatepass")
        if target.line is not None:
            data = b"\n".join([*rows[index][: target.line], data, *rows[index][target.line + 1 :], b""])
        target.path.write_bytes(data)
        name, call, codes = target.commands[turn % len(target.commands)]
        try:
            yield f"{name}, {target.path.name}, {what}", faults(place, call, codes)
        finally:
            target.path.write_bytes(original)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0 if every case passes."""
    from rich.console import Console
    from rich.progress import Progress

    parser = argparse.ArgumentParser(
        prog="python -m tests.support.foreign_input", description="Mutated records and runs."
    )
    parser.add_argument("--count", type=int, default=2000, help="mutants (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default: %(default)s)")
    options = parser.parse_args(argv)
    failed = 0
    with tempfile.TemporaryDirectory() as folder, Progress(console=Console(stderr=True), transient=True) as bar:
        place = Workplace(Path(folder))
        with place.active(pictures=True):
            task = bar.add_task("mutants", total=options.count)
            for case, found in cases(place, options.count, random.Random(options.seed)):
                bar.advance(task)
                failed += bool(found)
                if found:
                    print(f"{ascii(case)}:", *found, sep="\n  ")
    print(f"{options.count:,} mutants: {failed:,} with a fault")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
