"""Where the bytes of an artifact go: by section, under the cap of a track, and by tensor.

Not covered: artifacts whose decoder is not this repository's (their WGTS section counts as one lump).
"""

import numpy as np

from golf.container import OVERHEAD_BYTES

CAP_BYTES = {"pocket": 250_000, "16mb": 16_000_000, "open": 16_000_000}  # decimal; open admits either


def size_report(sections: dict[str, bytes], track: str) -> dict:
    """Bytes by section, cap and headroom; and the count by the public challenge's rule.

    That rule adds up code and compressed weights. CONF counts as code there (it is part of the script); the tokenizer
    and the container count for nothing.
    """
    lengths = {tag: len(payload) for tag, payload in sections.items()} | {"overhead": OVERHEAD_BYTES}
    code, weights = lengths["CODE"] + lengths["CONF"], lengths["WGTS"]
    return {
        "artifact_bytes": sum(lengths.values()),
        "track": track,
        "cap_bytes": CAP_BYTES[track],
        "headroom_bytes": CAP_BYTES[track] - sum(lengths.values()),
        "sections": lengths,
        "public_rule": {"code_bytes": code, "weights_bytes": weights, "total_bytes": code + weights},
    }


def tensor_rows(payload: bytes) -> list[dict]:
    """For each tensor of a WGTS payload: name, shape, bits_per_weight in all, and where they go.

    code_bytes: what its codes cost under the file's frequency tables, signs included; side_bytes: its steps and
    magnitudes; entropy: of its codes without contexts, in bits per code, entropy_bytes the same for all of them, and
    distance what a matrix's code_bytes lie above (below: contexts help) as a part of it. The rows leave out the head of
    the payload, one byte a lane and so on. ValueError on a malformed payload.
    """
    # Here, since they import torch, which `size` can do without.
    from compress.decode import rans_table
    from compress.entropy import costs, symbols

    head, tables, matrices, vectors = _tensors(payload)
    cost = costs(rans_table(tables))
    rows = []
    for name, matrix in matrices:
        parts = symbols([(name, matrix)], [], matrix.codes.shape[1], head[3], head[2])
        rows.append(_row(name, matrix, cost, *parts))
    for name, vector in vectors:
        parts = symbols([], [(name, vector)], max(1, vector.codes.size), head[3], head[2])
        rows.append(_row(name, vector, cost, *parts))
    return rows


def weights_bound(payload: bytes) -> dict:
    """{"bytes", "bound_bytes", "distance"} of a WGTS payload.

    The bound is the empirical entropy of all symbols, each in its context, and the plain bits: what a static coder
    needs that gets its tables, names and lanes for nothing. distance: bytes over bound - 1.
    """
    from compress.decode import TOKENS, VECTORS
    from compress.entropy import symbols

    head, _, matrices, vectors = _tensors(payload)
    contexts, tokens, plain = symbols(matrices, vectors, head[0], head[3], head[2])
    pairs = [context * TOKENS + token for context, token in zip(contexts, tokens, strict=True)]
    counts = np.bincount(np.concatenate([np.zeros(0, np.int64), *pairs]), minlength=(VECTORS + 1) * TOKENS)
    counts = counts.reshape(VECTORS + 1, TOKENS)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    bits = -(counts * np.log2(np.where(shares > 0, shares, 1))).sum() + sum(part.size for part in plain)
    bound = float(bits / 8)
    return {"bytes": len(payload), "bound_bytes": bound, "distance": len(payload) / bound - 1 if bound else None}


def step_rows(payload: bytes) -> list[dict]:
    """{"name", "row_octaves", "column_octaves"} of every matrix: log2 of the steps of rows, and factors of columns."""
    head, _, matrices, _ = _tensors(payload)
    return [
        {
            "name": name,
            "row_octaves": ((matrix.base + matrix.rows) / 4 + np.log2(head[4][0])).tolist(),
            "column_octaves": (matrix.columns / 4).tolist(),
        }
        for name, matrix in matrices
    ]


def _tensors(payload: bytes):
    """(head, frequency tables, [(name, Matrix)], [(name, Vector)]) of a payload, in its order."""
    from compress.decode import read_codes
    from compress.entropy import Matrix, Vector, read_head

    tensors = read_codes(payload)
    head, tables = read_head(payload)
    matrices, vectors = [], []
    for name, base, _, *shape in head[5]:
        _, codes, _, steps, columns, _ = tensors[name]
        matrices.append((name, Matrix(tuple(shape), codes, base, steps - base, columns)))
    for name, exponent, centre, *shape in head[6]:
        codes = np.ldexp(tensors[name][-1].astype(np.float64), -exponent).astype(np.int64) - centre
        vectors.append((name, Vector(tuple(shape), codes, exponent, centre)))
    return head, tables, matrices, vectors


def _row(name: str, tensor, cost: np.ndarray, contexts, tokens, plain) -> dict:
    from compress.decode import STEPS, VECTORS
    from compress.entropy import Matrix

    codes, bits = tensor.codes, {True: 0.0, False: 0.0}
    for context, token in zip(contexts, tokens, strict=True):
        of_codes = bool(context.size) and (context[0] < STEPS or context[0] == VECTORS)
        bits[of_codes] += float(cost[context, token].sum())
    bits[True] += sum(part.size for part in plain)
    entropy = entropy_bits(codes)
    return {
        "name": name,
        "shape": list(tensor.shape),
        "bits_per_weight": (bits[True] + bits[False]) / codes.size if codes.size else 0.0,
        "code_bytes": bits[True] / 8,
        "entropy_bytes": entropy * codes.size / 8,
        "entropy": entropy,
        "distance": bits[True] / (entropy * codes.size) - 1 if entropy and isinstance(tensor, Matrix) else None,
        "side_bytes": bits[False] / 8,
        "largest_code": int(np.abs(codes).max(initial=0)),
    }


def entropy_bits(codes: np.ndarray) -> float:
    """Order-0 entropy in bits per code: what a coder without contexts needs."""
    counts = np.unique(codes, return_counts=True)[1] / max(1, codes.size)
    return float(-(counts * np.log2(counts)).sum())
