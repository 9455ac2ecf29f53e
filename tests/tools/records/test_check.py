"""The command golf check: what it prints and its exit status, hostile folders, the hook before a push.

tests/tools/records/test_rules.py and test_old_records.py have the rules.
"""

import io
import json
import os
import subprocess
from pathlib import Path

import pytest

from golf import files
from golf.files import Failure
from tests.support import ROOT, copy_record
from tools.records import check, history_rules, verdicts
from tools.records.submission import Submission

BASELINE = ROOT / "records/pocket/0001_baseline"
QUICK = ["--quick", "--data", "/no/data"]


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the first record, which main has; test_rules.py looks at that."""
    monkeypatch.setattr(history_rules, "as_on_main", lambda s: verdicts.not_applicable("a copy"))
    folder = tmp_path / "pocket/0001_baseline"
    copy_record(BASELINE, folder)
    return folder


def edit(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize("value", ["--output=stolen", "HEAD", "a" * 40 + "\n", "-" + "a" * 39])
def test_git_gets_no_word_of_a_stranger_but_a_hash(copy, capsys, monkeypatch, tmp_path, value):
    monkeypatch.setattr(subprocess, "run", lambda *words, **options: pytest.fail(f"{words}"))
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


def test_what_a_stranger_wrote_is_shown_as_it_is(copy, capsys, monkeypatch):
    """Markup, and characters that a terminal could act on, in what is printed of files that fit their schemas."""
    monkeypatch.setenv("COLUMNS", "500")  # no cell is broken into lines
    title = "a[/x][bold red]b\u202ec"
    edit(copy / "record.json", lambda r: r.update(authors=[title]))
    score = next(copy.glob("eval/*.json"))
    edit(score, lambda r: r.update(audits=[{"audit": "blind", "verdict": "fail", "detail": title}]))
    folder = copy.with_name("0001[bold]\x1b[31m")
    assert check.main([str(copy), "--quick", "--rule", "R16"]) == 0
    copy.rename(folder)
    assert check.main([str(folder), "--quick", "--rule", "R11", "--rule", "R16"]) == 1
    out = capsys.readouterr().out
    shown = "".join(out.split())
    assert shown.count("a[/x][boldred]b\\u202ec") >= 2 and "[bold]\\x1b[31m" in shown
    assert not {"\x1b", "\u202e"} & set(out)


def test_the_last_line_counts_and_the_exit_status_says_how_it_ended(copy, capsys):
    assert check.main([str(copy), *QUICK, "--json"]) == check.INCOMPLETE == 4
    out = capsys.readouterr().out.splitlines()
    found = json.loads(out[-1])["records"][str(copy)]
    statuses = [verdict["status"] for verdict in found.values()]
    assert out[-2].startswith(
        f"{copy}: {statuses.count('PASS')} PASS, 0 FAIL, {statuses.count('NOT CHECKED')} NOT CHECKED (R1 "
    )
    assert out[-2].endswith(", 1 NOT APPLICABLE")
    assert all(verdict["fix"] for verdict in found.values() if verdict["status"] == "NOT CHECKED")

    assert check.main([str(copy), *QUICK, "--rule", "R7"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(": 1 PASS, 0 FAIL, 0 NOT CHECKED, 0 NOT APPLICABLE")

    edit(copy / "record.json", lambda r: r.update(bpb_mean=1.0))
    assert check.main([str(copy), *QUICK, "--rule", "R8", "--json"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert "1 FAIL (R8)" in out[-2]
    [(rule, verdict)] = json.loads(out[-1])["records"][str(copy)].items()
    assert rule == "R8" and verdict["status"] == "FAIL" and verdict["fix"]
    assert check.main([str(copy / "none")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit) as stop:
        check.main([str(copy), "--rule", "R99"])
    assert stop.value.code == 2


def test_several_verdicts_make_one():
    good, bad = verdicts.passed("a", "x"), verdicts.failed("b", "y", "do b")
    one, two = verdicts.not_checked("c", "do c"), verdicts.not_checked("d", "do c")
    none = verdicts.not_applicable("e")
    assert verdicts.together(good, one, bad) == bad
    assert verdicts.together(good, one, two) == verdicts.Verdict("NOT CHECKED", "a; c; d", "x", "do c")
    assert verdicts.together(good, none).status == "PASS" and verdicts.together(none) == none


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository with one record, which the command takes for its own."""
    for key in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{key}_NAME", "a")
        monkeypatch.setenv(f"GIT_{key}_EMAIL", "a@b")
    folder = tmp_path / "records/pocket/0001_baseline"
    copy_record(BASELINE, folder)
    monkeypatch.setattr(check, "ROOT", tmp_path)
    subprocess.run("git init -q -b main && git add -A && git commit -qm one", shell=True, check=True, cwd=tmp_path)
    return tmp_path


def r17(root, folder):
    s = Submission(folder, scores=False, root=root)
    return check.rules.check(s, ["R17"])["R17"].status


def test_history_of_a_record(repository):
    folder = repository / "records/pocket/0001_baseline"
    assert r17(repository, folder) == "PASS"
    (folder / "README.md").write_text("better")
    assert r17(repository, folder) == "FAIL"
    subprocess.run("git commit -qam two", shell=True, check=True, cwd=repository)
    assert r17(repository, folder) == "FAIL"


def test_a_branch_is_checked_from_the_commit(repository, capsys):
    """The record that it adds, with the history of the branch."""
    subprocess.run("git checkout -qb pull", shell=True, check=True, cwd=repository)
    folder = repository / "records/pocket/0002_next"
    copy_record(repository / "records/pocket/0001_baseline", folder)
    edit(folder / "record.json", lambda r: r.update(number="0002", slug="next"))
    subprocess.run("git add -A && git commit -qm two", shell=True, check=True, cwd=repository)
    assert check.main(["HEAD", *QUICK, "--rule", "R17", "--json"]) == 1
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["records"]["HEAD:records/pocket/0002_next"]
    assert "version 1 of the rules, and not on main" in found["R17"]["measured"]  # a new record is under the new rules
    (folder / "README.md").write_text("better")
    subprocess.run("git commit -qam three && git checkout -q main", shell=True, check=True, cwd=repository)
    assert check.main(["pull", *QUICK, "--rule", "R16", "--rule", "R17", "--json"]) == 1
    out = capsys.readouterr().out.splitlines()
    found = json.loads(out[-1])["records"]["pull:records/pocket/0002_next"]
    assert found["R17"]["status"] == "FAIL" and "edited in" in found["R17"]["measured"]
    assert not folder.exists()


def test_hook_is_installed_once_and_names_the_pushed_records(repository, capsys):
    def head():
        return subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=repository, text=True).strip()

    assert check.main(["--install-hook"]) == 0 == check.main(["--install-hook"])
    hook = repository / ".git/hooks/pre-push"
    assert hook.stat().st_mode & 0o111 and "--pushed" in hook.read_text()
    first, none = head(), "0" * 40
    copy_record(repository / "records/pocket/0001_baseline", repository / "records/pocket/0002_next")
    (repository / "notes").write_text("x")
    subprocess.run("git add -A && git commit -qm two", shell=True, check=True, cwd=repository)
    names = [path.name for path in check.pushed_records(repository, [f"a {head()} b {first}"])]
    assert names == ["0002_next"]
    new_branch = check.pushed_records(repository, [f"a {head()} b {none}"])
    assert [path.name for path in new_branch] == ["0001_baseline", "0002_next"]
    assert check.pushed_records(repository, [f"a {none} b {first}"]) == []
    (repository / "records/pocket/0001_baseline/additions").mkdir()
    (repository / "records/pocket/0001_baseline/additions/a.json").write_text("{}")
    second = head()
    subprocess.run("git add -A && git commit -qm three", shell=True, check=True, cwd=repository)
    assert check.pushed_records(repository, [f"a {head()} b {second}"]) == []
    hook.write_text("other")
    assert check.main(["--install-hook"]) == 1
    assert hook.read_text() == "other" and "another hook" in capsys.readouterr().err
    hook.unlink()
    hook.mkdir()
    assert check.main(["--install-hook"]) == 1
    assert capsys.readouterr().err == f"golf check: {hook}: Is a directory\n"


def test_a_push_is_stopped_by_failures_alone(repository, capsys, monkeypatch):
    """It is quick, and says what it did not check."""
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=repository, text=True).strip()
    folder = repository / "records/pocket/0001_baseline"

    def push() -> int:
        text = f"a {head} b {'0' * 40}\n"
        monkeypatch.setattr(check.sys, "stdin", io.StringIO(text))
        return check.main(["--pushed"])

    assert push() == 0 and "NOT CHECKED (R1 " in capsys.readouterr().out
    (folder / "train_gpt.py").write_text("")
    assert push() == 1
