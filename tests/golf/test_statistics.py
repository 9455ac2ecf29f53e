"""golf/statistics.py: the interval against the closed-form error of a ratio, and its coverage in a simulation."""

import math

import numpy as np
import pytest
import scipy.stats

from golf import statistics


def corpus(rng, documents):
    """Nats and bytes of documents whose rate varies with them; the true bits per byte of the population is 1.5."""
    raw_bytes = rng.lognormal(6, 0.8, documents).round() + 1
    rate = 1.5 * (1 + 0.15 * rng.standard_normal(documents))
    return raw_bytes * rate * math.log(2), raw_bytes


def test_bits_per_byte_by_hand():
    assert statistics.bits_per_byte([math.log(2) * 3, math.log(2) * 5], [2, 2]) == pytest.approx(2.0)


def test_interval_equals_closed_form_of_a_ratio():
    """Linearised standard error: sqrt(n/(n-1) sum (L_d - r b_d)^2) / sum b_d (Cochran, Sampling Techniques, 6.19)."""
    nats, raw_bytes = corpus(np.random.default_rng(1), 3000)
    bits, ratio = nats / math.log(2), statistics.bits_per_byte(nats, raw_bytes)
    error = math.sqrt(3000 / 2999 * ((bits - ratio * raw_bytes) ** 2).sum()) / raw_bytes.sum()
    assert statistics.ratio_error(bits, raw_bytes) == pytest.approx(error, rel=1e-12)
    low, high = statistics.bpb_interval(nats, raw_bytes)
    assert low < ratio < high
    assert high - low == pytest.approx(2 * 1.959964 * error, rel=0.06)
    wide = statistics.bpb_interval(nats, raw_bytes, confidence=0.99)
    assert wide[1] - wide[0] == pytest.approx(2 * 2.575829 * error, rel=0.08)


@pytest.mark.parametrize("documents", [3, 20, 300])
def test_interval_equals_scipys(documents):
    nats, raw_bytes = corpus(np.random.default_rng(documents), documents)
    expected = scipy.stats.bootstrap(
        (nats, raw_bytes),
        lambda n, b, axis: statistics.bits_per_byte(n, b),
        paired=True,
        vectorized=True,
        method="BCa",
        n_resamples=500,
        rng=np.random.default_rng(statistics.SEED),
    ).confidence_interval
    assert statistics.bpb_interval(nats, raw_bytes, resamples=500) == pytest.approx(tuple(expected), rel=1e-12)


def test_error_of_a_ratio_is_that_of_the_bootstrap():
    nats, raw_bytes = corpus(np.random.default_rng(4), 400)
    draws = np.random.default_rng(5).integers(0, 400, (4000, 400))
    naive = np.std(statistics.bits_per_byte(nats[draws], raw_bytes[draws]))
    assert statistics.ratio_error(nats / math.log(2), raw_bytes) == pytest.approx(naive, rel=0.05)
    assert statistics.ratio_variance(nats / math.log(2), raw_bytes) == pytest.approx(naive**2, rel=0.1)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    """200 corpora of 80 documents: binomial 99.9% bounds around 95% are 178..200; a naive 68% interval would be near
    136."""
    rng, covered = np.random.default_rng(2), 0
    for _ in range(200):
        low, high = statistics.bpb_interval(*corpus(rng, 80), resamples=500)
        covered += low <= 1.5 <= high
    assert 176 <= covered <= 199


def test_interval_is_the_same_twice_and_defined_at_the_edges():
    nats, raw_bytes = corpus(np.random.default_rng(3), 50)
    assert statistics.bpb_interval(nats, raw_bytes) == statistics.bpb_interval(nats, raw_bytes)
    assert statistics.bpb_interval(nats[:1], raw_bytes[:1]) is None
    assert statistics.bpb_interval([], []) is None
    assert statistics.bpb_interval([1.0, 2.0], [0, 3]) is None  # a draw of the first document alone has no bytes
    assert statistics.bpb_interval([2.0, 4.0, 6.0], [1, 2, 3]) == pytest.approx((2 / math.log(2),) * 2)
    low, high = statistics.bpb_interval([2.0, 5.0], [1, 2])
    ratios = [2 / math.log(2), 2.5 / math.log(2)]
    assert min(ratios) <= low <= high <= max(ratios)


@pytest.mark.parametrize("values", [[1.92, 1.90, 1.97], [1.0, 2.0], list(range(50))])
def test_the_interval_of_a_mean_is_scipys(values):
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert statistics.mean_interval(values) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_equal_values_have_a_mean_without_width():
    assert statistics.mean_interval([0.25, 0.25, 0.25]) == (0.25, 0.25)
