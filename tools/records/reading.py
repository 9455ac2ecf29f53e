"""Reads records/<track>/<number>_<slug>/record.json, for the tools that show all of them.

A record is somebody else's: its fields are used only after the file was held against docs/record.schema.json and a few
bounds that a schema cannot state. Not covered: whether what it says is true (golf check).
"""

import datetime
import json
from pathlib import Path

from golf.files import MAX_SETTINGS_BYTES, Failure, read_json
from golf.foreign import terminal
from tools.records.record import schema_errors


def record_files(root: Path) -> list[Path]:
    """The record.json of every record below root/records, sorted. Folders with a dot in front are none: `record make`
    builds a record in one."""
    found = root.glob("records/*/*/record.json")
    return sorted(path for path in found if not any(part.startswith(".") for part in path.parent.parts[-2:]))


def read_record(path: Path) -> dict:
    """A record.json. Failure names the file and the first thing that is wrong with it."""
    where = terminal(str(path), 1000)
    # It refuses NaN, numbers of more than 64 bits, and lists that lie too deep in each other.
    record = read_json(path, limit=MAX_SETTINGS_BYTES)
    if errors := schema_errors(record):
        raise Failure(f"{where}: {terminal(errors[0])}")

    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Failure(f"{where}: a text holds half of a surrogate pair, which is no character") from None
    try:
        datetime.date.fromisoformat(record["date"])
    except ValueError as error:
        raise Failure(f"{where}: date: {error}") from None

    name = f"{record['track']}/{record['number']}_{record['slug']}"
    if name != "/".join(path.parent.parts[-2:]):
        raise Failure(f"{where}: it calls itself {terminal(name)}")
    return record


def read_all(root: Path) -> tuple[dict[Path, dict], dict[Path, str]]:
    """({folder: its record.json}, {folder: why its record.json cannot be used}) of the records below `root`, sorted."""
    records, faults = {}, {}
    for path in record_files(root):
        try:
            records[path.parent] = read_record(path)
        except (Failure, OSError) as error:
            faults[path.parent] = str(error)
    return records, faults


def read_records(root: Path) -> dict[Path, dict]:
    """{folder: its record.json} of all records below `root`, sorted by folder. Failure if one of them is not valid."""
    records, faults = read_all(root)
    if faults:
        raise Failure(next(iter(faults.values())))
    return records
