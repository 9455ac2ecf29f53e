"""How uneven sensitivities are, against formulas and against what steps by loss then save."""

import math

import numpy as np
import pytest
import torch

from compress.allocate import Sensitivity
from compress.lab.spread import am_gm_bits, predicted_losses, row_bits, spread
from tests.support.packed import load_run, measured_run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_boxes")]


@pytest.fixture(scope="module")
def run():
    return measured_run()


def test_am_gm_of_equal_and_of_two_costs():
    assert am_gm_bits([3.0, 3.0, 3.0]) == pytest.approx(0, abs=1e-12)
    assert am_gm_bits([1.0, 16.0]) == pytest.approx(0.5 * math.log2(8.5 / 4))
    assert am_gm_bits([1.0, 16.0], [3, 1]) == pytest.approx(0.5 * math.log2(4.75 / 2))


def test_am_gm_predicts_the_bits_that_steps_by_loss_save():
    """A fine uniform quantiser on Gaussian columns: equal steps and steps in proportion to U at one loss."""
    generator = np.random.default_rng(0)
    inner = np.exp(generator.normal(0, 1, 40))
    weight = generator.normal(0, 1, (4000, 40))

    def rate_and_loss(steps):
        codes = np.round(weight / steps)
        counts = (np.unique(column, return_counts=True)[1] / len(column) for column in codes.T)
        rate = np.mean([-(share * np.log2(share)).sum() for share in counts])
        return rate, (((weight - codes * steps) / inner) ** 2).mean()

    equal, loss = rate_and_loss(np.full(40, 0.1))
    allocated, other = rate_and_loss(inner * np.sqrt(12 * loss))
    assert other == pytest.approx(loss, rel=0.02)
    # The columns with the largest U have steps near the size of their weights: a little less is gained.
    assert equal - allocated == pytest.approx(am_gm_bits(1 / inner**2), rel=0.1)


def test_row_bits_are_those_of_the_rule():
    known = Sensitivity(torch.eye(2), torch.tensor([1.0, 1.0, 1.0]))
    assert row_bits(known) == pytest.approx(0, abs=1e-6)
    gradients = np.array([1.0, 100.0])
    cost = (gradients + 1e-4 * gradients.mean()) ** 0.7
    loss = 0.5 * np.log2(gradients.mean() / (gradients / cost).mean())  # lower steps of the same total rate
    assert row_bits(Sensitivity(torch.eye(2), torch.tensor(gradients))) == pytest.approx(
        loss - 0.25 * np.log2(cost).sum()
    )
    assert row_bits(Sensitivity(torch.eye(2), torch.tensor(gradients))) <= am_gm_bits(gradients)


def test_spread_has_every_matrix_and_means_over_weights(run):
    model, statistics = load_run(run)
    found = spread(model, statistics)
    assert [row["name"] for row in found["matrices"]] == ["embed.weight", "up.weight", "down.weight"]
    weights = [row["weights"] for row in found["matrices"]]
    for key in ("columns", "rows"):
        values = [row[key] for row in found["matrices"]]
        assert found[key] == pytest.approx(np.average(values, weights=weights)) and min(values) >= 0
    hessian = statistics.taps["up"].double()
    hessian = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(24)
    order = hessian.diagonal().argsort(descending=True)
    lower = torch.linalg.cholesky(torch.linalg.inv(hessian[order][:, order]))
    assert found["matrices"][1]["columns"] == pytest.approx(am_gm_bits(lower.diagonal().numpy() ** -2), rel=1e-3)


def test_statistics_of_another_run_are_refused(run):
    model, statistics = load_run(run)
    with pytest.raises(ValueError, match="up.weight is not in the artifact"):
        predicted_losses(model, model | {"up.weight": torch.zeros(40, 24)}, statistics)
