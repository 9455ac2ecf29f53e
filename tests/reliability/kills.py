"""kill -9 at a moment drawn at random, then the same command again."""

import random
import shutil
import time
from pathlib import Path

from tests.reliability.world import CASES, Case, Reference, Row, World, judge, said, start


def killed(case: Case, world: World, folder: Path, tries: int, seed: int = 1) -> Row:
    """Kills the command `tries` times, each in a fresh place."""
    row = Row(f"kill -9 {case.name}")
    reference = Reference.of(case, world, folder)
    draw = random.Random(f"{seed} {case.name}")
    while row.tried < tries:
        place = shutil.copytree(case.place(world), folder / f"killed{row.tried}", symlinks=True)
        process = start(place, case.arguments)
        time.sleep(draw.uniform(0, reference.seconds))
        is_over = process.poll() is not None  # faster than the reference: nothing was killed
        if not is_over:
            process.kill()
        process.wait()
        said(place)
        if not is_over:
            row.count(*judge(case, place, reference))
        shutil.rmtree(place)
    return row


TESTS = {f"kill -9 {case.name}": (lambda *arguments, case=case: killed(case, *arguments)) for case in CASES}
