"""Simulated scores for tests of claims: two artifacts, seeds and documents."""

import math


def simulate(rng, gain=0.0, seeds=3, documents=200, seed_sd=0.005, interaction=0.0, shared=0.0):
    """(new, old) nats [S, D] and bytes: bpb about 1.7 by document, noise of training seeds, and of which change suits
    which document (interaction; it is the same for all seeds of an arm)."""
    size = rng.integers(200, 4000, documents)
    document = 1.7 + rng.normal(0, 0.3, documents)
    common = rng.normal(0, shared, seeds)
    new = document - gain + rng.normal(0, interaction, documents) + (common + rng.normal(0, seed_sd, seeds))[:, None]
    old = document + (common + rng.normal(0, seed_sd, seeds))[:, None]
    return new * size * math.log(2), old * size * math.log(2), size
