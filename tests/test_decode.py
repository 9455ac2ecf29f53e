"""The counted decoder: golden weights, a payload written by hand, and hostile payloads."""

import ast
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import brotli
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress import decode
from compress.container import code_unpack, read
from compress.decode import decode_weights
from compress.minify import minify

GOLDEN = Path(__file__).parent / "golden"
SOURCE = Path(decode.__file__).read_text()


def payload(table, *streams, version=b"\1"):
    """A WGTS payload written without compress/encode.py. streams: plain bytes of 1 (float16), 2 (float32), 3..."""
    table = table if isinstance(table, bytes) else json.dumps(table).encode()
    packed = [brotli.compress(stream) for stream in (table, *streams)]
    return version + b"".join(len(stream).to_bytes(4, "little") + stream for stream in packed)


def planes(values, width):
    """Byte planes of big-endian floats, one value at a time."""
    rows = [np.array(value, f">f{width}").tobytes() for value in values]
    return bytes(row[plane] for plane in range(width) for row in rows)


GOOD = (
    {"a": [3, 2, 3], "b": [1, 4], "c": [2], "d": [4, 2, 1, 2]},
    planes([0.5, 2, 1, -1, 0.25, 0, 3, 4], 2),
    planes([1e-9], 4),
    bytes([1, 4, 2, 5, 3, 250]),
    bytes([7, 8, 9, 0]),
)
EXPECTED = {"a": [[0.5, 1, 1.5], [8, 10, -12]], "b": [1, -1, 0.25, 0], "c": 1e-9, "d": [[[21, 27]], [[32, 0]]]}


def test_a_payload_written_by_hand():
    result = decode_weights(payload(*GOOD))
    assert list(result) == list(EXPECTED)
    for name, values in EXPECTED.items():
        assert result[name].dtype == torch.float32 and torch.equal(result[name], torch.tensor(values))


def golden_expected():
    return {
        name: (shape, np.array([float.fromhex(value) for value in values], np.float32))
        for name, (shape, values) in json.loads((GOLDEN / "tiny.json").read_text())["weights"].items()
    }


def same_as_golden(weights):
    expected = golden_expected()
    assert list(weights) == list(expected)
    for name, (shape, values) in expected.items():
        assert list(weights[name].shape) == shape and weights[name].numpy().tobytes() == values.tobytes()


def test_golden_weights():
    same_as_golden(decode_weights(read((GOLDEN / "tiny.golf").read_bytes())["WGTS"]))


def run_source(source):
    namespace = {}
    exec(compile(source, "decode.py", "exec"), namespace)
    return namespace["decode_weights"]


def test_minified_decoder_and_the_one_inside_the_golden_file_agree():
    sections = read((GOLDEN / "tiny.golf").read_bytes())
    for source in (minify(SOURCE), code_unpack(sections["CODE"])[1]):
        same_as_golden(run_source(source)(sections["WGTS"]))
        with pytest.raises(ValueError, match="unknown weight format"):
            run_source(source)(b"\2" + sections["WGTS"][1:])


def test_decoder_is_small_and_self_contained():
    assert len(brotli.compress(minify(SOURCE).encode())) < 1500
    for node in ast.walk(ast.parse(SOURCE)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            assert all(
                name in sys.stdlib_module_names or name in ("brotli", "numpy", "torch", "zstandard") for name in names
            )


@pytest.mark.parametrize("threads", [1, 3])
def test_same_bits_without_vector_instructions_and_with_other_thread_counts(threads):
    """Products of integer codes and float16 scales are exact in float32, so nothing about the machine can matter."""
    code = (
        "import sys, hashlib, torch; from compress.container import read; from compress.decode import decode_weights;"
        "torch.set_num_threads(int(sys.argv[2]));"
        "w = decode_weights(read(open(sys.argv[1], 'rb').read())['WGTS']);"
        "print(hashlib.sha256(b''.join(t.numpy().tobytes() for t in w.values())).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, GOLDEN / "tiny.golf", str(threads)],
        cwd=GOLDEN.parent.parent,
        env={"ATEN_CPU_CAPABILITY": "default", "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3"},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = b"".join(values.tobytes() for _, values in golden_expected().values())
    assert done.stdout.split()[-1] == hashlib.sha256(expected).hexdigest()


def refused(data, match=None):
    with pytest.raises(ValueError, match=match) as caught:
        decode_weights(data)
    assert "\n" not in str(caught.value)


def swap(index, value):
    return payload(*(value if position == index else part for position, part in enumerate(GOOD)))


BIG = 1 << 28
BAD_TABLES = [
    b"",
    b"{",
    b"[1]",
    b"3",
    b"null",
    b'"x"',
    b"[" * 200_000,
    b'{"a":' * 50_000,
    {"a": []},
    {"a": 3},
    {"a": "12"},
    {"a": None},
    {"a": [0, 2]},
    {"a": [-1, 2]},
    {"a": [5, 2, 2]},
    {"a": [3]},
    {"a": [3, 4]},
    {"a": [1, -4]},
    {"a": [1, 2.0]},
    {"a": [1, True]},
    {"a": [True, 3]},
    {"a": [1, BIG + 1]},
    {"a": [1, "4"]},
    {"a": [1, [4]]},
    {"a": [1, 10**400]},
    {"a": [1] + [1] * 9},
    {"a": [2, BIG], "b": [2, 2]},
    {"a": [3, BIG, BIG]},
    {"a": [3, BIG] + [BIG] * 6},
    {f"t{i}": [3, 1 << 14, 1 << 14] for i in range(40)},
]


@pytest.mark.parametrize("table", BAD_TABLES, ids=lambda table: str(table)[:30])
def test_bad_tables_are_refused(table):
    refused(swap(0, table))


def test_sizes_must_agree_with_the_streams():
    for index in (1, 2, 3, 4):
        refused(swap(index, GOOD[index][:-1]), "shorter|reshape")
        refused(swap(index, GOOD[index] + b"\0"), "too long")
        refused(swap(index, b""), "shorter")
    refused(swap(0, {**GOOD[0], "e": [1, 1]}), "shorter")
    refused(swap(0, {name: entry for name, entry in GOOD[0].items() if name != "b"}), "too long")
    refused(payload(*GOOD[:3]), "bad table")
    for entry in ([2, True], [2] + [1] * 9):  # of the right size, but no shape
        refused(swap(0, {**GOOD[0], "c": entry}), "bad table")
    refused(payload(*GOOD, b"more than nothing"), "too long")


def test_not_finite_numbers_are_refused():
    for bad in (np.nan, np.inf, -np.inf):
        refused(swap(1, planes([bad, 2, 1, -1, 0.25, 0, 3, 4], 2)), "finite")
        refused(swap(2, planes([bad], 4)), "finite")


def test_framing_is_checked():
    good = payload(*GOOD)
    refused(b"", "unknown weight format")
    refused(payload(*GOOD, version=b"\0"), "unknown weight format")
    for length in range(1, len(good)):
        refused(good[:length])
    for extra in (b"\0", b"\0\0\0\0", b"\xff" * 4):
        refused(good + extra)


def test_a_bomb_is_not_inflated(monkeypatch):
    held = []

    class Counting:
        def __init__(self):
            self.stream = original()

        def process(self, data, output_buffer_limit):
            held.append(len(part := self.stream.process(data, output_buffer_limit=output_buffer_limit)))
            return part

        def is_finished(self):
            return self.stream.is_finished()

    bomb, original = swap(3, bytes(200_000_000)), brotli.Decompressor
    monkeypatch.setattr(brotli, "Decompressor", Counting)
    refused(bomb, "too long")
    assert sum(held) < 500_000


def test_every_changed_byte_gives_weights_or_one_line():
    """Without the container's checksum: nothing but ValueError comes out, and never other shapes than the table's."""
    good = payload(*GOOD)
    outcomes = {"value": 0, "error": 0}
    for position in range(len(good)):
        for mask in (0x01, 0x10, 0x80, 0xFF):
            try:
                result = decode_weights(good[:position] + bytes([good[position] ^ mask]) + good[position + 1 :])
                assert all(torch.isfinite(tensor).all() for tensor in result.values())
                outcomes["value"] += 1
            except ValueError as error:
                assert "\n" not in str(error)
                outcomes["error"] += 1
    assert outcomes["error"] > outcomes["value"]


@settings(max_examples=200)
@given(st.binary(max_size=200), st.integers(0, 60), st.binary(max_size=8))
def test_any_bytes_give_a_result_or_a_value_error(data, position, insert):
    good = payload(*GOOD)
    for candidate in (
        data,
        b"\1" + data,
        good[:position] + insert + good[position + len(insert) :],
        good[:position] + insert + good[position:],
    ):
        try:
            decode_weights(candidate)
        except ValueError:
            pass


entries = st.lists(
    st.one_of(st.integers(-2, 9), st.booleans(), st.none(), st.floats(), st.text(max_size=2)), max_size=5
)


@settings(max_examples=200)
@given(
    st.one_of(st.dictionaries(st.text(max_size=3), st.one_of(entries, st.integers(), st.text()), max_size=4), entries)
)
def test_any_table_gives_a_result_or_a_value_error(table):
    try:
        decode_weights(swap(0, table))
    except ValueError:
        pass
