"""Trellis-coded quantisation against exhaustive search, and against the rate-distortion bound of Gaussian data."""

import itertools
import math

import numpy as np
import pytest
import torch

from compress.trellis import CODES, RESTART, Viterbi, trellis_bits, trellis_table

NNCODEC_8 = [0, 2, 7, 5, 1, 3, 6, 4, 2, 0, 5, 7, 3, 1, 4, 6]  # the 8-state table of MPEG's nncodec


@pytest.mark.parametrize("states", [1, *CODES])
def test_tables_are_trellises(states):
    """Every state has two predecessors, and all can be reached from state 0."""
    table = trellis_table(states)
    assert len(table) == 2 * states and sorted(table) == sorted([*range(states)] * 2)
    reached = {0}
    for _ in range(states):
        reached |= {table[2 * state + parity] for state in reached for parity in (0, 1)}
    assert reached == set(range(states))


def test_unknown_numbers_of_states_are_refused():
    with pytest.raises(ValueError, match="7 states"):
        trellis_table(7)


@pytest.mark.parametrize("table", [trellis_table(1), trellis_table(4), trellis_table(8), NNCODEC_8])
def test_viterbi_finds_the_best_path(table):
    """Against all paths of codes -3..3 over five steps."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 7, generator=generator, dtype=torch.float64) * 1.5
    x[0, :3] = torch.tensor([1.5, -1.5, 0.0])  # ties
    integers, codes = Viterbi(table)(x)
    error = (x - integers).square().sum(0)
    best = np.full(7, np.inf)
    for path in itertools.product(range(-3, 4), repeat=5):
        state, total = 0, np.zeros(7)
        for value, code in zip(x.numpy(), path, strict=True):
            total += (value - (2 * code - (state & 1) * np.sign(code))) ** 2
            state = table[2 * state + (code & 1)]
        best = np.minimum(best, total)
    assert np.allclose(error.numpy(), best)
    bits = trellis_bits(codes.long().numpy(), table, 5)
    assert np.array_equal(integers.numpy(), 2 * codes.numpy() - bits * np.sign(codes.numpy()))


def test_restarts_go_back_to_state_0():
    table, codes = trellis_table(8), np.ones((6, 2), np.int32)
    assert np.array_equal(trellis_bits(codes, table, 3)[3:], trellis_bits(codes[:3], table, 3))


def gap(table: list[int], step: float) -> tuple[float, float]:
    """(rate in bits, distance from the rate-distortion bound in dB) on Gaussian data of deviation 1."""
    x = torch.randn(RESTART, 512, generator=torch.Generator().manual_seed(1))
    integers, codes = Viterbi(table)(x / step)
    codes = codes.long().numpy()
    bits = trellis_bits(codes, table, RESTART)
    rate = 0.0
    for bit in (0, 1):
        counts = np.bincount(codes[bits == bit] - codes.min())
        counts = counts[counts > 0]
        rate -= float((counts * np.log2(counts / counts.sum())).sum()) / codes.size
    return rate, 10 * math.log10((x - integers * step).square().mean()) + 20 * math.log10(2) * rate


# At high rates a uniform quantiser is 1.53 dB from the bound (Gish & Pierce 1968), at 3.4 bits 1.60; the codes must
# gain what trellis-coded quantisation is known to gain (Marcellin & Fischer 1990): 0.9 dB with 8 states, 1.1 with 64.
@pytest.mark.parametrize(
    "table,low,high",
    [(trellis_table(1), 1.5, 1.65), (trellis_table(8), 0.5, 0.7), (NNCODEC_8, 0.5, 0.7), (trellis_table(64), 0.3, 0.5)],
    ids=["uniform", "8", "nncodec", "64"],
)
def test_distance_from_the_rate_distortion_bound(table, low, high):
    rate, distance = gap(table, 0.2)
    assert 3.3 < rate < 3.6 and low < distance < high, (rate, distance)
