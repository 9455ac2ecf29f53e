"""The leaks: each is scored by the real scorer in a real box.

Not covered: the same leaks without boxes (test_leaks.py).
"""

import pytest

from tests.redteam.leaks import LEAKS

pytestmark = pytest.mark.redteam


@pytest.mark.parametrize("case", LEAKS, ids=lambda case: case.name)
def test_a_leak_is_stopped(world, case):
    outcome = world.run(case)
    assert outcome.ok, f"must be {case.must}: {outcome.by} {outcome.verdict}"
