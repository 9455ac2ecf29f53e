"""golf record against hand-made runs: seeds, every refusal, and each file of a record's folder.

The runs are made here, so nothing is trained, packed or scored; tests/train/test_tiny.py covers the real flow.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf.files import Failure
from tests.support import ROOT, copy_record
from tests.support.made_records import (
    ENVIRONMENT,
    MANIFEST,
    PAR,
    SCRIPT,
    head,
    make,
    make_run,
    make_runs,
    repository,
    rewrite,
    upgrade,
)
from tools.records import record
from tools.runs import curves, ledger


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A repository with one commit, which record.py takes for its own."""
    return repository(tmp_path, monkeypatch)


def test_seeds_are_the_documented_hash():
    # printf COMMIT:0 | sha256sum, the first 8 hex digits modulo 2^31, and so on; computed with coreutils
    assert record.draw_seeds("0123456789abcdef0123456789abcdef01234567", 3) == [956351395, 2020534328, 1486037727]


def test_seeds_command_uses_the_full_hash(root, capsys):
    assert record.main(["seeds", "--commit", "HEAD", "--count", "4", "--json"]) == 0
    *printed, last = capsys.readouterr().out.splitlines()
    expected = record.draw_seeds(head(root), 4)
    assert [int(line) for line in printed] == expected
    assert json.loads(last) == {"format": 1, "commit": head(root), "seeds": expected}


def test_unknown_commit_is_refused(root, capsys):
    assert record.main(["seeds", "--commit", "nonsense"]) == 1
    assert "nonsense" in capsys.readouterr().err


def test_record_folder(root, capsys):
    runs = make_runs(root)
    assert make(root, runs, "--source", "Keller 2024", "--source", "https://a.org", "--json") == 0
    folder = root / "records/pocket/0001_baseline"
    seeds = record.draw_seeds(head(root), 3)
    made = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert made == {"README.md", "record.json", "train_gpt.py", "parent.diff", "curves.png"} | {
        f"{where}{seed}{what}"
        for seed in seeds
        for where, what in (
            ("logs/seed", ".log"),
            ("logs/seed", ".metrics.jsonl"),
            ("logs/seed", ".run.json"),
            ("eval/seed", ".json"),
            ("artifacts/seed", ".golf"),
        )
    }
    assert (folder / "train_gpt.py").read_text() == SCRIPT
    assert (folder / "parent.diff").read_bytes() == b""
    for seed, run in zip(seeds, runs):
        assert (folder / f"logs/seed{seed}.log").read_bytes() == (run / "train.log").read_bytes()
        assert (folder / f"logs/seed{seed}.run.json").read_bytes() == (run / "run.json").read_bytes()
        assert (folder / f"logs/seed{seed}.metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()
        assert (folder / f"eval/seed{seed}.json").read_bytes() == (run / "eval.json").read_bytes()
        assert (folder / f"artifacts/seed{seed}.golf").read_bytes() == (run / "model.golf").read_bytes()

    written = json.loads((folder / "record.json").read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == written
    median = runs[0] / "model.golf"  # 1.90 < 1.92 < 1.97
    assert written.pop("bpb_mean") == pytest.approx(1.93)
    assert written.pop("bpb_sd") == pytest.approx(np.std([1.92, 1.90, 1.97], ddof=1))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", written.pop("date"))
    assert re.fullmatch("[0-9a-f]{64}", written["ledger_head"])
    assert written.pop("ledger_head") == ledger.last_hash(root)
    assert written == {
        "format": 2,
        "rules": 2,
        "track": "pocket",
        "number": "0001",
        "slug": "baseline",
        "title": "The baseline",
        "idea": "Start here.",
        "parent": None,
        "authors": ["Ann"],
        "sources": ["Keller 2024", "https://a.org"],
        "agent_help": "some",
        "script_sha256": hashlib.sha256(SCRIPT.encode()).hexdigest(),
        "artifact": {
            "file": f"artifacts/seed{seeds[0]}.golf",
            "bytes": median.stat().st_size,
            "sha256": hashlib.sha256(median.read_bytes()).hexdigest(),
            "seed": seeds[0],
        },
        "config": {
            "width": 96,
            "preset": "pocket",
            "compile": True,
            "max_seconds": 0.0,
            "max_tokens": 8192000,
        },
        "scope": "document",
        "data": {"manifest_sha256": MANIFEST, "split": "dev", "docs_sha256": "d"},
        "seeds": [
            {
                "seed": seed,
                "bpb": bpb,
                "artifact_bytes": (run / "model.golf").stat().st_size,
                "train_seconds": 599.5,
                "steps": 1000 + seed % 7,
                "tokens": 8192000,
                "artifact_file": f"artifacts/seed{seed}.golf",
                "artifact_sha256": hashlib.sha256((run / "model.golf").read_bytes()).hexdigest(),
            }
            for seed, bpb, run in zip(seeds, (1.92, 1.90, 1.97), runs)
        ],
        "seed_commit": head(root),
        "environment": ENVIRONMENT,
        "variants": 1,
        "par": PAR,
        "hub": None,
        "files": {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*")
            if path.is_file() and path.name not in ("README.md", "record.json", "curves.png")
        },
    }
    assert record.schema_errors(json.loads((folder / "record.json").read_text())) == []


def test_record_readme_states_mean_spread_interval_and_the_command(root):
    assert make(root, make_runs(root, config={"width": 128, "compile": False})) == 0
    text = (root / "records/pocket/0001_baseline/README.md").read_text()
    half = 4.302653 * np.std([1.92, 1.90, 1.97], ddof=1) / 3**0.5  # t with 2 degrees of freedom, two-sided 95%
    assert f"Mean 1.9300 bpb, standard deviation {np.std([1.92, 1.90, 1.97], ddof=1):.4f}" in text
    assert f"{1.93 - half:.4f} to {1.93 + half:.4f} (Student's t, df = 2)" in text
    seed = record.draw_seeds(head(root), 3)[0]
    name = "records/pocket/0001_baseline"
    assert (
        f"python {name}/train_gpt.py --preset=pocket --width=128 --compile=False --seed={seed} "
        f"--run_dir=runs/0001_baseline_s{seed}\n"
    ) in text
    assert f"python eval_heldout.py {name}/artifacts/seed{seed}.golf --data data/embedded --split dev\n" in text
    assert f"golf reproduce {name}\n" in text
    for each in record.draw_seeds(head(root), 3):
        assert f"[artifacts/seed{each}.golf](artifacts/seed{each}.golf)" in text
    assert "r = 1.040 times as fast as record 0001's (95% interval 1.020 to 1.060, 40 rounds" in text
    assert "class avx512-bf16 (A Processor \\| of 2 cores)" in text and "allows 9,180,000 tokens" in text


def test_one_seed_has_no_spread(root):
    assert make(root, make_runs(root, 1)) == 0
    folder = root / "records/pocket/0001_baseline"
    assert json.loads((folder / "record.json").read_text())["bpb_sd"] is None
    assert "interval of the mean" not in (folder / "README.md").read_text()


def test_large_artifacts_are_named_by_hash_and_kept_to_be_published(root, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(root / "home"))
    big = bytes(record.COMMITTED_BYTES + 1)
    runs = make_runs(root, artifact=big, track="open")
    assert make(root, runs, track="open", par=None) == 0
    assert "now run golf record publish records/open/0001_baseline --hub OWNER/NAME" in capsys.readouterr().out
    folder = root / "records/open/0001_baseline"
    written = json.loads((folder / "record.json").read_text())
    sha256 = hashlib.sha256(big).hexdigest()
    assert written["artifact"]["file"] is None and written["artifact"]["bytes"] == len(big) and written["hub"] is None
    assert {(row["artifact_file"], row["artifact_sha256"]) for row in written["seeds"]} == {(None, sha256)}
    assert not list(folder.rglob("*.golf")) and written["artifact"]["sha256"] == sha256
    assert (folder / "README.md").read_text().count(sha256) == 3
    assert (root / f"home/.cache/golf/artifacts/{sha256}.golf").read_bytes() == big


@pytest.mark.parametrize(
    "before, after",
    [
        (SCRIPT, SCRIPT.replace("width: int = 64", "width: int = 32") + "\nEXTRA = 1\n"),
        (SCRIPT, SCRIPT.rstrip("\n")),
        (SCRIPT.rstrip("\n"), "import os\n" + SCRIPT),
    ],
)
def test_parent_diff_turns_the_parent_into_the_child(root, before, after):
    assert make(root, make_runs(root, script=before)) == 0
    parent = root / "records/pocket/0001_baseline"
    os.rename(root / "runs", root / "runs_before")
    assert make(root, make_runs(root, script=after), "--parent", str(parent), number="0002", slug="next") == 0
    folder = root / "records/pocket/0002_next"
    assert json.loads((folder / "record.json").read_text())["parent"] == "0001_baseline"
    applied = root / "applied"
    applied.mkdir()
    (applied / "train_gpt.py").write_bytes((parent / "train_gpt.py").read_bytes())
    subprocess.run(["git", "init", "-q"], cwd=applied, check=True)
    subprocess.run(["git", "apply", "-p2", str(folder / "parent.diff")], cwd=applied, check=True)
    assert (applied / "train_gpt.py").read_text() == after


def test_parent_diff_starts_from_the_parents_reference_where_that_is_nearer(root):
    assert make(root, make_runs(root)) == 0
    os.rename(root / "runs", root / "runs_before")
    reference = root / "records/references/0001_baseline.py"
    reference.parent.mkdir()
    reference.write_text("# written anew\n" + SCRIPT.replace("width: int = 64", "width: int = 8 * 8"))
    after = reference.read_text() + "EXTRA = 1\n"
    parent = root / "records/pocket/0001_baseline"
    assert make(root, make_runs(root, script=after), "--parent", str(parent), number="0002", slug="next") == 0
    diff = (root / "records/pocket/0002_next/parent.diff").read_text()
    assert diff.startswith("--- a/references/0001_baseline.py\n+++ b/0002_next/train_gpt.py\n")
    changed = [line for line in diff.splitlines()[2:] if line[0] in "+-"]
    assert changed == ["+EXTRA = 1"]


REFUSED = {
    "no eval.json": lambda runs: (runs[1] / "eval.json").unlink(),
    "eval.json: not JSON": lambda runs: (runs[1] / "eval.json").write_text("{"),
    "'training_seconds'": lambda runs: rewrite(runs[1] / "run.json", lambda r: r.pop("training_seconds")),
    "scored another artifact": lambda runs: (runs[1] / "model.golf").write_bytes(b"other"),
    "trained and scored on different data": lambda runs: rewrite(
        runs[1] / "eval.json", lambda r: r["data"].update(manifest_sha256="x")
    ),
    "none of the pocket track's, data/embedded and data/embedded_sp2048_case: build": lambda runs: [
        rewrite(runs[1] / name, lambda r: r["data"].update(manifest_sha256="x")) for name in ("run.json", "eval.json")
    ],
    "held-out data (split)": lambda runs: rewrite(runs[1] / "eval.json", lambda r: r["data"].update(split="gate")),
    "its head is not the script": lambda runs: (runs[1] / "train.log").write_text("# edited\n" + SCRIPT),
    "not the same config (width)": lambda runs: rewrite(runs[1] / "run.json", lambda r: r["config"].update(width=1)),
    "not the same world size": lambda runs: rewrite(runs[1] / "run.json", lambda r: r.update(world_size=2)),
    "not the same scope": lambda runs: rewrite(runs[1] / "eval.json", lambda r: r.update(scope="stream")),
    "trained for the 16mb track": lambda runs: rewrite(runs[1] / "run.json", lambda r: r.update(track="16mb")),
    "r = 1.02 (the lower end of `golf par`) allows 9,000,000 x r = 9,180,000: train with": lambda runs: rewrite(
        runs[1] / "run.json", lambda r: r.update(tokens=9_180_001)
    ),
    "clock on the wall (max_seconds is 600.0)": lambda runs: rewrite(
        runs[1] / "run.json", lambda r: r["config"].update(max_seconds=600.0)
    ),
    "clock on the wall (max_seconds is 0.0)": lambda runs: rewrite(
        runs[1] / "run.json", lambda r: r["config"].update(max_tokens=0)
    ),
    "two runs have the same seed": lambda runs: rewrite(
        runs[1] / "run.json", lambda r: r.update(seed=json.loads((runs[0] / "run.json").read_text())["seed"])
    ),
    "draws": lambda runs: rewrite(runs[1] / "run.json", lambda r: r.update(seed=42)),
    "metrics.jsonl:21": lambda runs: (runs[1] / "metrics.jsonl").open("a").write("{}\n"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refusal_is_one_line_and_leaves_nothing(root, capsys, reason):
    runs = make_runs(root)
    REFUSED[reason](runs)
    assert make(root, runs) == 1
    error = capsys.readouterr().err
    assert reason in error and "s1" in error or reason in ("draws", "two runs have the same seed") and reason in error
    others = [line for line in error.splitlines() if not line.startswith("golf log: left out ")]  # the log names it too
    assert len(others) == 1
    assert [path for path in (root / "records").rglob("*") if path.is_file() or "0001" in path.name] == []


WRONG = {  # file, where in it, the JSON text of another value
    "run.json": [
        ("training_seconds", "NaN"),
        ("training_seconds", "-1"),
        ("training_seconds", '"9"'),
        ("steps", "true"),
        ("steps", "1.0"),
        ("seed", '"1"'),
        ("seed", "9" * 5000),
        ("config", "[1]"),
        ("environment", "null"),
        ("data", "7"),
        ("tokens", "1e999"),
        ("preset", '"\\u001b[31m"'),
        ("source_sha256", '"x"'),
        ("world_size", "0"),
        ("config", "[" * 100_000 + "]" * 100_000),
    ],
    "eval.json": [
        ("bpb", "NaN"),
        ("bpb", "Infinity"),
        ("bpb", "-Infinity"),
        ("bpb", "0"),
        ("bpb", "true"),
        ("scope", "[]"),
        ("data", "[1]"),
        ("artifact", '"x"'),
        ("per_document", "{}"),
        ("clock", "1"),
    ],
}


@pytest.mark.parametrize("name, key, text", [(name, *case) for name, cases in WRONG.items() for case in cases])
def test_a_wrong_value_is_one_line_that_names_file_and_field(root, capsys, name, key, text):
    runs = make_runs(root)
    folder = runs[1].rename(root / "given")  # not in runs/, where the log would read it too
    value = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(value | {key: "HERE"}).replace('"HERE"', text))
    assert make(root, [runs[0], folder, runs[2]]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"given/{name}: " in error and len(error) < 1000 and "\x1b" not in error
    assert key in error or len(text) > 1000  # what json itself refuses has no field
    assert not list((root / "records").rglob("*"))


@pytest.mark.parametrize(
    "row",
    [
        '{"step": 20, "elapsed": NaN}',
        '{"step": "1", "elapsed": 1}',
        '{"step": 1}',
        "[]",
        '{"step": 1, "elapsed": null}',
        '{"step": true, "elapsed": 1}',
        "1",
        '{"step": ' + "9" * 5000,
        '{"step": 20, "elapsed": 1, "loss": "x"}',
        '{"step": 20, "elapsed": 1, "loss": 1e300}',
        "[" * 100_000,
        '{"step": 20, "elapsed": 1, "\x1b[31m": {}}',
    ],
)
def test_a_wrong_row_of_metrics_is_one_line(root, capsys, row):
    runs = make_runs(root)
    with (runs[1] / "metrics.jsonl").open("a") as file:
        file.write(row + "\n")
    assert make(root, runs) == 1
    error = capsys.readouterr().err
    assert "s1/metrics.jsonl:21: " in error and error[:-1].isprintable() and len(error) < 500
    assert not list((root / "records").rglob("*"))


def test_nobody_finds_a_record_that_is_half_made(root, monkeypatch):
    """Where a kill would leave it, neither the leaderboard's glob nor lineage's reaches it."""
    runs, seen = make_runs(root), []

    def look(path, title, curves):
        seen.append(
            (
                list(root.glob("records/*/*/record.json")),
                list(root.glob("records/*/*/train_gpt.py")),
                len(list(root.rglob("records/**/train_gpt.py"))),
            )
        )
        path.write_bytes(b"")

    monkeypatch.setattr(curves, "draw", look)
    assert make(root, runs) == 0
    assert seen == [([], [], 1)]
    assert sorted(path.name for path in (root / "records").iterdir()) == ["pocket"]


def test_the_readme_shows_words_as_they_are(root):
    from markdown_it import MarkdownIt

    words = "<script>x</script> [a](javascript:b) `c` | <!-- /leaderboard --> ![d](https://e.invalid/f.png)"
    assert make(root, make_runs(root), "--title", words, "--idea", words, "--author", words) == 0
    text = (root / "records/pocket/0001_baseline/README.md").read_text()
    html = MarkdownIt("commonmark").enable("table").render(text)
    assert (
        not re.search(r"<script|<a (?!href=\"artifacts/seed\d+.golf\")|<!--|<img (?!src=\"curves.png\")", html)
        and "<!--" not in text
    )
    shown = html.replace("&#8203;", "").replace("\u200b", "")
    assert shown.count("&lt;script&gt;x&lt;/script&gt; [a](javascript:b) `c` |") == 3


def test_words_for_the_shell_are_quoted(root):
    runs = make_runs(root, data={"dir": "data/x; touch stolen", "manifest_sha256": MANIFEST}, preset="pocket")
    assert make(root, runs) == 0
    text = (root / "records/pocket/0001_baseline/README.md").read_text()
    assert text.count("--data 'data/x; touch stolen' --split dev") == 2


def test_a_run_to_the_last_token_that_par_allows(root):
    assert make(root, make_runs(root, tokens=9_180_000)) == 0


def test_a_run_that_ends_by_steps_as_record_0001s_script_does(root):
    config = {"max_tokens": 0, "max_steps": 1000}
    assert make(root, make_runs(root, config=config)) == 0


def test_the_clock_of_a_track_without_par(root, capsys):
    runs = make_runs(root, track="16mb", training_seconds=600.5, config={"max_seconds": 600.0})
    assert make(root, runs, track="16mb", par=None) == 1
    assert "trained for 600.5 s, the clock is 600 s" in capsys.readouterr().err
    for run in runs:
        rewrite(run / "run.json", lambda r: r.update(training_seconds=600.0, world_size=9))
    assert make(root, runs, track="16mb", par=None) == 1
    assert "trained on 9 GPUs, the track has 8" in capsys.readouterr().err
    for run in runs:
        rewrite(run / "run.json", lambda r: r.update(world_size=8))
    assert make(root, runs, track="16mb", par=None) == 0
    assert json.loads((root / "records/16mb/0001_baseline/record.json").read_text())["par"] is None


WRONG_PAR = {
    "": "its last line is not JSON",
    "[" * 100_000: "not JSON",
    "[1]": "no JSON object",
    json.dumps({key: value for key, value in PAR.items() if key != "low"}): "'low' is a required property",
    json.dumps(PAR | {"low": 1.05}): "ratio 1.04 is not between low 1.05 and high 1.06",
    json.dumps(PAR | {"low": "1"}): "low: '1' is not of type 'number'",
    json.dumps(PAR | {"ratio": -1}): "ratio: -1 is less than",
    json.dumps(PAR | {"processor": "\x1b[31m"}): "processor: ",
    json.dumps(PAR | {"processor": "half \ud800"}): "processor: ",
    json.dumps(PAR | {"processor_class": "mine"}): "processor_class: 'mine' is not one of",
    json.dumps(PAR | {"more": 1}): "'more' was unexpected",
    '{"ratio": NaN}': "nan is not a finite number",
}


@pytest.mark.parametrize("text", WRONG_PAR, ids=WRONG_PAR.get)
def test_a_file_that_golf_par_did_not_write(root, capsys, text):
    (root / "given.json").write_text(f"progress\n{text}\n" if text else "")
    assert make(root, make_runs(root), "--par", str(root / "given.json"), par=None) == 1
    error = capsys.readouterr().err
    assert "given.json: " in error and WRONG_PAR[text] in error
    assert error.count("\n") == 1 and len(error) < 600 and error[:-1].isprintable()
    assert not list((root / "records").rglob("*"))


def test_par_is_asked_for_where_it_rules_and_refused_elsewhere(root, capsys):
    runs = make_runs(root)
    assert make(root, runs, par=None) == 1
    assert "--par FILE: the pocket track needs it: golf par train_gpt.py --json > par.json" in capsys.readouterr().err
    assert make(root, runs, par=None, track="open") == 1
    assert "trained for the pocket track" in capsys.readouterr().err
    assert make(root, runs, track="open") == 1
    assert "the open track has no par" in capsys.readouterr().err


def test_the_first_record_under_these_rules_may_have_no_parent_or_an_older_one(root, capsys):
    old = root / "records/pocket/0001_baseline"
    copy_record(ROOT / "records/pocket/0001_baseline", old)
    runs = make_runs(root)
    assert make(root, runs, number="0005", slug="first") == 0
    shutil.rmtree(root / "records/pocket/0005_first")
    assert make(root, runs, "--parent", str(old), number="0005", slug="first") == 0

    assert make(root, runs, number="0006", slug="next") == 1
    assert "--parent: name the record that it builds on, such as records/pocket/0005_first" in (capsys.readouterr().err)
    assert make(root, runs, "--parent", str(old), number="0006", slug="next") == 1
    assert "made under version 1 of the rules, with another clock" in capsys.readouterr().err
    assert make(root, runs, "--parent", str(old.with_name("0005_first")), number="0006", slug="next") == 0
    assert json.loads((root / "records/pocket/0006_next/record.json").read_text())["parent"] == "0005_first"
    assert make(root, runs, "--parent", str(root / "runs"), number="0007", slug="last") == 1
    assert "not a record's folder" in capsys.readouterr().err


def test_a_log_that_was_edited_makes_no_record(root, capsys):
    runs = make_runs(root)
    ledger.sync(root)
    path = root / "runs/ledger.jsonl"
    path.write_text(path.read_text().replace('"steps":1', '"steps":2', 1))
    assert make(root, runs) == 1
    assert "ledger.jsonl" in capsys.readouterr().err and not list((root / "records").rglob("record.json"))


def test_an_upgraded_record_is_valid(tmp_path):
    folder = tmp_path / "0001_baseline"
    copy_record(ROOT / "records/pocket/0001_baseline", folder)
    data = upgrade(folder)
    assert record.schema_errors(data) == []
    assert record.schema_errors(data | {"format": 1}) != []


def test_other_script_is_refused(root, capsys):
    runs = make_runs(root, 2)
    runs.append(make_run(root / "runs/s2", record.draw_seeds(head(root), 3)[2], 1.9, script=SCRIPT + "\n# more\n"))
    assert make(root, runs) == 1
    assert "not the same script" in capsys.readouterr().err


def test_over_the_cap_is_refused_by_one_byte(root, capsys):
    runs = make_runs(root, artifact=bytes(250_001))
    assert make(root, runs) == 1
    assert "250,001 bytes, the cap is 250,000" in capsys.readouterr().err
    for run in runs:
        (run / "model.golf").write_bytes(bytes(250_000))
        rewrite(run / "eval.json", lambda r: r["artifact"].update(sha256=hashlib.sha256(bytes(250_000)).hexdigest()))
    assert make(root, runs) == 0


def test_taking_the_best_of_more_seeds_is_refused(root, capsys):
    runs = make_runs(root, 5, bpbs=(1.99, 1.90, 1.91, 1.99, 1.90))
    assert make(root, [runs[1], runs[2], runs[4]]) == 1
    assert "draws" in capsys.readouterr().err


def test_number_in_use_is_refused_and_kept(root, capsys):
    runs = make_runs(root)
    assert make(root, runs) == 0
    before = {path: path.read_bytes() for path in (root / "records").rglob("*") if path.is_file()}
    assert make(root, runs, slug="again") == 1
    assert "0001_baseline exists" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (root / "records").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "flag, value",
    [
        ("--number", "1"),
        ("--slug", "a/b"),
        ("--slug", ".."),
        ("--track", "mine"),
        ("--idea", "two\nlines"),
        ("--agent-help", "lots"),
    ],
)
def test_bad_usage_exits_2(root, flag, value):
    with pytest.raises(SystemExit) as exit_info:
        make(root, [], flag, value)
    assert exit_info.value.code == 2


@given(source=st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=200), rest=st.text(max_size=100))
def test_source_is_found_at_the_head_of_any_log(tmp_path_factory, source, rest):
    log = tmp_path_factory.mktemp("log") / "train.log"
    data = source.encode()
    log.write_bytes(data + b"\n# source_sha256 \n" + rest.encode(errors="surrogatepass"))
    assert record.source_in_log(log, hashlib.sha256(data).hexdigest()) == data
    with pytest.raises(Failure):
        record.source_in_log(log, hashlib.sha256(data + b"?").hexdigest())


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=300))
def test_smoothing_is_a_centred_mean(values):
    half = len(values) // 50
    padded = np.pad(values, half, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    assert np.allclose(curves.smooth(values), np.nanmean(windows, axis=1))


@pytest.mark.slow
def test_curve_shows_the_rows(tmp_path):
    from matplotlib.image import imread

    rows = [{"step": i, "elapsed": float(i), "loss": 5 - i / 30, "dev_bpb": 2.0} for i in range(100)]
    pixels = []
    for name, shown in (
        ("falling", rows),
        ("twice", rows + rows[-1:]),
        ("flat", [row | {"loss": 2.0} for row in rows]),
        ("no dev", [{k: v for k, v in row.items() if k != "dev_bpb"} for row in rows]),
    ):
        curves.draw(tmp_path / f"{name}.png", "a run", [("seed 1", shown)])
        pixels.append(imread(tmp_path / f"{name}.png")[..., :3])
    blue = [np.argwhere(np.abs(image - [31 / 255, 119 / 255, 180 / 255]).max(-1) < 0.02) for image in pixels]
    top = [points[points[:, 0] < 340] for points in blue]  # the upper panel
    left, right = top[0][top[0][:, 1] < 200], top[0][top[0][:, 1] > 800]
    assert left[:, 0].mean() + 100 < right[:, 0].mean()  # the loss falls from upper left to lower right
    assert (pixels[0] == pixels[1]).all()  # a second row of the last step changes nothing
    assert pixels[0].shape[0] > pixels[3].shape[0]  # a second panel only where there is a dev bpb
