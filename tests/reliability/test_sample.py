"""A sample of the reliability tests: the commands that start quickly, a try of each kind.

Not covered: all of it, `python -m tests.reliability`.
"""

import os

import pytest

from tests.reliability import disks, kills, races
from tests.reliability.world import World

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("reliability") / "world")


@pytest.mark.parametrize(
    "test",
    [
        "kill -9 golf data text",
        "kill -9 golf log note",
        "kill -9 golf record make",
        "disk full: golf data text",
        "disk full: golf log note",
        "two at once: golf record make",
    ],
)
def test_a_try_survives(world, tmp_path, test):
    tests = kills.TESTS | disks.TESTS | races.TESTS
    row = tests[test](world, tmp_path, 1)
    if test.startswith("disk") and not row.tried:
        pytest.skip(f"no file system can be mounted by user {os.getuid()}")
    assert (row.tried, row.survived, row.lost, row.left_behind) == (1, 1, [], [])
