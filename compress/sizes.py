"""Where the bytes of an artifact go: by section, under the cap of a track, and by tensor.

Not covered: artifacts whose decoder is not this repository's (their WGTS section counts as one lump).
"""

import math

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
    """For each tensor of a WGTS payload: name, shape, bits_per_weight in all, and what its codes cost.

    code_bytes: of the tensor's brotli stream; the tensors of a group share one, dealt out by their order-0 entropies.
    entropy: order 0, bits per code; entropy_bytes: the same for all codes; side_bytes: row scales, or the values of a
    tensor without codes, before brotli. Keys that need codes are None without. ValueError on a malformed payload.
    """
    from compress.decode import read_codes  # here, since they import torch, which `size` can do without
    from compress.encode import CODES, group_of, stream_lengths

    tensors = read_codes(payload)
    streams = stream_lengths(payload)
    entropies, groups = {}, {}
    for name, (_, codes, _) in tensors.items():
        if codes is not None:
            entropies[name] = entropy_bits(codes)
            groups.setdefault(group_of(name), []).append(name)
    code_bytes = {}
    for stream, names in enumerate(groups.values(), start=CODES):
        ideal = {name: entropies[name] * tensors[name][1].size for name in names}
        whole = sum(ideal.values()) or 1.0
        code_bytes |= {name: streams[stream] * ideal[name] / whole for name in names}
    rows = []
    for name, (shape, codes, values) in tensors.items():
        coded, weights = codes is not None, math.prod(shape)
        side = values.size * (2 if coded or _is_half(values) else 4)
        total = 8 * (code_bytes.get(name, 0) + side)
        rows.append(
            {
                "name": name,
                "shape": list(shape),
                "bits_per_weight": total / weights if weights else 0.0,
                "code_bytes": code_bytes.get(name),
                "entropy_bytes": entropies[name] * codes.size / 8 if coded else None,
                "entropy": entropies.get(name),
                "side_bytes": side,
                "largest_code": int(np.abs(codes.astype(np.int16)).max(initial=0)) if coded else None,
            }
        )
    return rows


def entropy_bits(codes: np.ndarray) -> float:
    """Order-0 entropy in bits per code: what a coder without contexts needs."""
    shares = np.bincount(codes.reshape(-1).view(np.uint8)) / max(1, codes.size)
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


def _is_half(values: np.ndarray) -> bool:
    return np.array_equal(values.astype(np.float16).astype(np.float32), values)
