"""Keeps what is costly to compute, by the hashes of what it was computed from, so that nothing is computed twice.

The results lie in ~/.cache/golf/board, or below XDG_CACHE_HOME. Removing the folder costs time and nothing else. A
result is found again only if its inputs, the sources of this kit and the libraries that compute are the same.

Not covered: removing results that nobody asks for any more; each is a few kilobytes.
"""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from golf.files import ROOT, Failure, read_json, sha256_file, write_atomic

SOURCES = (
    "golf/*.py",
    "tools/claims/*.py",
    "tools/runs/curves.py",
    "tools/records/*.py",
    "tools/records/site/*",
    "docs/*.schema.json",
)
LIBRARIES = ("numpy", "scipy", "jinja2", "markupsafe", "markdown-it-py")


def folder() -> Path:
    """Where the results lie."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "golf" / "board"


@functools.cache
def program() -> str:
    """One hash of all that decides what comes out for the same inputs."""
    digest = hashlib.sha256()
    for pattern in SOURCES:
        for path in sorted(ROOT.glob(pattern)):
            digest.update(f"{path.relative_to(ROOT)} {sha256_file(path)}\n".encode())
    for library in LIBRARIES:
        digest.update(f"{library} {metadata.version(library)}\n".encode())
    return digest.hexdigest()


def hash_or_missing(path: Path) -> str:
    """A file's hash as an input of recall(); "missing" where it is not there. Failure if it is no regular file."""
    try:
        return sha256_file(path)
    except FileNotFoundError:
        return "missing"


def recall(kind: str, inputs: list[str], compute: Callable[[], dict]) -> dict:
    """What compute() gives, as JSON gives it back; computed only if it is not known for these inputs.

    inputs: hashes of files, names and settings; together they must decide the result. What compute() raises is raised
    and not kept. A folder that cannot be written costs time, and is no fault."""
    digest = hashlib.sha256(json.dumps([kind, program(), *inputs]).encode()).hexdigest()
    path = folder() / kind / digest[:2] / f"{digest}.json"
    with contextlib.suppress(Failure):
        return read_json(path)

    text = json.dumps(compute())
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode())
    return json.loads(text)
