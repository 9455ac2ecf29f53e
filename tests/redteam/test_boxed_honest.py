"""The honest twins of the cheats: each is scored by the real scorer in a real box.

Not covered: the same twins without boxes (test_leaks.py).
"""

import pytest

from tests.redteam.honest import HONEST

pytestmark = pytest.mark.redteam


@pytest.mark.parametrize("case", HONEST, ids=lambda case: case.name)
def test_an_honest_twin_passes(world, case):
    outcome = world.run(case)
    assert outcome.ok, f"must be {case.must}: {outcome.by} {outcome.verdict}"
