"""eval_heldout.py as a user meets it: what it prints, writes and returns, and one clear line for each thing that can be
wrong."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import eval_heldout
from tests.support import ROOT
from tests.support.box_walls import in_work_folder
from tests.support.scoring_world import box_processes, plain_evaluation, write_data

LIGHT = [sys.executable, "-m", "tests.support.light_box"]  # the command with boxes that start without torch


def command(*arguments, program=(sys.executable, "eval_heldout.py")):
    return subprocess.run([*program, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT)


@pytest.fixture
def fails(capsys, monkeypatch):
    """The one line on standard error of a command that must fail with status 1, run in this process."""

    def run(*arguments):
        monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process keeps its own
        assert eval_heldout.main(list(map(str, arguments))) == 1
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if line.strip()]
        assert not out and len(lines) == 1 and lines[0].startswith("eval_heldout: "), (out, err)
        return lines[0]

    return run


def test_report_json_and_file_agree(world, tmp_path):
    out = tmp_path / "result.json"
    done = command(world.artifact(), "--data", world.data, "--split", "dev", "--processes", 1, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    printed, written = json.loads(lines[-1]), json.loads(out.read_text())
    assert {key: value for key, value in written.items() if key != "per_document"} == printed
    bpb = plain_evaluation(world, 8).sum() / 0.6931471805599453 / sum(len(text.encode()) for text in world.texts)
    assert printed["bpb"] == pytest.approx(bpb, rel=1e-7)
    assert f"val_bpb: {bpb:.4f}" in lines
    assert f"artifact_bytes: {os.path.getsize(world.artifact())}" in lines
    assert printed["artifact"]["bytes"] == os.path.getsize(world.artifact())
    assert list(printed["slices"])[:2] == ["source other", "source prose"] and printed["format"] == 2
    assert all(name in done.stdout for name in printed["slices"])
    assert len(written["per_document"]) == len(world.texts)
    assert not [name for name in os.listdir(tmp_path) if name != out.name]


@pytest.mark.parametrize("option", ["--time-limit", "--time_limit"])
def test_default_output_lies_beside_the_artifact(world, tmp_path, monkeypatch, option):
    """Also with a path that names no folder. (The score itself is a stub.) A dash and an underscore are the same."""
    called = []
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(eval_heldout, "score", lambda *arguments: called.append(arguments) or {"bpb": 1.0})
    monkeypatch.setattr(eval_heldout.report, "print_report", lambda result, path: None)
    os.link(world.artifact(), tmp_path / "model.golf")
    monkeypatch.chdir(tmp_path)
    assert eval_heldout.main(["model.golf", "--data", str(world.data), option, "90"]) == 0
    assert (tmp_path / "eval.json").read_text() == '{"bpb": 1.0}\n'
    assert called[0][:5] == ("model.golf", str(world.data), "dev", None, 90.0)


def test_inputs_that_are_missing_or_wrong(world, tmp_path, fails):
    artifact = world.artifact()
    assert "no artifact at nowhere.golf" in fails("nowhere.golf", "--data", world.data)
    (tmp_path / "text.golf").write_text("hello")
    assert "text.golf is not a usable artifact" in fails(tmp_path / "text.golf", "--data", world.data)
    assert "golf data embedded" in fails(artifact, "--data", tmp_path / "nothing")
    assert "gate_docs.jsonl" in fails(artifact, "--data", world.data, "--split", "gate")
    assert "cannot write" in fails(artifact, "--data", world.data, "--out", tmp_path / "no" / "such.json")
    assert "cannot write" in fails(artifact, "--data", world.data, "--out", tmp_path)

    data = tmp_path / "changed"
    write_data(data, world.texts)
    docs = data / "dev_docs.jsonl"
    docs.write_bytes(docs.read_bytes().replace(b"sea", b"see", 1))
    assert "is not the file of its manifest" in fails(artifact, "--data", data)
    write_data(data, [])
    assert "holds no text" in fails(artifact, "--data", data)
    (data / "manifest.json").write_text('{"splits": []}')
    assert "manifest.json says nothing of dev_docs.jsonl" in fails(artifact, "--data", data)
    assert not (world.folder / "eval.json").exists()


@pytest.mark.parametrize(
    "arguments", [["--processes", "0"], ["--time-limit", "nan"], ["--split", "train"], ["--nonsense"]]
)
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        eval_heldout.main(["model.golf", *arguments])
    assert caught.value.code == 2 and arguments[0] in capsys.readouterr().err


def test_failed_artifact_gives_one_verdict_and_no_result(world, tmp_path):
    artifact = world.artifact("print('noise')\nraise ValueError('not\\ntoday')\n", name="broken.golf")
    done = command(artifact, "--data", world.data, "--out", tmp_path / "eval.json", "--processes", 2, program=LIGHT)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr == "eval_heldout: FAILED (crash): importing train_gpt.py: ValueError: not today\n"
    assert not os.listdir(tmp_path)


def started(world, folder):
    """A scorer whose box sleeps while it imports the artifact's script; temporary files go to `folder`."""
    sleep = "\nimport time\nopen('started', 'w').close()\ntime.sleep(3600)\n"
    artifact = world.artifact(sleep, name="slow.golf")
    running = subprocess.Popen(
        [*LIGHT, artifact, "--data", world.data, "--processes", "1"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stderr=subprocess.DEVNULL,
    )
    assert wait_for(lambda: in_work_folder(folder, "started"), 60)
    return running


def wait_for(condition, seconds):
    """Whether `condition` came true within the time."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def test_told_to_stop_it_takes_its_boxes_with_it(world, tmp_path):
    running = started(world, tmp_path)
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=60) == 143
    assert not os.listdir(tmp_path) and not box_processes(str(tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a box ends only when it next reads its pipe")
def test_killed_it_leaves_no_process(world, tmp_path):
    running = started(world, tmp_path)
    assert box_processes(str(tmp_path))
    running.kill()
    running.wait(timeout=60)
    assert wait_for(lambda: not box_processes(str(tmp_path)), 10)
