"""Scores the artifacts of a record again, with the scorer of today, and adds what came of it to the record.

    golf rescore records/pocket/0006_case_operators_under_par

Every artifact that the record keeps is scored with --certify and full audits, and its score goes into the record's
folder additions/; no other file is touched. Exit status: 0 the scores are the record's, to the
0.0005 bpb that golf check allows; 1 one is another.

Not covered: training again (golf reproduce); whether the record keeps to the rules (golf check).
"""

import argparse
import json
from pathlib import Path

from golf import temporary
from golf.files import Failure
from golf.foreign import terminal
from tools.records import additions, again, artifacts
from tools.records.score_rules import SAME_SCORE


def rescore(record: again.Record, seed: int, artifact: Path, by: str, audit: str) -> dict:
    """Scores one artifact and writes the addition: {"seed", "bpb", "claim", "same", "file"}. Raises Failure."""
    row = record.row(seed)
    if row is None:
        raise Failure(f"{record.name}: no seed {seed}")
    with temporary.folder("rescore") as folder:
        result = again.score(record, artifact, audit, True, folder / "eval.json")
    written = additions.write(record.folder, again.addition(record, additions.SCORED, by, seed, result))
    same = abs(result["bpb"] - row["bpb"]) <= SAME_SCORE
    return {"seed": seed, "bpb": result["bpb"], "claim": row["bpb"], "same": same, "file": str(written)}


def sentence(record: again.Record, found: dict) -> str:
    """What came of one artifact."""
    how = "the same score" if found["same"] else f"ANOTHER SCORE (they may differ by {SAME_SCORE:g})"
    return f"{record.name}, seed {found['seed']}: {found['bpb']:.6f} bpb, the record says {found['claim']:.6f}: {how}"


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status. Raises Failure and OSError."""
    parser = argparse.ArgumentParser(
        prog="golf rescore",
        description="Score a record's artifacts again, certified, and add the scores to its folder additions/.",
    )
    parser.add_argument("record", type=Path, metavar="RECORD", help="a record's folder")
    parser.add_argument("--by", metavar="NAME", help="who does it (default: git's user.name)")
    parser.add_argument("--data", type=Path, metavar="SET", help="the data set (default: where the runs had it)")
    parser.add_argument("--audit", choices=again.AUDITS, default=again.DEFAULT_AUDIT, help=again.AUDIT_HELP)
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args(argv)

    by = again.author(options.by)
    record = again.open_record(options.record, options.data)
    again.check_torch(record)
    kept = {row["seed"]: artifacts.locate(record.folder, record.about, row["seed"]) for row in record.about["seeds"]}
    found = []
    for seed, artifact in kept.items():
        if artifact is None:
            print(f"{record.name}, seed {seed}: its artifact was not kept")
        else:
            found.append(rescore(record, seed, artifact, by, options.audit))
    if not found:
        raise Failure(f"{record.name}: none of its artifacts was kept: there is nothing to score")
    for each in found:
        print(terminal(sentence(record, each)))
    if options.json:
        print(json.dumps({"format": 1, "record": record.name, "scores": found}))
    return 0 if all(each["same"] for each in found) else 1
