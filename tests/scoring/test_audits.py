"""scoring/audits.py: honest scorers pass, one line that looks ahead fails, and the numbers in the report are what they
say. The many cheats are in tests/redteam/; a few of each kind run here.

Not covered: the power against every cheat; docs/audits.md says what stays open.
"""

import dataclasses
import math
import re

import numpy as np
import pytest

from golf import container
from scoring import positions, reference, sweep, verdicts
from scoring import score as scoring_score
from scoring.positions import LEVELS
from tests.redteam import local
from tests.redteam.cases import CHEATS
from tests.redteam.honest import HONEST
from tests.redteam.leaks import LEAKS
from tests.redteam.world import World, take_out_landlock
from tests.support import ROOT
from tests.support.scoring_world import ADAPTIVE, lanes_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_boxes")]


def counted(world, scope):
    """Nats of each document under ADAPTIVE, by counting in plain Python: a chunk's whole score before its update."""
    counts, nats = {}, []
    for symbols in lanes_of(world):
        if scope == "document":
            counts = {}
        context, total = [1, *symbols], 0.0
        for begin in range(0, len(symbols), 5):
            pairs = list(zip(context[begin : begin + 5], symbols[begin : begin + 5]))
            for a, b in pairs:
                total -= math.log(counts.get((a, b), 1) / (300 + sum(counts.get((a, c), 1) - 1 for c in range(300))))
            for pair in pairs:
                counts[pair] = counts.get(pair, 1) + 1
        nats.append(total)
    return nats


@pytest.mark.parametrize("scope", ["document", "stream"])
def test_honest_adaptive_scorer_equals_counting_and_passes_and_is_told_apart(world, scope):
    result = world.score(world.artifact(ADAPTIVE.replace("SCOPE", scope)), processes=2, audit="quick", seed=1)
    assert np.allclose([row["nats"] for row in result["per_document"]], counted(world, scope), rtol=1e-6)
    assert result["scope"] == scope
    rows = {row["audit"]: row for row in result["audits"]}
    assert {row["verdict"] for row in result["audits"]} <= {"pass", "constructed", "note", "not applicable"}
    assert rows["order"]["verdict"] == ("pass" if scope == "document" else "not applicable")
    assert rows["softmax and sweep"]["verdict"] == rows["order of reveals"]["verdict"] == "constructed"
    assert rows["blind"]["n"] == 200 or result["audit"] == "full"
    assert rows["blind"]["blind_bpb"] == pytest.approx(result["bpb"], abs=1e-6)
    share = rows["blind"]["misses"]["share"]
    uniform = (rows["blind"]["n"] + 1) // 2
    assert (1 - share) ** uniform == pytest.approx(0.01)
    assert rows["blind"]["misses"]["bpb"] == pytest.approx(share * result["bpb"])
    assert rows["twice"]["tolerance_nats"] == 1e-3  # exact on a CPU


@pytest.mark.long
def test_a_records_script_that_peeks_one_token_ahead_fails(world, monkeypatch, tmp_path):
    """The artifact of a record, scored here on a little text: as it is it passes; with one line of its script changed,
    so that attention sees one more token, it fails, though these weights do not even gain by it."""
    monkeypatch.setitem(LEVELS, "quick", dataclasses.replace(LEVELS["quick"], least=20, most=20))  # it always peeks
    record = sorted((ROOT / "records").glob("*/*/*.golf"))[0]
    sections = container.read(record.read_bytes())
    script, decoder = container.code_unpack(sections["CODE"])
    honest = scoring_score.score(str(record), str(world.data), "dev", 1, audit="quick", seed=2)
    assert all(row["verdict"] != "fail" for row in honest["audits"])
    name = re.search(r"(\w+)\.scaled_dot_product_attention\((\w+),", script)
    ahead = (
        f"attn_mask=__import__('torch').ones({name[2]}.shape[-2], {name[2]}.shape[-2], "
        "dtype=__import__('torch').bool).tril(1)"
    )
    changed, count = re.subn(r"is_causal=(True|1)\b", ahead, script)
    assert count == 1 and changed.count("\n") == script.count("\n")
    container.write(tmp_path / "peek.golf", {**sections, "CODE": container.code_pack(changed, decoder)})
    with pytest.raises(scoring_score.AuditFailure, match=r"FAILED \(audit blind\): symbol \d+ of document") as caught:
        scoring_score.score(str(tmp_path / "peek.golf"), str(world.data), "dev", 1, audit="quick", seed=2)
    assert str(caught.value).isprintable()


@pytest.fixture(scope="module")
def red(tmp_path_factory):
    return World(tmp_path_factory.mktemp("red"))


def case_named(name):
    (found,) = [case for case in [*CHEATS, *LEAKS, *HONEST] if case.name.startswith(name)]
    return found


@pytest.mark.parametrize("name", ["peeks only at the costliest", "renormalised n-gram"])
def test_a_part_of_the_red_team_in_boxes(red, name):
    """`make redteam` runs all of it."""
    outcome = red.run(case_named(name), fresh=None)
    assert outcome.ok, outcome


@pytest.mark.parametrize("name, audit", [
    ("evader: honest when", "blind"), ("a tiny leak", "blind"), ("scope document, but learns", "twice"),
    ("noisy kernels", None),
])  # fmt: skip
def test_a_part_of_the_red_team_in_this_process(red, name, audit):
    case = case_named(name)
    _, rows = local.rows_of(red, case, case.audit)
    failed = [name for name, row in rows.items() if row["verdict"] == "fail"]
    assert (audit in failed) if audit else not failed, rows
    if audit == "blind" and "noise has no sign" in case.expect:
        assert "noise has no sign" in rows["blind"]["detail"]


def test_a_trick_that_gains_nothing_works_where_its_wall_is_down(red, monkeypatch):
    """Else the red team would prove little: without Landlock the held-out file can be read, and that is caught."""
    take_out_landlock(monkeypatch)
    monkeypatch.setitem(LEVELS, "full", LEVELS["quick"])  # which so good a score would ask for
    outcome = red.run(case_named("reads the held-out file"), fresh=None)
    assert not outcome.ok and "audit blind" in outcome.verdict, outcome


def test_the_red_team_is_what_was_asked_for():
    names = [case.name for case in [*CHEATS, *LEAKS, *HONEST]]
    cheats = [*CHEATS, *LEAKS]
    assert len(names) == len(set(names)) and len(cheats) >= 75 and len(HONEST) >= 16
    assert sum(case.must == "open" for case in cheats) <= 1
    assert all(case.expect for case in cheats if case.must == "caught")


def split_of(lengths):
    """Documents int64 [T] of these lengths."""
    documents = [np.arange(length) % 50 + 4 for length in lengths]
    for tokens in documents:
        tokens[-1] = 1
    return documents


def test_aimed_positions_lie_where_the_pass_beats_the_reference():
    """One document in which 30 symbols cost nothing, against a reference that pays for them: the aimed draws go there,
    the others are spread over all."""
    nats = [np.full(500, 20.0) for _ in range(3)]
    nats[1][100:130] = 0.0
    drawn, uniform = positions.Positions(split_of([500] * 3), nats, 60, np.random.default_rng(3)).draw(20, 1.0)
    assert uniform == 20 and len(drawn) == len(set(drawn)) == 40
    assert all(number == 1 and 100 <= place < 130 for number, place in drawn[uniform:])
    assert len({number for number, _ in drawn[:uniform]}) == 3
    assert all(0 <= place < 500 for _, place in drawn)


def test_no_more_positions_than_symbols_and_grouped_from_the_left():
    drawn, uniform = positions.Positions(split_of([7, 4]), [np.ones(7), np.ones(4)], 60, np.random.default_rng(1)).draw(
        50, 0.5
    )
    assert uniform == len(drawn) == len(set(drawn)) == 11  # all of them; none is left to aim at
    assert positions.between([1, 3, 5, 8], 3, 8) == [3, 5] and positions.between([], 0, 9) == []
    assert positions.by_document(drawn) == {0: list(range(7)), 1: list(range(4))}


@pytest.mark.parametrize(
    "level, pace, stream, count",
    [
        ("full", positions.Pace(150.0, 0.07), True, int(450 / 0.07 / 1.25)),  # 5,142: the best pocket record, quiet
        ("full", positions.Pace(150.0, 0.001), True, 15_000),
        ("full", positions.Pace(590.0, 0.07), True, 1500),
        ("full", positions.Pace(20.0, 0.03), False, int(570 * 0.65 / 0.03 / 1.25)),
        ("deep", positions.Pace(590.0, 0.07), True, 15_000),
        ("quick", positions.Pace(590.0, 0.07), True, 100),
    ],
)
def test_as_many_positions_as_ten_minutes_leave(level, pace, stream, count):
    assert positions.affordable(LEVELS[level], pace, stream) == count


@pytest.mark.parametrize(
    "deltas, found",
    [
        (np.full(40, -1e-4), True),
        (np.full(40, 1e-4), False),
        (np.tile([1e-4, -1e-4], 20), False),
        (np.zeros(40), False),
        (np.full(5, -1e-4), False),
    ],
)
def test_noise_with_a_sign_is_found(deltas, found):
    """Only differences that favour the record count, and five in a row prove nothing."""
    assert (verdicts.favoured(deltas, 1 / math.log(2) / 2) is not None) == found


def test_many_small_losses_do_not_pay_for_gains():
    """Half of the symbols gain up to 0.07 nats and half lose 1e-4: the signs are even, the mean is not."""
    rng = np.random.default_rng(1)
    deltas = np.where(rng.random(2000) < 0.5, -0.07 * rng.random(2000), 1e-4)
    found = verdicts.favoured(deltas, 0.47)
    assert "noise has no mean" in found
    assert verdicts.favoured(-deltas, 0.47) is None  # it costs the artifact: no leak
    assert verdicts.favoured(rng.normal(0, 0.02, 2000), 0.47) is None


def test_the_mean_test_is_students():
    """Against the closed form, with the distribution from a table: t = 3.747 at 4 degrees is p = 0.01."""
    deltas = np.array([-1.0, -2.0, -3.0, -4.0, -5.0])
    deltas = deltas - deltas.mean() - 3.747 * deltas.std(ddof=1) / math.sqrt(5)
    assert verdicts.mean_test(deltas) == pytest.approx(0.01, rel=1e-3)


class Watched(local.LocalBox):
    """A box that keeps what it was sent, and when something was committed."""

    log: list = []

    def start(self, lanes):
        self.log.append(("start", lanes))
        super().start(lanes)

    def logits(self, tokens):
        self.log.append(("sent", tokens.copy()))
        return super().logits(tokens)

    def commit(self):
        self.log.append(("commit", None))
        super().commit()


@pytest.mark.parametrize("name", ["plain table", "three symbols a call", "claims, as the worker"])
def test_no_question_holds_the_symbol_that_it_is_about(red, monkeypatch, name):
    """Of all calls for one place in the replay only the last, which is committed, may be the text: in the others the
    text ends somewhere, and no symbol from there on is the text's by more than chance."""
    monkeypatch.setattr(local, "LocalBox", Watched)
    monkeypatch.setattr(Watched, "log", [])
    local.rows_of(red, case_named(name), "quick")
    groups, calls = [], []
    for what, tokens in Watched.log:
        if what == "sent":
            calls.append(tokens)
        elif what == "commit":
            groups.append(calls)
        if what != "sent":
            calls = []
    asked = 0
    for *questions, text in groups:
        for question in questions:
            asked += 1
            for lane, truth in zip(question, text):
                differs = np.flatnonzero(lane != truth)
                assert len(differs)  # also in lanes without a question
                assert (lane[differs[0] :] == truth[differs[0] :]).sum() <= 2 + 0.5 * (len(lane) - differs[0])
    assert asked >= 40


def test_a_sweep_never_sends_the_text_itself(red, monkeypatch):
    """Every call of a sweep holds symbols that were drawn, each as often as the others; none is committed."""
    sent = []

    class Claims(local.LocalBox):
        def claimed(self, tokens):
            sent.append(tokens.copy())
            return super().claimed(tokens)

    case = case_named("claims, as the worker")
    documents = [np.array([1, *lane]) for lane in [[5, 6, 7, 8] * 20]]
    nats = [np.ones(len(documents[0]))]
    made = sweep.Sweep(documents, nats, 300, np.random.default_rng(1))
    made.ask_alone(Claims(red, case), 0, 70)
    swept = [tokens for tokens in sent if tokens.shape[1] == 70 % 32 + 1]
    assert all(np.array_equal(tokens[:, :-1], np.tile(documents[0][64:70], (len(tokens), 1))) for tokens in swept)
    symbols = np.concatenate([tokens[:, -1] for tokens in swept])
    counts = np.bincount(symbols, minlength=300)
    assert counts.min() >= 1 and counts[documents[0][70]] <= counts.max()
    assert len(sent) == len(swept) + 2  # two chunks of the text come before, and nothing after
    assert made.found[0, 70][0] == pytest.approx(1, abs=1e-5)


def test_reference_equals_counting_by_hand_and_learns():
    nats = reference.adaptive_nats([np.array([4, 5, 4, 5, 1])], 6)[0]
    assert nats[0] == pytest.approx(math.log(6))  # nothing was counted yet
    p0 = (0 + 0.5) / (1 + 3)  # 5 after a single 4, order 0; the contexts are new
    assert nats[1] == pytest.approx(-math.log(p0))
    # The fourth symbol, 5 after (5, 4): order 0 saw 4, 5, 4; order 1 saw 4 -> 5 once; order 2 saw nothing.
    p0 = 1.5 / 6
    assert nats[3] == pytest.approx(-math.log((1 + 2 * p0) / (1 + 2)))
    rng = np.random.default_rng(1)
    text = rng.integers(4, 40, 30)
    assert reference.adaptive_nats([np.tile(text, 20)], 60)[0][300:].mean() < 0.7


def test_reference_stops_within_a_long_document(monkeypatch):
    """What it leaves out changes nothing of what it has."""
    texts = [np.array([4, 5, 4, 5, 1]), np.array([5, 4, 4, 1])]
    whole = np.concatenate(reference.adaptive_nats(texts, 6))
    monkeypatch.setattr(reference, "MAX_TOKENS", 7)
    cut = reference.adaptive_nats(texts, 6)
    assert [len(row) for row in cut] == [5, 2]
    assert np.array_equal(np.concatenate(cut), whole[:7])


def test_decoys_avoid_the_truth_and_the_end_symbol(world):
    documents = [np.array(lane) for lane in lanes_of(world)]
    decoys = reference.Decoys(documents, np.random.default_rng(4))
    pairs = {(a, b) for lane in documents for a, b in zip(lane, lane[1:])}
    natural = []
    for _ in range(60):
        drawn = decoys.draw(12, int(documents[0][0]), not_first=int(documents[0][1]))
        assert len(drawn) == 12 and drawn[0] != documents[0][1] and drawn.min() > 3
        natural.append(np.mean([(a, b) in pairs for a, b in zip(drawn, drawn[1:])]))
    assert 15 < sum(share > 0.8 for share in natural) < 45  # about half walk along pairs of the text


def test_plausibility_and_fresh_text():
    assert verdicts.plausibility(1.70, 250_000)["verdict"] == "pass"
    assert verdicts.plausibility(1.05, 16_000_000)["verdict"] == "pass"
    assert verdicts.plausibility(1.2, 250_000)["verdict"] == "note"
    assert verdicts.plausibility(0.9, 16_000_000)["verdict"] == "note"
    same = verdicts.fresh("gate", 1.7, (1.68, 1.72), 1.71, (1.69, 1.73), 2.5, 2.5)
    assert same["verdict"] == "pass" and same["gap_bpb"] == pytest.approx(0.01)
    assert same["gap_interval"] == pytest.approx([0.01 - 0.02 * math.sqrt(2), 0.01 + 0.02 * math.sqrt(2)])
    assert verdicts.fresh("gate", 0.5, (0.48, 0.52), 1.7, (1.68, 1.72), 2.5, 2.5)["verdict"] == "fail"
    harder = verdicts.fresh("gate", 1.7, (1.68, 1.72), 2.0, (1.98, 2.02), 2.5, 2.95)  # the text explains the gap
    assert harder["verdict"] == "pass" and harder["expected_gap_bpb"] == pytest.approx(0.306)
    assert verdicts.fresh("gate", 1.7, None, 2.0, None, 2.5, 2.5)["verdict"] == "note"
