"""What `compress inspect` finds out about a file and a run. Meant for compress.bounded: both may be a stranger's.

Not covered: the bytes by section (compress/sizes.py), how it is shown (compress/report.py).
"""

from pathlib import Path

from compress.checkpoint import load_checkpoint, load_statistics
from compress.entropy import Encoded, read_weights
from compress.lab.spread import predicted_losses, spread
from compress.quantise import decoded
from compress.rates import step_rows, tensor_rows, weights_bound
from golf import container
from golf.files import read_bytes


def inspect(file: str | None, run: str | None) -> dict:
    """What is known of a .golf file, of a run, or of both.

    Of a file {"tensors", "weights_bound", "steps"}, of a run {"spread"}, of both also {"predicted_losses"}. A file that
    cannot be read is only named, as {"left_out": why}, if there is a run to tell of. Raises ValueError, OSError.
    """
    result: dict = {}
    encoded = None
    if file is not None:
        try:
            encoded = read_weights(container.read(read_bytes(Path(file)))["WGTS"])
            result |= inspect_artifact(encoded)
        except ValueError as error:
            if run is None:
                raise
            result["left_out"] = str(error)
    if run is not None:
        result |= inspect_run(Path(run), encoded)
    return result


def inspect_artifact(encoded: Encoded) -> dict:
    return {
        "tensors": tensor_rows(encoded),
        "weights_bound": weights_bound(encoded),
        "steps": step_rows(encoded),
    }


def inspect_run(run: Path, encoded: Encoded | None) -> dict:
    """encoded: of the file that the run was packed into, or None."""
    model = load_checkpoint(run).model
    statistics = load_statistics(run, model)
    if statistics is None:
        raise ValueError(f"{run}: no statistics.pt, so nothing is known about its sensitivities")
    result = {"spread": spread(model, statistics)}
    if encoded is not None:
        result["predicted_losses"] = predicted_losses(decoded(encoded.model), model, statistics)
    return result
