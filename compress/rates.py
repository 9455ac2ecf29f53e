"""Where the bytes of the weights go: bits of every tensor, their distance from its entropy, and where the steps lie.

Everything is counted from a model in its encoded form, which the packer has at hand and compress.entropy.read_weights
gives back from a file.

Not covered: artifacts whose decoder is not this repository's.
"""

from pathlib import Path

import numpy as np

from compress.codes import Matrix, Vector
from compress.decode import STEPS, VECTORS, rans_table
from compress.entropy import Encoded, Layout, Symbols, costs, counts_of, read_weights, symbols
from golf import container
from golf.files import read_bytes

QUARTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


def tensor_rows(encoded: Encoded) -> list[dict]:
    """For each tensor, in the order of the file: name, shape, bits_per_weight in all, and where they go.

    code_bytes: what its codes cost under the file's frequency tables, signs included; side_bytes: its steps and
    magnitudes; entropy: of its codes without contexts, in bits per code, entropy_bytes the same for all of them, and
    distance what a matrix's code_bytes lie above (below: contexts help) as a part of it. The rows leave out the head of
    the payload, one byte a lane and so on. Raises ValueError on a file of another encoder.
    """
    cost = costs(rans_table(encoded.tables))
    rows = []
    for name, matrix in encoded.layout.matrices.items():
        alone = Layout(matrix.codes.shape[1], {name: matrix}, {})
        rows.append(_row(name, matrix, cost, symbols(alone, encoded.model)))
    for name, vector in encoded.layout.vectors.items():
        alone = Layout(max(1, vector.codes.size), {}, {name: vector})
        rows.append(_row(name, vector, cost, symbols(alone, encoded.model)))
    return rows


def weights_bound(encoded: Encoded) -> dict:
    """{"bytes", "bound_bytes", "distance"} of a WGTS payload.

    The bound is the empirical entropy of all symbols, each in its context, and the plain bits: what a static coder
    needs that gets its tables, names and lanes for nothing. distance: bytes over bound - 1.
    """
    coded = symbols(encoded.layout, encoded.model)
    counts = counts_of(coded)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    bits = -(counts * np.log2(np.where(shares > 0, shares, 1))).sum() + sum(part.size for part in coded.plain)
    bound = float(bits / 8)
    size = len(encoded.payload)
    return {"bytes": size, "bound_bytes": bound, "distance": size / bound - 1 if bound else None}


def step_rows(encoded: Encoded) -> list[dict]:
    """{"name", "row_octaves", "column_octaves"} of every matrix: log2 of the steps of rows, and factors of columns."""
    dial = np.log2(float(encoded.model.scales[0]))
    rows = []
    for name, matrix in encoded.layout.matrices.items():
        row_octaves = (matrix.base + matrix.rows) / 4 + dial
        rows.append(
            {"name": name, "row_octaves": row_octaves.tolist(), "column_octaves": (matrix.columns / 4).tolist()}
        )
    return rows


def artifact_rows(file: str) -> list[dict]:
    """tensor_rows() of a .golf file; a matrix also has "row_octaves" and "column_octaves": of those of step_rows() the
    least, the three quartiles and the largest. For compress.bounded: the file may be a stranger's.

    Raises ValueError, Failure."""
    encoded = read_weights(container.read(read_bytes(Path(file)))["WGTS"])
    steps = {row["name"]: row for row in step_rows(encoded)}
    rows = tensor_rows(encoded)
    for row in rows:
        for key in ("row_octaves", "column_octaves"):
            octaves = steps.get(row["name"], {}).get(key)
            row[key] = np.quantile(octaves, QUARTILES).tolist() if octaves else None
    return rows


def _row(name: str, tensor: Matrix | Vector, cost: np.ndarray, coded: Symbols) -> dict:
    code_bits, side_bits = 0.0, 0.0
    for context, token in zip(coded.contexts, coded.tokens, strict=True):
        bits = float(cost[context, token].sum())
        if context.size and (context[0] < STEPS or context[0] == VECTORS):
            code_bits += bits
        else:
            side_bits += bits
    if not np.isfinite(code_bits + side_bits):
        raise ValueError(f"{name}: the frequency tables do not fit its codes; another encoder than this one wrote it")
    code_bits += sum(part.size for part in coded.plain)
    count = tensor.codes.size
    entropy = entropy_bits(tensor.codes)
    return {
        "name": name,
        "shape": list(tensor.shape),
        "bits_per_weight": (code_bits + side_bits) / count if count else 0.0,
        "code_bytes": code_bits / 8,
        "entropy_bytes": entropy * count / 8,
        "entropy": entropy,
        "distance": code_bits / (entropy * count) - 1 if entropy and isinstance(tensor, Matrix) else None,
        "side_bytes": side_bits / 8,
        "largest_code": int(np.abs(tensor.codes).max(initial=0)),
    }


def entropy_bits(codes: np.ndarray) -> float:
    """Order-0 entropy in bits per code: what a coder without contexts needs."""
    counts = np.unique(codes, return_counts=True)[1] / max(1, codes.size)
    return float(-(counts * np.log2(counts)).sum())
