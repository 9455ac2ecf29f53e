"""Steps and forecasts against formulas written out, against brute force, and against what coding then costs."""

import math

import numpy as np
import pytest
import torch

from compress.allocate import ALL_PARTS, STEP_RANGE, Forecast, Parts, Sensitivity, allocate, profile, sensitivity
from compress.checkpoint import Statistics
from compress.quantise import decoded, make_plan, quantise
from compress.rates import entropy_bits
from compress.trellis import trellis_table
from tests.support.packed import correlated

pytestmark = pytest.mark.slow

FLAT = Parts(column=False, row=False)


def known_and_weight(rows=48, columns=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.exp(torch.randn(rows, generator=generator)).double()
    known = Sensitivity(correlated(500, columns, generator), gradient)
    return known, torch.randn(rows, columns, generator=generator)


def test_loss_is_the_quadratic_form():
    known, error = known_and_weight()
    naive = sum(0.5 * known.rows[r] * error[r].double() @ known.hessian @ error[r].double() for r in range(48))
    assert known.loss(error) == pytest.approx(float(naive))


def test_steps_follow_the_formulas():
    """c_j ~ U_jj, s_r ~ 1 / sqrt(G_r^0.7), rounded to quarter octaves; the mean loss is that of exact ones."""
    known, weight = known_and_weight()
    steps = allocate(weight, known, False)
    damped = known.hessian + 0.01 * known.hessian.diagonal().mean() * torch.eye(40)
    inverse = torch.linalg.inv(damped[steps.order][:, steps.order])
    diagonal = torch.linalg.cholesky(inverse).diagonal()  # U^T U = inverse: U^T is its lower Cholesky factor
    centre = diagonal.log2().mean()
    expected = (diagonal.log2() - centre)[torch.argsort(steps.order)]
    assert (steps.columns / 4 - expected).abs().max() <= 0.126
    rows = (steps.base + steps.rows) / 4 - centre
    spread = (known.rows + 1e-4 * known.rows.mean()) ** 0.7
    offset = rows + 0.5 * spread.log2()
    assert offset.max() - offset.min() <= 0.251
    assert float((known.rows * torch.exp2(2 * rows)).mean()) == pytest.approx(1, rel=0.1)


def test_parts_can_be_left_out():
    known, weight = known_and_weight()
    full = allocate(weight, known, False)
    assert full.rows.abs().max() > 0 and full.columns.abs().max() > 0
    flat = allocate(weight, known, False, FLAT)
    assert (flat.rows == 0).all() and (flat.columns == 0).all() and abs(flat.base - full.base) < 8
    by_size = [allocate(scale * weight, known, False, Parts(tensor=False)).base for scale in (1, 4)]
    assert by_size[1] - by_size[0] == 8 and allocate(4 * weight, known, False).base == full.base


def test_without_a_sensitivity_steps_follow_the_size():
    _, weight = known_and_weight()
    bases = [allocate(scale * weight, None, embedding).base for scale, embedding in ((1, False), (8, False), (1, True))]
    assert bases[1] - bases[0] == 12 and bases[2] - bases[0] == -12
    assert allocate(torch.zeros(3, 4), None, False).base == 0


def test_extreme_sensitivities_stay_in_range():
    known, weight = known_and_weight()
    known.rows[0], known.rows[1] = 0, 1e30
    steps = allocate(weight, known, False)
    assert steps.rows.abs().max() <= STEP_RANGE and torch.isfinite(steps.row_steps(1.0)).all()


def statistics(tied=True, head=True):
    generator = torch.Generator().manual_seed(5)
    gradients = torch.randn(900, 12, generator=generator)
    ids = torch.randint(30, (900,), generator=generator)
    row = torch.zeros(30).index_add_(0, ids, gradients.square().sum(1)) / 900
    lookup = {"gradient_second_moment": gradients.T @ gradients / 900, "row_gradient": row}
    linear = {"embed": {"tap": "t", "output_gradient": torch.rand(30, generator=generator)}} if head else {}
    return Statistics(900, linear, {"t": correlated(99, 12, generator)}, {"embed": lookup} if tied else {})


def test_a_tied_embedding_has_the_loss_of_both_uses():
    """For errors without a preferred direction H and G give the sum of both exactly."""
    both, head, lookup = (
        sensitivity("embed", statistics(*uses)) for uses in ((True, True), (False, True), (True, False))
    )
    noise = torch.randn(4000, 30, 12, generator=torch.Generator().manual_seed(6)).double()
    losses = [np.mean([known.loss(error) for error in noise]) for known in (both, head, lookup)]
    assert losses[0] == pytest.approx(losses[1] + losses[2], rel=0.01)
    gradient = statistics().linear["embed"]["output_gradient"]
    shape = gradient.sum() * statistics().taps["t"] + statistics().embedding["embed"]["gradient_second_moment"]
    torch.testing.assert_close(both.hessian / both.hessian.trace(), shape.double() / shape.trace())


def test_sensitivity_is_none_where_nothing_is_known():
    assert sensitivity("embed", None) is None and sensitivity("other", statistics()) is None
    dead = statistics()
    dead.linear["embed"]["output_gradient"].zero_()
    dead.embedding.clear()
    assert sensitivity("embed", dead) is None


def run(model, stats, dial, parts=ALL_PARTS):
    plan = make_plan(model, stats, parts=parts)
    quantised = quantise(plan, dial)
    tensors = quantised.tensors
    outputs = decoded(quantised)
    bits = 0.0
    for name in plan.matrices:  # each column with its own entropy: what contexts approach
        bits += sum(entropy_bits(column) for column in tensors[name].codes.T) * len(tensors[name].codes)
    return plan, outputs, bits


def two_matrices():
    """Two matrices whose inputs and gradients differ a thousandfold, with uneven rows and columns."""
    generator = torch.Generator().manual_seed(7)
    model = {name: torch.randn(512, 32, generator=generator) for name in ("a", "b")}
    taps, linear = {}, {}
    for name, size in (("a", 1.0), ("b", 1000.0)):
        taps[name] = correlated(600, 32, generator)
        linear[name] = {"tap": name, "output_gradient": size * torch.exp(torch.randn(512, generator=generator))}
    return model, Statistics(600, linear, taps, {})


def test_forecast_meets_the_quadratic_form_and_the_rate():
    model, stats = two_matrices()
    forecast = Forecast(trellis_table(8))
    for dial in (2.0, 4.0):
        plan, outputs, bits = run(model, stats, dial)
        predicted = [forecast(profile(plan.weight(name), plan.matrices[name]), dial) for name in model]
        for name, (_, loss) in zip(model, predicted, strict=True):
            known = plan.matrices[name].known
            damped = known.hessian + 0.01 * known.hessian.diagonal().mean() * torch.eye(32)
            actual = Sensitivity(damped, known.rows).loss(model[name] - outputs[name])
            assert actual == pytest.approx(loss, rel=0.12)
        assert sum(rate for rate, _ in predicted) == pytest.approx(bits, rel=0.1)


def test_forecast_is_the_uniform_quantisers_formula_at_high_rates():
    forecast = Forecast(trellis_table(1))
    known, weight = known_and_weight()
    steps = allocate(weight, known, False, FLAT)
    bits, loss = forecast(profile(weight, steps), 2.0**-12)
    width = 2 * steps.row_steps(2.0**-12)[0].item()
    inner = steps.factor.diagonal().square().reciprocal().sum()
    assert loss == pytest.approx(float(0.5 * known.rows.sum() * inner * width**2 / 12), rel=0.02)
    assert bits / weight.numel() == pytest.approx(0.5 * math.log2(2 * math.pi * math.e) - math.log2(width), abs=0.1)


@pytest.mark.slow
def test_every_part_of_the_allocation_lowers_the_loss_at_equal_bits():
    model, stats = two_matrices()

    def loss_at(parts, target=2 * 512 * 32 * 3.5):
        points = []
        for dial in (2.0, 4.0, 8.0) if parts.tensor else (0.1, 0.3, 0.5):
            plan, outputs, bits = run(model, stats, dial, parts)
            points.append((bits, math.log(sum(plan.matrices[n].known.loss(model[n] - outputs[n]) for n in model))))
        bits, losses = zip(*sorted(points), strict=True)
        assert bits[0] < target < bits[-1]
        return np.interp(target, bits, losses)

    best = loss_at(Parts())
    for parts in (Parts(tensor=False), Parts(column=False), Parts(row=False)):
        assert loss_at(parts) > best + 0.1, parts
