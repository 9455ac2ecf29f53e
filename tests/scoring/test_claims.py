"""Claimed log-probabilities: the box's path against a plain evaluation, and the audits against the red team's cases,
with each audit taken away in turn.

Most cases run without a box (tests/redteam/local.py): `make redteam` scores all of them in boxes. Not covered: GPUs.
"""

import os
import shutil
import types

import numpy as np
import pytest

from golf.box import box, cgroup, confine
from scoring import audits, passes, verdicts
from scoring.positions import LEVELS
from tests.redteam import local
from tests.redteam.cases import CHEATS, STORED
from tests.redteam.honest import HONEST
from tests.redteam.world import World
from tests.support.scoring_world import SCRIPT, plain_evaluation

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_boxes")]

CLAIMING = (
    SCRIPT
    + """
from __main__ import PlainScorer
class Scorer(PlainScorer):
    claims = True
"""
)


def test_a_claimed_score_equals_plain_evaluation_and_is_called_audited(world, monkeypatch, tmp_path):
    """One box, in something that looks like a control group. The audits themselves are the other tests' matter."""
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids\n")
    monkeypatch.setattr(cgroup, "parents", lambda: [str(tmp_path)])
    seen, groups = [], []

    def remove(folder):
        groups.append({name: (tmp_path / folder / name).read_text() for name in os.listdir(folder)})
        shutil.rmtree(folder)

    monkeypatch.setattr(cgroup, "remove", remove)
    monkeypatch.setattr(audits.Auditor, "run", lambda auditor, *progress: seen.append(auditor) or [])
    result = world.score(world.artifact(CLAIMING))
    assert np.allclose([row["nats"] for row in result["per_document"]], plain_evaluation(world, 8), rtol=1e-6)
    assert result["probabilities"] == "audited" and result["audit"] == "quick"  # though none was asked for
    assert seen[0].level.sweeps == LEVELS["quick"].sweeps and seen[0].opened >= passes.OPENED_ROWS
    (group,) = groups
    assert group["cgroup.procs"] == "0" and int(group["memory.max"]) > passes.MIN_MEMORY_BYTES
    assert group["pids.max"] == str(confine.MAX_PROCESSES) and group["memory.oom.group"] == group["cgroup.kill"] == "1"
    notes = {row["layer"]: row["note"] for row in result["sandbox"]}
    assert f"control group of {group['memory.max']} bytes" in notes["limit on memory"]
    assert os.listdir(tmp_path) == ["cgroup.subtree_control"]


@pytest.fixture(scope="module")
def red(tmp_path_factory):
    return World(tmp_path_factory.mktemp("red"))


def case(name):
    (found,) = [case for case in [*CHEATS, *HONEST] if case.name.startswith(name)]
    return found


def failing(rows):
    return [audit for audit, row in rows.items() if row["verdict"] == "fail"]


@pytest.mark.parametrize(
    "name, audit",
    [
        ("peeks at the target", "blind"),
        ("stream scope, peeks at one pair in 200", "blind"),
        ("claims too much, but only for symbols", "sweep"),
    ],
)
def test_without_its_audit_a_cheat_would_pass(red, name, audit):
    """One audit fails and no other: a scorer without that audit would have given the score. (`order`: below.)"""
    _, rows = local.rows_of(red, case(name), case(name).audit)
    assert failing(rows) == [audit], rows


def test_twice_says_that_the_state_is_at_fault(red):
    """A boost that comes at random: whatever finds it, nothing says that the row looks ahead."""
    _, rows = local.rows_of(red, case("a boost at random"))
    assert failing(rows)[0] == "twice"
    assert all("fault of the Scorer's state" in rows[audit]["detail"] for audit in failing(rows))


def test_without_fresh_text_stored_text_would_pass(red):
    """Every other audit agrees with a score that no model of this size has; its row for fresh text fails."""
    bpb, rows = local.rows_of(red, STORED)
    honest, _ = local.rows_of(red, case("plain table"))
    assert not failing(rows) and bpb < 0.7 * honest
    compared = verdicts.fresh("gate", bpb, (bpb - 0.02, bpb + 0.02), honest, (honest - 0.02, honest + 0.02), 2.5, 2.5)
    assert compared["verdict"] == "fail"


def test_order_finds_what_twice_leaves():
    """A leak between documents at two symbols in 50,000: too few for the noise of `twice`, and no drift."""
    ledger = types.SimpleNamespace(nats=[np.full(5000, 3.0)] * 10)
    made = types.SimpleNamespace(
        tolerance=audits.MIN_TOLERANCE,
        ledger=ledger,
        names=[str(n) for n in range(10)],
        documents=[passes.Document(str(n), "a", "", 18_500) for n in range(10)],
    )
    deltas = [np.zeros(5000) for _ in range(10)]
    assert audits.Auditor._worst(made, deltas, range(10)) is None
    deltas[3][7], deltas[4][9] = -2.0, -2.0
    assert np.quantile(np.abs(np.concatenate(deltas)), audits.NOISE_QUANTILE) == 0
    assert audits.Auditor._drift(made, deltas, range(10)) is None
    assert "symbol 7 of document 3 was scored 3.0000" in audits.Auditor._worst(made, deltas, range(10))


@pytest.mark.parametrize(
    "name",
    ["claims of a fifth too much", "claims the best of two", "claims a peek", "claims too much, and little where"],
)
def test_false_claims_fail_an_audit(red, name):
    _, rows = local.rows_of(red, case(name))
    assert set(failing(rows)) & {"sweep", "blind"}, rows
    assert rows["softmax"]["verdict"] == "audited" and rows["softmax"]["n"] > 0


@pytest.mark.parametrize("name", ["claims, as the worker", "claims in half precision"])
def test_honest_claims_pass(red, name):
    bpb, rows = local.rows_of(red, case(name))
    assert not failing(rows), rows
    assert rows["sweep"]["n"] == 4 and rows["sweep"]["misses"]["share"] == pytest.approx(1 - 0.01 ** (1 / 2))
    assert rows["blind"]["blind_bpb"] == pytest.approx(bpb, abs=1e-5)
    assert "largest sum 1.0000" in rows["sweep"]["detail"] or "largest sum 0.9999" in rows["sweep"]["detail"]


@pytest.mark.parametrize(
    "name, kind, text",
    [
        ("claims that the box's own rows", "claims", "nats were claimed for a symbol that costs"),
        ("claims more than certainty", "not-a-number", "a probability above one is claimed at symbol 0"),
        ("claims NaN", "not-a-number", "NaN or infinity at symbol"),
    ],
)
def test_broken_claims_are_one_verdict(red, name, kind, text):
    with pytest.raises(box.BoxFailure, match=rf"^FAILED \({kind}\): [^\n]*{text}") as caught:
        local.rows_of(red, case(name))
    assert caught.value.kind == kind


def test_without_opened_rows_false_rows_are_left_to_the_audits(red, monkeypatch):
    monkeypatch.setattr(passes, "_open_rows", lambda *_: None)
    _, rows = local.rows_of(red, case("claims that the box's own rows"))
    assert "blind" in failing(rows)
