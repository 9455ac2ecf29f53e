"""Duplicates, shared passages and splits against naive references."""

import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.data import dedup
from tools.data.dedup import (
    HELD_OUT,
    OVERLAP_LIMIT,
    deduplicate,
    overlap,
    separate,
    shingles,
    sorted_unique,
    split,
    words,
)
from tools.data.embedded import Document


def naive_shingles(text: str, length: int) -> list[tuple[str, ...]]:
    tokens = re.findall(r"\w+", text.lower())
    if len(tokens) < length:
        return [tuple(tokens)] if tokens else []
    return [tuple(tokens[i : i + length]) for i in range(len(tokens) - length + 1)]


def corpus(seed: int, count: int, lexicon: int = 300, low: int = 20, high: int = 120) -> list[str]:
    source = random.Random(seed)
    names = [f"w{index}" for index in range(lexicon)]
    return [" ".join(source.choices(names, k=source.randint(low, high))) for _ in range(count)]


@settings(max_examples=60)
@given(st.lists(st.text(alphabet="ab é,.\n", max_size=40), max_size=8), st.integers(1, 6))
def test_shingles_are_equal_where_the_words_are(texts, length):
    hashes, offsets = shingles([words(text) for text in texts], length)
    naive = [naive_shingles(text, length) for text in texts]
    assert np.diff(offsets).tolist() == [len(one) for one in naive]
    flat = [shingle for one in naive for shingle in one]
    assert len({*zip(flat, hashes.tolist())}) == len(set(flat)) == len(set(hashes.tolist()))


def test_near_duplicates_are_those_of_an_exact_search():
    texts = corpus(1, 120)
    source = random.Random(2)
    for index in range(40):  # copies with 1 to 30% of the words changed
        tokens = texts[index].split()
        for _ in range(max(1, len(tokens) * source.randint(1, 30) // 100)):
            tokens[source.randrange(len(tokens))] = "changed"
        texts.append(" ".join(tokens))
    sets = [set(naive_shingles(text, dedup.NEAR_WORDS)) for text in texts]
    similar = {
        (a, b): len(sets[a] & sets[b]) / len(sets[a] | sets[b])
        for a in range(len(sets))
        for b in range(a + 1, len(sets))
    }
    dropped = dedup.near_duplicates(*shingles([words(text) for text in texts], dedup.NEAR_WORDS))
    expected = {b for (a, b), similarity in similar.items() if similarity >= dedup.THRESHOLD}
    assert 5 < len(expected) < 40
    assert dropped <= expected  # each candidate is measured, so nothing else is dropped
    # Banding finds a pair of similarity s with probability 1 - (1 - s^4)^16: over 0.98 at 0.7.
    assert len(dropped) >= 0.9 * len(expected)
    certain = {b for (a, b), similarity in similar.items() if similarity >= 0.9}
    assert certain <= dropped


def test_exact_duplicates_fall_whatever_their_case_and_layout():
    texts = ["One two three, four five six.", "one two\nthree four -- FIVE six", "Something else altogether here."]
    kept, dropped = deduplicate([Document(text, "s") for text in [*texts, *texts, "", " \n", "!?"]])
    assert sorted(len(document.text) for document in kept) == sorted(
        [min(texts[:2], key=_digest_of).__len__(), len(texts[2])]
    )
    assert dropped == {"exact": 7, "near": 0}


def _digest_of(text: str) -> str:
    return Document(text, "").id


def test_the_order_of_the_input_does_not_matter():
    documents = [Document(text, "s") for text in corpus(3, 60) + corpus(3, 30)]
    shuffled = documents[:]
    random.Random(4).shuffle(shuffled)
    assert deduplicate(documents)[0] == deduplicate(shuffled)[0]


@settings(max_examples=50)
@given(st.lists(st.text(alphabet="abc ", max_size=60), min_size=1, max_size=6), st.text(alphabet="abc ", max_size=80))
def test_overlap_is_the_share_of_common_shingles(texts, other):
    length = 2
    hashes, offsets = shingles([words(text) for text in texts], length)
    others = sorted_unique(shingles([words(other)], length)[0])
    known = set(naive_shingles(other, length))
    expected = []
    for text in texts:
        mine = naive_shingles(text, length)
        expected.append(sum(shingle in known for shingle in mine) / max(len(mine), 1))
    assert overlap(hashes, offsets, others) == pytest.approx(expected)


def test_a_split_fills_each_slice_in_proportion_and_keeps_groups_together():
    documents = [Document(text, "plain") for text in corpus(5, 800)]
    documents += [Document(text, "grouped", group=f"g{index // 8}") for index, text in enumerate(corpus(6, 800))]
    total = sum(len(document.text) for document in documents)
    splits = split(documents, total // 10)
    assert sorted(d.text for members in splits.values() for d in members) == sorted(d.text for d in documents)
    of_group: dict[str, set[str]] = {}
    for name, members in splits.items():
        for document in members:
            if document.group:
                of_group.setdefault(document.group, set()).add(name)
    assert len(of_group) == 100 and all(len(names) == 1 for names in of_group.values())
    for name in HELD_OUT:
        size = sum(len(document.text) for document in splits[name])
        assert total // 10 <= size <= total // 10 * 1.25
        for source in ("plain", "grouped"):
            part = sum(len(document.text) for document in splits[name] if document.source == source)
            whole = sum(len(document.text) for document in documents if document.source == source)
            assert part / size == pytest.approx(whole / total, abs=0.05)
    assert split(documents[::-1], total // 10) == splits


def test_separate_leaves_no_shared_passage():
    texts = corpus(7, 120, low=60, high=120)
    names = ["train"] * 60 + ["dev"] * 20 + ["gate"] * 20 + ["final"] * 20
    passage = " ".join(f"quote{index}" for index in range(60))
    planted = {0: "train", 60: "dev", 80: "gate", 100: "final"}  # the same passage in all four
    texts = [f"{text} {passage}" if index in planted else text for index, text in enumerate(texts)]
    # A short training document that lies inside a long held-out one: little of the latter, all of the former.
    texts[1] = " ".join(texts[61].split()[:20])
    texts[61] += " " + " ".join(f"long{index}" for index in range(400))
    splits: dict[str, list[Document]] = {name: [] for name in ("train", *HELD_OUT)}
    for name, text in zip(names, texts, strict=True):
        splits[name].append(Document(text, "s"))
    kept, dropped = separate(splits)
    gone = {document.text for members in splits.values() for document in members}
    gone -= {document.text for members in kept.values() for document in members}
    assert gone == {texts[60], texts[80], texts[100], texts[1]} and dropped == 4
    sets = {name: set().union(*(naive_shingles(d.text, 13) for d in members)) for name, members in kept.items()}
    for name, members in kept.items():
        for other in set(kept) - {name}:
            for document in members:
                mine = naive_shingles(document.text, 13)
                assert sum(shingle in sets[other] for shingle in mine) / len(mine) <= OVERLAP_LIMIT


@given(st.lists(st.integers(0, 50)))
def test_sorted_unique(values):
    assert sorted_unique(np.array(values, dtype=np.uint64)).tolist() == sorted(set(values))
