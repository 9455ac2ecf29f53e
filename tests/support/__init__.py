"""Helpers that several test files share, and the root of the checkout under test."""

import json
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HALF_WRITTEN = shutil.ignore_patterns("*.pyc.*")  # byte code that another process is writing, in a copy of sources


def sample(cases, every: int) -> list:
    """Cases of a parametrised test of which `make test` runs each `every`-th, and `make test-all` all."""
    rows = [case if type(case) is tuple else (case,) for case in cases]
    return [pytest.param(*row, marks=[] if index % every == 0 else pytest.mark.long) for index, row in enumerate(rows)]


def copy_record(record: Path, copy: Path) -> None:
    """A record's folder under another name, without its additions, which are about the record that they lie in."""
    shutil.copytree(record, copy, ignore=shutil.ignore_patterns("additions"))


def edit_json(path: Path, **values) -> dict:
    """Sets keys of a JSON file; returns what it then holds."""
    value = json.loads(path.read_text()) | values
    path.write_text(json.dumps(value))
    return value
