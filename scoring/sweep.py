"""The sweep: every symbol of the alphabet in turn as the target at one place, of a box that claims log-probabilities.

The claimed probabilities must sum to at most one, and the symbol of the text must cost what it cost in the pass. A box
that recognises a sweep and claims little has to claim what it claimed in the pass for one symbol, and cannot know which
that is.

Not covered: places that were not drawn (positions.py).
"""

import math

import numpy as np

from scoring import passes, verdicts

TOLERANCE = 1e-3  # nats by which the claims of a place may sum to more than one


class Sweep:
    """Sums of claims at places of a split. tokens: int64 [T] of each document; nats: what they cost in the pass."""

    def __init__(self, tokens, nats, vocab_size, rng):
        self.tokens, self.nats, self.vocab_size, self.rng = tokens, nats, vocab_size, rng
        # By (document, position): the sum, and recorded minus new nats of the symbol of the text.
        self.found: dict[tuple[int, int], tuple[float, float]] = {}

    def ask_alone(self, box, number, position):
        """Sweep a place of a document of which the box knows what comes before its chunk, in all lanes of a batch. No
        lane ever holds the symbol of the text as what is to come."""
        lanes = max(1, min(self.vocab_size, min(passes.BATCH_TOKENS, box.capacity) // box.chunk))
        begin = position // box.chunk * box.chunk
        for _ in passes.walk(box, [self.tokens[number][:begin]] * lanes):
            pass
        self.ask(box, number, position, begin, lanes)

    def ask(self, box, number, position, begin, lanes=1):
        """Sweep a place of the chunk that begins at `begin`, in a box that knows all before it."""
        total, delta = 0.0, math.nan
        truth = self.tokens[number]
        symbols = self.rng.permutation(self.vocab_size)
        for first in range(0, len(symbols), lanes):
            some = symbols[first : first + lanes]
            sent = np.tile(truth[begin : position + 1], (lanes, 1))
            sent[:, -1] = np.resize(some, lanes)  # lanes without a symbol of their own repeat one
            claimed = box.claimed(sent)[: len(some), -1]
            total += float(np.exp(-claimed).sum())
            for nats in claimed[some == truth[position]]:
                delta = float(self.nats[number][position] - nats)
        self.found[number, position] = total, delta

    def row(self, names, uniform, tolerance, bpb):
        """The row of the table. names: ids of the documents; uniform: how many places were drawn uniformly; tolerance:
        nats by which a symbol may cost something else now."""

        def badness(place):
            total, delta = self.found[place]
            return np.nan_to_num(max(total - 1, abs(delta)) if total == total else np.inf, nan=np.inf)

        worst = max(self.found, key=badness)
        total, delta = self.found[worst]
        where = f"symbol {worst[1]} of document {names[worst[0]]}"
        problem = None
        if not total <= math.exp(TOLERANCE):
            problem = f"the probabilities claimed for all symbols at {where} sum to {total:.4f}"
        elif not abs(delta) <= tolerance:
            problem = f"at {where} {-delta:+.4f} nats more are claimed when every symbol is asked for"
        largest = max(total for total, _ in self.found.values())
        return verdicts.tested(
            "sweep",
            problem,
            f"{len(self.found)} positions, all {self.vocab_size:,} symbols, largest sum {largest:.6f}",
            n=len(self.found),
            misses=verdicts.missed(uniform, "positions", bpb),
        )
