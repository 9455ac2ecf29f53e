"""Duplicates, shared passages and splits against naive references."""

import hashlib
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


def texts_of_sizes(sizes: list[int]) -> list[str]:
    """Different texts of these many bytes."""
    return [f"{index:06d}" + "x" * (size - 6) for index, size in enumerate(sizes)]


def shares(splits: dict[str, list[Document]]) -> dict[str, float]:
    sizes = {name: sum(len(document.text) for document in members) for name, members in splits.items()}
    return {name: size / sum(sizes.values()) for name, size in sizes.items()}


@pytest.mark.slow
@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(10, 50)), min_size=200, max_size=400))
def test_held_out_shares_hold_overall_whatever_the_slices_are(drawn):
    """Slices of one document, of some, of nearly all. No document is more than a tenth of a held-out split."""
    texts = texts_of_sizes([size for _, size in drawn])
    documents = [Document(text, f"s{slice}") for text, (slice, _) in zip(texts, drawn, strict=True)]
    total = sum(map(len, texts))
    splits = split(documents, total // 6)
    assert sorted(document.text for members in splits.values() for document in members) == sorted(texts)
    assert all(share == pytest.approx(1 / 6, rel=0.11) for name, share in shares(splits).items() if name != "train")
    assert split(documents[::-1], total // 6) == splits


def old_rule(documents: list[Document], held_out_bytes: int) -> dict[str, list[Document]]:
    """How documents without groups were dealt when the records' data sets were made: by slices alone."""
    splits: dict[str, list[Document]] = {name: [] for name in ("train", *HELD_OUT)}
    total = sum(len(document.text) for document in documents)
    for source in {document.source for document in documents}:
        members = [document for document in documents if document.source == source]
        share = held_out_bytes * sum(len(document.text) for document in members) / total
        names, filled = [*HELD_OUT, "train"], 0
        for document in sorted(members, key=lambda document: hashlib.sha256(document.text.encode()).digest()):
            splits[names[0]].append(document)
            filled += len(document.text)
            if names[0] != "train" and filled >= share:
                filled = 0
                del names[0]
    return {name: sorted(members, key=dedup.text_hash) for name, members in splits.items()}


@pytest.mark.parametrize("slices", [1, 2, 5])
def test_large_slices_are_dealt_as_they_always_were(slices):
    """The data sets that records name by their hash come from this rule."""
    source = random.Random(slices)
    texts = texts_of_sizes([source.randint(20, 300) for _ in range(3000)])
    documents = [Document(text, f"s{source.randrange(slices)}") for text in texts]
    total = sum(map(len, texts))
    assert split(documents, total // 20) == old_rule(documents, total // 20)


@pytest.mark.parametrize("documents_in_a_folder", [1, 4])
def test_a_folder_for_each_book_or_day_is_no_reason_to_hold_out_most(documents_in_a_folder):
    documents = [
        Document(text, f"folder{index // documents_in_a_folder}")
        for index, text in enumerate(texts_of_sizes([800] * 120))
    ]
    found = shares(split(documents, 120 * 800 // 20))
    assert found == {"train": pytest.approx(0.85), **dict.fromkeys(HELD_OUT, pytest.approx(0.05))}


def test_a_document_that_is_larger_than_a_split_is_in_train_while_others_fit():
    sizes = [500_000, *[100] * 4000]
    splits = split([Document(text, "s") for text in texts_of_sizes(sizes)], 45_000)
    assert max(len(document.text) for document in splits["train"]) == 500_000
    assert all(share == pytest.approx(0.05, rel=0.1) for name, share in shares(splits).items() if name != "train")
    # Letters, which would not fill a split, and books, of which none would fit: each split gets a quarter of
    # the letters
    letters = [Document(text, "letters") for text in texts_of_sizes([1000] * 40)]
    books = [Document("book" + text, "books") for text in texts_of_sizes([500_000] * 3)]
    splits = split(letters + books, 77_000)
    assert {name: {d.source for d in members} for name, members in splits.items()} == {
        "train": {"letters", "books"},
        **dict.fromkeys(HELD_OUT, {"letters"}),
    }
    assert all(len(members) >= 10 for members in splits.values())


def test_where_no_document_fits_each_held_out_split_has_the_smallest():
    texts = texts_of_sizes([1010, 1020, 1030, *range(1040, 1110, 10)])
    splits = split([Document(text, "s") for text in texts], sum(map(len, texts)) // 20)
    assert {name: [document.text for document in splits[name]] for name in HELD_OUT} == {
        name: [text] for name, text in zip(HELD_OUT, texts)
    }


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


@pytest.mark.parametrize("first", [0x4E00, 0x3041, 0x0E01, 0x1780, 0xAC00])
def test_near_copies_in_scripts_without_spaces(first):
    """Chinese, Japanese, Thai, Khmer, and Korean with its spaces: each text four times, with one character changed."""
    source = random.Random(2)
    letters = [chr(first + index) for index in range(80 if first > 0x3000 else 40)]
    join = " " if first == 0xAC00 else ""
    documents = []
    for _ in range(10):
        body = source.choices(letters, k=600)
        for letter in letters[:4]:
            documents.append(Document(join.join([*body[:300], letter, *body[300:]]), "all"))
    kept, dropped = deduplicate(documents)
    assert len(kept) == 10 and dropped["exact"] + dropped["near"] == 30


def test_passages_in_a_script_without_spaces_are_seen_between_splits():
    source = random.Random(3)
    text = "".join(chr(0x4E00 + source.randrange(400)) for _ in range(500))
    other = "".join(chr(0x4E00 + source.randrange(400)) for _ in range(500))
    splits = {name: [] for name in HELD_OUT} | {"train": [Document(text[:400] + other[:100], "all")]}
    splits["dev"] = [Document(text, "all"), Document(other[200:], "all")]
    kept, dropped = separate(splits)
    assert dropped == 1 and [document.text for document in kept["dev"]] == [other[200:]]
