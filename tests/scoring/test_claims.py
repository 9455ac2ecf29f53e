"""Claimed log-probabilities, control groups and the dealing of GPUs: the box's path against a plain evaluation, and the
audits against the red team's cases, with each audit taken away in turn.

Most cases run without a box (tests/redteam/local.py): `make redteam` scores all of them in boxes. Not covered: GPUs,
and a control group of a real kernel, which tests cannot expect to be granted.
"""

import os
import shutil
import types

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from golf.box import box, cgroup, confine, worker
from scoring import audits, passes
from tests.redteam import local
from tests.redteam.cases import CHEATS, HONEST, STORED
from tests.redteam.world import World
from tests.scoring.test_score import SCRIPT, plain_evaluation, world  # noqa: F401  (world is a fixture)

CLAIMING = SCRIPT + """
from __main__ import PlainScorer
class Scorer(PlainScorer):
    claims = True
"""


@given(st.integers(0, 10 ** 6), st.integers(2, 30), st.floats(0, 60))
def test_claims_of_the_worker_are_log_softmax(seed, vocab_size, scale):
    torch.manual_seed(seed)
    logits, tokens = scale * torch.randn(2, 5, vocab_size), torch.randint(0, vocab_size, (2, 5))
    claims = worker.claimed(logits, tokens)
    expected = logits.double().log_softmax(2).gather(2, tokens[..., None])[..., 0]
    assert torch.allclose(claims.double(), expected, rtol=1e-5, atol=1e-4) and float(claims.max()) <= 0
    assert torch.equal(worker.opened(logits.flatten(0, 1), [7, 0]), torch.stack([logits[1, 2], logits[0, 0]]))


def test_plain_scorer_may_be_asked_again_before_it_observes():
    """Its inputs are the tokens before, whatever was asked in between; observe() is about the last call."""
    scorer = worker.PlainScorer(lambda inputs: inputs, types.SimpleNamespace(seq_len=3))
    first, decoy, second = torch.tensor([[5, 6, 7]]), torch.tensor([[5, 9, 9]]), torch.tensor([[8, 2]])
    for _ in range(2):
        scorer.start(1)
        assert [scorer.logits(tokens).tolist() for tokens in (decoy, first)] == [[[1, 5, 9]], [[1, 5, 6]]]
        scorer.observe()
        assert [scorer.logits(tokens).tolist() for tokens in (decoy, second)] == [[[7, 5, 9]], [[7, 8]]]


def test_a_claimed_score_equals_plain_evaluation_and_is_called_audited(world, monkeypatch, tmp_path):
    """One box, in something that looks like a control group. The audits themselves are the other tests' matter."""
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids\n")
    monkeypatch.setattr(cgroup, "parents", lambda: [str(tmp_path)])
    seen, groups = [], []

    def remove(folder):
        groups.append({name: (tmp_path / folder / name).read_text() for name in os.listdir(folder)})
        shutil.rmtree(folder)
    monkeypatch.setattr(cgroup, "remove", remove)
    monkeypatch.setattr(audits.Auditor, "run", lambda auditor, on_phase: seen.append(auditor) or [])
    result = world.score(world.artifact(CLAIMING))
    assert np.allclose([row["nats"] for row in result["per_document"]], plain_evaluation(world, 8), rtol=1e-6)
    assert result["probabilities"] == "audited" and result["audit"] == "quick"  # though none was asked for
    assert seen[0].sweeps == audits.LEVELS["quick"][2] and seen[0].opened >= passes.OPENED_ROWS
    (group,) = groups
    assert group["cgroup.procs"] == "0" and int(group["memory.max"]) > passes.MIN_MEMORY_BYTES
    assert group["pids.max"] == str(confine.MAX_PROCESSES) and group["memory.oom.group"] == group["cgroup.kill"] == "1"
    notes = {row["layer"]: row["note"] for row in result["sandbox"]}
    assert f"control group of {group['memory.max']} bytes" in notes["limit on memory"]
    assert os.listdir(tmp_path) == ["cgroup.subtree_control"]


def test_no_control_group_where_none_can_be_made(monkeypatch, tmp_path):
    monkeypatch.setattr(cgroup, "parents", lambda: [str(tmp_path), str(tmp_path / "missing")])
    assert cgroup.make("golf-box-a", 1, 1) is None  # not handed on: no subtree_control at all
    (tmp_path / "cgroup.subtree_control").write_text("cpu\n")
    assert cgroup.make("golf-box-a", 1, 1) is None and os.listdir(tmp_path) == ["cgroup.subtree_control"]
    assert confine._join(None)[0] is False and confine._join(str(tmp_path / "missing"))[0] is False
    old, new = tmp_path / "golf-box-old", tmp_path / "golf-box-new"
    for folder in (old, new, tmp_path / "other"):
        folder.mkdir()
    os.utime(old, (1, 1))
    cgroup.remove_stale()
    assert sorted(os.listdir(tmp_path)) == ["cgroup.subtree_control", "golf-box-new", "other"]


def test_parents_follow_the_kernels_tables(monkeypatch):
    """The scorer's own group and the one above it, at the place where version 2 is mounted."""
    tables = {"/proc/self/mountinfo": "24 1 0:21 / /proc rw - proc proc rw\n"
                                      "31 23 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n",
              "/proc/self/cgroup": "4:memory:/x\n0::/user.slice/run.scope\n"}
    monkeypatch.setattr(cgroup, "open", lambda path, **_: __import__("io").StringIO(tables[path]), raising=False)
    root = "/sys/fs/cgroup/unified"
    assert cgroup.parents() == [f"{root}/user.slice/run.scope", f"{root}/user.slice"]
    tables["/proc/self/cgroup"] = "0::/\n"
    assert cgroup.parents() == [root]
    tables["/proc/self/cgroup"] = "0::/../other\n"
    assert cgroup.parents() == []


def test_boxes_are_dealt_to_gpus(monkeypatch):
    """Each box sees one GPU, in turn; boxes that share one share its memory."""
    class Fake:
        scope, chunk, claims = "document", 8, False
        load = kill = close = lambda self: None

        def __init__(self, submission, threads, time_limit, gpu, memory_bytes, gpu_fraction, cores):
            self.given = gpu, gpu_fraction, cores
    monkeypatch.setattr(passes, "Box", Fake)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,5")
    with passes.Boxes(None, 3, 1) as running:
        assert [box.given for box in running.boxes] == [("0", 0.5, None), ("5", 0.5, None), ("0", 0.5, None)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with passes.Boxes(None, 2, 1) as running:
        assert [box.given for box in running.boxes] == [(None, 0.5, passes.core_numbers())] * 2


# ---- the red team without boxes ----

@pytest.fixture(scope="module")
def red(tmp_path_factory):
    return World(tmp_path_factory.mktemp("red"))


def case(name):
    (found,) = [case for case in [*CHEATS, *HONEST] if case.name.startswith(name)]
    return found


def failing(rows):
    return [audit for audit, row in rows.items() if row["verdict"] == "fail"]


@pytest.mark.parametrize("name, audit", [
    ("peeks at the target", "blind"), ("stream scope, peeks at one pair in 200", "blind"),
    ("noise of 0.02 nats", "twice"), ("claims too much, but only for symbols", "sweep")])
def test_without_its_audit_a_cheat_would_pass(red, name, audit):
    """One audit fails and no other: a scorer without that audit would have given the score. (`order`: below.)"""
    _, rows = local.rows_of(red, case(name), case(name).audit)
    assert failing(rows) == [audit], rows


def test_without_fresh_text_stored_text_would_pass(red):
    """Every other audit agrees with a score that no model of this size has; its row for fresh text fails."""
    bpb, rows = local.rows_of(red, STORED)
    honest, _ = local.rows_of(red, case("plain table"))
    assert not failing(rows) and bpb < 0.7 * honest
    assert audits.fresh("gate", bpb, (bpb - 0.02, bpb + 0.02), honest, (honest - 0.02, honest + 0.02), 2.5, 2.5)[
        "verdict"] == "fail"


def test_order_finds_what_twice_leaves():
    """A leak between documents at two symbols in 50,000: too few for the noise of `twice`, and no drift."""
    ledger = types.SimpleNamespace(nats=[np.full(5000, 3.0)] * 10)
    made = types.SimpleNamespace(tolerance=audits.MIN_TOLERANCE, ledger=ledger,
                                 documents=[passes.Document(str(n), "a", "", 18_500) for n in range(10)])
    deltas = [np.zeros(5000) for _ in range(10)]
    assert audits.Auditor._worst(made, deltas, range(10)) is None
    deltas[3][7], deltas[4][9] = -2.0, -2.0
    assert np.quantile(np.abs(np.concatenate(deltas)), audits.NOISE_QUANTILE) == 0
    assert audits.Auditor._drift(made, deltas, range(10)) is None
    assert "symbol 7 of document 3 was scored 3.0000" in audits.Auditor._worst(made, deltas, range(10))


@pytest.mark.parametrize("name", ["claims of a fifth too much", "claims the best of two", "claims a peek",
                                  "claims too much, and little where"])
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


@pytest.mark.parametrize("name, kind, text", [
    ("claims that the box's own rows", "claims", "nats were claimed for a symbol that costs"),
    ("claims more than certainty", "not-a-number", "a probability above one is claimed at symbol 0"),
    ("claims NaN", "not-a-number", "NaN or infinity at symbol")])
def test_broken_claims_are_one_verdict(red, name, kind, text):
    with pytest.raises(box.BoxFailure, match=rf"^FAILED \({kind}\): [^\n]*{text}") as caught:
        local.rows_of(red, case(name))
    assert caught.value.kind == kind


def test_without_opened_rows_false_rows_are_left_to_the_audits(red, monkeypatch):
    monkeypatch.setattr(passes, "_open_rows", lambda *_: None)
    _, rows = local.rows_of(red, case("claims that the box's own rows"))
    assert "blind" in failing(rows)
