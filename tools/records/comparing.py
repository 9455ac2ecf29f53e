"""What golf prove says of two records, remembered (tools/records/remembered.py): all that show records ask here.

Not covered: which records are compared (standing.py, lineage.py); claims of runs (golf prove).
"""

import functools
import math
from pathlib import Path
from typing import Protocol

from golf.files import Failure
from golf.foreign import terminal
from tools.claims import prove
from tools.records import additions, remembered

SHOWN_CHARACTERS = 300  # of what is wrong with a record


class Record(Protocol):
    """A record's folder, and its record.json."""

    folder: Path
    data: dict


def in_words(error: Exception, root: Path) -> str:
    """One line of a fault, with paths from `root` on, so that it reads the same on every machine."""
    if isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = str(error)
    return terminal(text.split("\n")[0].replace(f"{root}/", ""), SHOWN_CHARACTERS)


@functools.lru_cache(maxsize=4)  # of a line of records, each is compared with the one before and the one after
def read_arm(folder: str, _inputs: tuple[str, ...]) -> prove.Arm:
    """prove.read_arm(), kept for as long as the files are the same."""
    return prove.read_arm(folder)


def arm_inputs(record: Record) -> tuple[str, ...]:
    """What prove.read_arm() reads of a record, as hashes."""
    names = ["record.json"]
    for row in record.data["seeds"]:
        names += [f"logs/seed{row['seed']}.run.json", f"eval/seed{row['seed']}.json"]
    added = record.folder / additions.FOLDER
    if added.is_dir():
        names += sorted(f"{additions.FOLDER}/{path.name}" for path in added.iterdir())
    hashes = [f"{name} {remembered.hash_or_missing(record.folder / name)}" for name in names]
    return (record.folder.name, *hashes)


def compare(root: Path, new: Record, old: Record, details: bool) -> dict:
    """prove.compare() of two records with the rivals that the new one states; {"problem": why} if it cannot be.

    details: with the gain on every slice."""
    inputs = [arm_inputs(new), arm_inputs(old)]
    rivals = max(1, new.data.get("variants") or 1)

    def compute() -> dict:
        try:
            arms = [read_arm(str(record.folder), names) for record, names in zip((new, old), inputs)]
            claim = prove.compare(arms[0], arms[1], prove.MARGIN, None, rivals, details)
        except Failure as error:
            return {"problem": in_words(error, root)}
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            return {"problem": f"a log or score is not what the kit writes: {terminal(error, 100)}"}
        if not math.isfinite(claim["p_of_the_best"]):
            return {"problem": "the test has no p"}
        keys = ("gain", "interval", "paired", "rivals", "slices")
        p = claim["p_of_the_best"]
        return {key: claim[key] for key in keys} | {"p": p, "proven": prove.is_proven(claim, p, prove.ALPHA)}

    return remembered.recall("claims", [str(details), str(rivals), *inputs[0], "against", *inputs[1]], compute)
