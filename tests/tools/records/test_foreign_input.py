"""A sample of tests/support/foreign_input.py, whose command runs as many mutants as one likes; and its own checks."""

import json
import random

import pytest

from tests.support import foreign_input
from tests.support.mutations import mutations, places
from tools.records import rules
from tools.records.submission import Submission

pytestmark = pytest.mark.slow

COUNT = 100


@pytest.fixture
def place(tmp_path):
    place = foreign_input.Workplace(tmp_path)
    with place.active(pictures=False):
        yield place


def test_what_is_mutated_passes_as_it_is(place):
    """Else the mutants would all stop at the same fault."""
    verdicts = rules.check(Submission(place.child, scores=False, root=place.root))
    assert {name for name, verdict in verdicts.items() if verdict.status == "FAIL"} <= {"R14", "R15", "R18"}
    assert place.make() == 0 and place.prove() in (0, 3) and place.prove_runs() in (0, 3)
    assert not place.mark.exists()


def test_mutants_end_in_one_line_and_run_nothing(place):
    seed = random.randrange(10**6)
    found = [(case, faults) for case, faults in foreign_input.cases(place, COUNT, random.Random(seed)) if faults]
    assert not found, f"seed {seed}"


def test_the_checks_notice(place):
    def prints():
        print("\x1b[31m")
        return 0

    def writes():
        (place.root / "stolen").write_text("x")
        return 0

    def runs():
        exec((place.child / "json.py").read_text())
        return 0

    for call, word in (
        (prints, "prints"),
        (writes, "wrote"),
        (runs, "script"),
        (lambda: 7, "exit code"),
        (lambda: [][0], "IndexError"),
        (lambda: 1, "without a word"),
    ):
        assert word in " ".join(foreign_input.faults(place, call, (0, 1)))


def test_every_field_has_its_turn():
    value = {"a": 1, "b": [{"c": None}, 2, {"d": "x"}], "e": {"f": {}}}
    assert len(places(value)) == 9  # with the whole, the list, and the objects in it
    before = json.dumps(value)
    source = mutations(value, random.Random(1))
    turn = [next(source)[0].split(":")[0] for _ in places(value)]
    assert sorted(turn) == sorted(["the whole", "a", "b", "b.0", "b.0.c", "b.2", "b.2.d", "e", "e.f"])
    assert json.dumps(value) == before
