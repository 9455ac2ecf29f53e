"""Reads commits of this clone: files of a commit, which records it adds, whether they were changed later.

Only git's object database is read, by its hash or name, with the commands that start nothing: no checkout, no hook, no
filter, no textconv, no fsmonitor, whatever the settings of the clone say. Links and submodules are refused.

Not covered: fetching commits from elsewhere (git fetch).
"""

import hashlib
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from golf.files import MAX_BYTES, MAX_ENTRIES, MAX_FOLDER_BYTES, Failure
from golf.foreign import terminal

# The branch whose history whoever checks trusts: what is there was reviewed.
TRUSTED = ("refs/heads/main", "refs/remotes/origin/main")
PLAIN = ("100644", "100755")  # modes of regular files
QUIET = ("--no-replace-objects", "--literal-pathspecs", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")


@dataclass(frozen=True)
class Entry:
    """A file of a commit: its path from the root of the repository, the hash of what it holds, bytes."""

    path: str
    blob: str
    size: int


def git(root: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Runs git in `root`; output is bytes, since names of files are."""
    return subprocess.run(["git", *QUIET, *words], cwd=root, capture_output=True)


def lines(root: Path, *words: str) -> list[str]:
    """The lines that git prints; none if it fails."""
    return git(root, *words).stdout.decode(errors="replace").splitlines()


def commit_of(root: Path, name: str) -> str | None:
    """The full hash of the commit that a branch, tag or hash names; None if none is named so."""
    found = lines(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    return found[0] if found else None


def blob(root: Path, commit: str, path: str) -> bytes | None:
    """What the file `path` of a commit holds; None if the commit or the file is not in this clone."""
    done = git(root, "cat-file", "blob", f"{commit}:{path}")
    return done.stdout if done.returncode == 0 else None


def trusted_base(root: Path, commit: str) -> str | None:
    """The youngest commit of the trusted branch that `commit` builds on: itself if it is on that branch. None if the
    clone has no such branch, or the two share no history."""
    for branch in TRUSTED:
        if (tip := commit_of(root, branch)) is None:
            continue
        if found := lines(root, "merge-base", commit, tip):
            return found[0]
    return None


def entries(root: Path, commit: str, folder: str) -> list[Entry]:
    """All files below a folder of a commit. Failure if one is a link or a submodule, or they are too many or too
    large."""
    found = []
    for row in git(root, "ls-tree", "-r", "-z", "-l", "--full-tree", commit, "--", f"{folder}/").stdout.split(b"\0"):
        if not row:
            continue
        kind, _, name = row.decode(errors="surrogateescape").partition("\t")
        mode, _, sha, size = kind.split()
        where = f"{commit[:12]}:{terminal(name, 200)}"
        parts = PurePosixPath(name).parts
        if mode not in PLAIN or ".." in parts or ".git" in parts:
            raise Failure(f"{where}: not a regular file: a record holds its files itself")
        if int(size) > MAX_BYTES:
            raise Failure(f"{where}: {int(size):,} bytes: a file of a record has at most {MAX_BYTES:,}")
        found.append(Entry(name, sha, int(size)))
    if len(found) > MAX_ENTRIES:
        raise Failure(f"{commit[:12]}:{folder}: more than {MAX_ENTRIES:,} files: a record has some twenty")
    if sum(entry.size for entry in found) > MAX_FOLDER_BYTES:
        raise Failure(f"{commit[:12]}:{folder}: more than {MAX_FOLDER_BYTES:,} bytes in all")
    return found


def extract(root: Path, commit: str, folder: str, into: Path) -> Path:
    """Writes the files below `folder` of a commit under `into`, by the same paths, and returns into/folder. Failure if
    there are none, or one is not plain."""
    found = entries(root, commit, folder)
    if not found:
        raise Failure(f"{commit[:12]} has no folder {terminal(folder, 200)}")
    for entry in found:
        data = git(root, "cat-file", "blob", entry.blob)
        if data.returncode != 0:
            raise Failure(f"{commit[:12]}:{terminal(entry.path, 200)}: not in this clone: git fetch it")
        path = into / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.stdout)
    return into / folder


def added_records(root: Path, commit: str) -> list[str]:
    """Folders records/<track>/<name> that a commit has and the trusted branch, where it left it, had not. Failure if
    this clone has no trusted branch."""
    base = trusted_base(root, commit)
    if base is None:
        raise Failure(
            f"{commit[:12]} builds on no branch main of this clone: name the record, as REF:records/TRACK/NAME"
        )
    words = ("diff-tree", "-r", "-z", "--name-only", "--no-renames", "--diff-filter=A", base, commit, "--", "records/")
    names = git(root, *words).stdout.decode(errors="surrogateescape").split("\0")
    return sorted(
        name.removesuffix("/record.json") for name in names if re.fullmatch("records/[^/]+/[^/]+/record.json", name)
    )


def changes(root: Path, revision: str, path: str, letters: str) -> list[str]:
    """Short hashes of the commits up to `revision` that changed something below `path` in one of these ways (git's
    letters: M modified, D deleted, R renamed, T another kind of file), merges included.

    With --full-history: git would else follow only the side of a merge that agrees with its result, and what the other
    side had would be gone without a trace."""
    return lines(
        root,
        "log",
        "-m",
        "--full-history",
        "--format=%h",
        "--no-ext-diff",
        "--no-textconv",
        f"--diff-filter={letters}",
        revision,
        "--",
        path,
    )


def is_in(root: Path, revision: str, path: str) -> bool:
    """Whether a commit has something at this path."""
    return bool(lines(root, "ls-tree", "--full-tree", revision, "--", path))


def folders(root: Path, revision: str, path: str) -> list[str]:
    """Names of the folders right below `path` of a commit."""
    rows = lines(root, "ls-tree", "-d", "--name-only", "--full-tree", revision, "--", f"{path}/")
    return [row.rpartition("/")[2] for row in rows]


def trusted_tips(root: Path) -> list[str]:
    """The last commits of those of the trusted branches that this clone has."""
    return [tip for branch in TRUSTED if (tip := commit_of(root, branch))]


def edited(root: Path, revision: str, folder: str, place: Path) -> list[str]:
    """Files below `folder` that a commit has and the folder `place` has otherwise, or not at all. Their hashes are
    computed here: `git status` may start filters."""
    changed = []
    for entry in entries(root, revision, folder):
        path = place / PurePosixPath(entry.path).relative_to(folder)
        data = path.read_bytes() if path.is_file() else None
        name = "sha1" if len(entry.blob) == 40 else "sha256"
        if data is None or hashlib.new(name, b"blob %d\0" % len(data) + data).hexdigest() != entry.blob:
            changed.append(entry.path)
    return changed


def hashes(root: Path, commit: str, paths: tuple[str, ...]) -> dict[str, str]:
    """{path: mode, kind and hash} of those of the paths that a commit has."""
    rows = (line.partition("\t") for line in lines(root, "ls-tree", "--full-tree", commit, "--", *paths))
    return {path: what for what, _, path in rows}
