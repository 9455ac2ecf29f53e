"""What the scorer itself expects of a text, cheaply: an adaptive model of order 2 over tokens, and text like it.

It shows where an artifact beats simple counting (audits.py looks there first), tells an easy split from a hard one, and
draws decoys. NOT covered: being a good model; its bits per byte are no target.
"""

import math

import numpy as np

BACKOFF = 2.0  # weight of the next lower order, in counts
MAX_TOKENS = 1_000_000  # of a split; the rest is left out, because this is plain Python


def adaptive_nats(documents, vocab_size):
    """Nats of every symbol [T] of each document (int arrays that end with the end symbol), each predicted from all
    symbols before it by counts of order 2, 1 and 0 that are mixed with BACKOFF. Documents beyond MAX_TOKENS are left
    out."""
    single, total = [0] * vocab_size, 0
    counts: dict[int, int] = {}  # by (order, context, symbol), as one integer
    totals: dict[int, int] = {}  # by (order, context)
    result: list[np.ndarray] = []
    for symbols in documents:
        if total + len(symbols) > MAX_TOKENS and result:
            break
        before, last = 1, 1
        nats = np.empty(len(symbols))
        for place, symbol in enumerate(symbols.tolist()):
            pair, triple = last + 1, (before + 1) * (vocab_size + 1) + last + 1
            pair_key, triple_key = pair * vocab_size + symbol, triple * vocab_size + symbol
            p = (single[symbol] + 0.5) / (total + 0.5 * vocab_size)
            p = (counts.get(pair_key, 0) + BACKOFF * p) / (totals.get(pair, 0) + BACKOFF)
            p = (counts.get(triple_key, 0) + BACKOFF * p) / (totals.get(triple, 0) + BACKOFF)
            nats[place] = -math.log(p)
            single[symbol] += 1
            total += 1
            for context, key in ((pair, pair_key), (triple, triple_key)):
                totals[context] = totals.get(context, 0) + 1
                counts[key] = counts.get(key, 0) + 1
            before, last = last, symbol
        result.append(nats)
    return result


class Decoys:
    """Text like a split's, but not from it: walks along pairs of tokens that occur in it. Half of the draws are tokens
    at random instead, which differ more from the truth."""

    def __init__(self, documents, rng):
        """documents: int arrays that end with the end symbol."""
        self.rng = rng
        self.tokens = np.concatenate(documents)[:MAX_TOKENS]
        self.alphabet = np.unique(self.tokens[self.tokens > 3])
        order = np.argsort(self.tokens[:-1], kind="stable")
        self.firsts, self.successors = self.tokens[:-1][order], self.tokens[1:][order]

    def draw(self, length, previous, not_first):
        """int64 [length] to follow the token `previous`; the first is not `not_first`, and no end symbol is among
        them."""
        alphabet = self.alphabet
        if self.rng.random() < 0.5:
            drawn = self.rng.choice(alphabet, length)
        else:
            drawn = np.empty(length, dtype=np.int64)
            for place in range(length):
                low, high = np.searchsorted(self.firsts, [previous, previous + 1])
                previous = self.successors[self.rng.integers(low, high)] if high > low else 1
                drawn[place] = previous = previous if previous > 3 else self.rng.choice(alphabet)
        others = alphabet[alphabet != not_first]
        if drawn[0] == not_first and len(others):
            drawn[0] = self.rng.choice(others)
        return drawn
