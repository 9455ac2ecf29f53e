"""The scorer under bad luck: killed boxes, a full disk, a held-out file that changes, mutated artifacts. One clear line
each, no hang, nothing left behind.

Not covered: a machine that loses power.
"""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest

import eval_heldout
from golf.box import box
from golf.files import Failure
from scoring import likelihood, overhead, passes
from scoring import score as scoring_score
from tests.support import ROOT, light_box
from tests.support.box_walls import in_work_folder
from tests.support.scoring_world import ADAPTIVE, SCRIPT, box_processes, plain_evaluation

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("when", ["import", "scoring"])
def test_killed_box_is_one_verdict(world, monkeypatch, tmp_path, when):
    """kill -9 of the box's guardian from outside, while it imports and while it scores."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    slow = {
        "import": "import time\nopen('now', 'w').close()\ntime.sleep(600)\n",
        "scoring": "def slow(self, t):\n    import time\n    open('now', 'w').close()\n    time.sleep(600)\n"
        "Model.forward = slow\n",
    }[when]
    killed = []

    def kill():
        until = time.monotonic() + 100
        while not in_work_folder(tmp_path, "now") and time.monotonic() < until:
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
    light = when == "import"
    script = slow if light else f"{SCRIPT}\n{slow}"
    with light_box.without_torch() if light else contextlib.nullcontext():
        with pytest.raises(box.BoxFailure, match=r"FAILED \(crash\): the box ended with SIGKILL") as caught:
            world.score(world.artifact(script, name="slow.golf"), time_limit=200)
    thread.join()
    assert killed and str(caught.value).isprintable()
    assert not os.listdir(tmp_path) and not box_processes(tmp_path)


def test_full_disk_while_the_box_is_made_and_while_the_result_is_written(world, monkeypatch, tmp_path, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    out = tmp_path / "out" / "eval.json"
    out.parent.mkdir()
    arguments = [world.artifact(), "--data", str(world.data), "--processes", "1", "--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr(box.shutil, "copyfile", full)
        assert eval_heldout.main(arguments) == 1
    assert capsys.readouterr().err == f"eval_heldout: No space left on device: {tmp_path}\n"
    with monkeypatch.context() as patch:
        patch.setattr(eval_heldout, "score", lambda *_: {"bpb": 1.0})
        patch.setattr(eval_heldout.os, "replace", full)
        assert eval_heldout.main(arguments) == 1
    assert capsys.readouterr().err == f"eval_heldout: No space left on device: {out}\n"
    assert os.listdir(tmp_path) == ["out"] and os.listdir(out.parent) == []


def test_a_disk_that_is_really_full(world, tmp_path):
    """A file system of one page, in a mount namespace of its own: for the box, for the result, for what is printed."""
    small = tmp_path / "small"
    small.mkdir()
    mount = f"mount -t tmpfs -o size=4k none {small} && exec "
    if (
        sys.platform != "linux"
        or subprocess.run(["unshare", "-rm", "sh", "-c", f"{mount} true"], capture_output=True).returncode
    ):
        pytest.skip("needs a mount namespace")

    def run(command):
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", f"{mount} {command}"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(small)},
        )
        return done.returncode, done.stderr

    code, text = run(
        f"{sys.executable} eval_heldout.py {world.artifact()} --data {world.data} --processes 1 --out {small}/eval.json"
    )
    assert (code, text.count("\n")) == (1, 1) and text.startswith("eval_heldout: No space left on device: ")
    write = (
        f"import os\nfrom golf import files\ntry:\n files.write_atomic('{small}/e', b'x' * 10 ** 5)\n"
        f"except OSError as error:\n print(error.filename, os.listdir('{small}'), file=__import__('sys').stderr)"
    )
    assert run(f'{sys.executable} -c "{write}"') == (0, f"{small}/e []\n")


def test_what_cannot_be_printed_is_one_line():
    """A full disk behind standard output; Python must not try again, with a traceback, when it ends."""
    code = (
        "import eval_heldout\ntry:\n eval_heldout.show({'bpb': 1.0}, print, 'a table')\n"
        "except eval_heldout.Failure as error:\n print(error, file=__import__('sys').stderr)"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "cannot print: No space left on device\n")


CHANGES = {
    "held-out text": lambda w, artifact: (w.data / "dev_docs.jsonl").write_bytes(b""),
    "manifest": lambda w, artifact: (w.data / "manifest.json").unlink(),
    "artifact": lambda w, artifact: Path(artifact).write_bytes(b"x"),
}


@pytest.mark.parametrize("name", [None, *CHANGES, "scorer"])
def test_a_file_that_changes_during_the_pass_ends_it(world, monkeypatch, name):
    """What is scored was read once and checked; but a result must not lie beside other files than it names. (The pass
    itself is a stub: every symbol costs one nat.)"""

    def stub(submission, documents, *_):
        if name in CHANGES:
            CHANGES[name](world, artifact)
        if name == "scorer":
            monkeypatch.setattr(scoring_score, "scorer_sha256", lambda: "changed")
        ledger = likelihood.Ledger([len(document.tokens) for document in documents])
        ledger.nats = [np.ones(len(document.tokens)) for document in documents]
        fake = types.SimpleNamespace(scope="document", device="cpu", layers=[], claims=False)
        return ledger, [fake], {"score": 1.0}, []

    monkeypatch.setattr(scoring_score, "score_documents", stub)
    monkeypatch.setattr(scoring_score.lossless, "check", lambda *_: None)
    artifact = world.artifact(name="changes.golf")
    before = {path: path.read_bytes() for path in world.data.iterdir()}
    try:
        if name is None:
            assert world.score(artifact)["nats"] == world.score(artifact)["tokens"]
        else:
            with pytest.raises(Failure, match=r"^FAILED \(changed\): .* changed while it (was )?scored"):
                world.score(artifact)
    finally:
        for path, data in before.items():
            path.write_bytes(data)


KILLED = """
import os, signal, sys
import eval_heldout
from scoring import likelihood

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

real = likelihood.Ledger.commit
if sys.argv[1] == "scoring":
    likelihood.Ledger.commit = lambda *arguments: (real(*arguments), kill())
else:
    eval_heldout.score = lambda *_: {"bpb": 1.0}
    eval_heldout.os.replace = kill
sys.exit(eval_heldout.main(sys.argv[2:]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a box ends only when it next reads its pipe")
def test_a_killed_run_leaves_nothing_to_the_next_which_starts_clean(world, monkeypatch, tmp_path):
    """kill -9 after the first committed symbols, then with the result written and not in its place: no eval.json. The
    next run has the score of one that nobody disturbed, and takes away what the two left."""
    out, temporary = tmp_path / "out" / "eval.json", tmp_path / "temporary"
    out.parent.mkdir()
    temporary.mkdir()
    arguments = [world.artifact(), "--data", str(world.data), "--processes", "1", "--out", str(out)]
    for point in ("scoring", "writing"):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, point, *arguments],
            cwd=ROOT,
            capture_output=True,
            env={**os.environ, "TMPDIR": str(temporary)},
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not out.exists()
        assert list(temporary.glob("golf-box-*")) if point == "scoring" else list(out.parent.glob(".eval.json.*"))
    until = time.monotonic() + 60
    while box_processes(str(temporary)) and time.monotonic() < until:
        time.sleep(0.05)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert eval_heldout.main(arguments) == 0
    assert os.listdir(temporary) == [] and os.listdir(out.parent) == ["eval.json"]
    result = json.loads(out.read_text())
    assert [row["nats"] for row in result["per_document"]] == pytest.approx(plain_evaluation(world, 8), rel=1e-6)


@pytest.mark.usefixtures("warm_boxes")
@pytest.mark.parametrize("script", [SCRIPT, ADAPTIVE.replace("SCOPE", "stream")])
def test_overhead_compares_equal_work(world, script):
    """The plain evaluation gives the same nats as the boxed pass; the times are only reported."""
    submission, tokenizer, _ = scoring_score.read_artifact(world.artifact(script))
    documents, _ = scoring_score.read_documents(str(world.data), "dev")
    scoring_score.tokenise(tokenizer, documents)
    result = overhead.measure(submission, documents, rounds=1)
    assert result["nats_difference"] < 1e-6 and result["threads"] == passes.cores()
    assert result["overhead"] == pytest.approx(result["scorer_seconds"] / result["plain_seconds"], rel=0.2)
