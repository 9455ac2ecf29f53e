"""The world in which the tests of the red team score its cases."""

import pytest

from tests.redteam.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A new one for each file: cases write beside its artifacts."""
    return World(str(tmp_path_factory.mktemp("redteam")))
