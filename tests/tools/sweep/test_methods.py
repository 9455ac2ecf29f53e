"""golf methods: pairs and intervals against scipy, the sweep on stand-ins (sweep_tree.py), the page in docs/.

Not covered: real training runs, which take hours.
"""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import train_gpt
from golf.files import Failure
from tests.support import sweep_tree
from tools.sweep import methods, techniques
from tools.sweep.spec import arguments
from tools.sweep.techniques import BEGIN, END, PRESETS

GOOD = {"name": "wide", "what": "w", "source": "s", "public": "p", "off": {"width": 64}, "on": {"width": 128}}
WIDE = techniques.Technique(**GOOD)
ENTRIES = [  # the stand-in's bpb: 2 + |log2(lr / 0.04)| + seed / 1000, and 0.01 less when packed
    {**GOOD, "name": "good rate", "off": {"lr": 0.08}, "on": {"lr": 0.04}},  # the preset has it on
    {**GOOD, "name": "fast", "off": {"lr": 0.04}, "on": {"lr": 0.16, "width": 128}},  # off, and 2 worse
    {**GOOD, "name": "odd", "on": {"width": 50}},
    {**GOOD, "name": "nan", "off": {"act": "relu"}, "on": {"act": "nan"}},
    {**GOOD, "name": "later", "off": {"later": 0}, "on": {"later": 1}},
    {**GOOD, "name": "tied", "off": {"tied": False}, "on": {"tied": True}, "score": True},
    {"name": "old", "what": "w", "source": "s", "public": "p", "dropped": "lost"},
]


def write_techniques(path: Path, entries: list[dict]) -> Path:
    """Entries as TOML: JSON's scalars are TOML's."""

    def value(x):
        return (
            "{ " + ", ".join(f"{k} = {json.dumps(v)}" for k, v in x.items()) + " }"
            if isinstance(x, dict)
            else (json.dumps(x))
        )

    path.write_text(
        "\n".join("[[technique]]\n" + "".join(f"{k} = {value(v)}\n" for k, v in entry.items()) for entry in entries)
    )
    return path


def row(**changes) -> dict:
    """A row of the log."""
    values = {
        "run": "a",
        "code": "c" * 64,
        "data": "d",
        "steps": 10,
        "seed": 1,
        "hash": "0" * 64,
        "params": 1000,
        "bpb": 2.0,
        "cost": 5.0,
        "environment": {"threads": 1, "compute": "bfloat16", "why": "x"},
        "config": {"width": 64, "lr": 0.1, "run_dir": "runs/a"},
    }
    return values | changes


def wide(seed=1, bpb=1.9, **changes) -> dict:
    """A row of the log with the technique on."""
    config = {"width": 128, "lr": 0.1, "run_dir": "runs/b"}
    return row(run="b", seed=seed, bpb=bpb, config=config, params=3000) | changes


def pair(technique: str, seed: int, on: dict, off: dict) -> dict:
    """A line of techniques.jsonl."""
    return methods.pair_of(WIDE, row(seed=seed, **off), wide(seed, **on)) | {"technique": technique}


# ---------------------------------------------------------------------------------------------------------------- pairs


def test_a_pair_says_which_side_is_on_whichever_is_the_base():
    for base, other, side in ((row(), wide(), "off"), (wide(), row(), "on")):
        line = methods.pair_of(WIDE, base, other)
        assert (line["base"], line["fields"], line["off"]["run"], line["on"]["run"]) == (
            side,
            {"width": [64, 128]},
            "a",
            "b",
        )
        assert (line["on"]["bpb"], line["off"]["params"], line["machine"]["compute"]) == (1.9, 1000, "bfloat16")


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"code": "e" * 64}, "code"),
        ({"data": "e"}, "data"),
        ({"steps": 9}, "steps"),
        ({"seed": 2}, "seed"),
        ({"environment": {"threads": 2, "compute": "bfloat16"}}, "threads"),
        ({"environment": {"threads": 1, "compute": "float32"}}, "compute"),
        ({"config": {"width": 128, "lr": 0.2}}, "lr"),
        ({"config": {"width": 128, "lr": 0.1, "new": 1}}, "new"),
        ({"config": {"width": 64, "lr": 0.1}}, "nothing"),
    ],
)
def test_runs_that_differ_in_more_are_no_pair(changes, named):
    with pytest.raises(Failure, match=f"no pair for wide: they differ in {named}$"):
        methods.pair_of(WIDE, row(), wide(**changes))


numbers = st.floats(1, 8).map(lambda x: round(x, 6))


@given(
    st.lists(st.tuples(numbers, numbers), min_size=2, max_size=9).filter(
        lambda pairs: np.std([a - b for a, b in pairs]) > 1e-6
    )
)
def test_interval_is_that_of_the_paired_t_test(pairs):
    mean, half = techniques.interval([a - b for a, b in pairs])
    on, off = zip(*pairs)
    expected = stats.ttest_rel(on, off).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-9)


def test_one_seed_has_no_interval_and_equal_differences_an_empty_one():
    assert techniques.interval([0.25]) == (0.25, None)
    assert techniques.interval([0.25, 0.25, 0.25]) == (0.25, 0.0)


def test_effects_are_on_minus_off():
    pairs = [
        pair("wide", 1, {"bpb": 1.9, "cost": 8.0}, {"bpb": 2.0, "cost": 4.0}),
        pair("wide", 2, {"bpb": 1.8, "cost": 5.0}, {"bpb": 2.1, "cost": 5.0}),
        pair("wide", 3, {"bpb": 1.7, "cost": 6.0}, {"bpb": 1.9, "cost": 5.0}),
    ]
    known = [WIDE, techniques.Technique(**{**GOOD, "name": "gate", "off": {"gate": False}, "on": {"gate": True}})]
    presets = {"16mb": {"width": 256, "gate": True}, "pocket": {"width": 64, "gate": False}}
    first, second = techniques.effects(known, pairs, presets)
    expected = stats.ttest_rel([1.9, 1.8, 1.7], [2.0, 2.1, 1.9]).confidence_interval(0.95)
    assert (first["bpb"], first["half"]) == pytest.approx((-0.2, -0.2 - expected.low))
    assert (
        first["time"] == 1.2
        and first["bytes"] == 2000 * 3.4 / 8
        and first["presets"] == {"16mb": "256", "pocket": "64"}
    )
    assert techniques.cells(first) == [f"-0.2000 ± {first['half']:.4f} (3)", "1.20", "+850", "256", "64"]
    assert techniques.cells(second) == ["not measured", "", "", "on", "off"]
    text = techniques.markdown([first, second], pairs).splitlines()
    assert {len(line) for line in text[:4]} == {len(text[0])} and text[1].count("-: |") == 2
    assert {tuple(i for i, c in enumerate(line) if c == "|") for line in text[:4]} == {
        tuple(i for i, c in enumerate(text[0]) if c == "|")
    }
    assert (
        text[-1] == "Measured with the script of sha256 cccccccccccc..., 10 steps, seeds 1, 2, 3, bfloat16, "
        "threads: 1: all."
    )
    other = pair("gate", 5, {}, {}) | {"steps": 99}
    below = techniques.markdown([first, second], [*pairs, other]).splitlines()[5::2]
    assert [line.rpartition(": ")[2] for line in below] == ["wide.", "gate."]
    assert techniques.cells(first | {"dropped": "out"})[0].endswith(" (3); out")


# ---------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    "changes, found",
    [
        ({"nmae": "x"}, "no key 'nmae': did you mean name?"),
        ({"name": ""}, "no name"),
        ({"public": ""}, "no public"),
        ({"score": 1}, "score = 1 is not a bool"),
        ({"off": [1]}, "off = [1] is not a dict"),
        ({"off": {}}, "`off` names"),
        ({"on": {"lr": 1.0}}, "`off` names"),
        ({"on": {"width": 64}}, "`off` names"),
        ({"name": "other"}, "there twice"),
    ],
)
def test_a_bad_technique_is_one_clear_failure(tmp_path, changes, found):
    path = write_techniques(tmp_path / "t.toml", [{**GOOD, "name": "other"}, GOOD | changes])
    with pytest.raises(Failure) as failure:
        techniques.read_techniques(path)
    assert found in str(failure.value) and "technique 2" in str(failure.value) and "\n" not in str(failure.value)


@pytest.mark.parametrize("text", ["technique = ", "technique = 3", "\xff", None])
def test_unreadable_techniques_are_one_line(tmp_path, text):
    if text is not None:
        (tmp_path / "t.toml").write_text(text, encoding="latin-1")
    with pytest.raises(Failure, match="t.toml"):
        techniques.read_techniques(tmp_path / "t.toml")


def test_pairs_come_back_as_they_were_written(tmp_path):
    path, known = tmp_path / "p.jsonl", [WIDE, techniques.Technique(**GOOD | {"name": "b"})]
    assert techniques.read_pairs(path, known) == []
    old = [pair("b", 1, {}, {}), pair("wide", 1, {}, {}), pair("wide", 2, {}, {})]
    techniques.write_pairs(path, old, known)
    assert techniques.read_pairs(path, known) == [old[1], old[2], old[0]]
    new = [pair("wide", 7, {"bpb": 1.5}, {})]
    techniques.write_pairs(path, new, known)
    assert techniques.read_pairs(path, known) == [*new, old[0]]
    for line, found in (
        ("{}", ":3: not a pair"),
        ("nonsense", ":3: not a pair"),
        (json.dumps(old[0] | {"on": {"bpb": None}}), ":3: not a pair"),
        (json.dumps(old[0] | {"technique": "c"}), ":3: 'c' is not in techniques.toml"),
    ):
        path.write_text("".join(json.dumps(each) + "\n" for each in [*new, old[0]]) + line + "\n")
        with pytest.raises(Failure, match=found):
            techniques.read_pairs(path, known)


@pytest.mark.parametrize("page", ["none", f"{END}{BEGIN}", f"{BEGIN}{END}{END}"])
def test_a_page_without_its_markers_is_refused(page):
    with pytest.raises(Failure, match="techniques.md: expected one"):
        techniques.rewrite(page, "x")


def test_the_page_in_docs_is_what_the_command_makes(monkeypatch):
    """From techniques.toml, techniques.jsonl and the presets: golf methods table --write."""
    known = techniques.read_techniques(methods.TECHNIQUES)
    fields = {f.name for f in dataclasses.fields(train_gpt.Config)}
    unknown = {key for each in known for key in each.on} - fields
    assert unknown <= {"score_lr", "score_counts"}, "docs/techniques.toml names fields that Config does not have"
    presets = {name: dataclasses.asdict(train_gpt.parse_config([f"--preset={name}"], {})) for name in PRESETS}
    pairs = techniques.read_pairs(methods.PAIRS, known)
    page = methods.PAGE.read_text(encoding="utf-8")
    rows = techniques.effects(known, pairs, presets)
    assert techniques.rewrite(page, techniques.markdown(rows, pairs)) == page
    for each in known:  # what turns it on is a config that the script takes
        changes = {key: value for key, value in each.on.items() if key in fields}
        train_gpt.parse_config(["--preset=pocket", *arguments(changes)], {})


# ------------------------------------------------------------------------------------------------------------- the runs


@pytest.fixture
def tree(tmp_path):
    folder = sweep_tree.build(tmp_path)
    (folder / "docs").mkdir()
    write_techniques(folder / "docs/techniques.toml", ENTRIES)
    (folder / "docs/techniques.md").write_text(f"Before.\n{BEGIN}\n{END}\nAfter.\n")
    return folder


def call(tree: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess:
    """Runs golf methods in the tree to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "golf", "methods", *arguments],
        cwd=tree,
        text=True,
        capture_output=True,
        env=os.environ | {"COLUMNS": "200"},
        timeout=300,
    )
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done


@pytest.mark.long
def test_pairs_are_run_once_and_become_the_table(tree):
    done = call(tree, "run", "--steps=3", "--seeds", "1", "2", "--parallel=2", "--json", code=1)
    result, calls = json.loads(done.stdout.splitlines()[-1]), sweep_tree.calls(tree)
    problems = result["problems"]
    assert (problems["odd"], problems["later"]) == (
        "refused: --width must be a multiple of 32",
        "not in the script: later",
    )
    assert "failed: train: train_gpt.py: the loss is nan" in problems["nan"] and done.stderr.splitlines() == [
        "golf methods: no pairs for later, odd, nan (see above)"
    ]
    trained = [call for call in calls if len(call[0]) > 60]
    assert len(trained) == 2 * 6 and all("--max_steps=3" in call and "--max_seconds=0.0" in call for call in trained)
    scored = [call for call in calls if call[0] == "eval_heldout.py"]
    assert len(scored) == 4 and len({call[1] for call in scored}) == 4  # base and "tied", which alone needs it

    lines = [json.loads(line) for line in (tree / "docs/techniques.jsonl").read_text().splitlines()]
    assert lines == result["pairs"] and [(each["technique"], each["seed"]) for each in lines] == [
        (name, seed) for name in ("good rate", "fast", "tied") for seed in (1, 2)
    ]
    found = {(each["technique"], each["base"]): each["on"]["bpb"] - each["off"]["bpb"] for each in lines}
    assert found == pytest.approx({("good rate", "on"): -1.0, ("fast", "off"): 2.0, ("tied", "on"): 0.0})
    logged = {entry["hash"][:12]: entry for entry in sweep_tree.rows(tree, "run")}
    for each in lines:
        for side in ("on", "off"):
            entry = logged[each[side]["row"]]
            packed = 0.01 if each["technique"] == "tied" else 0.0
            assert each[side]["bpb"] == pytest.approx(entry["dev_bpb"] - packed)
            assert entry["seed"] == each["seed"] and entry["run"] == each[side]["run"]

    again = call(tree, "run", "fast", "tied", "--steps=3", "--seeds", "1", "2")
    assert sweep_tree.calls(tree) == [] and "4 pairs of 2 techniques" in again.stdout
    kept = [json.loads(line) for line in (tree / "docs/techniques.jsonl").read_text().splitlines()]
    assert kept == lines

    before = call(tree, "table", "--json")
    assert (tree / "docs/techniques.md").read_text().count("\n") == 4
    (tree / "runs").rename(tree / "elsewhere")  # a fresh clone has no log
    after = call(tree, "table", "--write", "--json")
    rows = {each["name"]: each for each in json.loads(after.stdout.splitlines()[-1])["techniques"]}
    assert list(rows.values()) == json.loads(before.stdout.splitlines()[-1])["techniques"]
    assert rows["fast"]["bpb"] == pytest.approx(2.0) and rows["fast"]["half"] == pytest.approx(0, abs=1e-12)
    assert rows["fast"]["time"] == 2.0 and rows["fast"]["bytes"] == 64_000 * 3.4 / 8
    assert rows["tied"]["time"] == 1.1  # of scoring: 11 s with it, 10 s without
    page = (tree / "docs/techniques.md").read_text()
    assert page.startswith(f"Before.\n{BEGIN}\n| technique") and page.endswith(f"{END}\nAfter.\n")
    [line] = [line for line in page.splitlines() if line.startswith("| fast")]
    assert [cell.strip() for cell in line.split("|")][5:9] == [
        "`lr` 0.04, 0.16, `width` 64, 128",
        "+2.0000 ± 0.0000 (2)",
        "2.00",
        "+27,200",
    ]
    [old] = [line for line in page.splitlines() if line.startswith("| old")]
    assert [cell.strip() for cell in old.split("|")][6:] == ["lost", "", "", "-", "-", ""]


def test_interrupted_pairs_that_are_complete_are_kept(tree):
    write_techniques(tree / "docs/techniques.toml", [ENTRIES[0], {**ENTRIES[3], "on": {"act": "hold"}}])
    process = subprocess.Popen(
        [sys.executable, "-m", "golf", "methods", "run", "--seeds", "1"],
        cwd=tree,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    sweep_tree.STARTED.append(process)
    try:
        sweep_tree.wait_for(lambda: len(list((tree / "runs").glob("methods-*/starts"))) == 3, "the last trial to start")
        process.send_signal(signal.SIGINT)
        assert "start it again" in process.communicate(timeout=120)[1] and process.returncode == 130
    finally:
        sweep_tree.stop_all()
    [line] = [json.loads(line) for line in (tree / "docs/techniques.jsonl").read_text().splitlines()]
    assert line["technique"] == "good rate" and math.isclose(line["on"]["bpb"] - line["off"]["bpb"], -1.0)


@pytest.mark.parametrize(
    "arguments, code, found",
    [
        (["run", "fats"], 1, "did you mean fast?"),
        (["run", "old"], 1, "no technique 'old' to run"),
        (["run", "--seeds", "1", "1"], 2, "--seeds are different"),
        (["run", "--steps=0"], 2, "at least 1"),
    ],
)
def test_wrong_usage_starts_nothing(tree, arguments, code, found):
    done = call(tree, *arguments, code=code)
    assert found in done.stderr.splitlines()[-1] and (code == 2 or done.stderr.count("\n") == 1)
    assert sweep_tree.calls(tree) == [] and not (tree / "runs").exists()
