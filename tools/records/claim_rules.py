"""R13 to R16 and R18: that the script alone gives the record, that its seeds were drawn, that it is better than what
stood before, that it is its own, and that it can be read.

Not covered: whether authors and sources are named truly; a seed commit that was amended until its seeds were good.
"""

import hashlib
import re
from pathlib import Path

from golf.files import read_text, sha256_file
from golf.foreign import terminal
from golf.script import MAX_BYTES
from golf.tracks import rules_of
from tools.claims import prove
from tools.records import repository
from tools.records.record import draw_seeds, overrides, parent_diff
from tools.records.submission import Submission
from tools.records.verdicts import Verdict, failed, judge, not_applicable, not_checked

MAX_LINES, MAX_COLUMNS, MIN_SEEDS = 2500, 120, 3
ANEW = "make the record anew from its runs"
WITH_LOG = "make the record in the clone whose experiment log has its runs (golf record make)"


def defaults(s: Submission) -> Verdict:
    """R13. The script's defaults are the record."""
    for seed, run in zip(s.seeds, s.runs):
        config = {key: value for key, value in run["config"].items() if key not in ("seed", "run_dir")}
        if config != s.record["config"]:
            return failed(f"seed {seed}: another config than record.json's", "equal", ANEW)
    flags = overrides(s.script, s.runs[0])
    return judge(
        not flags,
        " ".join(flags) or "the bare preset gives the config",
        "no flag but the seed",
        "put these values into the script's preset, commit, draw seeds, run",
    )


def seeds(s: Submission) -> Verdict:
    """R14. The commit draws the seeds."""
    commit = s.record["seed_commit"]
    drawn = draw_seeds(commit, len(s.seeds))
    if s.seeds != drawn or [run["seed"] for run in s.runs] != drawn:
        return failed(f"seeds {s.seeds}", f"{drawn} of commit {commit[:12]}", "run the drawn seeds")
    if len(drawn) < MIN_SEEDS:
        return failed(f"{len(drawn)} seeds", f"at least {MIN_SEEDS}", "run more of the drawn seeds")
    found = repository.commit_of(s.root, commit)
    if found is None:
        fix = f"git fetch origin {commit}, or the branch of the pull request"
        return not_checked(f"seeds as drawn, but commit {commit[:12]} is not in this clone", fix)
    if found != commit:
        return failed(f"{commit[:12]} is a tag", f"a commit, as {found[:12]}", "draw the seeds from the commit")
    script = repository.blob(s.root, commit, "train_gpt.py")
    return judge(
        script is not None and hashlib.sha256(script).hexdigest() == s.record["script_sha256"],
        f"the first {len(drawn)} that {commit[:12]} draws",
        "that commit's train_gpt.py is the record's",
        "commit the script first, then draw",
    )


def gain(s: Submission) -> Verdict:
    """R15. A gain against its parent, and against the best earlier record of its track and scope."""
    if s.rules >= 2 and s.record["ledger_head"] is None:
        return failed("it names no head of an experiment log", "variants are counted in a log", WITH_LOG)
    if s.rules >= 2 and s.record["variants"] is None:
        return failed("it states no number of variants", "those in its experiment log", WITH_LOG)
    if s.record["parent"] is None and s.table:
        first = min(s.table.values(), key=lambda record: record["number"])
        name = f"{first['number']}_{first['slug']}"
        return failed(f"no parent, and {name} stood before", "null for a track's first record", "name its parent")

    rivals = opponents(s)
    if not rivals:
        return not_applicable(f"the first of its track with scope {s.record['scope']}: there is nothing to beat")
    claims = [claim(s, rival) for rival in rivals]
    unproven = [one for one in claims if not one["proven"]]
    shown = max(unproven or claims, key=lambda one: one["p_holm"])
    if unproven and s.record["track"] == "open":
        return not_applicable(f"{shown['sentence']}: the open track asks for no proof")
    measured = f"{shown['sentence']}; {shown['rivals']} variants, as {variants(s)}"
    return judge(not unproven, measured, f"p <= {prove.ALPHA}", "more seeds, fewer variants, or a larger gain")


def opponents(s: Submission) -> list[Path]:
    """What a record must beat: the best earlier one of its table and scope, and its parent if that is in the table.
    None where it is the first of its scope: scores of other scopes are other achievements."""
    scope = {folder: record for folder, record in s.table.items() if record["scope"] == s.record["scope"]}
    if not scope:
        return []
    best = min(scope, key=lambda folder: scope[folder]["bpb_mean"])
    found = {best} | ({s.parent} if s.parent in s.table else set())
    return sorted(found)


def claim(s: Submission, rival: Path) -> dict:
    """The claim of golf prove that the record is better than another, with as many rivals as it states variants."""
    new, old = prove.read_arm(str(s.folder)), prove.read_arm(str(rival))
    compared = prove.compare(new, old, prove.MARGIN, None)
    return prove.conclude([compared], prove.ALPHA)[0]


def variants(s: Submission) -> str:
    """Where the number of variants comes from."""
    return "it states no other number" if s.record.get("variants") is None else "record.json states"


def attribution(s: Submission) -> Verdict:
    """R16. Name where it comes from; it is called what it is, and nothing of it is another record's."""
    called = "/".join(s.folder.parts[-2:])
    if called != s.name:
        return failed(f"its folder is {called}", f"{s.name}, as record.json says", "call the folder so")
    taken = [f for f, r in s.others.items() if (r["track"], r["number"]) == (s.record["track"], s.record["number"])]
    if taken:
        return failed(f"{taken[0].name} has its number", "one record, one number", "take the next number")
    if fault := out_of_turn(s) or repeated(s) or copied(s):
        return fault

    name = f"{s.record['number']}_{s.record['slug']}"
    return judge(
        read_text(s.folder / "parent.diff") == parent_diff(s.parent, name, s.script),
        f"by {', '.join(s.record['authors'])}; parent {s.record['parent'] or 'none'}; agents: {s.record['agent_help']}",
        "parent.diff turns the parent's script into this one",
        "make the record with golf record",
    )


def out_of_turn(s: Submission) -> Verdict | None:
    """A failure if a record that is not on main has no number above all that main has on its track: it would stand
    before records that it must beat (R15), or at the head of the table."""
    track = f"records/{s.record['track']}"
    for tip in repository.trusted_tips(s.root):
        names = repository.folders(s.root, tip, track)
        if f"{s.record['number']}_{s.record['slug']}" in names:
            continue
        later = max((name for name in names if re.match("[0-9]{4}_", name)), default="")
        if later[:4] >= s.record["number"]:
            return failed(f"main has {terminal(later)} already", "a number above it", "take the next number")
    return None


def repeated(s: Submission) -> Verdict | None:
    """A failure if two seeds of the record have one artifact, one log, or one score of every document: one run, or a
    script that ignores its seed."""
    for place, (seed, result) in enumerate(zip(s.seeds, s.evals)):
        for earlier, other in zip(s.seeds[:place], s.evals):
            mine, theirs = (each["per_document"] for each in (result, other))
            if [row["nats"] for row in mine] == [row["nats"] for row in theirs]:
                what = f"seeds {earlier} and {seed} have the same nats in every document"
                return failed(what, "a run for each seed", "train every seed, with a script that uses it")
    kinds = [what for row in s.record["seeds"] for what in traces_of_seed(s.folder, row)]
    twice = [what for what in kinds if kinds.count(what) > 1]
    if not twice:
        return None
    return failed("two seeds have the same artifact, log or metrics", "a run for each seed", "train every seed")


def copied(s: Submission) -> Verdict | None:
    """A failure if the script, an artifact, the seed commit or a log is that of another record."""
    mine = traces(s.folder, s.record)
    for folder, record in s.others.items():
        name = "/".join(folder.parts[-2:])
        if record["script_sha256"] == s.script_sha256 and not may_share_script(s, folder, record):
            fix = "a record needs an idea of its own"
            return failed(f"its script is that of {name}", "its own", fix)
        theirs = traces(folder, record)
        shared = [what for trace, what in mine.items() if trace in theirs]
        if shared:
            return failed(f"{shared[0]} is that of {name}", "its own", "train, pack and score the record itself")
    return None


def may_share_script(s: Submission, folder: Path, other: dict) -> bool:
    """Whether a record may have another's script: only one of older rules, if it is its parent, or if the record
    begins the track's table under newer rules."""
    if rules_of(other) >= s.rules:
        return s.rules < rules_of(other)  # the newer one answers for it
    return folder.name == s.record["parent"] or not s.table


def traces(folder: Path, record: dict) -> dict[str, str]:
    """{what cannot be the same in two records: its name}: artifacts, the seed commit, logs."""
    found = {record["seed_commit"]: "its seed commit", record["artifact"]["sha256"]: "its artifact"}
    for row in record["seeds"]:
        found |= traces_of_seed(folder, row)
    return found


def traces_of_seed(folder: Path, row: dict) -> dict[str, str]:
    """As `traces`, of one row of record.json's seeds."""
    found = {}
    if "artifact_sha256" in row:
        found[row["artifact_sha256"]] = f"the artifact of seed {row['seed']}"
    for kind in ("log", "metrics.jsonl"):
        path = folder / f"logs/seed{row['seed']}.{kind}"
        if path.is_file():
            found[sha256_file(path)] = f"the {kind} of seed {row['seed']}"
    return found


def readable(s: Submission) -> Verdict:
    """R18. A script is there to be read."""
    lines = read_text(s.folder / "train_gpt.py", MAX_BYTES).splitlines()
    widest = max(map(len, lines), default=0)
    return judge(
        len(lines) <= MAX_LINES and widest <= MAX_COLUMNS,
        f"{len(lines)} lines, {widest} columns",
        f"{MAX_LINES}, {MAX_COLUMNS}",
        "make it shorter",
    )
