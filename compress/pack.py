"""RUN/ -> RUN/model.golf: turn the dial until the file meets the cap, check it in a fresh process, rename into place.

Reads checkpoint.pt and statistics.pt of the run and nothing else: no data, so it can leak none. Two packs of a run on
one machine give the same bytes. Nothing appears under the final name unless every check passed.

The size of the file is a smooth function of the dial but for a few bytes of noise, so a forecast and a few real
attempts find the dial (regula falsi on the logarithm).

Not covered: the steps relative to the dial (compress/allocate.py); what packing costs on text
(compress/lab/measure.py).
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from compress.allocate import ModelForecast
from compress.checkpoint import MADE_OUTSIDE, Checkpoint, Statistics, load_checkpoint, load_statistics
from compress.codes import Matrix
from compress.entropy import Encoded, encode_weights
from compress.minify import blockers, code_section, minified_script
from compress.quantise import Plan, decoded, make_plan, quantise, type_of
from compress.rates import tensor_rows
from compress.same import check_packed
from compress.sizes import CAP_BYTES, size_report
from golf import container, tokenizer_section

FILL = 0.999  # of the cap, at least: what is left is under the noise of the size
AIM = 0.9996  # of the cap
ATTEMPTS = 8
# A dial so fine that nothing is left to gain: the forecast loss in nats per token, or steps over the weights' size
# where no loss is known. 1e-4 nats are 0.00005 bits per byte.
FINEST_LOSS, FINEST_STEP = 1e-4, 2.0**-10
# docs/coder.md, "Measured"
GAIN_OF_STATISTICS = "statistics, which golf calibrate gathers, gain the models of docs/coder.md 1.3 bits a weight"
COARSEST_OCTAVE = 20  # log2 of the largest dial that is tried

Progress = Callable[[str, int, int], None]  # stage, done, total


class OverCap(ValueError):
    """The artifact does not fit under the cap of its track; nothing was written."""


@dataclass(frozen=True)
class Attempt:
    """A model packed at one dial."""

    dial: float
    encoded: Encoded

    @property
    def size(self) -> int:
        """Bytes of the WGTS payload."""
        return len(self.encoded.payload)


def pack_run(
    run: str | Path,
    out: str | Path | None = None,
    track: str | None = None,
    progress: Progress = lambda stage, done, total: None,
    announce: Callable[[str], None] = lambda line: None,
) -> dict:
    """Packs a run into `out` (default RUN/model.golf) and returns the report that `pack --json` prints.

    track: whose cap applies; default the checkpoint's own. progress(stage, done, total) is called as work goes on,
    announce(line) with the forecast before anything is rounded. Raises ValueError (RunError, OverCap, ...) with one
    line for the user; then nothing was written.
    """
    run = Path(run)
    out = Path(out) if out else run / "model.golf"
    if run.is_dir() and not out.parent.is_dir():
        raise ValueError(f"{out.parent} is not a folder; make it first")
    checkpoint = load_checkpoint(run)
    statistics = load_statistics(run, checkpoint.model)
    return pack_checkpoint(checkpoint, statistics, f"no statistics.pt in {run}", out, track, progress, announce)


def pack_checkpoint(
    checkpoint: Checkpoint,
    statistics: Statistics | None,
    lack: str,
    out: Path,
    track: str | None = None,
    progress: Progress = lambda stage, done, total: None,
    announce: Callable[[str], None] = lambda line: None,
) -> dict:
    """As pack_run, of what a run or a stranger's weights gave. lack: how the warning begins where no statistics are."""
    started = time.perf_counter()
    track = track or checkpoint.track
    if track not in CAP_BYTES:
        raise ValueError(f"unknown track {track!r}; choose one of {', '.join(CAP_BYTES)}")
    plan = make_plan(checkpoint.model, statistics, groups=checkpoint.groups)
    script = minified_script(checkpoint.source)
    warnings = list(plan.warnings)
    if statistics is None:
        warnings.append(
            f"{lack}: steps follow the weights alone, at a higher loss than GPTQ would give; {GAIN_OF_STATISTICS}"
        )
    elif statistics.made == MADE_OUTSIDE:
        warnings.append(f"the statistics were made {MADE_OUTSIDE}: a record under a training clock may not use them")
    if found := blockers(script):
        warnings.append(f"train_gpt.py uses {', '.join(found)}: its local names cannot be shortened")
    sections = {
        "CODE": code_section(script),
        "CONF": container.config_pack(checkpoint.config),
        "TOKN": tokenizer_section.serialise(checkpoint.tokenizer),
        "WGTS": b"",
    }

    forecast = plan.forecast()
    search = DialSearch(plan, forecast, size_report(sections, track)["headroom_bytes"], progress)
    if line := forecast_line(search, checkpoint.bytes_per_token):
        announce(line)
    attempt = search.run()
    sections["WGTS"] = attempt.encoded.payload
    weights = decoded(attempt.encoded.model)

    types = loss_by_type(plan, forecast, attempt, weights)
    count = sum(tensor.numel() for tensor in checkpoint.model.values())
    report = {
        "artifact": str(out),
        **size_report(sections, track),
        "bits_per_weight": 8 * attempt.size / max(1, count),
        "dial": attempt.dial,
        "types": types,
        "tensors": tensor_rows(attempt.encoded),
        "statistics": statistics and statistics.made,
        "warnings": warnings,
        "predicted_rise": predicted_rise(types, checkpoint.bytes_per_token),
    }
    if report["headroom_bytes"] < 0:
        raise OverCap(over_cap_message(report))
    if search.stopped_at_finest(attempt):
        unused = f"{report['headroom_bytes']:,} of {report['cap_bytes']:,} bytes stay free"
        warnings.append(f"the finest steps that help fit below the cap ({unused}): train a larger model")

    progress("checking", 0, 1)
    warnings += check_packed(container.to_bytes(sections), weights, checkpoint.source)
    container.write(out, sections)
    progress("checking", 1, 1)
    return report | {"seconds": time.perf_counter() - started}


class DialSearch:
    """Looks for the dial whose payload fills a room of some bytes."""

    def __init__(
        self, plan: Plan, forecast: ModelForecast, room: int, progress: Progress = lambda stage, done, total: None
    ):
        self.plan = plan
        self.forecast = forecast
        self.room = room
        self.progress = progress
        self.finest = self._finest_dial()
        self.attempts: list[Attempt] = []
        # Bytes of side information, until an attempt tells them.
        self.offset = 300 + sum(tensor.numel() for tensor in plan.model.values()) / 80
        self.first = self._forecast_dial()

    def run(self) -> Attempt:
        """The largest payload of at most `room` bytes that was found; if nothing fits, the smallest one.

        At least FILL of the room is used unless the dial reached its end.
        """
        dial = self.first
        while True:
            attempt = self._pack(dial)
            self.attempts.append(attempt)
            if self._is_good(attempt) or len(self.attempts) == ATTEMPTS:
                break
            dial = self._next_dial()
        fitting = [attempt for attempt in self.attempts if attempt.size <= self.room]
        if fitting:
            return max(fitting, key=lambda attempt: attempt.size)
        return min(self.attempts, key=lambda attempt: attempt.size)

    def stopped_at_finest(self, attempt: Attempt) -> bool:
        """Whether an attempt leaves room only because finer steps would gain nothing."""
        return attempt.dial <= self.finest * 1.001 and attempt.size < FILL * self.room

    def _finest_dial(self) -> float:
        if any(steps.known is None for steps in self.plan.matrices.values()):
            return FINEST_STEP
        if not self.plan.matrices:
            return 1.0
        return _solve(lambda dial: -self.forecast(dial).nats, -FINEST_LOSS, -40, COARSEST_OCTAVE)

    def _forecast_dial(self) -> float:
        """Where the forecast and the side information known so far fill the room."""
        low = math.log2(self.finest)
        dial = _solve(lambda dial: self.forecast(dial).bits / 8 + self.offset, AIM * self.room, low, COARSEST_OCTAVE)
        return max(self.finest, dial)

    def _pack(self, dial: float) -> Attempt:
        number = len(self.attempts) + 1

        def rounding(done: int, total: int):
            self.progress(f"rounding, attempt {number}", done, total)

        def coding(done: int, total: int):
            self.progress(f"coding, attempt {number}", done, total)

        return Attempt(dial, encode_weights(quantise(self.plan, dial, rounding), coding))

    def _is_good(self, attempt: Attempt) -> bool:
        """Whether an attempt fills the room, or no other dial can do better."""
        if attempt.size <= self.room:
            return attempt.size >= FILL * self.room or attempt.dial <= self.finest * 1.001
        return self.forecast(attempt.dial).bits / 8 < 1

    def _next_dial(self) -> float:
        # Nearest by the dial, not by the size: sizes are noisy, and two that stay the same give the same dial for ever.
        fitting = [attempt for attempt in self.attempts if attempt.size <= self.room]
        too_large = [attempt for attempt in self.attempts if attempt.size > self.room]
        if not fitting or not too_large:  # the forecast gives the slope until two attempts do
            last = self.attempts[-1]
            self.offset = last.size - self.forecast(last.dial).bits / 8
            return self._forecast_dial()
        under = min(fitting, key=lambda attempt: attempt.dial)
        over = max(too_large, key=lambda attempt: attempt.dial)
        part = np.clip((over.size - AIM * self.room) / (over.size - under.size), 0.02, 0.98)
        octave = math.log2(over.dial) + part * (math.log2(under.dial) - math.log2(over.dial))
        return max(self.finest, 2.0**octave)


def _solve(function: Callable[[float], float], target: float, low: float, high: float) -> float:
    """The dial at which a falling function has this value; low, high: its log2 lies between."""
    for _ in range(40):
        middle = (low + high) / 2
        if function(2.0**middle) > target:
            low = middle
        else:
            high = middle
    return 2.0 ** ((low + high) / 2)


def forecast_line(search: DialSearch, bytes_per_token: float | None) -> str | None:
    """What packing will cost, in one line; None where no loss is known."""
    nats = search.forecast(search.first).nats
    if not search.plan.matrices or not math.isfinite(nats):
        return None
    rise = f"{nats:.5f} nats per token"
    if bytes_per_token:
        rise = f"{nats / bytes_per_token / math.log(2):.5f} bits per byte ({rise})"
    return f"forecast: packing costs {rise} at {search.room:,} bytes of weights"


def loss_by_type(plan: Plan, forecast: ModelForecast, attempt: Attempt, weights: dict[str, torch.Tensor]) -> list[dict]:
    """For each type of matrix: weights, and the loss in nats per token as forecast and as K-FAC gives for the error.

    weights: what the attempt decodes to.
    """
    rows: dict[str, dict] = {}
    for name, tensor in attempt.encoded.model.tensors.items():
        if not isinstance(tensor, Matrix):
            continue
        kind = type_of(name)
        row = rows.setdefault(kind, {"type": kind, "weights": 0, "forecast": 0.0, "actual": 0.0})
        row["weights"] += weights[name].numel()
        known = plan.matrices[name].known
        if known is None:
            row["forecast"] = row["actual"] = None
            continue
        error = (plan.model[name] - weights[name]).flatten(0, -2)
        row["forecast"] += forecast.of(name, attempt.dial).nats
        row["actual"] += known.loss(error)
    return list(rows.values())


def predicted_rise(types: list[dict], bytes_per_token: float | None) -> float | None:
    """What K-FAC gives for the actual errors, in bits per byte; None if a loss or the bytes of a token are unknown."""
    losses = [row["actual"] for row in types]
    if None in losses or not bytes_per_token:
        return None
    return sum(losses) / bytes_per_token / math.log(2)


def over_cap_message(report: dict) -> str:
    """What to tell a user whose file is too large: by how much, and how many weights that is."""
    over = -report["headroom_bytes"]
    weights = int(8 * over / report["bits_per_weight"]) if report["bits_per_weight"] else 0
    return (
        f"{report['artifact']} would be {report['artifact_bytes']:,} bytes, {over:,} over the cap of "
        f"{report['cap_bytes']:,} ({report['track']}): train a model with about {weights:,} weights fewer"
    )
