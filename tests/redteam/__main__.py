"""`python -m tests.redteam [--json] [NAME]`: scores every case with quick audits and a fresh split, prints the table.

Exit status 1 if a case does not meet what it must. With --json the last line is one object: cheats, caught, open,
honest, honest_passed. NAME: only the cases whose name contains it.
"""

import argparse
import concurrent.futures
import json
import sys
import tempfile

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from scoring import passes
from tests.redteam.cases import CHEATS
from tests.redteam.honest import HONEST
from tests.redteam.leaks import LEAKS
from tests.redteam.world import World


def show(outcomes):
    table = Table(title="red team", title_justify="left")
    for heading in ("case", "met", "by", "claimed", "blind", "verdict"):
        table.add_column(heading, justify="right" if heading in ("claimed", "blind") else "left")
    for outcome in outcomes:
        must = outcome.case.must
        met = must if outcome.ok else f"[bold]NOT {must}[/bold]"
        if must == "open" and outcome.verdict:
            met = "caught (open)"
        table.add_row(
            escape(outcome.case.name),
            met,
            outcome.by,
            *("-" if bpb is None else f"{bpb:.3f}" for bpb in (outcome.claimed, outcome.honest)),
            escape(outcome.verdict[:100]),
        )
    Console(width=200).print(table)


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.redteam", description="Score cheats and honest twins.")
    parser.add_argument("name", nargs="?", default="", help="only cases whose name contains this")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    options = parser.parse_args()
    cases = [case for case in [*CHEATS, *LEAKS, *HONEST] if options.name in case.name]
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="golf-redteam-") as folder:
        world = World(folder)
        with concurrent.futures.ThreadPoolExecutor(passes.cores()) as pool:
            outcomes = list(track(pool.map(world.run, cases), "red team", len(cases), console=console, transient=True))
    show(outcomes)
    cheats = [outcome for outcome in outcomes if outcome.case.must != "pass"]
    honest = [outcome for outcome in outcomes if outcome.case.must == "pass"]
    stopped = [o for o in cheats if o.ok and (o.case.must != "open" or o.verdict)]
    summary = {
        "cheats": len(cheats),
        "caught": len(stopped),
        "open": len([o for o in cheats if o not in stopped]),
        "honest": len(honest),
        "honest_passed": sum(outcome.ok for outcome in honest),
        "failed": [outcome.case.name for outcome in outcomes if not outcome.ok],
    }
    print(
        f"{summary['caught']} of {summary['cheats']} cheats stopped, "
        f"{summary['honest_passed']} of {summary['honest']} honest ones passed"
    )
    if options.json:
        print(json.dumps(summary))
    return 1 if summary["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
