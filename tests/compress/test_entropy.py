"""The entropy coder: exact round trips, its size against constriction and against the entropy, its tables."""

import math
from dataclasses import replace

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress import decode
from compress.codes import Matrix, QuantisedModel, Vector
from compress.decode import LOWEST, TOKENS, VECTORS, rans_table, read_codes
from compress.entropy import (
    Symbols,
    costs,
    frequencies,
    groups_of,
    layout,
    magnitudes,
    read_weights,
    symbols,
    tokens_of,
)
from compress.rates import entropy_bits
from compress.trellis import RESTART, trellis_table
from tests.support.packed import SCALES, encoded

pytestmark = pytest.mark.slow

TRELLIS = trellis_table(8)


def payload_of(tensors, trellis=TRELLIS, restart=RESTART):
    return encoded(tensors, trellis, restart).payload


def matrix(codes, seed=0):
    rng, (rows, columns) = np.random.default_rng(seed), codes.shape
    return Matrix(codes.shape, codes.astype(np.int32), 3, rng.integers(-40, 41, rows), rng.integers(-40, 41, columns))


shapes = st.one_of(
    st.tuples(st.integers(1, 3), st.integers(1, 5000)),
    st.tuples(st.integers(1, 400), st.integers(1, 4)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
kinds = st.sampled_from(["zero", "ternary", "laplace", "outliers", "constant", "mixed", "largest"])


def codes_of(shape, kind, rng):
    codes = np.round(rng.laplace(size=shape) * 3)
    if kind == "zero":
        codes *= 0
    elif kind == "ternary":
        codes = np.clip(codes, -1, 1)
    elif kind == "constant":
        codes[:] = -17
    elif kind == "outliers":
        codes[rng.random(shape) < 0.01] = rng.integers(-(2**23) + 1, 2**23)
        codes[rng.integers(shape[0])] = 0
    elif kind == "mixed":
        codes = np.round(codes * np.exp(2 * rng.normal(size=shape[1])) * np.exp(2 * rng.normal(size=shape[0]))[:, None])
        codes = np.clip(codes, -(2**23) + 1, 2**23 - 1)
    elif kind == "largest":
        codes[:] = 2**23 - 1
    return codes


@settings(max_examples=60)
@given(
    st.lists(st.tuples(shapes, kinds), max_size=4), st.sampled_from([1, 8, 64]), st.integers(1, 700), st.integers(0, 99)
)
def test_round_trip(specification, states, restart, seed):
    rng = np.random.default_rng(seed)
    tensors = {f"é{i}": matrix(codes_of(shape, kind, rng), seed) for i, (shape, kind) in enumerate(specification)}
    tensors["v"] = Vector((5,), np.array([0, -1, 2**23 - 1, -300, 15], np.int32), -40, -7)
    payload = payload_of(tensors, trellis_table(states), restart)
    stored = read_codes(payload)
    assert set(stored) == set(tensors)
    for name, tensor in tensors.items():
        shape, codes, _, rows, columns, values = stored[name]
        assert tuple(shape) == tensor.shape
        if isinstance(tensor, Vector):
            assert np.array_equal(values, np.ldexp((tensor.codes + tensor.centre).astype(np.float32), -40))
        else:
            assert np.array_equal(codes, tensor.codes)
            assert np.array_equal(rows, 3 + tensor.rows) and np.array_equal(columns, tensor.columns)


def test_codes_that_do_not_fit_are_refused():
    for code in (2**23, -(2**23)):
        with pytest.raises(ValueError, match="23 bits"):
            payload_of({"a": matrix(np.full((2, 2), code))})


def test_tokens_split_a_code_into_what_the_decoder_joins():
    sizes = np.concatenate([np.arange(5000), 2 ** np.arange(5, 24) - 1, 2 ** np.arange(5, 23)])
    tokens = tokens_of(sizes)
    assert tokens.max() == TOKENS - 1 and np.array_equal(tokens & 1, sizes & 1)
    after = LOWEST[tokens] + (2 << np.maximum(decode.BITS[tokens], 0))
    assert (LOWEST[tokens] <= sizes).all() and (sizes < after).all()
    assert (np.diff(np.unique(LOWEST)) > 0).all() and len(np.unique(LOWEST)) == TOKENS


def test_any_order_of_the_tensors_gives_the_same_tensors():
    rng = np.random.default_rng(3)
    tensors = {str(i): matrix(codes_of((10 + i % 2, 6), "laplace", rng), i) for i in range(7)}
    expected = read_codes(payload_of(tensors))
    stored = read_codes(payload_of(dict(reversed(tensors.items()))))
    assert all(np.array_equal(stored[name][-1], expected[name][-1]) for name in tensors)


def parts_of(tensors):
    order = layout(tensors)
    coded = symbols(order, QuantisedModel(tensors, TRELLIS, RESTART, SCALES))
    contexts = np.concatenate(coded.contexts).astype(int)
    tokens = np.concatenate(coded.tokens)
    return order.lanes, contexts, tokens, sum(part.size for part in coded.plain), rans_table(frequencies(coded))


def test_stream_is_as_small_as_constrictions():
    """The same symbols with the same probabilities: at most 0.1% more, and a byte a lane for the states."""
    rng = np.random.default_rng(4)
    spread = np.exp(rng.normal(size=256))
    tensors = {"a": matrix(np.round(rng.normal(size=(1500, 256)) * spread), 1)}
    payload = payload_of(tensors)
    lanes, contexts, tokens, plain, table = parts_of(tensors)
    head = 4 + int.from_bytes(payload[1:4], "little")
    coder = constriction.stream.stack.AnsCoder()
    for context in np.unique(contexts):
        entries = table[4096 * context : 4096 * (context + 1)]
        chances = np.bincount(entries >> 24) / 4096
        if np.count_nonzero(chances) > 1:
            used = np.flatnonzero(chances)
            model = constriction.stream.model.Categorical(chances[used].astype(np.float32), perfect=False)
            coder.encode_reverse(np.searchsorted(used, tokens[contexts == context]).astype(np.int32), model)
    reference = coder.num_bits() / 8 + plain / 8
    assert len(payload) - head <= 1.001 * reference + lanes
    assert len(payload) - head >= 0.999 * reference


@pytest.mark.parametrize("share", [1 / 3, 0.1])
def test_ternary_and_binary_weights_cost_their_entropy(share):
    """1.58-bit weights, all in all within 2% (trellis of one state: X = 2k)."""
    rng = np.random.default_rng(5)
    codes = rng.choice([-1, 0, 1], (1024, 512), p=[share, 1 - 2 * share, share])
    zero = np.zeros(1024, int), np.zeros(512, int)
    bits = (
        8 * len(payload_of({"w": Matrix(codes.shape, codes.astype(np.int32), 0, *zero)}, trellis_table(1))) / codes.size
    )
    assert bits < 1.02 * entropy_bits(codes)
    signs = rng.choice([-1, 1], (1024, 512))
    bits = 8 * len(payload_of({"w": Matrix(signs.shape, signs.astype(np.int32), 0, *zero)}, trellis_table(1)))
    assert bits < 1.02 * signs.size


def test_frequencies_follow_the_counts():
    """What the tables cost over the empirical entropy of each context: under 0.2%; and each symbol can be coded."""
    rng = np.random.default_rng(6)
    contexts = [rng.integers(0, VECTORS + 1, 20_000)]
    tokens = [np.minimum(rng.geometric(1 / (1 + contexts[0] / 4)) - 1, TOKENS - 1)]
    tokens[0][:3] = TOKENS - 1
    table = rans_table(frequencies(Symbols(contexts, tokens, [])))
    cost, ideal = costs(table)[contexts[0], tokens[0]].sum(), 0.0
    for context in range(VECTORS + 1):
        counts = np.bincount(tokens[0][contexts[0] == context])
        counts = counts[counts > 0]
        ideal -= (counts * np.log2(counts / counts.sum())).sum()
    assert ideal < cost < 1.002 * ideal
    assert table.size == 4096 * (VECTORS + 1)


def test_contexts_help_where_columns_and_rows_differ():
    """Codes of known deviations cost nearly what a coder that knows these would pay."""
    rng = np.random.default_rng(7)
    sizes = np.exp(0.8 * rng.normal(size=(400, 1))) * np.exp(0.8 * rng.normal(size=300)) * 2
    codes = np.round(rng.normal(size=(400, 300)) * sizes)
    zero = np.zeros(400, int), np.zeros(300, int)
    payload = payload_of({"w": Matrix(codes.shape, codes.astype(np.int32), 0, *zero)}, trellis_table(1))
    edges = (np.abs(codes)[..., None] + [-0.5, 0.5]) / sizes[..., None] / math.sqrt(2)
    chance = np.vectorize(math.erf)(edges)
    known = -np.log2(np.maximum((chance[..., 1] - chance[..., 0]) / 2, 1e-12)).mean()
    assert known < 8 * len(payload) / codes.size < known + 0.12 < entropy_bits(codes) - 0.3


def test_magnitudes_stay_in_range_for_any_steps():
    rng = np.random.default_rng(8)
    for kind in ("outliers", "zero", "mixed"):
        rows, priors, centre = magnitudes(value := matrix(codes_of((30, 50), kind, rng), 2))
        assert np.abs(rows).max() <= 14 and np.abs(priors).max() <= 14
        assert np.abs(priors + 3 * value.columns // 4 - centre).max() <= 45


def test_matrices_of_one_height_share_lanes():
    tensors = {str(i): matrix(np.zeros((rows, 10))) for i, rows in enumerate([5, 9, 5, 5, 9])}
    order = replace(layout(tensors), lanes=20)
    assert [list(group) for group in groups_of(order)] == [["1", "4"], ["0", "2"], ["3"]]


def test_reading_gives_back_what_was_encoded():
    """Model, order and tables of a payload are those that the encoder had at hand."""
    rng = np.random.default_rng(9)
    tensors = {str(i): matrix(codes_of((20 + i, 9), "mixed", rng), i) for i in range(3)}
    tensors["v"] = Vector((300,), rng.integers(-99, 99, 300).astype(np.int32), -3, 5)
    written = encoded(tensors, TRELLIS, RESTART)
    read = read_weights(written.payload)
    assert read.tables == written.tables and read.layout.lanes == written.layout.lanes
    assert (read.model.trellis, read.model.restart) == (TRELLIS, RESTART)
    assert np.array_equal(read.model.scales, SCALES)
    assert list(read.layout.matrices) == list(written.layout.matrices)
    for name, tensor in tensors.items():
        stored = read.model.tensors[name]
        assert type(stored) is type(tensor) and stored.shape == tensor.shape
        assert np.array_equal(stored.codes, tensor.codes)
        if name == "v":
            assert (stored.exponent, stored.centre) == (tensor.exponent, tensor.centre)
        else:
            assert stored.base == tensor.base
            assert np.array_equal(stored.rows, tensor.rows) and np.array_equal(stored.columns, tensor.columns)
    with pytest.raises(ValueError, match="WGTS: "):
        read_weights(written.payload[:-3])
