"""Cheats by claims, across documents, by broken answers, by files: each is scored by the real scorer in a real box.

Not covered: cheats that look ahead (test_looking_ahead.py).
"""

import pytest

from tests.redteam.cases import BROKEN, CLAIMED, CROSSING, GAINLESS, STORED

pytestmark = pytest.mark.redteam


@pytest.mark.parametrize("case", [*CLAIMED, *CROSSING, *BROKEN, *GAINLESS, STORED], ids=lambda case: case.name)
def test_a_cheat_is_stopped(world, case):
    outcome = world.run(case)
    assert outcome.ok, f"must be {case.must}: {outcome.by} {outcome.verdict}"
