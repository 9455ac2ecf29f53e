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
from tests.support import light_box, sample
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
    "prints without end": ("while True:\n    print('x' * 100000)", "flood", "printed more than"),
    "writes into the channel": (
        "import json, os, sys\nos.write(json.loads(sys.argv[-1])['reply_fd'], b'\\xff' * 64)",
        "protocol",
        "a message of",
    ),
    "unknown scope": ("Scorer.scope = 'world'", "protocol", "scope 'world'"),
    "huge chunk": ("Scorer.chunk = 10 ** 9", "protocol", "chunk 1000000000"),
    "hangs": ("import time; time.sleep(3600)", "hang", "no answer within the time limit of 2 s while"),
}
BROKEN_MODELS = {
    "NaN": (
        "Model.forward = lambda self, t: torch.full((*t.shape, 300), float('nan'))",
        "not-a-number",
        "NaN or infinity at symbol 0",
    ),
    "wrong shape": ("Model.forward = lambda self, t: torch.zeros(*t.shape, 299)", "shape", r"299\], not \[.*300\]"),
    "wrong weights": (
        "Config = dataclasses.make_dataclass('Config', [('vocab_size', int, 299), ('width', int, 16)])",
        "crash",
        "building the model: RuntimeError.*size mismatch",
    ),
}


@pytest.fixture
def verdict(world, monkeypatch, tmp_path):
    """A function that scores an artifact which must fail, and checks its one verdict; nothing may be left behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def check(kind, text, time_limit=120, **artifact):
        with pytest.raises(box.BoxFailure, match=f"(?s)FAILED .*{text}") as caught:
            world.score(world.artifact(**artifact, name="broken.golf"), processes=1, time_limit=time_limit)
        assert caught.value.kind == kind
        assert str(caught.value).isprintable()  # one line, nothing that steers a terminal
        assert not os.listdir(tmp_path) and not box_processes(tmp_path)

    return check


@pytest.mark.parametrize("name", sample(BROKEN, 2))
def test_broken_artifact_ends_in_one_verdict_and_leaves_nothing(verdict, name):
    code, kind, text = BROKEN[name]
    with light_box.without_torch():
        verdict(kind, text, time_limit=2 if kind == "hang" else 120, script=f"{light_box.SCRIPT}\n{code}\n",
                decode=light_box.DECODE)  # fmt: skip


@pytest.mark.parametrize("name", sample(BROKEN_MODELS, 2))
def test_broken_model_ends_in_one_verdict_and_leaves_nothing(verdict, name):
    code, kind, text = BROKEN_MODELS[name]
    verdict(kind, text, script=f"{SCRIPT}\n{code}\n")


def test_broken_decoder_is_named(verdict):
    decode = "def decode_weights(payload):\n    raise ValueError('row 3 is damaged')\n"
    with light_box.without_torch():
        verdict("crash", "decoding the weights: ValueError: row 3 is damaged", script=light_box.SCRIPT, decode=decode)


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


NETWORK = """
import socket
try:
    socket.create_connection(("127.0.0.1", {port}), 2)
except OSError:
    pass
"""


def test_box_sees_nothing_of_the_scorer_and_no_network(world, monkeypatch, tmp_path):
    """All probes in one artifact; a probe that finds something raises, which would fail the score. The network is
    closed where its layer is active; where it is not, the table says so, and it is open."""
    monkeypatch.setenv("GOLF_TEST_SECRET", "1")
    with open(tmp_path / "secret", "wb") as secret, socket.create_server(("127.0.0.1", 0)) as server:
        os.set_inheritable(secret.fileno(), True)
        server.setblocking(False)
        probes = "".join(PROBES.values()) + NETWORK.format(port=server.getsockname()[1])
        result = world.score(world.artifact(SCRIPT + probes, name="probe.golf"))
        layers = {row["layer"]: row["active"] for row in result["sandbox"]}
        assert layers["no core dumps"] and layers["own session, no inherited descriptors, empty environment"]
        if layers["network namespace"]:
            with pytest.raises(BlockingIOError):
                server.accept()
        else:
            server.accept()[0].close()


def test_limits_are_what_they_say(world):
    """The box reports each layer of confine.py with a note where it is missing, and none twice."""
    artifact = world.artifact(light_box.SCRIPT, light_box.DECODE, name="light.golf")
    with light_box.without_torch():
        running = box.Box(scoring_score.read_artifact(artifact)[0], threads=1, time_limit=120)
    try:
        running.load()
        names = [row["layer"] for row in running.layers]
        assert len(set(names)) == len(names) == 19
        assert all(row["active"] or row["note"] for row in running.layers)
        if os.path.isdir("/proc"):
            with open(f"/proc/{running.process.pid}/limits") as file:
                limits = file.read()
            assert f"Max file size             {confine.MAX_FILE_BYTES} " in limits
            assert f"Max open files            {confine.MAX_OPEN_FILES} " in limits
    finally:
        running.close()
    assert not os.path.exists(running.directory)
