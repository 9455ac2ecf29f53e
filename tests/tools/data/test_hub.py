"""golf data fineweb against a small hub on loopback, with the failures that users of the public shards met."""

import contextlib
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from huggingface_hub import constants, file_download

from golf.__main__ import main
from golf.tokenizer import Tokenizer
from tests.support import ROOT
from tests.support.texts import prose
from tools.data import hub as hub_tools
from tools.data.build import train_tokenizer

REPOSITORY = "willdepueoai/parameter-golf"
COMMIT = "c" * 40
VALIDATION, TRAIN_SHARDS, SHARD_TOKENS = 30, 3, 9000
FOLDER = "datasets/datasets/fineweb10B_sp1024"
MODEL = "datasets/tokenizers/fineweb_1024_bpe.model"
MANIFEST = "datasets/manifest.json"


def shard(tokens: np.ndarray) -> bytes:
    header = np.zeros(256, dtype="<i4")
    header[:3] = 20240520, 1, len(tokens)
    return header.tobytes() + np.asarray(tokens, dtype="<u2").tobytes()


@pytest.fixture(scope="module")
def published() -> dict[str, bytes]:
    """The files of the repository: like the public export, cut every SHARD_TOKENS whatever the documents."""
    texts = [prose(seed, 40 + seed % 300) for seed in range(160)]
    tokenizer = train_tokenizer(texts, 1024)
    encoded = [np.concatenate([[1], tokenizer.encode(text)]) for text in texts]
    validation, train = np.concatenate(encoded[:VALIDATION]), np.concatenate(encoded[VALIDATION:])
    files = {f"{FOLDER}/fineweb_val_000000.bin": shard(validation), MODEL: tokenizer.model_bytes}
    for index in range(TRAIN_SHARDS):
        part = train[index * SHARD_TOKENS : (index + 1) * SHARD_TOKENS]
        assert len(part) > 2000
        files[f"{FOLDER}/fineweb_train_{index:06d}.bin"] = shard(part)
    stats = {"files_train": TRAIN_SHARDS, "files_val": 1, "docs_val": VALIDATION, "tokens_val": len(validation)}
    manifest = {
        "datasets": [{"name": "fineweb10B_sp1024", "tokenizer_name": "sp_bpe_1024", "stats": stats}],
        "tokenizers": [{"name": "sp_bpe_1024", "model_path": "tokenizers/fineweb_1024_bpe.model"}],
    }
    files[MANIFEST] = json.dumps(manifest).encode()
    return files


class Server(ThreadingHTTPServer):
    """What huggingface_hub asks of a hub: repository info, HEAD and GET (with ranges) of a file."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = dict(files)
        self.served = {}  # path -> bytes that differ from what the listing promises
        self.break_after: dict[str, list[int]] = {}  # path -> bytes after which each next answer breaks off
        self.gone: set[str] = set()  # answered with 403
        self.log: list[tuple[str, str, str]] = []  # method, path, range

    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.do_GET()

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        path = urlsplit(self.path).path
        files = self.server.files
        if path == f"/api/datasets/{REPOSITORY}":
            siblings = []
            for name, data in files.items():
                item = {"rfilename": name, "size": len(data), "blobId": blob_id(data)}
                if not name.endswith(".json"):
                    item["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 134}
                siblings.append(item)
            body = json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings, "tags": []}).encode()
            return self.answer(200, {"Content-Type": "application/json"}, body)
        match = re.fullmatch(f"/datasets/{REPOSITORY}/resolve/{COMMIT}/(.*)", path)
        if not match or match[1] not in files:
            return self.answer(404, {"X-Error-Code": "EntryNotFound" if match else "RepoNotFound"})
        name = match[1]
        self.server.log.append((self.command, name, self.headers.get("Range", "")))
        if name in self.server.gone:
            return self.answer(403, {})  # not retried, unlike a 5xx
        promised = files[name]
        data = self.server.served.get(name, promised)
        etag = blob_id(promised) if name.endswith(".json") else hashlib.sha256(promised).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(promised))}
        if self.command == "HEAD":
            return self.answer(200, headers, data)
        start = int(re.match(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
        body = data[start:]
        headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        limits = self.server.break_after.get(name)
        if not limits:
            return self.answer(206 if start else 200, headers, body)
        self.send_response(206 if start else 200)
        for key, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body[: limits.pop(0)])
        self.wfile.flush()
        self.close_connection = True  # fewer bytes than promised: the connection broke
        return None


def blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.fixture
def hub(published):
    server = Server(published)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(hub: Server, out: Path, *arguments: str, variant: str = "sp1024", validation: int = VALIDATION):
    """Runs the command in this process, with the hub's address where huggingface_hub keeps what it read at import."""
    home = out.parent / "home"
    values = {
        "ENDPOINT": hub.endpoint(),
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint() + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_HUB_OFFLINE": False,
        # A break keeps whole chunks (10 MB each): smaller ones make the resumption visible in small files.
        "DOWNLOAD_CHUNK_SIZE": 1000,
    }
    printed, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setattr(constants, name, value)
        at_once = types.SimpleNamespace(sleep=lambda seconds: None)  # a resumption waits for a second
        patch.setattr(file_download, "time", at_once)
        patch.setattr(hub_tools, "VALIDATION_DOCUMENTS", validation)
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
            code = main(["data", *words(out, variant), *arguments])
    return subprocess.CompletedProcess(arguments, code, printed.getvalue(), errors.getvalue())


def words(out: Path, variant: str) -> list[str]:
    """The command's arguments."""
    return ["fineweb", "--variant", variant, "--shards", "3", "--out", str(out)]


def fetch_as_program(hub: Server, out: Path, *arguments: str):
    """Runs the command in a process of its own."""
    code = (
        "import sys; from golf.__main__ import main; from tools.data import hub; "
        f"hub.VALIDATION_DOCUMENTS = {VALIDATION}; sys.exit(main(['data', *sys.argv[1:]]))"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint(), "HF_HOME": str(out.parent / "home")}
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-c", code, *words(out, "sp1024"), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def failed(result, *parts: str) -> str:
    """The one line in which a run ended."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("golf data:")]
    assert result.returncode == 1 and "Traceback" not in result.stderr, result.stderr
    assert len(lines) == 1 and all(part in lines[0] for part in parts), result.stderr
    return lines[0]


def data_directories(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in tmp_path.iterdir() if path.name not in (".cache", "home"))


def tokens_of(data: bytes) -> np.ndarray:
    return np.frombuffer(data, dtype="<u2", offset=1024)


def test_the_directory(hub, published, tmp_path):
    out = tmp_path / "fineweb"
    result = fetch_as_program(hub, out, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["text"] == "decoded from tokens" and report["splits"]["dev"]["documents"] == VALIDATION
    tokenizer = Tokenizer(published[MODEL])
    assert (out / "tokenizer.model").read_bytes() == tokenizer.model_bytes

    # train: the published shards but the last, as they are
    assert [item["name"] for item in manifest["splits"]["train"]["files"]] == ["train_000000.bin", "train_000001.bin"]
    for index in range(2):
        assert (out / f"train_{index:06d}.bin").read_bytes() == published[f"{FOLDER}/fineweb_train_{index:06d}.bin"]
    assert manifest["splits"]["train"]["raw_bytes"] is None

    # dev: the validation set, in order; bytes counted from the text
    rows = {}
    for split in ("dev", "gate", "final"):
        lines = (out / f"{split}_docs.jsonl").read_text(encoding="utf-8").splitlines()
        rows[split] = [json.loads(line) for line in lines]
        entry = manifest["splits"][split]
        assert entry["raw_bytes"] == sum(len(row["text"].encode("utf-8")) for row in rows[split])
    texts = [prose(seed, 40 + seed % 300) for seed in range(160)]
    assert [row["text"] for row in rows["dev"]] == texts[:VALIDATION]
    assert np.array_equal(
        tokens_of((out / "dev_000000.bin").read_bytes()), tokens_of(published[f"{FOLDER}/fineweb_val_000000.bin"])
    )

    # gate and final: the whole documents of the last shard, each once, by hash; its fragments at both ends belong to
    # none
    last = tokens_of(published[f"{FOLDER}/fineweb_train_000002.bin"])
    starts = np.flatnonzero(last == 1)
    expected = [tokenizer.decode(last[a:b]).decode() for a, b in zip(starts[:-1], starts[1:])]
    found = [row["text"] for split in ("gate", "final") for row in rows[split]]
    assert sorted(found) == sorted(expected) and set(expected) < set(texts)
    assert all(int(row["id"], 16) % 2 == 0 for row in rows["gate"]) and all(
        int(row["id"], 16) % 2 for row in rows["final"]
    )

    assert main(["data", "check", str(out)]) == 0

    requests = len(hub.log)
    result = fetch(hub, out)
    assert result.returncode == 0 and "reused" in result.stderr and len(hub.log) == requests


def test_a_connection_that_breaks_is_resumed_inside_the_file(hub, published, tmp_path):
    name = f"{FOLDER}/fineweb_train_000001.bin"
    hub.break_after[name] = [5000, 3000]
    result = fetch(hub, tmp_path / "fineweb")
    assert result.returncode == 0, result.stderr
    assert [where for method, path, where in hub.log if (method, path) == ("GET", name)] == [
        "",
        "bytes=5000-",
        "bytes=8000-",
    ]
    assert (tmp_path / "fineweb" / "train_000001.bin").read_bytes() == published[name]


def test_a_run_that_failed_goes_on_where_it_stopped(hub, tmp_path):
    hub.gone.add(f"{FOLDER}/fineweb_train_000001.bin")
    failed(fetch(hub, tmp_path / "fineweb"), REPOSITORY, "what is complete is kept")
    assert data_directories(tmp_path) == []
    first = {path for method, path, _ in hub.log if method == "GET" and path not in hub.gone}
    assert f"{FOLDER}/fineweb_train_000000.bin" in first
    hub.gone.clear()
    hub.log.clear()
    assert fetch(hub, tmp_path / "fineweb").returncode == 0
    second = {path for method, path, _ in hub.log if method == "GET"}
    assert second == {f"{FOLDER}/fineweb_train_{index:06d}.bin" for index in (1, 2)}


@pytest.mark.parametrize(
    "damage", [lambda raw: b"", lambda raw: raw[:-500], lambda raw: raw[:-1] + bytes([raw[-1] ^ 1])]
)
def test_a_damaged_copy_in_the_cache_is_fetched_again(hub, published, tmp_path, damage):
    assert fetch(hub, tmp_path / "one").returncode == 0
    name = f"{FOLDER}/fineweb_val_000000.bin"
    (cached,) = (tmp_path / ".cache").rglob("fineweb_val_000000.bin")
    cached.write_bytes(damage(published[name]))
    hub.log.clear()
    assert fetch(hub, tmp_path / "two").returncode == 0
    assert cached.read_bytes() == published[name]
    assert {path for method, path, _ in hub.log if method == "GET"} == {name}


def test_an_empty_file_on_the_hub(hub, tmp_path):
    name = f"{FOLDER}/fineweb_train_000001.bin"
    hub.files[name] = b""
    failed(fetch(hub, tmp_path / "fineweb"), name, "empty (0 bytes)")
    assert data_directories(tmp_path) == []
    assert not any(path.endswith(".bin") for _, path, _ in hub.log)  # nothing large was fetched for it


def test_a_truncated_shard_on_the_hub(hub, published, tmp_path):
    name = f"{FOLDER}/fineweb_train_000001.bin"
    hub.files[name] = published[name][:-1000]
    failed(fetch(hub, tmp_path / "fineweb"), "fineweb_train_000001.bin", "but its header says 9000 tokens")
    assert data_directories(tmp_path) == []


def test_other_bytes_than_the_hub_promises(hub, published, tmp_path):
    name = f"{FOLDER}/fineweb_train_000000.bin"
    hub.served[name] = published[name][:-1] + bytes([published[name][-1] ^ 1])
    failed(fetch(hub, tmp_path / "fineweb"), name, "SHA-256 is not the hub's")
    assert data_directories(tmp_path) == []


def change(hub: Server, **stats) -> None:
    manifest = json.loads(hub.files[MANIFEST])
    manifest["datasets"][0]["stats"].update(stats)
    hub.files[MANIFEST] = json.dumps(manifest).encode()


def test_a_stale_manifest(hub, tmp_path):
    change(hub, tokens_val=36_600_000)
    failed(fetch(hub, tmp_path / "fineweb"), "36,600,000", "stale")
    change(hub, tokens_val=None, files_train=9)
    result = fetch(hub, tmp_path / "fineweb", "--shards", "4")
    failed(result, "has no", "fineweb_train_000003.bin")
    assert data_directories(tmp_path) == []


def test_a_manifest_without_the_variant(hub, tmp_path):
    hub.files[MANIFEST] = hub.files[MANIFEST].replace(b"fineweb10B_sp1024", b"fineweb10B_byte260")
    failed(fetch(hub, tmp_path / "fineweb"), "does not list fineweb10B_sp1024", "fineweb10B_byte260")


def test_a_wrong_validation_set(hub, tmp_path):
    failed(fetch(hub, tmp_path / "fineweb", validation=50_000), "30 documents", "50,000", "would not compare")
    assert data_directories(tmp_path) == []


def test_another_tokenizer(hub, published, tmp_path):
    hub.files[MODEL] = train_tokenizer([prose(seed, 300) for seed in range(20)], 600).model_bytes
    failed(fetch(hub, tmp_path / "fineweb"), "600 ids, not a tokenizer of sp1024")


@pytest.mark.parametrize(("shards", "part"), [("1", "at least 2"), ("4", "has 3 training shards")])
def test_a_number_of_shards_that_is_not_there(hub, tmp_path, shards, part):
    failed(fetch(hub, tmp_path / "fineweb", "--shards", shards), part)


def test_a_repository_that_is_not_there(hub, tmp_path):
    failed(fetch(hub, tmp_path / "fineweb", variant="sp8192"), "kevclark/parameter-golf")
