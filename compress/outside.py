"""In from outside: a script and the weights that it trained elsewhere, brought to the packer.

Weights are a file of torch.save (read with weights_only=True, so nothing is unpickled), a .safetensors file, or several
of them with an index or in one folder. What the script's model must have is asked in the scorer's box, where alone the
script runs; there golf calibrate gathers statistics too.

Not covered: weights of other formats (GGUF, ONNX); a model whose shape does not follow from the defaults of Config.

Source of the format: safetensors, "Format" in its README (8 bytes of length, JSON, the numbers).
"""

import difflib
import json
import math
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from compress.bounded import MEMORY_BYTES
from compress.checkpoint import MADE_OUTSIDE, Checkpoint, RunError, checked_model, is_plain_archive
from compress.verify import MAX_DECODED_BYTES, explain, receive_tensor, saved
from golf import script, temporary, tokenizer_section
from golf.box.box import Box, BoxFailure, Submission
from golf.files import Failure, open_regular, read_bytes, read_json
from golf.foreign import terminal
from golf.shards import read_shard

PROGRAM = Path(__file__).with_name("outside_in_box.py")
NO_DECODER = "def decode_weights(payload):\n    return {}\n"
LARGEST_VOCABULARY = 65_536
SECONDS = 300.0  # to build a model
CALIBRATION_SECONDS = 86_400.0
BYTES_PER_WEIGHT = 40  # of the box: the weights, the model's own copy, gradients, sums
WRAPPERS = ("model", "state_dict", "model_state_dict", "module")  # keys under which trainers save a state_dict
MAX_HEADER = 100_000_000  # bytes, as the safetensors library has it
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
SHOWN = 20  # misfits that are listed

Progress = Callable[[str, int, int], None]  # stage, done, total


class Misfit(ValueError):
    """Weights that are not those of the script's model; the message has a line for each."""


@dataclass
class Wanted:
    """What the script's model has."""

    shapes: dict[str, list[int]] = field(default_factory=dict)  # of the state_dict
    not_floats: set[str] = field(default_factory=set)
    computed: set[str] = field(default_factory=set)  # buffers that are not in the state_dict
    again: dict[str, str] = field(default_factory=dict)  # second name -> first
    vocab_size: int = 0
    seq_len: int = 0


# ---- Weights ------------------------------------------------------------------------------------
def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """(name -> tensor as in the file, what was done to get there) of weights in a file, an index or a folder.

    Raises RunError, one line, if a file is missing, damaged, or holds no state_dict.
    """
    tensors: dict[str, torch.Tensor] = {}
    notes: list[str] = []
    for part in parts(path):
        found = read_safetensors(part) if part.suffix == ".safetensors" else read_torch(part, notes)
        if twice := sorted(found.keys() & tensors.keys()):
            raise RunError(f"{part}: {terminal(twice[0], 100)} is in another of the files of {path} too")
        tensors |= found
    if not tensors:
        raise RunError(f"{path}: holds no tensors")
    return stripped(path, tensors, notes), notes


def parts(path: Path) -> list[Path]:
    """The files of weights: the one itself, those that an index names, or those of a folder. Raises RunError."""
    if path.is_dir():
        indexes = sorted(path.glob("*.index.json"))
        found = sorted(path.glob("*.safetensors")) or sorted([*path.glob("*.pt"), *path.glob("*.bin")])
        if len(indexes) == 1:
            return parts(indexes[0])
        if not found:
            raise RunError(f"{path}: no .safetensors, .pt or .bin in this folder")
        return found
    if path.suffix != ".json":
        return [path]
    try:
        names = read_json(path).get("weight_map")
    except Failure as error:
        raise RunError(str(error)) from None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise RunError(f"{path}: no weight_map of names to files in it")
    for name in names.values():
        if Path(name).name != name:
            raise RunError(f"{path}: {terminal(name, 100)} is not a file beside the index")
    return [path.with_name(name) for name in sorted(set(names.values()))]


def read_torch(path: Path, notes: list[str]) -> dict[str, torch.Tensor]:
    """The state_dict in a file of torch.save. Raises RunError."""
    try:
        is_plain = is_plain_archive(path)
    except zipfile.BadZipFile:
        raise RunError(f"{path}: not a file of torch.save since version 1.6, nor is it called .safetensors") from None
    except (Failure, OSError) as error:
        raise RunError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if not is_plain:
        raise RunError(f"{path}: a compressed archive; save it with torch.save, which compresses nothing")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds, some over several lines
        raise RunError(
            f"{path}: torch.load(weights_only=True) does not take it ({type(error).__name__}): "
            "save model.state_dict(), tensors and nothing else"
        ) from None
    if isinstance(value, dict) and not any(isinstance(item, torch.Tensor) for item in value.values()):
        key = next((key for key in WRAPPERS if isinstance(value.get(key), dict)), None)
        if key is not None:
            notes.append(f"{path.name}: the state_dict under {key!r}")
            value = value[key]
    elif isinstance(value, dict) and isinstance(
        value.get("model"), dict
    ):  # a checkpoint of this kit: its tokenizer is a tensor
        notes.append(f"{path.name}: the state_dict under 'model'")
        value = value["model"]
    if not isinstance(value, dict) or not all(
        isinstance(name, str) and isinstance(item, torch.Tensor) for name, item in value.items()
    ):
        raise RunError(f"{path}: no state_dict: neither name to tensor, nor that under {', '.join(WRAPPERS)}")
    return dict(value)


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file, over its mapped bytes. Raises RunError unless the header fits the file."""
    try:
        with open_regular(path) as file:
            size = path.stat().st_size
            length = struct.unpack("<Q", file.read(8).ljust(8, b"\xff"))[0]
            if length > min(MAX_HEADER, size - 8):
                raise RunError(f"{path}: not a .safetensors file, or cut short")
            header = json.loads(file.read(length))
    except (Failure, OSError) as error:
        raise RunError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, RunError) else RunError(f"{path}: its header is no JSON") from None
    if not isinstance(header, dict):
        raise RunError(f"{path}: its header is no object")
    data = np.memmap(path, np.uint8, "c", 8 + length) if size > 8 + length else np.empty(0, np.uint8)
    header.pop("__metadata__", None)
    return {name: _tensor(f"{path}: {terminal(name, 100)}", entry, data) for name, entry in header.items()}


def _tensor(where: str, entry, data: np.ndarray) -> torch.Tensor:
    """One tensor of a .safetensors file. Raises RunError unless its bytes are there, as many as its shape says."""
    entry = entry if isinstance(entry, dict) else {}
    dtype, shape, place = DTYPES.get(str(entry.get("dtype"))), entry.get("shape"), entry.get("data_offsets")
    for numbers in (shape, place):
        if not isinstance(numbers, list) or not all(type(number) is int and number >= 0 for number in numbers):
            raise RunError(f"{where}: no shape and data_offsets in the header")
    if dtype is None:
        raise RunError(f"{where} is {terminal(entry.get('dtype'), 40)}: use one of {', '.join(DTYPES)}")
    count = math.prod(shape)
    if len(place) != 2 or place[1] > len(data) or place[1] - place[0] != count * dtype.itemsize:
        raise RunError(f"{where}: its bytes are not those of its shape {shape}; the file is damaged or cut short")
    if not count:
        return torch.empty(shape, dtype=dtype)
    # A copy, since a stranger's file need not be aligned
    return torch.frombuffer(bytearray(data[place[0] : place[1]]), dtype=dtype).view(shape)


def stripped(path: Path, tensors: dict[str, torch.Tensor], notes: list[str]) -> dict[str, torch.Tensor]:
    """The tensors without what torch.compile and DistributedDataParallel put into names. Raises RunError if two names
    become one."""
    names = {name: name.replace("_orig_mod.", "") for name in tensors}
    if names and any(name != short for name, short in names.items()):
        notes.append("_orig_mod. of torch.compile taken out of the names")
    while all(short.startswith("module.") for short in names.values()):
        names = {name: short.removeprefix("module.") for name, short in names.items()}
        notes.append("module. of DistributedDataParallel taken off the names")
    if len(set(names.values())) < len(names):
        raise RunError(f"{path}: names with and without _orig_mod. are in it: save one model's state_dict")
    return {names[name]: tensor for name, tensor in tensors.items()}


# ---- The script's model -------------------------------------------------------------------------
def fitted(path: Path, tensors: dict[str, torch.Tensor], wanted: Wanted, notes: list[str]) -> dict[str, torch.Tensor]:
    """The tensors that the script's model has, in float32. Raises Misfit with a line for each that does not fit."""
    left_out = sorted(wanted.computed & tensors.keys() - wanted.shapes.keys())
    if left_out:
        notes.append(
            f"left out, since the model computes them: {', '.join(left_out[:5])}{', ...' * (len(left_out) > 5)}"
        )
    extra = {name: list(tensor.shape) for name, tensor in tensors.items() if name not in left_out}
    missing = {name: shape for name, shape in wanted.shapes.items() if name not in extra}
    unexpected = {name: shape for name, shape in extra.items() if name not in wanted.shapes}
    lines = [f"missing {name} {shape}{nearest(name, unexpected)}" for name, shape in missing.items()]
    lines += [f"unexpected {name} {shape}{nearest(name, missing)}" for name, shape in unexpected.items()]
    for name, shape in wanted.shapes.items():
        if name in extra and extra[name] != shape:
            lines.append(f"{name} has the shape {extra[name]}, the model {shape}: set the defaults of Config")
    lines += [f"{name} is no float in the model: register_buffer(..., persistent=False)" for name in wanted.not_floats]
    if lines:
        more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        shown = [terminal(line, 300) for line in lines[:SHOWN]] + more
        raise Misfit("\n  ".join([f"{path} does not fit the script's model:", *shown]))
    for name, first in wanted.again.items():
        notes.append(f"{name} is {first} again and is packed twice: use one name, as in F.linear(x, self.{first})")
    return checked_model(path, {name: tensors[name] for name in wanted.shapes})


def nearest(name: str, others: dict[str, list[int]]) -> str:
    """What to add to a line about a name that has no partner: the nearest of those that have none either."""
    found = difflib.get_close_matches(name, others, n=1, cutoff=0.5)
    return f"; nearest: {found[0]} {others[found[0]]}" if found else ""


class Outside:
    """A script and its weights, which fit. `notes`: what was done to the weights on their way."""

    def __init__(self, script_path: Path, weights: Path):
        """Raises ValueError, RunError and Misfit among them, and Failure."""
        try:
            self.source = read_bytes(script_path, script.MAX_BYTES).decode()
        except UnicodeDecodeError:
            raise RunError(f"{script_path}: not text in UTF-8") from None
        self.script_path, self.weights = script_path, weights
        tensors, self.notes = read_weights(weights)
        size = sum(tensor.numel() for tensor in tensors.values())
        self.memory = MEMORY_BYTES + BYTES_PER_WEIGHT * size
        self.wanted = Wanted()
        for answer in self._answers({"calibrate": False}, {}, SECONDS):
            self._note(answer)
        self.model = fitted(weights, tensors, self.wanted, self.notes)

    def checkpoint(self, tokenizer: Path, track: str) -> Checkpoint:
        """As a run of this kit leaves it. Raises ValueError if the tokenizer is refused, or is another's."""
        model = tokenizer_section.from_file(tokenizer)
        known = len(tokenizer_section.piece_bytes(model))
        if known != self.wanted.vocab_size:
            raise RunError(f"{tokenizer} has {known:,} ids, the script's Config vocab_size={self.wanted.vocab_size:,}")
        return Checkpoint(track, {}, self.source, model, self.model, None, {})

    def statistics(self, data: Path, tokens: int, progress: Progress) -> dict:
        """What statistics.pt holds (docs/contract.md), marked as made outside the clock. Raises ValueError, Failure."""
        rows = sampled(data, self.wanted, tokens)
        with temporary.folder("rows") as folder:
            np.save(folder / "rows.npy", rows)
            files = {"rows.npy": (folder / "rows.npy").read_bytes(), "weights.pt": saved(self.model)}
        sums: dict[str, torch.Tensor] = {}
        for answer in self._answers({"calibrate": True}, files, CALIBRATION_SECONDS):
            if isinstance(answer.get("sum"), torch.Tensor):
                sums[answer["tensor"]] = answer["sum"] / rows.size
            elif type(answer.get("done")) is int:
                progress("gathering statistics", min(answer["done"], rows.size), rows.size)
        return statistics_of(sums, self.model, int(rows.size))

    def _answers(self, task: dict, files: dict[str, bytes], seconds: float):
        """What the program in the box says. Raises ValueError, one line, on anything that goes wrong there."""
        submission = Submission(self.source, NO_DECODER, {}, b"", LARGEST_VOCABULARY)
        try:
            with temporary.folder("outside") as folder:
                for name, data in {**files, "task.json": json.dumps(task).encode()}.items():
                    (folder / name).write_bytes(data)
                box = Box(submission, 1, seconds, memory_bytes=self.memory, program=PROGRAM, folder=folder)
            try:
                answers, left = box.results(), MAX_DECODED_BYTES
                for answer in answers:
                    if "tensor" in answer:
                        tensor = receive_tensor(answer, answers, box, left)
                        left -= len(tensor.data)
                        answer = {"tensor": tensor.name, "sum": tensor.torch()}
                    yield answer
            finally:
                box.kill()
                box.close()
        except BoxFailure as error:
            raise RunError(f"{self.script_path}: {explain(error, seconds)}") from None

    def _note(self, answer: dict) -> None:
        """Takes in what the box says of the model. Nothing of it is believed: wrong types are left out."""
        wanted, shape = self.wanted, answer.get("shape")
        if isinstance(answer.get("name"), str) and isinstance(shape, list):
            wanted.shapes[answer["name"]] = shape
            if answer.get("is_float") is not True:
                wanted.not_floats.add(answer["name"])
        if isinstance(answer.get("computed"), str):
            wanted.computed.add(answer["computed"])
        if isinstance(answer.get("again"), str):
            wanted.again[answer["again"]] = terminal(answer.get("first"), 100)
        if "vocab_size" in answer:
            sizes = [answer["vocab_size"], answer.get("seq_len")]
            if not all(type(size) is int and 1 <= size <= 2**31 for size in sizes):
                raise RunError(f"{self.script_path}: Config needs vocab_size and seq_len, whole numbers")
            wanted.vocab_size, wanted.seq_len = sizes


# ---- Statistics ---------------------------------------------------------------------------------
def sampled(data: Path, wanted: Wanted, tokens: int) -> np.ndarray:
    """int64 [rows, seq_len] from random places of the train shards in a folder. Raises Failure, RunError."""
    paths = sorted(data.glob("*train_*.bin"))
    shards = [shard for shard in map(read_shard, paths) if len(shard) >= wanted.seq_len]
    if not shards:
        raise RunError(f"{data}: no train shard (train_*.bin) of {wanted.seq_len:,} tokens or more")
    rng = np.random.default_rng(0)
    chances = np.array([len(shard) for shard in shards], float)
    rows = []
    for number in rng.choice(len(shards), max(1, tokens // wanted.seq_len), p=chances / chances.sum()):
        start = rng.integers(len(shards[number]) - wanted.seq_len + 1)
        rows.append(shards[number][start : start + wanted.seq_len].astype(np.int64))
    result = np.stack(rows)
    if result.max() >= wanted.vocab_size:
        raise RunError(f"{data} has the id {result.max():,}: vocab_size is {wanted.vocab_size:,}, another tokenizer's?")
    return result


def statistics_of(means: dict[str, torch.Tensor], model: dict[str, torch.Tensor], tokens: int) -> dict:
    """statistics.pt of what the box gave, "KIND NAME" -> mean over tokens. Raises RunError if there is nothing."""
    taps: dict[str, torch.Tensor] = {}
    linear: dict[str, dict] = {}
    embedding: dict[str, dict] = {}
    for key, value in means.items():
        kind, _, name = key.partition(" ")
        if name not in model:
            continue
        if kind == "inputs":
            taps[name] = value
            linear.setdefault(name, {})["tap"] = name
        elif kind == "outputs":
            linear.setdefault(name, {})["output_gradient"] = value
        elif kind == "lookups":
            embedding.setdefault(name, {})["gradient_second_moment"] = value
        elif kind == "rows":
            embedding.setdefault(name, {})["row_gradient"] = value
    if not linear and not embedding:
        raise RunError("no matrix of the model reaches F.linear or F.embedding: there are no statistics to gather")
    return {"format": 1, "tokens": tokens, "taps": taps, "linear": linear, "embedding": embedding, "made": MADE_OUTSIDE}
