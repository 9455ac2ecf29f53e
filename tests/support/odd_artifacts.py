"""Artifacts with a right checksum whose weights are not what an encoder writes.

Not covered: damage of the other sections (tests/redteam/fuzz/artifacts.py).
"""

import json
import random

import brotli

from golf import container
from tests.support.mutations import damaged

NUMBERS = (
    0,
    1,
    -1,
    2,
    7,
    63,
    255,
    65_536,
    1 << 22,
    1 << 25,
    1 << 27,
    1 << 28,
    -(1 << 28),
    1 << 40,
    10**400,
    1e300,
    0.5,
)
OTHERS = (None, True, "x", "\x1b[2J", [], [1], {}, [[]])


def odd_artifact(rng: random.Random, sections: dict[str, bytes]) -> bytes:
    """An artifact of these sections with a few random edits inside WGTS."""
    return container.to_bytes(sections | {"WGTS": odd_payload(rng, sections["WGTS"])})


def odd_payload(rng: random.Random, payload: bytes) -> bytes:
    """A WGTS payload with edits in its head, in its tables, in its stream, or anywhere."""
    start = 4 + int.from_bytes(payload[1:4], "little")
    text, _, tables = brotli.decompress(payload[4:start]).partition(b"\0")
    stream = payload[start:]
    part = rng.choice(("head", "head", "tables", "stream", "anywhere"))
    if part == "anywhere":
        return damaged(rng, payload)
    if part == "stream":
        stream = damaged(rng, stream)
    if part == "tables":
        tables = damaged(rng, tables)
    if part == "head":
        head = json.loads(text)
        for _ in range(rng.choice((1, 1, 2))):
            edit(rng, head)
        text = json.dumps(head).encode()
    packed = brotli.compress(text + b"\0" + tables, quality=5)
    return payload[:1] + len(packed).to_bytes(3, "little") + packed + stream


def edit(rng: random.Random, head: list) -> None:
    """Changes one value somewhere in a JSON list."""
    place = head
    while place and rng.random() < 0.8:
        deeper = [item for item in place if isinstance(item, list)]
        if not deeper:
            break
        place = rng.choice(deeper)
    if not place:
        place.append(rng.choice(NUMBERS))
        return
    at = rng.randrange(len(place))
    kind = rng.randrange(6)
    if kind < 3:
        place[at] = rng.choice(NUMBERS)
    elif kind == 3:
        place[at] = rng.choice(OTHERS)
    elif kind == 4:
        del place[at]
    else:
        place.insert(at, place[at])
