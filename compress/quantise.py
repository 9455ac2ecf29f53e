"""Chooses grids and codes for the tensors of a checkpoint: SDClip row scales, GPTQ where a Hessian was saved.

SDClip (public challenge, PR 1394): the step of a row is k * std(row) / limit, so k sets the rate and almost nothing is
clipped. Matrices get int6 codes, the embedding int8: it is small and the most sensitive tensor. What is not a matrix
stays float.

Not covered: how codes become bytes (compress/encode.py).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from compress.checkpoint import Statistics
from compress.gptq import gptq, nearest, relative_error


@dataclass(frozen=True)
class Grid:
    clip: float  # in standard deviations of the row
    limit: int  # largest code


MATRIX = Grid(clip=12.85, limit=31)
# On a pocket model after 100 s of training a byte more buys the same KL here and there: clip 14 -> 10 of the embedding
# 0.22 mbit/token per kB, 10 -> 7 0.11; clip 12.85 -> 10 of the matrices 0.12.
EMBEDDING = Grid(clip=10.0, limit=127)
MIN_SIDE = 16  # with fewer rows or columns it is no matrix but a few vectors (gains, mixes, skips): kept as floats
TINY_SCALE = 2.0**-24  # the smallest float16 above zero: for rows of zeros


@dataclass(frozen=True)
class Quantised:
    """One tensor as it will be stored. Without codes, `values` are the weights, else the row scales."""

    shape: tuple[int, ...]
    codes: torch.Tensor | None  # int8 [R, C]
    values: torch.Tensor  # float16 or float32, flat
    error: float = 0.0  # relative, weighted with the Hessian if there is one
    method: str = "float16"

    def decoded(self) -> torch.Tensor:
        """The float32 tensor that a decoder must give, bit for bit."""
        if self.codes is None:
            return self.values.float().reshape(self.shape)
        return (self.codes.float() * self.values.float()[:, None]).reshape(self.shape)


def quantise(
    model: dict[str, torch.Tensor],
    statistics: Statistics | None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Quantised]:
    """Every tensor of the model in its stored form; calls progress(weights done, weights in all) after each.

    Without statistics, or without a tap for a tensor, codes are rounded to nearest. Raises ValueError naming a tensor
    whose values float16 scales cannot reach.
    """
    total, done, result = sum(tensor.numel() for tensor in model.values()), 0, {}
    for name, tensor in model.items():
        try:
            result[name] = _quantise_tensor(name, tensor, statistics)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        done += tensor.numel()
        progress(done, total)
    return result


def _quantise_tensor(name: str, tensor: torch.Tensor, statistics: Statistics | None) -> Quantised:
    if tensor.ndim < 2 or min(tensor.shape[-1], tensor.shape[:-1].numel()) < MIN_SIDE:
        return _floats(tensor)
    weight = tensor.reshape(-1, tensor.shape[-1])
    grid = EMBEDDING if "embed" in name or statistics and name in statistics.embedding else MATRIX
    scales = row_scales(weight, grid)
    hessian = statistics.hessian(name) if statistics else None
    if hessian is None:
        codes, method = nearest(weight, scales, grid.limit), "nearest"
    else:
        codes, method = gptq(weight, hessian, scales, grid.limit), "gptq"
    error = relative_error(weight, codes * scales.float()[:, None], hessian)
    return Quantised(tuple(tensor.shape), codes, scales, error, f"int{(grid.limit + 1).bit_length()} {method}")


def row_scales(weight: torch.Tensor, grid: Grid) -> torch.Tensor:
    """SDClip steps, float16 [R]: clip * std(row) / limit. Raises ValueError if one exceeds float16.

    The deviation is taken from zero, not from the row's mean, so that a constant row has a scale too.
    """
    scales = weight.double().square().mean(dim=1).sqrt() * (grid.clip / grid.limit)
    if scales.max() > torch.finfo(torch.float16).max:
        raise ValueError(f"values up to {weight.abs().max():.3g}: too large for 16-bit scales; rescale the model")
    return scales.clamp(min=TINY_SCALE).half()


def _floats(tensor: torch.Tensor) -> Quantised:
    """float16, or float32 where float16 would lose more than 2^-11 of the largest value (overflow, tiny numbers)."""
    values = tensor.reshape(-1)
    largest = float(values.abs().max()) if values.numel() else 0.0
    if largest == 0 or 2.0**-14 <= largest <= torch.finfo(torch.float16).max:
        error = relative_error(values, values.half(), None)
        return Quantised(tuple(tensor.shape), None, values.half(), error, "float16")
    return Quantised(tuple(tensor.shape), None, values, 0.0, "float32")
