"""golf par: the ratio against one that is found by training token by token, its interval against simulated machines,
and the command on stand-in scripts. What the real scripts take is measured by people."""

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest

from golf import schema
from golf.__main__ import main as golf
from golf.files import Failure
from tests.support import timed_script
from tools.plan import par, trainers

TOKENS = 40 * par.TURNS * par.TURN_TOKENS
QUIET = np.ones(40, bool)


def trained_in_the_time_of_the_baseline(baseline: float, script: float, calibration: tuple[float, float]) -> float:
    """Tokens over PAR, by a walk in steps of 1,000 tokens; arguments: seconds a token, and seconds of calibration."""
    left = par.POCKET.par_tokens * baseline + calibration[0] - calibration[1]
    tokens = 0
    while left >= 1000 * script:
        left, tokens = left - 1000 * script, tokens + 1000
    return tokens / par.POCKET.par_tokens


@pytest.mark.parametrize(
    "baseline, script, calibration", [(60e-6, 30e-6, (20.0, 20.0)), (60e-6, 25e-6, (20.0, 50.0)), (1e-4, 1e-4, (1, 0))]
)
def test_ratio_is_what_the_baselines_time_allows(baseline, script, calibration):
    seconds = np.tile([baseline * TOKENS / 40, script * TOKENS / 40], (40, 1))
    result = par.conclude(seconds, QUIET, calibration, (TOKENS, TOKENS))
    expected = trained_in_the_time_of_the_baseline(baseline, script, calibration)
    assert result["ratio"] == pytest.approx(expected, abs=2e-4)
    assert result["low"] == pytest.approx(result["ratio"]) == pytest.approx(result["high"])


def test_interval_holds_the_true_ratio_as_often_as_it_says():
    """Machines whose speed wanders, and a script whose later stage is slower: both must not spoil the interval."""
    rng = np.random.default_rng(7)
    held, widths = 0, []
    trials = 400
    for _ in range(trials):
        machine = np.exp(np.cumsum(rng.normal(0, 0.03, 40)))[:, None]  # hits both sides of a round alike
        stage = np.where(np.arange(40) < 28, 0.9, 1.2)
        true = np.stack([np.full(40, 2.0), stage], axis=1)
        seconds = true * machine * rng.lognormal(0, 0.04, (40, 2))
        result = par.conclude(seconds, QUIET, (0.0, 0.0), (TOKENS, TOKENS))
        # What the whole run takes is weighted by the machine's speed at the time, for both sides alike
        expected = (true[:, 0] * machine[:, 0]).sum() / (true[:, 1] * machine[:, 0]).sum()
        held += result["low"] <= expected <= result["high"]
        widths.append((result["high"] - result["low"]) / result["ratio"])
    assert 0.91 <= held / trials <= 0.995
    assert np.median(widths) < 0.06  # about 2 * 2.05 * 0.04 * sqrt(2 / 40)


def test_disturbed_rounds_do_not_change_the_ratio():
    """Beside another program the script loses more than the baseline: in 8 rounds of 40, three of them at the end."""
    rng = np.random.default_rng(3)
    true = np.stack([np.full(40, 2.0), np.where(np.arange(40) < 28, 0.9, 1.2)], axis=1) * rng.lognormal(
        0, 0.02, (40, 2)
    )
    disturbed = np.isin(np.arange(40), [5, 6, 7, 8, 20, 37, 38, 39])
    seconds = np.where(disturbed[:, None], true * [1.5, 2.5], true)
    others = np.where(disturbed[:, None], 0.4 * seconds, 0.02 * seconds)

    quiet = par.quiet_rounds(seconds, others)
    assert quiet.tolist() == (~disturbed).tolist()
    found = par.conclude(seconds, quiet, (0.0, 0.0), (TOKENS, TOKENS))
    expected = true[:, 0].sum() / true[:, 1].sum()
    assert found["ratio"] == pytest.approx(expected, rel=0.02) and found["low"] < expected < found["high"]
    assert found["rounds"] == 32

    spoiled = par.conclude(seconds, QUIET, (0.0, 0.0), (TOKENS, TOKENS))
    assert abs(spoiled["ratio"] / expected - 1) > 0.1


@pytest.mark.parametrize("rounds, disturbed", [(40, 11), (20, 1), (100, 26)])
def test_a_machine_that_is_busy_most_of_the_time_gives_no_result(rounds, disturbed):
    seconds = np.full((rounds, 2), 2.0)
    others = np.zeros((rounds, 2))
    others[:disturbed, 0] = 0.5
    with pytest.raises(Failure, match=f"more than 10% of a core in {disturbed} of {rounds} rounds"):
        par.quiet_rounds(seconds, others)
    others[0] = 0
    if rounds > 20:
        assert par.quiet_rounds(seconds, others).sum() == rounds - disturbed + 1


def test_turns_go_in_changing_order_and_all_steps_are_timed():
    calls = []

    def trainer(name, steps):
        turn = lambda n: calls.append((name, n)) or (0.25 if n else 5.0)  # noqa: E731
        return SimpleNamespace(name=name, steps=steps, others={"a": 0.5, "b": 0.25}[name], turn=turn)

    seconds, others = par.time_turns(trainer("a", 12), trainer("b", 10), 4, lambda: None)
    assert others[0].tolist() == [0.5, 0.25] and others[-1].tolist() == [1.0, 0.5]
    assert [name for name, _ in calls[:-2]] == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert sum(n for name, n in calls if name == "a") == 12 and sum(n for name, n in calls if name == "b") == 10
    assert calls[-2:] == [("a", 0), ("b", 0)] and seconds[-1].tolist() == [5.25, 5.25]
    with pytest.raises(Failure, match="b: a step of so many tokens"):
        par.time_turns(trainer("a", 12), trainer("b", 3), 4, lambda: None)


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """A stand-in for the baseline is in place; returns the folder, and the path of another script."""
    data = tmp_path / "data/set"
    data.parent.mkdir()
    monkeypatch.setattr(par, "ROOT", tmp_path)
    monkeypatch.setattr(par, "BASELINE", timed_script.write(tmp_path / "baseline.py", data))
    monkeypatch.setattr(trainers, "busy_seconds", lambda: 0.0)  # other tests run meanwhile
    return timed_script.write(tmp_path / "script.py", data)


def test_the_result_is_the_par_of_a_record(scripts, capsys):
    assert golf(["par", str(scripts), "--rounds=20", "--trust", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["rounds"] == 20 and 0 < result["ratio"]
    properties = schema._validator("record").schema["properties"]["par"]
    assert set(result) == set(properties["required"])
    assert result["processor_class"] in properties["properties"]["processor_class"]["enum"]


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda text: text.replace("    max_steps: int = 0\n", ""), "its Config has no max_steps"),
        (lambda text: text.replace("class Clock", "class Watch"), "has no Clock"),
        (lambda text: text.replace("/data/set", "/data/none"), "no such data set here"),
        (lambda text: text.replace("/data/set", "/data/set/../.."), "not a data set in data/"),
        (lambda text: text.replace("/data/set", "/data"), "not a data set in data/"),
        (lambda text: text.replace("/data/set", ""), "not a data set in data/"),
    ],
)
def test_a_script_that_cannot_be_timed_is_one_line(scripts, change, says, capsys):
    scripts.write_text(change(scripts.read_text()))
    assert golf(["par", str(scripts), "--rounds=20", "--trust"]) == 1
    error = capsys.readouterr().err
    assert says in error and len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "name, preset, says",
    [
        ("none.py", "pocket", "none.py: cannot read it"),
        ("notes.md", "pocket", "notes.md: not Python"),
        ("script.py", "huge", "script.py: PRESETS has no dict for 'huge'"),
    ],
)
def test_a_wrong_argument_is_told_before_anything_compiles(scripts, name, preset, says, capsys, monkeypatch):
    (scripts.parent / "notes.md").write_text("It's a text.")
    monkeypatch.setattr(par, "trainers", None)
    assert golf(["par", str(scripts.parent / name), f"--preset={preset}"]) == 1
    assert says in capsys.readouterr().err


SHORTER = {
    "a schedule that ends at half of max_tokens": lambda text: text.replace(
        "return [Stage(0.5, config.batch_tokens), Stage(1.0, 2 * config.batch_tokens)]",
        "return [Stage(0.5, config.batch_tokens)]",
    ),
    "steps of half of batch_tokens": lambda text: (
        text.replace(
            "return [Stage(0.5, config.batch_tokens), Stage(1.0, 2 * config.batch_tokens)]",
            "return [Stage(1.0, config.batch_tokens // 2)]",
        )
        .replace("    max_tokens: int = 0\n", "")
        .replace("config.max_tokens or config.max_steps * config.batch_tokens", "config.max_steps * stage.tokens")
    ),
}


@pytest.mark.parametrize(
    "change",
    [
        "a schedule that ends at half of max_tokens",
        pytest.param("steps of half of batch_tokens", marks=pytest.mark.long),
    ],
)
def test_a_script_that_trains_on_fewer_tokens_than_it_may_is_not_faster_for_it(scripts, change, monkeypatch):
    """Its run takes half of the time, since it trains on half of the tokens."""
    scripts.write_text(SHORTER[change](scripts.read_text()))
    seen = []
    monkeypatch.setattr(par, "conclude", lambda *words: seen.append(words[-1]) or {"ratio": 1.0})
    par.measure(scripts, rounds=20, trust=True)
    [(baseline, script)] = seen
    [limit] = {20 * par.TURNS * par.TURN_TOKENS}
    assert script == limit // 2 and baseline == limit
    half = {"ratio": 1.0, "low": 1.0, "high": 1.0, "rounds": 20}
    monkeypatch.undo()
    found = par.conclude(np.tile([2.0, 1.0], (20, 1)), QUIET[:20], (0.0, 0.0), (baseline, script))
    assert found == pytest.approx(half)


def test_a_busy_machine_is_one_line(scripts, capsys, monkeypatch):
    """One on which other programs take two cores all the time."""
    monkeypatch.setattr(trainers, "busy_seconds", lambda: 2 * time.monotonic())
    assert golf(["par", str(scripts), "--rounds=20", "--trust"]) == 1
    error = capsys.readouterr().err
    assert "other programs took" in error and len(error.strip().splitlines()) == 1


def test_few_rounds_are_refused(scripts, capsys):
    with pytest.raises(SystemExit):
        golf(["par", str(scripts), "--rounds=3"])
    assert "at least 20" in capsys.readouterr().err


def test_scripts_without_a_limit_of_tokens_end_by_steps():
    old = {"max_steps": 0, "max_seconds": 600.0, "batch_tokens": 4096, "dev_evals": 4}
    assert par.limits(old, 81_920) == ["--max_seconds=0", "--dev_evals=1", "--max_steps=20"]
    new = old | {"max_tokens": 9, "checkpoint_every": 1000}
    assert set(par.limits(new, 81_920)) == {
        "--max_seconds=0", "--checkpoint_every=0", "--dev_evals=1", "--max_tokens=81920", "--max_steps=0"
    }  # fmt: skip
