"""Writes the leaderboard into README.md from records/*/*/record.json; --check says whether it is up to date.

    golf board --site      # the table, and site/: the same and more as pages for a browser

The last column is a label of at most 12 words from records/labels.toml, since records are never edited. A record that
has none there shows the first words of its idea.

Not covered: whether a record is valid or its gain is real; the table shows what the records say, best mean bpb first.
"""

import argparse
import json
import sys
import tomllib
from pathlib import Path

from golf.files import ROOT, Failure, explain, write_atomic
from golf.foreign import markdown
from tools.records import pages, reading

BEGIN, END = "<!-- leaderboard -->", "<!-- /leaderboard -->"
ORDER = ("16mb", "pocket", "open")  # of the tracks in README.md
LABEL_WORDS = 12


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


def shortened(idea: str) -> str:
    """The first words of an idea, for a record without a label."""
    words = idea.split()
    return " ".join(words[:LABEL_WORDS]) + (" ..." if len(words) > LABEL_WORDS else "")


def read_records(root: Path) -> list[dict]:
    """All records below `root`, each with "folder", its path from there, and "label". Failure if one is not valid."""
    labels = read_labels(root / "records" / "labels.toml")
    entries = []
    for folder, record in reading.read_records(root).items():
        path = folder.relative_to(root).as_posix()
        label = labels.get(path.removeprefix("records/")) or shortened(record["idea"])
        entries.append(record | {"folder": path, "label": label})
    return entries


def table(entries: list[dict]) -> str:
    """The lines between the markers: one table per track that has a record. Words of a record are plain text in it."""
    parts = []
    for track in ORDER:
        ranked = sorted((r for r in entries if r["track"] == track), key=lambda r: (r["bpb_mean"], r["number"]))
        if not ranked:
            continue
        rows = [
            "| rank | record | bpb | bytes | scope | seeds | date | what |",
            "|---:|---|---:|---:|---|---:|---|---|",
        ]
        for rank, r in enumerate(ranked, start=1):
            spread = "" if r["bpb_sd"] is None else f" ± {r['bpb_sd']:.4f}"
            name = markdown(f"{r['number']}_{r['slug']}")
            cells = [
                rank,
                f"[{name}]({r['folder']})",
                f"{r['bpb_mean']:.4f}{spread}",
                f"{r['artifact']['bytes']:,}",
                markdown(r["scope"]),
                len(r["seeds"]),
                markdown(r["date"]),
                markdown(r["label"]),
            ]
            rows.append(f"| {' | '.join(map(str, cells))} |")
        parts.append(f"**Track {track}**\n\n" + "\n".join(rows) + "\n")
    return "\n".join(parts) or "No records yet.\n"


def rewrite(readme: str, entries: list[dict]) -> str:
    """README.md with the table put between the markers; Failure if the markers are not there exactly once, in order."""
    begin, end = readme.find(BEGIN), readme.find(END)
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or begin > end:
        raise Failure(f"README.md: expected one {BEGIN} and after it one {END}")
    return f"{readme[:begin]}{BEGIN}\n{table(entries)}{readme[end:]}"


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 when --check finds the table stale or a file is wrong."""
    parser = argparse.ArgumentParser(prog="golf board", description="Write README.md's leaderboard from records/.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--site", action="store_true", help="write the pages in site/ too")
    what.add_argument("--check", action="store_true", help="change nothing; exit with 1 if README.md is out of date")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args(argv)
    path = ROOT / "README.md"
    try:
        entries = read_records(ROOT)
        before = path.read_text(encoding="utf-8")
        after = rewrite(before, entries)
        if after != before and not options.check:
            write_atomic(path, after.encode())
        written = pages.build(ROOT, ROOT / "site") if options.site else 0
    except (Failure, OSError) as error:
        return explain("golf board", error)
    stale = after != before
    if options.check and stale:
        print("golf board: README.md is out of date: run golf board", file=sys.stderr)
    else:
        print(f"README.md: leaderboard {'rewritten' if stale else 'up to date'}, records: {len(entries)}")
    if options.site:
        print(f"site/index.html: {written} pages")
    if options.json:
        print(
            json.dumps(
                {"format": 1, "records": len(entries), "stale": stale, "written": stale and not options.check}
                | ({"pages": written} if options.site else {})
            )
        )
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
