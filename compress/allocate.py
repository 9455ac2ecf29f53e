"""Where the bits go: a step for every row and column, such that one bit more lowers the loss equally everywhere.

The loss is expanded to second order with the K-FAC approximation (Martens & Grosse 2015, arXiv:1503.05671): an error E
[rows, columns] of a matrix costs 1/2 sum_r G_r e_r H e_r^T nats per token, H = E[x x^T] of its input and
G_r = E[g_r^2] of its output gradient, labels sampled from the model. GPTQ turns this quadratic form into a sum of
independent ones, 1/2 G_r e^2 / U_j^2, U_j the diagonal of the Cholesky factor of H^-1. So steps s_r c_j with
s_r ~ 1 / sqrt(G_r), c_j ~ U_j give every weight the same loss, and that is the least loss for the bits (reverse
water-filling). One dial scales all steps of the model. See docs/coder.md.

Not covered: rounding (compress/gptq.py), turning the dial (compress/pack.py).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from compress.checkpoint import Statistics
from compress.gptq import descending, inverse_factor
from compress.trellis import Viterbi, trellis_bits

GRADIENT_POWER = 0.7  # of G_r: few tokens measure the smallest ones badly, and dead units are not dead elsewhere
GRADIENT_FLOOR = 1e-4  # of the mean
STEP_RANGE = 40  # tokens of side information reach this far, in quarter octaves, on both sides of a matrix's centre
BINS, REACH = 16, 80  # of a profile: bins in an octave, octaves below and above deviation = step
EMBEDDING_OCTAVES = 3  # without statistics: how much finer an embedding is cut than other matrices


@dataclass(frozen=True)
class Sensitivity:
    """Loss of an error E of a matrix: 1/2 sum_r rows_r e_r hessian e_r^T nats per token."""

    hessian: torch.Tensor  # [C, C], float64
    rows: torch.Tensor  # [R], float64

    def loss(self, error: torch.Tensor) -> float:
        """Predicted rise of the loss for an error [R, C], nats per token."""
        error = error.double()
        return 0.5 * ((error @ self.hessian * error).sum(1) * self.rows).sum().item()


@dataclass(frozen=True)
class Allocation:
    """Steps of a matrix relative to the dial, in quarter octaves: 2^((base + rows + columns) / 4)."""

    base: int
    rows: torch.Tensor  # int64 [R]
    columns: torch.Tensor  # int64 [C]
    order: torch.Tensor  # of GPTQ
    factor: torch.Tensor  # of GPTQ
    damping: float
    known: Sensitivity | None  # None: nothing is known about the loss

    def row_steps(self, dial: float) -> torch.Tensor:
        return dial * torch.exp2((self.base + self.rows).double() / 4)

    def column_steps(self) -> torch.Tensor:
        return torch.exp2(self.columns.double() / 4)


@dataclass(frozen=True)
class Parts:
    """What the allocation may use; the benchmark turns them off one by one."""

    tensor: bool = True  # off: the mean step of a matrix follows the size of its weights
    column: bool = True
    row: bool = True


def sensitivity(name: str, statistics: Statistics | None) -> Sensitivity | None:
    """K-FAC's factors of a matrix, or None where statistics lack them.

    An embedding [V, D] that is also the output head has two losses; H and G stand for their sum: H takes the shape of
    (sum of G_r) H_head + E[g g^T] with the trace of H_head, and row r weighs G_r + E_r / tr(H_head), E_r the mean over
    tokens of |g|^2 where the id is r, g the gradient at the output of the embedding.
    """
    head = statistics.linear.get(name) if statistics else None
    lookup = statistics.embedding.get(name) if statistics else None
    if head is None and lookup is None:
        return None
    if lookup is None:
        hessian, rows = statistics.taps[head["tap"]].double(), head["output_gradient"].double()
    else:
        hessian, ids = lookup["gradient_second_moment"].double(), lookup["row_gradient"].double()
        trace = hessian.trace()
        rows = torch.zeros_like(ids)
        if head is not None:
            rows = head["output_gradient"].double()
            tap = statistics.taps[head["tap"]].double()
            hessian, trace = rows.sum() * tap + hessian, tap.trace()
        rows = rows + ids / trace
        hessian = hessian * (trace / hessian.trace())
    usable = torch.isfinite(hessian).all() and torch.isfinite(rows).all() and hessian.trace() > 0 and rows.sum() > 0
    return Sensitivity((hessian + hessian.T) / 2, rows) if usable else None


def allocate(weight: torch.Tensor, known: Sensitivity | None, embedding: bool, parts: Parts = Parts()) -> Allocation:
    """Relative steps of a matrix [R, C].

    Without a sensitivity all steps of the matrix are equal and follow the size of its weights, an embedding's finer.
    Both kinds of steps have nothing in common, so a model should know all sensitivities or use none.
    """
    rows, columns = weight.shape
    size = weight.double().square().mean().sqrt().item()
    plain = (math.log2(size) if size > 0 else 0.0) - EMBEDDING_OCTAVES * embedding
    log_rows, log_columns = torch.full((rows,), plain, dtype=torch.float64), torch.zeros(columns, dtype=torch.float64)
    if known is None:
        order, factor, damping = torch.arange(columns), torch.eye(columns, dtype=torch.float64), 0.0
    else:
        order = descending(known.hessian)
        factor, damping = inverse_factor(known.hessian[order][:, order])
        log_columns[order] = factor.diagonal().log2()
        centre = log_columns.mean().item()
        spread = (known.rows + GRADIENT_FLOOR * known.rows.mean()) ** (GRADIENT_POWER if parts.row else 0)
        log_gradient = (spread * (known.rows / spread).mean()).log2()  # the mean loss of a weight is that of G_r itself
        log_rows = centre - log_gradient / 2 if parts.tensor else log_rows - (log_gradient - log_gradient.mean()) / 2
        log_columns = log_columns - centre if parts.column else torch.zeros_like(log_columns)
    exponents = (4 * log_rows).round().long()
    base = int(exponents.median()) if rows else 0
    return Allocation(
        base,
        (exponents - base).clamp(-STEP_RANGE, STEP_RANGE),
        (4 * log_columns).round().long().clamp(-STEP_RANGE, STEP_RANGE),
        order,
        factor,
        damping,
        known,
    )


class Cost(NamedTuple):
    """What a dial costs, by forecast."""

    bits: float
    nats: float  # per token; nan where no loss is known


class Forecast:
    """Rate and distortion of a trellis on Gaussian numbers: what a dial will cost, before anything is rounded.

    Measured once by coding a fixed sample, so a trellis of any size is covered without constants. Weights count as
    independent Gaussians whose deviation is that of their row times that of their column.
    """

    LENGTH = 256  # of a column: what the trellis loses at its end is part of the cost
    LOWEST, HIGHEST = -3, 6  # octaves of deviation / step; beyond the ends both curves are straight lines

    def __init__(self, trellis: list[int]):
        generator = torch.Generator().manual_seed(0)
        octaves = torch.arange(self.LOWEST, self.HIGHEST + 0.25, 0.5)
        sample = torch.randn(self.LENGTH, 64, generator=generator)
        x = (sample[:, None] * torch.exp2(octaves)[:, None]).flatten(1)
        integers, codes = Viterbi(trellis)(x)
        codes = codes.numpy().astype(np.int64)
        bits = trellis_bits(codes, trellis, len(codes))
        self.octaves = octaves
        self.distortion = (x - integers).square().view(self.LENGTH, -1, 64).mean((0, 2)).double()
        parts = [slice(at, at + 64) for at in range(0, codes.shape[1], 64)]
        self.rates = torch.tensor([_rate(codes[:, part], bits[:, part]) for part in parts], dtype=torch.float64)

    def __call__(self, profile: torch.Tensor, dial: float) -> Cost:
        """Of what a sum of profiles covers."""
        octave = torch.arange(profile.shape[1], dtype=torch.float64) / BINS - REACH - math.log2(dial)
        place = ((octave - self.LOWEST) * 2).clamp(0, len(self.octaves) - 1)
        low = place.floor().long().clamp(max=len(self.octaves) - 2)
        part = place - low
        bits = (1 - part) * self.rates[low] + part * self.rates[low + 1]
        bits = bits + (octave - self.HIGHEST).clamp(min=0)
        square_error = (1 - part) * self.distortion[low] + part * self.distortion[low + 1]
        square_error = square_error * torch.exp2(2 * (octave - self.LOWEST).clamp(max=0))
        return Cost((profile[0] @ bits).item(), 0.5 * dial**2 * (profile[1] @ square_error).item())


class ModelForecast:
    """The forecast of a model's matrices, together and one by one."""

    def __init__(self, trellis: list[int], profiles: dict[str, torch.Tensor]):
        """profiles: name of a matrix -> its profile."""
        self.forecast = Forecast(trellis)
        self.profiles = profiles
        self.whole = sum(profiles.values()) if profiles else torch.zeros(2, 1, dtype=torch.float64)

    def __call__(self, dial: float) -> Cost:
        """Of all matrices."""
        return self.forecast(self.whole, dial)

    def of(self, name: str, dial: float) -> Cost:
        """Of one matrix."""
        return self.forecast(self.profiles[name], dial)


def profile(weight: torch.Tensor, steps: Allocation) -> torch.Tensor:
    """What a forecast needs of a matrix [R, C]: float64 [2, bins] by deviation over step at dial 1, in octaves / BINS.

    Row 0 counts weights, row 1 sums what a squared error of one step costs in nats, times 2; nan if no loss is known.
    """
    square = (weight.double() / steps.column_steps() / steps.row_steps(1.0)[:, None]).square()
    rows, columns = square.mean(1).clamp(min=1e-60).log2(), square.mean(0).clamp(min=1e-60).log2()
    octave = (rows[:, None] + columns - square.mean().clamp(min=1e-60).log2()) / 2
    place = ((octave + REACH) * BINS).round().long().clamp(0, 2 * REACH * BINS - 1).flatten()
    counts = torch.bincount(place, minlength=2 * REACH * BINS).double()
    if steps.known is None:
        return torch.stack((counts, torch.full_like(counts, math.nan)))
    inner = torch.empty(len(steps.order), dtype=torch.float64)
    inner[steps.order] = steps.factor.diagonal()
    costs = torch.outer(steps.known.rows * steps.row_steps(1.0).square(), (steps.column_steps() / inner).square())
    return torch.stack((counts, torch.bincount(place, costs.flatten(), minlength=2 * REACH * BINS)))


def _rate(codes: np.ndarray, bits: np.ndarray) -> float:
    """Entropy of the codes, given the quantiser, in bits."""
    counts = np.stack([np.bincount(codes[bits == bit] - codes.min(), minlength=np.ptp(codes) + 1) for bit in (0, 1)])
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return float(-(counts * np.log2(np.maximum(shares, 1e-30))).sum() / codes.size)
