"""The world in which the tests of the red team score its cases. The cases are tested in several
files because pytest-xdist gives a whole file to one worker.

Not covered: the cases themselves, and how they are scored (world.py).
"""

import pytest

from tests.redteam.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A new one for each file: cases write beside its artifacts."""
    return World(str(tmp_path_factory.mktemp("redteam")))
