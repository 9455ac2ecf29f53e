"""The log on rows that do not fit: what is not appended, what is skipped and named, half a row, a full disk."""

import contextlib
import csv
import errno
import io
import json
import re
import sqlite3

import pytest

from golf.files import Failure
from tests.support.logged_runs import SCRIPT, kinds, pack, score, train
from tools.claims import ladder
from tools.runs import export, ledger, store
from tools.runs.store import Ledger, row_hash

BIG = 99999999999999999999
POISON = {  # a field, a value that a reader cannot use, and what the message says of it
    "seed": ([1], "seed should be a whole number of at most 64 bits, not [1]"),
    "steps": (BIG, f"steps should be a whole number from 0, of at most 64 bits, not {BIG}"),
    "dev_bpb": ("x", "dev_bpb should be a finite number, not x"),
    "config": ([1], "config should be an object of"),
    "track": (7, "track should be a name"),
    "code": ("../../evil", "code should be a hash"),
    "run": ("../up", "run should be the name of a folder"),
    "clock": ({"train": "x"}, "clock should be an object of finite numbers"),
    "stopped": ("x" * 300, "stopped should be a name of at most 255"),
    "extra": ([[[[[[1]]]]]], "extra should be short texts"),
    "environment": ([1], "environment should be an object"),
    "finished": (1e300, "finished should be seconds"),
    "preset": ("\ud800", "preset should be a name"),
}


def commands(root, folder):
    """Every command of the log but `note`, with its exit code when all is well."""
    return [
        ["sync"],
        ["verify"],
        ["show"],
        ["show", "good"],
        ["show", "good", "--json"],
        ["best"],
        ["compare", "good", "b"],
        ["plot", "--out", str(folder / "p.png")],
        ["export", "--csv", str(folder / "x.csv")],
    ]


def good_runs(root):
    for name, bpb in (("good", 1.9), ("b", 1.8)):
        folder = train(root, name)
        pack(folder)
        score(folder, bpb)


@pytest.mark.parametrize("field", POISON)
def test_a_row_that_no_reader_can_use_is_not_appended(root, field):
    value, message = POISON[field]
    row = {"kind": "run", "run": "a", "file_sha256": "0", "config": {}, field: value}
    with pytest.raises(Failure, match="not a row for the log") as error:
        Ledger(root / "runs").append([row])
    assert message in str(error.value) and str(error.value).count("\n") == 0
    assert not (root / "runs/ledger.jsonl").exists()


@pytest.mark.parametrize("field", ["seed", "steps", "dev_bpb", "config", "track", "clock", "stopped", "environment"])
def test_a_run_json_that_does_not_fit_is_left_out_and_named_once(root, capsys, field):
    value, message = POISON[field]
    folder = train(root, "odd")
    text = json.loads((folder / "run.json").read_text()) | {field: value}
    (folder / "run.json").write_text(json.dumps(text))
    good_runs(root)
    assert {row["run"] for row in ledger.sync(root)} == {"good", "b"}
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "left out odd: run: " in error and message in error
    assert ledger.sync(root) == [] and capsys.readouterr().err == ""
    for command in commands(root, root):
        assert ledger.main(command) == 0


def poisoned(root, rows, index):
    """A ledger that an older kit wrote, which looked at nothing: good runs and `rows`. index: it had an index too."""
    good_runs(root)
    ledger.sync(root)
    ledger.rows_of(root, "good")  # the index knows these rows
    path = root / "runs/ledger.jsonl"
    last = json.loads(path.read_text().splitlines()[-1])
    number, previous = last["n"], last["hash"]
    with open(path, "a") as file:
        for body in rows:
            number += 1
            row = {"n": number, "previous": previous, "time": "t", **body}
            row["hash"] = previous = row_hash(row)
            file.write(json.dumps(row) + "\n")
    if not index:
        (root / "runs/ledger.sqlite").unlink()
    if index == "old":  # one that an older kit made, with what it made of these rows
        with contextlib.closing(sqlite3.connect(root / "runs/ledger.sqlite")) as database:
            data, n = path.read_bytes(), last["n"]
            for line in data.splitlines(keepends=True)[n:]:
                row = json.loads(line)
                values = (row["n"], str(row["kind"]), str(row["run"]), line.decode())
                database.execute("INSERT INTO rows VALUES (?, ?, ?, ?)", values)
            database.execute("INSERT INTO runs (run, bpb, seed) VALUES ('odd', 'x', 'y')")
            database.execute(
                "UPDATE state SET n = ?, start = ?, end = ?, hash = ?",
                (number, len(data) - len(line), len(data), previous),
            )
            database.execute("PRAGMA user_version = 0")
            database.commit()


@pytest.mark.parametrize("index", [None, "present", "old"])
def test_a_log_that_is_poisoned_already_opens_again(root, capsys, index):
    base = {"kind": "run", "run": "odd", "file_sha256": "0", "config": {}}
    rows = [base | {field: value} for field, (value, _) in POISON.items() if field != "preset"]  # that is no UTF-8
    rows += [
        {"kind": "score", "run": "good", "file_sha256": "1", "bpb": "x", "artifact": "2", "split": "dev"},
        {"kind": "pack", "run": "good", "file_sha256": "1"},
        {"kind": "unheard of", "run": "good"},
        {"kind": [1], "run": {}},
        {"kind": "question", "run": "x"},
        {"kind": "note", "run": "good", "who": [1]},
    ]
    poisoned(root, rows, index)
    capsys.readouterr()
    assert ledger.main(["show"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("\n") == captured.err.count("cannot be used and is skipped") == len(rows)
    for number in range(7, 7 + len(rows)):
        assert f"ledger.jsonl:{number}: this row cannot be used" in captured.err
    assert "odd" not in captured.out and "good" in captured.out
    for command in commands(root, root):
        assert ledger.main(command) == 0, command
    assert capsys.readouterr().err == ""  # named once
    assert ledger.Ledger(root / "runs").verify()[0] == 6 + len(rows)
    assert ledger.main(["verify", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["skipped"] == list(range(7, 7 + len(rows)))
    assert [row["run"] for row in ledger.best(root, None, 5)] == ["b", "good"]
    assert ledger.variants(root, "pocket", [1])["tried"] == 1
    assert ladder.questions(root) == []
    assert ledger.note(root, "good", {"who": "agent", "verdict": "keep"})["n"] == 7 + len(rows)


def test_a_run_that_says_little_is_a_row_all_the_same(root):
    folder = train(root, "a")
    (folder / "run.json").write_text("{}")
    train(root, "b")
    assert kinds(ledger.sync(root)) == [("run", "a"), ("run", "b")]
    assert ledger.compare(root, "a", "b")["config"]["width"] == [None, 64]


def test_words_of_others_are_plain_text(root, capsys, monkeypatch):
    """As markup they would end in a traceback or vanish, and escapes would reach the terminal."""
    monkeypatch.setenv("COLUMNS", "500")
    words = "[/x] a \x1b[2J [bold]kept[/bold]\u202e"
    good_runs(root)
    folder = train(root, "odd[bold]\x1b", script=SCRIPT + "# \x1b[31m\n", **{"note\x1b": words})
    text = json.loads((folder / "run.json").read_text()) | {"stopped": words}
    (folder / "run.json").write_text(json.dumps(text))
    crashed = train(root, "crashed")
    (crashed / "run.json").unlink()
    (crashed / "train.log").write_text(f"config {{}}\n{words}\n")
    ledger.sync(root, ended=crashed)
    capsys.readouterr()
    assert ledger.main(["note", folder.name, "--hypothesis", words, "--who", "agent"]) == 0
    for command in (["show"], ["show", folder.name], ["show", "crashed"], ["compare", "good", folder.name]):
        assert ledger.main(command) == 0
        captured = capsys.readouterr()
        assert re.search(r"\[/x\] a (\\x1b|\\u001b)\[2J \[bold\]kept\[/bold\]\\u202e", captured.out), command
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", captured.out + captured.err)


def test_no_cell_of_the_csv_is_a_formula(root, tmp_path):
    train(root, "=cmd()", seed=-3)
    ledger.sync(root)
    ledger.note(root, "=cmd()", {"hypothesis": "@SUM(A1)", "who": "agent"})
    assert ledger.main(["export", "--csv", str(tmp_path / "x.csv")]) == 0
    [row] = csv.DictReader((tmp_path / "x.csv").open())
    assert (row["run"], row["hypothesis"], row["seed"]) == ("'=cmd()", "'@SUM(A1)", "-3")


def test_a_row_that_was_cut_takes_no_other_after_it(root, capsys):
    """A part of a row that the log knew as a whole: what follows would hide the damage."""
    good_runs(root)
    ledger.sync(root)
    ledger.rows_of(root, "good")
    path = root / "runs/ledger.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert ledger.main(["note", "good", "--hypothesis", "x", "--who", "agent"]) == 1
    assert "its end was cut or edited" in capsys.readouterr().err


def test_half_a_row_is_no_damage(root, capsys):
    """A killed writer, or a full disk, left it; the log never knew it."""
    good_runs(root)
    ledger.sync(root)
    path = root / "runs/ledger.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"bpb":1.9,"ki')
    assert ledger.main(["verify"]) == 0 and "6 rows" in capsys.readouterr().out
    assert ledger.main(["note", "good", "--hypothesis", "x", "--who", "agent"]) == 0
    assert ledger.main(["verify"]) == 0 and path.read_bytes().startswith(whole)


def test_a_full_disk_leaves_the_log_as_it_was(root, monkeypatch):
    """The file's write is cut short as the kernel cuts it: a part is taken, then there is no space."""
    book = Ledger(root / "runs")
    book.append([{"kind": "note", "run": "a"}])
    before = book.path.read_bytes()

    class Full(io.FileIO):
        left = 30

        def write(self, data):
            if not Full.left:
                raise OSError(errno.ENOSPC, "No space left on device")
            part = bytes(data)[: Full.left]
            Full.left -= len(part)
            return super().write(part)

    monkeypatch.setattr(store, "open", lambda path, mode, buffering: Full(path, mode), raising=False)
    with pytest.raises(Failure, match="ledger.jsonl: No space left on device: nothing was added"):
        book.append([{"kind": "note", "run": "b"}])
    assert book.path.read_bytes() == before


def test_what_is_wrong_with_the_index_has_its_own_words(root):
    """Against SQLite's own errors: a database with no room for a page, and one that is no database."""
    path = root / "runs/ledger.sqlite"
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.execute("PRAGMA max_page_count = 1")
        with pytest.raises(sqlite3.OperationalError) as error:
            database.execute("CREATE TABLE a (b)")
    assert "the disk is full" in str(store.explain_database(path, error.value))
    assert "remove" not in str(store.explain_database(path, error.value))
    path.write_bytes(b"no database at all " * 100)
    with pytest.raises(Failure, match="remove this file, it is made again"):
        ledger.sync(root)
    path.unlink()
    path.mkdir()
    with pytest.raises(Failure, match="not a regular file"):
        ledger.sync(root)


@pytest.mark.parametrize("columns", ["80", "72"])
def test_numbers_are_whole_where_the_terminal_is_narrow(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    numbers = {"bpb": 1.446949, "bytes": 249_891, "seed": 1_849_963_394, "seconds": 617.3}
    words = {
        "run": "pocket-20261129-183120-s1849963394",
        "status": "tokens",
        "verdict": "discard",
        "who": "maintainers",
    }
    export.print_runs([numbers | words | {"hypothesis": "a wider MLP at the same number of bytes is worth its time"}])
    shown = capsys.readouterr().out
    for number in ("1.4469", "249,891", "1849963394", "617.3"):
        assert number in shown
    assert max(map(len, shown.splitlines())) <= int(columns)
