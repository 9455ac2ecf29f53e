"""How uneven the sensitivities of a model are: what loss-aware steps will gain, from the statistics alone.

At high rate, steps that equalise the loss of all weights save half the log2 of arithmetic over geometric mean of what a
unit of step costs, bits a weight, against equal steps at the same loss. Three such numbers: over the columns of a
matrix 1 / U_jj^2 (one Hessian, so one number a tap); over its rows G_r; over matrices the mean cost at steps that
follow the size of the weights. They add up. Below 2 bits a weight less is gained: a step larger than the weights saves
no more bits.

Not covered: the steps themselves (compress/allocate.py), real gains (compress/lab/bench.py).
"""

import numpy as np
import torch

from compress.allocate import GRADIENT_FLOOR, GRADIENT_POWER, Sensitivity, allocate, sensitivity
from compress.checkpoint import Statistics
from compress.quantise import is_matrix


def am_gm_bits(costs, weights=None) -> float:
    """0.5 log2 of arithmetic over geometric mean of positive costs."""
    costs = np.asarray(costs, np.float64)
    return float(0.5 * (np.log2(np.average(costs, weights=weights)) - np.average(np.log2(costs), weights=weights)))


def row_bits(known: Sensitivity) -> float:
    """The same for the rows' costs G_r under the rule for steps, which follows G_r^0.7: no more can be gained by it."""
    gradients = known.rows.numpy()
    spread = (gradients + GRADIENT_FLOOR * gradients.mean()) ** GRADIENT_POWER
    equal, allocated = gradients.mean(), np.mean(gradients / spread)
    return float(0.5 * (np.log2(equal) - np.log2(allocated) - np.log2(spread).mean()))


def spread(model: dict[str, torch.Tensor], statistics: Statistics) -> dict:
    """{"matrices": [{"name", "tap", "weights", "columns", "rows"}], "columns", "rows", "tensors"}, bits a weight.

    The totals of columns and rows are means over the weights. Matrices without statistics are left out; raises
    ValueError if none has any.
    """
    matrices, costs = [], []
    for name, tensor in model.items():
        known = sensitivity(name, statistics) if is_matrix(tensor) else None
        if known is None:
            continue
        weight = tensor.flatten(0, -2)
        inverse = allocate(weight, known, False).factor.diagonal().numpy() ** -2
        matrices.append(
            {
                "name": name,
                "tap": statistics.linear.get(name, {}).get("tap", "embedding"),
                "weights": weight.numel(),
                "columns": am_gm_bits(inverse),
                "rows": row_bits(known),
            }
        )
        size = max(weight.double().square().mean().item(), 1e-30)
        costs.append(size * known.rows.mean().item() * np.exp(np.log(inverse).mean()))
    if not matrices:
        raise ValueError("no matrix has usable statistics")
    counts = [row["weights"] for row in matrices]
    totals = {key: float(np.average([row[key] for row in matrices], weights=counts)) for key in ("columns", "rows")}
    return {"matrices": matrices, **totals, "tensors": am_gm_bits(costs, counts)}


def predicted_losses(
    weights: dict[str, torch.Tensor], model: dict[str, torch.Tensor], statistics: Statistics
) -> list[dict]:
    """{"name", "loss"} of every matrix with statistics: nats per token that K-FAC gives for the errors of decoded
    weights. Raises ValueError if they are those of another model."""
    result = []
    for name, tensor in model.items():
        known = sensitivity(name, statistics) if is_matrix(tensor) else None
        if known is None:
            continue
        if name not in weights or weights[name].shape != tensor.shape:
            raise ValueError(f"{name} is not in the artifact as it is in the checkpoint: they are of different runs")
        result.append({"name": name, "loss": known.loss((tensor - weights[name]).flatten(0, -2))})
    return result
