"""What packing cost, on held-out text: KL of the packed model from the unquantised one, change in bits per byte.

KL(unquantised || packed) per byte tracks the rise of the loss with far less noise than the difference of two losses.
The script that is measured may be a stranger's, so it runs in the scorer's box (golf/box).

Not covered: the score (eval_heldout.py): windows here are cut from the shard without regard to documents.
"""

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from compress.checkpoint import Checkpoint, load_checkpoint
from compress.pack import predicted_rise
from compress.quantise import is_matrix, type_of
from compress.verify import explain, saved, submission_of
from golf import temporary, tokenizer_section
from golf.box.box import Box, BoxFailure, Submission
from golf.files import Failure, read_json
from golf.shards import read_shard

TOKENS = 32_768
SECONDS = 3600.0
PROGRAM = Path(__file__).with_name("measure_in_box.py")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class DevText:
    """The beginning of a dev split."""

    tokens: np.ndarray  # int64 [T + 1]
    bytes_per_token: float  # of the whole split


@dataclass(frozen=True)
class Sums:
    """Over `tokens` tokens, in nats; the lists have an item for each set of changed tensors."""

    tokens: int
    loss: float
    packed_loss: list[float]
    kl: list[float]


def measure_packed(
    run: str | Path, report: dict, data: str | Path, progress: Progress = lambda stage, done, total: None
) -> dict:
    """What `measure` gives for a file just packed, by type of matrix, plus "predicted": the rise of bpb that K-FAC
    gives for the actual errors, which is what "kl" should be. report: of pack_run. Raises ValueError."""
    model = load_checkpoint(Path(run)).model
    groups: dict[str, list[str]] = {}
    for name, tensor in model.items():
        groups.setdefault(type_of(name) if is_matrix(tensor) else "vectors", []).append(name)
    measured = measure(Path(report["artifact"]).read_bytes(), model, groups, Path(data), progress=progress)
    predicted = predicted_rise(report["types"], measured["bytes_per_token"])
    return measured | {"predicted": math.nan if predicted is None else predicted}


def measure(
    artifact: bytes,
    model: dict[str, torch.Tensor],
    groups: dict[str, list[str]],
    data: Path,
    tokens: int = TOKENS,
    progress: Progress = lambda stage, done, total: None,
) -> dict:
    """KL and losses on the first tokens of the dev split of a data folder.

    groups: name -> tensors; besides the whole file, the KL is measured with only this group's tensors packed. Returns
    {"tokens", "bytes_per_token", "bpb", "packed_bpb", "kl" (bits per byte), "group_kl": {group: nats per token}}.
    Raises ValueError if the folder is not one that golf data wrote, or the artifact's script fails.
    """
    submission, tokenizer = submission_of(artifact)
    text = dev_text(data, tokenizer, tokens)
    sums = _run(submission, text, model, [sorted(model), *groups.values()], [], progress)
    nats = 1 / sums.tokens
    bits_per_byte = nats / text.bytes_per_token / math.log(2)
    return {
        "tokens": sums.tokens,
        "bytes_per_token": text.bytes_per_token,
        "bpb": sums.loss * bits_per_byte,
        "packed_bpb": sums.packed_loss[0] * bits_per_byte,
        "kl": sums.kl[0] * bits_per_byte,
        "group_kl": {group: value * nats for group, value in zip(groups, sums.kl[1:], strict=True)},
    }


def measure_sets(
    checkpoint: Checkpoint,
    sets: list[dict[str, torch.Tensor]],
    data: Path,
    tokens: int = TOKENS,
    progress: Progress = lambda stage, done, total: None,
) -> list[dict]:
    """{"kl", "bpb"} in bits per byte for every set of tensors that takes the place of the checkpoint's, in one process.

    Reads the dev split as `measure` does, through the checkpoint's own script. Raises ValueError.
    """
    text = dev_text(data, checkpoint.tokenizer, tokens)
    vocab_size = len(tokenizer_section.piece_bytes(checkpoint.tokenizer))
    submission = Submission(checkpoint.source, "", checkpoint.config, b"", vocab_size)
    sums = _run(submission, text, checkpoint.model, [], sets, progress)
    scale = 1 / (sums.tokens * text.bytes_per_token * math.log(2))
    return [{"kl": kl * scale, "bpb": loss * scale} for kl, loss in zip(sums.kl, sums.packed_loss, strict=True)]


def dev_text(data: Path, tokenizer: bytes, tokens: int) -> DevText:
    """The first tokens of the dev split of a data folder and one more. Raises ValueError if it is none, or has
    another tokenizer than this one: ids would be read that mean something else."""
    own = data / "tokenizer.model"
    if own.exists() and own.read_bytes() != tokenizer:
        raise ValueError(f"{data} has another tokenizer than the model: name the data that it was trained on")
    try:
        split = read_json(data / "manifest.json")["splits"]["dev"]
        name = next(file["name"] for file in split["files"] if file["name"].endswith(".bin"))
        bytes_per_token = split["raw_bytes"] / split["tokens"]
    except (Failure, AttributeError, KeyError, TypeError, ArithmeticError, StopIteration):
        raise ValueError(f"{data}: no dev split with a manifest; make it with golf data") from None
    try:
        shard = read_shard(data / name)
    except Failure as error:
        raise ValueError(str(error)) from None
    if len(shard) < 2:
        raise ValueError(f"{data / name}: no text to measure on")
    return DevText(shard[: tokens + 1].astype(np.int64), bytes_per_token)


def _run(
    submission: Submission,
    text: DevText,
    model: dict[str, torch.Tensor],
    groups: list[list[str]],
    sets: list[dict[str, torch.Tensor]],
    progress: Progress,
) -> Sums:
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 4 // 5
    with temporary.folder("measure") as folder:
        np.save(folder / "tokens.npy", text.tokens)
        (folder / "groups.json").write_text(json.dumps(groups), encoding="utf-8")
        (folder / "whole.pt").write_bytes(saved(model))
        for number, tensors in enumerate(sets):
            (folder / f"changed_{number:06}.pt").write_bytes(saved(tensors))
        try:
            threads = torch.get_num_threads()
            box = Box(submission, threads, SECONDS, memory_bytes=memory_bytes, program=PROGRAM, folder=folder)
            try:
                return _sums(box, len(groups) + len(sets), progress)
            finally:
                box.kill()
                box.close()
        except BoxFailure as error:
            raise ValueError(f"measuring failed in the artifact's own script: {explain(error, SECONDS)}") from None


def _sums(box: Box, count: int, progress: Progress) -> Sums:
    """What the program answers in the end. Nothing that the box says is believed beyond its form."""
    for answer in box.results():
        done, total, found = answer.get("done"), answer.get("total"), answer.get("sums")
        if type(done) is int and type(total) is int:
            progress("measuring", done, total)
        if isinstance(found, dict):
            try:
                sums = Sums(
                    int(found["tokens"]),
                    float(found["loss"]),
                    [float(value) for value in found["packed_loss"]],
                    [float(value) for value in found["kl"]],
                )
            except (KeyError, TypeError, ValueError, OverflowError):
                break
            if sums.tokens > 0 and len(sums.packed_loss) == len(sums.kl) == count:
                return sums
    raise BoxFailure("protocol", "the box sent no sums of losses")
