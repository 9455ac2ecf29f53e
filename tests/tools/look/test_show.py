"""golf show: what its page and its JSON say of whole runs, of runs that lack something, and of hostile ones.

References: the run's own files, difflib's counts, quantiles and positions computed anew, Python's HTML parser, argparse
of the commands that it names.
"""

import collections
import fcntl
import html
import html.parser
import itertools
import json
import random
import shlex
import statistics
import webbrowser

import pytest

from golf import container
from golf.files import Failure
from tests.support.mutations import mutations
from tests.support.shown_runs import OLD, RECORD, age, change, of_record
from tools.look import evidence, page, show
from tools.records import rendering, sections

pytestmark = pytest.mark.slow
HOSTILE = (
    """</title></pre></script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">'"{{ 7 * 7 }}"""
)


class Tags(html.parser.HTMLParser):
    """Counts elements, collects attributes and text."""

    def __init__(self, text: str):
        super().__init__()
        self.count, self.attributes, self.text = collections.Counter(), set(), ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.count[tag] += 1
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


def words(text: str) -> str:
    """The text of a page with single spaces."""
    return " ".join(Tags(text).text.split())


@pytest.fixture(autouse=True)
def opened(monkeypatch) -> list[str]:
    """What a browser was asked to open."""
    found: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: found.append(url) or True)
    return found


@pytest.fixture
def light(monkeypatch):
    """Without the child that reads the weights, and without the bootstrap: other tests have them."""
    monkeypatch.setattr(page, "tensor_rows", lambda artifact: [])
    monkeypatch.setattr(page, "comparison", lambda found, parent: {"problem": "not compared in this test"})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(run, parent, JSON, page) of two whole runs of different records."""
    root = tmp_path_factory.mktemp("whole")
    run, parent = of_record(RECORD, 0, root / "new"), of_record(OLD, 0, root / "old")
    options = show.parse([str(run), "--parent", str(parent), "--out", str(root / "page.html")])
    out, shown = show.make(options)
    return run, parent, page.summary(shown), shown, out.read_text()


def read(folder, name):
    return json.loads((folder / name).read_text())


def test_numbers_are_those_of_the_runs_files(whole):
    run, parent, told, _, text = whole
    score, old = read(run, "eval.json"), read(parent, "eval.json")
    assert told["bpb"] == score["bpb"] and told["clock"] == read(run, "run.json")["clock"]
    sections_of = {tag: len(payload) for tag, payload in container.read((run / "model.golf").read_bytes()).items()}
    assert told["sections"] == sections_of | {"overhead": container.OVERHEAD_BYTES}
    assert sum(told["sections"].values()) == told["artifact_bytes"] == (run / "model.golf").stat().st_size
    assert told["headroom_bytes"] == 250_000 - told["artifact_bytes"]
    assert told["gain"] == pytest.approx(old["bpb"] - score["bpb"], abs=1e-6)
    assert told["gain_interval"][0] < told["gain"] < told["gain_interval"][1]
    now, before = read(run, "run.json")["config"], read(parent, "run.json")["config"]
    changed = {key for key in now.keys() | before.keys() if now.get(key) != before.get(key)} - {"seed", "run_dir"}
    assert set(told["changed"]) == changed and told["missing"] == [] and told["faults"] == {}
    shown = words(text)
    for value in (f"{score['bpb']:.4f}", f"{old['bpb']:.4f}", f"{told['artifact_bytes']:,} bytes"):
        assert value in shown
    assert f"{told['lines_added']} lines added, {told['lines_removed']} removed" in shown
    assert f"{len(changed)} of " in shown and "What is missing" not in shown


def test_slices_are_held_against_the_parent(whole):
    run, parent, _, shown, _ = whole
    new, old = read(run, "eval.json")["slices"], read(parent, "eval.json")["slices"]
    rows = {f"{group['kind']} {row['name']}": row for group in shown["groups"] for row in group["rows"]}
    assert set(rows) == set(new) and len(rows) > 8
    for name, row in rows.items():
        assert row["bpb"] == new[name]["bpb"]
        assert row["gain"]["gain"] == pytest.approx(old[name]["bpb"] - new[name]["bpb"], abs=1e-6)


def test_curves_of_both_stand_side_by_side(whole):
    run, parent, _, shown, _ = whole
    loss, dev = shown["curves"]
    speed, utilisation = shown["speed"]
    for chart, key, scale, digits in (
        (dev, "dev_bpb", 1, 4),
        (speed, "tokens_per_second", 1e-3, 1),
        (utilisation, "mfu", 100, 1),
    ):
        assert [drawn["name"] for drawn in chart["runs"]] == ["this run", "parent"]
        for drawn, folder in zip(chart["runs"], (run, parent)):
            rows = [
                row
                for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
                if row.get(key) is not None
            ]
            assert drawn["line"] == [(chart["x"].at(row["elapsed"]), chart["y"].at(row[key] * scale)) for row in rows]
            assert drawn["last"] == f"{rows[-1][key] * scale:.{digits}f}"
    assert [drawn["colour"] for drawn in loss["runs"]] == [0, 1]


def test_tensors_have_their_bytes_and_their_steps_on_one_axis(whole):
    run, _, told, shown, text = whole
    rows = shown["tensors"]
    sizes = [row["bytes"] for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert 0.97 * told["sections"]["WGTS"] < sum(sizes) <= told["sections"]["WGTS"]
    ends = [octave for row in rows for octave in row["row_octaves"] or ()]
    margin = max(0.03 * (max(ends) - min(ends)), 0.05)
    low, high = min(ends) - margin, max(ends) + margin
    boxes = [row for row in rows if row["box"]]
    assert len(boxes) > 10
    for row in boxes:
        assert row["box"] == pytest.approx(
            [200 * (octave - low) / (high - low) for octave in row["row_octaves"]], abs=0.01
        )
        assert row["box"] == sorted(row["box"]) and f"{row['row_octaves'][2]:.2f}" in text
    assert rows[0]["bar"] == 200 and rows[5]["bar"] == pytest.approx(200 * sizes[5] / sizes[0], abs=0.01)
    assert all(html.escape(row["name"]) in text for row in rows)


def test_very_many_points_are_thinned_and_the_last_one_stays():
    for count in (1, 999, 1000, 1001, 5000):
        rows = [{"step": k, "elapsed": k / 10, "loss": float(k)} for k in range(count)]
        found = sections.series(rows, "loss")
        assert len(found) <= sections.MAX_POINTS and found[-1] == ((count - 1) / 10, count - 1)
        assert len({b[0] - a[0] for a, b in itertools.pairwise(found)}.union()) <= 3  # evenly, but for rounding
        if count <= sections.MAX_POINTS:
            assert found == [(row["elapsed"], row["loss"]) for row in rows]


def test_a_record_as_parent_is_all_its_seeds_in_the_change(tmp_path):
    run = of_record(OLD, 1, tmp_path / "again")
    found = evidence.read_run(run)
    assert evidence.known_parent(found).samefile(OLD)  # the same script, byte for byte
    parent = evidence.read(OLD)
    claim = page.comparison(found, parent)
    bpb = [row["bpb"] for row in read(OLD, "record.json")["seeds"]]
    assert claim["gain"] == pytest.approx(statistics.mean(bpb) - found.score["bpb"], abs=1e-6)
    assert page.script_diff(found, parent) == ([], "")


STATES = {  # name: (files, what its page says, how the commands begin)
    "trained": (("train.log", "metrics.jsonl", "run.json"), "not packed", ["golf pack"]),
    "packed": (("train.log", "metrics.jsonl", "run.json", "model.golf"), "A score.", ["golf score"]),
    "crashed": (("train.log", "metrics.jsonl"), "Crashed", ["python train_gpt.py --preset=pocket"]),
    "log alone": (("train.log",), "Crashed", ["python train_gpt.py --preset=pocket"]),
    "artifact alone": (("model.golf",), "there is no run.json", ["python train_gpt.py", "golf score"]),
    "without a log": (
        ("metrics.jsonl", "run.json", "model.golf", "eval.json"),
        "No script at the head of the run's log",
        [],
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_what_a_run_lacks_is_said_with_the_command(tmp_path, light, capsys, opened, name):
    files, said, commands = STATES[name]
    folder = of_record(RECORD, 0, tmp_path / "it's a run", files)
    age(folder)
    assert show.main([str(folder), "--parent", str(OLD), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    shown = words((folder / "page.html").read_text())
    assert said in shown and opened == []
    assert [row["command"].startswith(start) for row, start in zip(told["missing"], commands, strict=True)] == [
        True
    ] * len(commands)
    for row in told["missing"]:
        assert any(part.removeprefix("--run_dir=").startswith(str(folder)) for part in shlex.split(row["command"]))
        assert row["what"] in shown and row["command"] in shown


def test_the_command_of_a_crashed_run_has_its_settings(tmp_path, light):
    folder = of_record(RECORD, 0, tmp_path / "run", ("train.log", "metrics.jsonl"))
    log = (folder / "train.log").read_text()
    (folder / "train.log").write_text(
        log.replace('\nconfig {"', '\nconfig {"matrix_lr": 0.07, "', 1).replace(', "matrix_lr": 0.03', "", 1)
    )
    age(folder)
    found = evidence.read_run(folder)
    assert found.config["matrix_lr"] == 0.07
    given = shlex.split(page.missing(found, found)[0]["command"])[2:]
    assert set(given) == {
        "--preset=pocket",
        "--matrix_lr=0.07",
        f"--seed={found.config['seed']}",
        f"--run_dir={folder}",
    }


def test_runs_that_are_told_to_stop_or_still_running(tmp_path, light):
    stopped = of_record(RECORD, 0, tmp_path / "stopped", ("train.log", "metrics.jsonl", "run.json"))
    change(stopped / "run.json", stopped="sigint")
    found = evidence.read_run(stopped)
    assert "SIGINT" in page.state_in_words(found)
    row, *_ = page.missing(found, None)
    assert row["command"].endswith(f"--run_dir={stopped}_again")  # train_gpt.py refuses a folder with a run.json

    running = of_record(RECORD, 0, tmp_path / "running", ("train.log", "metrics.jsonl"))
    age(running)
    with open(running / "train.log", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as train_gpt.py has it while it runs
        found = evidence.read_run(running)
    assert page.state_in_words(found).startswith("Still running")
    assert page.missing(found, found)[0]["command"] == f"golf watch {tmp_path}"


def test_a_score_of_another_artifact_is_not_shown(tmp_path, light):
    folder = of_record(RECORD, 0, tmp_path / "run")
    change(folder / "eval.json", artifact={"bytes": 1, "sha256": "0" * 64})
    found = evidence.read_run(folder)
    assert found.faults == {"eval.json": "it is of another artifact than model.golf"} and not found.score
    assert page.missing(found, found)[0]["command"].startswith("golf score")


def test_weights_of_another_coder_leave_their_sections(tmp_path):
    folder = of_record(RECORD, 0, tmp_path / "run", ("model.golf",))
    parts = container.read((folder / "model.golf").read_bytes())
    (folder / "model.golf").write_bytes(container.to_bytes(parts | {"WGTS": b"not weights of this kit"}))
    by_section, tensors, problem = page.weights_of(evidence.read_run(folder))
    assert [row["bytes"] for row in by_section][3] == 23 and tensors == [] and problem
    (folder / "model.golf").write_bytes(b"no artifact")
    by_section, tensors, problem = page.weights_of(evidence.read_run(folder))
    assert by_section is None and "not a .golf file" in problem


def test_words_of_a_stranger_are_text(tmp_path, monkeypatch, light):
    monkeypatch.setattr(
        page,
        "tensor_rows",
        lambda artifact: [
            {
                "name": HOSTILE,
                "shape": [2, 3],
                "bytes": 9.0,
                "bar": 200,
                "bits_per_weight": 3.0,
                "row_octaves": None,
                "box": None,
                "spread": None,
            }
        ],
    )
    folder = of_record(RECORD, 0, tmp_path / HOSTILE.replace("/", "|"))
    run, score = read(folder, "run.json"), read(folder, "eval.json")
    part = next(iter(score["slices"].values()))
    change(
        folder / "run.json",
        environment={HOSTILE: HOSTILE},
        config=run["config"] | {"data_dir": HOSTILE, "stages": HOSTILE},
    )
    change(folder / "eval.json", slices={f"source {HOSTILE}": part})
    parent = of_record(OLD, 0, tmp_path / f"parent {HOSTILE.replace('/', '|')}")
    (parent / "train.log").write_text(HOSTILE)
    log = (folder / "train.log").read_bytes()
    (folder / "train.log").write_bytes(log + HOSTILE.encode())
    out, shown = show.make(show.parse([str(folder), "--parent", str(parent), "--out", str(tmp_path / "page.html")]))
    assert shown["found"].faults == {}
    tags = Tags(out.read_text())
    assert tags.count["script"] == 1 and tags.count["img"] == 0 and not tags.attributes & {"onerror", "onclick", "src"}
    assert tags.text.count("window.hacked = 2") >= 7 and "49" not in tags.text.split("{{ 7 * 7 }}")[0][-3:]


def mutated(name: str, count: int) -> list[str]:
    """Mutants of a file of a run: of JSON every field in turn, of rows one row."""
    source = next(
        RECORD.glob({"run.json": "logs/*.run.json", "eval.json": "eval/*", "metrics.jsonl": "logs/*.jsonl"}[name])
    )
    text = source.read_text()
    if name == "metrics.jsonl":
        first, *rest = text.splitlines(keepends=True)
        texts = [mutant + "\n" + "".join(rest) for _, mutant in mutations(json.loads(first), random.Random(0))]
    else:
        value = json.loads(text)
        if name == "eval.json":
            value["per_document"] = value["per_document"][:2]
        texts = [mutant for _, mutant in mutations(value, random.Random(0))]
    return random.Random(1).sample(texts, count)


@pytest.mark.parametrize("name", ["run.json", "eval.json", "metrics.jsonl"])
def test_damaged_files_give_a_page_or_one_line(tmp_path, light, name):
    folder = of_record(RECORD, 0, tmp_path / "run", ("train.log", "metrics.jsonl", "run.json", "eval.json"))
    named = 0
    for text in mutated(name, 60):
        (folder / name).write_text(text, encoding="utf-8", errors="surrogatepass")
        try:
            found = evidence.read_run(folder)
            with rendering.blame(folder):
                Tags(page.render(page.variables(found, None)))
        except Failure as error:
            assert str(error).startswith(str(folder)) and "\n" not in str(error)
            continue
        named += name in found.faults
    assert named > 20


def test_files_that_are_no_files_are_named(tmp_path, light):
    folder = of_record(RECORD, 0, tmp_path / "run", ("train.log", "run.json"))
    (folder / "metrics.jsonl").mkdir()
    (folder / "eval.json").symlink_to(tmp_path / "nowhere")
    _, shown = show.make(show.parse([str(folder), "--parent", str(OLD)]))
    assert set(shown["found"].faults) == {"metrics.jsonl", "eval.json"}


def test_the_page_lies_in_the_run_and_opens_there(tmp_path, light, capsys, opened, monkeypatch):
    folder = of_record(RECORD, 0, tmp_path / "run", ("train.log", "run.json"))
    assert show.main([str(folder)]) == 0
    assert opened == [(folder / "page.html").as_uri()] and capsys.readouterr().out.splitlines()[0] == str(
        folder / "page.html"
    )
    assert show.main([str(folder), "--out", str(tmp_path / "other.html")]) == 0 and len(opened) == 1
    assert show.main([str(folder)]) == 0 and len(opened) == 2  # its own page is replaced
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    assert show.main([str(folder)]) == 0 and "no browser was found" in capsys.readouterr().err


def test_what_is_no_run_is_one_line(tmp_path, capsys, light):
    folder = of_record(RECORD, 0, tmp_path / "run", ("run.json",))
    kept = tmp_path / "mine.html"
    kept.write_text("mine")
    for argv, message in (
        ([str(tmp_path / "nowhere")], "no such folder"),
        ([str(tmp_path)], "no run in it: expected one of train.log"),
        ([str(RECORD)], "golf board --site writes its page"),
        ([str(folder), "--out", str(kept)], "no page that golf show wrote"),
        ([str(folder), "--parent", str(folder)], "not its own parent"),
        ([str(folder), "--parent", str(tmp_path)], "no run in it"),
    ):
        assert show.main(argv) == 1
        error = capsys.readouterr().err
        assert error.startswith("golf show: ") and message in error and error.count("\n") == 1, argv
    assert kept.read_text() == "mine" and not (folder / "page.html").exists()


def test_every_value_of_the_page_is_escaped():
    environment = rendering.environment(page.GENERATOR, page.TEMPLATES)
    text = (page.TEMPLATES / "run.html").read_text()
    assert environment.autoescape is True and "safe" not in text and "|html" not in text.replace(" ", "")
