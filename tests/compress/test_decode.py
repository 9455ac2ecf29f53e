"""The counted decoder: golden weights, a second decoder written symbol by symbol, and hostile payloads."""

import ast
import hashlib
import json
import math
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
from compress.codes import Matrix, Vector
from compress.decode import decode_weights
from compress.minify import minify
from compress.trellis import trellis_table
from golf.container import code_unpack, read
from tests.support import ROOT
from tests.support.packed import encoded

pytestmark = pytest.mark.slow

GOLDEN = ROOT / "tests/golden"
SOURCE = Path(decode.__file__).read_text()


def small_tensors(seed=0):
    """One of everything: matrices side by side and alone, outliers, zeros, vectors, a scalar, an empty tensor."""
    rng = np.random.default_rng(seed)

    def matrix(shape, size):
        rows, columns = math.prod(shape[:-1]), shape[-1]
        codes = np.round(rng.normal(size=(rows, columns)) * size * np.exp(rng.normal(size=columns))).astype(np.int32)
        return Matrix(shape, codes, int(rng.integers(-9, 9)), rng.integers(-5, 6, rows), rng.integers(-5, 6, columns))

    tensors = {
        "head": matrix((40, 12), 0.4),
        "blocks.0.up": matrix((21, 9), 3),
        "blocks.1.up": matrix((3, 7, 5), 40),
        "zero": Matrix((2, 30), np.zeros((2, 30), np.int32), 7, np.zeros(2, int), np.zeros(30, int)),
        "gain": Vector((11,), rng.integers(-90, 90, 11).astype(np.int32), -7, 120),
        "scalar": Vector((), np.zeros(1, np.int32), -12, 4103),
        "empty": Vector((0, 4), np.zeros(0, np.int32), 0, 0),
    }
    tensors["head"].codes[17, 3] = -70_001
    return tensors


def small_payload(seed=0, states=8):
    return encoded(small_tensors(seed), trellis_table(states), 16).payload


def naive_decode(payload):
    """docs/format.md once more, one symbol at a time in Python's own numbers, without any check."""
    size = int.from_bytes(payload[1:4], "little")
    text, _, data = brotli.decompress(payload[4 : 4 + size]).partition(b"\0")
    lanes, count, restart, trellis, scales, matrices, vectors = json.loads(text)
    tables = []
    while data:
        left, frequencies = 4096, []
        for byte in data[1 : 1 + data[0]]:
            frequencies.append(0 if byte == 0 else max(1, left * byte // 256))
            left -= frequencies[-1]
        tables.append(frequencies + [left])
        data = data[1 + data[0] :]
    at = 4 + size
    states = [int.from_bytes(payload[at + 4 * i : at + 4 * i + 4], "little") for i in range(lanes)]
    at += 4 * lanes
    words = [int.from_bytes(payload[at + 2 * i : at + 2 * i + 2], "little") for i in range(count)]
    rest = payload[at + 2 * count :]

    def symbol(lane, context):
        slot, start = states[lane] % 4096, 0
        for token, frequency in enumerate(tables[context]):  # noqa: B007
            if slot < start + frequency:
                break
            start += frequency
        states[lane] = frequency * (states[lane] // 4096) + slot - start
        if states[lane] < 65536:
            states[lane] = states[lane] * 65536 + words.pop(0)
        return token

    def signed(token):
        return token // 2 if token % 2 == 0 else -(token + 1) // 2

    def length(token):
        return token // 4 if token >= 16 else 0  # position of the highest bit

    def low(token):
        return token if token < 16 else 2 ** length(token) + token // 2 % 2 * 2 ** (length(token) - 1) + token % 2

    grid = [base * 2**octave // 128 for octave in range(24) for base in (4096, 5161, 6502)]
    groups = []
    while matrices:
        rows = math.prod(matrices[0][3:-1])
        group, width = [], 0
        while matrices and math.prod(matrices[0][3:-1]) == rows and (not group or width + matrices[0][-1] <= lanes):
            group.append(matrices.pop(0))
            width += group[-1][-1]
        steps = [signed(symbol(i % lanes, 68)) for i in range(len(group) * rows)]
        factors = [signed(symbol(i % lanes, 69)) - math.floor(3 * steps[i] / 4) for i in range(len(group) * rows)]
        owner = [index for index, entry in enumerate(group) for _ in range(entry[-1])]
        scale = [signed(symbol(i % lanes, 70)) for i in range(width)]
        priors = [
            signed(symbol(i % lanes, 71)) - math.floor(3 * scale[i] / 4) + group[owner[i]][2] for i in range(width)
        ]
        tokens, bits, state = [], [], [0] * width
        for row in range(rows):
            tokens.append([])
            bits.append([])
            for column in range(width):
                if row % restart == 0:
                    state[column] = 0
                seen = row // 8 * 8
                mass = 8 * grid[15 + priors[column]] + sum(1024 * low(tokens[r][column]) for r in range(seen))
                weight = 8192 + sum(grid[15 + factors[owner[column] * rows + r]] for r in range(seen))
                level = sum(threshold < mass * 1024 // weight for threshold in grid)
                level = min(33, max(0, level + factors[owner[column] * rows + row]))
                q = state[column] % 2
                tokens[row].append(symbol(column, 2 * level + q))
                bits[row].append(q)
                state[column] = trellis[2 * state[column] + tokens[row][column] % 2]
        groups.append((group, rows, tokens, bits, steps, scale))
    for entry in vectors:
        total = math.prod(entry[3:])
        groups.append(([entry], 1, [[symbol(i % lanes, 72) for i in range(total)]], [[0] * total], None, None))
    assert not words and all(state // 65536 == 1 for state in states)
    stream = b"".join((state % 65536).to_bytes(2, "little") for state in states) + rest
    plain = [byte >> (7 - i) & 1 for byte in stream for i in range(8)]
    result = {}
    for group, rows, tokens, bits, steps, scale in groups:
        codes = [[low(token) for token in line] for line in tokens]
        places = [(r, c) for r in range(rows) for c in range(len(codes[r]))]
        for bit in range(21, 0, -1):
            for r, c in places:
                if length(tokens[r][c]) - 2 >= bit:
                    codes[r][c] += plain.pop(0) << bit
        for r, c in places:
            if codes[r][c] and plain.pop(0):
                codes[r][c] = -codes[r][c]
        if steps is None:
            name, exponent, centre, *shape = group[0]
            result[name] = (shape, [np.float32((code + centre) * 2.0**exponent) for code in codes[0]])
            continue
        at = 0
        for index, (name, base, _, *shape) in enumerate(group):
            values = []
            for r in range(rows):
                for c in range(at, at + shape[-1]):
                    e = base + steps[index * rows + r] + scale[c]
                    integer = 2 * codes[r][c] - bits[r][c] * ((codes[r][c] > 0) - (codes[r][c] < 0))
                    values.append(np.float32(integer) * np.float32(scales[e % 4]) * np.float32(2.0 ** (e // 4)))
            result[name] = (shape, values)
            at += shape[-1]
    return result


def same(weights, expected):
    """expected: {name: (shape, float32 values)}; bit for bit."""
    assert set(weights) == set(expected)
    for name, (shape, values) in expected.items():
        assert weights[name].dtype == torch.float32 and list(weights[name].shape) == list(shape)
        assert weights[name].numpy().tobytes() == np.array(values, np.float32).tobytes(), name


@pytest.mark.parametrize("states", [1, 4, 8, 64])
def test_agrees_with_a_decoder_written_symbol_by_symbol(states):
    for seed in range(3):
        payload = small_payload(seed, states)
        weights = decode_weights(payload)
        same(weights, naive_decode(payload))
        for name, tensor in small_tensors(seed).items():  # and both with what went in
            if isinstance(tensor, Vector):
                values = (tensor.codes.astype(float) + tensor.centre) * 2.0**tensor.exponent
                assert np.array_equal(weights[name].numpy().ravel(), values.astype(np.float32))


def golden_expected():
    return {
        name: (shape, np.array([float.fromhex(value) for value in values], np.float32))
        for name, (shape, values) in json.loads((GOLDEN / "tiny.json").read_text())["weights"].items()
    }


def test_golden_weights():
    payload = read((GOLDEN / "tiny.golf").read_bytes())["WGTS"]
    same(decode_weights(payload), golden_expected())
    same(naive_decode(payload) and decode_weights(payload), naive_decode(payload))


def run_source(source):
    namespace = {}
    exec(compile(source, "decode.py", "exec"), namespace)
    return namespace["decode_weights"]


def test_minified_decoder_and_the_one_inside_the_golden_file_agree():
    sections = read((GOLDEN / "tiny.golf").read_bytes())
    for source in (minify(SOURCE), code_unpack(sections["CODE"])[1]):
        same(run_source(source)(sections["WGTS"]), golden_expected())
        with pytest.raises(ValueError, match="unknown weight format"):
            run_source(source)(b"\1" + sections["WGTS"][1:])


def test_decoder_is_small_and_self_contained():
    assert len(brotli.compress(minify(SOURCE).encode())) < 2400
    for node in ast.walk(ast.parse(SOURCE)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            assert all(
                name in sys.stdlib_module_names or name in ("brotli", "numpy", "torch", "zstandard") for name in names
            )


@pytest.mark.parametrize("threads", [1, 3])
def test_same_bits_without_vector_instructions_and_with_other_thread_counts(threads):
    """Decisions are integer ones and a weight is one rounded product, so nothing about the machine can matter."""
    code = (
        "import sys, hashlib, torch; from golf.container import read; from compress.decode import decode_weights;"
        "torch.set_num_threads(int(sys.argv[2]));"
        "w = decode_weights(read(open(sys.argv[1], 'rb').read())['WGTS']);"
        "print(hashlib.sha256(b''.join(w[n].numpy().tobytes() for n in sorted(w))).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, GOLDEN / "tiny.golf", str(threads)],
        cwd=ROOT,
        env={
            "ATEN_CPU_CAPABILITY": "default",
            "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3",
            "OPENBLAS_NUM_THREADS": str(threads),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    expected = b"".join(values.tobytes() for _, (_, values) in sorted(golden_expected().items()))
    assert done.stdout.split()[-1] == hashlib.sha256(expected).hexdigest()


def refused(data, match=None):
    with pytest.raises(ValueError, match=match) as caught:
        decode_weights(data)
    assert "\n" not in str(caught.value)


GOOD = small_payload()
SIZE = int.from_bytes(GOOD[1:4], "little")
TEXT, _, TABLES = brotli.decompress(GOOD[4 : 4 + SIZE]).partition(b"\0")
HEAD = json.loads(TEXT)


def edited(head=None, tables=TABLES, text=None, rest=GOOD[4 + SIZE :]):
    """The good payload with another head, frequencies or stream. head: {index or (index, ...): value}."""
    value = json.loads(TEXT)
    for path, new in (head or {}).items():
        path = path if isinstance(path, tuple) else (path,)
        inner = value
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = new
    text = json.dumps(value).encode() if text is None else text
    packed = brotli.compress(text + b"\0" + tables)
    return b"\2" + len(packed).to_bytes(3, "little") + packed + rest


def test_editing_nothing_changes_nothing():
    same(decode_weights(edited()), naive_decode(GOOD))


BIG = 1 << 28
LANES, COUNT, RESTART, TRELLIS, SCALE, MATRICES, VECTORS = range(7)
BAD_HEADS = [
    {LANES: 0},
    {LANES: -1},
    {LANES: 29},
    {LANES: 1 << 40},
    {LANES: "3"},
    {LANES: None},
    {COUNT: -1},
    {COUNT: HEAD[COUNT] + 1},
    {COUNT: HEAD[COUNT] - 1},
    {COUNT: 1.5},
    {RESTART: 0},
    {RESTART: None},
    {TRELLIS: []},
    {TRELLIS: [0]},
    {TRELLIS: [0, -1]},
    {TRELLIS: [0, 1]},
    {TRELLIS: [0, 10**30]},
    {TRELLIS: [[0, 0], [0, 0]]},
    {TRELLIS: {"a": 1}},
    {SCALE: [1.0] * 3},
    {SCALE: 1.0},
    {SCALE: [1.0, 2.0, "x", 3.0]},
    {SCALE: [math.nan] * 4},
    {SCALE: [math.inf] * 4},
    {MATRICES: {}},
    {MATRICES: [{"a": 1}]},
    {MATRICES: [[]]},
    {MATRICES: [["a"]]},
    {MATRICES: 3},
    {VECTORS: [["a", 1, 0, 2.0]]},
    {VECTORS: [["a", 1]]},
    {VECTORS: [["a", 1, 0, -4]]},
    {VECTORS: [["a", 1, 0] + [1] * 9]},
    {VECTORS: []},
    {(MATRICES, 0, 0): HEAD[MATRICES][1][0]},
    {(MATRICES, 0, 0): 7},
    {(MATRICES, 0, 1): True},
    {(MATRICES, 0, 1): 1 << 20},
    {(MATRICES, 0, 2): 1000},
    {(MATRICES, 0, 3): 41},
    {(MATRICES, 0, 3): 0},
    {(MATRICES, 0, 3): BIG},
    {(MATRICES, 0, 3): BIG + 1},
    {(MATRICES, 0, 3): 10**400},
    {(MATRICES, 0): ["head", 0, 0, 480]},
    {(VECTORS, 0, 1): BIG},
]


@pytest.mark.parametrize("head", BAD_HEADS, ids=lambda head: str(head)[:40])
def test_bad_heads_are_refused(head):
    refused(edited(head))


@pytest.mark.parametrize(
    "text", [b"", b"{", b"3", b"null", b"[1]", b"[" * 200_000, b"\xff", json.dumps(HEAD[:6]).encode()]
)
def test_bad_json_is_refused(text):
    refused(edited(text=text))


def test_bad_frequencies_are_refused():
    refused(edited(tables=TABLES[:-1]))
    refused(edited(tables=TABLES + b"\0"), "frequencies")
    refused(edited(tables=b""), "frequencies")
    refused(edited(tables=b"\xff" + b"\1" * 255 + TABLES), "frequencies")
    refused(edited(tables=b"\5" + b"\xff" * 5 + b"\0" * 72), None)
    refused(edited(tables=b"\x5b" + b"\xff" * 91 + b"\0" * 72), "frequencies")


def test_framing_is_checked():
    refused(b"", "unknown weight format")
    refused(b"\1" + GOOD[1:], "unknown weight format")
    for length in range(1, len(GOOD)):
        refused(GOOD[:length])
    for extra in (b"\0", b"\1", b"\xff" * 4):
        refused(GOOD + extra, "left over")


@pytest.mark.slow
def test_a_bomb_is_not_inflated():
    bomb = brotli.compress(bytes(200_000_000), quality=2)
    refused(b"\2" + len(bomb).to_bytes(3, "little") + bomb, "head")


@pytest.mark.slow
def test_every_changed_byte_gives_weights_or_one_line():
    """Without the container's checksum: nothing but ValueError comes out, and only plain bits can change unnoticed."""
    outcomes = {"value": 0, "error": 0}
    expected = naive_decode(GOOD)
    for position in range(len(GOOD)):
        for mask in (0x01, 0x80, 0xFF):
            try:
                result = decode_weights(GOOD[:position] + bytes([GOOD[position] ^ mask]) + GOOD[position + 1 :])
                assert {name: list(tensor.shape) for name, tensor in result.items()} == {
                    name: shape for name, (shape, _) in expected.items()
                } or position < 4 + SIZE
                outcomes["value"] += 1
            except ValueError as error:
                assert "\n" not in str(error)
                outcomes["error"] += 1
    assert outcomes["error"] > outcomes["value"]


@settings(max_examples=150)
@given(st.binary(max_size=200), st.integers(0, len(GOOD)), st.binary(max_size=8))
def test_any_bytes_give_a_result_or_a_value_error(data, position, insert):
    for candidate in (
        data,
        b"\2" + data,
        GOOD[:position] + insert + GOOD[position + len(insert) :],
        GOOD[:position] + insert + GOOD[position:],
        edited(tables=data),
        edited(rest=data),
    ):
        try:
            decode_weights(candidate)
        except ValueError:
            pass


numbers = st.one_of(st.integers(-2, 99), st.booleans(), st.none(), st.floats(), st.text(max_size=2))
entries = st.lists(numbers, max_size=6)


@settings(max_examples=150)
@given(st.integers(0, 6), st.one_of(numbers, entries, st.lists(entries, max_size=3)))
def test_any_head_gives_a_result_or_a_value_error(index, value):
    try:
        decode_weights(edited({index: value}))
    except ValueError:
        pass
