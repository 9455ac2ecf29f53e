"""GPTQ with a trellis: round matrices column by column, each column making up for the error of those before it.

Frantar et al. 2022 (arXiv:2210.17323) with the full Hessian and activation order; damping and order are those of the
public challenge (PR 1019 and later). A column is not rounded to nearest but by a Viterbi search down its rows: GPTQ's
feedback runs from column to column inside each row, so it stays exact. Matrices with as many columns go together: rows
do not interact, so they are cut into chunks of one length and searched at once.

All arithmetic but the Viterbi search is float64. Not covered: choosing the steps (compress/allocate.py), collecting
Hessians (the training script).
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from compress.trellis import RESTART, Viterbi

DAMPING = 0.01  # of the mean diagonal of the live columns
BLOCK = 128  # columns between two updates of the rest: changes the speed, not the result


@dataclass(frozen=True)
class Target:
    """A matrix to be rounded to rows * columns * integers, in the order in which its columns are rounded."""

    weight: torch.Tensor  # [R, C]
    rows: torch.Tensor  # [R] steps
    columns: torch.Tensor  # [C] steps
    order: torch.Tensor  # [C] indices of columns
    factor: torch.Tensor  # [C, C] inverse factor of the Hessian in this order

    def __post_init__(self):
        shape = tuple(self.weight.shape)
        parts = (self.rows.shape, self.columns.shape, self.order.shape, self.factor.shape)
        if parts != (shape[:1], shape[1:], shape[1:], shape[1:] * 2):
            raise ValueError(
                f"weight {shape}, and steps, order and factor {[tuple(p) for p in parts]} do not fit together"
            )
        if not all(torch.isfinite(part).all() for part in (self.weight, self.rows, self.columns, self.factor)):
            raise ValueError("a number in the weight, its steps or its factor is not finite")


def gptq(
    targets: list[Target],
    trellis: list[int],
    restart: int = RESTART,
    progress: Callable[[int], None] = lambda done: None,
) -> list[torch.Tensor]:
    """Codes of each target, int32 [R, C]: greedily lowers tr(E H E^T) for E = weight - rows * columns * integers.

    trellis: a table of compress.trellis, which also says how codes and integers belong together. Calls progress(weights
    done) now and then. Raises ValueError if a code would have over 23 bits.
    """
    groups: dict[tuple, list[int]] = {}
    for index, target in enumerate(targets):
        rows, columns = target.weight.shape
        groups.setdefault((columns, rows > restart), []).append(index)
    result = [torch.empty(0)] * len(targets)
    done = 0
    # Thousands of small operations: a second thread waits more than it works, 15 times so beside a busy process.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for indices in groups.values():
            group = [targets[index] for index in indices]
            offset = done
            codes = _gptq_group(group, trellis, restart, lambda weights, offset=offset: progress(offset + weights))
            for index, matrix in zip(indices, codes, strict=True):
                result[index] = matrix
            done += sum(target.weight.numel() for target in group)
            progress(done)
    finally:
        torch.set_num_threads(threads)
    return result


def _gptq_group(group: list[Target], trellis: list[int], restart: int, progress) -> list[torch.Tensor]:
    """Targets with as many columns, together. Working arrays are [columns, chunks of rows, rows of a chunk]."""
    columns = group[0].weight.shape[1]
    length = min(restart, max(len(target.weight) for target in group))
    chunks = [-(-len(target.weight) // length) for target in group]
    starts = [sum(chunks[:index]) for index in range(len(group) + 1)]
    slices = [slice(start, stop) for start, stop in itertools.pairwise(starts)]
    remaining = torch.zeros(columns, starts[-1], length, dtype=torch.float64)
    scales = torch.ones(starts[-1] * length, dtype=torch.float64)
    factors = torch.stack([target.factor.double() for target in group])
    for target, part in zip(group, slices, strict=True):
        rows = len(target.weight)
        normal = (target.weight.double() / target.columns.double())[:, target.order].T
        remaining[:, part].flatten(1, 2)[:, :rows] = normal
        scales[part.start * length :][:rows] = target.rows.double()
        # The Hessian of the normalised weights is diag(c) H diag(c), its inverse factor U diag(1 / c).
    scales = scales.view(starts[-1], length)
    factors = factors / torch.stack([target.columns.double()[target.order] for target in group])[:, None]
    owner = torch.repeat_interleave(torch.arange(len(group)), torch.tensor(chunks))
    search = Viterbi(trellis)
    codes = torch.empty(columns, starts[-1], length, dtype=torch.int32)
    weights = sum(target.weight.numel() for target in group)
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        errors = torch.empty(stop - start, starts[-1], length, dtype=torch.float64)
        for j in range(start, stop):
            x = (remaining[j] / scales).T.contiguous()
            if x.abs().max() >= 2**24 - 4:
                raise ValueError("steps too fine: a code would have over 23 bits")
            integers, code = search(x.float() if x.abs().max() < 2**16 else x)
            codes[j] = code.T.to(torch.int32)
            own = factors[owner, j, j:stop]  # [chunks, columns left]
            errors[j - start] = (remaining[j] - integers.T.double() * scales) / own[:, :1]
            remaining[j + 1 : stop] -= own[:, 1:].T[:, :, None] * errors[j - start]
            progress(weights * (j + 1) // columns)
        for index, part in enumerate(slices):
            update = factors[index, start:stop, stop:].T @ errors[:, part].flatten(1, 2)
            remaining[stop:, part] -= update.view(columns - stop, part.stop - part.start, length)
    result = []
    for target, part in zip(group, slices, strict=True):
        matrix = torch.empty(target.weight.shape, dtype=torch.int32)
        matrix[:, target.order] = codes[:, part].flatten(1, 2)[:, : len(target.weight)].T
        result.append(matrix)
    return result


def descending(hessian: torch.Tensor) -> torch.Tensor:
    """Order of the columns, largest input first: activation order."""
    return torch.argsort(hessian.diagonal(), descending=True, stable=True)


def inverse_factor(hessian: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Upper triangular U [C, C] with U^T U = (H + damping)^-1, float64, and the damping as a part of the mean diagonal.

    Dead inputs (zero on the diagonal) count as average ones. The damping is DAMPING, and ten times more as often as
    rounding errors in H leave it without a Cholesky factor.
    """
    hessian = (hessian.double() + hessian.double().T) / 2
    diagonal = hessian.diagonal()
    live = diagonal > 0
    mean = diagonal[live].mean() if live.any() else torch.tensor(1.0, dtype=hessian.dtype)
    hessian = hessian + torch.diag(torch.where(live, 0, mean - diagonal))
    damping = DAMPING
    identity = torch.eye(len(hessian), dtype=hessian.dtype)
    while True:
        # H = (J L J)(J L J)^T with J the reversal: the factor is the inverse of J L J, and H^-1 is never formed.
        lower, failed = torch.linalg.cholesky_ex((hessian + damping * mean * identity).flip(0, 1))
        if not failed:
            break
        damping *= 10
    return torch.linalg.solve_triangular(lower.flip(0, 1), identity, upper=True), damping
