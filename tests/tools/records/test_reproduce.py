"""golf reproduce and golf rescore: a record whose script takes a moment, in a real box; scripts that do not train; each
refusal; the verdicts; and once the tiny preset from training to score.

Not covered: what the box closes (tests/golf/box/test_training.py).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from golf import versions
from golf.box import training
from golf.files import Failure
from tests.support import small_record
from tools.records import additions, again, record, reproduce, rescore

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
LINK = '    os.symlink("/etc/passwd", os.path.join(config.run_dir, "checkpoint.pt"))\n'
SAVED = '    save(config, "checkpoint.pt", weights(config))\n'


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A clone with one commit, which the tools take for theirs; packing and scoring take a moment."""
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"):
        monkeypatch.setenv(name, "a@b")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for module in (again, record, reproduce):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    for module in (again, reproduce):
        monkeypatch.setattr(module, "stage", small_record.stage)
    subprocess.run("git init -q && git commit -q --allow-empty -m first", shell=True, check=True, cwd=tmp_path)
    return tmp_path


def head(root: Path) -> str:
    return subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=root, text=True).strip()


def result(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def files_of(folder: Path) -> dict:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "additions" not in path.parts}


def test_the_records_own_seed_gives_the_same_bits(root, capsys):
    folder = small_record.make(root)
    before = files_of(folder)
    assert reproduce.main([str(folder), "--by", "me", "--json"]) == 0
    (run,) = result(capsys)["runs"]
    about = json.loads((folder / "record.json").read_text())
    assert run["outcome"] == reproduce.EXACTLY and run["seed"] == about["artifact"]["seed"]
    assert "reproduced exactly" in run["sentence"]

    (addition,) = additions.read(folder)
    assert (addition["by"], addition["kind"], addition["seed_commit"]) == ("me", "trained", None)
    assert addition["certified"] and addition["audit"] == "full" and addition["bpb"] == run["bpb"]
    assert addition["train"]["same_artifact"] and addition["train"]["tokens"] == 4096
    assert addition["train"]["checkpoint_sha256"] == addition["artifact"]["sha256"]  # the stand-in packs by copying
    assert 0 < addition["environment"]["wall_seconds"] < 60
    assert addition["environment"]["why"] == "measured matrix GFLOP/s: float32 60"
    assert files_of(folder) == before and list((root / "runs").iterdir()) == []


def test_new_seeds_are_those_that_this_clones_commit_draws(root, capsys):
    folder = small_record.make(root)
    assert reproduce.main([str(folder), "--by", "me", "--seeds", "3", "--json"]) == 0
    said = capsys.readouterr().out
    answer = json.loads(said.splitlines()[-1])
    assert [run["outcome"] for run in answer["runs"]] == [reproduce.EXACTLY, reproduce.WITHIN, reproduce.WITHIN]
    assert [run["seed"] for run in answer["runs"]][1:] == record.draw_seeds(head(root), 2)
    assert "pocket/0001_small: reproduced: 3 of 3 runs hold; mean 1.5" in said
    found = additions.read(folder)
    assert sorted(str(each["seed_commit"]) for each in found) == sorted(["None", head(root), head(root)])


@pytest.mark.parametrize("name", ["/dev_docs.jsonl", "/gate_000000.bin"])
def test_a_script_that_trains_on_held_out_text_does_not_find_it(root, name):
    """By the path that its data set has, or by the one that the set really has."""
    for folder in ("config.data_dir", "os.path.realpath(config.data_dir + '/train.bin')[:-10]"):
        script = small_record.SCRIPT.replace('config.data_dir + "/train.bin"', f"{folder} + {name!r}")
        place = root / folder[:9]
        (place / "data/small").mkdir(parents=True)
        (place / "data/small/gate_000000.bin").write_bytes(b"text")
        (root / "data").unlink(missing_ok=True)
        (root / "data").symlink_to(place / "data")
        record_folder = small_record.make(place, script)
        with pytest.raises(Failure, match="No such file|Permission denied"):
            reproduce.main([str(record_folder), "--by", "me"])
        assert not (record_folder / "additions").exists()


def test_a_seed_of_the_record_is_not_drawn_again(root):
    opened = again.open_record(small_record.make(root), None)
    commit = head(root)
    opened.about["seeds"][0]["seed"] = record.draw_seeds(commit, 1)[0]
    own, *new = reproduce.plan_seeds(opened, 3, commit)
    assert own == opened.about["artifact"]["seed"] and new == record.draw_seeds(commit, 3)[1:]


def test_settings_beside_the_preset_are_the_records(root, capsys):
    folder = small_record.make(root, flags=("--width=9", "--max_tokens=8192"))
    assert reproduce.main([str(folder), "--by", "me", "--json"]) == 0
    assert result(capsys)["runs"][0]["outcome"] == reproduce.EXACTLY


def test_a_script_that_does_not_end_is_ended(root, monkeypatch):
    slow = SAVED + "    import time\n    time.sleep(1000 * (os.getcwd() != " + repr(str(root)) + "))\n"
    folder = small_record.make(root, small_record.SCRIPT.replace(SAVED, slow))
    monkeypatch.setattr(reproduce, "PATIENCE", 0.0)
    with pytest.raises(Failure, match="still trains after 0 s, and was ended"):
        reproduce.main([str(folder), "--by", "me"])
    assert not (folder / "additions").exists() and list((root / "runs").iterdir()) == []


@pytest.mark.parametrize(
    "line, message",
    [
        (LINK, "left no checkpoint.pt, or a link"),
        ("    pass\n", "left no checkpoint.pt"),
        ('    os.mkdir(os.path.join(config.run_dir, "checkpoint.pt"))\n', "checkpoint.pt that is no file"),
        ("    sys.exit('no luck \\x1b[2J')\n", r"exit status 1: no luck \\x1b\[2J"),
        ("    config = dataclasses.replace(config, width=99)\n" + SAVED, "trained with width 99, the record says 8"),
        ("    config = dataclasses.replace(config, seed=11)\n" + SAVED, "names another seed"),
    ],
)
def test_a_script_that_does_something_else_now_is_found_out(root, line, message):
    """It made the record honestly, and behaves otherwise when somebody trains it again (the file "again" tells it)."""
    changed = f"    if os.getcwd() == {str(root)!r}:\n    {SAVED}    else:\n" + "".join(
        "    " + each for each in line.splitlines(keepends=True)
    )
    folder = small_record.make(root, small_record.SCRIPT.replace(SAVED, changed))
    about = json.loads((folder / "record.json").read_text())
    about["artifact"]["seed"] = 12
    (folder / "record.json").write_text(json.dumps(about))
    with pytest.raises(Failure, match=message):
        reproduce.main([str(folder), "--by", "me"])
    assert not (folder / "additions").exists() and list((root / "runs").iterdir()) == []


@pytest.mark.parametrize("place", ["weights", "records/pocket/0001_small/artifacts/seed11.golf"])
def test_weights_that_lie_somewhere_are_not_there_in_the_box(root, place):
    """A script that copies what it would have to train finds nothing to copy, in the record's folder or outside."""
    (root / "weights").write_bytes(b"trained somewhere else for a week")
    line = "save(config, 'checkpoint.pt', read({}) if config.run_dir == 'run' else weights(config))"
    copies = f"    {line.format(repr(str(root / place)))}\n"
    script = small_record.SCRIPT.replace(SAVED, copies)
    folder = small_record.make(root, script)
    assert (root / place).is_file()
    with pytest.raises(Failure, match="FileNotFoundError"):
        reproduce.main([str(folder), "--by", "me"])
    assert not (folder / "additions").exists()


def test_another_score_is_not_reproduced(root, capsys, monkeypatch):
    folder = small_record.make(root)
    monkeypatch.setattr(small_record, "bpb", lambda weights: 1.6)
    assert reproduce.main([str(folder), "--by", "me", "--json"]) == 1
    (run,) = result(capsys)["runs"]
    assert run["outcome"] == reproduce.NOT and "NOT reproduced (+0.09" in run["sentence"]
    assert len(additions.read(folder)) == 1  # what did not come out is told too


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data": "missing"}, "missing: no data set .*golf data$"),
        ({"manifest": "other"}, "another data set than the record's"),
        ({"script": "# other\n"}, "not the script whose sha256"),
        ({"world_size": 8}, "trained by 8 processes"),
        ({"by": ""}, "say who you are with --by NAME"),
        ({"layers": "Landlock: files"}, "missing is Landlock: files.*--trust"),
        ({"record": "nowhere"}, "nowhere: not a record"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(root, monkeypatch, changes, message):
    folder = small_record.make(root)
    arguments = [str(root / changes.get("record", folder)), "--by", changes.get("by", "me")]
    if "data" in changes:
        arguments += ["--data", str(root / changes["data"])]
    if "manifest" in changes:
        (root / "data/small/manifest.json").write_text(changes["manifest"])
    if "script" in changes:
        (folder / "train_gpt.py").write_text(changes["script"])
    if "world_size" in changes:
        for path in (folder / "logs").glob("*.run.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"world_size": changes["world_size"]}))
    if "layers" in changes:
        rows = [dict(row, active=row["layer"] != changes["layers"]) for row in training.layers()]
        monkeypatch.setattr(training, "layers", lambda: rows)
    with pytest.raises(Failure, match=message) as failure:
        reproduce.main(arguments)
    assert "\n" not in str(failure.value) and not (folder / "additions").exists()


@pytest.mark.parametrize(
    "directory, named",
    [
        ("data/embedded_sp2048_case", "golf data embedded --variant sp2048_case"),
        ("data/embedded", "golf data embedded"),
        ("/somewhere/else", "golf data"),
        ("data/embedded_sp1; rm -rf", "golf data"),
    ],
)
def test_the_command_that_makes_a_data_set(directory, named):
    assert again.command({"data": {"dir": directory}}) == named


@pytest.fixture
def opened(root) -> again.Record:
    return again.open_record(small_record.make(root), None)


def changed(opened: again.Record, **changes) -> again.Record:
    """The record with fields of its run's config or its par changed."""
    for key, value in changes.items():
        place = opened.about["par"] if key == "processor_class" else opened.run["config"]
        place[key] = value
    return opened


@pytest.mark.parametrize(
    "off, changes, run, outcome, word",
    [
        (1e-10, {}, {}, reproduce.EXACTLY, "exactly"),
        (1e-6, {}, {}, reproduce.WITHIN, "it should be equal"),
        (-0.011, {"processor_class": "arm"}, {}, reproduce.WITHIN, "another kind of processor"),
        (0.013, {"processor_class": "arm"}, {}, reproduce.NOT, "another kind of processor"),
        (-0.013, {"processor_class": "arm"}, {}, reproduce.NOT, "another kind of processor"),
        (0.001, {}, {"environment": {"torch": "3.0"}}, reproduce.WITHIN, "under torch 3.0"),
        (0.0, {}, {"tokens": 4000}, reproduce.WITHIN, "not the same work"),
        (0.011, {"max_seconds": 600.0}, {"steps": 1}, reproduce.WITHIN, "after 1 steps, the record's after 2"),
        (0.013, {"max_seconds": 600.0}, {"steps": 1}, reproduce.NOT, "another amount of work"),
        (-0.1, {"max_seconds": 600.0}, {"steps": 9}, reproduce.WITHIN, "another amount of work"),
    ],
)
def test_verdicts_of_the_records_own_seed(opened, off, changes, run, outcome, word):
    record_ = changed(opened, **changes)
    row = record_.about["seeds"][0]
    verdict = reproduce.judge(record_, row["seed"], opened.run | run, row["bpb"] + off)
    assert verdict.outcome == outcome and word in verdict.sentence


def test_a_new_seed_is_held_against_the_mean(opened):
    mean = opened.about["bpb_mean"]
    for off, outcome in ((0.0, reproduce.WITHIN), (0.0119, reproduce.WITHIN), (-0.0121, reproduce.NOT)):
        verdict = reproduce.judge(opened, 99, opened.run, mean + off)
        assert verdict.outcome == outcome and "a new seed" in verdict.sentence


@pytest.mark.parametrize("ratio, fine", [(2.1, True), (0, False), (True, False), ("2", False), (10**9, False)])
def test_a_ratio_comes_from_golf_par_alone(tmp_path, ratio, fine):
    path = tmp_path / "par.json"
    path.write_text(json.dumps({"ratio": ratio, "processor_class": reproduce.processor_class()}))
    if fine:
        assert reproduce.read_speed(path)["ratio"] == ratio
    else:
        with pytest.raises(Failure, match="par.json: ratio: not a number"):
            reproduce.read_speed(path)


def test_artifacts_are_scored_again_each_with_an_addition(root, capsys):
    folder = small_record.make(root)
    before = files_of(folder)
    assert rescore.main([str(folder), "--by", "me", "--audit", "quick", "--json"]) == 0
    assert [each["same"] for each in result(capsys)["scores"]] == [True] * 3
    found = additions.read(folder)
    assert {each["seed"] for each in found} == set(small_record.SEEDS)
    assert all(each["kind"] == "scored" and each["certified"] and each["audit"] == "quick" for each in found)
    assert files_of(folder) == before


@pytest.mark.parametrize("command", [reproduce, rescore])
def test_another_torch_than_the_records_is_refused_before_anything_runs(root, monkeypatch, command):
    folder = small_record.make(root)
    monkeypatch.setattr(versions, "torch_here", lambda: "2.14.1+cu130")
    said = "^pocket/0001_small cannot be scored again: torch here is 2.14.1.cu130, asked for is 2.13.0: "
    with pytest.raises(Failure, match=said):
        command.main([str(folder), "--by", "me"])
    assert not (folder / "additions").exists()


def test_what_is_scored_again_is_certified_for_the_records_torch(opened, monkeypatch):
    seen = []
    monkeypatch.setattr(again, "stage", lambda *given: seen.append(given[1]) or small_record.stage(*given))
    artifact = next(opened.folder.rglob("*.golf"))
    again.score(opened, artifact, "quick", True, opened.folder / "eval.json")
    assert seen[0][-2:] == ["--torch", "2.13.0"] and "--certify" in seen[0]


def test_an_artifact_with_another_score_is_told(root, capsys, monkeypatch):
    folder = small_record.make(root)
    monkeypatch.setattr(small_record, "bpb", lambda weights: 1.6)
    assert rescore.main([str(folder), "--by", "me"]) == 1
    assert capsys.readouterr().out.count("ANOTHER SCORE") == 3
