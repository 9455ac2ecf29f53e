"""Runs a function of this package in a child process with bounded memory and time, for files that may be a stranger's.

A file of a few kilobytes can ask for gigabytes and minutes. The child runs code of this repository only, never the
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

from golf.files import ROOT
from golf.foreign import terminal

MEMORY_BYTES = 2 << 30  # private memory of the child, torch's 0.2 GB included
SECONDS = 60
MEMORY_TEXT = f"it needs more than {MEMORY_BYTES:,} bytes of memory"
TIME_TEXT = f"it needs more than {SECONDS} s"


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
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(TIME_TEXT) from None
    try:
        answer = json.loads(done.stdout)
        if "result" in answer:
            return answer["result"]
        text = answer["error"]
    except (ValueError, KeyError):
        if done.returncode == -signal.SIGXCPU:
            text = TIME_TEXT
        elif done.returncode == -signal.SIGKILL:
            text = MEMORY_TEXT
        else:
            text = f"the process that read it ended with status {done.returncode}"
    raise ValueError(terminal(text))


def main() -> None:
    """The child: arguments as JSON on standard input, {"result"} or {"error"} as JSON on standard output."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    module, _, name = sys.argv[1].partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
        answer = {"result": function(**json.load(sys.stdin))}
        text = json.dumps(answer)
    except MemoryError:
        text = json.dumps({"error": MEMORY_TEXT})
    except (ValueError, OSError) as error:
        text = json.dumps({"error": str(error)})
    except Exception as error:  # noqa: BLE001  (a user gets one line, whatever a file does to its reader)
        refused = isinstance(error, RuntimeError) and "allocate memory" in str(error)  # torch's own
        text = json.dumps({"error": MEMORY_TEXT if refused else f"cannot be read: {type(error).__name__}: {error}"})
    print(text)


if __name__ == "__main__":
    main()
