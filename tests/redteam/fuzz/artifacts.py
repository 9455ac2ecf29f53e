"""Mutated artifacts: sections, their compressed content, table, checksum, expansion; weights that no encoder writes.

Not covered: what a mutated artifact's code does, which is the box's matter.
"""

import hashlib

import brotli

from golf import container
from tests.support.mutations import damaged
from tests.support.odd_artifacts import odd_payload


def content(rng, sections, tag):
    """A payload whose compression is right and whose content is not."""
    inside = container.decompress(sections[tag], container.SOURCE_LIMIT_BYTES)
    choice = rng.randrange(8)
    if choice == 0:  # a small stream that expands hugely
        inside = bytes([rng.choice((0, 10, 32, 65))]) * rng.choice((1 << 20, 5 << 20, 64 << 20))
    elif choice == 1:
        inside = rng.choice(
            (
                b"[" * 100_000,
                b'{"config":' * 20_000,
                b'{"config": {"a": 1' + b"0" * 5000 + b"}}",
                b'{"config": {"a": NaN}}',
                b'{"config": {"a": 1e999}}',
                b'{"config": []}',
                b"null",
                b"",
                b'{"config": {}, "more": 1}',
                b'{"config": {"a": 1, "a": 2}}',
                b'{"config":{"\\ud800":1}}',
            )
        )
    elif choice == 2:
        lines = inside.split(b"\n")
        rng.shuffle(lines)
        inside = b"\n".join(lines)
    elif choice == 3:
        inside = b"\n".join([*inside.split(b"\n"), *(b"x%d" % i for i in range(rng.choice((1, 300, 70_000))))])
    elif choice == 4:
        inside = inside.replace(b"\0", rng.choice((b"", b"\0\0")))
    else:
        inside = damaged(rng, inside)
    if len(inside) > 5 << 20 or rng.randrange(2):  # PPMd takes seconds for the longest
        return brotli.compress(inside, quality=1)
    return container.compress(inside)


def mutate(rng, sections):
    """The bytes of one mutated artifact."""
    sections = dict(sections)
    choice = rng.randrange(9)
    if choice < 4:
        tag = rng.choice(("CODE", "CONF", "TOKN"))
        sections[tag] = content(rng, sections, tag)
    elif choice == 4:
        tag = rng.choice(container.TAGS)
        sections[tag] = damaged(rng, sections[tag])
    elif choice == 5:
        one, other = rng.sample(container.TAGS, 2)
        sections[one], sections[other] = sections[other], sections[one]
    elif choice == 8:
        sections["WGTS"] = odd_payload(rng, sections["WGTS"])
    data = container.to_bytes(sections)
    if choice == 6:  # the header, with a checksum that is right again
        body = damaged(rng, data[: container.HEADER.size]) + data[container.HEADER.size : -container.CHECKSUM_BYTES]
        data = body + hashlib.sha256(body).digest()[: container.CHECKSUM_BYTES]
    elif choice == 7:
        data = damaged(rng, data)
    return data
