"""GPTQ with a trellis against a naive implementation with explicit inverses, and its damping."""

import math

import numpy as np
import pytest
import torch

from compress.gptq import BLOCK, DAMPING, Target, descending, gptq, inverse_factor
from compress.trellis import Viterbi, trellis_bits, trellis_table
from tests.support.packed import correlated

TRELLIS, UNIFORM = trellis_table(8), trellis_table(1)


def target(rows, columns, seed=0, rank=None, step=0.3):
    generator = torch.Generator().manual_seed(seed)
    weight, hessian = torch.randn(rows, columns, generator=generator), correlated(400, columns, generator, rank)
    order = descending(hessian)
    factor, _ = inverse_factor(hessian[order][:, order])
    row_steps = step * torch.exp2(torch.rand(rows, generator=generator).double())
    column_steps = torch.exp2(torch.rand(columns, generator=generator).double())
    return Target(weight, row_steps, column_steps, order, factor), hessian


def naive_gptq(matrix, hessian, table, restart):
    """Column by column with explicit inverses, as in the paper: for each column, H^-1 of the columns that are left.

    A column is decided by the Viterbi search alone, so that this checks the feedback, the scales and the chunks.
    """
    weight, hessian = matrix.weight.double().numpy().copy(), hessian.numpy().copy()
    hessian += DAMPING * hessian.diagonal().mean() * np.eye(len(hessian))
    codes = np.zeros(weight.shape, np.int64)
    left = matrix.order.tolist()
    while left:
        inverse = np.linalg.inv(hessian[np.ix_(left, left)])
        j = left[0]
        steps = matrix.rows.numpy() * matrix.columns[j].item()
        decoded = np.empty(len(weight))
        for start in range(0, len(weight), restart):
            part = slice(start, start + restart)
            x = torch.from_numpy((weight[part, j] / steps[part])[:, None])
            integers, code = Viterbi(table)(x)
            codes[part, j] = code[:, 0].numpy()
            decoded[part] = integers[:, 0].numpy() * steps[part]
        error = (weight[:, j] - decoded) / inverse[0, 0]
        weight[:, left] -= np.outer(error, inverse[0])
        left.pop(0)
    return codes


@pytest.mark.parametrize("rows,columns", [(7, 1), (5, 40), (40, 33), (9, BLOCK + 30)])
@pytest.mark.parametrize("table", [TRELLIS, UNIFORM], ids=["8 states", "uniform"])
def test_equals_the_naive_algorithm(rows, columns, table):
    matrix, hessian = target(rows, columns, columns)
    (codes,) = gptq([matrix], table, restart=16)
    assert np.array_equal(codes.numpy(), naive_gptq(matrix, hessian, table, 16))


def test_matrices_together_get_the_codes_they_get_alone():
    targets = [
        target(rows, columns, index)[0] for index, (rows, columns) in enumerate([(50, 20), (9, 20), (12, 7), (70, 20)])
    ]
    done = []
    together = gptq(targets, TRELLIS, 32, done.append)
    assert all(torch.equal(codes, gptq([one], TRELLIS, 32)[0]) for one, codes in zip(targets, together, strict=True))
    assert done == sorted(done) and done[-1] == sum(one.weight.numel() for one in targets)


def quadratic(matrix, hessian, codes, table, restart):
    bits = torch.from_numpy(trellis_bits(codes.numpy(), table, restart))
    integers = (2 * codes - bits * codes.sign()).double()
    error = matrix.weight.double() - integers * matrix.rows[:, None] * matrix.columns
    return float((error @ hessian * error).sum())


@pytest.mark.slow
def test_feedback_lowers_the_loss_and_the_trellis_lowers_it_further():
    """At one step: rounding without feedback, GPTQ without a trellis, GPTQ with one."""
    matrix, hessian = target(400, 96, 1, step=0.02)
    none = Target(matrix.weight, matrix.rows, matrix.columns, matrix.order, torch.eye(96, dtype=torch.float64))
    losses = []
    for one, table in ((none, UNIFORM), (matrix, UNIFORM), (matrix, TRELLIS), (matrix, trellis_table(64))):
        losses.append(quadratic(matrix, hessian, gptq([one], table)[0], table, 512))
    assert losses[1] < 0.5 * losses[0]
    # Of the uniform quantiser's step^2 / 3, 8 states leave 0.245 / 0.333 and 64 states 0.237 / 0.333.
    assert 0.7 < losses[2] / losses[1] < 0.8 and 0.99 * losses[2] > losses[3] > 0.9 * losses[2]


@pytest.mark.parametrize(
    "make",
    [
        lambda g: correlated(3, 50, g, 2),
        lambda g: torch.ones(50, 50),
        lambda g: torch.cov(torch.randn(50, 9, generator=g)) * 9 - 0.5 * torch.eye(50),
    ],
)
def test_rank_deficient_and_indefinite_hessians_are_damped(make):
    hessian = make(torch.Generator().manual_seed(3)).double()
    factor, damping = inverse_factor(hessian)
    assert torch.isfinite(factor).all() and torch.equal(factor, factor.triu())
    added = torch.linalg.inv(factor.T @ factor) - hessian  # a multiple of the identity, at least the usual damping
    amount = added.diagonal().mean()
    mean, smallest = float(hessian.diagonal().mean()), float(torch.linalg.eigvalsh(hessian)[0])
    assert 0.0099 * mean < amount < max(0.0101 * mean, -11 * smallest)
    assert amount == pytest.approx(damping * mean, rel=1e-3)
    torch.testing.assert_close(
        added, amount * torch.eye(50, dtype=torch.float64), atol=1e-6 * float(hessian.abs().max()), rtol=0
    )


def test_inverse_factor_of_dead_inputs_is_finite():
    hessian = correlated(300, 20, torch.Generator().manual_seed(2))
    hessian[3], hessian[:, 3] = 0, 0
    factor, _ = inverse_factor(hessian)
    live = hessian.diagonal() > 0
    mean = hessian.diagonal()[live].mean()
    expected = hessian + DAMPING * mean * torch.eye(20) + torch.diag(torch.where(live, 0, mean))
    torch.testing.assert_close(torch.linalg.inv(factor.T @ factor), expected, rtol=1e-6, atol=1e-9)
    assert torch.isfinite(inverse_factor(torch.zeros(5, 5))[0]).all()


def test_what_does_not_fit_is_refused():
    matrix, _ = target(4, 6)
    with pytest.raises(ValueError, match="do not fit"):
        Target(matrix.weight, matrix.columns, matrix.rows, matrix.order, matrix.factor)
    with pytest.raises(ValueError, match="not finite"):
        Target(torch.full((4, 6), math.nan), matrix.rows, matrix.columns, matrix.order, matrix.factor)
    with pytest.raises(ValueError, match="23 bits"):
        gptq([Target(matrix.weight * 1e9, matrix.rows, matrix.columns, matrix.order, matrix.factor)], TRELLIS)
