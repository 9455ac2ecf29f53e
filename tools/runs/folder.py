"""What the folder of a run says of its state, and what train.log says of a run that has no run.json.

The files may be a stranger's: of a log, however long, only the beginning and the end are read. Not covered: reading the
run's numbers (tools/runs/ledger.py).
"""

import hashlib
import json
import os
import re
import time
from pathlib import Path

from golf import locks
from golf.files import Failure, open_regular, read_json

HEAD_BYTES = 2**21  # of a log that holds the script, of at most golf/script.py's MAX_BYTES, and the config
TAIL_BYTES = 2**16  # of a log: its last line
QUIET_SECONDS = 600  # without a line in train.log, which nobody holds locked: then the run counts as crashed


TOLD_TO_STOP = ("sigint", "sigterm")  # run.json's "stopped" of a run that somebody ended


def finished(folder: Path) -> bool:
    """Whether training came to its end by itself: run.json is written last, and says if the run was told to stop.

    A run that was told to stop is trained again by whoever asked for it.
    """
    try:
        return read_json(folder / "run.json").get("stopped") not in TOLD_TO_STOP
    except Failure:
        return False


def is_crashed(log: Path, changed: float) -> bool:
    """Whether the run of a train.log without a run.json has gone: nothing was written for a long time, and no process
    has the log locked, as train_gpt.py has while it runs, however long it compiles.

    changed: when something was last written, in seconds since 1970.
    """
    return time.time() - changed > QUIET_SECONDS and not locks.is_held(log)


def head(log: Path) -> bytes:
    """The beginning of train.log. Failure if it is no regular file. Raises OSError."""
    with open_regular(log) as file:
        return file.read(HEAD_BYTES)


def script_in(data: bytes) -> bytes | None:
    """The script at the head of a log, up to the line `# source_sha256 HEX` that fits it; None if there is none."""
    digest, done = hashlib.sha256(), 0
    for match in re.finditer(rb"\n# source_sha256 ([0-9a-f]{64})\n", data):
        digest.update(data[done : match.start()])
        done = match.start()
        if digest.hexdigest().encode() == match[1]:
            return data[:done]
    return None


def config_in(data: bytes) -> dict:
    """The config in the head of a log, where it is a line of its own after the script; {} if there is none."""
    match = re.search(rb"^config (\{.*\})$", data, flags=re.MULTILINE)
    try:
        value = json.loads(match[1]) if match else {}
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def last_lines(log: Path) -> list[str]:
    """The lines at the end of a log; the first may be a part of one, the last is "" if a newline ends the log. Failure
    if it is no regular file. Raises OSError."""
    with open_regular(log) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
        return file.read(TAIL_BYTES).decode(errors="replace").split("\n")
