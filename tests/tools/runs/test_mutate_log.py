"""A sample of tests/support/mutate_log.py, and what it must find. Not covered: all 2,000 cases; run that by hand."""

import random

import pytest

from tests.support import mutate_log
from tools.records import leaderboard
from tools.runs import rows

pytestmark = pytest.mark.slow


def test_no_mutated_file_ends_a_tool():
    assert mutate_log.failures(120) == []


def cases_of(target: str, count: int) -> list[tuple[int, str]]:
    found = [case for case in range(200) if random.Random(case).choice(mutate_log.TARGETS) == target]
    return [(case, target) for case in found[:count]]


@pytest.mark.parametrize("target", ["run.json", "row"])
def test_it_finds_a_log_that_takes_every_row(monkeypatch, target):
    monkeypatch.setattr(rows, "fault", lambda row: None)
    with pytest.raises(Exception):  # noqa: B017 (whatever a log that took the row runs into)
        mutate_log.try_cases(cases_of(target, 20))


def test_it_finds_a_table_that_escapes_nothing(monkeypatch):
    monkeypatch.setattr(leaderboard, "markdown", str)
    record = mutate_log.valid_record("pocket", "0001_baseline", idea="<!-- /leaderboard -->")
    monkeypatch.setattr(mutate_log, "mutated", lambda value, rng: record)
    with pytest.raises(AssertionError):
        mutate_log.try_cases(cases_of("record.json", 1))
