"""Exact duplicates, near-duplicates, shared passages, and the split by document hash.

Words are runs of letters and digits, lower-cased, so neither punctuation nor layout hides a copy. A shingle is a run of
consecutive words, as one 64-bit hash of their checksums; everything works on flat arrays with the borders of the
documents beside them.

Not covered: paraphrase and translation; passages shorter than a shingle.

Source: MinHash with banding, Broder 1997 and Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3.
"""

import hashlib
import re
from zlib import crc32

import numpy as np

from tools.data.embedded import Document

PERMUTATIONS, BANDS, THRESHOLD = 64, 16, 0.7
NEAR_WORDS = 5  # words in a shingle for MinHash
OVERLAP_WORDS = 13  # words in a shingle for passages shared between splits
OVERLAP_LIMIT = 0.2
HELD_OUT = ("dev", "gate", "final")
WORD = re.compile(r"\w+")
MIX = np.uint64(0x9E3779B97F4A7C15)


def text_hash(document: Document) -> bytes:
    """SHA-256 of the text: the order of documents in a split, and which copy of a text stays."""
    return hashlib.sha256(document.text.encode("utf-8")).digest()


def words(text: str) -> np.ndarray:
    """The hashed words [words] uint64 of a text."""
    return np.fromiter(map(crc32, map(str.encode, WORD.findall(text.lower()))), dtype=np.uint64)


def shingles(documents: list[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    """(hashes [shingles] uint64, offsets [documents + 1]) of documents given as hashed words.

    A document shorter than `length` words has one shingle, of all its words.
    """
    counts = np.array([len(document) for document in documents], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)])
    total = int(starts[-1])
    # Padding at the end lets every window be read; windows that cross a border are thrown away below.
    flat = np.concatenate([*documents, np.zeros(length, dtype=np.uint64)])
    hashes = np.zeros(total, dtype=np.uint64)
    for offset in range(length):
        hashes = hashes * MIX + flat[offset : offset + total]
    per_document = np.maximum(counts - length + 1, np.minimum(counts, 1))
    offsets = np.concatenate([[0], np.cumsum(per_document)])
    hashes = hashes[np.arange(total) - np.repeat(starts[:-1], counts) < np.repeat(per_document, counts)]
    for index in np.flatnonzero((counts > 0) & (counts < length)):
        value = int(counts[index])
        for word in documents[index].tolist():
            value = (value * int(MIX) + word) % (1 << 64)
        hashes[offsets[index]] = value
    # A polynomial hash is weak in its low bits' neighbourhood: one round of mixing spreads it.
    hashes ^= hashes >> np.uint64(29)
    return hashes * MIX, offsets


def _words(documents: list[Document], advance) -> list[np.ndarray]:
    hashed = []
    for document in documents:
        hashed.append(words(document.text))
        advance()
    return hashed


def deduplicate(documents: list[Document], advance=lambda steps=1: None) -> tuple[list[Document], dict[str, int]]:
    """The documents without empty ones, exact duplicates and near-duplicates, sorted by the hash of the text.

    Of a set of copies the one with the smallest hash stays, so the input's order does not matter. Also returns how many
    were dropped, by reason. `advance(steps)` is called as the work goes on, in all with 2 steps for each document.
    """
    unique: dict[bytes, Document] = {}
    for document in sorted(documents, key=text_hash):
        key = hashlib.sha256(" ".join(WORD.findall(document.text.lower())).encode("utf-8")).digest()
        if WORD.search(document.text):
            unique.setdefault(key, document)
    kept = list(unique.values())
    hashed = _words(kept, advance)
    advance(len(documents) - len(kept))
    drop = near_duplicates(*shingles(hashed, NEAR_WORDS), lambda: advance(len(documents) / PERMUTATIONS))
    survivors = [document for index, document in enumerate(kept) if index not in drop]
    return survivors, {"exact": len(documents) - len(kept), "near": len(drop)}


def minhash(hashes: np.ndarray, offsets: np.ndarray, advance=lambda: None) -> np.ndarray:
    """Signatures [documents, PERMUTATIONS] uint64: for each permutation the smallest hash of each document."""
    random = np.random.default_rng(1)
    multipliers = random.integers(0, 1 << 63, size=PERMUTATIONS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    signatures = np.empty((len(offsets) - 1, PERMUTATIONS), dtype=np.uint64)
    for index, multiplier in enumerate(multipliers):
        # The high half of a product with an odd number mixes all lower bits; a rotation brings it down.
        mixed = hashes * multiplier
        mixed = (mixed >> np.uint64(32)) | (mixed << np.uint64(32))
        signatures[:, index] = np.minimum.reduceat(mixed, offsets[:-1])
        advance()
    return signatures


def near_duplicates(hashes: np.ndarray, offsets: np.ndarray, advance=lambda: None) -> set[int]:
    """Indices of documents that resemble an earlier kept one: Jaccard similarity of the shingles >= THRESHOLD.

    Candidates share one of BANDS bands of the MinHash signature; each candidate pair is then measured exactly.
    """
    if len(offsets) < 3:
        return set()
    signatures = minhash(hashes, offsets, advance)
    rows = PERMUTATIONS // BANDS
    pairs = set()
    for band in range(BANDS):
        key = signatures[:, band * rows] * MIX
        for row in range(1, rows):
            key = (key ^ signatures[:, band * rows + row]) * MIX
        order = np.argsort(key, kind="stable")
        same = np.flatnonzero(key[order][1:] == key[order][:-1])
        # Within a run of equal keys each document is compared with its neighbour, and with the run's first.
        first = int(order[0]) if len(order) else 0
        previous = -2
        for position in same:
            if position != previous + 1:
                first = int(order[position])
            previous = int(position)
            second = int(order[position + 1])
            pairs.add((min(first, second), max(first, second)))
            pairs.add((min(int(order[position]), second), max(int(order[position]), second)))
    dropped: set[int] = set()
    for earlier, later in sorted((int(a), int(b)) for a, b in pairs):
        if earlier in dropped or later in dropped:
            continue
        a, b = (sorted_unique(hashes[offsets[i] : offsets[i + 1]]) for i in (earlier, later))
        shared = len(np.intersect1d(a, b, assume_unique=True))
        if shared >= THRESHOLD * (len(a) + len(b) - shared):
            dropped.add(later)
    return dropped


def split(documents: list[Document], held_out_bytes: int) -> dict[str, list[Document]]:
    """Documents dealt to dev, gate, final and train by the hash of their group (or text), each slice in proportion.

    Within a slice, groups in the order of their hash go to dev until its share of `held_out_bytes` is reached, then to
    gate, then to final, the rest to train. Each list is ordered by the hash of the text.
    """
    sizes: dict[str, int] = {}
    groups: dict[str, dict[str, list[Document]]] = {}
    for document in documents:
        sizes[document.source] = sizes.get(document.source, 0) + len(document.text.encode("utf-8"))
        key = f"{document.source}/{document.group}" if document.group else document.text
        groups.setdefault(document.source, {}).setdefault(key, []).append(document)
    splits: dict[str, list[Document]] = {name: [] for name in ("train", *HELD_OUT)}
    for source in sorted(groups):
        share = held_out_bytes * sizes[source] / sum(sizes.values())
        order = sorted(groups[source], key=lambda key: hashlib.sha256(key.encode("utf-8")).digest())
        filled, position = 0, 0
        for key in order:
            name = HELD_OUT[position] if position < len(HELD_OUT) else "train"
            splits[name] += groups[source][key]
            filled += sum(len(document.text.encode("utf-8")) for document in groups[source][key])
            if filled >= share:
                filled, position = 0, position + 1
    for members in splits.values():
        members.sort(key=text_hash)
    return splits


def sorted_unique(hashes: np.ndarray) -> np.ndarray:
    """The distinct hashes in ascending order (ten times faster on millions of them than numpy's own `unique`)."""
    hashes = np.sort(hashes)
    return hashes[np.concatenate([[True], hashes[1:] != hashes[:-1]])] if len(hashes) else hashes


def overlap(hashes: np.ndarray, offsets: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each document the share of its shingles [documents] float that occur among `others` (sorted, unique)."""
    if not len(others):
        return np.zeros(len(offsets) - 1)
    place = np.minimum(np.searchsorted(others, hashes), len(others) - 1)
    hit = np.concatenate([[0], np.cumsum(others[place] == hashes)])
    return (hit[offsets[1:]] - hit[offsets[:-1]]) / np.maximum(offsets[1:] - offsets[:-1], 1)


def separate(splits: dict[str, list[Document]], advance=lambda steps=1: None) -> tuple[dict[str, list[Document]], int]:
    """Drops documents that share more than OVERLAP_LIMIT of their 13-word shingles with another split.

    Held-out documents go first (against training and the held-out splits before them), then what is left of the
    opposite case: training documents that lie in a held-out one. Returns the splits and the number of documents
    dropped.
    """
    tables = {name: shingles(_words(documents, advance), OVERLAP_WORDS) for name, documents in splits.items()}
    kept, dropped = dict(splits), 0
    seen = sorted_unique(tables["train"][0])
    held_out = []
    for name in HELD_OUT:
        hashes, offsets = tables[name]
        stays = overlap(hashes, offsets, seen) <= OVERLAP_LIMIT
        kept[name] = [document for document, stay in zip(splits[name], stays, strict=True) if stay]
        dropped += int((~stays).sum())
        mine = sorted_unique(hashes[np.repeat(stays, np.diff(offsets))])
        held_out.append(mine)
        seen = sorted_unique(np.concatenate([seen, mine]))
    stays = overlap(*tables["train"], sorted_unique(np.concatenate(held_out))) <= OVERLAP_LIMIT
    kept["train"] = [document for document, stay in zip(splits["train"], stays, strict=True) if stay]
    return kept, dropped + int((~stays).sum())
