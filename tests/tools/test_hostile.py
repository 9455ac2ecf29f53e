"""Every command that prints a stranger's words, on words that are markup and escapes: nothing is lost, nothing acts.

The words are shown in full, with control characters as escapes that can be read. Not covered: the log of runs
(runs/test_ledger.py), README.md (records/test_leaderboard.py) and the site (records/test_pages.py).
"""

import json
import os
import re
import unicodedata

import pytest
from rich.console import Console

import eval_heldout
from compress import __main__ as compress_main
from compress import report as compress_report
from golf.files import Failure
from golf.foreign import terminal
from scoring import report as scoring_report
from tests.support.own_cache import own_cache  # noqa: F401
from tests.support.site_records import valid_record
from tools.records import lineage
from tools.runs import pipeline, watch

WORDS = "[/x] \x1b[2J\x1b]0;t\x07 [bold]kept[/bold] [red on blue]\\ \x9b31m\u202eend"
SHOWN = terminal(WORDS)


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "2000")


def check(capsys, times: int = 1) -> None:
    """What was printed holds the words so many times, with nothing that a terminal would act on."""
    captured = capsys.readouterr()
    printed = captured.out + captured.err
    unsafe = {character for character in printed if unicodedata.category(character) in ("Cc", "Cf", "Cs")} - {"\n"}
    assert unsafe == set()
    assert printed.count(SHOWN) >= times, printed


def sizes() -> dict:
    return {
        "artifact": WORDS,
        "track": "pocket",
        "artifact_bytes": 10,
        "cap_bytes": 20,
        "headroom_bytes": 10,
        "sections": {WORDS: 10},
        "public_rule": {"total_bytes": 3, "code_bytes": 1, "weights_bytes": 2},
    }


def test_tensors_and_sections_of_an_artifact(capsys):
    row = {
        "name": WORDS,
        "shape": [1, 2],
        "code_bytes": 1.0,
        "entropy_bytes": 1.0,
        "entropy": 1.0,
        "distance": 0.1,
        "side_bytes": 1.0,
        "bits_per_weight": 3.0,
        "largest_code": 4,
    }
    bound = {"bytes": 10, "distance": 0.1, "bound_bytes": 9.0}
    compress_report.print_inspect(sizes() | {"tensors": [row], "weights_bound": bound})
    check(capsys, times=3)
    compress_report.print_rows([{"version": WORDS}], {"version": ""}, WORDS)
    check(capsys, times=2)
    compress_main.say(WORDS)
    check(capsys)


def test_errors_of_compress_and_of_the_scorer(tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise ValueError(WORDS)

    monkeypatch.setattr(compress_main.container, "read", fail)
    path = tmp_path / "a.golf"
    path.write_bytes(b"x")
    assert compress_main.main(["size", str(path)]) == 1
    check(capsys)
    monkeypatch.setattr(compress_main.bounded, "call", fail)
    assert compress_main.main(["inspect", str(path)]) == 1
    check(capsys)

    def refuse(*_):
        raise Failure(WORDS)

    monkeypatch.setattr(eval_heldout, "main_score", refuse)
    assert eval_heldout.main(["x"]) == 1
    check(capsys)


def test_tables_of_a_score(capsys):
    part = {"bpb": 1.5, "bpb_interval": [1.4, 1.6], "raw_bytes": 10, "documents": 2}
    result = part | {
        "artifact": {"name": WORDS, "bytes": 10},
        "data": {"split": "dev"},
        "slices": {f"source {WORDS}": part},
        "clock": {"score": 1.0},
        "sandbox": [{"layer": WORDS, "active": False, "note": WORDS}],
        "audits": [{"audit": WORDS, "verdict": WORDS, "detail": WORDS, "n": 3}],
        "files_opened": [WORDS, "b"],
        "scope": "stream",
        "processes": 1,
        "device": "cpu",
        "tokens": 3,
        "tokens_per_second": 1.0,
        "audit": "none",
        "probabilities": "audited",
    }
    scoring_report.print_report(result, WORDS)
    check(capsys, times=9)


def test_a_run_that_is_watched(tmp_path, capsys):
    def begin(name: str, **files):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "train.log").write_text(f"config {{}}\n{WORDS}\n")
        for file, value in files.items():
            (folder / f"{file}.json").write_text(json.dumps(value))
        return folder

    name = WORDS.replace("/", "")
    begin(name)
    begin("ended", run={"stopped": WORDS, "clock": {WORDS: 1.0}, "config": {}})
    crashed = begin("crashed")
    for path in (crashed, *crashed.iterdir()):
        os.utime(path, (0, 0))
    watcher = watch.Watch(tmp_path)
    Console().print(watch.frame(watcher, 1990, 200))
    captured = capsys.readouterr().out
    assert {c for c in captured if unicodedata.category(c) in ("Cc", "Cf", "Cs")} == {"\n"}
    assert captured.count(SHOWN) == 3 and captured.count(terminal(name)) == 1


def test_authors_and_names_of_records(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(lineage, "ROOT", tmp_path)
    folder = tmp_path / "records/pocket/0001_a"
    folder.mkdir(parents=True)
    (folder / "train_gpt.py").write_text("a = 1\n")
    name = "[/x] [bold]kept[/bold] [red on blue]\\ \u202eend"  # a control character is refused before it is shown
    (folder / "record.json").write_text(json.dumps(valid_record("pocket", "0001_a", authors=[name])))
    assert lineage.main([]) == 0
    assert terminal(name) in capsys.readouterr().out
    assert lineage.main(["--invalid", WORDS]) == 1
    check(capsys)


def test_the_table_of_make_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pipeline, "ROOT", tmp_path)
    name = WORDS.replace("/", "")
    (tmp_path / name).write_text("x")
    pipeline.report(
        {
            "run_dir": WORDS,
            "split": "dev",
            "val_bpb": 1.5,
            "bpb_interval": [1.4, 1.6],
            "documents": 2,
            "raw_bytes": 10,
            "xz_bits_per_byte": 2.0,
            "artifact_bytes": 10,
            "headroom_bytes": 1,
            "sections": {WORDS: 10},
            "steps": 1,
            "tokens": 1,
            "tokens_per_second": 1.0,
            "mfu": None,
            "files": [name],
            "clock": {"stages": {"train": 1.0}, "train": {WORDS: 1.0}, "score": {}},
        },
        Console(),
    )
    captured = capsys.readouterr().out
    assert {c for c in captured if unicodedata.category(c) in ("Cc", "Cf", "Cs")} == {"\n"}
    assert captured.count(SHOWN) == 3 and captured.count(terminal(name)) == 1


def test_templates_of_the_site_leave_nothing_unescaped():
    """jinja2 escapes every value; only the README of a record, which markdown-it-py renders, is marked as HTML."""
    from tools.records import rendering

    environment = rendering.environment("golf board")
    assert environment.autoescape is True
    for path in sorted(rendering.TEMPLATES.glob("*.html")):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*safe\b|autoescape|Markup", text), path.name
        assert set(re.findall(r"\{\{[^}]*\|\s*html[^}]*\}\}", text)) <= {"{{ readme|html }}"}, path.name
        assert not re.search(r"=\s*\{\{", text), f"{path.name}: an attribute without quotes"
        links = set(re.findall(r'href="\{\{\s*(\w+)[^}]*\}\}"', text))
        assert links <= {"up", "source", "best", "r", "other"}, path.name  # pages of ours, and sources that are http
    assert 'source.startswith(("https://", "http://"))' in (rendering.TEMPLATES / "record.html").read_text(
        encoding="utf-8"
    )
