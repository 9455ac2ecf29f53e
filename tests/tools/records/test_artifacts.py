"""tools/records/artifacts.py on folders made here, and a hub on loopback that also fails, lies and sends elsewhere."""

import hashlib
import json
import shutil

import pytest
from huggingface_hub import constants

from golf.files import Failure
from tests.support import ROOT
from tests.support.record_hub import REPO, serving
from tools.records import artifacts

BASELINE = ROOT / "records/pocket/0001_baseline"
PLACE = "records/pocket/0005_wider"
DATA = {1: b"GOLF one" * 5000, 2: b"GOLF two" * 5000}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that artifacts.py takes for the real one, and a home without a cache."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint())
        yield server


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def record_of(hub_entry: dict | None, committed: bool = False) -> dict:
    """A record.json of format 2 as far as artifacts.py reads it, with the seeds of DATA."""
    seeds = [
        {
            "seed": seed,
            "artifact_bytes": len(data),
            "artifact_sha256": sha256(data),
            "artifact_file": f"artifacts/seed{seed}.golf" if committed else None,
        }
        for seed, data in DATA.items()
    ]
    return {"format": 2, "track": "pocket", "number": "0005", "slug": "wider", "seeds": seeds, "hub": hub_entry}


def published(hub) -> dict:
    """The record with its artifacts on the hub."""
    commit = hub.commit({f"{PLACE}/artifacts/seed{seed}.golf": data for seed, data in DATA.items()})
    return record_of({"repo": REPO, "revision": commit})


def test_a_committed_artifact(tmp_path):
    record = record_of(None, committed=True)
    (tmp_path / "artifacts").mkdir()
    path = tmp_path / "artifacts/seed2.golf"
    with pytest.raises(Failure, match=r"seed2.golf: missing"):
        artifacts.locate(tmp_path, record, 2)
    path.write_bytes(DATA[2])
    assert artifacts.locate(tmp_path, record, 2) == path
    for other in (DATA[2][:-1], DATA[2][:-1] + b"?", b""):
        path.write_bytes(other)
        with pytest.raises(Failure, match="not the artifact"):
            artifacts.locate(tmp_path, record, 2)
    path.unlink()
    path.symlink_to(BASELINE / "baseline.golf")
    with pytest.raises(Failure, match="symbolic link"):
        artifacts.locate(tmp_path, record, 2)
    record["seeds"][1]["artifact_file"] = "artifacts/seed1.golf"
    with pytest.raises(Failure, match=r"artifact_file of seed 2 is artifacts/seed1.golf"):
        artifacts.locate(tmp_path, record, 2)
    with pytest.raises(Failure, match="no seed 3: it has 1, 2"):
        artifacts.locate(tmp_path, record, 3)


def test_a_record_of_format_1_has_the_median_alone():
    record = json.loads((BASELINE / "record.json").read_text())
    found = {row["seed"]: artifacts.locate(BASELINE, record, row["seed"]) for row in record["seeds"]}
    assert found.pop(record["artifact"]["seed"]) == BASELINE / "baseline.golf"
    assert set(found.values()) == {None}
    record["artifact"]["file"] = None
    assert artifacts.locate(BASELINE, record, record["artifact"]["seed"]) is None


def test_an_artifact_comes_from_the_hub_once(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    record = published(hub)
    hub.commit({f"{PLACE}/artifacts/seed1.golf": b"a later one"})  # the record names its commit
    path = artifacts.locate(tmp_path, record, 1)
    assert path == tmp_path / f"home/.cache/golf/artifacts/{sha256(DATA[1])}.golf" and path.read_bytes() == DATA[1]
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert hub.log and {token for _, token in hub.tokens} == {None}  # no secret is sent for a record

    requests = len(hub.log)
    assert artifacts.locate(tmp_path, record, 1) == path and len(hub.log) == requests
    path.write_bytes(DATA[1][:-1] + b"?")  # damaged in the cache
    assert artifacts.locate(tmp_path, record, 1).read_bytes() == DATA[1] and len(hub.log) > requests
    assert [each.name for each in path.parent.iterdir()] == [path.name]


ON_THE_HUB = f"{PLACE}/artifacts/seed1.golf"
LIES = {
    "other bytes": (lambda hub: hub.served.update({ON_THE_HUB: DATA[1][:-1] + b"?"}), "sha256 is not what", False),
    "fewer bytes": (lambda hub: hub.served.update({ON_THE_HUB: DATA[1][:-1]}), "its size or sha256", False),
    "more bytes": (lambda hub: hub.served.update({ON_THE_HUB: DATA[1] + b"?"}), "40,001 bytes, expected at", False),
    "not there": (lambda hub: hub.status.update({ON_THE_HUB: 404}), "not there, or not public", False),
    "private": (lambda hub: hub.status.update({ON_THE_HUB: 401}), "not there, or not public", False),
    "another scheme": (
        lambda hub: hub.redirects.update({ON_THE_HUB: "https://127.0.0.1:9/x"}),
        "redirects from",
        False,
    ),
    "a file": (lambda hub: hub.redirects.update({ON_THE_HUB: "file:///etc/passwd"}), "HTTP 302", True),
    "a broken line": (lambda hub: hub.break_after.update({ON_THE_HUB: 100}), "broke after 100 of 40,000", True),
    "an error": (lambda hub: hub.status.update({ON_THE_HUB: 503}), "HTTP 503: try again", True),
    "a circle": (
        lambda hub: hub.redirects.update({ON_THE_HUB: f"/{REPO}/resolve/main/{ON_THE_HUB}"}),
        "HTTP 302",
        True,
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_the_hub_gets_wrong_is_one_line(hub, tmp_path, lie):
    record = published(hub)
    damage, words, unreachable = LIES[lie]
    damage(hub)
    with pytest.raises(Failure, match=words) as failure:
        artifacts.locate(tmp_path, record, 1)
    assert "\n" not in str(failure.value)
    assert isinstance(failure.value, artifacts.Unreachable) == unreachable
    assert list((tmp_path / "home/.cache/golf/artifacts").iterdir()) == []
    assert artifacts.locate(tmp_path, record, 2).read_bytes() == DATA[2]


def test_a_hub_that_sends_more_than_it_promised(hub, monkeypatch):
    monkeypatch.setattr(artifacts, "DOWNLOAD_SECONDS", -1)
    commit = hub.commit({"x": b"0" * 1000})
    with pytest.raises(artifacts.Unreachable, match="not here after"):
        artifacts.download(artifacts.hub_url(REPO, commit, "x"), 1000)


def test_no_hub_at_all(hub, tmp_path, monkeypatch):
    record = published(hub)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(artifacts.Unreachable, match="cannot download it"):
        artifacts.locate(tmp_path, record, 1)
    monkeypatch.setattr(constants, "ENDPOINT", "file:///tmp")
    with pytest.raises(Failure, match="HF_ENDPOINT"):
        artifacts.locate(tmp_path, record, 1)


def test_a_record_that_is_not_published(hub, tmp_path):
    with pytest.raises(Failure, match="not published: golf record publish"):
        artifacts.locate(tmp_path, record_of(None), 1)


def test_over_the_cap_nothing_is_fetched(hub, tmp_path):
    record = published(hub)
    record["seeds"][0]["artifact_bytes"] = 250_001
    with pytest.raises(Failure, match="250,001 bytes, the cap is 250,000"):
        artifacts.locate(tmp_path, record, 1)
    assert hub.log == []


def test_a_cache_where_others_may_write_is_not_used(hub, tmp_path):
    record = published(hub)
    folder = artifacts.cache()
    folder.chmod(0o777)
    with pytest.raises(Failure, match="others may write"):
        artifacts.locate(tmp_path, record, 1)
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(Failure, match="others may write"):
        artifacts.locate(tmp_path, record, 1)


def files_of(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_whole_record(hub, tmp_path):
    place = "records/pocket/0001_baseline"
    files = files_of(BASELINE)
    more = {"additions/2026-11-29_scored_seed1_0123abcd.json": b"{}"}
    foreign = {"train_gpt.pyc": b"x", ".git/config": b"x", "additions/../../x.json": b"x", "artifacts/seed1.golf": b"x"}
    commit = hub.commit({f"{place}/{name}": data for name, data in (files | more | foreign).items()})
    folder = artifacts.fetch_record(f"hf://{REPO}/{place}", tmp_path / "into")
    assert folder == tmp_path / "into/pocket/0001_baseline" and files_of(folder) == files | more
    assert [path.name for path in (tmp_path / "into").iterdir()] == ["pocket"]

    hub.commit({f"{place}/README.md": b"later"})
    shutil.rmtree(tmp_path / "into")
    folder = artifacts.fetch_record(f"hf://{REPO}@{commit}/{place}/", tmp_path / "into")
    assert (folder / "README.md").read_bytes() == files["README.md"]
    with pytest.raises(Failure, match="exists"):
        artifacts.fetch_record(f"hf://{REPO}/{place}", tmp_path / "into")


@pytest.mark.parametrize(
    "address",
    [
        "hf://ann/golf",
        "hf://ann/golf/records/pocket/../0001_baseline",
        "hf://ann/golf/records/pocket/0001_baseline/logs",
        "https://example.org/records/pocket/0001_baseline",
        "hf://ann/golf@a/b/records/pocket/0001_baseline",
        "hf://../golf/records/pocket/0001_baseline",
        "hf://ann/golf/records/pocket/0001_baseline\n",
    ],
)
def test_what_is_no_address(hub, tmp_path, address):
    with pytest.raises(Failure, match="not an address"):
        artifacts.fetch_record(address, tmp_path / "into")
    assert hub.log == [] and not (tmp_path / "into").exists()


@pytest.mark.parametrize(
    "files, words",
    [
        ({}, "not there"),
        ({"README.md": b"x"}, "no record lies"),
        ({"record.json": b"{}"}, "required"),
        ({"record.json": b"[" * 1000}, "not JSON"),
    ],
)
def test_what_is_no_record(hub, tmp_path, files, words):
    hub.commit({"x": b""} | {f"records/pocket/0001_baseline/{name}": data for name, data in files.items()})
    with pytest.raises(Failure, match=words):
        artifacts.fetch_record(f"hf://{REPO}/records/pocket/0001_baseline", tmp_path / "into")
    assert files_of(tmp_path / "into") == {} and list((tmp_path / "into").iterdir()) == [] if files else True


def test_a_record_too_large(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "MAX_FOLDER_BYTES", 100_000)
    hub.commit({f"records/pocket/0001_baseline/{name}": data for name, data in files_of(BASELINE).items()})
    with pytest.raises(Failure, match="a record has at most 100,000"):
        artifacts.fetch_record(f"hf://{REPO}/records/pocket/0001_baseline", tmp_path / "into")
    assert files_of(tmp_path / "into") == {}
