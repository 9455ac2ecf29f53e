"""golf/folders.py: a folder is the old one or the new one, whole, whoever writes it at once, and wherever it is killed.

Not covered: file systems without locks; the commands that use it (tests/reliability).
"""

import os
import threading

import pytest

from golf import files, folders
from golf.files import Failure
from tests.support.durable import recorded

OLD, NEW = {"a": "old", "gone": "old"}, {"a": "new", "b/c": "new"}


def write(folder, contents):
    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def read(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def nothing(_):
    """Whatever lies there may be replaced."""


@pytest.fixture
def target(tmp_path):
    write(tmp_path / "set", OLD)
    return tmp_path / "set"


def replace(target, contents=NEW, judge=nothing):
    with folders.only_writer(target) as path, folders.replaced(path, judge) as folder:
        write(folder, contents)


def test_the_new_folder_takes_the_name(target):
    replace(target)
    assert read(target) == NEW and os.listdir(target.parent) == ["set"]
    replace(target.parent / "another" / "set")
    assert read(target.parent / "another" / "set") == NEW


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_block_that_fails_leaves_the_old_one(target, error):
    with pytest.raises(type(error)) as caught:
        with folders.only_writer(target) as path, folders.replaced(path, nothing) as folder:
            write(folder, NEW)
            raise error
    assert read(target) == OLD and os.listdir(target.parent) == ["set"]
    assert isinstance(error, KeyboardInterrupt) or caught.value.filename == str(target)


def test_what_came_while_we_worked_stays(target):
    """The folder is judged before the work and once more before it is replaced."""

    def judge(path):
        folders.judge_listed(path, {"a", "gone"}, "the set")

    with pytest.raises(Failure, match="set holds mine/thesis, which is no part of the set: move it away"):
        with folders.only_writer(target) as path, folders.replaced(path, judge) as folder:
            write(folder, NEW)
            write(target, {"mine/thesis": "x"})
    assert read(target) == {**OLD, "mine/thesis": "x"} and os.listdir(target.parent) == ["set"]


def calls_of_a_replacement(target):
    """How often replacing a folder calls what changes the list of a folder."""
    count = 0

    def counted(real):
        def call(*arguments, **named):
            nonlocal count
            count += 1
            return real(*arguments, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES:
            patch.setattr(os, name, counted(getattr(os, name)))
        replace(target)
    return count


CHANGES = ("mkdir", "rename", "unlink", "rmdir", "open", "fsync")


def killed_at(call, target):
    """Replaces a folder in a process that ends, as one that is killed, before the given call of those in CHANGES."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    left = call

    def deadly(real):
        def made(*arguments, **named):
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(9)
            return real(*arguments, **named)

        return made

    for name in CHANGES:
        setattr(os, name, deadly(getattr(os, name)))
    replace(target)
    os._exit(0)


def test_wherever_it_is_killed_the_next_one_finds_a_whole_folder_and_leaves_nothing(tmp_path):
    write(tmp_path / "count", OLD)
    calls = calls_of_a_replacement(tmp_path / "count")
    assert calls > 10
    kept = []
    for call in range(calls):
        target = tmp_path / str(call) / "set"
        write(target, OLD)
        killed_at(call, target)
        assert not target.exists() or read(target) in (OLD, NEW)
        with folders.only_writer(target) as path:  # whatever the next one does
            kept.append(read(path))
        assert kept[-1] in (OLD, NEW) and os.listdir(target.parent) == ["set"], call
        replace(target, {"a": "third"})
        assert read(target) == {"a": "third"} and os.listdir(target.parent) == ["set"]
    assert kept[0] == OLD and kept[-1] == NEW


def test_an_old_folder_that_was_being_deleted_is_not_put_back(target):
    """Killed while it deletes what was replaced, and then the user removes the new one too: nothing is there."""
    write(target.parent / ".set.0123abcd.part", {"gone": "old"})
    write(target, {})
    for path in sorted(target.rglob("*"), reverse=True):
        path.unlink()
    target.rmdir()
    with folders.only_writer(target) as path:
        assert not path.exists()
    assert os.listdir(target.parent) == []


def test_writers_take_turns(target, capsys, monkeypatch):
    """Whoever comes second says that it waits, and then sees what the first one made."""
    inside = threading.Event()
    waits = threading.Event()
    seen = []

    def told(target):
        say = say_that_we_wait_for(target)
        return lambda: (say(), waits.set())

    say_that_we_wait_for = folders.say_that_we_wait_for
    monkeypatch.setattr(folders, "say_that_we_wait_for", told)

    def second():
        inside.wait()
        with folders.only_writer(target) as path:
            seen.append(read(path))

    thread = threading.Thread(target=second)
    thread.start()
    with folders.only_writer(target) as path, folders.replaced(path, nothing) as folder:
        write(folder, NEW)
        inside.set()
        # Not by polling capsys: what another thread prints while it is being read is lost
        assert waits.wait(60)
    thread.join()
    assert "waiting for another process" in capsys.readouterr().err
    assert seen == [NEW] and os.listdir(target.parent) == ["set"]


def test_foreign_files_beside_it_stay(target):
    others = [".set.lock.bak", ".set.part", ".set.0123.part", ".sets.0123abcd.part", ".set.0123abcd.older"]
    for name in others:
        write(target.parent / name, {"x": "mine"})
    (target.parent / ".set.89abcdef.part").symlink_to(target)
    replace(target)
    assert set(os.listdir(target.parent)) == {"set", ".set.89abcdef.part", *others}


def test_all_is_on_the_disk_before_it_has_its_name(monkeypatch, target):
    done = recorded(monkeypatch)
    with folders.only_writer(target) as path, folders.replaced(path, nothing) as folder:
        write(folder, NEW)
        folders.sync_tree(folder)
    new = next(name for _, name in done if files.is_part(name, target))
    moved = done.index(("rename", new))
    assert {name for what, name in done[:moved] if what == "fsync"} == {"a", "b", "c", new}
    assert ("fsync", target.parent.name) in done[moved:]
