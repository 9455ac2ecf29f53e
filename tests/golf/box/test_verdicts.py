"""golf/box: artifacts that misbehave, each of which must end in one verdict and leave nothing behind; and what a box
sees of the scorer, which is nothing.

Not covered: attacks on single layers (test_box.py).
"""

import os
import socket
import tempfile

import pytest

from golf.box import box, confine
from scoring import score as scoring_score
from tests.support.scoring_world import SCRIPT, box_processes

BROKEN = {
    "exits at import": ("import sys; sys.exit(0)", "crash", "SystemExit"),
    "vanishes": ("import os; print('bye\\x1b[2J'); os._exit(3)", "crash", "exit status 3.*last line: bye"),
    "segfault": ("import ctypes; ctypes.string_at(0)", "crash", "SIGSEGV"),
    "dies and leaves a child that holds the pipes": (
        "import os, time\nif os.fork() == 0:\n    time.sleep(3600)\nos._exit(4)",
        "crash",
        "exit status 4|PermissionError",
    ),  # with seccomp it cannot even start
    "hangs": ("import time; Model.forward = lambda self, tokens: time.sleep(3600)", "hang", "time limit of 8 s"),
    "NaN": (
        "Model.forward = lambda self, t: torch.full((*t.shape, 300), float('nan'))",
        "not-a-number",
        "NaN or infinity at symbol 0",
    ),
    "probability zero": (
        "Model.forward = lambda self, t: F.one_hot(t * 0, 300).float().log()",
        "not-a-number",
        "probability zero",
    ),
    "wrong shape": ("Model.forward = lambda self, t: torch.zeros(*t.shape, 299)", "shape", r"299\], not \[.*300\]"),
    "prints without end": ("while True:\n    print('x' * 100000)", "flood", "printed more than"),
    "writes into the channel": (
        "import json, os, sys\nos.write(json.loads(sys.argv[-1])['reply_fd'], b'\\xff' * 64)",
        "protocol",
        "a message of",
    ),
    "wrong weights": (
        "Config = dataclasses.make_dataclass('Config', [('vocab_size', int, 299), ('width', int, 16)])",
        "crash",
        "building the model: RuntimeError.*size mismatch",
    ),
    "unknown scope": (
        "class Scorer:\n    scope, chunk = 'world', 4\n    def __init__(self, *_): pass",
        "protocol",
        "scope 'world'",
    ),
    "huge chunk": (
        "class Scorer:\n    scope, chunk = 'none', 10 ** 9\n    def __init__(self, *_): pass",
        "protocol",
        "chunk 1000000000",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_artifact_ends_in_one_verdict_and_leaves_nothing(world, name, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code, kind, text = BROKEN[name]
    artifact = world.artifact(f"{SCRIPT}\n{code}\n", name="broken.golf")
    with pytest.raises(box.BoxFailure, match=f"(?s)FAILED .*{text}") as caught:
        world.score(artifact, processes=1, time_limit=8 if kind == "hang" else 120)
    assert caught.value.kind == kind
    assert str(caught.value).isprintable()  # one line, nothing that steers a terminal
    assert not os.listdir(tmp_path) and not box_processes(tmp_path)


PROBES = {
    "environment": """
import os
assert "GOLF_TEST_SECRET" not in os.environ, "the scorer's environment reached the box"
assert os.environ["OMP_WAIT_POLICY"] == "passive" and len(os.environ) < 12, sorted(os.environ)
""",
    "directory": """
import os, sys
assert sorted(os.listdir()) == ["__pycache__", "config.json", "decode.py", "train_gpt.py", "weights.bin"], os.listdir()
assert not {name.split(".")[0] for name in sys.modules} & {"scoring", "compress", "tools"}, "imports the repository"
import importlib.util
assert importlib.util.find_spec("scoring") is None, "the box can import the repository"
assert os.path.samefile(os.path.dirname(__file__), os.getcwd()), __file__
""",
    "descriptors": """
import json, os, sys
options = json.loads(sys.argv[-1])
own = {0, 1, 2, options["command_fd"], options["reply_fd"], options["memory_fd"]}
if os.path.isdir("/proc/self/fd"):
    others = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) not in own
              and os.path.exists(f"/proc/self/fd/{fd}")]
    assert not [name for name in others if "secret" in name], others
""",
    "memory": """
import json, os, sys
if sys.platform == "linux":
    try:
        os.ftruncate(json.loads(sys.argv[-1])["memory_fd"], 0)
    except PermissionError:
        pass
    else:
        raise AssertionError("the shared memory could be cut")
""",
    "core and files": """
import resource
assert resource.getrlimit(resource.RLIMIT_CORE)[1] == 0
try:
    open("big", "wb").truncate(1 << 30)
except OSError:
    pass
else:
    raise AssertionError("a file of 1 GiB")
""",
}


def test_box_sees_nothing_of_the_scorer(world, monkeypatch, tmp_path):
    """All probes in one artifact; a probe that finds something raises, which would fail the score."""
    monkeypatch.setenv("GOLF_TEST_SECRET", "1")
    with open(tmp_path / "secret", "wb") as secret:
        os.set_inheritable(secret.fileno(), True)
        result = world.score(world.artifact(SCRIPT + "".join(PROBES.values()), name="probe.golf"))
    layers = {row["layer"]: row["active"] for row in result["sandbox"]}
    assert layers["no core dumps"] and layers["own session, no inherited descriptors, empty environment"]


def test_box_has_no_network_where_the_layer_is_active(world):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        probe = f"""
import socket
try:
    socket.create_connection(("127.0.0.1", {server.getsockname()[1]}), 2)
except OSError:
    pass
"""
        result = world.score(world.artifact(SCRIPT + probe, name="probe.golf"))
        active = {row["layer"]: row["active"] for row in result["sandbox"]}["network namespace"]
        if active:
            with pytest.raises(BlockingIOError):
                server.accept()
        else:
            server.accept()[0].close()  # the table says that the network is open, and it is


def test_limits_are_what_they_say(world):
    """The box reports each layer of confine.py with a note where it is missing, and none twice."""
    submission = scoring_score.read_artifact(world.artifact())[0]
    running = box.Box(submission, threads=1, time_limit=120)
    try:
        running.load()
        names = [row["layer"] for row in running.layers]
        assert len(set(names)) == len(names) == 15
        assert all(row["active"] or row["note"] for row in running.layers)
        if os.path.isdir("/proc"):
            with open(f"/proc/{running.process.pid}/limits") as file:
                limits = file.read()
            assert f"Max file size             {confine.MAX_FILE_BYTES} " in limits
            assert f"Max open files            {confine.MAX_OPEN_FILES} " in limits
    finally:
        running.close()
    assert not os.path.exists(running.directory)
