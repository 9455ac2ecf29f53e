"""golf/tokenizer_section.py and golf/tokenizer.py: lossless on all of Unicode, canonical, compact, and bounded on bad
input.
"""

import re

import brotli
import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from golf import case_operators, container
from golf import tokenizer_section as model_format
from golf.tokenizer import Tokenizer
from tests.support.texts import prose
from tools.data.build import train_tokenizer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [prose(seed, 400) for seed in range(60)]


@pytest.fixture(scope="module", params=["plain", "case operators"])
def tokenizer(request, texts) -> Tokenizer:
    return train_tokenizer(texts, 1024, request.param != "plain")


STRANGE = ["\u2581", "\0", "<0x41>", "<s>", "</s>", "<unk>", "<pad>", "e\u0301", "\r\n", "\t", "  ", "👩‍👩‍👧", "\ufeff",
           "\u200b", "\U0010ffff", "ﬁ", "１２", "\x85", "\u2028", "and ", " the", "é", "\ufffd", " The", "NATO",
           "iP", " A", "\x11", "\x12", "\x13"]  # fmt: skip


@pytest.mark.slow
@settings(max_examples=400)
@given(st.lists(st.one_of(st.sampled_from(STRANGE), st.text(max_size=8)), max_size=12).map("".join))
@example("")
@example("\u2581")
@example(" \u2581 a\u2581\u2581b ")
@example("\0\0 \0")
@example("<s><0x41></s>\r\n")
def test_decode_inverts_encode_on_any_text(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids.dtype == np.uint16 and (ids >= 4).all()  # text never becomes a special token
    assert tokenizer.decode(ids) == text.encode("utf-8")


@given(st.lists(st.sampled_from(["a", "b", " ", "ab", "\u2581", "\u2580", "é", "  ", "\n", "\ue296"]), max_size=12))
@example([" "])
def test_a_space_without_a_piece_is_one_byte(parts):
    """A vocabulary without a piece for the single space: the space's byte piece stands for it, and nothing is lost."""
    small = Tokenizer(model_format.rebuild(container.compress(b"a\nb\nab\n a")))
    text = "".join(parts)
    ids = small.encode(text)
    assert small.decode(ids) == text.encode()
    assert sum(small.lengths[ids]) == len(text.encode())
    only_spaces = small.encode("  ").tolist()
    assert only_spaces == [model_format.FIRST_BYTE + ord(" ")] * 2


def test_encoding_is_sentencepieces_own(tokenizer, texts):
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model_bytes)
    for text in texts[:10]:
        shown = case_operators.apply(text) if tokenizer.operators else text
        assert tokenizer.encode(text).tolist() == processor.encode(shown)
        assert processor.decode(tokenizer.encode(text).tolist()) == shown
    for index in range(4, 260):
        assert processor.is_byte(index)
    assert [processor.pad_id(), processor.bos_id(), processor.eos_id(), processor.unk_id()] == [0, 1, 2, 3]
    assert processor.vocab_size() == tokenizer.vocab_size == 1024


def spelled_out(text: str) -> str:
    """The text with case operators by a loop over its characters: what case_operators.apply does with an expression."""
    out, i = [], 0
    while i < len(text):
        after = text[i + 1 : i + 2]
        space = " " if text[i] == " " and after.isascii() and after.isalpha() else ""
        end = begin = i + len(space)
        while end < len(text) and text[end].isascii() and text[end].isalpha():
            end += 1
        word = text[begin:end]
        if not word:
            out.append("\x13" * (text[i] in "\x11\x12\x13") + text[i])
            end = i + 1
        elif len(word) > 1 and word == word.upper():
            out += ["\x12", space, word.lower()]
        else:
            marked = ["\x11" * (letter != letter.lower()) + letter.lower() for letter in word]
            first = marked[0][:-1]
            out += [first, space, marked[0][-1], *marked[1:]]
        i = end
    return "".join(out)


@settings(max_examples=400)
@given(st.lists(st.sampled_from([*"abABIé \x11\x12\x13.", "  ", "The", " NATO", "iPhone"]), max_size=14).map("".join))
@example("\x13\x11 the\x12 nato The  NATO's McDonald")
def test_case_operators_are_a_bijection_as_spelled_out(text):
    shown = case_operators.apply(text)
    assert shown == spelled_out(text) and not any("A" <= letter <= "Z" for letter in shown)
    assert case_operators.remove(shown.encode()) == text.encode()


@given(st.binary(max_size=20))
def test_removing_operators_reads_any_bytes(data):
    operators = b"\x13([\x11-\x13])|[\x11\x12](?= ?[a-z])"
    assert case_operators.remove(data).lower() == re.sub(operators, rb"\1", data).lower()


def test_case_operators_share_pieces(texts):
    """The same 1,024 ids take fewer tokens for text in capitals, and an operator stands for no byte of the text."""
    plain, operating = (train_tokenizer(texts, 1024, operators) for operators in (False, True))
    shouted = texts[0].upper()
    assert len(operating.encode(shouted)) < 0.6 * len(plain.encode(shouted))
    for text in (texts[0], shouted):
        assert operating.lengths[operating.encode(text)].sum() == len(text.encode())


def test_it_compresses(tokenizer, texts):
    held_out = prose(1000, 2000)
    assert len(tokenizer.encode(held_out)) < 0.45 * len(held_out.encode("utf-8"))


def test_a_lone_surrogate_is_a_value_error(tokenizer):
    with pytest.raises(ValueError):
        tokenizer.encode("a\ud800b")


@pytest.mark.parametrize("ids", [[1024], [5, -1], [70000]])
def test_ids_out_of_range_are_a_value_error(tokenizer, ids):
    with pytest.raises(ValueError, match="outside the vocabulary"):
        tokenizer.decode(ids)


def test_the_payload_is_small_and_rebuilds_the_model_bit_for_bit(tokenizer):
    payload = model_format.serialise(tokenizer.model_bytes)
    assert model_format.rebuild(payload) == tokenizer.model_bytes == model_format.canonical(tokenizer.model_bytes)
    assert len(payload) < 2500


def test_a_large_vocabulary_is_small_too():
    words = [prose(seed, 6000) for seed in range(5)]
    model = train_tokenizer([f"{text} {index}" for index, text in enumerate(words)], 4096).model_bytes
    payload = model_format.serialise(model)
    assert model_format.rebuild(payload) == model
    assert len(payload) < 12_500


def test_canonical_keeps_pieces_and_drops_the_normaliser(tmp_path, texts):
    """A model as the public challenge trained them: nmt_nfkc, which joins lines and folds characters."""
    source = tmp_path / "text.txt"
    source.write_text("\n".join(texts), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(source), model_prefix=str(tmp_path / "nfkc"), model_type="bpe", vocab_size=800, byte_fallback=True,
        split_digits=True, normalization_rule_name="nmt_nfkc", add_dummy_prefix=False, pad_id=0, bos_id=1, eos_id=2,
        unk_id=3, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    model = (tmp_path / "nfkc.model").read_bytes()
    original = sentencepiece.SentencePieceProcessor(model_proto=model)
    tokenizer = Tokenizer(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model_bytes)
    ids = range(original.vocab_size())
    assert [processor.id_to_piece(i) for i in ids] == [original.id_to_piece(i) for i in ids]
    line = texts[0].split("\n")[0]
    assert processor.encode(line) == original.encode(line)
    folded = "ﬁve  １\n\nlines"
    assert original.decode(original.encode(folded)) != folded
    assert tokenizer.decode(tokenizer.encode(folded)) == folded.encode("utf-8")
    assert model_format.rebuild(model_format.serialise(model)) == tokenizer.model_bytes


@pytest.mark.slow
@settings(max_examples=100)
@given(st.lists(st.text(alphabet=st.characters(exclude_characters="\0", codec="utf-8"), min_size=1), max_size=20))
def test_any_list_of_pieces_survives_the_payload(pieces):
    pieces = list(dict.fromkeys(piece.replace(" ", "\u2581") for piece in pieces))
    models = [model_format._write(pieces, operators) for operators in (False, True)]
    assert [model_format.case_operators(model) for model in models] == [False, True]
    assert all(model_format.rebuild(model_format.serialise(model)) == model for model in models)
    model = models[True]
    assert model_format.canonical(model) == model and model_format.canonical(model, False) == models[False]
    text = [b""] * 4 + [bytes([value]) for value in range(256)]
    assert model_format.piece_bytes(model) == text + [piece.replace("\u2581", " ").encode() for piece in pieces]


def test_other_models_are_refused(texts, tmp_path):
    source = tmp_path / "text.txt"
    source.write_text("\n".join(texts), encoding="utf-8")
    cases = {
        "unigram": dict(model_type="unigram", byte_fallback=True, pad_id=0, bos_id=1, eos_id=2, unk_id=3),
        "no_fallback": dict(model_type="bpe", pad_id=0, bos_id=1, eos_id=2, unk_id=3),
        "other_ids": dict(model_type="bpe", byte_fallback=True),
        "user": dict(
            model_type="bpe", byte_fallback=True, pad_id=0, bos_id=1, eos_id=2, unk_id=3, user_defined_symbols="<x>"
        ),
    }
    for name, arguments in cases.items():
        sentencepiece.SentencePieceTrainer.train(
            input=str(source),
            model_prefix=str(tmp_path / name),
            vocab_size=500,
            hard_vocab_limit=False,
            minloglevel=2,
            **arguments,
        )
        with pytest.raises(ValueError) as error:
            Tokenizer((tmp_path / f"{name}.model").read_bytes())
        assert "\n" not in str(error.value)


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_garbage_is_a_value_error_of_one_line(data):
    for read in (model_format.rebuild, model_format.canonical):
        try:
            read(data)
        except ValueError as error:
            assert "\n" not in str(error)


@pytest.mark.slow
def test_damaged_payloads_are_value_errors(tokenizer):
    payload = model_format.serialise(tokenizer.model_bytes)
    for cut in range(0, len(payload), 61):
        with pytest.raises(ValueError):
            model_format.rebuild(payload[:cut])
    with pytest.raises(ValueError, match="after its end"):
        model_format.rebuild(payload + b"\0")
    for flipped in range(0, len(payload) * 8, 23):
        damaged = bytearray(payload)
        damaged[flipped // 8] ^= 1 << flipped % 8
        try:
            assert model_format.rebuild(bytes(damaged)) != tokenizer.model_bytes
        except ValueError:
            pass


def test_a_bomb_is_refused_before_it_is_unpacked():
    bomb = brotli.compress(b"a" * 200_000_000, quality=1)
    assert len(bomb) < 200_000
    with pytest.raises(ValueError, match="more than"):
        model_format.rebuild(bomb)


@pytest.mark.parametrize("text", [b"ab\nab", b"ab\n\ncd", b"a\0b", b"\xc3\x28"])
def test_pieces_that_sentencepiece_would_reject(text):
    with pytest.raises(ValueError, match="piece"):
        model_format.rebuild(brotli.compress(text))


def test_more_ids_than_16_bits_hold():
    text = "\n".join(f"{index:x}" for index in range(65536 - 260 + 1)).encode()
    with pytest.raises(ValueError, match="16 bits"):
        model_format.rebuild(brotli.compress(text))
