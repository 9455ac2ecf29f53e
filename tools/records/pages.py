"""Writes site/, the leaderboard as static pages: an index and one page per record. For golf board --site.

Every page is one file with its style and its script inside and asks for nothing else, so the site works from a folder,
from any path of any server, and offline. Text of records is escaped by jinja2, and a Content-Security-Policy that knows
the hashes of our style and script would stop what slipped through. The same records give the same bytes.

Not covered: whether what the records say is true (golf check). tools/records/charts.py places the charts,
tools/site/ has the templates.
"""

import base64
import contextlib
import hashlib
import math
import os
import shutil
import statistics
import tempfile
from pathlib import Path

from golf import container, progress
from golf.files import Failure, read_json, read_metrics, read_text
from golf.foreign import terminal
from golf.tracks import TRACKS
from tools.records import charts, lineage
from tools.records.record import interval
from tools.runs import curves

MAX_SHOWN_BYTES = 2**19  # of a README.md or parent.diff; those of the first four records have up to 90,000

TEMPLATES = Path(__file__).resolve().parent / "site"
GENERATOR = "golf board"  # named in every page; a folder whose index does not name it is not overwritten
SCOPES = ("none", "document", "stream")
SECTIONS = {
    "CODE": "training script and decoder",
    "CONF": "configuration",
    "TOKN": "tokenizer",
    "WGTS": "weights",
    "overhead": "container: header, section table, checksum",
}
COPIED = ("train_gpt.py", "record.json", "parent.diff")


def readme_html(text: str) -> str:
    """A record's README as HTML that can neither run nor fetch anything, with its headings two levels down.

    Raw HTML is text, pictures are their description, and only links to other sites stay links: a record's own files
    are not where its README thinks they are.
    """
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens, local = markdown.parse(text), False
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 2)}"
        if "style" in token.attrs:  # of a cell that is aligned; the policy of the page forbids style attributes
            token.attrs = {"class": "number"} if "right" in str(token.attrs["style"]) else {}
        for child in token.children or []:
            if child.type == "image":
                child.type = "text"
            if child.type == "link_open":
                local = not str(child.attrs["href"]).startswith(("https://", "http://"))
                child.attrs = child.attrs | {"rel": "noopener noreferrer"}
            if child.type in ("link_open", "link_close") and local:
                child.tag, child.attrs = "span", {}
    return markdown.renderer.render(tokens, markdown.options, {})


def per_seed(record: lineage.Record, pattern: str, read) -> dict[int, object]:
    """{seed: what `read` makes of its file}, in the record's order; seeds without the file are left out."""
    paths = {row["seed"]: record.folder / pattern.format(row["seed"]) for row in record.data["seeds"]}
    return {seed: read(path) for seed, path in paths.items() if path.is_file()}


def series(rows: list[dict], key: str) -> list[tuple[float, float]]:
    """(seconds, value) of the rows of a metrics.jsonl that have a finite value of this name."""
    return [(row["elapsed"], row[key]) for row in rows if row.get(key) is not None and math.isfinite(row[key])]


def curve_charts(record: lineage.Record) -> list[dict]:
    """Charts of train loss and of the script's estimate of dev bpb, as far as the logs have them."""
    losses, estimates, starts = [], [], []
    for seed, rows in per_seed(record, "logs/seed{}.metrics.jsonl", read_metrics).items():
        points = series(rows, "loss")
        if points:
            means = curves.smooth([loss for _, loss in points])
            starts.append(means[len(means) // 20])
            losses.append((f"seed {seed}", points, [(s, mean) for (s, _), mean in zip(points, means)]))
        points = series(rows, "dev_bpb")
        if points:
            estimates.append((f"seed {seed}", [], points))
    found = []
    if losses:  # the first steps would squeeze the rest of the curve into a flat line
        found.append(charts.curves("Training loss and its running mean", "nats per token", losses, ceiling=max(starts)))
    if estimates:
        found.append(charts.curves("Dev estimate of the training script", "bits per byte", estimates))
    return found


def slice_groups(scores: dict[int, dict], shown: int, claim: dict | None) -> list[dict]:
    """Tables of bpb by slice, one for each kind: mean over seeds, interval of the `shown` seed, gain of `claim`.

    The names of slices are "KIND NAME", but in files of format 1, where each is a source.
    """

    def split(name: str) -> tuple[str, str]:
        kind, space, rest = name.partition(" ")
        return (kind, rest) if space and scores[shown].get("format", 1) > 1 else ("source", name)

    def mean(name: str) -> float:
        return statistics.mean(
            score["slices"][name]["bpb"] for score in scores.values() if name in score.get("slices", {})
        )

    gains = claim["slices"] if claim else {}
    groups = {}
    for name, row in scores[shown].get("slices", {}).items():
        kind, short = split(name)
        groups.setdefault(kind, []).append(
            {
                "name": short,
                "bpb": mean(name),
                "interval": row.get("bpb_interval"),
                "documents": row.get("documents"),
                "raw_bytes": row.get("raw_bytes"),
                "shown": row["bpb"],
                "gain": gains.get(name) or gains.get(f"{kind} {short}"),
            }
        )
    found = []
    for kind, rows in groups.items():
        ends = [value for row in rows for value in (row["shown"], *(row["interval"] or ()))]
        axis = charts.padded([*ends, scores[shown]["bpb"]], 0.03, 1e-6)
        for row in rows:
            row["bar"] = charts.interval_bar(axis, row["shown"], row["interval"], 200)
        found.append(
            {
                "kind": kind,
                "rows": rows,
                "gains": any(row["gain"] for row in rows),
                "whole": charts.interval_bar(axis, scores[shown]["bpb"], None, 200)["at"],
            }
        )
    return found


def rows_of(scores: dict[int, dict], shown: int, key: str, name: str) -> list[dict]:
    """The rows that any score has under `key`, one for each value of `name`; the `shown` seed's where it has one."""
    found = {}
    for score in (scores[shown], *scores.values()):
        for row in score.get(key, []):
            found.setdefault(row[name], row)
    return list(found.values())


def audit_rows(scores: dict[int, dict], shown: int) -> list[dict]:
    """One row per audit, with the verdict of each seed: "" where it was not made."""
    verdicts = [{row["audit"]: row["verdict"] for row in score.get("audits", [])} for score in scores.values()]
    return [
        row | {"verdicts": [of_seed.get(row["audit"], "") for of_seed in verdicts]}
        for row in rows_of(scores, shown, "audits", "audit")
    ]


def sandbox_rows(scores: dict[int, dict], shown: int) -> list[dict]:
    """One row per layer of the box, with the number of scores in which it was active."""
    active = [{row["layer"] for row in score.get("sandbox", []) if row["active"]} for score in scores.values()]
    return [
        row | {"count": sum(row["layer"] in layers for layers in active)}
        for row in rows_of(scores, shown, "sandbox", "layer")
    ]


def section_rows(record: lineage.Record) -> list[dict] | None:
    """Bytes of the committed artifact by section; None if it is not in the record."""
    name = record.data["artifact"]["file"]
    if name is None or not (record.folder / name).is_file():
        return None
    data = (record.folder / name).read_bytes()
    try:
        sections = {tag: len(payload) for tag, payload in container.read(data).items()}
    except container.FormatError as error:
        raise Failure(f"{record.folder / name}: {error}") from None
    sections["overhead"] = container.OVERHEAD_BYTES
    return [
        {"tag": tag, "what": SECTIONS[tag], "bytes": size, "share": size / len(data)} for tag, size in sections.items()
    ]


def config_rows(record: lineage.Record) -> list[dict]:
    """Fields of the resolved config, those that differ from the parent's first; "was" is the parent's value."""
    now = record.data["config"]
    before = record.parent.data["config"] if record.parent else now
    rows = [
        {"key": key, "value": now.get(key, "not there"), "was": before.get(key, "not there")}
        for key in dict.fromkeys([*now, *before])
    ]
    return sorted((row | {"changed": row["was"] != row["value"]} for row in rows), key=lambda row: not row["changed"])


def diff_lines(text: str) -> list[tuple[str, str]]:
    """(kind, line) of a unified diff; kinds: file, hunk, add, remove, same."""
    kinds = {"+++": "file", "---": "file", "@@ ": "hunk"}
    return [
        (kinds.get(line[:3]) or {"+": "add", "-": "remove"}.get(line[:1], "same"), line) for line in text.splitlines()
    ]


def clock_rows(runs: dict[int, dict], scores: dict[int, dict]) -> list[dict]:
    """Seconds by phase and seed: of training (run.json), then of scoring (eval.json)."""
    rows = []
    for stage, files in (("training", runs), ("scoring", scores)):
        clocks = [file.get("clock", {}) for file in files.values()]
        rows += [
            {"stage": stage, "phase": phase, "seconds": [clock.get(phase) for clock in clocks]}
            for phase in dict.fromkeys(phase for clock in clocks for phase in clock)
        ]
    return rows


def row(record: lineage.Record, claim: dict | None) -> dict:
    """What the index, the charts and the tree show of a record: record.json and a few fields of ours."""
    return record.data | {
        "name": record.name,
        "page": f"{record.name}.html",
        "claim": claim,
        "lines": {kind: record.count(kind) for kind in lineage.KINDS},
    }


def branches(records: list[lineage.Record]) -> list[list]:
    """The family tree as lines of descent: [line, ...], a line being [(name, side lines), ...].

    A record stands below the one that it builds on. Where several build on the same, the one whose descent reaches the
    lowest bpb stays in its line and the others start lines of their own beside it.
    """

    def best(record: lineage.Record) -> tuple:
        return min([(record.data["bpb_mean"], record.name), *map(best, record.children)])

    def line(record: lineage.Record) -> list:
        found = []
        while record is not None:
            first, *others = sorted(record.children, key=best) or [None]
            found.append((record.name, [line(other) for other in others]))
            record = first
        return found

    return [line(record) for record in records if record.parent is None]


def record_page(record: lineage.Record, rows: dict[str, dict], place: int, of: int) -> dict:
    """The variables of record.html."""
    data = record.data
    scores = per_seed(record, "eval/seed{}.json", lambda path: read_json(path, ("bpb", "clock")))
    runs = per_seed(record, "logs/seed{}.run.json", read_json)
    shown = data["artifact"]["seed"] if data["artifact"]["seed"] in scores else next(iter(scores), None)
    text = {
        name: read_text(record.folder / name, MAX_SHOWN_BYTES) if (record.folder / name).is_file() else ""
        for name in ("parent.diff", "README.md")
    }
    bpb, cap = [seed["bpb"] for seed in data["seeds"]], TRACKS[data["track"]].cap_bytes
    diff = diff_lines(text["parent.diff"])
    return {
        "r": rows[record.name],
        "parent": rows[record.parent.name] if record.parent else None,
        "children": [rows[child.name] for child in record.children],
        "rank": place,
        "of": of,
        "cap": cap,
        "clock_seconds": TRACKS[data["track"]].training_seconds,
        "interval": interval(bpb) if len(bpb) > 1 else None,
        "charts": curve_charts(record),
        "shown": shown,
        "seeds": list(scores),
        "score": scores.get(shown),
        "whole_interval": scores[shown].get("bpb_interval") if scores else None,
        "groups": slice_groups(scores, shown, rows[record.name]["claim"]) if scores else [],
        "audits": audit_rows(scores, shown) if scores else [],
        "sandbox": sandbox_rows(scores, shown) if scores else [],
        "sections": section_rows(record),
        "config": config_rows(record),
        "diff": diff,
        "added": sum(kind == "add" for kind, _ in diff),
        "removed": sum(kind == "remove" for kind, _ in diff),
        "clock": clock_rows(runs, scores),
        "clock_seeds": list(runs or scores),
        "readme": readme_html(text["README.md"]),
        "files": [
            name
            for name in (*COPIED, data["artifact"]["file"])
            if name and (record.folder / name).is_file() and (record.folder / name).stat().st_size
        ],
    }


def environment():
    """jinja2's, with every value escaped, and the style and script that each page carries."""
    import jinja2
    from markupsafe import Markup

    def inside(name: str) -> tuple[Markup, str]:
        text = (TEMPLATES / name).read_text(encoding="utf-8")
        return Markup(text), "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    env.globals |= {"generator": GENERATOR, "plot": charts.PLOT, "size": (charts.WIDTH, charts.HEIGHT)}
    for key, name in (("style", "style.css"), ("script", "site.js")):
        env.globals[key], env.globals[f"{key}_hash"] = inside(name)
    env.filters |= {"html": Markup, "signed": lambda value: f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")}
    return env


@contextlib.contextmanager
def blame(record: lineage.Record):
    """Turns what goes wrong inside, on files that are JSON but hold something else, into a Failure that names it."""
    from jinja2 import UndefinedError

    unexpected = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, UndefinedError, ValueError)
    try:
        yield
    except unexpected as error:
        raise Failure(f"{record.folder}: a log or score is not what the kit writes: {terminal(error)}") from None


def build(root: Path, out: Path) -> int:
    """Writes the pages of root/records into `out`, replacing what an earlier call wrote; returns how many.

    Raises Failure, leaving `out` as it was, if a record cannot be read or `out` holds something else.
    """
    index = out / "index.html"
    if out.exists() and any(out.iterdir()) and not (index.is_file() and GENERATOR in index.read_text(encoding="utf-8")):
        raise Failure(f"{out}: holds files that {GENERATOR} did not write: move them away")
    records = lineage.read_tree(root)
    rows = {}
    for record in progress.track(records, "comparing with parents", unit="records"):
        with blame(record):
            rows[record.name] = row(record, lineage.claim(record))
    tracks = []
    for name, track in TRACKS.items():
        ranked = sorted((r for r in rows.values() if r["track"] == name), key=lambda r: (r["bpb_mean"], r["number"]))
        cap = None if name == "open" else track.cap_bytes
        tracks.append(
            {
                "name": name,
                "what": track.description,
                "records": ranked,
                "best": [
                    next(r for r in ranked if r["scope"] == s) for s in SCOPES if s in {r["scope"] for r in ranked}
                ],
                "charts": [charts.by_date(name, ranked), charts.by_bytes(name, ranked, cap)] if ranked else [],
            }
        )
    tracks.sort(key=lambda t: not t["records"])
    ranks = {r["name"]: (place, len(t["records"])) for t in tracks for place, r in enumerate(t["records"], start=1)}
    env = environment()
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        (temporary / "index.html").write_text(
            env.get_template("index.html").render(up="", tracks=tracks, tree=branches(records), rows=rows),
            encoding="utf-8",
        )
        for record in records:
            with blame(record):
                page = record_page(record, rows, *ranks[record.name])
                text = env.get_template("record.html").render(up="../", **page).encode()
            folder = temporary / record.name
            folder.mkdir(parents=True)
            for name in page["files"]:
                shutil.copyfile(record.folder / name, folder / name)
            (temporary / f"{record.name}.html").write_bytes(text)
        temporary.chmod(0o755)  # mkdtemp's own mode would hide it from a server
        replace(out, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return 1 + len(records)


def replace(out: Path, new: Path) -> None:
    """Puts the folder `new` in the place of `out`."""
    old = out.with_name(f".{out.name}.old.{os.getpid()}")
    if out.exists():
        os.rename(out, old)
    os.rename(new, out)
    shutil.rmtree(old, ignore_errors=True)
