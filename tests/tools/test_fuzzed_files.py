"""Mutated files of every kind end in one line: a sample, in this process. `make fuzz` takes 2,000 of each, and sends
some through the commands.

Not covered: limits on memory, which a process keeps for good (the fuzzer's children have them).
"""

import random

import pytest

from golf.files import Failure
from tests.redteam.fuzz.engine import CPU_SECONDS, Hang, Kind, Report, rng_of, run_cases
from tests.redteam.fuzz.kinds import KINDS

pytestmark = pytest.mark.slow

# Files of each kind; those that build a model for each are dearer
SAMPLES = {"artifact": 30, "checkpoint": 20, "statistics": 20, "resume": 10, "shard": 40, "manifest": 40, "spec": 200}


def cases(kind: Kind, numbers: range, seed: int = 1) -> Report:
    report = Report(kind.name, "here")
    run_cases(kind, seed, numbers, report, lambda number: None)
    return report


@pytest.mark.parametrize("name", KINDS)
def test_a_sample_of_each_kind(name, tmp_path):
    report = cases(KINDS[name](tmp_path), range(SAMPLES[name]))
    assert report.faults == [] and report.left_behind == [] and report.hangs == 0
    assert report.refused + report.accepted == report.files == SAMPLES[name]
    # It is neither a reader that refuses all nor one that takes all, nor does it always say the same
    assert report.refused > 0 and report.accepted > 0 and len(report.messages) > 2


class Planted(Kind):
    """A reader that does what it is told."""

    name = "planted"

    def __init__(self, folder, read):
        self.target, self.read = folder / "file", read

    def mutate(self, rng: random.Random) -> bytes:
        return rng.randbytes(8)

    def read(self, number):
        """Given when it is made."""

    def commands(self):
        return []


def raises(error):
    def read(number):
        raise error

    return read


@pytest.mark.parametrize(
    "read, faults, hangs",
    [
        (lambda number: None, 0, 0),
        (raises(Failure("FILE: damaged")), 0, 0),
        (raises(Failure("two\x1b[2J lines")), 1, 0),
        (raises(Failure("x" * 3000)), 1, 0),
        (raises(RecursionError("too deep")), 1, 0),
        (raises(MemoryError()), 1, 0),
        (lambda number: int("x"), 0, 0),  # a ValueError that is raised here, in the kit's own file
        (lambda number: random.Random(0).sample([1], 2), 1, 0),  # one that the standard library raises
        (raises(Hang()), 1, 1),
    ],
)
def test_the_fuzzer_sees_what_is_no_refusal(tmp_path, read, faults, hangs):
    report = cases(Planted(tmp_path, read), range(1))
    assert (len(report.faults), report.hangs, report.left_behind) == (faults, hangs, []), report


def test_the_fuzzer_sees_what_is_left_behind(tmp_path):
    report = cases(Planted(tmp_path, lambda number: (tmp_path / "half").write_text("x")), range(3))
    assert report.left_behind == [f"seed 1, case 0: {tmp_path / 'half'}"] and not report.good


def test_the_fuzzer_ends_a_reader_that_computes_for_ever(tmp_path, monkeypatch):
    def busy(number):
        while True:
            pass

    assert CPU_SECONDS >= 10
    monkeypatch.setattr("tests.redteam.fuzz.engine.CPU_SECONDS", 0.05)
    assert cases(Planted(tmp_path, busy), range(2)).hangs == 2


def test_a_case_can_be_repeated_alone(tmp_path):
    kind = KINDS["spec"](tmp_path)
    assert kind.mutate(rng_of("spec", 3, 17)) == kind.mutate(rng_of("spec", 3, 17))
    assert kind.mutate(rng_of("spec", 3, 17)) != kind.mutate(rng_of("spec", 3, 18))
