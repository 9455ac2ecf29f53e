"""A valid addition to a record, made up, for tests of who reads and writes them."""

import shutil
from pathlib import Path

from tests.support import ROOT
from tools.records import additions

RECORD = ROOT / "records/pocket/0004_case_operators"
SEED = 1849963394  # of its median run
TRAIN = {
    "seconds": 612.5,
    "tokens": 9_000_000,
    "steps": 4000,
    "checkpoint_sha256": "c" * 64,
    "same_artifact": False,
    "ratio": None,
    "processor_class": "avx512",
}


def copy(folder: Path) -> Path:
    """A copy of record 0004's record.json and script below `folder`; returns the record's folder."""
    copied = folder / "records/pocket" / RECORD.name
    copied.mkdir(parents=True)
    for name in ("record.json", "train_gpt.py"):
        shutil.copyfile(RECORD / name, copied / name)
    return copied


def example(folder: Path, **changes: object) -> dict:
    """An addition of kind trained to the record in `folder`, with `changes` of its fields."""
    addition = {
        "format": 1,
        "kind": additions.TRAINED,
        "date": "2026-11-29",
        "by": "somebody",
        "record": additions.describe(folder),
        "seed": SEED,
        "seed_commit": None,
        "bpb": 1.4601,
        "documents": 2000,
        "certified": True,
        "audit": "full",
        "artifact": {"bytes": 249_900, "sha256": "a" * 64},
        "scorer_sha256": "b" * 64,
        "train": TRAIN,
        "environment": {"torch": "2.13.0"},
    }
    return addition | changes
