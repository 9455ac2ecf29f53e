"""Exact duplicates, near-duplicates, shared passages, and the split by document hash.

Words are runs of letters and digits, lower-cased, so neither punctuation nor layout hides a copy; in scripts that put
no spaces between words (Chinese, Japanese, Thai, Khmer, ...) each character is one. A shingle is a run of consecutive
words, as one 64-bit hash of their checksums; everything works on flat arrays with the borders of the documents beside
them.

Not covered: paraphrase and translation; passages shorter than a shingle.

Source: MinHash with banding, Broder 1997 and Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from tools.data.embedded import Document

PERMUTATIONS, BANDS, THRESHOLD = 64, 16, 0.7
NEAR_WORDS = 5  # words in a shingle for MinHash
OVERLAP_WORDS = 13  # words in a shingle for passages shared between splits
OVERLAP_LIMIT = 0.2
BLOCK = 1 << 20  # words that are computed with at a time
TOLERANCE = 0.1  # by which a held-out split may miss its size before slices are dealt together
HELD_OUT = ("dev", "gate", "final")
SPACELESS = (
    r"\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19ff\u1a00-\u1aaf\u1b00-\u1b7f\u2e80-\u2fdf\u3005-\u3007"
    r"\u3021-\u3029\u3031-\u3035\u3041-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\ua4cf\ua980-\uaadf\uf900-\ufaff"
    r"\uff66-\uff9f\U00016f00-\U00018cff\U0001b000-\U0001b2ff\U00020000-\U0003ffff"
)
WORD = re.compile(rf"[{SPACELESS}]|[^\W{SPACELESS}]+")
MIX = np.uint64(0x9E3779B97F4A7C15)


def text_hash(document: Document) -> bytes:
    """SHA-256 of the text: the order of documents in a split, and which copy of a text stays."""
    return hashlib.sha256(document.text.encode("utf-8")).digest()


def raw_bytes(document: Document) -> int:
    """The length of its text in UTF-8."""
    return len(document.text.encode("utf-8"))


def words(text: str) -> np.ndarray:
    """The hashed words [words] uint64 of a text."""
    return np.fromiter(map(crc32, map(str.encode, WORD.findall(text.lower()))), dtype=np.uint64)


def shingles(documents: Iterable[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    """(hashes [shingles] uint64, offsets [documents + 1]) of documents given as hashed words.

    A document shorter than `length` words has one shingle, of all its words.
    """
    hashes, counts = [], [np.zeros(1, dtype=np.int64)]
    for block in _in_blocks(documents):
        found, per_document = _shingles(block, length)
        hashes.append(found)
        counts.append(per_document)
    return np.concatenate([np.empty(0, dtype=np.uint64), *hashes]), np.cumsum(np.concatenate(counts))


def _in_blocks(documents: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Documents in lists of about BLOCK words: what is computed with takes several times the room of what comes out."""
    block: list[np.ndarray] = []
    size = 0
    for document in documents:
        block.append(document)
        size += len(document)
        if size >= BLOCK:
            yield block
            block, size = [], 0
    if block:
        yield block


def _shingles(documents: list[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    """(hashes [shingles] uint64, how many each document has)."""
    counts = np.array([len(document) for document in documents], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)])
    total = int(starts[-1])
    # Padding at the end lets every window be read; windows that cross a border are thrown away below.
    flat = np.concatenate([*documents, np.zeros(length, dtype=np.uint64)])
    hashes = np.zeros(total, dtype=np.uint64)
    for offset in range(length):
        hashes *= MIX
        hashes += flat[offset : offset + total]
    per_document = np.maximum(counts - length + 1, np.minimum(counts, 1))
    hashes = hashes[np.arange(total) - np.repeat(starts[:-1], counts) < np.repeat(per_document, counts)]
    offsets = np.concatenate([[0], np.cumsum(per_document)])
    for index in np.flatnonzero((counts > 0) & (counts < length)):
        value = int(counts[index])
        for word in documents[index].tolist():
            value = (value * int(MIX) + word) % (1 << 64)
        hashes[offsets[index]] = value
    # A polynomial hash is weak in its low bits' neighbourhood: one round of mixing spreads it.
    hashes ^= hashes >> np.uint64(29)
    hashes *= MIX
    return hashes, per_document


def _words(documents: list[Document], advance) -> Iterator[np.ndarray]:
    for document in documents:
        yield words(document.text)
        advance()


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
    advance(2 * (len(documents) - len(kept)))
    drop = near_duplicates(*shingles(_words(kept, advance), NEAR_WORDS), advance)
    survivors = [document for index, document in enumerate(kept) if index not in drop]
    return survivors, {"exact": len(documents) - len(kept), "near": len(drop)}


def minhash(hashes: np.ndarray, offsets: np.ndarray, advance=lambda steps: None) -> np.ndarray:
    """Signatures [documents, PERMUTATIONS] uint64: for each permutation the smallest hash of each document.

    `advance(steps)` is called as the work goes on, in all with a step for each document."""
    random = np.random.default_rng(1)
    multipliers = random.integers(0, 1 << 63, size=PERMUTATIONS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    signatures = np.empty((len(offsets) - 1, PERMUTATIONS), dtype=np.uint64)
    for first, last in _ranges(offsets):
        block, starts = hashes[offsets[first] : offsets[last]], offsets[first:last] - offsets[first]
        for index, multiplier in enumerate(multipliers):
            # The high half of a product with an odd number mixes all lower bits; a rotation brings it down.
            mixed = block * multiplier
            mixed = (mixed >> np.uint64(32)) | (mixed << np.uint64(32))
            signatures[first:last, index] = np.minimum.reduceat(mixed, starts)
        advance(last - first)
    return signatures


def _ranges(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of consecutive documents that have about BLOCK shingles together."""
    first = 0
    while first < len(offsets) - 1:
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + BLOCK, side="right")) - 1)
        yield first, last
        first = last


def near_duplicates(hashes: np.ndarray, offsets: np.ndarray, advance=lambda steps: None) -> set[int]:
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


@dataclass(frozen=True)
class Group:
    """Documents that share a split, with the hash that decides about which, and their bytes."""

    digest: bytes
    size: int
    documents: list[Document]


def split(documents: list[Document], held_out_bytes: int) -> dict[str, list[Document]]:
    """Documents dealt to dev, gate, final and train by the hash of their group (or text), each slice in proportion.

    Each held-out split gets about `held_out_bytes`. Rounding up to whole groups in every slice would take far more
    where slices are small (a folder for each book): then all documents are dealt as one slice. Groups that are too
    large for a held-out split are in train. Each list is ordered by the hash of the text.
    """
    slices = _groups(documents)
    total = sum(group.size for groups in slices.values() for group in groups)
    dealt: dict[str, list[Group]] = {name: [] for name in ("train", *HELD_OUT)}
    for groups in slices.values():
        share = held_out_bytes * sum(group.size for group in groups) / total
        for name, part in _deal(groups, share, math.inf).items():
            dealt[name] += part
    if any(not in_bounds(size_of(dealt[name]), held_out_bytes) for name in HELD_OUT):
        dealt = _deal_as_one([group for groups in slices.values() for group in groups], held_out_bytes)
    return {
        name: sorted((document for group in groups for document in group.documents), key=text_hash)
        for name, groups in dealt.items()
    }


def in_bounds(size: int, held_out_bytes: int) -> bool:
    """Whether a held-out split of `size` bytes is about as large as it should be."""
    return abs(size - held_out_bytes) <= TOLERANCE * held_out_bytes


def size_of(groups: list[Group]) -> int:
    return sum(group.size for group in groups)


def _groups(documents: list[Document]) -> dict[str, list[Group]]:
    """The groups of each slice, in the order of their hash."""
    members: dict[str, dict[str, list[Document]]] = {}
    for document in documents:
        key = f"{document.source}/{document.group}" if document.group else document.text
        members.setdefault(document.source, {}).setdefault(key, []).append(document)
    slices = {}
    for source, found in sorted(members.items()):
        groups = [
            Group(hashlib.sha256(key.encode("utf-8")).digest(), sum(map(raw_bytes, group)), group)
            for key, group in found.items()
        ]
        slices[source] = sorted(groups, key=lambda group: group.digest)
    return slices


def _deal(groups: list[Group], share: float, limit: float) -> dict[str, list[Group]]:
    """The first groups go to dev until it has `share` bytes, the next to gate, then to final, the rest to train. One
    with which a split would have more than `limit` bytes waits for the next split."""
    dealt = {}
    for name in HELD_OUT:
        part: list[Group] = []
        rest: list[Group] = []
        filled = 0
        for group in groups:
            is_taken = filled < share and filled + group.size <= limit
            (part if is_taken else rest).append(group)
            filled += group.size * is_taken
        dealt[name], groups = part, rest
    return dealt | {"train": groups}


def _deal_as_one(groups: list[Group], held_out_bytes: int) -> dict[str, list[Group]]:
    """Groups of all slices dealt together. Of those that fit into a held-out split train gets a quarter at least; where
    none is left for a split, it gets the smallest group that there is."""
    groups = sorted(groups, key=lambda group: group.digest)
    limit = held_out_bytes * (1 + TOLERANCE)
    fitting = size_of([group for group in groups if group.size <= limit])
    dealt = _deal(groups, min(held_out_bytes, fitting / 4), limit)
    for name in HELD_OUT:
        if not dealt[name] and dealt["train"]:
            smallest = min(dealt["train"], key=lambda group: group.size)
            dealt["train"].remove(smallest)
            dealt[name].append(smallest)
    return dealt


def sorted_unique(hashes: np.ndarray) -> np.ndarray:
    """The distinct hashes in ascending order (ten times faster on millions of them than numpy's own `unique`)."""
    hashes = np.sort(hashes)
    return hashes[np.concatenate([[True], hashes[1:] != hashes[:-1]])] if len(hashes) else hashes


def overlap(hashes: np.ndarray, offsets: np.ndarray, *tables: np.ndarray) -> np.ndarray:
    """For each document the share of its shingles [documents] float that occur in one of `tables` (sorted, unique)."""
    shares = np.zeros(len(offsets) - 1)
    for first, last in _ranges(offsets):
        block = hashes[offsets[first] : offsets[last]]
        hit = np.zeros(len(block), dtype=bool)
        for table in tables:
            if len(table):
                hit |= table[np.minimum(np.searchsorted(table, block), len(table) - 1)] == block
        hits = np.concatenate([[0], np.cumsum(hit)])
        edges = offsets[first : last + 1] - offsets[first]
        shares[first:last] = np.diff(hits[edges]) / np.maximum(np.diff(edges), 1)
    return shares


def separate(splits: dict[str, list[Document]], advance=lambda steps=1: None) -> tuple[dict[str, list[Document]], int]:
    """Drops documents that share more than OVERLAP_LIMIT of their 13-word shingles with another split.

    Held-out documents go first (against training and the held-out splits before them), then what is left of the
    opposite case: training documents that lie in a held-out one. Returns the splits and the number of documents
    dropped.
    """
    tables = {name: shingles(_words(documents, advance), OVERLAP_WORDS) for name, documents in splits.items()}
    kept, dropped = dict(splits), 0
    seen = [sorted_unique(tables["train"][0])]
    for name in HELD_OUT:
        hashes, offsets = tables[name]
        stays = overlap(hashes, offsets, *seen) <= OVERLAP_LIMIT
        kept[name] = [document for document, stay in zip(splits[name], stays, strict=True) if stay]
        dropped += int((~stays).sum())
        seen.append(sorted_unique(hashes[np.repeat(stays, np.diff(offsets))]))
    stays = overlap(*tables["train"], *seen[1:]) <= OVERLAP_LIMIT
    kept["train"] = [document for document, stay in zip(splits["train"], stays, strict=True) if stay]
    return kept, dropped + int((~stays).sum())
