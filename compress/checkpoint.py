"""Reads what a run leaves for the packer: checkpoint.pt and statistics.pt, checked so that later code can trust them.

Both may be a stranger's. They are mapped and not read, so a tensor that claims more numbers than the file holds is
never made, and one number that is said to be a billion is refused.

Not covered: run.json and the logs (the packer needs nothing of them).
"""

import hashlib
import math
import reprlib
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch

from golf.files import Failure, open_regular, unusable
from golf.foreign import terminal

# A tied head stands in a state_dict under two names, and in the file once.
MOST_NAMES = 2
# Of a second moment, in absolute value: products of two fit float64, and training gives none above one million.
LARGEST_MOMENT = 1e30
# What statistics say in `made` that golf calibrate gathered, after training: a record under a clock may not use them.
MADE_OUTSIDE = "outside the clock"


class RunError(ValueError):
    """A run that cannot be packed; the message says in one line which file, what is wrong, what to do."""


@dataclass(frozen=True)
class Checkpoint:
    track: str
    config: dict  # fields of Config that differ from the script's defaults
    source: str  # train_gpt.py as it ran
    tokenizer: bytes  # tokenizer.model
    model: dict[str, torch.Tensor]  # float32, on the CPU
    bytes_per_token: float | None  # of the dev split; None in checkpoints of before it was saved
    groups: dict[str, str]  # parameter -> group declared by the script, as "embedding"; empty in older checkpoints


@dataclass(frozen=True)
class Statistics:
    """Second moments gathered by the training script on training data."""

    tokens: int
    linear: dict[str, dict]  # weight name -> {"tap": name, "output_gradient": [out]}
    taps: dict[str, torch.Tensor]  # tap name -> E[x x^T] [in, in]
    embedding: dict[str, dict]  # weight name -> {"gradient_second_moment": [D, D], "row_gradient": [V]} at its output
    made: str = "inside the clock"  # or MADE_OUTSIDE


def load_checkpoint(run: Path) -> Checkpoint:
    """RUN/checkpoint.pt. Raises RunError if it is missing, damaged, incomplete, or holds NaN or infinities."""
    path = Path(run) / "checkpoint.pt"
    value = _load(path, f"{path}: no such file; is {run} the folder of a finished run?")
    fields = {
        "track": str,
        "config": dict,
        "source": str,
        "source_sha256": str,
        "tokenizer": torch.Tensor,
        "model": dict,
    }
    _check_fields(path, value, fields)
    if hashlib.sha256(value["source"].encode(errors="replace")).hexdigest() != value["source_sha256"]:
        raise RunError(f"{path}: the source does not match its source_sha256; the file was edited or is damaged")
    if reason := unusable(value["config"]):
        raise RunError(f"{path}: config: {reason}")
    if not value["model"]:
        raise RunError(f"{path}: the model holds no tensors")
    model = checked_model(path, value["model"])
    if value["tokenizer"].dtype != torch.uint8 or value["tokenizer"].ndim != 1 or not _is_dense(value["tokenizer"]):
        raise RunError(f"{path}: the tokenizer is not a row of bytes")
    tokenizer = value["tokenizer"].detach().numpy().tobytes()
    bytes_per_token = value.get("bytes_per_token")
    if bytes_per_token is not None and not (isinstance(bytes_per_token, float) and 0 < bytes_per_token < math.inf):
        raise RunError(f"{path}: bytes_per_token is {_shown(bytes_per_token)}, not a positive number")
    groups = _groups(path, value.get("parameters", {}), model)
    return Checkpoint(value["track"], value["config"], value["source"], tokenizer, model, bytes_per_token, groups)


def checked_model(path: Path, tensors: dict) -> dict[str, torch.Tensor]:
    """The tensors of a model in float32. Raises RunError if one cannot be packed, or if they claim more than the file
    has."""
    model = {}
    size = 0
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise RunError(f"{path}: a tensor is named {_shown(name)}, which is not text")
        where = f"{path}: {terminal(name, 100)}"
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            kind = str(tensor.dtype) if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise RunError(f"{where} is {kind}; only floating-point tensors can be packed")
        if not _is_dense(tensor):
            raise RunError(
                f"{where} is sparse or has no values of its own for all its places; only dense tensors can be packed"
            )
        size += tensor.nbytes
        if size > MOST_NAMES * path.stat().st_size:
            raise RunError(f"{where}: the tensors up to this one claim {size:,} bytes, more than the file has")
        weights = tensor.detach().float().contiguous()
        bad = int((~torch.isfinite(weights)).sum())
        if bad:
            raise RunError(
                f"{where} holds {bad} NaN or infinite values of {tensor.numel()}, as float32; training diverged"
            )
        model[name] = weights
    return model


def load_statistics(run: Path, model: dict[str, torch.Tensor]) -> Statistics | None:
    """RUN/statistics.pt, or None if there is none. Raises RunError if it does not fit the model or is not finite."""
    path = Path(run) / "statistics.pt"
    return read_statistics(path, model) if path.exists() else None


def read_statistics(path: Path, model: dict[str, torch.Tensor]) -> Statistics:
    """A file of statistics. Raises RunError if it is missing, does not fit the model or is not finite."""
    value = _load(path, f"{path}: no such file")
    _check_fields(path, value, {"tokens": int, "linear": dict, "taps": dict, "embedding": dict})
    for tap, hessian in value["taps"].items():
        if not _is_finite(hessian) or hessian.ndim != 2:
            raise RunError(f"{path}: tap {_shown(tap)} is not a finite [in, in] matrix")
    for name, entry in value["linear"].items():
        if name not in model:
            raise RunError(f"{path}: {_shown(name)} is not in the checkpoint; the two files are of different runs")
        tap = entry.get("tap") if isinstance(entry, dict) else None
        hessian = value["taps"].get(tap) if isinstance(tap, str) else None
        columns = model[name].shape[-1:].numel()
        if hessian is None or hessian.shape != (columns, columns):
            raise RunError(f"{path}: tap {_shown(tap)} of {name} is missing or not [{columns}, {columns}]")
        rows = model[name].numel() // max(1, columns)
        _check_moment(path, f"output_gradient of {name}", entry.get("output_gradient"), (rows,))
    for name, entry in value["embedding"].items():
        if name not in model or model[name].ndim != 2 or not isinstance(entry, dict):
            raise RunError(
                f"{path}: {_shown(name)} is no matrix of the checkpoint; the two files are of different runs"
            )
        rows, columns = model[name].shape
        _check_moment(path, f"row_gradient of {name}", entry.get("row_gradient"), (rows,))
        moment = entry.get("gradient_second_moment")
        _check_moment(path, f"gradient_second_moment of {name}", moment, (columns, columns))
    made = value.get("made", Statistics.made)
    if made not in (Statistics.made, MADE_OUTSIDE):
        raise RunError(f"{path}: made is {_shown(made)}, neither {Statistics.made!r} nor {MADE_OUTSIDE!r}")
    return Statistics(value["tokens"], value["linear"], value["taps"], value["embedding"], made)


def is_plain_archive(path: Path) -> bool:
    """Whether a file of torch.save has nothing compressed in it, and so claims no more than it holds. Raises Failure,
    OSError, zipfile.BadZipFile."""
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        return all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())


def _load(path: Path, missing: str) -> dict:
    value = None
    try:
        packed = not is_plain_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about types that are refused below
            if not packed:
                value = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(missing) from None
    except Failure as error:
        raise RunError(str(error)) from None
    except Exception:  # torch raises many kinds, some over several lines
        raise RunError(f"{path}: cannot be read as a torch file; it is damaged or cut short") from None
    if packed:
        raise RunError(f"{path}: a compressed archive; save it with torch.save, which compresses nothing")
    if not isinstance(value, dict) or type(value.get("format")) is not int or value["format"] != 1:
        raise RunError(f"{path}: not a file of format 1 written by the training script")
    return value


def _is_dense(tensor: torch.Tensor) -> bool:
    """Whether a tensor has a value in memory for each place; meta and sparse ones have not, nor has one that was
    expanded."""
    if tensor.device.type != "cpu" or tensor.layout != torch.strided:
        return False
    return tensor.nbytes <= tensor.untyped_storage().nbytes()


def _shown(value: object) -> str:
    """A value of any kind for a message."""
    return terminal(value if isinstance(value, str) else reprlib.repr(value), 100)


def _groups(path: Path, parameters, model: dict[str, torch.Tensor]) -> dict[str, str]:
    """The group that the script declared for each parameter; empty if it declared none."""
    if not isinstance(parameters, dict) or (parameters and parameters.keys() != model.keys()):
        raise RunError(f"{path}: its parameters are not those of its model")
    for name, declared in parameters.items():
        if not isinstance(declared, dict) or not isinstance(declared.get("group"), str):
            raise RunError(f"{path}: no group is declared for {name}")
    return {name: declared["group"] for name, declared in parameters.items()}


def _check_moment(path: Path, what: str, value, shape: tuple[int, ...]) -> None:
    if not _is_finite(value) or value.shape != shape:
        raise RunError(f"{path}: {what} is missing, not finite or not of shape {list(shape)}")


def _is_finite(value) -> bool:
    """Whether a value is a tensor of floating-point numbers that can be computed with."""
    if not isinstance(value, torch.Tensor) or not _is_dense(value) or not value.is_floating_point():
        return False
    return bool((value.detach().double().abs() <= LARGEST_MOMENT).all())


def _check_fields(path: Path, value: dict, fields: dict[str, type]) -> None:
    for key, kind in fields.items():
        if not isinstance(value.get(key), kind):
            raise RunError(f"{path}: no {key} of type {kind.__name__} in it")
