"""Uncertainty of a score at fixed weights: how far would bits per byte move on other documents of the same kind?

NOT covered: training noise (tools/claims/proof.py). Seeds usually move a score more than documents do, and this
interval says nothing about them. It also takes documents as independent: near-duplicates, and scorers of scope
"stream", make it too narrow.
"""

import math

import numpy as np
import scipy.special

RESAMPLES = 2000
SEED = 20240520
LN2 = math.log(2)


def bits_per_byte(nats, raw_bytes):
    """Sum of nats over ln 2 over the sum of bytes; along the last axis of arrays [..., documents]."""
    return np.sum(nats, axis=-1) / (LN2 * np.sum(raw_bytes, axis=-1))


def bpb_interval(nats, raw_bytes, confidence=0.95, resamples=RESAMPLES):
    """Interval (low, high) of bits per byte by a bootstrap over documents (pairs of nats and bytes [documents]);
    seeded.

    Bias-corrected and accelerated (Efron 1987); the same numbers as scipy.stats.bootstrap gives, whose jackknife
    takes the square of the number of documents and is a closed form for a ratio. None where there is no such interval:
    for fewer than two documents, or where some draws have no bytes."""
    nats, raw_bytes = np.asarray(nats, dtype=float), np.asarray(raw_bytes, dtype=float)
    count = len(nats)
    if count < 2:
        return None
    found = bits_per_byte(nats, raw_bytes)
    if np.ptp(nats / LN2 - found * raw_bytes) <= 1e-9 * raw_bytes.max() * abs(found):
        return (float(found),) * 2  # all documents have the same ratio: nothing varies, and BCa is undefined
    rng = np.random.default_rng(SEED)
    step = max(1, 1_000_000 // count)  # bounds the memory
    parts = []
    for begin in range(0, resamples, step):
        picks = rng.integers(0, count, (min(step, resamples - begin), count))
        with np.errstate(divide="ignore", invalid="ignore"):
            parts.append(bits_per_byte(nats[picks], raw_bytes[picks]))
    drawn = np.concatenate(parts)
    if not np.isfinite(drawn).all():
        return None
    bias = ((drawn < found).mean() + (drawn <= found).mean()) / 2
    left_out = (nats.sum() - nats) / LN2 / (raw_bytes.sum() - raw_bytes)
    influence = left_out.mean() - left_out
    acceleration = (influence**3).sum() / 6 / (influence**2).sum() ** 1.5
    bias = scipy.special.ndtri(bias)
    tails = bias + scipy.special.ndtri([(1 - confidence) / 2, (1 + confidence) / 2])
    levels = scipy.special.ndtr(bias + tails / (1 - acceleration * tails))
    return tuple(float(edge) for edge in np.percentile(drawn, 100 * levels))


def mean_interval(values, confidence=0.95):
    """Interval (low, high) of the mean of normally distributed values, two at least, by Student's t."""
    mean, count = float(np.mean(values)), len(values)
    quantile = scipy.special.stdtrit(count - 1, (1 + confidence) / 2)
    half = float(quantile * np.std(values, ddof=1)) / math.sqrt(count)
    return mean - half, mean + half


def ratio_variance(totals, sizes):
    """Variance of the ratio sum(totals) / sum(sizes) over documents [D], two at least, by linearisation (Cochran 1977,
    6.19); the square of whatever unit the ratio has."""
    count = len(sizes)
    residual = totals - totals.sum() / sizes.sum() * sizes
    return float(count / (count - 1) * (residual**2).sum() / sizes.sum() ** 2)


def ratio_error(totals, sizes):
    """Standard error of the ratio of ratio_variance()."""
    return math.sqrt(ratio_variance(totals, sizes))


def interval_in_order(values, confidence=0.95):
    """Interval (low, high) of the mean of values that were taken one after the other, two at least.

    Student's t on the variance that successive differences give (von Neumann et al. 1941): a level that drifts, or
    jumps once, does not widen it. That variance is as sure as the usual one of two thirds of the degrees of freedom."""
    values = np.asarray(values, dtype=float)
    count = len(values)
    variance = np.square(np.diff(values)).sum() / (2 * (count - 1))
    quantile = scipy.special.stdtrit(2 / 3 * (count - 1), (1 + confidence) / 2)
    half = quantile * math.sqrt(variance / count)
    return float(values.mean() - half), float(values.mean() + half)
