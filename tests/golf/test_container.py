"""The .golf container: round trips, every damage a clear error, and golden bytes that hold the format."""

import hashlib
import json
import os
import struct

import brotli
import pyppmd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf.container import (
    OVERHEAD_BYTES,
    PPMD,
    TAGS,
    FormatError,
    code_pack,
    code_unpack,
    compress,
    config_pack,
    config_unpack,
    decompress,
    read,
    to_bytes,
    write,
)
from tests.support import ROOT

GOLDEN = ROOT / "tests/golden"
SMALL = {"CODE": b"code", "CONF": b"", "TOKN": b"\0\xff", "WGTS": b"weights!"}
payloads = st.fixed_dictionaries({tag: st.binary(max_size=300) for tag in TAGS})


def refused(data, match=None):
    with pytest.raises(FormatError, match=match) as caught:
        read(data)
    assert "\n" not in str(caught.value)


def with_checksum(body):
    return body + hashlib.sha256(body).digest()[:8]


@given(payloads)
def test_round_trip(sections):
    data = to_bytes(sections)
    assert read(data) == sections and list(read(data)) == list(TAGS)
    assert len(data) == sum(map(len, sections.values())) + OVERHEAD_BYTES


def test_layout_is_written_out_here_by_hand():
    """An independent writing of docs/format.md."""
    body = (
        b"GOLF\x01"
        + b"CODE\x04\0\0\0"
        + b"CONF\0\0\0\0"
        + b"TOKN\x02\0\0\0"
        + b"WGTS\x08\0\0\0"
        + b"code\0\xffweights!"
    )
    assert to_bytes(SMALL) == with_checksum(body)


@pytest.mark.parametrize("name", ["tiny", "ppmd"])
def test_golden_files(name):
    """tiny.golf has brotli texts, which are only read; ppmd.golf holds the same texts as they are written now."""
    data = (GOLDEN / f"{name}.golf").read_bytes()
    expected = json.loads((GOLDEN / "tiny.json").read_text()) | json.loads((GOLDEN / f"{name}.json").read_text())
    assert hashlib.sha256(data).hexdigest() == expected["sha256"]
    sections = read(data)
    assert {tag: hashlib.sha256(payload).hexdigest() for tag, payload in sections.items()} == expected["sections"]
    assert [hashlib.sha256(source.encode()).hexdigest() for source in code_unpack(sections["CODE"])] == expected[
        "sources"
    ]
    assert config_unpack(sections["CONF"]) == expected["config"]
    pieces = decompress(sections["TOKN"], 1000)
    assert pieces == b"th\nthe\n an"
    if name == "ppmd":
        assert code_pack(*code_unpack(sections["CODE"])) == sections["CODE"]
        assert config_pack(expected["config"]) == sections["CONF"] and compress(pieces) == sections["TOKN"]
    assert to_bytes(dict(reversed(sections.items()))) == data


def test_every_changed_byte_is_refused():
    data = (GOLDEN / "tiny.golf").read_bytes()
    for position in range(len(data)):
        for mask in (0x01, 0x80, 0xFF):
            refused(data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :])
    small = to_bytes(SMALL)
    for position in range(len(small)):  # here all 255 other values
        for mask in range(1, 256):
            refused(small[:position] + bytes([small[position] ^ mask]) + small[position + 1 :])


def test_every_truncation_and_any_trailing_byte_is_refused():
    data = (GOLDEN / "tiny.golf").read_bytes()
    for length in range(len(data)):
        refused(data[:length])
    for extra in (b"\0", b"\n", data):
        refused(data + extra, "after the end")
    refused(b"", "not a .golf file")


def test_absurd_lengths_allocate_nothing():
    for lengths in ((0xFFFFFFFF,) * 4, (0, 0, 0, 0x7FFFFFFF), (1, 0, 0, 0)):
        table = b"".join(tag.encode() + struct.pack("<I", length) for tag, length in zip(TAGS, lengths, strict=True))
        refused(with_checksum(b"GOLF\x01" + table), "cut short")


@pytest.mark.parametrize("tags", ["CONF CODE TOKN WGTS", "CODE CODE TOKN WGTS", "CODE CONF TOKN WXYZ"])
def test_other_sections_are_refused(tags):
    table = b"".join(tag.encode() + struct.pack("<I", 0) for tag in tags.split())
    refused(with_checksum(b"GOLF\x01" + table), "section table")
    with pytest.raises(ValueError, match="sections CODE, CONF, TOKN, WGTS"):
        to_bytes(dict.fromkeys(tags.split()[1:], b""))


def test_another_version_is_refused_by_name():
    refused(with_checksum(b"GOLF\x02" + to_bytes(SMALL)[5:-8]), "version 2")


@given(st.binary(max_size=400))
def test_any_bytes_give_a_result_or_a_format_error(data):
    for start in (b"", b"GOLF\x01", to_bytes(SMALL)[:37]):
        try:
            assert to_bytes(read(start + data)) == start + data
        except FormatError:
            pass


def test_write_replaces_whole_files_and_cleans_up(tmp_path, monkeypatch):
    write(tmp_path / "a.golf", SMALL)
    assert (tmp_path / "a.golf").read_bytes() == to_bytes(SMALL)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError):
        write(tmp_path / "a.golf", SMALL | {"CODE": b"other"})
    assert os.listdir(tmp_path) == ["a.golf"] and read((tmp_path / "a.golf").read_bytes()) == SMALL


either_way = pytest.mark.parametrize("make", [brotli.compress, compress])


@either_way
@given(st.binary(max_size=2000), st.integers(0, 3000))
def test_decompress_is_bounded(make, data, limit):
    stream = make(data)
    if len(data) <= limit:
        assert decompress(stream, limit) == data
    else:
        with pytest.raises(FormatError, match="more than"):
            decompress(stream, limit)


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 1, 5, 2000, 1_200_000])
def test_ppmd_is_pyppmd_with_the_settings_of_the_format(size):
    """The longest text fills the model's memory, after which it begins anew."""
    text = b"".join(hashlib.sha256(b"%d" % index).hexdigest().encode() for index in range(size // 64 + 1))[:size]
    encoder = pyppmd.Ppmd8Encoder(12, 16 * 2**20, pyppmd.PPMD8_RESTORE_METHOD_RESTART)
    stream = encoder.encode(text) + encoder.flush(endmark=True)
    assert compress(text) == b"\x11" + stream and decompress(b"\x11" + stream, size) == text


def test_no_brotli_stream_looks_like_ppmd():
    for last in range(256):
        for first in (0x11, 0x91):  # seven bits name the window
            with pytest.raises(brotli.error):
                brotli.decompress(bytes([first, last]) + bytes(20))


class Watched(pyppmd.Ppmd8Decoder):
    """Counts what comes out; must never run out of input, where pyppmd leaves a thread that waits for more."""

    made = 0

    def decode(self, data, length):
        assert not data or data.endswith(bytes(56 * length))  # 12 orders and two more, 4 bytes each
        part = super().decode(data, length)
        assert not self.needs_input
        Watched.made += len(part)
        return part


TEXT = b"".join(b"def f%d(x): return x * %d\n" % (index, index * index) for index in range(100))
MARKED = compress(TEXT)


@pytest.mark.slow
def test_every_damage_of_a_ppmd_stream_is_refused(monkeypatch):
    """It has one spelling only, so a changed bit is seen even if the text is the same."""
    monkeypatch.setattr(pyppmd, "Ppmd8Decoder", Watched)
    for length in range(1, len(MARKED)):
        with pytest.raises(FormatError, match="cut short|damaged"):
            decompress(MARKED[:length], 5120)
    for extra in (b"\0", b"\xff", MARKED[1:]):
        with pytest.raises(FormatError, match="after its end"):
            decompress(MARKED + extra, 5120)
    for bit in range(8, 8 * len(MARKED), 5):
        changed = bytearray(MARKED)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FormatError, match="PPMd stream"):
            decompress(bytes(changed), 5120)
    noise = b"".join(hashlib.sha256(bytes([index])).digest() for index in range(256))
    dense = compress(noise).removeprefix(PPMD)  # takes most of a stream for a chunk
    cut = (stream[:length] for stream in (noise, dense) for length in range(0, 8192, 61))
    for stream in (*cut, b"\xff" * 4, b"\xff" * 500):
        with pytest.raises(FormatError, match="PPMd stream"):
            decompress(PPMD + stream, 5120)


ends = st.sampled_from([b"", b"\0", b"\xff", b"\x80"]).flatmap(lambda byte: st.integers(0, 5000).map(byte.__mul__))


@given(st.integers(0, len(MARKED)), st.binary(max_size=400), ends)
def test_any_ppmd_stream_gives_its_only_text_or_a_format_error(length, noise, end):
    stream = MARKED[:length].removeprefix(PPMD) + noise + end
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyppmd, "Ppmd8Decoder", Watched)
        try:
            assert compress(decompress(PPMD + stream, 20_000)) == PPMD + stream
        except FormatError as error:
            assert "PPMd stream" in str(error) and "\n" not in str(error)


def test_a_ppmd_bomb_is_not_inflated(monkeypatch):
    bomb = compress(bytes(5_000_000))
    assert len(bomb) < 5000
    monkeypatch.setattr(pyppmd, "Ppmd8Decoder", Watched)
    monkeypatch.setattr(Watched, "made", 0)
    with pytest.raises(FormatError, match="more than the 1000 bytes"):
        decompress(bomb, 1000)
    assert 1000 < Watched.made < 2000


def test_decompress_refuses_damage_and_does_not_inflate_bombs(monkeypatch):
    stream = brotli.compress(bytes(range(256)) * 20)
    assert decompress(stream, 5120) == bytes(range(256)) * 20
    for length in range(len(stream)):
        with pytest.raises(FormatError, match="cut short|damaged"):
            decompress(stream[:length], 5120)
    with pytest.raises(FormatError, match="after its end"):
        decompress(stream + b"\0", 5120)
    bomb = brotli.compress(bytes(200_000_000), quality=1)
    sizes = []

    class Counting:  # what decompress() sees of each output
        def __init__(self):
            self.stream = original()

        def process(self, data, output_buffer_limit):
            sizes.append(len(part := self.stream.process(data, output_buffer_limit=output_buffer_limit)))
            return part

        def is_finished(self):
            return self.stream.is_finished()

    original = brotli.Decompressor
    monkeypatch.setattr(brotli, "Decompressor", Counting)
    with pytest.raises(FormatError, match="more than the 1000 bytes"):
        decompress(bomb, 1000)
    assert sum(sizes) < 200_000


sources = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(sources, sources)
def test_code_round_trip(train, decode):
    assert code_unpack(code_pack(train, decode)) == (train, decode)


@pytest.mark.parametrize(
    "plain,match", [(b"no separator", "1 sources"), (b"a\0b\0c", "3 sources"), (b"\xff\0", "UTF-8")]
)
@either_way
def test_bad_code_is_refused(plain, match, make):
    with pytest.raises(FormatError, match=match):
        code_unpack(make(plain))
    with pytest.raises(ValueError, match="zero byte"):
        code_pack("a\0", "b")
    with pytest.raises(FormatError, match="4000000"):
        code_unpack(brotli.compress(bytes(4_000_001)))
    with pytest.raises(ValueError, match="at most 4000000"):
        code_pack("x" * 4_000_000, "")


words = st.text(st.characters(exclude_categories=["Cs"]))
numbers = st.one_of(st.integers(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False))


@given(st.dictionaries(words, st.one_of(words, numbers)))
def test_config_round_trip(config):
    assert config_unpack(config_pack(config)) == config


@pytest.mark.parametrize(
    "plain", [b"", b"{", b"[]", b'{"config":3}', b'{"config":{},"more":1}', b"\xff", b"[" * 100_000]
)
@either_way
def test_bad_config_is_refused(plain, make):
    with pytest.raises(FormatError, match="CONF"):
        config_unpack(make(plain))
