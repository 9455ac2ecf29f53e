"""Helpers that several test files share, and the root of the checkout under test."""

import json
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HALF_WRITTEN = shutil.ignore_patterns("*.pyc.*")  # byte code that another process is writing, in a copy of sources


def copy_record(record: Path, copy: Path) -> None:
    """A record's folder under another name, without its additions, which are about the record that they lie in."""
    shutil.copytree(record, copy, ignore=shutil.ignore_patterns("additions"))


def edit_json(path: Path, **values) -> dict:
    """Sets keys of a JSON file; returns what it then holds."""
    value = json.loads(path.read_text()) | values
    path.write_text(json.dumps(value))
    return value
