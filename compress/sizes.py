"""Where the bytes of an artifact go: by section, under the cap of a track, with no library loaded.

Not covered: where the bytes of WGTS go, tensor by tensor (compress/rates.py).
"""

from golf.container import OVERHEAD_BYTES
from golf.tracks import TRACKS

CAP_BYTES = {track.name: track.cap_bytes for track in TRACKS.values()}


def size_report(sections: dict[str, bytes], track: str) -> dict:
    """Bytes by section, cap and headroom; and the count by the public challenge's rule.

    That rule adds up code and compressed weights. CONF counts as code there (it is part of the script); the tokenizer
    and the container count for nothing. The part of a script that only trains counts there too, and is not in an
    artifact: the count is too low by that.
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
