"""Set-up that all tests share: threads, signals, hypothesis profile, the option --quick, the scorer's small world.

Not covered: helpers, which are in tests/support/.
"""

import os
import signal
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in the Makefile; read when torch is first imported
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker has a core; programs that it starts inherit this
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job: programs under test would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

from hypothesis import settings  # noqa: E402

# No deadline: a timing never decides a test. In CI the examples are fixed, so that a red run can be repeated.
settings.register_profile("kit", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("kit")

# Programs that take seconds only to start (Python imports torch), or that compile.
SLOW_PROGRAMS = ("python", "g++", "c++", "clang")
in_a_test = False

# Files of 10 s or more of processor time, the costliest first: the workers begin with these, so that none is left with
# a long file when the others have ended.
LONG_FILES = (
    "redteam/test_fuzz.py",
    "train/test_repeatable.py",
    "train/test_kernels.py",
    "redteam/test_boxed_leaks.py",
    "redteam/test_other_cheats.py",
    "redteam/test_looking_ahead.py",
    "redteam/test_boxed_honest.py",
    "train/test_tiny.py",
    "train/test_run.py",
    "train/test_folder.py",
    "tools/runs/test_smoke.py",
    "tools/test_fuzzed_files.py",
    "compress/test_pack.py",
    "golf/box/test_prober.py",
    "redteam/test_leaks.py",
    "train/test_stack.py",
    "scoring/test_audits.py",
    "tools/records/test_rules.py",
    "tools/sweep/test_methods.py",
    "train/test_model.py",
    "tools/claims/test_proof.py",
    "tools/runs/test_pipeline.py",
    "tools/records/test_foreign_input.py",
    "golf/test_tokenizer.py",
    "tools/claims/test_prove.py",
    "compress/test_allocate.py",
    "compress/test_verify.py",
    "train/test_scorer.py",
    "golf/test_script.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="skip a test as soon as it starts Python or a C++ compiler")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--quick"):
        sys.addaudithook(skip_slow_programs)


def skip_slow_programs(event: str, arguments: tuple) -> None:
    """An audit hook: skips the running test when it, or a fixture of its, starts a slow program."""
    if in_a_test and event == "subprocess.Popen":
        executable, words = arguments[:2]
        program = Path(os.fsdecode(executable or words[0])).name
        if program.startswith(SLOW_PROGRAMS):
            pytest.skip(f"starts {program}, which --quick leaves to `make test`")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests of LONG_FILES first, in its order. All others keep theirs."""
    rank = {Path(__file__).parent / name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item):
    """Keeps what pytest and its plugins start themselves out of skip_slow_programs."""
    global in_a_test
    in_a_test = True
    try:
        return (yield)
    finally:
        in_a_test = False


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A tokenizer, a data set and a model for tests of the scorer. A test that changes it must put it back."""
    from tests.support import scoring_world  # torch, which most tests do without

    return scoring_world.make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def warm_boxes():
    """Boxes start in forks of a process that has imported torch; not for tests that are about the box."""
    from tests.support import warm

    with warm.boxes():
        yield
