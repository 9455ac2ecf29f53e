"""golf sweep on this machine, with the real tools and stand-ins for the stages (tests/support/sweep_tree.py).

Resuming, crashes, losers, Ctrl-C; the spec's errors; the search against an uninterrupted one. Slurm has a file of its
own. Not covered: the stages themselves (tests/train/test_tiny.py runs them).
"""

import dataclasses
import json
import os
import signal
import tomllib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import train_gpt
from golf.__main__ import main as golf
from golf.files import Failure
from tests.support import ROOT, sweep_tree
from tools.sweep import engine
from tools.sweep import spec as spec_module
from tools.sweep.spec import TYPES, Grid, Script, Study, arguments, check_fields, check_range, check_seeds, read_spec

DEFAULTS = {
    "lr": 0.04,
    "width": 64,
    "tied": True,
    "act": "relu",
    "preset": "pocket",
    "max_seconds": 600.0,
    "data_dir": "data/embedded",
}


@pytest.fixture
def tree(tmp_path):
    yield sweep_tree.build(tmp_path)
    sweep_tree.stop_all()


def statuses(result: dict) -> dict:
    """How the runs ended, by the activation of their configuration."""
    return {each["values"]["act"]: run["status"] for each in result["configurations"] for run in each["runs"]}


def test_a_grid_runs_once_is_ranked_and_is_on_the_log(tree):
    spec = dict(seeds=[1, 2], parallel=2, space={"lr": [0.08, 0.04], "width": [64, 50]})
    shown = sweep_tree.end(sweep_tree.start(tree, "--dry-run", **spec))
    assert "4 trials" not in shown["text"] and "8 trials, 4 of them refused" in shown["text"]
    assert "refused  --lr=0.08 --width=50: --width must be a multiple of 32" in shown["text"]
    assert not list((tree / "runs").glob("test-*")) and sweep_tree.calls(tree) == []

    result = sweep_tree.end(sweep_tree.start(tree, **spec))
    expected = {(0.08, 1): 2.991, (0.08, 2): 2.992, (0.04, 1): 1.991, (0.04, 2): 1.992}
    good = [each for each in result["configurations"] if each["error"] is None]
    found = {(each["values"]["lr"], run["seed"]): round(run["value"], 6) for each in good for run in each["runs"]}
    assert found == expected
    assert {each["error"] for each in result["configurations"]} == {None, "--width must be a multiple of 32"}
    lines = [line.split() for line in result["text"].splitlines() if line.startswith((" test-", " #"))]
    assert [line[1] for line in lines] == ["1.9915", "2.9915", "-", "-"]  # means, the best first
    assert result["best"] == next(
        run["run"]
        for each in good
        for run in each["runs"]
        if run["value"] == min(run["value"] for run in result["runs"].values())
    )

    calls = sweep_tree.calls(tree)
    assert sorted(call[0] for call in calls) == sorted(
        ["__main__.py"] * 4 + ["eval_heldout.py"] * 4 + [f"{result['code']}.py"] * 4
    )
    scored = [call for call in calls if call[0] == "eval_heldout.py"]
    assert all(call[2:] == ["--data", "data/embedded", "--split", "dev"] for call in scored)
    assert not any(word in part for call in calls for part in call for word in ("gate", "final"))
    notes = sweep_tree.rows(tree, "note")
    assert {(row["run"], row["sweep"], row["hypothesis"], row["who"]) for row in notes} == {
        (run, "test", sweep_tree.SPEC["hypothesis"], "agent") for run in result["runs"]
    }
    assert sorted(row["run"] for row in sweep_tree.rows(tree, "score")) == sorted(result["runs"])

    log = (tree / "runs/ledger.jsonl").read_bytes()
    again = sweep_tree.end(sweep_tree.start(tree, **spec | {"name": "other"}))  # another sweep, the same trials
    assert sweep_tree.calls(tree) == [] and (tree / "runs/ledger.jsonl").read_bytes() == log
    assert sorted(run["held_by"] for run in again["runs"].values()) == sorted(result["runs"])
    (tree / "train_gpt.py").write_text((tree / "train_gpt.py").read_text() + "# another script\n")
    changed = sweep_tree.end(sweep_tree.start(tree, "--dry-run", **spec))
    assert {run["status"] for run in changed["runs"].values()} == {"planned"}


def test_what_fails_stays_failed_and_what_was_killed_runs_again(tree):
    spec = dict(parallel=3, objective="dev_estimate", space={"act": ["relu", "nan", "kill"]})
    result = sweep_tree.end(sweep_tree.start(tree, **spec))
    assert statuses(result) == {"relu": "done", "nan": "failed", "kill": "crash"}
    assert {row["run"] for row in sweep_tree.rows(tree, "crash")} == {
        run["run"] for run in result["runs"].values() if run["status"] != "done"
    }
    [note] = [row for row in sweep_tree.rows(tree, "note") if "outcome" in row]
    assert (note["outcome"], note["verdict"], note["error"]) == (
        "failed",
        "crash",
        "train: train_gpt.py: the loss is nan at step 1",
    )
    pids = [int((tree / "runs" / run / "starts").read_text().split()[0]) for run in result["runs"]]
    sweep_tree.wait_for(lambda: not any(map(sweep_tree.is_alive, pids)), "the script to die with its worker", 20)

    sweep_tree.calls(tree)
    result = sweep_tree.end(sweep_tree.start(tree, **spec))
    assert statuses(result) == {"relu": "done", "nan": "failed", "kill": "done"}
    assert [call[0] for call in sweep_tree.calls(tree)] == [f"{result['code']}.py"]


def test_a_loser_is_stopped_and_its_other_seeds_are_skipped(tree):
    spec = dict(
        seeds=[1, 2],
        objective="dev_estimate",
        space={"lr": [0.04, 0.64]},
        fixed={"preset": "pocket", "max_steps": 200, "step_seconds": 0.2},
    )  # 40 s for the second, to its end
    result = sweep_tree.end(sweep_tree.start(tree, **spec))
    assert [run["status"] for run in result["runs"].values()] == ["done", "done", "stopped", "skipped"]
    [loser] = [run for run in result["runs"].values() if run["status"] == "stopped"]
    run = json.loads((tree / "runs" / loser["run"] / "run.json").read_text())
    assert run["stopped"] == "sigterm" and 0 < run["steps"] < 200
    [note] = [row for row in sweep_tree.rows(tree, "note") if "outcome" in row]
    assert note["verdict"] == "discard" and note["stop"]["dev_bpb"] > note["stop"]["best_dev_bpb"] + 0.05
    sweep_tree.calls(tree)
    again = sweep_tree.end(sweep_tree.start(tree, **spec))
    assert [run["status"] for run in again["runs"].values()] == ["done", "done", "stopped", "skipped"]
    assert sweep_tree.calls(tree) == []


def test_ctrl_c_stops_the_trial_in_order_and_it_runs_again(tree):
    spec = dict(objective="dev_estimate", space={"act": ["hold"]})
    process = sweep_tree.start(tree, **spec)
    [starts] = sweep_tree.wait_for(lambda: list((tree / "runs").glob("test-*/starts")), "the trial to start")
    sweep_tree.wait_for(lambda: starts.read_text().endswith("\n"), "its first line")
    second = sweep_tree.end(sweep_tree.start(tree, **spec), code=1)
    assert "running already" in second["errors"] and second["errors"].count("\n") == 1
    process.send_signal(signal.SIGINT)
    assert "start it again" in sweep_tree.end(process, code=130)["errors"]
    assert json.loads((starts.parent / "run.json").read_text())["stopped"] == "sigterm"
    (tree / "go").touch()
    result = sweep_tree.end(sweep_tree.start(tree, **spec))
    assert statuses(result) == {"hold": "done"} and len(starts.read_text().splitlines()) == 2


# ---------------------------------------------------------------------------------------------------------- the search


def study(tmp_path, storage, seed=3, search="optuna", trials=40):
    space = {
        "lr": {"low": 0.001, "high": 1.0, "log": True},
        "width": {"low": 32, "high": 256, "step": 32},
        "tied": [True, False],
    }
    path = sweep_tree.write_spec(tmp_path / "s.toml", search=search, trials=trials, space={"lr": [1.0]})
    spec = dataclasses.replace(read_spec(path), space=space, search_seed=seed)
    return Study(spec, DEFAULTS, storage, ["code"])


def tell(search, number):
    point = search.point(number)
    distance = abs(np.log2(point["lr"] / 0.04))
    outcome = "stopped" if number % 7 == 3 else "failed" if number % 7 == 5 else "done"
    search.tell(number, outcome, float(distance) if outcome == "done" else None)
    return point


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_an_interrupted_search_goes_on_as_if_it_had_not_been(tmp_path, search):
    whole = study(tmp_path, None, search=search)
    expected = [tell(whole, number) for number in range(25)]
    found = []
    for first, last in ((0, 6), (6, 17), (17, 25)):
        part = study(tmp_path, tmp_path / "study.log", search=search)
        assert [part.point(number) for number in range(first)] == found
        part.point(first)  # drawn, and then the sweep was killed before its trial ended
        part = study(tmp_path, tmp_path / "study.log", search=search)
        found += [tell(part, number) for number in range(first, last)]
    assert found == expected
    assert len({point["lr"] for point in found}) == 25 and {point["tied"] for point in found} == {True, False}
    assert all(isinstance(point["width"], int) and point["width"] % 32 == 0 for point in found)
    assert [study(tmp_path, None, 4, search).point(0)] != expected[:1]


def test_tpe_learns_from_what_it_is_told(tmp_path):
    """Of the same function, later TPE points lie nearer to the optimum than random ones."""
    later = {}
    for search in ("random", "optuna"):
        drawn = [study(tmp_path, None, seed, search) for seed in range(3)]
        points = [[tell(each, number)["lr"] for number in range(40)][20:] for each in drawn]
        later[search] = np.abs(np.log2(np.array(points) / 0.04))
    assert np.mean(later["optuna"]) < 0.8 * np.mean(later["random"])


def test_grid_is_every_combination_in_order(tmp_path):
    path = sweep_tree.write_spec(tmp_path / "s.toml", space={"lr": [1.0, 2.0], "tied": [True, False]})
    grid = Grid(read_spec(path))
    assert [tuple(grid.point(i).values()) for i in range(len(grid))] == [
        (1.0, True),
        (1.0, False),
        (2.0, True),
        (2.0, False),
    ]


curves = st.lists(
    st.tuples(st.floats(0.01, 1), st.floats(0.5, 8)), min_size=1, max_size=8, unique_by=lambda point: point[0]
).map(sorted)


@given(curves, curves, st.floats(0.001, 2))
def test_losers_are_told_from_the_best_curve_as_numpy_interpolates_it(curve, best, margin):
    x, y = curve[-1]
    level = np.interp(x, *zip(*best))
    before = x < best[0][0]
    assert engine.at_fraction(best, x) == (None if before else pytest.approx(level))
    if abs(y - level - margin) > 1e-9:
        assert engine.is_loser(curve, best, margin) == (not before and y > level + margin)
    assert not engine.is_loser([], best, margin) and not engine.is_loser(curve, [], margin)


def test_fraction_is_by_clock_or_steps_whichever_is_further():
    rows = [
        {"step": 5, "elapsed": 30.0, "dev_bpb": 2.0},
        {"step": 8, "elapsed": 40.0},
        {"step": 9, "elapsed": 80.0, "dev_bpb": 1.9},
    ]
    assert engine.dev_curve(rows, {"max_seconds": 100.0, "max_steps": 0}) == [(0.3, 2.0), (0.8, 1.9)]
    assert engine.dev_curve(rows, {"max_seconds": 100.0, "max_steps": 10}) == [(0.5, 2.0), (0.9, 1.9)]
    assert engine.dev_curve(rows, {"max_seconds": 0.0, "max_steps": 10}) == [(0.5, 2.0), (0.9, 1.9)]


# ------------------------------------------------------------------------------------------------------------ the spec


@pytest.mark.parametrize(
    "changes, found",
    [
        ({"space": {"wdith": [64]}}, "no field 'wdith': did you mean width?"),
        ({"fixed": {"preset": "pocket", "lrr": 1.0}}, "[fixed] Config has no field 'lrr'"),
        ({"space": {"lr": ["high"]}}, "[space] lr: 'high' is not a float"),
        ({"space": {"width": [64, 64.5]}}, "[space] width: 64.5 is not a int"),
        ({"space": {"tied": [0, 1]}}, "[space] tied: 0 is not a bool"),
        ({"space": {"width": [True]}}, "True is not a int"),
        ({"space": {"lr": 0.04}}, "a list of values"),
        ({"space": {"seed": [1, 2]}}, "seeds"),
        ({"fixed": {"preset": "pocket", "run_dir": "x"}}, "run_dir"),
        ({"space": {}}, "[space] has no field"),
        ({"fixed": {}}, "needs a preset"),
        ({"fixed": {"preset": "pocket", "lr": 1.0}}, "in [fixed] and in [space]: lr"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"seeds": [1, "2"]}, "seeds"),
        ({"seeds": 1}, "seeds"),
        ({"search": "tpe"}, "choose one of grid, random, optuna"),
        ({"search": "random"}, "trials"),
        ({"trials": 3}, "trials"),
        ({"objectiv": "packed"}, "no key 'objectiv': did you mean objective?"),
        ({"parallel": 0}, "at least 1"),
        ({"stop_margin": -1}, "stop_margin"),
        ({"name": "a/b"}, "name"),
        ({"name": "A"}, "name"),
        ({"hypothesis": " "}, "hypothesis"),
        ({"who": "me"}, "choose one of person"),
        ({"split": "gate"}, "dev only"),
        ({"objective": "final"}, "dev only"),
        ({"split": "dev"}, "dev only"),
        ({"fixed": {"preset": "pocket", "data_dir": "data/gate"}}, "dev only"),
        ({"space": {"data_dir": ["data/embedded", "x/final_docs"]}}, "dev only"),
        ({"space": {"data_dir": ["a\0b"]}}, "a character that cannot be shown"),
        ({"space": {"lr": [2**70]}}, "space.lr.0: an integer of 2^64 or more"),
        ({"space": {"lr": [0.1] * 400, "width": [64] * 300}}, "120,000 configurations and their seeds: at most"),
        ({"search": "random", "trials": 2**63}, "at most 100,000 runs"),
        ({"parallel": 2**40}, "at most 1,000"),
        ({"slurm": {"setup": ["touch x"]}}, "no setting of a sweep file may run a command"),
    ],
)
def test_a_bad_spec_is_one_clear_failure(tmp_path, changes, found):
    path = sweep_tree.write_spec(tmp_path / "s.toml", **{"space": {"lr": [0.04]}} | changes)
    with pytest.raises(Failure) as failure:
        check_fields(read_spec(path), DEFAULTS)
    assert found in str(failure.value) and str(path) in str(failure.value) and "\n" not in str(failure.value)


@pytest.mark.parametrize(
    "entry, search, found",
    [
        ({"low": 1.0, "high": 2.0}, "grid", "a list"),
        ({"low": 1.0}, "random", "low and high"),
        ({"low": 2.0, "high": 1.0}, "random", "low < high"),
        ({"low": 0.0, "high": 1.0, "log": True}, "random", "low > 0"),
        ({"low": 1.0, "high": 2.0, "log": 1}, "random", "true or false"),
        ({"low": "a", "high": 2}, "optuna", "float"),
        ({"low": 1, "high": 2, "stepp": 1}, "optuna", "low and high"),
        ({"low": 1, "high": float("inf")}, "optuna", "float"),
    ],
)
def test_a_bad_range_is_one_clear_failure(entry, search, found):
    with pytest.raises(Failure, match=found):
        check_range("lr", entry, float, search)
    with pytest.raises(Failure):
        check_range("tied", {"low": 0, "high": 1}, bool, "random")


def test_the_spec_that_help_shows_is_a_good_one(tmp_path):
    lines = [line[4:] for line in spec_module.__doc__.splitlines() if line.startswith("    ") or not line]
    (tmp_path / "s.toml").write_text("\n".join(lines))
    defaults = {f.name: f.default for f in dataclasses.fields(train_gpt.Config)}
    check_fields(read_spec(tmp_path / "s.toml"), defaults)
    assert set(tomllib.loads((tmp_path / "s.toml").read_text())) == set(TYPES)  # none is left out


def test_words_that_only_look_like_splits_are_fine(tmp_path):
    path = sweep_tree.write_spec(
        tmp_path / "s.toml", hypothesis="A gate on the final layer helps.", space={"act": ["gated", "finale"]}
    )
    assert read_spec(path).space == {"act": ["gated", "finale"]}


def test_a_byte_order_mark_is_no_part_of_a_spec(tmp_path):
    path = sweep_tree.write_spec(tmp_path / "s.toml", space={"act": ["gated"]})
    plain = read_spec(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_spec(path) == plain


@pytest.mark.parametrize(
    "text", ["name = ", "\xff", None, "trials = " + "9" * 5000, "x = " + "[" * 100_000, "x" * 2**20 + " = 1", "\0"]
)
def test_an_unreadable_spec_is_one_line(tmp_path, capsys, monkeypatch, text):
    path = tmp_path / "s.toml"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    monkeypatch.chdir(ROOT)
    assert golf(["sweep", str(path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_the_real_script_answers_what_its_own_parser_does(monkeypatch, tmp_path):
    monkeypatch.setattr(
        os,
        "environ",
        {
            key: value
            for key, value in os.environ.items()
            if key.lower() not in {f.name for f in dataclasses.fields(train_gpt.Config)}
        },
    )
    script = Script(ROOT / "train_gpt.py", ROOT)
    try:
        assert script.defaults == {f.name: f.default for f in dataclasses.fields(train_gpt.Config)}
        values = {"preset": "tiny", "mlp_mult": 3, "compile": False}
        argv = ["--preset=tiny", "--mlp_mult=3", "--compile=false"]
        assert arguments(values) == argv
        assert script.resolve(values) == dataclasses.asdict(train_gpt.parse_config(argv, {}))
        with pytest.raises(Failure, match="even multiple of --num_heads"):
            script.resolve({"preset": "tiny", "num_heads": 3})
        with pytest.raises(Failure, match="--num_heads=0: write a whole number from 1 to"):
            script.resolve({"preset": "tiny", "num_heads": 0})
        spec = read_spec(
            sweep_tree.write_spec(tmp_path / "spec.toml", seeds=[0, 2**31 - 1], space={"matrix_lr": [0.1]})
        )
        check_seeds(spec, script)
        for seed in (-1, 2**31):
            with pytest.raises(Failure, match=f"seeds: --seed={seed}: write a whole number from 0 to 2,147,483,647"):
                check_seeds(dataclasses.replace(spec, seeds=[1, seed]), script)
    finally:
        script.close()


def test_a_point_that_breaks_the_scripts_parser_ends_no_sweep(tmp_path):
    (tmp_path / "train_gpt.py").write_text(
        "import dataclasses, sys\n@dataclasses.dataclass\nclass Config:\n    heads: int = 2\n"
        "class RunError(Exception): pass\n"
        "def parse_config(argv, environment):\n"
        "    heads = int(argv[0].partition('=')[2])\n"
        "    if heads < 0: sys.exit('two\\nlines')\n"
        "    return Config(4 // heads)\n"
    )
    script = Script(tmp_path / "train_gpt.py", tmp_path)
    try:
        for heads, found in ((0, "^parse_config: ZeroDivisionError: "), (-1, "^parse_config: SystemExit: two lines$")):
            with pytest.raises(Failure, match=found):
                script.resolve({"heads": heads})
        assert script.resolve({"heads": 2}) == {"heads": 2}
    finally:
        script.close()


def test_a_script_that_does_not_import_is_one_line(tmp_path):
    (tmp_path / "train_gpt.py").write_text("import nothing_of_this_name")
    with pytest.raises(Failure, match="nothing_of_this_name"):
        Script(tmp_path / "train_gpt.py", tmp_path)
