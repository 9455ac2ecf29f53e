"""The scorer under bad luck: killed boxes, a full disk, a held-out file that changes, mutated artifacts. One clear line
each, no hang, nothing left behind.

Not covered: a machine that loses power.
"""

import errno
import os
import signal
import tempfile
import threading
import time

import pytest

import eval_heldout
from scoring import ScoringError, box, overhead, passes
from scoring import score as scoring_score
from test_scoring import ADAPTIVE, SCRIPT, box_processes, world  # noqa: F401  (world is a fixture)
from tests.redteam import fuzz


def test_mutated_artifacts_end_in_one_line(tmp_path):
    """A few hundred of the 10,000 of `make fuzz`."""
    result = fuzz.fuzz(400, seed=1, folder=tmp_path)
    assert result["tracebacks"] == [] and result["hangs"] == 0 and result["left_behind"] == []
    assert result["refused"] > 200 and result["accepted"] > 20  # it is neither a reader that refuses all, nor none
    assert not os.listdir(tmp_path)


def test_the_fuzzer_sees_a_traceback(monkeypatch, tmp_path):
    def broken(path):
        raise RecursionError("too deep")
    monkeypatch.setattr(fuzz, "read_artifact", broken)
    assert fuzz.fuzz(3, folder=tmp_path)["tracebacks"][0] == "case 0: RecursionError: too deep"


@pytest.mark.parametrize("when", ["import", "scoring"])
def test_killed_box_is_one_verdict(world, monkeypatch, tmp_path, when):
    """kill -9 of the box's guardian from outside, while it imports and while it scores."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    slow = {"import": "import time\nopen('now', 'w').close()\ntime.sleep(600)\n",
            "scoring": "def slow(self, t):\n    import time\n    open('now', 'w').close()\n    time.sleep(600)\n"
                       "Model.forward = slow\n"}[when]
    killed = []

    def kill():
        until = time.monotonic() + 100
        while not list(tmp_path.glob("golf-box-*/work/now")) and time.monotonic() < until:
            time.sleep(0.05)
        for path in os.listdir("/proc"):
            try:
                with open(f"/proc/{path}/cmdline", "rb") as file:
                    if f"{tmp_path}/golf-box-".encode() in file.read():
                        os.kill(int(path), signal.SIGKILL)
                        killed.append(path)
                        return
            except (OSError, ValueError):
                continue

    if not os.path.isdir("/proc"):
        pytest.skip("needs /proc to find the box")
    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(box.BoxFailure, match=r"FAILED \(crash\): the box ended with SIGKILL") as caught:
        world.score(world.artifact(f"{SCRIPT}\n{slow}", name="slow.golf"), time_limit=200)
    thread.join()
    assert killed and str(caught.value).isprintable()
    assert not os.listdir(tmp_path) and not box_processes(tmp_path)


def test_full_disk_while_the_box_is_made_and_while_the_result_is_written(world, monkeypatch, tmp_path, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    out = tmp_path / "out" / "eval.json"
    out.parent.mkdir()
    arguments = [world.artifact(), "--data", str(world.data), "--processes", "1", "--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr(box.shutil, "copyfile", full)
        assert eval_heldout.main(arguments) == 1
    assert capsys.readouterr().err == "eval_heldout: No space left on device: somewhere\n"
    with monkeypatch.context() as patch:
        patch.setattr(eval_heldout.json, "dump", full)
        assert eval_heldout.main(arguments) == 1
    assert capsys.readouterr().err == "eval_heldout: No space left on device: somewhere\n"
    assert os.listdir(tmp_path) == ["out"] and os.listdir(out.parent) == []


def test_held_out_file_that_changes_during_the_pass_changes_nothing(world, monkeypatch):
    """The text is read once, checked, and then only in memory: a later change is the next run's problem."""
    path = world.data / "dev_docs.jsonl"
    before, expected = path.read_bytes(), world.score(world.artifact())["bpb"]
    real = scoring_score.score_documents

    def change_then_score(*arguments):
        path.write_bytes(before.replace(b"sea", b"see"))
        return real(*arguments)

    monkeypatch.setattr(scoring_score, "score_documents", change_then_score)
    try:
        assert world.score(world.artifact())["bpb"] == expected
        with pytest.raises(ScoringError, match="is not the file of its manifest"):
            world.score(world.artifact())
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("script", [SCRIPT, ADAPTIVE.replace("SCOPE", "stream")])
def test_overhead_compares_equal_work(world, script):
    """The plain evaluation gives the same nats as the boxed pass; the times are only reported."""
    submission, tokenizer, _ = scoring_score.read_artifact(world.artifact(script))
    documents, _ = scoring_score.read_documents(str(world.data), "dev")
    scoring_score.tokenise(tokenizer, documents)
    result = overhead.measure(submission, documents, rounds=1)
    assert result["nats_difference"] < 1e-6 and result["threads"] == passes.cores()
    assert result["overhead"] == pytest.approx(result["scorer_seconds"] / result["plain_seconds"], rel=0.2)
