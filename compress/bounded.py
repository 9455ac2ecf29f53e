"""Runs a function of this package in a child process with bounded memory and time, for files that may be a stranger's.

A file of a few kilobytes can ask for gigabytes and hours. The child runs code of this repository only, never the
file's; what comes back is JSON, so nothing is unpickled either.

Not covered: code of a stranger (golf/box); memory on macOS, whose kernel does not hold RLIMIT_DATA.
"""

import importlib
import json
import os
import resource
import signal
import subprocess
import sys

from golf.children import end_with_parent
from golf.files import ROOT, Failure
from golf.foreign import terminal

# Private memory of the child, torch's 0.2 GB included. The pages of libraries come on top: 2 GB in all.
MEMORY_BYTES = 1_800_000_000
CPU_SECONDS = 60  # of the child: our own code does not sleep, and a busy machine changes nothing
PATIENCE_SECONDS = 900  # by the clock, if that limit does not hold
MEMORY_TEXT = "reading it needs more than 2 GB of memory"
TIME_TEXT = f"reading it needs more than {CPU_SECONDS} s"


def call(function: str, **arguments):
    """What `function` ("module:name" in this repository) returns for these arguments; both go through JSON.

    Raises ValueError, one line, where the function does, where it breaks, and where it needs too much.
    """
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "compress.bounded", function],
            input=json.dumps(arguments).encode(),
            capture_output=True,
            cwd=ROOT,
            env=os.environ | one_thread,
            timeout=PATIENCE_SECONDS,
            check=False,
            preexec_fn=end_with_parent(),
        )
    except subprocess.TimeoutExpired:
        raise ValueError(TIME_TEXT) from None
    return result_of(done.returncode, done.stdout)


def result_of(status: int, output: bytes):
    """The result in what a child printed. Raises ValueError with its error, or with what ended it.

    status: its exit status, or minus the number of the signal that ended it.
    """
    try:
        answer = json.loads(output)
        if "result" in answer:
            return answer["result"]
        text = answer["error"]
    except (ValueError, KeyError, TypeError):
        by_limit = {-signal.SIGXCPU: TIME_TEXT, -signal.SIGKILL: MEMORY_TEXT}
        text = by_limit.get(status, f"the process that read it ended with status {status}")
    raise ValueError(terminal(text))


def limit() -> None:
    """Sets the limits of this process, before it imports what is large."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))  # at the second one the signal is SIGKILL
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def answer(function: str, arguments: dict) -> str:
    """{"result"} or {"error"} of a call as JSON. Raises nothing."""
    module, _, name = function.partition(":")
    try:
        return json.dumps({"result": getattr(importlib.import_module(module), name)(**arguments)})
    except MemoryError:
        text = MEMORY_TEXT
    except (ValueError, OSError, Failure) as error:
        text = str(error)
    except Exception as error:  # noqa: BLE001  (a user gets one line, whatever a file does to its reader)
        text = f"cannot be read: {type(error).__name__}: {error}"
        if isinstance(error, RuntimeError) and "allocate memory" in text:  # torch's words for a MemoryError
            text = MEMORY_TEXT
    return json.dumps({"error": text})


if __name__ == "__main__":
    limit()
    print(answer(sys.argv[1], json.load(sys.stdin)))
