"""Finds the artifacts of a record, which are committed or on the Hugging Face hub; fetches whole records from there.

    locate(folder, record, seed)                                  one seed's .golf file
    fetch_record("hf://OWNER/NAME/records/pocket/0005_x", into)   a record's folder

On the hub a repository of models holds records under the paths that they have here: records/<track>/<name>/...
Nothing that a record or the hub says is believed: downloads are bounded, follow no redirect to another scheme, carry no
token (a record is for everybody), and an artifact is kept only if its size and SHA-256 are the record's.

Not covered: whether an artifact is what its record claims (golf check); uploads (tools/records/publish.py).
"""

import hashlib
import os
import re
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.parse import quote, urlsplit

from huggingface_hub import constants

from golf import schema, temporary
from golf.files import (
    MAX_FOLDER_BYTES,
    MAX_SETTINGS_BYTES,
    MAX_TEXT_BYTES,
    Failure,
    check_plain,
    parse_json,
    sha256_file,
    write_durable,
)
from golf.foreign import terminal
from golf.progress import Progress
from golf.tracks import TRACKS

REPO = "[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*"
ADDRESS = re.compile(
    f"hf://(?P<repo>{REPO})(@(?P<revision>[A-Za-z0-9][A-Za-z0-9._-]*))?"
    "/(?P<path>records/(?P<track>[a-z0-9]+)/(?P<name>[0-9]{4}_[a-z0-9_]+))/?"
)
ADDITION = re.compile(r"additions/[A-Za-z0-9_-]+\.json")
WITHOUT_HASH = ("README.md", "curves.png")  # files of a record that its record.json does not list, beside itself
CHUNK_BYTES = 2**16
SILENCE_SECONDS = 30  # of a connection before it counts as broken
DOWNLOAD_SECONDS = 600  # for one file: a server may send a byte at a time


class Unreachable(Failure):
    """The hub could not be asked, or the connection broke: this says nothing of the record."""


@dataclass(frozen=True)
class Artifact:
    """What a record states of one seed's artifact. file: its path in the record's folder, or None."""

    seed: int
    file: str | None
    size: int
    sha256: str


class SameScheme(urllib.request.HTTPRedirectHandler):
    """Follows a hub's redirects to where it keeps large files, and none that leads to another scheme."""

    def redirect_request(self, request, file, code, message, headers, url):
        before, after = urlsplit(request.full_url).scheme, urlsplit(url).scheme
        if after != before:
            raise Failure(
                f"{terminal(request.full_url, 300)}: redirects from {before} to {terminal(after, 20)}: refused"
            )
        return super().redirect_request(request, file, code, message, headers, url)


def hub_url(repo: str, revision: str, path: str) -> str:
    """Where the hub serves a file of a repository of models."""
    return f"{constants.ENDPOINT}/{repo}/resolve/{quote(revision, safe='')}/{quote(path)}"


def hub_path(track: str, name: str, file: str) -> str:
    """The path of a record's file in a repository on the hub."""
    return f"records/{track}/{name}/{file}"


def download(url: str, limit: int, advance: Callable[[int], None] = lambda count: None) -> bytes:
    """What `url` gives. Failure if that is not there, or has more than `limit` bytes; Unreachable if nobody answers."""
    where = terminal(url, 300)
    if urlsplit(url).scheme not in ("http", "https"):
        raise Failure(f"{where}: not an address of the web: look at HF_ENDPOINT")
    try:
        with urllib.request.build_opener(SameScheme).open(url, timeout=SILENCE_SECONDS) as response:
            promised = response.headers.get("Content-Length", "")
            if promised.isdecimal() and int(promised) > limit:
                raise Failure(f"{where}: {int(promised):,} bytes, expected at most {limit:,}")
            data = _read(response, where, limit, advance)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403, 404, 410):
            raise Failure(f"{where}: not there, or not public (HTTP {error.code})") from None
        raise Unreachable(f"{where}: HTTP {error.code}: try again later") from None
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise Unreachable(f"{where}: cannot download it: {terminal(str(reason), 200)}") from None
    if promised.isdecimal() and len(data) < int(promised):
        raise Unreachable(f"{where}: the connection broke after {len(data):,} of {int(promised):,} bytes: try again")
    return data


def _read(response, where: str, limit: int, advance: Callable[[int], None]) -> bytes:
    data, deadline = bytearray(), time.monotonic() + DOWNLOAD_SECONDS
    while chunk := response.read1(CHUNK_BYTES):
        data += chunk
        if len(data) > limit:
            raise Failure(f"{where}: more than the {limit:,} bytes expected")
        if time.monotonic() > deadline:
            raise Unreachable(f"{where}: not here after {DOWNLOAD_SECONDS} s: try again later")
        advance(len(chunk))
    return bytes(data)


def stated(record: dict, seed: int) -> Artifact | None:
    """What record.json (valid by its schema) says of a seed's artifact; None for the seeds of a record of format 1
    whose artifacts were not kept. Failure if it has no such seed, or says what cannot be."""
    row = next((row for row in record["seeds"] if row["seed"] == seed), None)
    if row is None:
        raise Failure(f"record.json: no seed {seed}: it has {', '.join(str(row['seed']) for row in record['seeds'])}")
    if record["format"] == 1:
        one = record["artifact"]
        kept = one["file"] is not None and one["seed"] == seed
        found = Artifact(seed, one["file"], one["bytes"], one["sha256"]) if kept else None
    else:
        found = Artifact(seed, row["artifact_file"], row["artifact_bytes"], row["artifact_sha256"])
        if found.file not in (None, artifact_file(seed)):
            raise Failure(f"record.json: artifact_file of seed {seed} is {found.file}, not {artifact_file(seed)}")
    cap = TRACKS[record["track"]].cap_bytes
    if found and found.size > cap:
        raise Failure(f"record.json: the artifact of seed {seed} has {found.size:,} bytes, the cap is {cap:,}")
    return found


def is_part(name: str, record: dict) -> bool:
    """Whether a file of a record's folder, beside record.json, belongs to the record."""
    return name in _named(record) or name in WITHOUT_HASH or ADDITION.fullmatch(name) is not None


def _named(record: dict) -> set[str]:
    """The files that record.json lists; where it has no list, as the first records, those that they had."""
    if "files" in record:
        return set(record["files"])
    of_seeds = ("logs/seed{}.log", "logs/seed{}.run.json", "logs/seed{}.metrics.jsonl", "eval/seed{}.json")
    names = {pattern.format(row["seed"]) for row in record["seeds"] for pattern in of_seeds}
    return names | {"train_gpt.py", "parent.diff", record["artifact"]["file"]}


def artifact_file(seed: int) -> str:
    """The path of a seed's artifact in the folder of a record of format 2."""
    return f"artifacts/seed{seed}.golf"


def locate(folder: Path, record: dict, seed: int) -> Path | None:
    """The artifact of a seed, with the size and SHA-256 that record.json states: the committed file, or a copy in the
    cache that is fetched from the hub where it is not there yet. None where a record of format 1 kept none.

    record: what the record.json of `folder` holds, valid by its schema. Raises Failure if the artifact is missing, was
    not published or has other bytes; Unreachable, which is a Failure, if the hub does not answer."""
    artifact = stated(record, seed)
    if artifact is None:
        return None
    if artifact.file is not None:
        return _committed(folder, artifact)
    if record["hub"] is None:
        raise Failure(f"{folder}: the artifact of seed {seed} is not published: golf record publish {folder}")
    return cached(artifact) or _fetch(record, artifact)


def _committed(folder: Path, artifact: Artifact) -> Path:
    check_plain(folder)
    path = folder / str(artifact.file)
    if not path.is_file():
        raise Failure(f"{path}: missing: record.json names it")
    if path.stat().st_size != artifact.size or sha256_file(path) != artifact.sha256:
        raise Failure(f"{path}: not the artifact whose size and sha256 record.json states ({artifact.sha256[:12]}...)")
    return path


def cache() -> Path:
    """The folder of fetched artifacts, which only this user may write. Failure if others may."""
    folder = Path.home() / ".cache" / "golf" / "artifacts"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise Failure(f"{folder}: a link, or others may write in it: remove it, it is made again")
    return folder


def cached(artifact: Artifact) -> Path | None:
    """The copy of an artifact in the cache; None if it is not there, or damaged."""
    path = cache() / f"{artifact.sha256}.golf"
    if path.is_symlink() or not path.is_file() or path.stat().st_size != artifact.size:
        return None
    return path if sha256_file(path) == artifact.sha256 else None


def keep(data: bytes) -> Path:
    """Puts an artifact into the cache; returns its path there."""
    path = cache() / f"{hashlib.sha256(data).hexdigest()}.golf"
    write_durable(path, data)
    return path


def _fetch(record: dict, artifact: Artifact) -> Path:
    repo, revision = record["hub"]["repo"], record["hub"]["revision"]
    path = hub_path(record["track"], f"{record['number']}_{record['slug']}", artifact_file(artifact.seed))
    url = hub_url(repo, revision, path)
    with Progress() as progress:
        progress.phase(f"fetching the artifact of seed {artifact.seed}", total=artifact.size, unit="bytes")
        data = download(url, artifact.size, progress.advance)
    if len(data) != artifact.size or hashlib.sha256(data).hexdigest() != artifact.sha256:
        raise Failure(
            f"{url}: not the artifact of seed {artifact.seed}: its size or sha256 is not what record.json states"
        )
    return keep(data)


def fetch_record(address: str, into: Path) -> Path:
    """Fetches a record from the hub into `into`/<track>/<name>, and returns that folder, which must not be there yet.

    address: hf://OWNER/NAME[@REVISION]/records/<track>/<number>_<slug>. Artifacts that record.json does not name as
    files of the folder stay on the hub (`locate` fetches them); so does what belongs to no record. The folder holds
    what the hub gave and is to be checked like any stranger's. Raises Failure, and leaves nothing; Unreachable if the
    hub does not answer."""
    match = ADDRESS.fullmatch(address)
    if not match:
        raise Failure(f"{terminal(address, 200)}: not an address: hf://OWNER/NAME[@REVISION]/records/TRACK/NUMBER_SLUG")
    folder = into / match["track"] / match["name"]
    if folder.exists():
        raise Failure(f"{folder}: exists")
    commit, sizes = _listing(match["repo"], match["revision"] or constants.DEFAULT_REVISION, match["path"])
    into.mkdir(parents=True, exist_ok=True)
    with temporary.folder("fetch", into) as staging:
        staged = staging / match["name"]
        staged.mkdir()
        _fetch_files(staged, sizes, lambda name: hub_url(match["repo"], commit, f"{match['path']}/{name}"))
        folder.parent.mkdir(exist_ok=True)
        os.rename(staged, folder)
    return folder


def _fetch_files(folder: Path, sizes: dict[str, int], url: Callable[[str], str]) -> None:
    if "record.json" not in sizes:
        raise Failure(f"{url('record.json')}: not there: no record lies at this address")
    (folder / "record.json").write_bytes(download(url("record.json"), MAX_SETTINGS_BYTES))
    record = schema.read(folder / "record.json", "record")
    wanted = [name for name in sizes if is_part(name, record)]
    total = sum(sizes[name] for name in wanted)
    if total > MAX_FOLDER_BYTES:
        raise Failure(f"{url('')}: {total:,} bytes in all: a record has at most {MAX_FOLDER_BYTES:,}")
    with Progress() as progress:
        progress.phase("fetching the record", total=total, unit="bytes")
        for name in wanted:
            data = download(url(name), sizes[name], progress.advance)
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)


def _listing(repo: str, revision: str, path: str) -> tuple[str, dict[str, int]]:
    """(commit, {name: bytes}) of the files below a path of a repository on the hub; the first 1,000 of them."""
    where = f"{repo}@{revision}"
    api = f"{constants.ENDPOINT}/api/models/{repo}"
    about = _json(f"{api}/revision/{quote(revision, safe='')}")
    commit = about.get("sha") if isinstance(about, dict) else None
    if not isinstance(commit, str) or not re.fullmatch("[0-9a-f]{40}", commit):
        raise Failure(f"{where}: the hub names no commit: is HF_ENDPOINT a hub?")
    tree = _json(f"{api}/tree/{commit}/{quote(path)}?recursive=true")
    return commit, dict(_files(tree if isinstance(tree, list) else [], path))


def _json(url: str) -> object:
    try:
        return parse_json(download(url, MAX_TEXT_BYTES))
    except ValueError as error:
        raise Failure(f"{terminal(url, 300)}: not JSON: {terminal(str(error), 200)}") from None


def _files(tree: list, path: str) -> Iterator[tuple[str, int]]:
    for entry in tree:
        if not isinstance(entry, dict) or entry.get("type") != "file":
            continue
        name, size = entry.get("path"), entry.get("size")
        if isinstance(name, str) and name.startswith(f"{path}/") and type(size) is int and size >= 0:
            yield name.removeprefix(f"{path}/"), size
