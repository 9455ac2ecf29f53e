"""Uncertainty of a score at fixed weights: how far would bits per byte move on other documents of the same kind?

NOT covered: training noise. Seeds usually move a score more than documents do, and this interval says nothing about
them. It also takes documents as independent: near-duplicates, and scorers of scope "stream", make it too narrow.
"""

import math

import numpy as np
import scipy.stats

RESAMPLES = 2000
SEED = 20240520


def bits_per_byte(nats, raw_bytes):
    """Sum of nats over ln 2 over the sum of bytes; along the last axis of arrays [..., documents]."""
    return np.sum(nats, axis=-1) / (math.log(2) * np.sum(raw_bytes, axis=-1))


def bpb_interval(nats, raw_bytes, confidence=0.95):
    """Interval (low, high) of bits per byte by a bootstrap over documents (pairs of nats and bytes [documents]);
    seeded.

    Bias-corrected and accelerated (Efron 1987), as scipy does it. None for fewer than two documents."""
    nats, raw_bytes = np.asarray(nats, dtype=float), np.asarray(raw_bytes, dtype=float)
    if len(nats) < 2:
        return None
    if np.ptp(nats * raw_bytes.sum() - raw_bytes * nats.sum()) <= 1e-9 * nats.sum() * raw_bytes.sum():
        # All documents have the same ratio: nothing varies, and BCa is undefined.
        return (float(bits_per_byte(nats, raw_bytes)),) * 2
    result = scipy.stats.bootstrap((nats, raw_bytes), lambda n, b, axis: bits_per_byte(n, b), paired=True,
                                   vectorized=True, method="BCa", confidence_level=confidence, n_resamples=RESAMPLES,
                                   batch=max(1, 1_000_000 // len(nats)), rng=np.random.default_rng(SEED))
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
