"""Checks an artifact from its bytes alone, in the scorer's box: weights decode, scripts import, the model takes them.

An artifact holds code, and a checkpoint brings a script that may be a stranger's. So all of it runs in the box
(golf/box), for `verify`, for `unpack` and for the packer's own check alike, with limits on memory and time. What the
box may import is what an artifact may import when it is scored.

Not covered: the score, and whether the artifact keeps to any rule but its format. Where the system has no namespaces,
Landlock and seccomp (macOS), the box has fewer layers (golf/box/confine.py says what each one leaves open).
"""

import hashlib
import io
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from compress.bounded import MEMORY_BYTES
from compress.decode import MAX_WEIGHTS
from golf import temporary, tokenizer_section
from golf.box import packages
from golf.box.box import Box, BoxFailure, Submission
from golf.container import code_unpack, config_unpack, read
from golf.foreign import terminal

PROGRAM = Path(__file__).with_name("decode_in_box.py")
SECONDS = 60.0  # from the first line of the artifact's code to its model
# What a decoder may hand over, and the bytes of a number.
DTYPES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
MAX_DECODED_BYTES = 4 * MAX_WEIGHTS  # of all tensors together


@dataclass(frozen=True)
class DecodedTensor:
    """A tensor as the artifact's decoder gives it, as bytes: nothing here was unpickled."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytearray

    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def torch(self) -> torch.Tensor:
        """The same as a tensor, over the same memory."""
        dtype = getattr(torch, self.dtype)
        if not self.data:
            return torch.empty(self.shape, dtype=dtype)
        return torch.frombuffer(self.data, dtype=dtype).view(self.shape)


class ArtifactRun:
    """An artifact's decoder and script in the box: iterate over it for the tensors; afterwards `versions` is set, and
    `outcomes`, what the scripts gave if they were asked to run (compress/decode_in_box.py)."""

    def __init__(self, data: bytes, seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES):
        """Raises ValueError if a section is malformed."""
        self.submission, self.tokenizer = submission_of(data)
        self.seconds = seconds
        self.memory_bytes = memory_bytes
        self.beside: dict[str, str] = {}  # path -> text of files that lie beside the artifact's
        self.versions: dict[str, str] = {}
        self.outcomes: list[dict] = []

    def __iter__(self) -> Iterator[DecodedTensor]:
        """Raises ValueError, one line, on anything that goes wrong, with the stage at which it did."""
        try:
            with temporary.folder("scripts") as folder:
                for name, text in self.beside.items():
                    path = folder / name
                    path.parent.mkdir(exist_ok=True)
                    path.write_text(text, encoding="utf-8", newline="")
                limits = {"time_limit": self.seconds, "memory_bytes": self.memory_bytes}
                box = Box(self.submission, 1, **limits, program=PROGRAM, folder=str(folder))
            try:
                yield from self._tensors(box)
            finally:
                box.kill()
                box.close()
        except BoxFailure as error:
            raise ValueError(explain(error, self.seconds)) from None

    def _tensors(self, box: Box) -> Iterator[DecodedTensor]:
        answers = box.results()
        left = MAX_DECODED_BYTES
        for answer in answers:
            if "tensor" in answer:
                tensor = receive_tensor(answer, answers, box, left)
                left -= len(tensor.data)
                yield tensor
            elif "what" in answer:
                self.outcomes.append(answer)
            elif isinstance(answer.get("versions"), dict):
                self.versions = {str(key): str(value) for key, value in answer["versions"].items()}
        if not self.versions:
            raise BoxFailure("protocol", "the box ended before the model stood")


def receive_tensor(head: dict, answers: Iterator[dict], box: Box, left: int) -> DecodedTensor:
    """The tensor that an answer announces, taken from the pieces that follow. Nothing that the box says is believed."""
    name, dtype, shape = head["tensor"], head.get("dtype"), head.get("shape")
    if not isinstance(name, str) or not isinstance(dtype, str) or dtype not in DTYPES:
        raise BoxFailure("shape", f"the decoder gives a tensor of type {dtype!r}; use one of {', '.join(DTYPES)}")
    if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
        raise BoxFailure("shape", f"the decoder gives a tensor of shape {shape!r}")
    size = math.prod(shape) * DTYPES[dtype]
    if size > left:
        raise BoxFailure("shape", f"the decoder gives more than {MAX_DECODED_BYTES:,} bytes of numbers")
    data = bytearray()
    while len(data) < size:
        piece = box.shared(next(answers, {}).get("bytes"))
        if not piece or len(data) + len(piece) > size:
            raise BoxFailure("shape", f"the decoder gives {len(data) + len(piece):,} bytes of {size:,} of a tensor")
        data += piece
    return DecodedTensor(name, dtype, tuple(shape), data)


def submission_of(data: bytes) -> tuple[Submission, bytes]:
    """(what the box needs of an artifact, its tokenizer.model). Raises ValueError if a section is malformed."""
    sections = read(data)
    train_source, decode_source = code_unpack(sections["CODE"])
    tokenizer = tokenizer_section.rebuild(sections["TOKN"])
    vocab_size = len(tokenizer_section.piece_bytes(tokenizer))
    config = config_unpack(sections["CONF"])
    return Submission(train_source, decode_source, config, sections["WGTS"], vocab_size), tokenizer


def explain(error: BoxFailure, seconds: float) -> str:
    """What to tell a user about a box that failed: one line."""
    if error.kind == "hang":
        return f"no result within {seconds:g} s: this artifact is no good, or the machine is too busy"
    text = terminal(str(error).removeprefix(f"FAILED ({error.kind}): "))
    if "ModuleNotFoundError" in text:
        text += f"; an artifact may import {', '.join(packages.ALLOWED)} and the standard library, here as when scored"
    return text


def verify(data: bytes, seconds: float = SECONDS) -> dict:
    """{"tensors": [{"name", "sha256", "dtype", "shape"}], "versions": {...}} of an artifact.

    Raises ValueError, one line, with the stage that failed.
    """
    run = ArtifactRun(data, seconds)
    tensors = [
        {"name": tensor.name, "sha256": tensor.sha256(), "dtype": tensor.dtype, "shape": list(tensor.shape)}
        for tensor in run
    ]
    return {"tensors": tensors, "versions": run.versions}


def unpack_into(data: bytes, folder: Path) -> None:
    """Writes train_gpt.py, decode.py, config.json, tokenizer.model and weights.pt of an artifact into a folder.

    Raises ValueError, one line, with the stage that failed.
    """
    run = ArtifactRun(data)
    submission = run.submission
    (folder / "train_gpt.py").write_text(submission.train_source, encoding="utf-8", newline="")
    (folder / "decode.py").write_text(submission.decode_source, encoding="utf-8", newline="")
    (folder / "config.json").write_text(json.dumps(submission.config, ensure_ascii=False), encoding="utf-8")
    (folder / "tokenizer.model").write_bytes(run.tokenizer)
    (folder / "weights.pt").write_bytes(saved({tensor.name: tensor.torch() for tensor in run}))


def saved(content: object) -> bytes:
    """What torch.save writes, whose own file writer can end the process on a full disk."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def check_decoded(tensors: Iterable[DecodedTensor], expected: dict[str, torch.Tensor]) -> None:
    """Raises ValueError naming a tensor unless those that were decoded are exactly these, bit for bit."""
    missing = dict(expected)
    for tensor in tensors:
        due = missing.pop(tensor.name, None)
        if due is None:
            raise ValueError(f"{tensor.name} is unexpected in the decoded file")
        same_type = tensor.dtype == str(due.dtype).removeprefix("torch.") and tensor.shape == tuple(due.shape)
        if not same_type or tensor.data != due.contiguous().numpy().tobytes():
            raise ValueError(f"{tensor.name} decodes to other values than were packed")
    if missing:
        raise ValueError(f"{min(missing)} is missing from the decoded file")
