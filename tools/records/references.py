"""Rewrites of records' scripts: records/references/<record>.py computes what that record's train_gpt.py computes. The
kit wrote it anew for its readers. A reference is no record: it claims no score and no idea.

A later record that builds on such a record may start from either text. Its parent.diff and its lineage start from the
nearer one, so that only what its author changed counts as changed.

Not covered: that both compute the same; whoever adds a reference shows it (for 0004_case_operators.py:
tests/train/test_reference.py).
"""

import difflib
from dataclasses import dataclass
from pathlib import Path

from golf.files import read_bytes
from golf.script import MAX_BYTES
from tools.runs.export import DIFF_LINES

FOLDER = "references"  # below records/


@dataclass(frozen=True)
class Start:
    """The text that a script was made from: its path below records/, and the text."""

    name: str
    source: bytes
    is_reference: bool


def start_of(parent: Path, source: bytes) -> Start:
    """What `source` started from: the script in the parent's folder, or the parent's reference if that is nearer.

    Nearer is the one with more of the script's lines in their order. Raises Failure if a file cannot be read.
    """
    own = Start(f"{parent.name}/train_gpt.py", read_bytes(parent / "train_gpt.py", MAX_BYTES), False)
    path = path_of(parent)
    if not path.is_file() or source.count(b"\n") > DIFF_LINES:
        return own
    reference = Start(f"{FOLDER}/{path.name}", read_bytes(path, MAX_BYTES), True)
    return max(own, reference, key=lambda start: common_lines(start.source, source))


def path_of(folder: Path) -> Path:
    """Where the reference of the record in `folder` is, if it has one."""
    return folder.parent.parent / FOLDER / f"{folder.name}.py"


def common_lines(before: bytes, after: bytes) -> int:
    """How many lines two texts share, in order, by difflib."""
    matcher = difflib.SequenceMatcher(None, before.splitlines(), after.splitlines(), False)
    return sum(block.size for block in matcher.get_matching_blocks())
