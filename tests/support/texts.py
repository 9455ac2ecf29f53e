"""Texts that tests build tokenizers and data sets of."""

import random


def prose(seed: int, words: int) -> str:
    """Deterministic text with English-like repetition: Zipf-distributed words of random syllables, in sentences."""
    shared = random.Random(7)
    syllables = [c + v + e for c in "bdfglmnprst" for v in "aeiou" for e in ("", "n", "st")]
    lexicon = ["".join(shared.choices(syllables, k=shared.randint(1, 3))) for _ in range(2000)]
    weights = [1 / (rank + 1) for rank in range(len(lexicon))]
    chosen = random.Random(seed).choices(lexicon, weights, k=words)
    sentences = [" ".join(chosen[i : i + 11]).capitalize() + "." for i in range(0, words, 11)]
    return "\n\n".join(" ".join(sentences[i : i + 5]) for i in range(0, len(sentences), 5))
