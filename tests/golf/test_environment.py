"""Every command in a bad place: its reader has gone, its files cannot be read, there is no home, no folder for
temporary files, an ASCII console. It says a line, or does its work, and ends with a status that a command may have.

Not covered: train_gpt.py (tests/train/test_environment.py); disks that are really full (tests/reliability).
"""

import contextlib
import io
import os
import pwd
import sys
import tempfile
from pathlib import Path

import pytest

from golf import console
from golf.__main__ import COMMANDS, main
from tests.support import ROOT

pytestmark = pytest.mark.slow

# Of each command: FILE and FOLDER are what cannot be read, OUT does not exist
LINES = [
    "data text FOLDER --out OUT",
    "data check FOLDER",
    "run --budget none",
    "smoke --none",
    "score FILE --data FOLDER --split dev",
    "pack FOLDER",
    "size FILE",
    "inspect FILE",
    "verify FILE",
    "unpack FILE OUT",
    "code FILE",
    "check-script FILE",
    "bench --run FOLDER",
    "par FILE",
    "bench-train --rounds none",
    "plan --gpus none",
    "log best --track none",
    "watch --once --none",
    "sweep FILE --dry-run",
    "methods none",
    "record seeds --commit none --count 1",
    "record make --track pocket --number 0001 --slug a --title A --idea A --author A --agent-help none --seed-commit "
    "HEAD FOLDER",
    "check FOLDER",
    "reproduce FOLDER --by A",
    "rescore FOLDER --by A",
    "prove FOLDER FOLDER",
    "ladder ask FILE --track pocket --split gate --data FOLDER",
    "lineage --none",
    "board --none",
]
ARTIFACT = min(ROOT.glob("records/pocket/0001_*/*.golf"))
PRINTING = [
    "--help",
    "--version",
    "code docs/minimal_gpt.py",
    "record seeds --commit HEAD --count 3",
    f"size {ARTIFACT}",
]
STATUSES = {0, 1, 2, 3, 4, console.READER_GONE}


def dangling(path):
    path.symlink_to(path.parent / "none")


def folder(path):
    path.mkdir()


def noise(path):
    path.write_bytes(bytes(range(256)) * 16)


def words(line, unreadable, out):
    return [
        {"FILE": str(unreadable), "FOLDER": str(unreadable), "OUT": str(out)}.get(word, word) for word in line.split()
    ]


def ended(arguments):
    """The exit status of a command."""
    try:
        return main(arguments)
    except SystemExit as stop:
        return stop.code


@contextlib.contextmanager
def without_reader(name, monkeypatch):
    """A stream whose pipe nobody reads, and which Python could close at its end."""
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", encoding="ascii", buffering=1 if name == "stderr" else -1) as stream:
        monkeypatch.setattr(sys, name, stream)
        yield
        stream.flush()
        monkeypatch.undo()


def test_each_command_has_a_line():
    assert {line.split()[0] for line in LINES} == set(COMMANDS)


@pytest.mark.parametrize("make", [dangling, folder, noise])
@pytest.mark.parametrize("line", LINES)
def test_what_cannot_be_read_is_a_line(line, make, tmp_path, capsys):
    make(tmp_path / "unreadable-é")
    status = ended(words(line, tmp_path / "unreadable-é", tmp_path / "out"))
    said = "".join(capsys.readouterr())
    assert status in (1, 2) and said and "Traceback" not in said, (status, said)
    assert status == 2 or line.startswith("check-script") or len(said.splitlines()) == 1, said
    assert [path.name for path in tmp_path.iterdir()] == ["unreadable-é"]


@pytest.mark.parametrize("line", LINES + [f"{name} --help" for name in COMMANDS] + PRINTING)
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_has_gone_ends_a_command_without_a_word(line, stream, tmp_path, monkeypatch, capsys):
    dangling(tmp_path / "unreadable")
    with without_reader(stream, monkeypatch):
        status = ended(words(line, tmp_path / "unreadable", tmp_path / "out"))
    said = capsys.readouterr()
    printed_there = (line in PRINTING or line.endswith("--help")) == (stream == "stdout")
    assert status == (console.READER_GONE if printed_there else status) and status in STATUSES
    assert "Traceback" not in said.err and "Broken pipe" not in said.err


@pytest.mark.parametrize("line", LINES + PRINTING + ["check-script docs/minimal_gpt.py", "size FILE"])
def test_without_a_home_a_temporary_folder_or_a_unicode_console(line, tmp_path, monkeypatch):
    """As on a machine that gives a container any number as its user."""

    def nobody(number):
        raise KeyError(number)

    unreadable = tmp_path / "é"
    dangling(unreadable)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/none"])
    monkeypatch.setattr(tempfile, "tempdir", None)
    printed = [io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", printed[0])
    monkeypatch.setattr(sys, "stderr", printed[1])
    status = ended(words(line, unreadable, tmp_path / "out"))
    out, said = [stream.buffer.getvalue().decode("ascii") for stream in printed]
    assert status in STATUSES and "Traceback" not in said, said
    assert Path.home().is_absolute()
    assert line not in PRINTING or (status == 0 and out and not said)
    assert line != "size FILE" or "\\xe9" in said
    assert not line.startswith("check-script docs") or "No usable temporary directory" in said
