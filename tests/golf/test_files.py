"""golf/files.py: a file is replaced whole or not at all, and what killed writers left does not stay.

Not covered: a disk that is really full, and writers that are really killed (tests/scoring/test_robust.py).
"""

import errno
import fcntl
import os
import threading
import time

import pytest

from golf import files


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


def test_what_killed_writers_left_is_removed_and_no_more(tmp_path):
    """Only what has the name of a temporary file of the path that is written, and no lock."""
    path = tmp_path / "eval.json"
    for name in (".eval.json.123", ".eval.json.456", ".eval.json.note", ".other.json.12", "eval.json"):
        (tmp_path / name).write_text("{")
    (tmp_path / ".eval.json.9").symlink_to(tmp_path / "eval.json")
    with open(tmp_path / ".eval.json.456") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        files.write_atomic(path, b"first")
        assert sorted(os.listdir(tmp_path)) == [
            ".eval.json.456",
            ".eval.json.9",
            ".eval.json.note",
            ".other.json.12",
            "eval.json",
        ]
    files.write_atomic(path, b"second")
    assert ".eval.json.456" not in os.listdir(tmp_path) and path.read_bytes() == b"second"


def test_a_writer_whose_file_is_removed_under_it_begins_again(tmp_path):
    """It opens the stale file of a dead process with its number, and waits; the one that removes it is done; then the
    writer's file must be one that others see."""
    path = tmp_path / f".eval.json.{os.getpid()}"
    path.write_text("half of an older res")
    with open(path) as stale:
        fcntl.flock(stale, fcntl.LOCK_EX)
        thread = threading.Thread(target=files.write_atomic, args=(tmp_path / "eval.json", b"whole"))
        thread.start()
        waiting = 0.0
        while path.stat().st_size and waiting < 60:  # opening it for writing empties it
            time.sleep(0.01)
            waiting += 0.01
        path.unlink()
    thread.join(60)
    assert (tmp_path / "eval.json").read_bytes() == b"whole" and os.listdir(tmp_path) == ["eval.json"]
