"""golf log on hand-made runs: rows appear once and in order, edits are found, writers take turns, queries."""

import contextlib
import csv
import hashlib
import json
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import time

import pytest

from tests.support import ROOT as REPOSITORY
from tests.support.logged_runs import SCRIPT, kinds, pack, score, train
from tools.runs import ledger
from tools.runs.folder import QUIET_SECONDS
from tools.runs.store import Ledger, check_chain, row_hash


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
    old = time.time() - QUIET_SECONDS - 5
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


@pytest.mark.slow
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
