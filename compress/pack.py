"""RUN/ -> RUN/model.golf: turn the dial until the file meets the cap, check it in a fresh process, rename into place.

Reads checkpoint.pt and statistics.pt of the run and nothing else: no data, so it can leak none. Two packs of a run on
one machine give the same bytes. Nothing appears under the final name unless every check passed.

The size of the file is a smooth function of the dial but for a few bytes of noise, so a forecast and a few real
attempts find the dial (regula falsi on the logarithm).

Not covered: the steps relative to the dial (compress/allocate.py).
"""

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from compress.allocate import Forecast, profile
from compress.checkpoint import load_checkpoint, load_statistics
from compress.entropy import Matrix, Vector, encode_weights
from compress.lab.measure import measure
from compress.minify import blockers, minify
from compress.quantise import Plan, decoded, is_matrix, make_plan, quantise, scales_of
from compress.sizes import CAP_BYTES, size_report, tensor_rows
from compress.trellis import RESTART
from compress.verify import compare, verify
from golf import container, tokenizer_section

DECODER = Path(__file__).with_name("decode.py")
FILL = 0.999  # of the cap, at least: what is left is under the noise of the size
AIM = 0.9996  # of the cap
ATTEMPTS = 8
# A dial so fine that nothing is left to gain: the forecast loss in nats per token, or steps over the weights' size
# where no loss is known. 1e-4 nats are 0.00005 bits per byte.
FINEST_LOSS, FINEST_STEP = 1e-4, 2.0**-10


class OverCap(ValueError):
    """The artifact does not fit under the cap of its track; nothing was written."""


@dataclass(frozen=True)
class Attempt:
    dial: float
    tensors: dict[str, Matrix | Vector]
    payload: bytes

    def decoded(self, plan: Plan) -> dict[str, torch.Tensor]:
        """What the decoder must give. Raises ValueError naming a tensor that float32 cannot hold."""
        result = {}
        for name, tensor in self.tensors.items():
            try:
                result[name] = decoded(tensor, plan.trellis, scales_of(self.dial))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        return result


def pack_run(
    run: str | Path,
    out: str | Path | None = None,
    track: str | None = None,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    announce: Callable[[str], None] = lambda line: None,
) -> dict:
    """Packs a run into `out` (default RUN/model.golf) and returns the report that `pack --json` prints.

    track: whose cap applies; default the checkpoint's own. progress(stage, done, total) is called as work goes on,
    announce(line) with the forecast before anything is rounded. Raises ValueError (RunError, OverCap, ...) with one
    line for the user; then nothing was written.
    """
    started, run = time.perf_counter(), Path(run)
    out = Path(out) if out else run / "model.golf"
    if run.is_dir() and not out.parent.is_dir():
        raise ValueError(f"{out.parent} is not a folder; make it first")
    checkpoint = load_checkpoint(run)
    track = track or checkpoint.track
    if track not in CAP_BYTES:
        raise ValueError(f"unknown track {track!r}; choose one of {', '.join(CAP_BYTES)}")
    statistics = load_statistics(run, checkpoint.model)
    plan = make_plan(checkpoint.model, statistics, groups=checkpoint.groups)
    warnings = list(plan.warnings)
    if statistics is None:
        warnings.append(
            f"no statistics.pt in {run}: steps follow the weights alone, at a higher loss than GPTQ would give"
        )
    source = minified(checkpoint.source)
    if found := blockers(source):
        warnings.append(f"train_gpt.py uses {', '.join(found)}: its local names cannot be shortened")
    sections = {
        "CODE": code_section(source),
        "CONF": container.config_pack(checkpoint.config),
        "TOKN": tokenizer_section.serialise(checkpoint.tokenizer),
        "WGTS": b"",
    }
    room = size_report(sections, track)["headroom_bytes"]
    attempt, finest = find_dial(plan, room, progress, announce, checkpoint.bytes_per_token)
    sections["WGTS"] = attempt.payload
    report = {
        "artifact": str(out),
        **size_report(sections, track),
        "bits_per_weight": 8
        * len(attempt.payload)
        / max(1, sum(tensor.numel() for tensor in checkpoint.model.values())),
        "dial": attempt.dial,
        "types": loss_by_type(plan, attempt),
        "tensors": tensor_rows(attempt.payload),
        "warnings": warnings,
    }
    report["predicted_rise"] = _predicted_rise(report["types"], checkpoint.bytes_per_token)
    if report["headroom_bytes"] < 0:
        raise OverCap(over_cap_message(report))
    if finest:
        unused = f"{report['headroom_bytes']:,} of {report['cap_bytes']:,} bytes stay free"
        warnings.append(f"the finest steps that help fit below the cap ({unused}): train a larger model")
    progress("checking", 0, 1)
    compare(verify(container.to_bytes(sections)), attempt.decoded(plan))
    container.write(out, sections)
    progress("checking", 1, 1)
    return report | {"seconds": time.perf_counter() - started}


def find_dial(
    plan: Plan,
    room: int,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    announce: Callable[[str], None] = lambda line: None,
    bytes_per_token: float | None = None,
) -> tuple[Attempt, bool]:
    """The largest payload of at most `room` bytes that was found, and whether it is of the finest useful dial.

    At least FILL of the room is used unless the dial reached its end; if nothing fits, the smallest payload found.
    """
    forecast = Forecast(plan.trellis)
    profiles = [profile(plan.weight(name), steps) for name, steps in plan.matrices.items()]
    whole = sum(profiles) if profiles else torch.zeros(2, 1, dtype=torch.float64)

    def total(dial: float) -> tuple[float, float]:
        """(bytes of the codes, nats per token)"""
        bits, nats = forecast(whole, dial)
        return bits / 8, nats

    def attempt(dial: float, number: int) -> Attempt:
        tensors = quantise(plan, dial, lambda done, whole: progress(f"rounding, attempt {number}", done, whole))
        coding = lambda done, whole: progress(f"coding, attempt {number}", done, whole)  # noqa: E731
        return Attempt(dial, tensors, encode_weights(tensors, plan.trellis, scales_of(dial).tolist(), RESTART, coding))

    def solve(function, target: float, low: float, high: float) -> float:
        for _ in range(40):  # of a falling function, on the logarithm of the dial
            middle = (low + high) / 2
            low, high = (middle, high) if function(2.0**middle) > target else (low, middle)
        return 2.0 ** ((low + high) / 2)

    if any(steps.known is None for steps in plan.matrices.values()):
        finest = FINEST_STEP
    elif plan.matrices:
        finest = solve(lambda dial: -total(dial)[1], -FINEST_LOSS, -40, 20)
    else:
        finest = 1.0
    offset = 300 + sum(tensor.numel() for tensor in plan.model.values()) / 80  # side information, until it is known
    done: list[Attempt] = []
    dial = max(finest, solve(lambda dial: total(dial)[0] + offset, AIM * room, math.log2(finest), 20))
    nats = total(dial)[1]
    if plan.matrices and math.isfinite(nats):
        rise = f"{nats:.5f} nats per token"
        if bytes_per_token:
            rise = f"{nats / bytes_per_token / math.log(2):.5f} bits per byte ({rise})"
        announce(f"forecast: packing costs {rise} at {room:,} bytes of weights")
    while True:
        done.append(attempt(dial, len(done) + 1))
        size = len(done[-1].payload)
        at_end = dial <= finest * 1.001 if size <= room else total(dial)[0] < 1
        if FILL * room <= size <= room or at_end or len(done) == ATTEMPTS:
            break
        # The forecast gives the slope until two attempts do.
        # Nearest by the dial, not by the size: sizes are noisy, and two that stay the same give the same dial for ever.
        under = min((a for a in done if len(a.payload) <= room), key=lambda a: a.dial, default=None)
        over = max((a for a in done if len(a.payload) > room), key=lambda a: a.dial, default=None)
        if under and over:
            (x0, y0), (x1, y1) = ((math.log2(a.dial), len(a.payload)) for a in (over, under))
            part = np.clip((y0 - AIM * room) / (y0 - y1), 0.02, 0.98)
            dial = 2.0 ** (x0 + part * (x1 - x0))
        else:
            offset = size - total(done[-1].dial)[0]
            dial = solve(lambda dial: total(dial)[0] + offset, AIM * room, math.log2(finest), 20)
        dial = max(finest, dial)
    fitting = [a for a in done if len(a.payload) <= room]
    best = max(fitting, key=lambda a: len(a.payload)) if fitting else min(done, key=lambda a: len(a.payload))
    return best, bool(fitting) and best.dial <= finest * 1.001 and len(best.payload) < FILL * room


def loss_by_type(plan: Plan, attempt: Attempt) -> list[dict]:
    """For each type of matrix: weights, and the loss in nats per token as forecast and as K-FAC gives for the error."""
    forecast, weights, rows = Forecast(plan.trellis), attempt.decoded(plan), {}
    for name, tensor in attempt.tensors.items():
        if not isinstance(tensor, Matrix):
            continue
        weight, steps = plan.weight(name), plan.matrices[name]
        row = rows.setdefault(type_of(name), {"type": type_of(name), "weights": 0, "forecast": 0.0, "actual": 0.0})
        row["weights"] += weight.numel()
        if steps.known is None:
            row["forecast"] = row["actual"] = None
            continue
        error = (plan.model[name] - weights[name]).flatten(0, -2)
        row["forecast"] += forecast(profile(weight, steps), attempt.dial)[1]
        row["actual"] += steps.known.loss(error)
    return list(rows.values())


def measure_packed(
    run: str | Path,
    report: dict,
    data: str | Path,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> dict:
    """compress.measure.measure of a file just packed, by type of matrix, plus "predicted": the rise of bpb that K-FAC
    gives for the actual errors, which is what "kl" should be. Raises ValueError."""
    model = load_checkpoint(Path(run)).model
    groups: dict[str, list[str]] = {}
    for name, tensor in model.items():
        groups.setdefault(type_of(name) if is_matrix(tensor) else "vectors", []).append(name)
    measured = measure(Path(report["artifact"]).read_bytes(), model, groups, Path(data), progress=progress)
    predicted = _predicted_rise(report["types"], measured["bytes_per_token"])
    return measured | {"predicted": math.nan if predicted is None else predicted}


def _predicted_rise(types: list[dict], bytes_per_token: float | None) -> float | None:
    """What K-FAC gives for the actual errors, in bits per byte; None if a loss or the bytes of a token are unknown."""
    losses = [row["actual"] for row in types]
    return None if None in losses or not bytes_per_token else sum(losses) / bytes_per_token / math.log(2)


def type_of(name: str) -> str:
    """The tensor's name without its layer: blocks.*.mlp.up.weight."""
    return re.sub(r"\b\d+\b", "*", name)


def over_cap_message(report: dict) -> str:
    """What to tell a user whose file is too large: by how much, and how many weights that is."""
    over = -report["headroom_bytes"]
    weights = int(8 * over / report["bits_per_weight"]) if report["bits_per_weight"] else 0
    return (
        f"{report['artifact']} would be {report['artifact_bytes']:,} bytes, {over:,} over the cap of "
        f"{report['cap_bytes']:,} ({report['track']}): train a model with about {weights:,} weights fewer"
    )


def code_section(source: str) -> bytes:
    """The CODE payload: `source`, minified before, and the decoder."""
    return container.code_pack(source, minify(DECODER.read_text(encoding="utf-8")))


def minified(source: str) -> str:
    """The script as it is packed. Raises ValueError if it is not Python."""
    try:
        return minify(source)
    except SyntaxError as error:
        raise ValueError(f"the training script is not Python: line {error.lineno}: {error.msg}") from None
