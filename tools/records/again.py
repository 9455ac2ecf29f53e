"""What golf reproduce and golf rescore share: the record, its data set on this machine, the scorer's run, and the
addition that says what came of it.

Not covered: training (reproduce.py); which of it may be believed (golf check).
"""

import datetime
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from golf import schema
from golf.files import ROOT, Failure, check_plain, read_json, sha256_file
from golf.foreign import terminal
from golf.processor import processor_name
from golf.versions import require_torch, torch_here
from tools.records import additions
from tools.records.reading import read_record
from tools.runs.pipeline import stage

AUDITS = ("quick", "full", "deep")
DEFAULT_AUDIT = "full"
AUDIT_HELP = "how much the scorer audits (default: %(default)s)"


@dataclass(frozen=True)
class Record:
    """A record's folder with what its record.json and its own run say, both valid by their schemas.

    run: run.json of the median artifact's seed. data: the folder of its data set on this machine."""

    folder: Path
    about: dict
    run: dict
    data: Path

    @property
    def name(self) -> str:
        """<track>/<number>_<slug>, safe for a terminal."""
        return f"{self.about['track']}/{self.folder.name}"

    def row(self, seed: int) -> dict | None:
        """The record's row of a seed; None if that is none of its own."""
        return next((row for row in self.about["seeds"] if row["seed"] == seed), None)


def open_record(folder: Path, data: Path | None) -> Record:
    """Reads a record, with its additions, and finds its data set: `data`, or where its run had it. Failure says what is
    missing or contradicts, and how to get the data."""
    folder = folder.resolve()
    if not (folder / "record.json").is_file():
        raise Failure(f"{folder}: not a record: it has no record.json")
    check_plain(folder)
    about = read_record(folder / "record.json")
    additions.read(folder)
    if sha256_file(folder / "train_gpt.py") != about["script_sha256"]:
        raise Failure(f"{folder}/train_gpt.py: not the script whose sha256 record.json states")
    run = schema.read(folder / f"logs/seed{about['artifact']['seed']}.run.json", "run")
    return Record(folder, about, run, find_data(about, run, data))


def find_data(about: dict, run: dict, data: Path | None) -> Path:
    """The data set of a record on this machine. Failure if it is not there, or another one."""
    found = data if data is not None else ROOT / run["data"]["dir"]
    manifest = found / "manifest.json"
    if not manifest.is_file():
        raise Failure(f"{terminal(str(found))}: no data set (no manifest.json): make it with {command(run)}")
    if sha256_file(manifest) != about["data"]["manifest_sha256"]:
        raise Failure(
            f"{terminal(str(manifest))}: another data set than the record's (its sha256 is not "
            f"{terminal(about['data']['manifest_sha256'][:12])}...): make that with {command(run)}, or give --data SET"
        )
    return found.resolve()


def command(run: dict) -> str:
    """The command that makes a run's data set."""
    match = re.fullmatch(r"(?:.*/)?embedded(?:_(sp[0-9]+(?:_case)?))?", run["data"]["dir"])
    if match is None:
        return "golf data"
    return "golf data embedded" + (f" --variant {match[1]}" if match[1] else "")


def author(by: str | None) -> str:
    """Who an addition is by: `by`, or the name that git knows. Failure without either."""
    if by is None:
        done = subprocess.run(["git", "config", "user.name"], cwd=ROOT, capture_output=True, text=True)
        by = done.stdout.strip()
    if not by:
        raise Failure("git knows no user.name: say who you are with --by NAME")
    return by


def stated_torch(record: Record) -> str:
    """The version of torch that a record was made with."""
    return str(record.about["environment"].get("torch"))


def check_torch(record: Record) -> None:
    """Failure unless torch here has the record's version: scores differ with others."""
    require_torch(stated_torch(record), f"{record.name} cannot be scored again")


def score(record: Record, artifact: Path, audit: str, certify: bool, out: Path) -> dict:
    """Scores `artifact` on the record's documents, by the public command, into `out`; returns what that holds. Failure
    if there is no score, or it is of other documents than the record's."""
    about = record.about["data"]
    arguments = ["eval_heldout.py", str(artifact), "--data", str(record.data), "--split", about["split"]]
    arguments += ["--audit", audit, "--out", str(out)]
    if certify:
        arguments += ["--certify", "--torch", stated_torch(record)]
    stage("score", arguments)
    result = read_json(out, ("bpb", "documents", "certified", "audit", "artifact", "data", "scorer_sha256"))
    if result["data"]["docs_sha256"] != about["docs_sha256"]:
        raise Failure(f"{record.data}: its {about['split']} documents are not those that the record was scored on")
    return result


def addition(record: Record, kind: str, by: str, seed: int, result: dict) -> dict:
    """The fields that every addition has. result: what score() gave."""
    return {
        "format": 1,
        "kind": kind,
        "date": datetime.date.today().isoformat(),
        "by": by,
        "record": additions.describe(record.folder),
        "seed": seed,
        "seed_commit": None,
        "bpb": result["bpb"],
        "documents": result["documents"],
        "certified": result["certified"],
        "audit": result["audit"],
        "artifact": {key: result["artifact"][key] for key in ("bytes", "sha256")},
        "scorer_sha256": result["scorer_sha256"],
        "train": None,
        "environment": environment(),
    }


def environment() -> dict:
    """What this machine is, as far as scores may depend on it."""
    return {
        "python": platform.python_version(),
        "torch": torch_here(),
        "platform": platform.platform(),
        "processor": processor_name(),
    }
