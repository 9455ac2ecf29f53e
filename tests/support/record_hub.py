"""A hub on loopback for records: what golf and huggingface_hub ask of one to upload files and to fetch them again.

    with serving() as hub:
        hub.commit({"records/pocket/0001_x/record.json": b"..."})

Large files are kept as the hub does: `resolve` redirects to another address. Not covered: data sets (test_hub.py of
golf data), Xet, tokens of several users.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

REPO = "ann/golf"
TOKEN = "hf_test"


class Hub(ThreadingHTTPServer):
    """One repository of models, REPO; it is there once `create` was asked for, or a commit made."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.commits: dict[str, dict[str, bytes]] = {}  # hash -> path -> bytes, the oldest first
        self.large: dict[str, bytes] = {}  # SHA-256 -> bytes
        self.served: dict[str, bytes] = {}  # path -> other bytes than those that were committed
        self.redirects: dict[str, str] = {}  # path -> another address
        self.break_after: dict[str, int] = {}  # path -> bytes after which an answer breaks off
        self.status: dict[str, int] = {}  # path -> HTTP status instead of an answer
        self.log: list[tuple[str, str]] = []  # method, path
        self.tokens: list[tuple[str, str | None]] = []  # path, Authorization

    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    def commit(self, files: dict[str, bytes]) -> str:
        """Adds files to the newest commit's; returns the hash of the new one."""
        before = self.commits[self.head] if self.commits else {}
        name = hashlib.sha1(f"{len(self.commits)}".encode(), usedforsecurity=False).hexdigest()
        self.commits[name] = before | files
        return name

    def revision(self, name: str) -> str | None:
        """The commit that a revision means, or None."""
        found = self.head if name == "main" and self.commits else name
        return found if found in self.commits else None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None, cut: int | None = None):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True

    def reply_json(self, value: object, status: int = 200):
        self.reply(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def note(self) -> str:
        path = unquote(urlsplit(self.path).path)
        self.server.log.append((self.command, path))
        self.server.tokens.append((path, self.headers.get("Authorization")))
        return path

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.note()
        if path.startswith("/large/"):
            name = path.removeprefix("/large/")
            data = self.server.large.get(name)
            return self.reply(200, data) if data is not None else self.reply(404)
        if match := re.fullmatch(f"/{REPO}/resolve/([^/]+)/(.+)", path):
            return self.resolve(match[1], match[2])
        match = re.fullmatch(f"/api/models/{REPO}(?:/revision/([^/]+)|/tree/([^/]+)(?:/(.*))?)?", path)
        commit = match and self.server.revision(match[1] or match[2] or "main")
        if not commit:
            return self.reply(404, headers={"X-Error-Code": "RepoNotFound"})
        if not match[2]:
            return self.reply_json({"id": REPO, "sha": commit, "siblings": []})
        prefix = f"{match[3]}/" if match[3] else ""
        found = {name: data for name, data in self.server.commits[commit].items() if name.startswith(prefix)}
        folders = {name.rpartition("/")[0] for name in found} - {match[3]}
        tree = [{"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in sorted(folders)]
        tree += [{"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in found.items()]
        return self.reply_json(tree) if found else self.reply(404, headers={"X-Error-Code": "EntryNotFound"})

    def resolve(self, revision: str, name: str):
        commit = self.server.revision(revision)
        if name in self.server.status:
            return self.reply(self.server.status[name])
        if name in self.server.redirects:
            return self.reply(302, headers={"Location": self.server.redirects[name]})
        if commit is None or name not in self.server.commits[commit]:
            return self.reply(404, headers={"X-Error-Code": "EntryNotFound"})
        data = self.server.served.get(name, self.server.commits[commit][name])
        if name.endswith(".golf") and name not in self.server.break_after:
            sha256 = hashlib.sha256(data).hexdigest()
            self.server.large[sha256] = data
            return self.reply(302, headers={"Location": f"{self.server.endpoint()}/large/{sha256}"})
        return self.reply(200, data, cut=self.server.break_after.get(name))

    def do_PUT(self):
        name = self.note().removeprefix("/upload/")
        data = self.body()
        if hashlib.sha256(data).hexdigest() != name:
            return self.reply(400)
        self.server.large[name] = data
        return self.reply(200)

    def do_POST(self):
        path = self.note()
        body = self.body()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.reply_json({"error": "Invalid username or password."}, 401)
        if path == "/api/repos/create":
            return self.reply_json({"url": f"{self.server.endpoint()}/{REPO}", "name": REPO})
        if path == f"/api/models/{REPO}/preupload/main":
            files = [
                {"path": file["path"], "uploadMode": self.mode(file["path"]), "shouldIgnore": False, "oid": None}
                for file in json.loads(body)["files"]
            ]
            return self.reply_json({"files": files})
        if path == f"/{REPO}.git/info/lfs/objects/batch":
            return self.reply_json(
                {"transfer": "basic", "objects": [self.action(o) for o in json.loads(body)["objects"]]}
            )
        if path == f"/api/models/{REPO}/commit/main":
            return self.take(body)
        return self.reply(404)

    @staticmethod
    def mode(path: str) -> str:
        return "lfs" if path.endswith((".golf", ".png")) else "regular"

    def action(self, item: dict) -> dict:
        if item["oid"] in self.server.large:
            return item
        return item | {"actions": {"upload": {"href": f"{self.server.endpoint()}/upload/{item['oid']}"}}}

    def take(self, body: bytes):
        files = {}
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
        name = self.server.commit(files)
        self.reply_json({"commitUrl": f"{self.server.endpoint()}/{REPO}/commit/{name}", "commitOid": name})


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers while the block runs."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
