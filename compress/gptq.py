"""GPTQ: round a weight matrix column by column, each column making up for the error of those before it.

Frantar et al. 2022 (arXiv:2210.17323) with the full Hessian, activation order, and row scales fixed beforehand; damping
and order are those of the public challenge (PR 1019 and later). All arithmetic is float64 on the CPU, so that the codes
do not hang on the last bits of a float32 Cholesky factor.

Not covered: choosing the scales (compress/quantise.py), collecting Hessians (the training script).
"""

import torch

DAMPING = 0.01  # of the mean diagonal of the live columns
BLOCK = 128  # columns between two updates of the rest: changes the speed, not the result


def gptq(weight: torch.Tensor, hessian: torch.Tensor, scales: torch.Tensor, limit: int) -> torch.Tensor:
    """Codes int8 [R, C] within [-limit, limit] such that codes * scales[:, None] imitates the weight under the Hessian.

    weight [R, C]; hessian [C, C] = E[x x^T] of the layer's input; scales [R] > 0; limit <= 127. Lowers tr(E H E^T) for
    E = weight - codes * scales, greedily. Columns whose input is always zero get code 0.
    Raises ValueError if the shapes disagree or a number is not finite.
    """
    rows, columns = weight.shape
    if hessian.shape != (columns, columns) or scales.shape != (rows,):
        shapes = [list(tensor.shape) for tensor in (weight, hessian, scales)]
        raise ValueError(f"weight {shapes[0]}, Hessian {shapes[1]} and scales {shapes[2]} do not fit together")
    if not all(torch.isfinite(tensor).all() for tensor in (weight, hessian, scales)):
        raise ValueError("a number in the weight, its Hessian or its scales is not finite")
    diagonal = hessian.diagonal()
    order = torch.argsort(diagonal, descending=True, stable=True)
    # Columns of the weight are rows here, so that what a step touches is contiguous.
    remaining = torch.where(diagonal > 0, weight.double(), 0)[:, order].T.contiguous()
    factor = inverse_factor(hessian.double()[order][:, order])
    scales = scales.double()
    codes = torch.empty_like(remaining)
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        errors = torch.empty(stop - start, rows, dtype=torch.float64)
        for j in range(start, stop):
            codes[j] = (remaining[j] / scales).round().clamp(-limit, limit)
            errors[j - start] = (remaining[j] - codes[j] * scales) / factor[j, j]
            remaining[j + 1 : stop] -= torch.outer(factor[j, j + 1 : stop], errors[j - start])
        remaining[stop:] -= factor[start:stop, stop:].T @ errors
    result = torch.empty(rows, columns, dtype=torch.int8)
    result[:, order] = codes.T.to(torch.int8)
    return result


def inverse_factor(hessian: torch.Tensor) -> torch.Tensor:
    """Upper triangular U [C, C] with U^T U = (H + damping)^-1, float64.

    Dead inputs (zero on the diagonal) count as average ones. The damping is DAMPING of the mean diagonal, and ten times
    more as often as rounding errors in H leave it without a Cholesky factor.
    """
    hessian = (hessian + hessian.T) / 2
    diagonal = hessian.diagonal()
    live = diagonal > 0
    mean = diagonal[live].mean() if live.any() else torch.tensor(1.0, dtype=hessian.dtype)
    hessian = hessian + torch.diag(torch.where(live, 0, mean - diagonal))
    damping = DAMPING * mean
    identity = torch.eye(len(hessian), dtype=hessian.dtype)
    while True:
        # H = (J L J)(J L J)^T with J the reversal: the factor is the inverse of J L J, and H^-1 is never formed.
        lower, failed = torch.linalg.cholesky_ex((hessian + damping * identity).flip(0, 1))
        if not failed:
            break
        damping = damping * 10
    return torch.linalg.solve_triangular(lower.flip(0, 1), identity, upper=True)


def nearest(weight: torch.Tensor, scales: torch.Tensor, limit: int) -> torch.Tensor:
    """Codes int8 [R, C] by rounding to nearest: what is left to do without a Hessian."""
    return (weight.double() / scales.double()[:, None]).round().clamp(-limit, limit).to(torch.int8)


def relative_error(weight: torch.Tensor, decoded: torch.Tensor, hessian: torch.Tensor | None) -> float:
    """tr(E H E^T) / tr(W H W^T) for E = weight - decoded; with H = identity if there is none. 0 for a zero weight."""
    weight, error = weight.double(), weight.double() - decoded.double()
    energy = [(x * (x if hessian is None else x @ hessian.double())).sum().item() for x in (error, weight)]
    return energy[0] / energy[1] if energy[1] > 0 else 0.0
