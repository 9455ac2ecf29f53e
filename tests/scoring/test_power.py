"""scoring/lab/power.py against closed forms, and against draws of the audits' own positions.

Not covered: whether the shapes are those that somebody would choose.
"""

import math

import numpy as np
import pytest
from scipy import stats

from scoring.lab import power
from scoring.positions import Positions

pytestmark = pytest.mark.slow


def test_the_share_that_escapes_uniform_positions_is_the_closed_form():
    """(1 - f)^n = 1%, and f times the mean gain."""
    nats, _ = power.population()
    hidden = power.hidden_large(power.random_symbols(20.0), 1.0, 4000, 0)
    share = 1 - 0.01 ** (1 / 4000)
    assert hidden == pytest.approx(share * nats.mean() * power.BPB_PER_NAT, rel=0.15)  # 46 symbols vary
    flat = power.hidden_large(power.random_symbols(0.01), 1.0, 4000, 0)
    assert flat == pytest.approx(share * np.minimum(nats, 0.01).mean() * power.BPB_PER_NAT, rel=0.05)
    half = power.hidden_large(power.random_symbols(0.01), 0.5, 4000, 0)
    assert half == pytest.approx(2 * flat, rel=0.05)


def test_a_mean_that_the_t_test_misses_is_the_closed_form():
    """Power of Student's test: the sum of two quantiles, times the standard error."""
    uniform, tolerance = 1000, 0.1
    hidden = power.hidden_small(power.balanced, tolerance, uniform)
    quantiles = stats.norm.isf(1e-4) + stats.norm.isf(0.01)
    assert hidden == pytest.approx(quantiles * tolerance / math.sqrt(uniform) * power.BPB_PER_NAT, rel=0.15)


def test_the_audits_own_draws_miss_as_often_as_the_product_says():
    """A cheat at 3% of the symbols of a split, 40 uniform positions and 20 aimed, 2,000 audits."""
    rng = np.random.default_rng(2)
    tokens = [rng.integers(4, 30, 200) for _ in range(10)]
    nats = [np.full(200, 3.0) for _ in tokens]
    cheated = {(number, int(place)) for number in range(10) for place in rng.choice(200, 6, replace=False)}
    for number, place in cheated:
        nats[number][place] = 0.0
    positions = Positions(tokens, nats, 30, rng)
    missed = sum(cheated.isdisjoint(positions.draw(40, 0.5)[0]) for _ in range(2000)) / 2000
    starts = {(n, p): n * 200 + p for n, p in cheated}
    aimed = sum(positions.gain[place] for place in starts.values()) / positions.gain.sum()
    expected = (1 - 0.03) ** 40 * (1 - aimed) ** 20
    assert abs(missed - expected) < 4 * math.sqrt(expected / 2000) + 0.02 * expected
