"""golf record publish, end to end on a hub on loopback: make, publish, commit, and fetch again as somebody else."""

import hashlib
import json
import shutil
import subprocess

import pytest
from huggingface_hub import constants

from tests.support import ROOT, copy_record
from tests.support.made_records import head, make, make_run, make_runs, repository, rewrite
from tests.support.record_hub import REPO, TOKEN, serving
from tools.records import artifacts, record
from tools.runs import curves

BIG = bytes(record.COMMITTED_BYTES)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository, and a home without a login and a cache."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(curves, "draw", lambda path, title, runs: path.write_bytes(b"a picture"))
    return repository(tmp_path, monkeypatch)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that takes uploads with TOKEN, which stands in the environment."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home/token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # a protocol that the stand-in does not speak
    with serving() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint())
        yield server


def large_record(root):
    """The folder of a record of the open track whose three artifacts are too large to be committed."""
    for place, seed in enumerate(record.draw_seeds(head(root), 3)):
        make_run(root / f"runs/s{place}", seed, 1.9 + place / 100, artifact=BIG + b"%d" % seed, track="open")
    assert make(root, sorted((root / "runs").glob("s?")), track="open", par=None) == 0
    return root / "records/open/0001_baseline"


def publish(folder, *more: str) -> int:
    return record.main(["publish", str(folder), "--hub", REPO, *more])


def commit(root) -> None:
    subprocess.run("git add records && git commit -qm record", shell=True, check=True, cwd=root)


def contents(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_large_artifacts_go_to_the_hub_and_come_back(root, hub, capsys, tmp_path):
    folder = large_record(root)
    before = contents(folder)
    (folder / ".DS_Store").write_bytes(b"x")  # belongs to no record
    assert publish(folder, "--json") == 0
    *_, line, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    first, second = hub.commits
    written = json.loads((folder / "record.json").read_text())
    assert written == json.loads(before["record.json"]) | {"hub": {"repo": REPO, "revision": first}}
    assert result["record"] == written and result["revision"] == second and record.schema_errors(written) == []
    assert line == f"published: {result['address']}" == f"published: hf://{REPO}@{second}/records/open/0001_baseline"

    place = "records/open/0001_baseline"
    seeds = record.draw_seeds(head(root), 3)
    assert set(hub.commits[first]) == {f"{place}/artifacts/seed{seed}.golf" for seed in seeds}
    rest = {name: data for name, data in contents(folder).items() if name != ".DS_Store"}
    assert hub.commits[second] == hub.commits[first] | {f"{place}/{name}": data for name, data in rest.items()}
    assert set(rest) == set(before)

    text = (folder / "README.md").read_text()
    for seed in seeds:
        assert f"({hub.endpoint()}/{REPO}/resolve/{first}/{place}/artifacts/seed{seed}.golf)" in text
    median = written["artifact"]["seed"]
    assert f"hf download {REPO} {place}/artifacts/seed{median}.golf --revision {first} --local-dir .\n" in text
    assert "not published" in before["README.md"].decode() and "not published" not in text

    # somebody else: no cache, no token
    shutil.rmtree(tmp_path / "home/.cache")
    fetched = artifacts.fetch_record(result["address"], tmp_path / "fetched")
    assert contents(fetched) == rest
    for seed in seeds:
        path = artifacts.locate(fetched, written, seed)
        assert path.read_bytes() == BIG + b"%d" % seed
    assert {token for path, token in hub.tokens if "/resolve/" in path or "/large/" in path} == {None}


def test_publishing_again_changes_nothing(root, hub, capsys):
    folder = large_record(root)
    assert publish(folder) == 0
    after = contents(folder)
    commit(root)
    assert publish(folder) == 0 and contents(folder) == after
    assert list(hub.commits)[0] == json.loads(after["record.json"])["hub"]["revision"]


def test_a_record_with_all_artifacts_is_only_uploaded(root, hub, capsys):
    assert make(root, make_runs(root)) == 0
    folder = root / "records/pocket/0001_baseline"
    commit(root)
    before = contents(folder)
    assert publish(folder) == 0 and contents(folder) == before
    assert hub.commits[hub.head] == {f"records/pocket/0001_baseline/{name}": data for name, data in before.items()}


def test_a_readme_that_was_edited_stays(root, hub, capsys):
    folder = large_record(root)
    (folder / "README.md").write_text("What did not work: ...")
    assert publish(folder) == 0
    assert (folder / "README.md").read_text() == "What did not work: ..."
    assert "README.md was edited" in capsys.readouterr().out


def refused(folder, capsys, *words: str) -> None:
    """Publishing ends in one line with these words, and changes nothing in the folder."""
    before = contents(folder)
    capsys.readouterr()
    assert publish(folder) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("golf record: ") and all(word in error for word in words), error
    assert contents(folder) == before


def test_a_committed_record_json_is_not_edited(root, hub, capsys):
    folder = large_record(root)
    commit(root)
    refused(folder, capsys, "record.json is committed", "publish before you commit")
    assert hub.commits == {}


def test_an_artifact_that_is_gone(root, hub, capsys, tmp_path):
    folder = large_record(root)
    shutil.rmtree(tmp_path / "home/.cache")
    refused(folder, capsys, "not here: copy the model.golf of the run with seed", ".cache/golf/artifacts/")
    assert hub.commits == {}


def test_other_bytes_come_back(root, hub, capsys):
    folder = large_record(root)
    seed = record.draw_seeds(head(root), 3)[1]
    hub.served[f"records/open/0001_baseline/artifacts/seed{seed}.golf"] = BIG
    refused(folder, capsys, f"seed{seed}.golf: the hub gives other bytes than were uploaded")


def test_a_hub_that_refuses(root, hub, capsys, monkeypatch):
    folder = large_record(root)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused(folder, capsys, "the hub refuses: HF_TOKEN", "must allow to write")
    monkeypatch.delenv("HF_TOKEN")
    refused(folder, capsys, "HF_TOKEN", "hf auth login")


def test_no_hub_at_all(root, hub, capsys, monkeypatch):
    folder = large_record(root)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    refused(folder, capsys, f"{REPO}: cannot upload: ")


def test_a_record_that_is_not_as_it_was_made(root, hub, capsys):
    folder = large_record(root)
    (folder / "train_gpt.py").write_text("# edited\n")
    refused(folder, capsys, "train_gpt.py: missing or edited since the record was made")
    old = root / "records/pocket/0001_baseline"
    copy_record(ROOT / "records/pocket/0001_baseline", old)
    refused(old, capsys, "a record of format 1")
    refused(folder.rename(folder.with_name("0002_other")), capsys, "it calls itself 0001_baseline")
    assert hub.commits == {}


@pytest.mark.parametrize("repo", ["golf", "a/b/c", "../x", "a--b/c..d"])
def test_what_is_no_repository(root, hub, capsys, repo):
    folder = large_record(root)
    try:
        status = record.main(["publish", str(folder), "--hub", repo])
    except SystemExit as stop:
        status = stop.code
    assert status in (1, 2) and "Traceback" not in capsys.readouterr().err and hub.commits == {}


def test_sizes_over_the_cap_are_not_uploaded(root, hub, capsys):
    folder = large_record(root)
    rewrite(folder / "record.json", lambda r: r["seeds"][0].update(artifact_bytes=16_000_001))
    refused(folder, capsys, "16,000,001 bytes, the cap is 16,000,000")
    assert hashlib.sha256(BIG).hexdigest() not in hub.large
