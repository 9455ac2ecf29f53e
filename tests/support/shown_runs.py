"""Folders of runs for the tests of golf show, made of the files of records: real curves, scores and artifacts. Not a
test itself.
"""

import json
import os
import shutil
import time
from pathlib import Path

from tests.support import ROOT

RECORD = ROOT / "records/pocket/0006_case_operators_under_par"
OLD = ROOT / "records/pocket/0005_baseline_under_par"
OF_RUN = {
    "train.log": "logs/seed{}.log",
    "metrics.jsonl": "logs/seed{}.metrics.jsonl",
    "run.json": "logs/seed{}.run.json",
    "eval.json": "eval/seed{}.json",
    "model.golf": "artifacts/seed{}.golf",
}


def seeds(record: Path) -> list[int]:
    return [row["seed"] for row in json.loads((record / "record.json").read_text())["seeds"]]


def of_record(record: Path, number: int, folder: Path, names=tuple(OF_RUN)) -> Path:
    """A run's folder with these files of the record's seed of this number."""
    folder.mkdir(parents=True)
    for name in names:
        shutil.copyfile(record / OF_RUN[name].format(seeds(record)[number]), folder / name)
    return folder


def age(folder: Path) -> None:
    """Makes all files of a run an hour old: then a run without run.json counts as crashed."""
    for path in folder.iterdir():
        os.utime(path, (time.time() - 3600,) * 2)


def change(path: Path, **changes) -> None:
    """Sets keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
