"""golf/files.py: a file is replaced whole or not at all, and what killed writers left does not stay.

Not covered: a disk that is really full, and writers that are really killed (tests/scoring/test_robust.py).
"""

import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

from golf import files
from tests.support.durable import recorded


@pytest.mark.parametrize("call", ["flock", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_names_it(monkeypatch, tmp_path, call):
    """A lock that the file system does not have is done without; a full disk is an error about the path itself."""

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "eval.json"
    path.write_bytes(b"old")
    monkeypatch.setattr(fcntl if call == "flock" else os, call, fail)
    if call == "flock":
        files.write_atomic(path, b"new")
    else:
        with pytest.raises(OSError, match="No space left") as caught:
            files.write_atomic(path, b"new")
        assert caught.value.filename == str(path)
    assert os.listdir(tmp_path) == ["eval.json"]
    assert path.read_bytes() == (b"new" if call == "flock" else b"old")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        files.write_atomic(tmp_path / "none" / "eval.json", b"new")
    assert caught.value.filename == str(tmp_path / "none" / "eval.json")


@pytest.mark.parametrize("name", [".", "..", "folder", "../here/folder"])
def test_a_folder_is_not_written_as_a_file(monkeypatch, tmp_path, name):
    (tmp_path / "here/folder").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(IsADirectoryError) as caught:
        files.write_atomic(Path(name), b"new")
    assert caught.value.filename == name
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder", "here"]


def test_what_killed_writers_left_is_removed_and_no_more(tmp_path):
    """Only what has the name of a temporary file of the path that is written, and no lock."""
    path = tmp_path / "eval.json"
    dead, alive, link = (f".eval.json.{digits}.part" for digits in ("0123abcd", "45678901", "99999999"))
    others = [".eval.json.123", ".eval.json.note", ".eval.json.0123abcd", ".other.json.0123abcd.part", "eval.json"]
    for name in (dead, alive, *others):
        (tmp_path / name).write_text("{")
    (tmp_path / link).symlink_to(path)
    with open(tmp_path / alive) as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        files.write_atomic(path, b"first")
        assert set(os.listdir(tmp_path)) == {alive, link, *others}
    files.write_atomic(path, b"second")
    assert set(os.listdir(tmp_path)) == {link, *others} and path.read_bytes() == b"second"


def test_writers_of_one_path_at_once_leave_a_whole_file_of_one_of_them(tmp_path):
    path = tmp_path / "eval.json"
    contents = [bytes([number]) * 200_000 for number in range(8)]
    threads = [threading.Thread(target=files.write_atomic, args=(path, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents and os.listdir(tmp_path) == ["eval.json"]


def test_a_writer_whose_new_file_is_taken_for_stale_begins_again(monkeypatch, tmp_path):
    """Between the making of the file and its lock another writer may find it without one."""
    removed = []
    real = fcntl.flock

    def flock(file, operation):
        if not removed:
            removed.extend(tmp_path.iterdir())
            removed[0].unlink()
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    files.write_atomic(tmp_path / "eval.json", b"whole")
    assert len(removed) == 1 and (tmp_path / "eval.json").read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["eval.json"]


def test_a_durable_file_is_on_the_disk_before_it_has_its_name_and_the_name_then_too(monkeypatch, tmp_path):
    done = recorded(monkeypatch)
    files.write_durable(tmp_path / "model.golf", b"whole")
    assert [(what, name.endswith(".part")) for what, name in done] == [
        ("fsync", True),
        ("replace", True),
        ("fsync", False),
    ]
    assert done[-1][1] == tmp_path.name
    done.clear()
    files.write_atomic(tmp_path / "page.html", b"can be made again")
    assert [what for what, _ in done] == ["replace"]
