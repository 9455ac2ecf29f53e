"""Additions to a record: written once and never over another, read in their order, and each way to change one seen.

Not covered: what golf reproduce writes into them (tests/tools/records/test_reproduce.py).
"""

import datetime
import json
import os
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf.files import Failure
from tests.support.additions import SEED, TRAIN, copy, example
from tests.support.durable import recorded
from tools.records import additions
from tools.records.record import draw_seeds


@pytest.fixture
def folder(tmp_path) -> Path:
    return copy(tmp_path)


def test_a_record_without_additions_has_none(folder):
    assert additions.read(folder) == []


def test_what_is_written_is_read_in_the_order_of_dates(folder):
    commit = "1" * 40
    new = example(folder, date="2026-12-01", seed=draw_seeds(commit, 2)[1], seed_commit=commit)
    old = example(folder)
    scored = example(folder, kind="scored", train=None, date="2026-11-30")
    paths = [additions.write(folder, each) for each in (new, old, scored)]
    assert additions.read(folder) == [old, scored, new]
    assert [path.name.rsplit("_", 1)[0] for path in paths] == [
        f"2026-12-01_trained_seed{new['seed']}",
        f"2026-11-29_trained_seed{SEED}",
        f"2026-11-30_scored_seed{SEED}",
    ]
    assert sorted(path.name for path in folder.iterdir()) == ["additions", "record.json", "train_gpt.py"]


def test_the_same_addition_again_is_the_same_file_and_another_one_a_second(folder):
    first = additions.write(folder, example(folder))
    assert additions.write(folder, example(folder)) == first
    assert additions.write(folder, example(folder, bpb=1.5)) != first
    assert len(list((folder / "additions").iterdir())) == 2


def test_an_addition_is_on_the_disk_before_it_has_its_name_and_the_name_then_too(folder, monkeypatch):
    left = folder / ".addition.json.0123abcd.part"  # by a writer that was killed
    left.touch()
    done = recorded(monkeypatch)
    additions.write(folder, example(folder))
    assert [(what, name.startswith(".addition.json.")) for what, name in done] == [
        ("fsync", True),
        ("link", True),
        ("fsync", False),
    ]
    assert done[-1][1] == "additions" and not list(folder.glob(".*"))


def test_a_file_that_has_the_name_already_is_not_overwritten(folder):
    path = additions.write(folder, example(folder))
    path.write_text("{}")
    with pytest.raises(Failure, match="never overwritten"):
        additions.write(folder, example(folder))
    assert path.read_text() == "{}"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"bpb": -1.0}, "bpb: .*exclusive|minimum"),
        ({"date": "2026-02-30"}, "date: "),
        ({"seed": 1}, "none of the record's"),
        ({"seed": 1, "seed_commit": "2" * 40}, "commit 222222222222 does not draw 1"),
        ({"train": None}, "says how it was trained"),
        ({"kind": "scored"}, "says how it was trained"),
        ({"record": {"name": "pocket/0001_baseline", "sha256": "0" * 64}}, "never moved"),
        ({"by": "a\x1b[31m"}, "by: "),
        ({"by": "\ud800"}, "surrogate"),
        ({"train": TRAIN | {"processor_class": "quantum"}}, "train.processor_class: "),
    ],
)
def test_what_reading_would_refuse_is_not_written(folder, changes, message):
    with pytest.raises(Failure, match=message):
        additions.write(folder, example(folder, **changes))
    assert not (folder / "additions").exists()


def edit_text(path: Path) -> None:
    path.write_text(path.read_text().replace("1.4601", "1.4501"))


def edit_name(path: Path) -> None:
    path.rename(path.with_name(path.name.replace("11-29", "11-28")))


def add_stranger(path: Path) -> None:
    path.with_name("notes.txt").write_text("hello")


def add_link(path: Path) -> None:
    path.with_name("link.json").symlink_to(path)


def change_record(path: Path) -> None:
    record = path.parent.parent / "record.json"
    record.write_text(record.read_text() + "\n")


@pytest.mark.parametrize(
    "change, message",
    [
        (edit_text, r"additions/2026-11-29_trained.*additions are never changed"),
        (edit_name, r"additions/2026-11-28_trained.*additions are never changed"),
        (add_stranger, r"additions/notes.txt: not JSON"),
        (add_link, r"additions/link.json: a symbolic link"),
        (change_record, r"another record.json"),
    ],
)
def test_every_change_is_named(folder, change, message):
    path = additions.write(folder, example(folder))
    change(path)
    with pytest.raises(Failure, match=message):
        additions.read(folder)


@pytest.mark.slow
@given(
    dates=st.lists(st.dates(datetime.date(1000, 1, 1)), min_size=1, max_size=4),
    by=st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=30).filter(str.strip),
    bpb=st.floats(0.001, 1000),
)
def test_any_date_name_and_score_comes_back(tmp_path_factory, dates, by, bpb):
    folder = copy(tmp_path_factory.mktemp("record"))
    written = [example(folder, date=date.isoformat(), by=by, bpb=bpb) for date in dates]
    with mock.patch("os.fsync"):
        for addition in written:
            additions.write(folder, addition)
    found = additions.read(folder)
    assert sorted(json.dumps(each) for each in found) == sorted({json.dumps(each) for each in written})
    assert [each["date"] for each in found] == sorted(each["date"] for each in found)


def test_a_failed_write_leaves_nothing(folder, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        additions.write(folder, example(folder))
    assert list((folder / "additions").iterdir()) == []
    assert sorted(path.name for path in folder.iterdir()) == ["additions", "record.json", "train_gpt.py"]
