"""Where the bytes of an artifact go: by section, under the cap of a track, and by tensor.

Not covered: artifacts whose decoder is not this repository's (their WGTS section counts as one lump).
"""

import numpy as np

from compress.container import OVERHEAD_BYTES

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
    magnitudes; entropy: of its codes without contexts, in bits per code, and entropy_bytes the same for all of them.
    The rows leave out the head of the payload, one byte a lane and so on. ValueError on a malformed payload.
    """
    # Here, since they import torch, which `size` can do without.
    from compress.decode import rans_table, read_codes
    from compress.entropy import Matrix, Vector, costs, read_head, symbols

    tensors = read_codes(payload)
    head, tables = read_head(payload)
    cost = costs(rans_table(tables))
    rows = []
    for name, base, _, *shape in head[5]:
        _, codes, _, steps, columns, _ = tensors[name]
        matrix = Matrix(tuple(shape), codes, base, steps - base, columns)
        parts = symbols([(name, matrix)], [], codes.shape[1], head[3], head[2])
        rows.append(_row(name, shape, codes, cost, *parts))
    for name, exponent, centre, *shape in head[6]:
        codes = np.ldexp(tensors[name][-1].astype(np.float64), -exponent).astype(np.int64) - centre
        vector = Vector(tuple(shape), codes, exponent, centre)
        rows.append(
            _row(name, shape, codes, cost, *symbols([], [(name, vector)], max(1, codes.size), head[3], head[2]))
        )
    return rows


def _row(name: str, shape: list[int], codes: np.ndarray, cost: np.ndarray, contexts, tokens, plain) -> dict:
    from compress.decode import STEPS, VECTORS

    bits = {True: 0.0, False: 0.0}
    for context, token in zip(contexts, tokens, strict=True):
        of_codes = bool(context.size) and (context[0] < STEPS or context[0] == VECTORS)
        bits[of_codes] += float(cost[context, token].sum())
    bits[True] += sum(part.size for part in plain)
    entropy = entropy_bits(codes)
    return {
        "name": name,
        "shape": list(shape),
        "bits_per_weight": (bits[True] + bits[False]) / codes.size if codes.size else 0.0,
        "code_bytes": bits[True] / 8,
        "entropy_bytes": entropy * codes.size / 8,
        "entropy": entropy,
        "side_bytes": bits[False] / 8,
        "largest_code": int(np.abs(codes).max(initial=0)),
    }


def entropy_bits(codes: np.ndarray) -> float:
    """Order-0 entropy in bits per code: what a coder without contexts needs."""
    counts = np.unique(codes, return_counts=True)[1] / max(1, codes.size)
    return float(-(counts * np.log2(counts)).sum())
