"""golf ladder: its answers against the definition, its rows in the log, and simulations of adaptive search."""

import contextlib
import hashlib
import json
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from golf import locks
from golf.files import Failure, sha256_file
from scoring import score
from tools.claims import ladder
from tools.runs import ledger
from tools.runs.store import Ledger

pytestmark = pytest.mark.slow

NOTE = {"kind": "note", "run": "x", "hypothesis": "h", "verdict": "", "who": "human"}


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
    (tmp_path / "runs/x").mkdir(parents=True)
    scores = {}

    def score_in_memory(artifact, data, split):
        bpb = scores[artifact.name]
        if isinstance(bpb, BaseException):
            raise bpb
        rows = [{"id": str(i), "raw_bytes": 1000, "nats": 1000 * bpb * math.log(2)} for i in range(20)]
        about = {"sha256": sha256_file(artifact)}
        return {"bpb": bpb, "per_document": rows, "data": {"docs_sha256": "d", "split": split}, "artifact": about}

    def read_artifact(path):
        if not os.path.exists(path):
            raise Failure(f"{path}: no such file")
        return None, None, {"sha256": sha256_file(Path(path))}

    monkeypatch.setattr(ladder, "score_in_memory", score_in_memory)
    monkeypatch.setattr(score, "read_artifact", read_artifact)
    monkeypatch.setattr(score, "read_documents", lambda data, split: ([], {"docs_sha256": "d"}))

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
    assert [row["kind"] for row in ladder.read_rows(path)] == ["asked", "question"] * 4
    assert Ledger(path / "runs").verify()[0] == 8
    assert ladder.main(["show"]) == 0
    assert capsys.readouterr().out.count("\n") == 4
    # Only what later questions are compared with is kept: the score of the others says what the ladder does not
    best = {f"gate_{hashlib.sha256(name).hexdigest()}.json" for name in (b"a", b"c")}
    assert {file.name for file in (path / "runs/questions").iterdir()} == best
    assert not (path / "runs/ladder.lock").exists()


@pytest.mark.parametrize("end", [KeyboardInterrupt(), Failure("no score")])
def test_what_was_asked_and_not_answered_counts_and_leaves_no_score(root, capsys, end):
    """As a killed question does: it ends after "asked" was logged, and before there is an answer."""
    path, ask = root
    assert ask("a", 1.9) == 0
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt) if isinstance(end, KeyboardInterrupt) else contextlib.nullcontext():
            assert ask("b", end) == 1
    assert [row["kind"] for row in ladder.read_rows(path)] == ["asked", "question", "asked"]
    assert len(list((path / "runs/questions").iterdir())) == 1
    capsys.readouterr()
    assert ladder.main(["show"]) == 0
    assert (
        capsys.readouterr().out.splitlines()[-1].endswith("asked, and not answered: it was stopped, or is being scored")
    )
    assert ask("c", 1.95) == 0 and ask("b", 1.8) == 0
    rows = [json.loads(line)["questions"][0] for line in capsys.readouterr().out.splitlines() if line[0] == "{"]
    assert [(row["before"], row["released"]) for row in rows] == [(2, pytest.approx(1.9)), (1, pytest.approx(1.8))]
    assert ladder.unanswered(path) == []


def kill_at(place: str) -> None:
    """From now on this process kills itself at a place of a question."""

    def kill(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    append = Ledger.append
    if place in ("asked", "question"):  # right before the row is on the log
        Ledger.append = lambda book, rows: kill() if rows[0]["kind"] == place else append(book, rows)
    elif place == "score":
        ladder.score_in_memory = kill
    elif place == "judge":  # with the score in memory
        ladder.answer_to = kill
    else:  # while the score of a new best is written
        os.replace = kill


@pytest.mark.parametrize("place", ["asked", "score", "judge", "write", "question"])
def test_a_killed_question_is_on_the_log_and_its_score_nowhere(root, place):
    """kill -9 at each step. What was judged and not told is gone with the next question, whatever that is about."""
    path, ask = root
    assert ask("a", 1.9) == 0
    child = os.fork()
    if not child:
        kill_at(place)
        ask("b", 1.234567)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    was_asked = place != "asked"
    assert [row["kind"] for row in ladder.read_rows(path)] == ["asked", "question", "asked"][: 2 + was_asked]

    def holds_score() -> bool:
        return any(b"1.2345" in file.read_bytes() for file in path.rglob("*") if file.is_file())

    assert holds_score() == (place in ("write", "question"))  # judged: it is a new best, whose score is kept
    assert ask("c", 1.95) == 0 and not holds_score()
    assert ask("b", 1.234567) == 0
    assert [row["before"] for row in ladder.questions(path)] == ([0, 2, 1] if was_asked else [0, 1, 2])
    assert [row["new_best"] for row in ladder.questions(path)] == [True, False, True]
    assert {file.name for file in (path / "runs").iterdir()} == {"x", "questions", "ledger.jsonl", "ledger.sqlite"}
    assert len(list((path / "runs/questions").iterdir())) == 2


def test_while_it_scores_the_question_is_on_the_log_and_no_lock_but_its_own_is_held(root, monkeypatch):
    """Whoever looks from outside sees the row and no score, can write into the log, and waits to ask."""
    path, ask = root
    real, seen = ladder.score_in_memory, []

    def look(*arguments):
        result = real(*arguments)
        seen.append([row["kind"] for row in Ledger(path / "runs").append([NOTE]) + ladder.read_rows(path)])
        assert not any(b"1.2345" in file.read_bytes() for file in path.rglob("*") if file.is_file())

        def busy():
            raise Failure("somebody else asks")

        with pytest.raises(Failure, match="somebody else asks"), locks.held(path / "runs/ladder.lock", busy):
            pass
        return result

    monkeypatch.setattr(ladder, "score_in_memory", look)
    assert ask("a", 1.234567) == 0 and seen == [["note", "asked"]]
    assert (path / "runs/questions").stat().st_mode & 0o777 == 0o700


def test_a_killed_question_does_not_make_the_same_on_other_documents_free(root, monkeypatch, capsys):
    """Else each artifact, asked on any documents first and killed, would be the first to be asked on the true ones."""
    path, ask = root
    real = ladder.score_in_memory

    def on(docs: str, score_in_memory) -> None:
        monkeypatch.setattr(score, "read_documents", lambda data, split: ([], {"docs_sha256": docs}))
        monkeypatch.setattr(ladder, "score_in_memory", score_in_memory)

    def stop(*_):
        raise Failure("stopped")

    names = ["a", "b", "c"]
    on("other", stop)
    assert [ask(name, 1.9) for name in names] == [1, 1, 1]
    on("d", stop)
    assert [ask(name, 1.9) for name in names] == [1, 1, 1]
    assert [row["docs"] for row in ladder.unanswered(path)] == ["other"] * 3 + ["d"] * 3
    on("d", real)
    assert ask("c", 1.9) == 0
    assert [row["docs"] for row in ladder.unanswered(path)] == ["other"] * 3 + ["d"] * 2
    [row] = ladder.questions(path)
    assert (row["docs"], row["before"]) == ("d", 5)
    on("other", real)  # an artifact has one answer, whatever else it is asked on
    assert ask("c", 1.5) == 0 and ladder.questions(path) == [row]
    assert ", asked before" in capsys.readouterr().out


def test_answers_of_older_versions_go_on(root):
    """They have no row "asked", and the kept score is that of every model."""
    path, ask = root
    assert ask("a", 1.9) == 0
    book = path / "runs/ledger.jsonl"
    [answer] = [row for row in ladder.read_rows(path) if row["kind"] == "question"]
    for name in ("ledger.jsonl", "ledger.sqlite"):
        (path / "runs" / name).unlink()
    old = {key: value for key, value in answer.items() if key not in ("n", "time", "previous", "hash")}
    Ledger(path / "runs").append([old])
    assert book.read_text().count("\n") == 1
    assert ask("a", 1.0) == 0 and book.read_text().count("\n") == 1
    assert ask("b", 1.8) == 0
    assert [(row["before"], row["new_best"]) for row in ladder.questions(path)] == [(0, True), (1, True)]


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
