"""How much can hide from the audits? `python -m scoring.lab.power`: a table of bits per byte that escape with 1%.

A cheat is a shape (which symbols it takes, and how many nats of each) with a share of the split that it is done on. For
each shape and level the share is found at which the audit `blind` misses it with probability verdicts.MISS, and what
that share gains. Shapes whose gains are above the tolerance are found at the first position drawn, so that the
probability is a product; shapes below the tolerance are simulated, with the tests of verdicts.py themselves.

The text is that of a record: nats.csv has how often a symbol of the first 40,061 of the split dev cost so many nats
under record 0004's artifact and under the scorer's own reference, which had read the second half of the split before.

Not covered: `twice`, `order` and `sweep`, which see more; cheats that change their shape with the text around them.
"""

import argparse
import csv
import json
import math
from pathlib import Path

import numpy as np

from scoring import audits, verdicts
from scoring.positions import LEVELS, Pace, affordable

BPB_PER_NAT = 0.4899  # bits per byte of one nat more in the mean over symbols, of that text
QUIET = Pace(150.0, 0.07)  # seconds of record 0004's pass and of a question, on two quiet cores
TRIALS = 2000
STEPS = 12  # of the bisection
GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples, without their whole part, are spread evenly


def population():
    """(nats under the artifact, nats under the reference), each float64 [symbols]."""
    with open(Path(__file__).with_name("nats.csv"), encoding="utf-8") as file:
        rows = [(float(row["nats"]), float(row["reference"]), int(row["symbols"])) for row in csv.DictReader(file)]
    nats, reference, symbols = map(np.array, zip(*rows))
    return np.repeat(nats, symbols), np.repeat(reference, symbols)


def level_positions(name):
    """(uniform, aimed) positions of a level, for a stream at the pace of record 0004."""
    uniform = affordable(LEVELS[name], QUIET, stream=True)
    return uniform, int(uniform * LEVELS[name].aimed)


# ---- shapes whose gains are above the tolerance ----


def random_symbols(gain):
    """Any symbols, `gain` nats of each that costs as much, in an order in which cheap and dear ones come evenly."""

    def shape(nats, reference):
        spread = np.argsort(np.arange(len(nats)) * GOLDEN % 1)
        return np.minimum(nats, gain), np.argsort(nats, kind="stable")[spread]

    return shape


def costliest(nats, reference):
    """The costliest symbols for nothing."""
    return nats.copy(), np.argsort(-nats, kind="stable")


def below_reference(nats, reference):
    """The symbols that the reference predicts better, down to what it pays: the aimed positions never lie there."""
    gain = np.maximum(0, nats - reference)
    return gain, np.argsort(-gain, kind="stable")


# name: (shape, the part of its symbols at which a decoy gives it away)
LARGE = {
    "few large: 3 nats of any symbols": (random_symbols(3.0), 1.0),
    "rare: the costliest symbols for nothing": (costliest, 1.0),
    "only below the reference, the largest gaps": (below_reference, 1.0),
    "only in some documents: 0.1 nats of each symbol": (random_symbols(0.1), 1.0),
    "only late: 0.5 nats of each symbol of the end": (random_symbols(0.5), 1.0),
    "a class of target: 0.7 nats, half of the decoys in it": (random_symbols(0.7), 0.5),
}


def hidden_large(shape, seen, uniform, aimed):
    """Bits per byte of the largest share of a shape that is missed with probability MISS.

    shape(nats, reference) -> gains [symbols] and the order in which it takes symbols; seen: the part of its symbols at
    which a decoy shows it; uniform, aimed: positions."""
    nats, reference = population()
    gain, order = shape(nats, reference)
    gain, recorded = gain[order], (nats - gain)[order]
    weight = np.maximum(0, reference - nats).sum()  # of the honest text, which few cheated symbols change little
    cheated = np.maximum(0, reference[order] - recorded)
    # Log probability that none of the symbols so far is among the positions, were each drawn by itself.
    expected = uniform / len(nats) + aimed * cheated / weight
    escapes = -np.cumsum(expected * seen)
    return _at(math.log(verdicts.MISS), escapes, np.cumsum(gain) / len(nats)) * BPB_PER_NAT


def _at(threshold, falling, growing):
    """The value of `growing` where `falling` passes the threshold, straight between two symbols."""
    return float(np.interp(-threshold, np.append(0, -falling), np.append(0, growing)))


# ---- shapes below the tolerance ----


def balanced(mean, tolerance, rng, size):
    """As many gains as losses, as large as the tolerance allows; the gains larger by twice the mean."""
    gains = rng.random(size) < 0.5
    return np.where(gains, -tolerance, tolerance - 2 * mean)


def few_losses(mean, tolerance, rng, size):
    """Many small gains, and losses as large as the tolerance at one symbol in ten."""
    losses = rng.random(size) < 0.1
    return np.where(losses, tolerance, -(mean + 0.1 * tolerance) / 0.9)


SMALL = {
    "balanced signs": balanced,
    "many small gains, few small losses": few_losses,
}


def hidden_small(shape, tolerance, uniform):
    """Bits per byte of the largest mean of a shape that the tests of verdicts.py miss with probability MISS, by
    bisection over TRIALS simulated audits; at most what the tolerance allows."""
    low, high = 0.0, tolerance
    for _ in range(STEPS):
        middle = (low + high) / 2
        rng = np.random.default_rng(1)
        trials = max(1, round(TRIALS / (1 + uniform / 1000)))
        missed = sum(
            verdicts.favoured(shape(middle, tolerance, rng, uniform), BPB_PER_NAT) is None for _ in range(trials)
        )
        if missed / trials > verdicts.MISS:
            low = middle
        else:
            high = middle
    return high * BPB_PER_NAT


def table():
    """[{"shape", level: bits per byte}] for all shapes and levels."""
    positions = {name: level_positions(name) for name in LEVELS}
    rows = [
        {"shape": name, **{level: hidden_large(shape, seen, *counts) for level, counts in positions.items()}}
        for name, (shape, seen) in LARGE.items()
    ]
    for tolerance, where in ((audits.MIN_TOLERANCE, "CPU"), (audits.MAX_TOLERANCE, "GPU at its loudest")):
        for name, shape in SMALL.items():
            found = {level: hidden_small(shape, tolerance, uniform) for level, (uniform, _) in positions.items()}
            rows.append({"shape": f"{name}, {tolerance:g} nats ({where})", **found})
    return rows


def main():
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m scoring.lab.power", description="What hides from the audits.")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    rows = table()
    if options.json:
        print(json.dumps({"positions": {name: level_positions(name) for name in LEVELS}, "rows": rows}))
        return
    counts = " | ".join("{} ({:,} + {:,})".format(name, *level_positions(name)) for name in LEVELS)
    print(f"| bpb that hides with {verdicts.MISS:.0%} | {counts} |")
    print("|---|---:|---:|---:|")
    for row in rows:
        print(f"| {row['shape']} | " + " | ".join(f"{row[name]:.5f}" for name in LEVELS) + " |")


if __name__ == "__main__":
    main()
