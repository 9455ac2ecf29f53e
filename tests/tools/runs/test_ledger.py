"""golf log on hand-made runs: rows appear once and in order, edits are found, writers take turns, queries."""

import contextlib
import csv
import errno
import hashlib
import io
import json
import multiprocessing
import os
import re
import sqlite3
import subprocess
import sys
import time

import pytest

from golf.files import Failure
from tests.support import ROOT as REPOSITORY
from tools.claims import ladder
from tools.runs import ledger, store
from tools.runs.store import Ledger, check_chain, row_hash

SCRIPT = "WIDTH = 64\nprint(WIDTH)\n"


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "ROOT", tmp_path)
    (tmp_path / "runs").mkdir()
    return tmp_path


def train(root, name, seed=1, script=SCRIPT, dev_bpb=2.0, **config):
    folder = root / "runs" / name
    folder.mkdir()
    sha256 = hashlib.sha256(script.encode()).hexdigest()
    config = {"width": 64, "seed": seed, "run_dir": f"runs/{name}", "track": "pocket"} | config
    (folder / "train.log").write_text(f"{script}\n# source_sha256 {sha256}\nconfig {json.dumps(config)}\nstep 1\n")
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": i, "elapsed": i, "loss": 5 - i / 10}) + "\n" for i in range(1, 6))
    )
    (folder / "run.json").write_text(
        json.dumps(
            {
                "track": config["track"],
                "preset": "pocket",
                "seed": seed,
                "config": config,
                "source_sha256": sha256,
                "data": {"manifest_sha256": "m"},
                "training_seconds": 9.5,
                "steps": 5,
                "train_loss": float("nan"),
                "dev_bpb": dev_bpb,
                "stopped": "clock",
            }
        )
    )
    return folder


def pack(folder, data=b"GOLF"):
    (folder / "model.golf").write_bytes(data)


def score(folder, bpb, split="dev"):
    artifact = hashlib.sha256((folder / "model.golf").read_bytes()).hexdigest()
    (folder / "eval.json").write_text(
        json.dumps(
            {
                "bpb": bpb,
                "artifact": {"sha256": artifact},
                "scope": "document",
                "slices": {"news": {"bpb": bpb + 1}},
                "data": {"split": split, "docs_sha256": "d", "manifest_sha256": "m"},
            }
        )
    )


def kinds(rows):
    return [(row["kind"], row["run"]) for row in rows]


def test_rows_appear_once_and_follow_each_other(root):
    folder = train(root, "a")
    assert kinds(ledger.sync(root)) == [("run", "a")]
    assert ledger.sync(root) == []
    pack(folder)
    score(folder, 1.9)
    assert kinds(ledger.sync(root)) == [("pack", "a"), ("score", "a")]
    os.utime(folder / "run.json")  # touched, not changed
    (root / "runs/ledger.sqlite").unlink()  # the index is only an index
    assert ledger.sync(root) == []
    rows = ledger.rows_of(root, "a")
    assert [row["n"] for row in rows] == [1, 2, 3] and rows[0]["previous"] == ""
    for row, following in zip(rows, rows[1:]):
        assert following["previous"] == row["hash"] == row_hash(row)
    assert rows[0]["code"] == hashlib.sha256(SCRIPT.encode()).hexdigest() and rows[0]["source_matches"]
    assert rows[0]["config"]["width"] == 64 and rows[0]["data"] == "m" and rows[0]["train_loss"] is None
    assert rows[2]["slices"] == {"news": 2.9}
    assert ledger.best(root, None, 5)[0]["bpb"] == 1.9


def test_the_hash_is_plain_sha256_of_sorted_json(root):
    row = Ledger(root / "runs").append([{"kind": "note", "run": "ü", "value": float("inf")}])[0]
    stored = json.loads((root / "runs/ledger.jsonl").read_text())
    assert stored == row and row["value"] is None
    text = json.dumps(
        {k: v for k, v in stored.items() if k != "hash"}, sort_keys=True, ensure_ascii=False, separators=(",", ":")
    )
    assert hashlib.sha256(text.encode()).hexdigest() == row["hash"]


def test_crash_is_a_row_once_the_log_is_quiet_or_the_process_gone(root):
    folder = train(root, "a")
    (folder / "run.json").unlink()
    assert ledger.sync(root) == []  # may still be training
    old = time.time() - ledger.QUIET_SECONDS - 5
    os.utime(folder / "train.log", (old, old))
    [row] = ledger.sync(root)
    assert (row["kind"], row["last_line"], row["seed"]) == ("crash", "step 1", 1)
    second = train(root, "b")
    (second / "run.json").unlink()
    assert kinds(ledger.sync(root, ended=second)) == [("crash", "b")]
    assert ledger.sync(root, ended=second) == []
    assert {row["status"] for row in ledger.query(root, "SELECT * FROM runs")} == {"crash"}


def test_a_repacked_run_has_no_score_until_it_is_scored_again(root):
    folder = train(root, "a")
    pack(folder)
    score(folder, 1.5)
    ledger.sync(root)
    pack(folder, b"GOLF, better")
    ledger.sync(root)
    assert ledger.best(root, None, 5) == []
    score(folder, 1.4, split="gate")
    ledger.sync(root)
    assert ledger.best(root, None, 5) == []  # not the dev split
    score(folder, 1.6)
    ledger.sync(root)
    assert [row["bpb"] for row in ledger.best(root, None, 5)] == [1.6]


def test_broken_run_hides_no_other(root, capsys):
    train(root, "a")
    (root / "runs/a/run.json").write_text("{")
    train(root, "b")
    assert kinds(ledger.sync(root)) == [("run", "b")]
    assert "left out a" in capsys.readouterr().err


def fill(root, count):
    bodies = []
    for i in range(count // 2):
        bodies += [
            {
                "kind": "run",
                "run": f"r{i}",
                "track": "pocket",
                "seed": i,
                "code": "c",
                "variant": str(i),
                "stopped": "clock",
                "finished": i,
                "config": {"width": i},
                "file_sha256": str(i),
            },
            {"kind": "pack", "run": f"r{i}", "bytes": i, "artifact": str(i), "file_sha256": str(i)},
        ]
    Ledger(root / "runs").append(bodies)
    Ledger(root / "runs").append(
        [
            {
                "kind": "score",
                "run": f"r{i}",
                "bpb": 1 + (i * 7919 % 1000) / 1000,
                "split": "dev",
                "artifact": str(i),
                "file_sha256": "5",
            }
            for i in range(0, count // 2, 2)
        ]
    )


def test_thousands_of_rows_are_read_once(root, monkeypatch):
    fill(root, 10_000)
    first = ledger.best(root, "pocket", 3)
    naive = sorted((1 + (i * 7919 % 1000) / 1000, i) for i in range(0, 5000, 2))[:3]
    assert [(row["bpb"], row["seed"]) for row in first] == naive
    parsed, loads = [], json.loads
    monkeypatch.setattr(json, "loads", lambda text: parsed.append(1) or loads(text))
    assert ledger.best(root, "pocket", 3) == first and len(parsed) <= 1
    assert ledger.best(root, "16mb", 3) == []


@pytest.mark.parametrize(
    "edit, found",
    [
        (lambda lines: lines[:5] + [lines[5].replace(b'"bytes":2', b'"bytes":1')] + lines[6:], "jsonl:6"),
        (lambda lines: lines[:3] + lines[4:], "jsonl:4"),
        (lambda lines: lines[:2] + [lines[3], lines[2]] + lines[4:], "jsonl:3"),
        (lambda lines: lines[:-1], "cut or edited"),
        (lambda lines: [], "cut or edited"),
        (lambda lines: lines[:3] + [b"{}\n"] + lines[3:], "jsonl:4"),
        (lambda lines: lines[:-1] + [lines[-1].replace(b'"bpb":', b'"bpb": ')], "cut or edited"),
    ],
)
def test_every_edit_is_found(root, capsys, edit, found):
    fill(root, 20)
    assert ledger.main(["verify"]) == 0
    path = root / "runs/ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    changed = edit(lines)
    assert changed != lines
    path.write_bytes(b"".join(changed))
    assert ledger.main(["verify"]) == 1
    assert found in capsys.readouterr().err


def test_hashing_everything_again_after_an_edit_is_found_by_the_index(root, capsys):
    fill(root, 20)
    ledger.main(["verify"])
    path, previous, rows = root / "runs/ledger.jsonl", "", []
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if row["n"] == 3:
            row["seed"] = 99
        row["previous"] = previous
        row["hash"] = previous = row_hash(row)
        rows.append(json.dumps(row, sort_keys=True, separators=(",", ":")) + "\n")
    path.write_text("".join(rows))
    assert check_chain(path.read_bytes())[0] == len(rows)  # the chain alone is fine
    assert ledger.main(["verify"]) == 1
    (root / "runs/ledger.sqlite").unlink()
    assert ledger.main(["verify"]) == 0  # as the module's docstring says


def test_half_a_row_of_a_killed_writer_is_cut_off(root):
    book = Ledger(root / "runs")
    book.append([{"kind": "note", "run": "a"}])
    with open(book.path, "ab") as file:
        file.write(b'{"kind": "no')
    book.append([{"kind": "note", "run": "b"}])
    assert book.verify()[0] == 2
    assert [json.loads(line)["run"] for line in book.path.read_text().splitlines()] == ["a", "b"]


def write_many(runs, name):
    for i in range(40):
        Ledger(runs).append([{"kind": "note", "run": name, "i": i}])
        with Ledger(runs).index():
            pass


def sync_once(root):
    ledger.sync(root)


def test_writers_take_turns(root):
    train(root, "trained")
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=write_many, args=(root / "runs", f"w{i}")) for i in range(4)]
    workers += [context.Process(target=sync_once, args=(root,)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(worker.exitcode == 0 for worker in workers)
    assert Ledger(root / "runs").verify()[0] == 4 * 40 + 1
    for i in range(4):
        assert [row["i"] for row in ledger.rows_of(root, f"w{i}")] == list(range(40))


def test_notes_show_in_the_table_and_survive_training(root, capsys):
    assert ledger.main(["note", "a", "--hypothesis", "wider is better", "--who", "agent"]) == 0
    train(root, "a")
    assert ledger.main(["note", "a", "--verdict", "discard", "--who", "both"]) == 0
    capsys.readouterr()
    assert ledger.main(["show", "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out.splitlines()[-1])["runs"]
    assert (row["hypothesis"], row["verdict"], row["who"]) == ("wider is better", "discard", "both")
    assert row["status"] == "clock"
    assert ledger.main(["note", "a", "--who", "agent"]) == 2
    assert ledger.main(["note", "aa", "--verdict", "discard", "--who", "agent"]) == 1  # unknown


def test_compare_and_show_give_the_differences(root, capsys):
    train(root, "a")
    train(root, "b", script=SCRIPT.replace("64", "96"), width=96)
    assert ledger.main(["compare", "a", "b", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["config"] == {"run_dir": ["runs/a", "runs/b"], "width": [64, 96]}
    assert "-WIDTH = 64\n+WIDTH = 96\n" in result["diff"]
    assert ledger.main(["show", "b"]) == 0
    assert "-WIDTH = 64\n+WIDTH = 96\n" in capsys.readouterr().out
    row = ledger.rows_of(root, "b")[0]
    assert (row["lines_added"], row["lines_removed"]) == (1, 1)
    assert ledger.main(["show", "bb"]) == 1
    assert "did you mean b?" in capsys.readouterr().err


def test_variants_tried_and_rivals(root):
    for i, width in enumerate([32, 64, 96, 128]):
        train(root, f"search{i}", seed=5, width=width)  # a search on one seed
    for seed in (11, 12):
        train(root, f"final{seed}", seed=seed, width=96)
    for seed in (13, 14):
        train(root, f"other{seed}", seed=seed, width=64)
    train(root, "elsewhere", seed=11, track="16mb")
    failed = train(root, "crashed", seed=11, width=7)
    (failed / "run.json").unlink()
    ledger.sync(root, ended=failed)
    assert ledger.variants(root, "pocket", [11, 12]) == {"tried": 4, "rivals": 2}
    assert ledger.variants(root, "pocket", [5]) == {"tried": 4, "rivals": 4}
    assert ledger.variants(root, "pocket", [5, 6, 7, 8]) == {"tried": 4, "rivals": 4}  # they share a seed
    assert ledger.variants(root, "pocket", [6, 7, 8, 9]) == {"tried": 4, "rivals": 0}


def test_csv_has_a_line_per_run(root, tmp_path):
    pack(train(root, "a", seed=3))
    train(root, "b", seed=4)
    assert ledger.main(["export", "--csv", str(tmp_path / "x.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "x.csv").open()))
    assert {row["run"]: (row["seed"], row["bytes"]) for row in rows} == {"a": ("3", "4"), "b": ("4", "")}


def test_tensorboard_reads_the_curves_back(root, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(root, "a")
    assert ledger.main(["export", "--tensorboard", str(tmp_path / "tb")]) == 0
    events = EventAccumulator(str(tmp_path / "tb/a"))
    events.Reload()
    assert [(e.step, round(e.value, 4)) for e in events.Scalars("loss")] == [(i, 5 - i / 10) for i in range(1, 6)]


def test_trackio_reads_the_curves_back_and_takes_nothing_twice(root, tmp_path):
    pytest.importorskip("trackio")
    pack(train(root, "a", seed=3))
    command = [
        sys.executable,
        "-c",
        "import sys; from tools import ledger; from pathlib import Path\n"
        "ledger.ROOT = Path(sys.argv[1]); sys.exit(ledger.main(sys.argv[2:]))",
        str(root),
        "export",
        "--trackio",
        str(tmp_path / "tio"),
    ]  # in its own process: the package reads its folder from the environment once
    for _ in range(2):
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    with contextlib.closing(sqlite3.connect(tmp_path / "tio/golf.db")) as database:
        rows = database.execute("SELECT run_name, step, metrics FROM metrics ORDER BY step").fetchall()
        [(config,)] = database.execute("SELECT config FROM configs").fetchall()
    assert [(run, step, json.loads(metrics)) for run, step, metrics in rows] == [
        ("a", i, {"loss": 5 - i / 10}) for i in range(1, 6)
    ]
    assert json.loads(config)["seed"] == 3 and json.loads(config)["bytes"] == 4


def test_plot_needs_a_score_and_makes_a_png(root, tmp_path, capsys):
    folder = train(root, "a")
    assert ledger.main(["plot", "--out", str(tmp_path / "p.png")]) == 1
    pack(folder)
    score(folder, 1.9)
    assert ledger.main(["plot", "--out", str(tmp_path / "p.png")]) == 0
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_a_fresh_clone_has_an_empty_log(root, capsys):
    (root / "runs").rmdir()
    for command in ("best", "show", "sync", "verify"):
        assert ledger.main([command, "--json"]) == 0
    assert capsys.readouterr().err == ""
    assert ledger.main(["show", "a_run"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


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
    with pytest.raises(Failure, match="cannot be used"):
        ledger.sync(root)
