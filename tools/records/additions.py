"""Additions to a record: what somebody found who scored its artifact or trained its script again. They lie in its
folder additions/, one file each, and are never changed: a record's own files stay as they are, and its
additions only grow.

A file is what docs/addition.schema.json says. Its name is <date>_<kind>_seed<N>_<hash>.json, with the first digits of
its SHA-256, so that a change of its text shows.

Not covered: whether what an addition says is true (golf reproduce finds out); that none was taken away (git shows it).
"""

import datetime
import hashlib
import json
import os
from pathlib import Path

from golf import schema
from golf.files import MAX_SETTINGS_BYTES, Failure, check_plain, parse_json, part, read_bytes, sha256_file, sync
from golf.foreign import terminal
from tools.records.record import draw_seeds

FOLDER = "additions"
SCORED, TRAINED = "scored", "trained"
MAX_DRAWN = 100  # as many seeds as a record may have


def read(folder: Path) -> list[dict]:
    """The additions of the record in `folder`, by date and then by name; none where it has no folder additions/.

    Failure names the first file that is not what the schema says, is about another record or another text of this one,
    has another name than its text gives it, or holds a seed that nobody drew."""
    place = folder / FOLDER
    if not place.is_dir():
        return []
    check_plain(place)
    found = []
    for path in sorted(place.iterdir()):
        data = read_bytes(path, MAX_SETTINGS_BYTES)
        if wrong := _fault(folder, path.name, data):
            raise Failure(f"{terminal(str(path), 1000)}: {wrong}")
        addition = json.loads(data)
        found.append((addition["date"], path.name, addition))
    return [addition for _, _, addition in sorted(found, key=lambda row: row[:2])]


def write(folder: Path, addition: dict) -> Path:
    """Adds a file to the record in `folder` and returns its path. It is on the disk whole or not at all, and no
    other file is touched. Failure if the addition is not what read() takes."""
    text = json.dumps(addition, indent=1, ensure_ascii=False) + "\n"
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise Failure("the addition holds half of a surrogate pair, which is no character") from None
    if lines := schema.faults(addition, "addition"):
        raise Failure(f"the addition is not valid: {lines[0]}")
    path = folder / FOLDER / _name(addition, data)
    if wrong := _fault(folder, path.name, data):
        raise Failure(f"the addition is not valid: {wrong}")

    path.parent.mkdir(exist_ok=True)
    try:
        with part(folder / "addition.json", data, is_durable=True) as temporary:
            os.link(temporary, path)
        sync(path.parent)
    except FileExistsError:
        if path.is_symlink() or read_bytes(path, MAX_SETTINGS_BYTES) != data:
            raise Failure(f"{path}: another file has this name: additions are never overwritten") from None
    return path


def describe(folder: Path) -> dict:
    """The field `record` of an addition to the record in `folder`. Raises OSError."""
    name = "/".join(folder.resolve().parts[-2:])
    return {"name": name, "sha256": sha256_file(folder / "record.json")}


def _name(addition: dict, data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()[:8]
    return f"{addition['date']}_{addition['kind']}_seed{addition['seed']}_{digest}.json"


def _fault(folder: Path, name: str, data: bytes) -> str:
    """What is wrong with an addition of the record in `folder` whose file has this name; "" if nothing is."""
    try:
        addition = parse_json(data)
    except ValueError as error:
        return f"not JSON: {terminal(str(error), 200)}"
    if not isinstance(addition, dict):
        return "not a JSON object"
    if lines := schema.faults(addition, "addition"):
        return lines[0]
    try:
        datetime.date.fromisoformat(addition["date"])
    except ValueError as error:
        return f"date: {terminal(str(error))}"

    if addition["record"] != describe(folder):
        return f"about another record.json than that of {terminal(folder.name)}: additions are never moved"
    if name != _name(addition, data):
        return f"its text gives it the name {_name(addition, data)}: additions are never changed"
    if (addition["train"] is None) != (addition["kind"] == SCORED):
        return "an addition of kind trained says how it was trained, one of kind scored does not"
    return _seed_fault(folder, addition)


def _seed_fault(folder: Path, addition: dict) -> str:
    commit, seed = addition["seed_commit"], addition["seed"]
    if commit is not None:
        drawn = seed in draw_seeds(commit, MAX_DRAWN)
        return "" if drawn else f"seed: commit {commit[:12]} does not draw {seed}"
    own = [row["seed"] for row in schema.read(folder / "record.json", "record")["seeds"]]
    return "" if seed in own else f"seed: {seed} is none of the record's, and no commit is named that drew it"
