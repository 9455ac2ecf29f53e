"""Where a record under review comes from: a folder, a commit of this clone, or the Hugging Face hub.

    records/pocket/0007_wider                        a folder
    pull/7:records/pocket/0007_wider                 a folder of a commit: a branch, a tag, a hash
    pull/7                                           every record that the commit adds to the branch main
    hf://OWNER/NAME/records/pocket/0007_wider        a record on the hub

What does not lie in a folder is written to a temporary one, as plain files; nothing of it runs (repository.py).
Not covered: fetching a branch (git fetch origin pull/7/head:pull/7).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from golf import temporary
from golf.files import Failure
from golf.foreign import terminal
from tools.records import artifacts, repository
from tools.records.submission import Committed

HUB = "hf://"


@dataclass(frozen=True)
class Source:
    """A record to check. name: as it is shown. folder: its files. committed: its place in this clone's history, if it
    was taken from there. more: the folder that holds the records/ of the same commit."""

    name: str
    folder: Path
    committed: Committed | None = None
    more: Path | None = None


@contextmanager
def opened(text: str, root: Path) -> Iterator[list[Source]]:
    """The records that `text` names; what had to be written for them is removed at the end. root: the clone.

    Raises Failure if it names none; artifacts.Unreachable, which is a Failure, if the hub does not answer."""
    if not text.startswith(HUB) and Path(text).exists():
        if not os.path.lexists(Path(text) / "record.json"):
            raise Failure(f"{terminal(text, 200)}: not a record, it has no record.json: give records/TRACK/NAME")
        yield [Source(text, Path(text))]
        return
    with temporary.folder("check") as folder:
        place = folder.resolve()
        if text.startswith(HUB):
            yield [Source(text, artifacts.fetch_record(text, place / "records"))]
        else:
            yield _of_commit(text, root, place)


def _of_commit(text: str, root: Path, place: Path) -> list[Source]:
    """The records that REF or REF:FOLDER names, with those that their commit adds beside them, written to `place`."""
    name, _, folder = text.partition(":")
    commit = repository.commit_of(root, name)
    if commit is None:
        raise Failure(
            f"{terminal(text, 200)}: no folder, and no commit of this clone: give a record's folder, REF or "
            f"REF:records/TRACK/NAME (git fetch it first), or {HUB}OWNER/NAME/records/TRACK/NAME"
        )
    asked = [folder.rstrip("/")] if folder else repository.added_records(root, commit)
    if not asked:
        raise Failure(
            f"{terminal(name, 200)} adds no record to main: name one, as {terminal(name, 200)}:records/TRACK/NAME"
        )
    if any(not path.startswith("records/") or path.count("/") != 2 for path in asked):
        raise Failure(f"{terminal(folder, 200)}: no record's folder: records/TRACK/NAME")

    beside = repository.added_records(root, commit) if repository.trusted_base(root, commit) else []
    for path in sorted({*asked, *beside}):
        repository.extract(root, commit, path, place)
    return [Source(f"{name}:{path}", place / path, Committed(commit, path), place) for path in asked]
