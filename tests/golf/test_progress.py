"""The progress display on a real terminal (a pseudo one), and its silence everywhere else."""

import os
import pty
import re
import subprocess
import sys

import pytest

from golf import progress
from golf.progress import Progress, track
from tests.support import ROOT

# With no delay, so that nothing depends on how fast the machine is.
SHOW = """
import time
from golf import progress
progress.DELAY_SECONDS = 0
with progress.Progress() as outer:
    outer.phase("reading [bold]files", total=4, unit="files")
    outer.advance(3)
    with progress.Progress() as inner:
        inner.phase("inside")
        inner("stage", 1, 2)
        inner.note("best 1.25", eta_seconds=3723)
        outer._bars.refresh()
        print("a line that stays")
print("after")
"""
CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


def on_a_terminal(code: str, stdout_too: bool) -> tuple[str, str]:
    """(what a terminal of 160 columns saw, standard output if it was no terminal) of a program."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=follower if stdout_too else subprocess.PIPE,
        stderr=follower,
        env=os.environ | {"COLUMNS": "160", "TERM": "xterm"},
    )
    os.close(follower)
    seen = b""
    try:
        while chunk := os.read(leader, 4096):
            seen += chunk
    except OSError:  # how Linux says that the other end is closed
        pass
    finally:
        os.close(leader)
    out = b"" if stdout_too else process.stdout.read()
    assert process.wait() == 0, seen
    return CONTROL.sub(b"", seen).decode(), out.decode()


def test_a_terminal_sees_phases_counts_and_the_time_left():
    seen, _ = on_a_terminal(SHOW, stdout_too=True)
    for piece in ("reading [bold]files", "3/4 files", "inside", "stage", "1/2", "best 1.25", "1:02:03", "eta"):
        assert piece in seen, piece
    assert "a line that stays" in seen and seen.rstrip().endswith("after")


def test_what_is_printed_to_a_file_stays_out_of_the_terminal():
    seen, out = on_a_terminal(SHOW, stdout_too=False)
    assert out == "a line that stays\nafter\n" and "a line" not in seen and "3/4 files" in seen


def test_no_terminal_sees_anything():
    done = subprocess.run([sys.executable, "-c", SHOW], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "a line that stays\nafter\n", "")


def test_phases_follow_each_other_and_all_lines_go():
    with Progress() as shown:
        shown.phase("one", total=2)
        shown.advance()
        with pytest.raises(ZeroDivisionError), Progress() as inner:
            inner.phase("two")
            assert [task.description for task in shown._bars.tasks] == ["one", "two"]
            raise ZeroDivisionError
        shown.phase("three")
        assert [task.description for task in shown._bars.tasks] == ["three"]
        assert [task.completed for task in shown._bars.tasks] == [0]
    assert Progress._display is None and Progress._open == 0


def test_a_strangers_words_are_made_harmless():
    with Progress() as shown:
        shown.phase("a\x1b[2Jb")
        shown.note("c\nd")
        shown("e\x9b", 1, 2)
        first, second = shown._bars.tasks
        words = [first.description, first.fields["note"], second.description]
    assert words == ["a\\x1b[2Jb", "c\\nd", "e\\x9b"]


def test_track_yields_the_items_in_order():
    assert list(track([3, 1, 2], "numbers")) == [3, 1, 2] and Progress._display is None


@pytest.mark.parametrize("use", [lambda shown: shown.advance(), lambda shown: shown.phase("late")])
def test_use_outside_the_block_is_an_error(use):
    with pytest.raises(RuntimeError):
        use(Progress())


def test_short_work_draws_nothing(monkeypatch):
    monkeypatch.setattr(progress, "DELAY_SECONDS", 3600)
    with Progress() as shown:
        shown.phase("short", total=1)
        [table] = shown._bars.get_renderables()
        assert table.row_count == 0
        monkeypatch.setattr(progress, "DELAY_SECONDS", 0)
        [table] = shown._bars.get_renderables()
        assert table.row_count == 1
