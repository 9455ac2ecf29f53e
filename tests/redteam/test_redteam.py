"""The red team as tests: each case is scored by the real scorer in a real box, and the fuzzer runs in full.

Not covered: the table that `python -m tests.redteam` prints of the same cases.
"""

import json
import subprocess
import sys

import pytest

from tests.redteam.cases import CHEATS
from tests.redteam.honest import HONEST
from tests.redteam.leaks import LEAKS
from tests.redteam.world import World
from tests.support import ROOT


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(str(tmp_path_factory.mktemp("redteam")))


@pytest.mark.redteam
@pytest.mark.parametrize("case", [*CHEATS, *LEAKS, *HONEST], ids=lambda case: case.name)
def test_a_cheat_is_stopped_and_an_honest_twin_passes(world, case):
    outcome = world.run(case)
    assert outcome.ok, f"must be {case.must}: {outcome.by} {outcome.verdict}"


@pytest.mark.long
def test_mutated_artifacts_are_read_or_refused_in_one_line():
    command = [sys.executable, "-m", "tests.redteam.fuzz", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["cases"] == 10_000 and result["refused"] + result["accepted"] == 10_000
    assert not result["tracebacks"] and not result["hangs"] and not result["left_behind"]
