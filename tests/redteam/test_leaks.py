"""The leaks and the honest twins in this process, one test each: the audits alone, without boxes.

Not covered: the same cases in boxes (test_boxed_leaks.py, test_boxed_honest.py), and the cases of cases.py.
"""

import re

import pytest

from tests.redteam import local
from tests.redteam.cases import BASE, Case
from tests.redteam.honest import HONEST
from tests.redteam.leaks import LEAKS
from tests.redteam.world import GAIN
from tests.support import sample

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def plain(world):
    """Bits per byte of the honest table."""
    return local.outcome_of(world, Case("plain", "pass", BASE))[0]


@pytest.mark.parametrize("case", sample([*LEAKS, *HONEST], 3), ids=lambda case: case.name)
def test_a_leak_is_found_and_an_honest_twin_passes(world, plain, case):
    bpb, verdict = local.outcome_of(world, case)
    if case.must == "caught":
        assert re.search(case.expect, verdict), (bpb, plain, verdict)
    else:
        assert not verdict
    if case.must == "no gain":
        assert bpb == pytest.approx(plain, abs=GAIN)
