"""`python -m tests.redteam.fuzz [--kind KIND] [--files N] [--commands N]`: mutated files of every kind, or of one."""

import argparse
import json
import sys

from rich.console import Console
from rich.progress import Progress

from tests.redteam.fuzz.engine import Report, fuzz, fuzz_commands
from tests.redteam.fuzz.kinds import KINDS

SHOWN = 20  # faults of each kind


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.redteam.fuzz", description="Mutated files and their readers."
    )
    parser.add_argument("--kind", choices=KINDS, action="append", help="one kind of file, or several (default: all)")
    parser.add_argument("--files", type=int, default=2000, help="of each kind, in process (default: %(default)s)")
    parser.add_argument("--commands", type=int, default=50, help="of each, through commands (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    options = parser.parse_args()
    reports: list[Report] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for name in options.kind or KINDS:
            for run, count in ((fuzz, options.files), (fuzz_commands, options.commands)):
                if not count:
                    continue
                task = progress.add_task(name, total=count)
                report = run(KINDS[name], count, options.seed, lambda task=task: progress.advance(task))
                progress.remove_task(task)
                reports.append(report)
                print(report.line())
                for fault in (report.faults + report.left_behind)[:SHOWN]:
                    print(f"  {fault}")
                sys.stdout.flush()
    if options.json:
        print(json.dumps({"reports": [report.as_json() for report in reports]}))
    return 0 if all(report.good for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
