"""What the folder of a run says of its state. Not covered: reading the run's numbers (tools/runs/ledger.py)."""

from pathlib import Path

from golf.files import Failure, read_json


def finished(folder: Path) -> bool:
    """Whether training came to its end by itself: run.json is written last, and says if the run was told to stop.

    A run that was told to stop is trained again by whoever asked for it.
    """
    try:
        return read_json(folder / "run.json").get("stopped") != "sigterm"
    except Failure:
        return False
