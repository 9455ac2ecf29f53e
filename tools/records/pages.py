"""Writes site/, the leaderboard as static pages: an index and one page per record. For golf board --site.

The site works from a folder, from any path of any server, and offline (tools/records/rendering.py). The same records
give the same bytes.

Not covered: whether what the records say is true (golf check). tools/records/charts.py places the charts,
tools/records/site/ has the templates.
"""

import hashlib
import json
import shutil
from pathlib import Path

from golf import folders, progress
from golf.files import Failure, read_bytes, read_json, read_metrics, read_text, sha256_file
from golf.statistics import mean_interval
from golf.tracks import OPEN, RULES_VERSION, TRACKS, Track
from tools.claims import prove
from tools.records import additions, cells, charts, comparing, lineage, remembered, rendering, sections, standing

MAX_SHOWN_BYTES = 2**19  # of a README.md or parent.diff; those of the first four records have up to 90,000

GENERATOR = "golf board"  # named in every page; a folder whose index does not name it is not overwritten
MANIFEST = "pages.json"  # in site/: what each page was made from
SCOPES = ("none", "document", "stream")
SCRIPT = "train_gpt.py"
COPIED = (SCRIPT, "record.json", "parent.diff")
OF_SEED = {  # what a page links to for each seed: {word: file}
    "log": "logs/seed{}.log",
    "run": "logs/seed{}.run.json",
    "steps": "logs/seed{}.metrics.jsonl",
    "eval": "eval/seed{}.json",
    "artifact": "artifacts/seed{}.golf",
}


def row(record: lineage.Record, survey: standing.Survey) -> dict:
    """What the index, the charts and the tree show of a record: record.json and a few fields of ours.

    "lines" and "claim" are None where its script or its scores cannot be compared with its parent's; "problem" says
    why."""
    problem, lines, claim = "", None, None
    try:
        lines = lineage.line_counts(record)
        if record.parent is not None:
            found = comparing.compare(survey.root, record, record.parent, details=True)
            claim = None if "problem" in found else found
    except (Failure, OSError) as error:
        problem = comparing.in_words(error, survey.root)
    known = survey.rows[record.name]
    seeds = [seed["seed"] for seed in record.data["seeds"]]
    return record.data | {
        "name": record.name,
        "page": f"{record.name}.html",
        "claim": claim,
        "lines": lines,
        "problem": problem,
        "has_parent": record.parent is not None,
        "known": known,
        "shown": {
            "audited": cells.audited(known),
            "reproduced": cells.reproduced(known),
            "claim": cells.claim(known),
            "speed": cells.speed(known),
        },
        "marks": cells.marks(known),
        "seed_files": {seed: seed_files(record.folder, seed) for seed in seeds},
        "artifact_files": seed_files(record.folder, record.data["artifact"]["seed"]),
        "script": SCRIPT if is_filled(record.folder / SCRIPT) else None,
    }


def is_filled(path: Path) -> bool:
    """Whether there is a file that holds something."""
    return path.is_file() and path.stat().st_size > 0


def seed_files(folder: Path, seed: int) -> dict[str, str]:
    """{word: file} of one seed's files that are there."""
    names = {word: pattern.format(seed) for word, pattern in OF_SEED.items()}
    return {word: name for word, name in names.items() if is_filled(folder / name)}


def addition_rows(record: lineage.Record, added: list[dict]) -> list[dict]:
    """The additions of a record, each with its file, and how far its bpb is from what the record claims."""
    claims = {seed["seed"]: seed["bpb"] for seed in record.data["seeds"]}
    names = sorted(path.name for path in (record.folder / additions.FOLDER).iterdir()) if added else []
    return [
        addition
        | {
            "file": f"{additions.FOLDER}/{name}",
            "difference": addition["bpb"] - claims.get(addition["seed"], record.data["bpb_mean"]),
            "is_own_seed": addition["seed"] in claims,
        }
        for name, addition in zip(names, added)
    ]


def branches(records: list[lineage.Record]) -> list[list]:
    """The family tree as lines of descent: [line, ...], a line being [(name, side lines), ...].

    A record stands below the one that it builds on. Where several build on the same, the one whose descent reaches the
    lowest bpb stays in its line and the others start lines of their own beside it.
    """

    best: dict[str, tuple] = {}  # what comes of a record: the lowest (bpb, name) from it on
    for record in reversed(records):  # children before parents
        own = (record.data["bpb_mean"], record.name)
        best[record.name] = min([own, *(best[child.name] for child in record.children)])

    def line(record: lineage.Record) -> list:
        found = []
        while record is not None:
            first, *others = sorted(record.children, key=lambda child: best[child.name]) or [None]
            found.append((record.name, [line(other) for other in others]))
            record = first
        return found

    return [line(record) for record in records if record.parent is None]


def record_page(record: lineage.Record, rows: dict[str, dict], of: int, added: list[dict]) -> dict:
    """The variables of record.html. of: records in its table. added: its additions."""
    data = record.data
    scores = sections.per_seed(record, "eval/seed{}.json", lambda path: read_json(path, ("bpb", "clock")))
    runs = sections.per_seed(record, "logs/seed{}.run.json", read_json)
    metrics = sections.per_seed(record, "logs/seed{}.metrics.jsonl", read_metrics)
    name = data["artifact"]["file"]
    file = record.folder / name if name is not None and (record.folder / name).is_file() else None
    shown = data["artifact"]["seed"] if data["artifact"]["seed"] in scores else next(iter(scores), None)
    text = {
        name: read_text(record.folder / name, MAX_SHOWN_BYTES) if (record.folder / name).is_file() else ""
        for name in ("parent.diff", "README.md")
    }
    bpb, cap = [seed["bpb"] for seed in data["seeds"]], TRACKS[data["track"]].cap_bytes
    diff = sections.diff_lines(text["parent.diff"])
    return {
        "r": rows[record.name],
        "parent": rows[record.parent.name] if record.parent else None,
        "children": [rows[child.name] for child in record.children],
        "of": of,
        "additions": addition_rows(record, added),
        "cap": cap,
        "clock_seconds": TRACKS[data["track"]].training_seconds,
        "par_tokens": TRACKS[data["track"]].par_tokens,
        "interval": mean_interval(bpb) if len(bpb) > 1 else None,
        "charts": sections.curve_charts({f"seed {seed}": rows for seed, rows in metrics.items()}),
        "shown": shown,
        "seeds": list(scores),
        "score": scores.get(shown),
        "whole_interval": scores[shown].get("bpb_interval") if scores else None,
        "groups": sections.slice_groups(scores, shown, rows[record.name]["claim"]) if scores else [],
        "audits": sections.audit_rows(scores, shown) if scores else [],
        "sandbox": sections.sandbox_rows(scores, shown) if scores else [],
        "sections": sections.section_rows(file) if file else None,
        "config": sections.config_rows(data["config"], (record.parent or record).data["config"]),
        "diff": diff,
        "added": sum(kind == "add" for kind, _ in diff),
        "removed": sum(kind == "remove" for kind, _ in diff),
        "clock": sections.clock_rows(runs, scores),
        "clock_seeds": list(runs or scores),
        "readme": rendering.readme_html(text["README.md"]),
        "files": linked_files(record),
    }


def table_of(records: list[dict], track: Track, rules: int) -> dict:
    """What the index shows of one table. records: its rows, the best first."""
    cap = None if track.name == OPEN.name else track.cap_bytes
    scopes = {record["scope"] for record in records}
    return {
        "rules": rules,
        "records": records,
        "best": [next(r for r in records if r["scope"] == scope) for scope in SCOPES if scope in scopes],
        "charts": [charts.in_order(track.name, records), charts.by_bytes(track.name, records, cap)] if records else [],
    }


def tracks_of(survey: standing.Survey, rows: dict[str, dict]) -> list[dict]:
    """What the index shows of each track; those without records come last. The present rules' table comes first."""
    found = []
    for name, track in TRACKS.items():
        versions = {rules for place, rules in standing.tables(survey) if place == name}
        tables = []
        for rules in sorted(versions | {RULES_VERSION}, reverse=True):
            ranked = [rows[known["record"]] for known in survey.ranked(name, rules)]
            tables.append(table_of(ranked, track, rules))
        records = sum(len(table["records"]) for table in tables)
        wall = track.par_tokens is not None  # where the clock is par today, it was on the wall once
        found.append({"name": name, "what": track.description, "tables": tables, "count": records, "wall": wall})
    return sorted(found, key=lambda entry: not entry["count"])


def linked_files(record: lineage.Record) -> list[str]:
    """Those of the record's files that its page links to beside the files of each seed."""
    names = (*COPIED, record.data["artifact"]["file"])
    return [name for name in names if name and is_filled(record.folder / name)]


def copied_files(record: lineage.Record, added: list[dict]) -> list[str]:
    """The record's files that its page links to."""
    names = linked_files(record)
    for seed in (record.data["artifact"]["seed"], *(row["seed"] for row in record.data["seeds"])):
        names += seed_files(record.folder, seed).values()
    names += [addition["file"] for addition in addition_rows(record, added)]
    return list(dict.fromkeys(names))


def page_inputs(record: lineage.Record, around: list[dict], of: int, added: list[dict]) -> str:
    """A hash of all that a record's page shows. around: the rows of the record, its parent and its children."""
    paths = [path for path in sorted(record.folder.rglob("*")) if path.is_file()]
    files = {path.relative_to(record.folder).as_posix(): sha256_file(path) for path in paths}
    parts = [remembered.program(), files, around, of, added]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def earlier_pages(out: Path) -> dict[str, dict]:
    """{record: {"inputs", "page"}: hashes} of the pages that an earlier call wrote into `out`."""
    try:
        pages = read_json(out / MANIFEST)["pages"]
        return {name: {"inputs": entry["inputs"], "page": entry["page"]} for name, entry in pages.items()}
    except (Failure, AttributeError, LookupError, TypeError):
        return {}


def earlier_page(out: Path, name: str, inputs: str, earlier: dict[str, dict]) -> bytes | None:
    """The page of a record as it lies in `out`, if it was made from the same inputs and nobody changed it."""
    entry = earlier.get(name)
    if entry is None or entry["inputs"] != inputs:
        return None
    try:
        page = read_bytes(out / f"{name}.html")
    except Failure:
        return None
    return page if hashlib.sha256(page).hexdigest() == entry["page"] else None


def write_record(record: lineage.Record, page: bytes, files: list[str], out: Path) -> None:
    """Writes a record's page and copies of its files below `out`."""
    for name in files:
        target = out / record.name / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(record.folder / name, target)
    target = out / f"{record.name}.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(page)


def write_records(
    survey: standing.Survey, rows: dict[str, dict], env, old: Path, out: Path
) -> tuple[dict[str, dict], dict[str, str]]:
    """Writes the pages of all records; returns {record: hashes of what its page was made from, and of the page}, and
    {record: what is wrong} of those whose page can only say so. A page in `old` that was made from the same is taken
    over."""
    sizes = {key: len(ranked) for key, ranked in standing.tables(survey).items()}
    earlier = earlier_pages(old)
    made, problems = {}, {}
    for record in progress.track(survey.records, "writing pages", unit="records"):
        known = survey.rows[record.name]
        of, added = sizes[known["track"], known["rules"]], survey.additions.get(record.name, [])
        near = [record, *record.children, *([record.parent] if record.parent else [])]
        try:
            inputs = page_inputs(record, [rows[other.name] for other in near], of, added)
            page = earlier_page(old, record.name, inputs, earlier)
            if page is None:
                with rendering.blame(record.folder):
                    variables = record_page(record, rows, of, added)
                    page = env.get_template("record.html").render(up="../", **variables).encode()
            write_record(record, page, copied_files(record, added), out)
            made[record.name] = {"inputs": inputs, "page": hashlib.sha256(page).hexdigest()}
        except (Failure, OSError) as error:
            problem = comparing.in_words(error, survey.root)
            rows[record.name]["problem"] = problems[record.name] = problem
            shutil.rmtree(out / record.name, ignore_errors=True)
            text = env.get_template("broken.html").render(up="../", r=rows[record.name])
            (out / record.name).parent.mkdir(exist_ok=True)
            (out / f"{record.name}.html").write_text(text, encoding="utf-8")
    return made, problems


def build(survey: standing.Survey, out: Path) -> tuple[int, list[str]]:
    """Writes the pages of the records into `out`, replacing what an earlier call wrote; returns how many, and one line
    for each record whose page cannot show all, and that nobody has complained of yet.

    Raises Failure, leaving `out` as it was, if `out` holds something else."""
    with folders.only_writer(out) as path, folders.replaced(path, judge) as folder:
        return write(survey, path, folder)


def judge(out: Path) -> None:
    """Raises Failure if `out` holds something that is no page of an earlier call."""
    index = out / "index.html"
    if out.exists() and any(out.iterdir()) and not (index.is_file() and GENERATOR in index.read_text(encoding="utf-8")):
        raise Failure(f"{out}: holds files that {GENERATOR} did not write: move them away")
    try:
        listed = read_json(out / MANIFEST).get("files")
    except Failure:
        listed = None
    if isinstance(listed, list):  # an older version did not say what it wrote
        folders.judge_listed(out, set(map(str, listed)), "the pages that would be replaced")


def write(survey: standing.Survey, old: Path, out: Path) -> tuple[int, list[str]]:
    """As build(), into the empty folder `out`. old: what an earlier call wrote."""
    rows = {}
    for record in progress.track(survey.records, "comparing with parents", unit="records"):
        rows[record.name] = row(record, survey)
    problems = {name: found["problem"] for name, found in rows.items() if found["problem"]}

    env = rendering.environment(GENERATOR)
    env.globals |= {"present_rules": RULES_VERSION, "margin": f"{prove.MARGIN:g}"}
    made, wrong = write_records(survey, rows, env, old, out)
    problems |= wrong
    tracks = tracks_of(survey, rows)
    tree = branches(survey.records)
    text = env.get_template("index.html").render(up="", tracks=tracks, tree=tree, rows=rows, broken=survey.broken)
    (out / "index.html").write_text(text, encoding="utf-8")
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    manifest = {"format": 1, "pages": made, "files": [*files, MANIFEST]}
    (out / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    new = [problem for name, problem in problems.items() if not survey.rows[name]["problems"]]
    return 1 + len(survey.records), sorted(new)
