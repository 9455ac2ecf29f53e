"""golf ladder: its answers against the definition, its rows in the log, and simulations of adaptive search."""

import json
import math

import numpy as np
import pytest

from tools.claims import ladder
from tools.runs import ledger
from tools.runs.store import Ledger

pytestmark = pytest.mark.slow


def test_standard_error_is_that_of_the_bootstrap():
    rng = np.random.default_rng(1)
    size = rng.integers(100, 5000, 400)
    old = size * rng.normal(2, 0.2, 400)
    new = old - size * rng.normal(0.01, 0.05, 400)
    draws = rng.integers(0, 400, (4000, 400))
    naive = np.std((new - old)[draws].sum(1) / size[draws].sum(1))
    assert ladder.standard_error(new, old, size) == pytest.approx(naive, rel=0.05)


def test_only_a_gain_over_the_noise_is_told_and_rounded():
    size = [1000] * 100
    old = [2000.0] * 100
    assert ladder.step(None, old, None, size, 0).released == 2.0
    better = ladder.step(2.0, [1990.3] * 100, old, size, 0)  # no noise: STEP decides
    assert better.new_best and better.released == pytest.approx(1.9905) and better.needed == ladder.STEP
    assert ladder.step(2.0, [1999.6] * 100, old, size, 0) == ladder.Answer(2.0, False, ladder.STEP)
    noisy = [2000 - 10 + (100 if i % 2 else -100) for i in range(100)]  # gain 0.01, standard error 0.01005
    answer = ladder.step(2.0, noisy, old, size, 3)
    assert not answer.new_best and answer.released == 2.0
    # 2.895: the normal quantile of 0.05 * 6 / (4 pi)^2 = 0.0019, from a table
    assert answer.needed == pytest.approx(2.895 * np.std(noisy, ddof=1) / 10 / 1000, rel=0.001)


def climb(rng, with_ladder, steps=300, documents=300):
    """A search that keeps whatever scores better. No change it tries does anything: the true bpb stays at 2.

    Returns the bpb that is told at the end."""
    size = np.full(documents, 1000)
    best = size * (2 + rng.normal(0, 0.2, documents))
    told = start = best.sum() / size.sum()
    for before in range(steps):
        new = best + size * rng.normal(0, 0.05, documents)
        if with_ladder:
            answer = ladder.step(told, list(new), list(best), list(size), before)
            told, keep = answer.released, answer.new_best
        else:
            score = new.sum() / size.sum()
            keep = score < told
            told = min(told, score)
        best = new if keep else best
    return start - told


def test_adaptive_search_wins_on_noise_without_the_ladder_and_not_with_it():
    rng = np.random.default_rng(7)
    plain = np.array([climb(rng, False) for _ in range(40)])
    guarded = np.array([climb(rng, True) for _ in range(40)])
    false_gain = 0.003  # the standard error of one comparison: 0.05 / sqrt(300)
    assert (plain > false_gain).mean() > 0.95
    assert (guarded > false_gain).mean() <= 0.1


def one_shot(rng, with_ladder, variants=50, documents=300):
    """The best of many variants that are no better than the record; says whether a gain was told."""
    size = np.full(documents, 1000)
    record = size * (2 + rng.normal(0, 0.2, documents))
    told = record.sum() / size.sum()
    start = told
    for before in range(variants):
        new = record + size * rng.normal(0, 0.005, documents)
        if with_ladder:
            told = ladder.step(told, list(new), list(record), list(size), before).released
        else:
            told = min(told, new.sum() / size.sum())
    return start - told > ladder.STEP


def test_false_positive_rate_of_the_best_of_many():
    rng = np.random.default_rng(3)
    without = np.mean([one_shot(rng, False) for _ in range(150)])
    with_it = np.mean([one_shot(rng, True) for _ in range(150)])
    assert without > 0.6 and with_it <= 0.1, (without, with_it)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "ROOT", tmp_path)
    monkeypatch.setattr(ladder, "ROOT", tmp_path)
    scores = {}

    def score_file(artifact, data, split, out):
        bpb = scores[artifact.name]
        rows = [{"id": str(i), "raw_bytes": 1000, "nats": 1000 * bpb * math.log(2)} for i in range(20)]
        out.write_text(json.dumps({"bpb": bpb, "per_document": rows, "data": {"docs_sha256": "d", "split": split}}))

    monkeypatch.setattr(ladder, "score_file", score_file)
    (tmp_path / "runs/x").mkdir(parents=True)

    def ask(name, bpb, *more):
        scores[name] = bpb
        (tmp_path / "runs/x" / name).write_text(name)
        return ladder.main(["ask", str(tmp_path / "runs/x" / name), "--track", "pocket", "--json", *more])

    return tmp_path, ask


def test_every_question_is_a_row_and_the_same_artifact_gets_the_same_answer(root, capsys):
    path, ask = root
    answers = []
    for name, bpb in (("a", 1.9), ("b", 1.89991), ("c", 1.88012), ("b", 1.0), ("d", 1.95)):
        assert ask(name, bpb) == 0
        answers.append(json.loads(capsys.readouterr().out.splitlines()[-1])["questions"][0])
    told = [(a["released"], a["new_best"], a["before"]) for a in answers]
    assert told == [
        (pytest.approx(1.9), True, 0),
        (pytest.approx(1.9), False, 1),
        (pytest.approx(1.88), True, 2),
        (pytest.approx(1.9), False, 1),
        (pytest.approx(1.88), False, 3),
    ]
    assert [row["kind"] for row in ladder.questions(path)] == ["question"] * 4
    assert Ledger(path / "runs").verify()[0] == 4
    assert ladder.main(["show"]) == 0
    assert capsys.readouterr().out.count("\n") == 4


def test_final_is_opened_once_and_the_documents_of_the_best_cannot_be_swapped(root, capsys):
    path, ask = root
    assert ask("a", 1.9, "--split", "final") == 0 and ask("a", 1.7, "--split", "final") == 0
    assert "1.9000 bpb; the final split is opened once" in capsys.readouterr().out
    assert len(ladder.questions(path)) == 1
    assert ask("a", 1.9) == 0
    [kept] = (path / "runs/questions").glob("gate_*.json")
    kept.write_text(kept.read_text() + " ")
    assert ask("b", 1.8) == 1
    assert "missing or edited" in capsys.readouterr().err
    assert ladder.main(["ask", str(path / "none.golf"), "--track", "pocket"]) == 1


def test_a_file_that_cannot_be_used_is_one_line(root, capsys):
    path, ask = root
    (path / "runs/ledger.jsonl").mkdir()
    assert ask("a", 1.9) == 1
    assert capsys.readouterr().err.startswith(f"golf ladder: {path}/runs/ledger.jsonl: a link, or not a regular file")
