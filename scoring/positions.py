"""Where the audits ask: positions of a split, drawn after the pass, and how many of them time allows.

Not covered: what is asked there (audits.py, sweep.py).
"""

import bisect
import dataclasses

import numpy as np

from scoring import reference

SECONDS = 600.0  # what `full` may take after the pass, on two quiet cores
IDLE = 0.65  # the part of a call's lanes that have a question, where lanes are more than one


@dataclasses.dataclass(frozen=True)
class Level:
    """How much is audited. Each number of positions is of uniform draws; `aimed` more for each of them are drawn where
    the pass beats the reference. share: of the documents, that are scored in another order."""

    least: int  # positions, however long they take
    most: int  # positions, however fast the Scorer is
    aimed: float
    share: float
    sweeps: int


LEVELS = {
    "quick": Level(100, 100, 1.0, 0.1, 4),
    "full": Level(1500, 15_000, 0.25, 0.5, 16),
    "deep": Level(15_000, 15_000, 0.5, 0.5, 16),
}


@dataclasses.dataclass(frozen=True)
class Pace:
    """What the pass took: `seconds` of scoring, and `question` seconds for the rows of one chunk of one lane."""

    seconds: float
    question: float


def affordable(level, pace, stream):
    """Uniform positions at a level: as many as SECONDS leave, after the replay and the second order, at this pace."""
    left = SECONDS - pace.seconds * (1 if stream else 1 + level.share)
    cost = pace.question * (1 + level.aimed) / (1 if stream else IDLE)
    possible = int(left / cost) if cost > 0 else level.most
    return max(level.least, min(level.most, possible))


class Positions:
    """Draws of positions in a split whose scores are known."""

    def __init__(self, tokens, nats, vocab_size, rng):
        """tokens: int64 [T] of each document; nats: what they cost in the pass, likewise."""
        self.rng = rng
        self.lengths = np.array([len(symbols) for symbols in tokens])
        self.starts = np.cumsum(self.lengths) - self.lengths
        known = np.concatenate(reference.adaptive_nats(tokens, vocab_size))
        # Nats by which the pass beats the reference model at each symbol of the split; 0 beyond the reference.
        self.gain = np.zeros(int(self.lengths.sum()))
        self.gain[: len(known)] = np.maximum(0, known - np.concatenate(nats)[: len(known)])

    def draw(self, uniform, aimed=0.0):
        """([(document, position)], how many of them are uniform, which come first): `uniform` of them, and `aimed` for
        each of these where the pass beats the reference, in proportion to the nats. None comes twice."""
        uniform = min(uniform, len(self.gain))
        drawn = self.rng.choice(len(self.gain), uniform, replace=False)
        gain = self.gain.copy()
        gain[drawn] = 0
        if count := min(int(uniform * aimed), np.count_nonzero(gain)):
            drawn = np.append(drawn, self.rng.choice(len(gain), count, replace=False, p=gain / gain.sum()))
        documents = np.searchsorted(self.starts, drawn, side="right") - 1
        return [(int(d), int(place - self.starts[d])) for d, place in zip(documents, drawn)], uniform


def by_document(places):
    """{document: [position], ascending}."""
    found: dict[int, list[int]] = {}
    for number, position in sorted(places):
        found.setdefault(number, []).append(position)
    return found


def between(positions, begin, end):
    """Those of `positions` (ascending) from `begin` up to `end`."""
    return positions[bisect.bisect_left(positions, begin) : bisect.bisect_left(positions, end)]
