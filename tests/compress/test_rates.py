"""Bits of every tensor against entropies written out and against the bytes of the file."""

import math
import statistics

import numpy as np
import pytest

from compress.codes import Matrix, Vector
from compress.decode import read_codes
from compress.entropy import read_weights
from compress.rates import artifact_rows, step_rows, tensor_rows, weights_bound
from compress.trellis import RESTART, trellis_table
from tests.support.packed import encoded, packed_toy, weights_section

pytestmark = pytest.mark.slow

TRELLIS = trellis_table(8)


@pytest.fixture(scope="module")
def packed():
    return packed_toy()[0] / "model.golf"


def random_matrix(rng):
    """Codes of uneven size with some outliers."""
    codes = np.round(rng.laplace(size=(200, 90)) * np.exp(rng.normal(size=90)))
    codes[rng.random(codes.shape) < 0.001] = 70_001
    return Matrix(codes.shape, codes.astype(np.int32), 3, rng.integers(-40, 41, 200), rng.integers(-40, 41, 90))


def test_rows_of_the_report_add_up_to_the_payload():
    rng = np.random.default_rng(9)
    tensors = {str(i): random_matrix(rng) for i in range(3)}
    tensors["v"] = Vector((300,), rng.integers(-99, 99, 300).astype(np.int32), 0, 5)
    written = encoded(tensors, TRELLIS, RESTART)
    payload = written.payload
    rows = {row["name"]: row for row in tensor_rows(written)}
    whole = (
        4
        + int.from_bytes(payload[1:4], "little")
        + written.layout.lanes
        + sum(r["code_bytes"] + r["side_bytes"] for r in rows.values())
    )
    assert abs(whole - len(payload)) < 0.002 * len(payload)
    codes = tensors["1"].codes
    counts = np.unique(codes, return_counts=True)[1] / codes.size
    assert rows["1"]["entropy"] == pytest.approx(-sum(c * math.log2(c) for c in counts))
    assert rows["1"]["largest_code"] == abs(codes).max() and rows["v"]["side_bytes"] == 0
    assert rows["1"]["bits_per_weight"] == pytest.approx(
        8 * (rows["1"]["code_bytes"] + rows["1"]["side_bytes"]) / codes.size
    )


def test_bound_and_distance_are_entropies(packed):
    payload = weights_section(packed)
    read = read_weights(payload)
    head_bytes = int.from_bytes(payload[1:4], "little")
    assert weights_bound(read)["bound_bytes"] < len(payload) - head_bytes
    row = tensor_rows(read)[0]
    codes = read_codes(payload)[row["name"]][1]
    shares = np.unique(codes, return_counts=True)[1] / codes.size
    entropy = -(shares * np.log2(shares)).sum()
    assert row["distance"] == pytest.approx(8 * row["code_bytes"] / codes.size / entropy - 1)


def test_step_rows_are_the_steps_of_the_decoder(packed):
    payload = weights_section(packed)
    for row in step_rows(read_weights(payload)):
        _, codes, bits, _, _, values = read_codes(payload)[row["name"]]
        integers = 2 * codes - bits * np.sign(codes)
        steps = 2 ** np.add.outer(row["row_octaves"], row["column_octaves"])
        np.testing.assert_allclose(values, integers * steps, rtol=1e-5)


def test_artifact_rows_have_the_quartiles_of_the_steps(packed):
    read = read_weights(weights_section(packed))
    steps = {row["name"]: row for row in step_rows(read)}
    rows = artifact_rows(str(packed))
    for row, tensor in zip(rows, tensor_rows(read), strict=True):
        assert {key: row[key] for key in tensor} == tensor
    assert {row["name"] for row in rows if row["row_octaves"]} == set(steps)
    for name, step in steps.items():
        row = next(row for row in rows if row["name"] == name)
        for key in ("row_octaves", "column_octaves"):
            values = sorted(step[key])
            assert row[key][0] == values[0] and row[key][4] == values[-1]
            assert row[key][1:4] == pytest.approx(statistics.quantiles(values, n=4, method="inclusive"))
