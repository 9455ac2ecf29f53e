"""`python -m tests.reliability [--json] [--tries N] [NAME]`: kills, full disks and races, a row for each test.

Exit status 1 if a try did not survive, or left something behind. NAME: only the tests whose name contains it. With
--json each row is a line of JSON as soon as it is known. Twenty tries of all take hours: mind what else runs.
"""

import argparse
import dataclasses
import json
import shutil
import sys
import tempfile
from pathlib import Path

from tests.reliability import disks, kills, races
from tests.reliability.world import Row, World

TESTS = kills.TESTS | disks.TESTS | races.TESTS
SHOWN = 3  # of what was lost or left, of each test


def show(row: Row) -> None:
    print(f"{row.test}: {row.survived} of {row.tried} survived")
    for word, lines in (("lost", row.lost), ("left behind", row.left_behind)):
        for line in lines[:SHOWN]:
            print(f"  {word}: {line}")
        if len(lines) > SHOWN:
            print(f"  {word}: and {len(lines) - SHOWN} more")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", default="", help="only tests whose name contains this")
    parser.add_argument("--tries", type=int, default=20, metavar="N", help="of each test (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each row")
    options = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory(prefix="golf-reliability-") as name:
        world = World(Path(name) / "world")
        for number, test in enumerate(name for name in TESTS if options.name in name):
            folder = Path(name) / str(number)
            folder.mkdir()
            row = TESTS[test](world, folder, options.tries)
            shutil.rmtree(folder)
            good &= row.tried == row.survived and not row.left_behind
            print(json.dumps(dataclasses.asdict(row)), flush=True) if options.json else show(row)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
