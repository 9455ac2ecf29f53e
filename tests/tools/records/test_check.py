"""golf check and tools/records/rules.py on copies of the first record: as it is, and damaged in every way named.

Scoring again is a stub that gives what eval/ holds, but for one test that runs the real scorer on a small data set.
"""

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from golf import files
from golf.files import Failure
from tests.support import ROOT
from tools.records import check, record, rules

BASELINE = ROOT / "records/pocket/0001_baseline"
SKIPPED = {"R17"}  # not committed under this path
AUDITED = {"audit": "full", "audits": [{"audit": "blind", "verdict": "pass", "detail": "2,000 positions"}]}
RESCORED = rules.Submission.rescored  # the real one
IN_CLONE = (
    subprocess.run(
        ["git", "cat-file", "-e", json.loads((BASELINE / "record.json").read_text())["seed_commit"]],
        cwd=ROOT,
        capture_output=True,
    ).returncode
    == 0
)


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the record; `make_parent` and other seeds work on it. Scoring again gives what was scored."""
    folder = tmp_path / "0001_baseline"
    shutil.copytree(BASELINE, folder)

    def rescored(self):
        seed = self.record["artifact"]["seed"]
        return json.loads((BASELINE / f"eval/seed{seed}.json").read_text()) | AUDITED if self.scores else None

    monkeypatch.setattr(rules.Submission, "rescored", property(rescored))
    return folder


def verdicts(folder, **options):
    found = rules.check(rules.Submission(folder, Path("/no/data"), **options))
    assert list(found) == [f"R{i}" for i in range(1, 19)]
    return found


def failed(folder, **options):
    return {name for name, verdict in verdicts(folder, **options).items() if verdict.status == "FAIL"}


def test_every_rule_of_rules_md_has_its_function():
    named = [
        line.split(".")[0].strip("*") for line in (ROOT / "RULES.md").read_text().splitlines() if line.startswith("**R")
    ]
    assert named == [name for name, _, _ in rules.RULES]


def test_the_record_as_it_is(copy):
    found = verdicts(copy)
    assert {name for name, verdict in found.items() if verdict.status != "PASS"} <= SKIPPED | {"R6"} | (
        set() if IN_CLONE else {"R14"}
    )
    assert not any(verdict.status == "FAIL" for verdict in found.values())


def edit(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def edit_record(change):
    return lambda folder: edit(folder / "record.json", change)


def edit_text(name, old, new, count=1):
    def damage(folder):
        path = next(folder.glob(name))
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, count))

    return damage


def extra_byte(folder):
    """One byte over the cap, with every number that names the size made to agree."""
    path = folder / "baseline.golf"
    path.write_bytes(path.read_bytes().ljust(250_001, b"\0"))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    for score in folder.glob("eval/*.json"):
        edit(score, lambda r: r["artifact"].update(bytes=250_001, sha256=sha256))
    edit(folder / "record.json", lambda r: r["artifact"].update(bytes=250_001, sha256=sha256))
    edit(folder / "record.json", lambda r: [row.update(artifact_bytes=250_001) for row in r["seeds"]])


def consistent_bpb(folder):
    """A better score everywhere it stands: only scoring again can tell."""
    for score in folder.glob("eval/*.json"):

        def change(r):
            r["bpb"] *= 0.99
            for row in r["per_document"]:
                row["nats"] *= 0.99
            r["bpb"] = sum(d["nats"] for d in r["per_document"]) / math.log(2) / r["raw_bytes"]

        edit(score, change)
    scores = {int(p.stem.removeprefix("seed")): json.loads(p.read_text())["bpb"] for p in folder.glob("eval/*.json")}

    def change(r):
        for row in r["seeds"]:
            row["bpb"] = scores[row["seed"]]
        values = [row["bpb"] for row in r["seeds"]]
        r["bpb_mean"] = sum(values) / 3
        r["bpb_sd"] = (sum((v - r["bpb_mean"]) ** 2 for v in values) / 2) ** 0.5

    edit(folder / "record.json", change)


def other_seed(folder):
    for name in (
        "logs/seed172484047.log",
        "logs/seed172484047.run.json",
        "logs/seed172484047.metrics.jsonl",
        "eval/seed172484047.json",
    ):
        path = folder / name
        path.write_text(path.read_text().replace("172484047", "42"))
        path.rename(folder / name.replace("172484047", "42"))
    edit(folder / "record.json", lambda r: r["seeds"][0].update(seed=42))


def wide_line(folder):
    path = folder / "train_gpt.py"
    path.write_text(path.read_text() + "#" * 121 + "\n")


DAMAGES = {
    "changed bpb": (edit_record(lambda r: r["seeds"][0].update(bpb=1.6)), {"R8"}),
    "changed mean": (edit_record(lambda r: r.update(bpb_mean=1.7)), {"R8"}),
    "population deviation": (edit_record(lambda r: r.update(bpb_sd=r["bpb_sd"] * (2 / 3) ** 0.5)), {"R8"}),
    "changed bpb everywhere": (consistent_bpb, {"R8"}),
    "one document's nats": (
        lambda f: edit(next(f.glob("eval/*.json")), lambda r: r["per_document"][3].update(nats=1.0)),
        {"R8"},
    ),
    "swapped artifact": (lambda f: (f / "baseline.golf").write_bytes(b"GOLF" + bytes(245_825)), {"R1"}),
    "missing artifact": (lambda f: (f / "baseline.golf").unlink(), {"R1"}),
    "an extra byte over the cap": (extra_byte, {"R1"}),
    "size of one seed": (edit_record(lambda r: r["seeds"][1].update(artifact_bytes=1)), {"R1"}),
    "edited code in the log": (edit_text("logs/*.log", "import torch\n", "import torch  # edited\n"), {"R3"}),
    "edited loss in the log": (edit_text("logs/*.log", "train_loss: 2", "train_loss: 1"), {"R4"}),
    "edited step in the log": (edit_text("logs/*.log", "loss 3.", "loss 2."), {"R4"}),
    "edited config in the log": (edit_text("logs/*.log", '"num_layers": 6', '"num_layers": 7'), {"R4"}),
    "a line taken out of the log": (edit_text("logs/*.log", "\nstep      1 ", "\nstop      1 "), {"R4"}),
    "missing log": (lambda f: next(f.glob("logs/*.log")).unlink(), {"R3"}),
    "edited script": (lambda f: (f / "train_gpt.py").write_text((f / "train_gpt.py").read_text() + "\n"), {"R3"}),
    "clock": (lambda f: edit(next(f.glob("logs/*.run.json")), lambda r: r["clock"].update(train=100.0)), {"R4"}),
    "slow scoring": (lambda f: edit(next(f.glob("eval/*.json")), lambda r: r["clock"].update(score=601.0)), {"R5"}),
    "other training data": (
        lambda f: edit(next(f.glob("logs/*.run.json")), lambda r: r["data"].update(manifest_sha256="x")),
        {"R6"},
    ),
    "final split": (edit_record(lambda r: r["data"].update(split="final")), {"R6", "R7"}),
    "a document left out": (
        lambda f: edit(next(f.glob("eval/*.json")), lambda r: r["per_document"].pop()),
        {"R8", "R9"},
    ),
    "a failed audit": (
        lambda f: edit(
            next(f.glob("eval/*.json")),
            lambda r: r.update(audits=[{"audit": "blind", "verdict": "fail", "detail": "symbol 3"}]),
        ),
        {"R11"},
    ),
    "scope": (edit_record(lambda r: r.update(scope="none")), {"R12"}),
    "flag": (
        lambda f: (
            [edit(p, lambda r: r["config"].update(matrix_lr=0.1)) for p in f.glob("logs/*.run.json")]
            + [edit(f / "record.json", lambda r: r["config"].update(matrix_lr=0.1))]
        ),
        {"R4", "R13"},
    ),
    "another seed": (other_seed, {"R14"}),
    "missing parent": (edit_record(lambda r: r.update(parent="0000_gone")), {"R15", "R16"}),
    "wrong diff": (lambda f: (f / "parent.diff").write_text("--- a\n"), {"R16"}),
    "file that was hashed": (edit_record(lambda r: r.update(files={"train_gpt.py": "0" * 64})), {"R17"}),
    "wide line": (wide_line, {"R3", "R18"}),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_by_its_rule(copy, name):
    damage, expected = DAMAGES[name]
    damage(copy)
    assert failed(copy) == expected


def test_a_rule_stops_where_the_files_it_needs_are_not_the_records(copy):
    """Rules are printed in the old order; R3 and R17 also where only a rule that needs them was asked for."""
    edit(copy / "record.json", lambda r: r.update(files={"parent.diff": "0" * 64}))
    found = verdicts(copy)
    assert found["R13"].status == "SKIP" and found["R13"].measured == "not judged, because R17 failed"
    wide_line(copy)
    found = rules.check(rules.Submission(copy, Path("/no/data"), scores=False), ["R13", "R7"])
    assert [(name, verdict.status) for name, verdict in found.items()] == [
        ("R3", "FAIL"),
        ("R7", "PASS"),
        ("R13", "SKIP"),
        ("R17", "FAIL"),
    ]
    assert found["R13"].measured == "not judged, because R17 and R3 failed"


def test_the_artifact_is_not_scored_where_files_were_edited(copy, monkeypatch):
    monkeypatch.setattr(rules.Submission, "rescored", property(lambda self: pytest.fail("scored")))
    edit(copy / "record.json", lambda r: r.update(files={"train_gpt.py": "0" * 64}))
    assert failed(copy) == {"R17"}


def test_nothing_of_a_record_runs(copy, capsys):
    """Its script, and a module beside it whose name one of Python's own has, would each leave a file."""
    before = (copy / "train_gpt.py").read_text()
    after = f"open({str(copy / 'ran')!r}, 'w')\n{before}"
    sha256 = hashlib.sha256(after.encode()).hexdigest()
    (copy / "train_gpt.py").write_text(after)
    for name in ("json.py", "ast.py", "dataclasses.py"):
        (copy / name).write_text(f"open({str(copy / 'ran')!r}, 'w')\n")
    for log in copy.glob("logs/*.log"):
        log.write_text(after + log.read_text().removeprefix(before))
    for run in copy.glob("logs/*.run.json"):
        edit(run, lambda r: r.update(source_sha256=sha256))
    edit(copy / "record.json", lambda r: r.update(script_sha256=sha256))
    assert check.main([str(copy), "--quick"]) in (0, 1)
    found = verdicts(copy, scores=False)
    assert found["R3"].status == found["R13"].status == "PASS" and not (copy / "ran").exists()


@pytest.mark.parametrize("value", ["--output=stolen", "HEAD", "a" * 40 + "\n", "-" + "a" * 39])
def test_git_gets_no_word_of_a_stranger_but_a_hash(copy, capsys, monkeypatch, tmp_path, value):
    monkeypatch.setattr(rules.subprocess, "run", lambda *words, **options: pytest.fail(f"{words}"))
    seed_commit = str(tmp_path / "stolen").join(value.split("stolen")) if "stolen" in value else value
    edit(copy / "record.json", lambda r: r.update(seed_commit=seed_commit))
    assert check.main([str(copy), "--quick"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "record.json: seed_commit: " in error and not (tmp_path / "stolen").exists()


@pytest.mark.parametrize(
    "line",
    [
        "",
        "a b c",
        "a --output=x b " + "0" * 40,
        "a " + "0" * 40 + " b --all",
        "a " + "A" * 40 + " b " + "0" * 40,
        "a " + "0" * 39 + " b " + "0" * 40,
    ],
)
def test_the_hooks_input_is_hashes(line, tmp_path, monkeypatch):
    monkeypatch.setattr(check.subprocess, "run", lambda *words, **options: pytest.fail(f"{words}"))
    with pytest.raises(Failure, match="pre-push"):
        check.pushed_records(tmp_path, [line])


def test_every_wrong_type_of_record_json_is_a_line(copy, capsys):
    edit(
        copy / "record.json",
        lambda r: (
            r.update(authors=[], verified=True, bpb_mean=True),
            r.pop("idea"),
            r["seeds"][1].update(seed=1.0),
            r["artifact"].update(file="../x.golf"),
        ),
    )
    assert check.main([str(copy), "--quick"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6 and all("record.json: " in line for line in lines)
    for word in ("authors", "'verified'", "bpb_mean", "'idea'", "seeds.1.seed", "artifact.file"):
        assert sum(word in line for line in lines) == 1


def link(path: Path) -> None:
    outside = path.parent.parent / "outside"
    path.rename(outside)
    path.symlink_to(outside)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def long_file(path: Path) -> None:
    with path.open("ab") as file:
        file.truncate(files.MAX_BYTES + 1)  # takes no room


@pytest.mark.parametrize(
    "name",
    [
        "train_gpt.py",
        "record.json",
        "baseline.golf",
        "logs/seed172484047.log",
        "logs/seed172484047.metrics.jsonl",
        "eval/seed172484047.json",
        "parent.diff",
        "eval",
    ],
)
@pytest.mark.parametrize("damage", [link, pipe, long_file])
def test_a_record_holds_plain_files_of_a_bounded_size(copy, capsys, name, damage):
    if name == "eval" and damage is not link:
        pytest.skip("a folder")
    damage(copy / name)
    assert check.main([str(copy), "--quick"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{copy / name}: " in error


def test_what_a_stranger_wrote_is_shown_as_it_is(copy, capsys):
    """Markup, and characters that a terminal could act on, in what is printed of files that fit their schemas."""
    title = "a[/x][bold red]b\u202ec"
    edit(copy / "record.json", lambda r: r.update(authors=[title]))
    score = next(copy.glob("eval/*.json"))
    edit(score, lambda r: r.update(audits=[{"audit": "blind", "verdict": "fail", "detail": title}]))
    folder = copy.with_name("0001[bold]\x1b[31m")
    copy.rename(folder)
    assert check.main([str(folder), "--quick", "--rule", "R11", "--rule", "R16"]) == 1
    out = capsys.readouterr().out
    shown = "".join(out.split())
    assert shown.count("a[/x][boldred]b\\u202ec") == 2 and "[bold]\\x1b[31m" in shown
    assert not {"\x1b", "\u202e"} & set(out)


def test_quick_does_not_see_what_only_a_new_score_shows(copy):
    consistent_bpb(copy)
    found = verdicts(copy, scores=False)
    assert found["R8"].status == "SKIP" and not any(verdict.status == "FAIL" for verdict in found.values())
    stated = json.loads(next(copy.glob("eval/*.json")).read_text()).get("audit", "none")
    assert found["R11"].status == "SKIP" and f"(the record's own scores state: {stated})" in found["R11"].measured


@pytest.mark.parametrize(
    "verdict, blamed",
    [
        ("FAILED (audit blind): symbol 3 of document x was scored 1 nats", {"R8", "R11"}),
        ("FAILED (audit order): symbol 3 of document x", {"R8", "R12"}),
        ("FAILED (lossless): the tokens", {"R8", "R10"}),
        ("FAILED (hang): no answer", {"R5", "R8"}),
        ("FAILED (crash): the box ended", {"R8"}),
    ],
)
def test_an_artifact_without_a_score_fails_the_rule_that_its_verdict_is_about(copy, monkeypatch, verdict, blamed):
    calls = []

    def run(command, **options):
        if "eval_heldout.py" in command:
            calls.append(command)
            return subprocess.CompletedProcess(command, 1, None, f"eval_heldout: {verdict}\n")
        return real(command, **options)

    real = subprocess.run
    monkeypatch.setattr(rules.Submission, "rescored", RESCORED)
    monkeypatch.setattr(rules.subprocess, "run", run)
    (copy / "data").mkdir()
    (copy / "data/manifest.json").write_text("{}")
    found = rules.check(rules.Submission(copy, copy / "data"))
    assert {name for name, result in found.items() if result.status == "FAIL"} == blamed
    assert {name for name, result in found.items() if verdict in result.measured} == {
        "R2",
        "R5",
        "R8",
        "R10",
        "R11",
        "R12",
    }
    assert len(calls) == 1 and "full" in calls[0]  # not once a rule


def test_fewer_than_three_seeds_fail(copy):
    edit(
        copy / "record.json",
        lambda r: r.update(
            seeds=r["seeds"][:2],
            bpb_mean=sum(row["bpb"] for row in r["seeds"][:2]) / 2,
            bpb_sd=abs(r["seeds"][0]["bpb"] - r["seeds"][1]["bpb"]) / 2**0.5,
        ),
    )
    assert "R14" in failed(copy)


def test_a_child_that_gains_nothing_fails_r15(copy, monkeypatch):
    edit(copy / "record.json", lambda r: r.update(parent="0001_baseline", number="0002"))
    (copy / "parent.diff").write_text("")
    found = verdicts(copy)
    assert found["R15"].status == "FAIL" and "not proven" in found["R15"].measured
    assert found["R16"].status == "PASS"


def test_command_prints_fixes_and_exits_with_1(copy, capsys):
    assert check.main([str(copy), "--quick", "--data", "/no/data", "--json"]) == 0
    capsys.readouterr()
    edit(copy / "record.json", lambda r: r.update(bpb_mean=1.0))
    assert check.main([str(copy), "--quick", "--data", "/no/data", "--rule", "R8", "--json"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert "FAIL R8" in out[-2]
    [(rule, verdict)] = json.loads(out[-1])["records"][str(copy)].items()
    assert rule == "R8" and verdict["status"] == "FAIL" and verdict["fix"]
    assert check.main([str(copy / "none")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit) as stop:
        check.main([str(copy), "--rule", "R99"])
    assert stop.value.code == 2


@pytest.mark.skipif(sys.platform != "linux", reason="one platform is enough for the real scorer")
def test_scoring_again_for_real(tmp_path):
    """The committed artifact on six documents of its own: its real score passes, a better claim does not."""
    data = tmp_path / "data"
    data.mkdir()
    lines = []
    for i in range(6):
        text = f"The president said on day {i} that the country would pay.\n" * (i + 1)
        lines.append(json.dumps({"id": hashlib.sha256(text.encode()).hexdigest()[:16], "source": "news", "text": text}))
    (data / "dev_docs.jsonl").write_text("\n".join(lines) + "\n")
    docs = (data / "dev_docs.jsonl").read_bytes()
    size = sum(len(json.loads(line)["text"]) for line in lines)
    (data / "manifest.json").write_text(
        json.dumps(
            {
                "format": 1,
                "splits": {
                    "dev": {
                        "documents": 6,
                        "raw_bytes": size,
                        "files": [
                            {"name": "dev_docs.jsonl", "size": len(docs), "sha256": hashlib.sha256(docs).hexdigest()}
                        ],
                    }
                },
            }
        )
    )
    folder = tmp_path / "0001_baseline"
    shutil.copytree(BASELINE, folder)
    out = tmp_path / "eval.json"
    subprocess.run(
        [
            sys.executable,
            "eval_heldout.py",
            str(folder / "baseline.golf"),
            "--data",
            str(data),
            "--split",
            "dev",
            "--processes",
            "1",
            "--out",
            str(out),
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    scored = json.loads(out.read_text())
    assert 0.5 < scored["bpb"] < 3

    def use(bpb, again=None):
        changed = scored | {
            "bpb": bpb,
            "per_document": [row | {"nats": row["nats"] * bpb / scored["bpb"]} for row in scored["per_document"]],
        }
        for path in folder.glob("eval/*.json"):
            path.write_text(json.dumps(changed))
        edit(
            folder / "record.json",
            lambda r: (
                [row.update(bpb=bpb, artifact_bytes=245_829) for row in r["seeds"]],
                r.update(bpb_mean=bpb, bpb_sd=0.0),
                r.update(data=scored["data"]),
            ),
        )
        submission = rules.Submission(folder, data)
        if again is not None:
            submission._rescored = again
        return submission, rules.check(submission, ["R2", "R8", "R10", "R11", "R12"])

    submission, found = use(scored["bpb"])
    assert {found[name].status for name in ("R8", "R10", "R11", "R12")} == {"PASS"} and found["R2"].status != "FAIL"
    assert "audited here: " in found["R11"].measured
    _, found = use(scored["bpb"] - 0.002, submission.rescored)
    assert [name for name, verdict in found.items() if verdict.status == "FAIL"] == ["R8"]
    (folder / "baseline.golf").write_bytes(b"GOLF" + bytes(100))
    _, found = use(scored["bpb"])
    assert found["R8"].status == "FAIL" and "scoring it failed" in found["R8"].measured


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository with one record, which the rules take for theirs."""
    for key in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{key}_NAME", "a")
        monkeypatch.setenv(f"GIT_{key}_EMAIL", "a@b")
    folder = tmp_path / "records/pocket/0001_baseline"
    shutil.copytree(BASELINE, folder)
    monkeypatch.setattr(rules, "ROOT", tmp_path)
    monkeypatch.setattr(check, "ROOT", tmp_path)
    subprocess.run("git init -q -b main && git add -A && git commit -qm one", shell=True, check=True, cwd=tmp_path)
    return tmp_path


def r17(folder):
    return rules.check(rules.Submission(folder, scores=False), ["R17"])["R17"].status


def test_history_of_a_record(repository):
    folder = repository / "records/pocket/0001_baseline"
    assert r17(folder) == "PASS"
    (folder / "README.md").write_text("better")
    assert r17(folder) == "FAIL"
    subprocess.run("git commit -qam two", shell=True, check=True, cwd=repository)
    assert r17(folder) == "FAIL"


def test_hook_is_installed_once_and_names_the_pushed_records(repository, capsys):
    def head():
        return subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=repository, text=True).strip()

    assert check.main(["--install-hook"]) == 0 == check.main(["--install-hook"])
    hook = repository / ".git/hooks/pre-push"
    assert hook.stat().st_mode & 0o111 and "--pushed" in hook.read_text()
    first, none = head(), "0" * 40
    shutil.copytree(repository / "records/pocket/0001_baseline", repository / "records/pocket/0002_next")
    (repository / "notes").write_text("x")
    subprocess.run("git add -A && git commit -qm two", shell=True, check=True, cwd=repository)
    names = [path.name for path in check.pushed_records(repository, [f"a {head()} b {first}"])]
    assert names == ["0002_next"]
    new_branch = check.pushed_records(repository, [f"a {head()} b {none}"])
    assert [path.name for path in new_branch] == ["0001_baseline", "0002_next"]
    assert check.pushed_records(repository, [f"a {none} b {first}"]) == []
    hook.write_text("other")
    assert check.main(["--install-hook"]) == 1
    assert hook.read_text() == "other" and "another hook" in capsys.readouterr().err
    hook.unlink()
    hook.mkdir()
    assert check.main(["--install-hook"]) == 1
    assert capsys.readouterr().err == f"golf check: {hook}: Is a directory\n"


def test_schema_is_a_schema_and_takes_the_committed_records():
    import jsonschema

    schema = json.loads((ROOT / "docs/record.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    for path in ROOT.glob("records/*/*/record.json"):
        assert record.schema_errors(json.loads(path.read_text())) == []
