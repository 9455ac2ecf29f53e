"""A box to train in: starts a training script of a stranger where it can read its data and write its run folder, and
nothing else.

    process = start(["train_gpt.py", "--preset=tiny"], readable=[script, data], writable=folder)

The program that goes into the box is trainer.py, which makes the walls and then becomes `python ARGUMENTS`. What it
sees is listed there. The box ends with the process that started it, and whole: its processes are in a namespace of
their own, which ends with the first of them.

Not covered: bugs of the kernel; runs on several GPUs or machines (there is no network, not even to itself); that what
the script wrote is honest: its files are a stranger's, links among them, so check_plain() of golf/files.py comes first.
"""

import functools
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

from golf import temporary
from golf.box import cgroup, driver
from golf.children import end_with_parent
from golf.files import Failure

PROGRAM = Path(__file__).with_name("trainer.py")
TEMPORARY = "/tmp"  # in the box: memory of its own
# Of the caller's environment, what says how many threads a library takes and where they run.
THREADS = (
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "OMP_PROC_BIND",
    "OMP_PLACES",
    "GOMP_CPU_AFFINITY",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
)
MEMORY_SHARE = 0.9  # of the machine's, for the box


def start(
    arguments: list[str],
    *,
    readable: list[Path],
    writable: Path,
    trust: bool = False,
    stdin=None,
    stdout=None,
    stderr=None,
) -> subprocess.Popen:
    """Runs `python ARGUMENTS` in a box, in the folder `writable`, and returns the process, which kill() ends whole.

    readable: files and folders that it sees beside Python, its packages and a compiler. writable: the one folder that
    it may change and that is kept; /tmp is its own and gone with it. stdin, stdout, stderr: as of subprocess.Popen.
    Call it from a thread that lives as long as the box.

    Raises Failure if a path is missing, or if this machine lacks a layer that the box needs; with `trust` the script
    then runs without a box."""
    readable = [Path(os.path.abspath(path)) for path in readable]
    writable = Path(os.path.abspath(writable))
    for path in (*readable, writable):
        if not path.exists():
            raise Failure(f"{path}: there is no such file or folder to show to the training box")
    lacking = [row["layer"] for row in layers() if row["needed"] and not row["active"]]
    if lacking and not trust:
        raise Failure(
            f"a box to train in cannot be made here: missing is {', '.join(lacking)}; on a machine that you can lose, "
            "and for a script that you have read, --trust runs it without"
        )
    streams = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
    if lacking:
        variables = _environment(str(writable))
        command = [sys.executable, *arguments]
        return subprocess.Popen(command, cwd=writable, env=variables, preexec_fn=end_with_parent(), **streams)
    options: dict = {
        "arguments": arguments,
        "readable": [str(path) for path in readable],
        "writable": str(writable),
        "environment": _environment(TEMPORARY),
    }
    return _launch(options, cwd=writable, **streams)


@functools.cache
def layers() -> list[dict]:
    """What a box to train in has on this machine: {"layer", "active", "note", "needed"} each. A layer that is `needed`
    and not active keeps a box from being started."""
    with temporary.folder("layers") as folder:
        options: dict = {"arguments": None, "readable": [], "writable": str(folder), "environment": {}}
        process = _launch(options, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        out, error = process.communicate()
    if process.returncode != 0:
        last = (error.strip().splitlines() or ["no message"])[-1]
        raise Failure(f"the box to train in does not start: exit status {process.returncode}: {last[:300]}")
    return json.loads(out)


def memory_bytes() -> int:
    """How much memory a box may take."""
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * MEMORY_SHARE)


def _launch(options: dict, **settings) -> subprocess.Popen:
    """trainer.py with these options. `settings`: of subprocess.Popen."""
    cgroup.remove_stale()
    limits = {
        "memory_bytes": memory_bytes(),
        "group": cgroup.make(f"{cgroup.PREFIX}{uuid.uuid4().hex[:12]}", memory_bytes(), 4096),
    }
    command = [sys.executable, "-I", "-X", "utf8", str(PROGRAM), json.dumps(options | limits)]
    return subprocess.Popen(command, env=_environment(TEMPORARY), start_new_session=True, **settings)


def _environment(home: str) -> dict[str, str]:
    """The variables of a box whose own files lie in `home`."""
    variables = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": home,
        "TMPDIR": home,
        "USER": "golf",  # the account's name is not to be seen in the box, and getpass asks for it
        "TORCHINDUCTOR_CACHE_DIR": os.path.join(home, "inductor"),
    }
    if folders := driver.find().folders:
        variables["LD_LIBRARY_PATH"] = ":".join(folders)
    return variables | {name: os.environ[name] for name in THREADS if name in os.environ}
