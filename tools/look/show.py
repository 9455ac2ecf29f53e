"""golf show RUN: one page of one run, beside its parent, in one file for a browser.

    golf show runs/mine --parent runs/base
    golf show runs/mine --parent records/pocket/0006_case_operators_under_par --out page.html

The page is RUN/page.html and opens in a browser; with --out it goes elsewhere, and nothing opens. A run that is only
trained, or that crashed, shows what there is, and the commands that would make the rest.

Not covered: many runs beside each other (golf log, golf sweep); records, whose pages golf board --site writes.
"""

import argparse
import json
import sys
import webbrowser
from pathlib import Path

from golf.console import guarded
from golf.files import Failure, explain, read_text, write_atomic
from golf.foreign import terminal
from tools.look import evidence, page
from tools.records import rendering

NAME = "page.html"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="golf show", description="Write one page of a run, beside its parent.")
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument(
        "--parent",
        type=Path,
        metavar="FOLDER",
        help="a run or a record; default: the record whose script the run was made with, if there is one",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"default: RUN/{NAME}, which then opens in a browser (not with --json)"
    )
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    return parser.parse_args(argv)


def judge(out: Path) -> None:
    """Raises Failure if something else than a page of an earlier call is at `out`."""
    if not out.exists():
        return
    try:
        is_ours = f'content="{page.GENERATOR}"' in read_text(out)
    except Failure:
        is_ours = False
    if not is_ours:
        raise Failure(
            f"{out}: it is no page that {page.GENERATOR} wrote: move it away, or name another file with --out"
        )


def make(options: argparse.Namespace) -> tuple[Path, dict]:
    """Writes the page; returns where it is, and what page.variables() found."""
    if (options.run / "record.json").exists():
        raise Failure(f"{options.run}: a record: golf board --site writes its page; golf show is for a run's folder")
    out = options.out or options.run / NAME
    judge(out)
    found = evidence.read_run(options.run)
    folder = options.parent or evidence.known_parent(found)
    if folder is not None and folder.resolve() == options.run.resolve():
        raise Failure(f"{folder}: a run is not its own parent")
    parent = None if folder is None else evidence.read(folder)
    with rendering.blame(options.run):
        shown = page.variables(found, parent)
        text = page.render(shown)
    write_atomic(out, text.encode(errors="backslashreplace"))
    return out, shown


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status."""
    options = parse(argv)
    try:
        out, shown = make(options)
    except (Failure, OSError) as error:
        return explain("golf show", error)
    for file, problem in shown["found"].faults.items():
        print(f"golf show: {terminal(f'{options.run / file}: {problem}')}", file=sys.stderr)
    print(terminal(str(out)))
    for row in shown["missing"]:
        print(terminal(f"missing: {row['what']} {row['command']}"))
    if options.json:
        print(json.dumps(page.summary(shown) | {"page": str(out)}))
    elif options.out is None and not webbrowser.open(out.resolve().as_uri()):
        print("no browser was found here: open the file yourself, or copy it to another machine", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(guarded("golf show", main))
