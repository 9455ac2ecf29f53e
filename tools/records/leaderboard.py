"""Writes the leaderboard into README.md and records/leaderboard.json from records/; --check says whether they are up to
date.

    golf board --site      # both, and site/: the same and more as pages for a browser

The last column is a label of at most 12 words from records/labels.toml, since records are never edited. A record that
has none there shows the first words of its idea. docs/leaderboard.schema.json says what leaderboard.json holds.

A record whose files are broken is named on standard error and where it would stand; all others are shown as ever.

Not covered: whether a record is valid or its gain is real; the table shows what the records say, best mean bpb first.
"""

import argparse
import json
import sys
import tomllib
from pathlib import Path

from golf.console import guarded
from golf.files import ROOT, Failure, explain, write_atomic
from golf.foreign import markdown, terminal
from golf.tracks import RULES_VERSION, TRACKS
from tools.claims.prove import MARGIN
from tools.records import cells, pages, standing
from tools.records.standing import LABEL_WORDS, Survey

BEGIN, END = "<!-- leaderboard -->", "<!-- /leaderboard -->"
ORDER = ("16mb", "2mb", "pocket", "open")  # of the tracks in README.md
FILE = "records/leaderboard.json"
HEADER = "| rank | record | by | bpb (seeds) | bytes | scope | audited | reproduced | p | r, machine | date | what |"
RULER = "|---:|---|---|---|---:|---|---|---|---|---|---|---|"
LEGEND = f"""\
bpb: mean over the seeds ± standard deviation. audited, certified: of how many seeds the artifact was scored with \
`--audit full`, and with `--certify`, by the record itself (own) or by others (again). reproduced: how often the \
script was trained again, and the mean difference to the claim. p: of `golf prove`, for a gain of at most {MARGIN:g} \
bpb over the best earlier record of the same track, scope and rules, times the rivals that the record states. r: the \
speed of its script beside record 0001's. [leaderboard.json]({FILE}) says the same to programs."""


def read_labels(path: Path) -> dict[str, str]:
    """{"track/number_slug": label} of labels.toml; empty if it is not there. Failure for a label that is none."""
    try:
        tracks = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise Failure(f"{path}: not TOML: {error}") from None
    labels = {}
    for track, entries in tracks.items():
        if not isinstance(entries, dict):
            raise Failure(f"{path}: {track}: expected a table [{track}] of labels")
        for name, label in entries.items():
            if not isinstance(label, str) or not 1 <= len(label.split()) <= LABEL_WORDS:
                raise Failure(f"{path}: {track}.{name}: expected a text of 1 to {LABEL_WORDS} words")
            labels[f"{track}/{name}"] = label
    return labels


def read_records(root: Path) -> Survey:
    """All records below `root`, and what is known of them. Failure if labels.toml is not valid."""
    return standing.survey(root, read_labels(root / "records" / "labels.toml"))


def table(rows: list[dict]) -> str:
    """Markdown of one table, the best row first. Words of a record are plain text in it."""
    lines = [HEADER, RULER]
    for row in rows:
        spread = "" if row["bpb_sd"] is None else f" ± {row['bpb_sd']:.4f}"
        name = row["record"].split("/")[1]
        label = markdown(row["label"])
        ratio = f"{row['par']['ratio']:.2f}, " if row["par"] else ""
        if row["problems"]:
            label += f"; broken: {markdown('; '.join(row['problems']))}"
        values = [
            row["rank"],
            f"[{markdown(name)}](records/{row['record']})",
            markdown(terminal(", ".join(row["authors"]), 80)),
            f"{row['bpb_mean']:.4f}{spread} ({row['seeds']})",
            f"{row['artifact']['bytes']:,}",
            row["scope"],
            cells.audited(row),
            cells.reproduced(row),
            cells.claim(row),
            ratio + markdown(terminal(row["machine"], 80)),
            markdown(row["date"]),
            label,
        ]
        lines.append(f"| {' | '.join(map(str, values))} |")
    return "\n".join(lines) + "\n"


def heading(track: str, rules: int) -> str:
    """The line above a table."""
    if rules == RULES_VERSION:
        return f"**Track {track}**"
    clock = "under the wall clock, " if TRACKS[track].par_tokens is not None else ""
    return f"**Track {track}, {clock}version {rules} of the rules**"


def tables(survey: Survey) -> str:
    """The lines between the markers: for each track that has a record its tables, the present rules first."""
    parts = []
    for track in ORDER:
        versions = {rules for name, rules in standing.tables(survey) if name == track}
        if not versions:
            continue
        for rules in sorted(versions | {RULES_VERSION}, reverse=True):
            rows = survey.ranked(track, rules)
            body = table(rows) if rows else "No record yet under the present rules.\n"
            parts.append(f"{heading(track, rules)}\n\n{body}")
    if survey.broken:
        lines = [f"- {markdown(name)}: {markdown(problem)}" for name, problem in sorted(survey.broken.items())]
        parts.append("Broken, and in no table:\n\n" + "\n".join(lines) + "\n")
    return "\n".join([*parts, LEGEND + "\n"]) if parts else "No records yet.\n"


def rewrite(readme: str, survey: Survey) -> str:
    """README.md with the tables put between the markers; Failure unless both are there once, in order."""
    begin, end = readme.find(BEGIN), readme.find(END)
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or begin > end:
        raise Failure(f"README.md: expected one {BEGIN} and after it one {END}")
    return f"{readme[:begin]}{BEGIN}\n{tables(survey)}{readme[end:]}"


def rounded(value: object) -> object:
    """`value` with numbers that a table shows: machines differ in the last digits of what they compute."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def as_json(survey: Survey) -> str:
    """What records/leaderboard.json holds: docs/leaderboard.schema.json."""
    rows = sorted(survey.rows.values(), key=lambda row: (row["track"], -row["rules"], row["rank"]))
    broken = [{"record": name, "problem": problem} for name, problem in sorted(survey.broken.items())]
    whole = {"format": 1, "rules": RULES_VERSION, "records": [rounded(row) for row in rows], "broken": broken}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def contents(root: Path, survey: Survey) -> dict[Path, str]:
    """{file: what it should hold} of README.md and leaderboard.json."""
    readme = root / "README.md"
    files = {readme: rewrite(readme.read_text(encoding="utf-8"), survey)}
    if (root / "records").is_dir():
        files[root / FILE] = as_json(survey)
    return files


def stale_files(files: dict[Path, str]) -> list[Path]:
    """Those of the files that hold something else, or are not there."""
    return [path for path, text in files.items() if not path.is_file() or path.read_bytes() != text.encode()]


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 when --check finds a file out of date, or something of a record is broken."""
    parser = argparse.ArgumentParser(prog="golf board", description="Write the leaderboard from records/.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--site", action="store_true", help="write the pages in site/ too")
    what.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a file is out of date")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args(argv)
    written = 0
    try:
        survey = read_records(ROOT)
        problems = survey.problems()
        files = contents(ROOT, survey)
        stale = stale_files(files)
        if options.site:
            written, on_pages = pages.build(survey, ROOT / "site")
            problems += on_pages
        if not options.check:
            for path in stale:
                write_atomic(path, files[path].encode())
    except (Failure, OSError) as error:
        return explain("golf board", error)

    for problem in problems:
        print(f"golf board: {terminal(problem, 1000)}", file=sys.stderr)
    names = " and ".join(path.name for path in (stale or files))
    if options.check and stale:
        print(f"golf board: {names} out of date: run golf board", file=sys.stderr)
    else:
        count = len(survey.rows)
        print(f"{names}: leaderboard {'rewritten' if stale else 'up to date'}, records: {count}")
    if options.site:
        print(f"site/index.html: {written} pages")
    if options.json:
        result = {"format": 1, "records": len(survey.rows), "stale": bool(stale), "problems": problems}
        result["written"] = bool(stale) and not options.check
        print(json.dumps(result | ({"pages": written} if options.site else {})))
    return 1 if problems or (options.check and stale) else 0


if __name__ == "__main__":
    sys.exit(guarded("golf board", main))
