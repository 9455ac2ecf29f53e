"""Where records under review come from: folders, commits, the hub; what comes out of a commit is plain files."""

import subprocess
from pathlib import Path

import pytest
from huggingface_hub import constants

from golf import files
from golf.files import Failure
from tests.support import ROOT
from tests.support.record_hub import REPO, serving
from tests.support.reviewed import IDENTITY
from tools.records import repository, sources


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A repository whose branch `pull` adds one record to main, and changes another."""
    for key, value in IDENTITY.items():
        monkeypatch.setenv(key, value)
    root = tmp_path / "clone"
    write(root / "records/pocket/0001_old/record.json", "{}")
    git(root, "init", "-q", "-b", "main")
    commit(root, "main")
    git(root, "checkout", "-q", "-b", "pull")
    write(root / "records/pocket/0002_new/record.json", '{"new": 1}')
    write(root / "records/pocket/0002_new/logs/seed1.log", "a log\r\n")
    write(root / "records/pocket/0001_old/record.json", "{} ")
    write(root / "train_gpt.py", "")
    commit(root, "pull")
    git(root, "checkout", "-q", "main")
    return root


def git(root: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def commit(root: Path, message: str) -> None:
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", message)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def found(text: str, root: Path) -> dict[str, set[str]]:
    """{name: files} of the records that `text` names."""
    with sources.opened(text, root) as records:
        return {
            one.name: {path.relative_to(one.folder).as_posix() for path in one.folder.rglob("*") if path.is_file()}
            for one in records
        }


def test_a_folder_is_itself(clone):
    folder = clone / "records/pocket/0001_old"
    with sources.opened(str(folder), clone) as [one]:
        assert one.folder == folder and one.committed is None


def test_a_commit_gives_what_it_adds_to_main(clone):
    expected = {"pull:records/pocket/0002_new": {"record.json", "logs/seed1.log"}}
    assert found("pull", clone) == expected == found("pull:records/pocket/0002_new/", clone)
    assert found(git(clone, "rev-parse", "pull"), clone).keys() == {
        f"{git(clone, 'rev-parse', 'pull')}:records/pocket/0002_new"
    }
    with sources.opened("pull", clone) as [one]:
        assert one.folder.parts[-3:] == ("records", "pocket", "0002_new")
        assert (one.folder / "logs/seed1.log").read_bytes() == b"a log\r\n"
        assert one.committed.path == "records/pocket/0002_new" and one.more in one.folder.parents
        kept = one.folder
    assert not kept.exists()


def test_a_record_on_the_hub(clone, tmp_path, monkeypatch):
    place = "records/pocket/0001_baseline"
    files = {
        path.relative_to(ROOT).as_posix(): path.read_bytes() for path in (ROOT / place).rglob("*") if path.is_file()
    }
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint())
        server.commit(files)
        with sources.opened(f"hf://{REPO}/{place}", clone) as [one]:
            assert one.folder.parts[-3:] == ("records", "pocket", "0001_baseline") and one.committed is None
            assert (one.folder / "train_gpt.py").read_bytes() == files[f"{place}/train_gpt.py"]
            kept = one.folder
    assert not kept.exists()


def test_what_main_got_meanwhile_is_not_the_branchs(clone):
    write(clone / "records/pocket/0003_main/record.json", "{}")
    commit(clone, "more")
    assert found("pull", clone).keys() == {"pull:records/pocket/0002_new"}
    assert found("main:records/pocket/0001_old", clone) == {"main:records/pocket/0001_old": {"record.json"}}


@pytest.mark.parametrize(
    "text, message",
    [
        ("nothing", "no folder, and no commit of this clone"),
        ("--output=x", "no folder, and no commit of this clone"),
        (":records/pocket/0001_old", "no folder, and no commit of this clone"),
        ("main", "adds no record to main"),
        ("pull:records/pocket/0009_none", "has no folder"),
        ("pull:records/pocket", "no record's folder"),
        ("pull:train_gpt.py", "no record's folder"),
        ("pull:records/../etc", "has no folder"),
        ("hf://one", "not an address"),
    ],
)
def test_a_name_that_names_nothing(clone, text, message):
    with pytest.raises(Failure, match=message):
        found(text, clone)


def test_links_and_submodules_are_refused(clone):
    git(clone, "checkout", "-q", "pull")
    folder = clone / "records/pocket/0002_new"
    (folder / "link").symlink_to("/etc/passwd")
    commit(clone, "a link")
    with pytest.raises(Failure, match="link: not a regular file"):
        found("pull", clone)
    (folder / "link").unlink()
    git(
        clone,
        "update-index",
        "--add",
        "--cacheinfo",
        f"160000,{git(clone, 'rev-parse', 'main')},{'records/pocket/0002_new/sub'}",
    )
    git(clone, "rm", "-q", "--cached", "records/pocket/0002_new/link")
    git(clone, "commit", "-q", "-m", "a submodule")
    with pytest.raises(Failure, match="sub: not a regular file"):
        found("pull", clone)


@pytest.mark.parametrize("name, limit", [("MAX_BYTES", 4), ("MAX_ENTRIES", 1), ("MAX_FOLDER_BYTES", 12)])
def test_what_comes_out_of_a_commit_is_bounded(clone, monkeypatch, name, limit):
    monkeypatch.setattr(repository, name, limit)
    with pytest.raises(Failure, match="bytes|more than"):
        found("pull", clone)
    assert getattr(files, name) > 1000


def test_nothing_that_a_commit_or_the_clones_settings_name_is_started(clone):
    """Filters, textconv, hooks, fsmonitor and a pager that would each leave a file."""
    trap = f"touch {clone.parent / 'ran'}; cat"
    for key in (
        "filter.trap.smudge",
        "filter.trap.clean",
        "diff.trap.textconv",
        "diff.external",
        "core.fsmonitor",
        "core.pager",
    ):
        git(clone, "config", key, trap)
    hooks = clone / ".git/hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("post-checkout", "reference-transaction", "pre-push"):
        write(hooks / name, f"#!/bin/sh\n{trap}\n")
        (hooks / name).chmod(0o755)
    head = git(clone, "rev-parse", "pull")
    write(clone / ".git/info/attributes", "* filter=trap diff=trap\n")
    (clone.parent / "ran").unlink(missing_ok=True)
    assert found("pull", clone).keys() == {"pull:records/pocket/0002_new"}
    assert repository.changes(clone, head, "records/pocket/0001_old", "M")
    folder = "records/pocket/0001_old"
    assert repository.edited(clone, "HEAD", folder, clone / folder) == []
    write(clone / "records/pocket/0001_old/record.json", "{}  ")
    assert repository.edited(clone, "HEAD", folder, clone / folder) == [f"{folder}/record.json"]
    assert not (clone.parent / "ran").exists()


def test_an_edit_in_a_merge_is_seen(clone):
    """A merge whose result neither parent has."""
    write(clone / "notes", "x")
    commit(clone, "more")
    git(clone, "merge", "-q", "--no-commit", "--no-ff", "-s", "ours", "pull")
    write(clone / "records/pocket/0001_old/record.json", "{}   ")
    commit(clone, "an evil merge")
    assert len(repository.changes(clone, "HEAD", "records/pocket/0001_old", "M")) >= 1


def test_an_edit_that_a_merge_takes_from_the_other_side_is_seen(clone):
    """The branch has the record by the same name from elsewhere, without main's history, and merges main away."""
    path = "records/pocket/0001_old"
    git(clone, "checkout", "-q", "--orphan", "alone")
    write(clone / path / "record.json", '{"other": 1}')
    commit(clone, "the record, as if it were new")
    assert repository.changes(clone, "HEAD", path, "MDRT") == []
    git(clone, "merge", "-q", "--allow-unrelated-histories", "-s", "ours", "-m", "as if nothing were there", "main")
    assert len(repository.changes(clone, "HEAD", path, "MDRT")) >= 1


def test_an_honest_merge_is_no_edit(clone):
    git(clone, "checkout", "-q", "-b", "more", "main")
    write(clone / "notes", "x")
    commit(clone, "more")
    git(clone, "merge", "-q", "--no-ff", "-m", "merge", "pull")
    for path in ("records/pocket/0002_new", "train_gpt.py"):
        assert repository.changes(clone, "HEAD", path, "MDRT") == []


def test_the_trusted_base(clone):
    pull, main = git(clone, "rev-parse", "pull"), git(clone, "rev-parse", "main")
    assert repository.trusted_base(clone, pull) == main == repository.trusted_base(clone, main)
    git(clone, "checkout", "-q", "--orphan", "alone")
    commit(clone, "alone")
    assert repository.trusted_base(clone, git(clone, "rev-parse", "alone")) is None
    assert repository.commit_of(clone, "0" * 40) is None and repository.blob(clone, pull, "train_gpt.py") == b""
    assert repository.blob(clone, pull, "none") is None
