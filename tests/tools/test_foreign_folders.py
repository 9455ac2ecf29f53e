"""Folders that somebody else filled: pipes, links, files with holes, planted indexes, scripts made to be slow.

Not covered: what the files say (tests/support/foreign_input.py and mutate_log.py mutate that).
"""

import json
import os
import shutil
import sqlite3
import struct
import subprocess
from pathlib import Path

import pytest

from compress import __main__ as compress_main
from golf import files
from golf.files import Failure
from golf.foreign import terminal
from golf.shards import read_shard
from tests.support import ROOT
from tests.support.own_cache import own_cache  # noqa: F401
from tests.support.site_records import valid_record
from tools.data import check as data_check
from tools.data.build import SPLITS
from tools.records import history_rules, lineage
from tools.records.submission import Committed, Submission
from tools.runs import export, folder, ledger, rows, store, watch
from tools.sweep import spec, trial

pytestmark = pytest.mark.slow

HOLE_BYTES = 20 * 2**30


def hole(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(HOLE_BYTES)


def pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.fixture
def runs(tmp_path) -> Path:
    path = tmp_path / "runs"
    (path / "a").mkdir(parents=True)
    return path


def planted(runs: Path, statements: str) -> None:
    """The index of an empty log, made here, and then changed by somebody else."""
    store.Ledger(runs).verify()
    with store.Ledger(runs).index():
        pass
    with sqlite3.connect(runs / "ledger.sqlite") as database:
        database.executescript(statements)
    database.close()


@pytest.mark.parametrize("make", [pipe, hole])
@pytest.mark.parametrize("name", ["train.log", "run.json", "metrics.jsonl", "eval.json", "model.golf"])
def test_a_pipe_or_a_hole_in_a_run_stops_neither_log_nor_watch(runs, capsys, make, name):
    (runs / "a/train.log").write_text("config {}\nstep 1\n")
    (runs / "a" / name).unlink(missing_ok=True)
    make(runs / "a" / name)
    os.utime(runs / "a/train.log", (1, 1))
    added = ledger.sync(runs.parent)
    assert [row["kind"] for row in added] == (["crash"] if name not in ("train.log", "run.json") else [])
    assert name == "metrics.jsonl" or f"left out a: {runs}/a/{name}" in capsys.readouterr().err
    running, ended, _ = watch.Watch(runs).look()
    assert [run.name for run in running + ended] == ["a"]


def test_a_log_that_names_many_scripts_is_read_once(tmp_path):
    lines = "".join(f"\n# source_sha256 {number:064x}" for number in range(30_000))
    (tmp_path / "train.log").write_text(lines + "\n")
    data = folder.head(tmp_path / "train.log")
    assert len(data) == folder.HEAD_BYTES and folder.script_in(data) is None


def test_scripts_that_take_hours_to_compare_are_not_compared(tmp_path):
    before, after = ("\n".join(f"{(i * step) % 97}" for i in range(100_000)).encode() for step in (5, 7))
    assert ledger.changed_lines(before, after) == (None, None)
    assert ledger.changed_lines(b"a\nb\n", b"a\nc\nd\n") == (2, 1)
    (tmp_path / "runs/scripts").mkdir(parents=True)
    (tmp_path / "runs/scripts/1.py").write_bytes(before)
    assert export.script_lines(tmp_path, "1") == ["# 100,000 lines: at most 3,000 are compared"]
    source = "\n".join(f"b{i} = [{', '.join(f'q{i * j % 7}' for j in range(400))}]" for i in range(300))
    old, new = lineage.Record("a", tmp_path, {}), lineage.Record("b", tmp_path, {})
    new.parent, old.statements = old, lineage.statements(source, "a")
    new.statements = lineage.statements(source.replace("q1", "q2.x"), "b")
    with pytest.raises(Failure, match="takes too long"):
        lineage.trace(new, old.statements)
    with pytest.raises(Failure, match="statements: at most"):
        lineage.statements("a;" * 6000, "a")


def test_nothing_is_written_through_a_link(runs, monkeypatch):
    elsewhere = runs.parent / "elsewhere"
    elsewhere.mkdir()
    record = next(ROOT.glob("records/pocket/0001_*"))
    source = record / "train_gpt.py"
    os.symlink(elsewhere, runs / "scripts")
    sha256 = files.sha256_file(source)
    text = source.read_bytes()
    (runs / "a/train.log").write_bytes(text + b"\n# source_sha256 " + sha256.encode() + b"\n")
    shutil.copy(next(record.glob("logs/*.run.json")), runs / "a/run.json")
    assert ledger.sync(runs.parent) == [] and list(elsewhere.iterdir()) == []

    victim = elsewhere / "file"
    victim.write_text("no newline at its end")
    for name in ("ledger.jsonl", "ledger.sqlite"):
        (runs / name).unlink(missing_ok=True)
        os.symlink(victim, runs / name)
        with pytest.raises(Failure, match="a link, or not a regular file"):
            ledger.note(runs.parent, "a", {"who": "agent", "hypothesis": "x"})
        (runs / name).unlink()
    os.symlink(victim, runs / ".out.part")
    monkeypatch.setattr(files, "part_name", lambda path: f".{path.name}.part")  # if it could be guessed
    with pytest.raises(OSError, match="File exists"):
        files.write_atomic(runs / "out", b"data")
    assert victim.read_text() == "no newline at its end"


ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT "


@pytest.mark.parametrize(
    "statements",
    [
        f"DROP TABLE runs; CREATE VIEW runs AS {ENDLESS} {', '.join(f'x AS {name}' for name in store.COLUMNS)} FROM c;",
        f"CREATE TRIGGER t AFTER UPDATE ON state BEGIN INSERT INTO seen {ENDLESS} x, x, x FROM c; END;",
        "INSERT INTO runs (run, bpb) VALUES ('a', 'text');",
        "INSERT INTO runs (run, bpb) VALUES ('a', 9e999);",
        "INSERT INTO runs (run, seed) VALUES ('a', 1.5);",
        "INSERT INTO runs (run, hypothesis) VALUES ('a', x'00');",
        "INSERT INTO rows VALUES (1, 'run', 'a', '[');",
        "INSERT INTO rows VALUES (1, 'run', 'a', '{\"kind\": \"run\"}');",
        "INSERT INTO rows VALUES (1, 'run', 'a', NULL);",
        "PRAGMA user_version = 0; INSERT INTO rows VALUES (1, 'run', 'a', '[]');",
        "DELETE FROM state;",
        "UPDATE state SET start = 'x';",
    ],
)
def test_an_index_that_was_not_made_here_is_named(runs, statements):
    planted(runs, statements)
    with pytest.raises(Failure, match="remove this file, it is made again"):
        ledger.sync(runs.parent)
        ledger.query(runs.parent, "SELECT * FROM runs")
        ledger.rows_of(runs.parent, "a")
    (runs / "ledger.sqlite").unlink()
    assert ledger.sync(runs.parent) == []


def test_a_planted_journal_deletes_nothing(runs):
    """SQLite deletes the super-journal that a journal left by a crash names at its end (pager_delsuper in pager.c)."""
    victim = runs.parent / "file"
    victim.write_text("kept")
    planted(runs, "")
    name = os.fsencode(victim)
    end = struct.pack(">I", 2**30 // 4096 + 1) + name + struct.pack(">II", len(name), sum(name)) + store.JOURNAL_END
    head = (store.JOURNAL_END + struct.pack(">IIIII", 0, 0, 2, 512, 4096)).ljust(512, b"\0")
    (runs / "ledger.sqlite-journal").write_bytes(head + end)
    with pytest.raises(Failure, match="names another journal"):
        ledger.sync(runs.parent)
    assert victim.read_text() == "kept"


def test_rows_that_nobody_could_read_again_are_not_appended(runs):
    body = {"kind": "note", "run": "a", "more": {str(i): ["x" * 10_000] * 1000 for i in range(2)}}
    assert "characters" in rows.fault(body)
    assert rows.fault(body | {"more": {}}) is None


def test_json_of_many_lists_stays_in_memory(tmp_path):
    """`[[],[],...` takes 25 times its length in memory, and as much again in a list of all of it."""
    path = tmp_path / "run.json"
    path.write_text('{"a":[' + "[]," * 6_000_000 + "1]}")
    with pytest.raises(Failure, match="more than 16,777,216 bytes"):
        files.read_json(path)
    for text, reason in (("[" * 40 + "]" * 40, "inside each other"), ('{"a": [1, {"b": 1e999}]}', "a.1.b: inf")):
        with pytest.raises(ValueError, match=reason):
            files.parse_json(text)


def test_a_folder_of_large_files_is_no_record(tmp_path):
    for number in range(5):
        with open(tmp_path / f"{number}.log", "wb") as file:
            file.truncate(15 * 2**20)
    with pytest.raises(Failure, match="bytes in all"):
        files.check_plain(tmp_path)


def test_names_of_files_forge_no_line(tmp_path, capsys):
    (tmp_path / "a\ngolf check: no rule failed").symlink_to("/etc")
    with pytest.raises(Failure, match=r"a\\ngolf check: no rule failed: a symbolic link"):
        files.check_plain(tmp_path)
    files.explain("golf x", OSError(2, "gone", "a\nb"))
    assert capsys.readouterr().err == "golf x: a\\nb: gone\n"


@pytest.mark.parametrize("make", [pipe, lambda path: path.symlink_to("/etc/passwd")])
def test_scripts_of_records_that_are_no_files(tmp_path, make):
    place = tmp_path / "records/pocket/0001_a"
    place.mkdir(parents=True)
    (place / "record.json").write_text(json.dumps(valid_record("pocket", "0001_a")))
    make(place / "train_gpt.py")
    with pytest.raises(Failure, match="a record holds its files itself"):
        lineage.read_tree(tmp_path)


def test_git_starts_nothing_inside_a_record(tmp_path, monkeypatch):
    """A repository inside a record, which the commit names as a submodule, has settings of its own."""
    place, mark = tmp_path / "records/pocket/0001_a", tmp_path / "ran"
    inner = place / "inner"
    inner.mkdir(parents=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]

    def git(*words: str, where: Path) -> None:
        subprocess.run(["git", *identity, *words], cwd=where, check=True, capture_output=True)

    git("init", "-q", where=inner)
    git("commit", "-q", "--allow-empty", "-m", "1", where=inner)
    (place / "record.json").write_text(json.dumps(valid_record("pocket", "0001_a")))
    git("init", "-q", where=tmp_path)
    git("add", "-A", where=tmp_path)
    git("commit", "-q", "-m", "1", where=tmp_path)
    git("config", "core.fsmonitor", f"touch {mark}; false", where=inner)
    submission = Submission.__new__(Submission)
    submission.folder, submission.record, submission.rules, submission.root = place, {}, 1, tmp_path
    submission.committed = Committed("HEAD", place.relative_to(tmp_path).as_posix())
    with pytest.raises(Failure, match="inner: not a regular file"):
        history_rules.history(submission)
    assert not mark.exists()


@pytest.mark.parametrize("command", ["size", "code", "verify", "inspect"])
@pytest.mark.parametrize("make", [pipe, hole])
def test_artifacts_and_scripts_that_are_no_files(tmp_path, capsys, command, make):
    make(tmp_path / "a")
    assert compress_main.main([command, str(tmp_path / "a")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    "item",
    [
        {"name": 3, "sha256": "", "size": 1},
        {"name": "..", "sha256": "", "size": 1},
        {"name": "../a", "sha256": "", "size": 1},
        {"name": "a", "sha256": "", "size": "1"},
        {"name": "a.bin", "sha256": "", "size": 1, "tokens": "1"},
        [],
    ],
)
def test_entries_of_a_manifest_that_are_none(tmp_path, item):
    with pytest.raises(Failure, match="split dev lists"):
        data_check.check_file(tmp_path, "dev", item)


@pytest.mark.parametrize(
    "path, value, found",
    [
        (["tokenizer"], [], "tokenizer and splits must be objects"),
        (["tokenizer", "vocab_size"], "300", "no good 'vocab_size'"),
        (["splits", "dev"], None, "split dev is missing"),
        (["splits", "dev", "documents"], "1", "split dev has no good 'documents'"),
        (["splits", "dev", "raw_bytes"], ..., "split dev has no good 'raw_bytes'"),
        (["splits", "more\x1b[2J"], {"tokens": 1}, "split more.* has no good 'documents'"),
    ],
)
def test_manifests_that_are_none(tmp_path, path, value, found):
    entry = {"documents": 1, "tokens": 2, "raw_bytes": None, "files": [], "sources": {}}
    manifest = {"tokenizer": {"vocab_size": 300}, "splits": {name: dict(entry) for name in SPLITS}}
    data_check.validate(tmp_path, manifest)
    place = manifest
    for step in path[:-1]:
        place = place[step]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    with pytest.raises(Failure, match=found) as caught:
        data_check.validate(tmp_path, manifest)
    assert str(caught.value).isprintable()


def test_texts_and_shards_of_a_strange_data_set(tmp_path):
    report = data_check.Report()
    (tmp_path / "a.jsonl").write_text('{"id": "a", "source": [1], "text": "t"}\n' + "[" * 5000 + "\n")
    assert data_check._rows(tmp_path / "a.jsonl", report) == [] and len(report.errors) == 2
    pipe(tmp_path / "a.bin")
    with pytest.raises(Failure, match="not a regular file"):
        read_shard(tmp_path / "a.bin")


def test_a_sweep_file_runs_no_command():
    """submitit writes the settings into the shell script of the job; `setup` is lines of it."""
    assert spec.slurm_setting("partition", "gpu") and spec.slurm_setting("gres", "gpu:a100:8")
    assert spec.slurm_setting("additional_parameters", {"requeue": True, "mail-type": "END"})
    for key, value in (
        ("setup", ["touch x"]),
        ("teardown", ["touch x"]),
        ("srun_args", ["--task-prolog=x"]),
        ("python", "sh"),
        ("partition", "gpu\ntouch x"),
        ("partition", ["gpu"]),
        ("additional_parameters", {"a\ntouch x": 1}),
        ("additional_parameters", {"comment": "a\ntouch x"}),
    ):
        assert not spec.slurm_setting(key, value)


def test_a_trial_imports_nothing_that_lies_beside_its_script(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (tmp_path / "script.py").write_text("import json\n")
    monkeypatch.setattr(trial, "ROOT", tmp_path)
    worker = trial.Worker(trial.Trial("a", (), "0", "data", processes=1, score=False))
    worker.stage("train", ["script.py"])
    assert not (tmp_path / "ran").exists()


def test_words_that_only_look_alike_are_told_apart():
    alike = ["ab", "a\u3164b", "a\u115fb", "a\u2800b", "a\u034fb", "a\ufe0fb", "a\U000e0101b", "a\u200bb"]
    assert len({terminal(text) for text in alike}) == len(alike)
    assert [text.isascii() for text in map(terminal, alike)] == [True] * len(alike)
    assert terminal("a b") != terminal("a\u00a0b") and terminal("\u0338x") == "\\u0338x"
    assert terminal("e\u0301 \u0928\u092e\u0938\u094d\u0924\u0947") == "e\u0301 \u0928\u092e\u0938\u094d\u0924\u0947"
    assert terminal("Z" + "\u0351" * 9) == "Z" + "\u0351" * 3 + "\\u0351" * 6
