"""Set-up that all tests share: import path, threads, hypothesis profile, and the fixture of the scorer's small world.

Not covered: helpers, which are in tests/support/.
"""

import os
import signal
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in the Makefile; read when torch is first imported
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job: programs under test would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

from hypothesis import settings  # noqa: E402

# No deadline: a timing never decides a test. In CI the examples are fixed, so that a red run can be repeated.
settings.register_profile("kit", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("kit")


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A tokenizer, a data set and a model for tests of the scorer. A test that changes it must put it back."""
    from tests.support import scoring_world  # torch, which most tests do without

    return scoring_world.make_world(tmp_path_factory.mktemp("world"))
