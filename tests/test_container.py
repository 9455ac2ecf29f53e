"""The .golf container: round trips, every damage a clear error, and golden bytes that hold the format."""

import hashlib
import json
import os
import struct
from pathlib import Path

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.container import (
    OVERHEAD_BYTES,
    TAGS,
    FormatError,
    code_pack,
    code_unpack,
    config_pack,
    config_unpack,
    decompress,
    read,
    to_bytes,
    write,
)

GOLDEN = Path(__file__).parent / "golden"
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


def test_golden_file():
    data = (GOLDEN / "tiny.golf").read_bytes()
    expected = json.loads((GOLDEN / "tiny.json").read_text())
    assert hashlib.sha256(data).hexdigest() == expected["sha256"]
    sections = read(data)
    assert {tag: hashlib.sha256(payload).hexdigest() for tag, payload in sections.items()} == expected["sections"]
    assert [hashlib.sha256(source.encode()).hexdigest() for source in code_unpack(sections["CODE"])] == expected[
        "sources"
    ]
    assert config_unpack(sections["CONF"]) == expected["config"]
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
        to_bytes({tag: b"" for tag in tags.split()[1:]})


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


@given(st.binary(max_size=2000), st.integers(0, 3000))
def test_decompress_is_bounded(data, limit):
    stream = brotli.compress(data)
    if len(data) <= limit:
        assert decompress(stream, limit) == data
    else:
        with pytest.raises(FormatError, match="more than"):
            decompress(stream, limit)


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
def test_bad_code_is_refused(plain, match):
    with pytest.raises(FormatError, match=match):
        code_unpack(brotli.compress(plain))
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
def test_bad_config_is_refused(plain):
    with pytest.raises(FormatError, match="CONF"):
        config_unpack(brotli.compress(plain))
