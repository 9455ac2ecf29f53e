"""R17: records are never edited. The one exception are additions (tools/records/additions.py), which only grow.

Not covered: a history that was rewritten as a whole: the clone's main branch is what whoever checks trusts.
"""

from golf.files import sha256_file
from golf.foreign import terminal
from golf.tracks import RULES_VERSION
from tools.records import additions, repository
from tools.records.artifacts import WITHOUT_HASH
from tools.records.submission import Submission
from tools.records.verdicts import Verdict, failed, judge, not_applicable, not_checked, passed, together

ADDITIONS = f"{additions.FOLDER}/"
UNDO = "undo it; a correction is a new record"


def history(s: Submission) -> Verdict:
    """R17. Records are never edited."""
    for name, sha256 in s.record.get("files", {}).items():
        if not (s.folder / name).is_file() or sha256_file(s.folder / name) != sha256:
            return failed(f"{name}: missing or edited since the record was made", sha256[:12], "put it back")
    if s.rules >= 2 and (strange := unlisted(s)):
        return failed(
            f"{terminal(strange[0], 200)}: no file of the record", "those that record.json lists", "remove it"
        )
    return together(committed(s), as_on_main(s), later_additions(s), version(s))


def unlisted(s: Submission) -> list[str]:
    """Files of the folder that record.json does not list and that are neither additions nor for reading."""
    names = [path.relative_to(s.folder).as_posix() for path in s.folder.rglob("*") if path.is_file()]
    listed = {*s.record["files"], "record.json", *WITHOUT_HASH}
    return sorted(name for name in names if name not in listed and not name.startswith(ADDITIONS))


def committed(s: Submission) -> Verdict:
    """Whether the folder is what the commit that added it holds."""
    if s.committed is None or not repository.is_in(s.root, s.committed.revision, s.committed.path):
        if "files" in s.record:
            return passed("every file has its hash; not committed here yet")
        return not_checked("not committed here, and it lists no hashes of its files", "check it where it is committed")
    revision, path = s.committed.revision, s.committed.path
    later = repository.changes(s.root, revision, path, "MDRT")
    if later:
        return failed(f"edited in {later[0]}", "no change after the commit that added it", UNDO)
    if s.folder == (s.root / path).resolve() and (edited := repository.edited(s.root, "HEAD", path, s.folder)):
        return failed(f"{terminal(edited[0], 200)}: edited", "as committed", UNDO)
    return passed("as committed")


def as_on_main(s: Submission) -> Verdict:
    """Whether a record by a name that main has is that record, wherever it was taken from: a folder, a branch without
    main's history, or the hub. Main may have got additions since."""
    path = f"records/{s.name}"
    for tip in repository.trusted_tips(s.root):
        names = repository.edited(s.root, tip, path, s.folder)
        other = [name for name in names if not may_lack(s, name.removeprefix(f"{path}/"))]
        if other:
            fix = "a correction is a new record, and a new record takes the next number"
            return failed(f"{terminal(other[0], 200)}: main has another one", "as on main", fix)
    return not_applicable("main has no record of this name, or this very one")


def may_lack(s: Submission, name: str) -> bool:
    """Whether main may have a file that the folder has not: one for reading, or one that was added since."""
    return (name.startswith(ADDITIONS) or name in WITHOUT_HASH) and not (s.folder / name).exists()


def later_additions(s: Submission) -> Verdict:
    """Whether what was added to the record says what an addition must, of this record."""
    if not (s.folder / ADDITIONS).is_dir():
        return passed("nothing was added")
    count = len(additions.read(s.folder))
    return passed(f"{count} addition{'s' if count != 1 else ''}, of this record")


def version(s: Submission) -> Verdict:
    """Whether a record under older rules is one of the old ones: nobody may choose the rules that suit a new record."""
    measured = f"version {s.rules} of the rules"
    if s.rules == RULES_VERSION:
        return passed(measured)
    tips = repository.trusted_tips(s.root)
    if not tips:
        return not_checked(f"{measured}: no branch main here that could have the record", "git fetch origin main")
    known = any(repository.is_in(s.root, tip, f"records/{s.name}/record.json") for tip in tips)
    fix = "make it again with today's golf record make"
    limit = f"version {RULES_VERSION}, or on main before"
    return judge(known, measured if known else f"{measured}, and not on main", limit, fix)
