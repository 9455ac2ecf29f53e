"""What is known of a record: scores and reproductions counted by hand, the row before, and golf prove's own numbers.

References: tools/claims/prove.py on the records of this repository; rows counted by hand.
"""

import json
import shutil
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.additions import TRAIN, example
from tests.support.own_cache import own_cache  # noqa: F401
from tests.support.site_records import add, change
from tools.claims import prove
from tools.records import additions, cells, lineage, remembered, standing

SHA = {1: "1" * 64, 2: "2" * 64}


def record(**changes) -> dict:
    """A record.json as far as scored() and reproduced() read it: two seeds, 1 and 2."""
    seeds = [{"seed": 1, "bpb": 1.5, "artifact_sha256": SHA[1]}, {"seed": 2, "bpb": 1.7, "artifact_sha256": SHA[2]}]
    return {"date": "2026-11-20", "bpb_mean": 1.6, "seeds": seeds} | changes


def own(seed: int, audited: bool = False, certified: bool = False) -> dict:
    return {"artifact_sha256": SHA[seed], "audited": audited, "certified": certified}


def again(seed: int, **changes) -> dict:
    """An addition of kind scored."""
    addition = {"kind": "scored", "date": "2026-11-29", "seed": seed, "bpb": 1.5, "audit": "full", "certified": True}
    return addition | {"artifact": {"sha256": SHA.get(seed, "3" * 64)}, "train": None} | changes


@pytest.mark.parametrize(
    "scores, added, expected",
    [
        ({}, [], (0, 0, None, None, 0)),
        ({1: own(1), 2: own(2)}, [], (0, 0, None, None, 0)),
        ({1: own(1, True), 2: own(2)}, [], (1, 0, "record", "2026-11-20", 0)),
        ({1: own(1, True, True), 2: own(2, False, True)}, [], (1, 2, "record", "2026-11-20", 0)),
        ({1: own(1), 2: own(2)}, [again(1)], (1, 1, "others", "2026-11-29", 1)),
        ({1: own(1, True, True), 2: own(2)}, [again(2)], (2, 2, "both", "2026-11-29", 1)),
        # the strongest counts, and the latest of these
        ({1: own(1, True, True)}, [again(1, certified=False)], (1, 1, "record", "2026-11-20", 1)),
        ({1: own(1, True, True)}, [again(1)], (1, 1, "others", "2026-11-29", 1)),
        ({1: own(1)}, [again(1, audit="quick", certified=False)], (0, 0, None, None, 1)),
        # without scores of its own, the hash that record.json states decides
        ({}, [again(1), again(2, audit="deep")], (2, 2, "others", "2026-11-29", 2)),
        # another artifact, another seed, another kind: none of these is a score of the record's artifact
        ({1: own(1)}, [again(1, artifact={"sha256": SHA[2]})], (0, 0, None, None, 0)),
        ({1: own(1)}, [again(3), again(1, kind="trained")], (0, 0, None, None, 0)),
    ],
)
def test_audited_and_certified(scores, added, expected):
    found = standing.scored(record(), scores, added)
    assert (found["audited"], found["certified"], found["by"], found["date"], found["again"]) == expected


def test_the_largest_difference_of_a_score_keeps_its_sign():
    found = standing.scored(record(), {}, [again(1, bpb=1.501), again(2, bpb=1.69)])
    assert found["largest_difference"] == pytest.approx(-0.01)
    assert standing.scored(record(), {}, [])["largest_difference"] is None


def test_reproductions_are_held_against_the_claim_for_their_seed():
    runs = [
        again(1, kind="trained", bpb=1.52, train={"same_artifact": True}),
        again(9, kind="trained", bpb=1.61, train={"same_artifact": False}, date="2026-11-30"),
        again(2),
    ]
    found = standing.reproduced(record(), runs)
    assert (found["times"], found["same_artifact"], found["date"]) == (2, 1, "2026-11-30")
    assert found["bpb_mean"] == pytest.approx(1.565) and found["difference"] == pytest.approx((0.02 + 0.01) / 2)
    nothing = {"times": 0, "same_artifact": 0, "bpb_mean": None, "difference": None, "date": None}
    assert standing.reproduced(record(), []) == nothing


def test_a_failed_audit_is_none(tmp_path):
    folder = add(tmp_path, "pocket", "0001", "baseline")
    row = {"audit": "blind", "verdict": "fail", "detail": "x"}
    for number, changes in enumerate(({"audits": [row]}, {"audits": [row | {"verdict": "pass"}]}, {})):
        change(folder, number, audit="full", certified=True, **changes)
    data = json.loads((folder / "record.json").read_text())
    found = standing.read_scores(lineage.Record("pocket/0001_baseline", folder, data))
    assert [found[row["seed"]]["audited"] for row in data["seeds"]] == [False, True, True]


def test_the_row_before_is_the_best_earlier_one_of_its_kind():
    def made(number: str, mean: float, scope: str = "none", **changes) -> lineage.Record:
        data = {"track": "pocket", "number": number, "scope": scope, "bpb_mean": mean} | changes
        return lineage.Record(f"pocket/{number}_x", Path(), data)

    records = [
        made("0001", 1.5),
        made("0002", 1.4),
        made("0003", 1.1, "stream"),
        made("0004", 1.45),
        made("0005", 1.2, rules=2),
        made("0006", 1.0, track="open"),
        made("0007", 1.3),
        made("0008", 1.6, rules=2),
    ]
    found = [standing.before(record, records) for record in records]
    numbers = [other.data["number"] if other else None for other in found]
    assert numbers == [None, "0001", None, "0002", None, None, "0002", "0005"]


def test_p_is_that_of_golf_prove_with_the_rivals_that_the_record_states():
    survey = standing.survey(ROOT, {})
    row = survey.rows["pocket/0004_case_operators"]
    arms = [
        prove.read_arm(str(ROOT / "records/pocket" / name)) for name in ("0004_case_operators", "0003_stack_and_scorer")
    ]
    [claim] = prove.conclude([prove.compare(*arms, prove.MARGIN, None, 20)], prove.ALPHA)
    found = row["against"]
    assert (found["record"], found["rivals"], found["rivals_stated"]) == ("pocket/0003_stack_and_scorer", 20, True)
    assert (found["p"], found["gain"]) == (claim["p_holm"], claim["gain"]) and found["test"] == "unpaired"
    assert found["proven"] is claim["proven"] is False  # integrity of the first four: one rival was counted then
    assert survey.rows["pocket/0003_stack_and_scorer"]["against"] is None  # the first of scope stream
    assert "not proven over 0003 (unpaired, 20 rivals)" in cells.claim(row)


def test_a_record_with_additions(tmp_path):
    """From files to cells: one score again, one run of a seed of its own, one of a new seed."""
    folder = add(tmp_path, "pocket", "0001", "baseline")
    data = json.loads((folder / "record.json").read_text())
    seed, bpb = data["seeds"][0]["seed"], data["seeds"][0]["bpb"]
    artifact = json.loads((folder / f"eval/seed{seed}.json").read_text())["artifact"]
    hashes = {"bytes": artifact["bytes"], "sha256": artifact["sha256"]}
    for changes in (
        {"kind": additions.SCORED, "train": None, "bpb": bpb, "artifact": hashes},
        {"bpb": bpb + 0.001, "train": TRAIN | {"same_artifact": True}},
        {"bpb": bpb + 0.003, "date": "2026-11-30"},
    ):
        additions.write(folder, example(folder, seed=seed, **changes))
    row = standing.survey(tmp_path, {}).rows["pocket/0001_baseline"]
    assert cells.audited(row) == "1/3, certified 1/3 (again, 2026-11-29)"
    assert cells.reproduced(row) == f"2: {bpb + 0.002:.4f} (+0.0020)"
    assert cells.marks(row) == ["document", "reproduced"]


def test_what_cannot_be_compared_says_why(tmp_path):
    add(tmp_path, "pocket", "0001", "baseline")
    other = add(tmp_path, "pocket", "0002", "other", 0.9)
    shutil.rmtree(other / "eval")
    survey = standing.survey(tmp_path, {})
    found = survey.rows["pocket/0002_other"]["against"]
    assert found["p"] is None and not found["proven"] and "records/pocket/0002_other/eval/seed" in found["problem"]
    assert str(tmp_path) not in found["problem"]
    assert survey.problems() == []  # a record without scores is not broken


def test_nothing_is_computed_twice(tmp_path, monkeypatch):
    """The cache: a second survey compares nothing; a changed score and changed sources are compared again."""
    add(tmp_path, "pocket", "0001", "baseline")
    second = add(tmp_path, "pocket", "0002", "second", 0.99)
    monkeypatch.setattr(remembered, "folder", lambda: tmp_path / "cache")
    counted = []
    compare = prove.compare
    monkeypatch.setattr(prove, "compare", lambda *arguments: counted.append(1) or compare(*arguments))
    first = standing.survey(tmp_path, {}).rows
    assert standing.survey(tmp_path, {}).rows == first and len(counted) == 1
    change(second, 0, device="another")
    standing.survey(tmp_path, {})
    assert len(counted) == 2
    monkeypatch.setattr(remembered, "program", lambda: "another")
    standing.survey(tmp_path, {})
    assert len(counted) == 3


def test_a_cache_that_cannot_be_used_is_no_fault(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(remembered, "folder", lambda: tmp_path / "file")
    assert remembered.recall("kind", ["a"], lambda: {"a": 1}) == {"a": 1}
    monkeypatch.setattr(remembered, "folder", lambda: tmp_path / "cache")
    assert remembered.recall("kind", ["a"], lambda: {"a": (1, 0.1)}) == {"a": [1, 0.1]}
    for path in (tmp_path / "cache").rglob("*.json"):
        path.write_text('{"a": [1')  # cut short
    assert remembered.recall("kind", ["a"], lambda: {"a": 2}) == {"a": 2}
    assert remembered.recall("kind", ["a"], lambda: {"a": 3}) == {"a": 2}
    assert remembered.recall("kind", ["b"], lambda: {"a": 3}) == {"a": 3}
