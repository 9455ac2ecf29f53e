"""A checkpoint -> integers and steps: the allocation for every matrix, GPTQ with the trellis, fixed point for the rest.

Not covered: how integers become bytes (compress/entropy.py), which dial fills the cap (compress/pack.py).
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from compress.allocate import (
    ALL_PARTS,
    EMBEDDING_OCTAVES,
    Allocation,
    ModelForecast,
    Parts,
    Sensitivity,
    allocate,
    profile,
    sensitivity,
)
from compress.checkpoint import Statistics
from compress.codes import Matrix, QuantisedModel, Vector
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

    def forecast(self) -> ModelForecast:
        """What its matrices cost at any dial. It takes a second or two, so build it once and hand it on."""
        profiles = {name: profile(self.weight(name), steps) for name, steps in self.matrices.items()}
        return ModelForecast(self.trellis, profiles)


def make_plan(
    model: dict[str, torch.Tensor],
    statistics: Statistics | None,
    states: int = STATES,
    parts: Parts = ALL_PARTS,
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


def type_of(name: str) -> str:
    """The tensor's name without its layer: blocks.*.mlp.up.weight."""
    return re.sub(r"\b\d+\b", "*", name)


def quantise(
    plan: Plan, dial: float, progress: Callable[[int, int], None] = lambda done, total: None
) -> QuantisedModel:
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
    tensors = {}
    for name, tensor in plan.model.items():
        if name in codes:
            steps = plan.matrices[name]
            rows = steps.rows.numpy()
            columns = steps.columns.numpy()
            tensors[name] = Matrix(tuple(tensor.shape), codes[name].numpy(), steps.base, rows, columns)
        else:
            try:
                tensors[name] = fixed_point(tensor)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
    return QuantisedModel(tensors, plan.trellis, RESTART, scales_of(dial))


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


def decoded(model: QuantisedModel) -> dict[str, torch.Tensor]:
    """The float32 tensors that a decoder must give, bit for bit.

    Raises ValueError naming a tensor of which a value is not finite.
    """
    result = {}
    for name, tensor in model.tensors.items():
        if isinstance(tensor, Matrix):
            values = matrix_values(tensor, model)
        else:
            values = vector_values(tensor)
        if not np.isfinite(values).all():
            raise ValueError(f"{name}: values too large for float32; rescale the model")
        result[name] = torch.from_numpy(values.reshape(tensor.shape))
    return result


def matrix_values(matrix: Matrix, model: QuantisedModel) -> np.ndarray:
    """float32 [R, C]: the integers of the codes under the model's trellis, times their steps."""
    bits = trellis_bits(matrix.codes, model.trellis, model.restart)
    exponents = matrix.base + matrix.rows[:, None] + matrix.columns
    integers = (2 * matrix.codes - bits * np.sign(matrix.codes)).astype(np.float32)
    return np.ldexp(integers * model.scales[exponents & 3], exponents >> 2)


def vector_values(vector: Vector) -> np.ndarray:
    """float32, flat."""
    return np.ldexp((vector.codes + vector.centre).astype(np.float32), vector.exponent)
