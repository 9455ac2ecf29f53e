"""What the scorer itself expects of a text, cheaply: an adaptive model of order 2 over tokens, and text like it.

It shows where an artifact beats simple counting (audits.py looks there first), tells an easy split from a hard one, and
draws decoys. NOT covered: being a good model; its bits per byte are no target.
"""

import math

import numpy as np

BACKOFF = 2.0  # weight of the next lower order, in counts
FIRST_DECOY = 4  # ids below are specials, the end symbol among them
MAX_TOKENS = 1_000_000  # of a split; the rest is left out, because this is plain Python


def adaptive_nats(documents, vocab_size):
    """Nats of every symbol [T] of each document (int arrays that end with the end symbol), each predicted from all
    symbols before it by counts of order 2, 1 and 0 that are mixed with BACKOFF. What lies beyond MAX_TOKENS symbols is
    left out, so that the last row may be shorter than its document."""
    single, total = [0] * vocab_size, 0
    counts: dict[int, int] = {}  # by (order, context, symbol), as one integer
    totals: dict[int, int] = {}  # by (order, context)
    result: list[np.ndarray] = []
    for symbols in documents:
        symbols = symbols[: MAX_TOKENS - total]
        if not len(symbols):
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
        tokens = np.concatenate(documents)[:MAX_TOKENS]
        self.alphabet = np.unique(tokens[tokens >= FIRST_DECOY])
        order = np.argsort(tokens[:-1], kind="stable")
        self.successors = tokens[1:][order]
        # The successors of token t are those from ends[t - 1] up to ends[t].
        self.ends = np.cumsum(np.bincount(tokens[:-1], minlength=int(tokens.max()) + 1)).tolist()

    def random(self, count):
        """int64 [count]: tokens of the split at random."""
        return self.rng.choice(self.alphabet, count)

    def draw(self, length, previous, not_first):
        """int64 [length] to follow the token `previous`; the first is not `not_first`, and no end symbol is among
        them."""
        drawn = self.random(length)
        if self.rng.random() < 0.5:
            self._walk(drawn, previous)
        others = self.alphabet[self.alphabet != not_first]
        if drawn[0] == not_first and len(others):
            drawn[0] = self.rng.choice(others)
        return drawn

    def _walk(self, drawn, previous):
        """Replace random tokens by those of a walk, wherever a pair leads on to something other than an end."""
        chances = self.rng.random(len(drawn)).tolist()
        for place, chance in enumerate(chances):
            low, high = self.ends[previous - 1], self.ends[previous]
            if high > low:
                following = int(self.successors[low + int(chance * (high - low))])
                if following >= FIRST_DECOY:
                    drawn[place] = following
            previous = int(drawn[place])
