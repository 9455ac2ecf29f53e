"""Reads records/<track>/<number>_<slug>/record.json, for the tools that show all of them.

A record is somebody else's: its fields are used only after the file was held against docs/record.schema.json and a few
bounds that a schema cannot state. Not covered: whether what it says is true (golf check).
"""

import datetime
import json
import re
from pathlib import Path

from golf.files import Failure, read_json
from golf.foreign import terminal
from tools.records.record import schema_errors

MAX_BPB = 1000


def record_files(root: Path) -> list[Path]:
    """The record.json of every record below root/records, sorted. Folders with a dot in front are none: `record make`
    builds a record in one."""
    found = root.glob("records/*/*/record.json")
    return sorted(path for path in found if not any(part.startswith(".") for part in path.parent.parts[-2:]))


def numbers_in(value: object) -> list[float]:
    """All numbers in a JSON value, at any depth."""
    found, waiting = [], [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, (dict, list)):
            waiting += item.values() if isinstance(item, dict) else item
        elif isinstance(item, (int, float)):
            found.append(item)
    return found


def read_record(path: Path) -> dict:
    """A record.json. Failure names the file and the first thing that is wrong with it."""
    where = terminal(str(path), 1000)
    try:
        record = read_json(path)
        errors = schema_errors(record)
        json.dumps(record, ensure_ascii=False).encode()
    except RecursionError:
        raise Failure(f"{where}: objects and lists that lie too deep in each other") from None
    except UnicodeEncodeError:
        raise Failure(f"{where}: a text holds half of a surrogate pair, which is no character") from None
    if errors:
        raise Failure(f"{where}: {terminal(errors[0])}")
    scores = [record["bpb_mean"], record["bpb_sd"] or 0, *(row["bpb"] for row in record["seeds"])]
    if not all(bpb < MAX_BPB for bpb in scores):  # nor is NaN, which is a number to the schema
        raise Failure(f"{where}: a bpb is not a number below {MAX_BPB}")
    if not all(abs(number) < 2**63 for number in numbers_in(record)):
        raise Failure(f"{where}: a number is NaN, infinite or of more than 64 bits")
    try:
        datetime.date.fromisoformat(record["date"])
    except ValueError as error:
        raise Failure(f"{where}: date: {error}") from None
    name = f"{record['track']}/{record['number']}_{record['slug']}"
    if name != "/".join(path.parent.parts[-2:]) or not re.fullmatch("[a-z0-9]+/[0-9]{4}_[a-z0-9_]+", name):
        raise Failure(f"{where}: it calls itself {terminal(name)}")
    return record


def read_records(root: Path) -> dict[Path, dict]:
    """{folder: its record.json} of all records below `root`, sorted by folder."""
    return {path.parent: read_record(path) for path in record_files(root)}
