"""golf/locks.py: who holds a lock, who can tell, and what a wait comes to.

Not covered: holders that are really killed (tests/reliability).
"""

import errno
import fcntl
import os

import pytest

from golf import locks


def refuse():
    raise RuntimeError("somebody has it")


def test_a_lock_is_held_for_its_block_and_its_file_goes_with_it(tmp_path):
    path = tmp_path / "lock"
    assert not locks.is_held(path)
    with locks.held(path, refuse) as is_locked:
        assert is_locked and locks.is_held(path)
        with pytest.raises(RuntimeError, match="somebody has it"), locks.held(path, refuse):
            pass
        assert locks.is_held(path)
    assert not locks.is_held(path) and not path.exists()


def test_what_a_killed_holder_left_is_no_lock(tmp_path):
    path = tmp_path / "lock"
    path.touch()
    assert not locks.is_held(path) and path.exists()
    with locks.held(path, refuse):
        assert locks.is_held(path)


def test_where_no_lock_can_be_had_nobody_holds_one(tmp_path, monkeypatch):
    """Else work that a killed process left would wait for it for ever. But what may be in use is not removed."""

    def refused(*_):
        raise OSError(errno.ENOLCK, "no locks here")

    path = tmp_path / "lock"
    path.touch()
    monkeypatch.setattr(fcntl, "flock", refused)
    assert not locks.is_held(path)
    with open(path) as file:
        assert locks.is_taken(file.fileno())


def test_a_file_that_can_only_be_read_shows_its_lock(tmp_path):
    path = tmp_path / "lock"
    with locks.held(path, refuse):
        path.chmod(0o444)
        assert locks.is_held(path)


def test_a_folder_has_a_lock_too(tmp_path):
    own, other = locks.open_folder(tmp_path), locks.open_folder(tmp_path)
    assert locks.lock(own, refuse) and locks.is_taken(other) and locks.is_at(tmp_path, own)
    with pytest.raises(RuntimeError, match="somebody has it"):
        locks.lock(other, refuse)
    os.close(own)
    assert not locks.is_taken(other)
    os.close(other)
