"""The box to train in, from inside: what it sees, what it may write, how it ends; and what happens where a layer lacks.

Not covered: other kernels than the one the tests run on, and GPUs.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from golf import processor
from golf.box import trainer, training
from golf.files import Failure

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")

# What a script must not be able to do; each line prints the name of what it could do after all.
ATTACKS = """
import ctypes, os, socket, subprocess, sys

def tried(name, action):
    try:
        action()
    except (OSError, subprocess.SubprocessError):
        return
    print("ESCAPED", name)

secret, outside, own, readable, pid = sys.argv[1:]
tried("reads a file beside the run folder", lambda: open(secret).read())
tried("reads the account file", lambda: open("/etc/passwd").read())
tried("writes what it may read", lambda: open(readable, "a"))
tried("moves times of what it may read", lambda: os.utime(readable))
tried("writes in the root", lambda: open("/x", "w"))
tried("writes in the packages", lambda: open(os.__file__, "a"))
tried("writes settings of the kernel", lambda: open("/proc/sys/kernel/core_pattern", "w"))
tried("opens a socket", lambda: socket.socket())
tried("opens a local socket", lambda: socket.socket(socket.AF_UNIX))
tried("signals another process", lambda: os.kill(int(pid), 0))
tried("mounts", lambda: subprocess.run(["/bin/mount", "-t", "tmpfs", "none", "/tmp"], check=True, stderr=-3))
others = [name for name in os.listdir("/proc") if name.isdigit() and int(name) not in (1, os.getpid())]
print("ESCAPED sees processes" if others else "alone")
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print("capabilities", int(status["CapEff"], 16), "new privileges", 1 - int(status["NoNewPrivs"]))
print(open(readable).read(), os.getcwd() == own, os.listdir(own), sorted(os.listdir(outside)))
open("/tmp/mine", "w").write("kept in memory")
open(outside + "/x", "w").write("in memory too: this folder lies below /tmp")
open("written", "w").write("kept")
"""


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A folder of somebody with a secret, a run folder, and a file that may be read."""
    (tmp_path / "run").mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "readable").write_text("data")
    return tmp_path


def test_the_box_runs_this_very_python(folders):
    """Also where it is built as a shared library, of which the system has another version."""
    process = training.start(
        ["-c", "import sys; print(sys.version)"], readable=[], writable=folders / "run", stdout=subprocess.PIPE
    )
    assert process.communicate()[0].decode().strip() == sys.version.strip()


def boxed(folder: Path, code: str, *arguments: str, **settings) -> subprocess.Popen:
    """`python -c CODE ARGUMENTS` in a box, with pipes."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return training.start(
        ["-c", code, *arguments], readable=[folder / "readable"], writable=folder / "run", **pipes, **settings
    )


def ended(process: subprocess.Popen) -> tuple[str, str]:
    out, error = process.communicate(timeout=120)
    return out.decode(), error.decode()


def test_a_script_sees_its_data_and_writes_its_run_folder_alone(folders):
    arguments = (folders / "secret", folders, folders / "run", folders / "readable", os.getpid())
    out, error = ended(boxed(folders, ATTACKS, *map(str, arguments)))
    assert error == ""
    assert out == "alone\ncapabilities 0 new privileges 0\ndata True [] ['readable', 'run']\n"
    assert sorted(path.name for path in folders.iterdir()) == ["readable", "run", "secret"]
    assert [path.name for path in (folders / "run").iterdir()] == ["written"]
    assert not Path("/tmp/mine").exists()


def test_a_link_that_leads_to_what_is_readable_is_followed_and_another_one_is_not(folders):
    """A data set may be a link to where it lies."""
    (folders / "data").symlink_to("readable")
    (folders / "run/secret").symlink_to(folders / "secret")
    code = "import os, sys; print(open(sys.argv[1]).read(), os.path.exists('secret'))"
    process = training.start(
        ["-c", code, str(folders / "data")],
        readable=[folders / "data"],
        writable=folders / "run",
        stdout=subprocess.PIPE,
    )
    assert ended_without_errors(process) == "data False\n"


def ended_without_errors(process: subprocess.Popen) -> str:
    out, _ = process.communicate(timeout=120)
    return out.decode()


def test_pipes_and_the_exit_status_are_those_of_the_script(folders):
    process = boxed(folders, "import sys; print(sys.stdin.read()[::-1]); print('e', file=sys.stderr); sys.exit(7)")
    assert process.communicate(b"abc", timeout=120) == (b"cba\n", b"e\n")
    assert process.returncode == 7


def test_a_box_has_no_variables_but_its_own_and_those_of_threads(folders, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "x")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    seen = json.loads(ended(boxed(folders, code))[0])
    assert "SECRET_TOKEN" not in seen and "PYTHONPATH" not in seen
    assert seen["OMP_NUM_THREADS"] == "1" and seen["HOME"] == "/tmp"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core")
def test_a_script_keeps_the_cores_that_it_was_started_on(folders):
    """Its threads and the programs that it starts, too."""
    code = """
import os, subprocess, sys, threading
def widen():
    for pid in (0, os.getpid(), threading.get_native_id()):
        os.sched_setaffinity(pid, range(os.cpu_count()))
    print(len(os.sched_getaffinity(0)))
widen()
thread = threading.Thread(target=widen); thread.start(); thread.join()
own = "import os; os.sched_setaffinity(0, range(os.cpu_count())); print(len(os.sched_getaffinity(0)))"
sys.stdout.flush()
subprocess.run([sys.executable, "-c", own])
"""
    with processor.pinned(1):
        out, error = ended(boxed(folders, code))
    assert (out, error) == ("1\n1\n1\n", "")


def processes_with(mark: str) -> list[str]:
    """Numbers of the processes whose command line holds `mark`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


CHILDREN = """
import subprocess, sys, time
mark = sys.argv[1]
for _ in range(2):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", mark], start_new_session=True)
print("started", flush=True)
time.sleep(600)
"""


def wait_until_gone(mark: str) -> None:
    until = time.monotonic() + 60
    while processes_with(mark):
        assert time.monotonic() < until, "the box outlived its end"
        time.sleep(0.05)


def test_kill_ends_the_box_whole(folders):
    mark = f"mark-{os.getpid()}-kill"
    process = boxed(folders, CHILDREN, mark)
    assert process.stdout.readline() == b"started\n"
    process.kill()
    assert process.wait(timeout=60) == -9
    wait_until_gone(mark)


def test_the_box_ends_with_the_process_that_started_it(folders):
    mark = f"mark-{os.getpid()}-parent"
    code = (
        "import sys, time; from pathlib import Path; from golf.box import training\n"
        "training.start(['-c', sys.argv[1], sys.argv[2]], readable=[], writable=Path(sys.argv[3]))\n"
        "time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, CHILDREN, mark, str(folders / "run")], stdout=subprocess.PIPE
    )
    assert parent.stdout.readline() == b"started\n"
    parent.kill()
    parent.wait()
    wait_until_gone(mark)


def test_what_is_not_there_is_named(folders):
    with pytest.raises(Failure, match="missing: there is no such file"):
        training.start(["-c", ""], readable=[folders / "missing"], writable=folders / "run")


def test_all_layers_are_listed_and_the_needed_ones_are_active_here():
    rows = training.layers()
    assert {row["layer"] for row in rows if row["needed"]} == set(trainer.NEEDED)
    assert all(row["active"] for row in rows if row["needed"])
    assert all(row["note"] for row in rows if row["layer"] == "own root, read-only")


def test_without_a_needed_layer_a_script_runs_on_trust_alone(folders, monkeypatch):
    rows = [dict(row, active=row["layer"] != "Landlock: files") for row in training.layers()]
    monkeypatch.setattr(training, "layers", lambda: rows)
    with pytest.raises(Failure, match="missing is Landlock: files.*--trust"):
        boxed(folders, "")
    code = "import os; print(os.path.exists('/etc/passwd'), os.getcwd())"
    assert ended(boxed(folders, code, trust=True))[0] == f"True {folders / 'run'}\n"


COMPILED = """
import torch

@torch.compile
def f(x):
    return (x.sin() * 2).sum()

x = torch.arange(1000.0)
print(float(f(x)) - float((x.sin() * 2).sum()) < 1e-3, torch.get_num_threads())
"""


@pytest.mark.long
def test_torch_compile_finds_its_compiler_in_the_box(folders, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out, error = ended(boxed(folders, COMPILED))
    assert out == "True 1\n", error
