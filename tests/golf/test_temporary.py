"""Temporary folders: what a killed maker left goes with the next one, and nothing else does.

Not covered: makers that are really killed (tests/reliability).
"""

import ast
import fcntl
import os
import stat

import pytest

from golf import temporary
from tests.support import ROOT


def test_a_folder_is_there_for_its_block_alone(tmp_path):
    with temporary.folder("check", tmp_path) as folder:
        (folder / "closed").mkdir()
        (folder / "closed/file").touch()
        os.chmod(folder / "closed", 0)
        assert stat.S_IMODE(os.stat(folder).st_mode) == stat.S_IRWXU and folder.name.startswith(".golf-check-")
    assert list(tmp_path.iterdir()) == []


def test_what_killed_makers_left_is_removed_and_nothing_else(tmp_path):
    dead, lock = temporary.make("box", tmp_path)
    (dead / "work").mkdir()
    os.close(lock)  # as when its maker dies
    alive, held = temporary.make("box", tmp_path)
    assert not dead.exists()
    names = [".golf-notes", "golf-box-0123456789abcde", "golf-box-0123456789ABCDEF", "golf-0123456789abcdef"]
    others = [tmp_path / name for name in names]
    for other in others:
        other.mkdir()
    file, link = tmp_path / ("golf-a-" + "0" * 16), tmp_path / ("golf-a-" + "1" * 16)
    file.touch()
    link.symlink_to(others[0])
    temporary.remove_stale(tmp_path)
    assert set(tmp_path.iterdir()) == {alive, file, link, *others}
    os.close(held)
    temporary.remove_stale(tmp_path)
    assert set(tmp_path.iterdir()) == {file, link, *others}


def test_a_maker_whose_folder_is_taken_for_stale_begins_again(monkeypatch, tmp_path):
    """Between the making of the folder and its lock another one may find it without one."""
    removed = []
    real = fcntl.flock

    def flock(descriptor, operation):
        if not removed:
            removed.extend(tmp_path.iterdir())
            removed[0].rmdir()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with temporary.folder("box", tmp_path) as folder:
        assert len(removed) == 1 and list(tmp_path.iterdir()) == [folder] != removed


def test_without_locks_nothing_is_taken_for_stale(monkeypatch, tmp_path):
    def no_locks(*_):
        raise OSError("no locks")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with temporary.folder("box", tmp_path) as folder:
        temporary.remove_stale(tmp_path)
        assert folder.exists()
    assert not folder.exists()


@pytest.mark.parametrize("package", ["golf", "compress", "scoring", "tools"])
def test_no_other_module_makes_temporary_folders(package):
    """One that it made would stay when it is killed."""
    for path in (ROOT / package).rglob("*.py"):
        names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        made = names & {"TemporaryDirectory", "mkdtemp", "mkstemp", "NamedTemporaryFile"}
        assert not made or path.name == "trainer.py", path  # that one mounts its root there, in a folder of this kind
