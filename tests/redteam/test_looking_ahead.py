"""Cheats that look at what they predict: each is scored by the real scorer in a real box.

Not covered: other cheats (test_other_cheats.py).
"""

import pytest

from tests.redteam.cases import LOOKING

pytestmark = pytest.mark.redteam


@pytest.mark.parametrize("case", LOOKING, ids=lambda case: case.name)
def test_a_scorer_that_looks_ahead_is_stopped(world, case):
    outcome = world.run(case)
    assert outcome.ok, f"must be {case.must}: {outcome.by} {outcome.verdict}"
