"""A checkpoint -> integers and steps: the allocation for every matrix, GPTQ with the trellis, fixed point for the rest.

Not covered: how integers become bytes (compress/entropy.py), which dial fills the cap (compress/pack.py).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from compress.allocate import EMBEDDING_OCTAVES, Allocation, Parts, Sensitivity, allocate, sensitivity
from compress.checkpoint import Statistics
from compress.entropy import Matrix, Vector
from compress.gptq import DAMPING, Target, gptq
from compress.trellis import RESTART, trellis_bits, trellis_table

MIN_SIDE = 16  # with fewer rows or columns it is no matrix but a few vectors (gains, mixes, skips)
STATES = 64  # of the trellis
# Vectors are cut into 256 to 512 steps per root mean square: 8 bits, not 6, took the KL of packing a pocket model's
# vectors from 1.26e-3 to 1.4e-4 nats per token for 650 bytes. Short ones cost nothing to store finely.
VECTOR_BITS, SHORT_BITS, SHORT = 8, 12, 16


@dataclass(frozen=True)
class Plan:
    """All that is decided before the dial is known."""

    model: dict[str, torch.Tensor]
    matrices: dict[str, Allocation]
    trellis: list[int]
    warnings: list[str]

    def weight(self, name: str) -> torch.Tensor:
        """[R, C], with zeros where the input is always zero."""
        weight = self.model[name].flatten(0, -2)
        known = self.matrices[name].known
        return weight if known is None else torch.where(known.hessian.diagonal() > 0, weight, 0)


def make_plan(
    model: dict[str, torch.Tensor],
    statistics: Statistics | None,
    states: int = STATES,
    parts: Parts = Parts(),
    groups: dict[str, str] | None = None,
) -> Plan:
    """Steps of all matrices of a model (float32 tensors) relative to one dial. Raises ValueError naming a tensor.

    groups: Checkpoint.groups; without them an embedding is known by its name.
    """
    weights = {name: tensor.flatten(0, -2) for name, tensor in model.items() if is_matrix(tensor)}
    if groups:
        embeddings = {name for name in weights if groups[name] == "embedding"}
    else:
        embeddings = {name for name in weights if "embed" in name or statistics and name in statistics.embedding}
    known = {name: sensitivity(name, statistics) for name in weights}
    missing = [name for name in weights if known[name] is None]
    warnings = []
    if missing and statistics is not None:
        warnings.append(f"no usable statistics for {', '.join(missing)}: their steps follow their weights alone")
    if len(missing) < len(weights):
        known |= assumed(weights, known, embeddings)
    matrices = {}
    for name, weight in weights.items():
        allocation = allocate(weight, known[name], name in embeddings, parts)
        if allocation.damping > DAMPING:
            warnings.append(
                f"{name}: its Hessian has no full rank and was damped by {allocation.damping:g} of its mean"
            )
        matrices[name] = allocation
    return Plan(model, matrices, trellis_table(states), warnings)


def assumed(
    weights: dict[str, torch.Tensor], known: dict[str, Sensitivity | None], embeddings: set[str]
) -> dict[str, Sensitivity]:
    """What stands in for the sensitivities that are missing, on the scale of the others.

    All weights of such a matrix count alike, and as much in all, for their size, as those of the median matrix does. An
    embedding is cut finer, as it is where nothing is known at all.
    """
    sizes = {name: weight.double().square().mean().item() for name, weight in weights.items()}
    costs = []
    for name, given in known.items():
        if given is not None:
            curvature = given.rows.mean() * given.hessian.diagonal().mean()
            costs.append(curvature.item() * sizes[name])
    result = {}
    for name, weight in weights.items():
        if known[name] is None:
            rows, columns = weight.shape
            finer = 4.0**EMBEDDING_OCTAVES if name in embeddings else 1.0
            each = finer * float(np.median(costs)) / (sizes[name] or 1.0)
            identity = torch.eye(columns, dtype=torch.float64)
            result[name] = Sensitivity(identity, torch.full((rows,), each, dtype=torch.float64))
    return result


def is_matrix(tensor: torch.Tensor) -> bool:
    """Whether a tensor gets trellis codes; [d1, ..., dk] counts as d1...d(k-1) rows and dk columns."""
    return tensor.ndim >= 2 and min(tensor.shape[-1], tensor.shape[:-1].numel()) >= MIN_SIDE


def quantise(
    plan: Plan, dial: float, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Matrix | Vector]:
    """Every tensor of the model in its stored form; calls progress(weights done, weights in all).

    Raises ValueError naming a tensor that the format cannot hold.
    """
    targets = []
    for name, steps in plan.matrices.items():
        weight = plan.weight(name)
        try:
            targets.append(Target(weight, steps.row_steps(dial), steps.column_steps(), steps.order, steps.factor))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    total = sum(target.weight.numel() for target in targets)
    codes = dict(
        zip(plan.matrices, gptq(targets, plan.trellis, RESTART, lambda done: progress(done, total)), strict=True)
    )
    result = {}
    for name, tensor in plan.model.items():
        if name in codes:
            steps = plan.matrices[name]
            rows, columns = steps.rows.numpy(), steps.columns.numpy()
            result[name] = Matrix(tuple(tensor.shape), codes[name].numpy(), steps.base, rows, columns)
        else:
            try:
                result[name] = fixed_point(tensor)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
    return result


def fixed_point(tensor: torch.Tensor) -> Vector:
    """Multiples of a power of two near 2^-8 of the root mean square, around their median."""
    values = tensor.detach().double().flatten().numpy()
    size = float(np.sqrt(np.mean(values**2))) if values.size else 0.0
    if size == 0:
        return Vector(tuple(tensor.shape), np.zeros(values.size, np.int32), 0, 0)
    exponent = math.frexp(size)[1] - 1 - (VECTOR_BITS if values.size >= SHORT else SHORT_BITS)
    integers = np.round(np.ldexp(values, -exponent))
    centre = int(np.median(integers))
    if np.abs(integers).max() >= 1 << 23:
        raise ValueError(
            f"values up to {np.abs(values).max():.3g} with a root mean square of {size:.3g}: cannot be stored"
        )
    return Vector(tuple(tensor.shape), (integers - centre).astype(np.int32), exponent, centre)


def scales_of(dial: float) -> np.ndarray:
    """float32 [4]: the dial times 0, 1, 2 and 3 quarters of an octave, which the decoder multiplies integers with."""
    return (dial * np.exp2(np.arange(4) / 4)).astype(np.float32)


def decoded(tensor: Matrix | Vector, trellis: list[int], scales: np.ndarray) -> torch.Tensor:
    """The float32 tensor that a decoder must give, bit for bit. Raises ValueError if a value is not finite."""
    if isinstance(tensor, Vector):
        values = np.ldexp((tensor.codes + tensor.centre).astype(np.float32), tensor.exponent)
    else:
        bits = trellis_bits(tensor.codes, trellis, RESTART)
        exponents = tensor.base + tensor.rows[:, None] + tensor.columns
        integers = (2 * tensor.codes - bits * np.sign(tensor.codes)).astype(np.float32)
        values = np.ldexp(integers * scales[exponents & 3], exponents >> 2)
    if not np.isfinite(values).all():
        raise ValueError("values too large for float32; rescale the model")
    return torch.from_numpy(values.reshape(tensor.shape))
