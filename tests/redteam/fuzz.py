"""`python -m tests.redteam.fuzz [--count N]`: mutated artifacts through the scorer's reader.

Each mutation knows the format: sections, their compressed content, table, checksum, expansion. The reader must end with
a Submission or with one printable line, within SECONDS and MEMORY_BYTES. What a mutated artifact's code does is the
box's matter (tests/golf/box/test_box.py, the red team); no box is started here.
"""

import argparse
import collections
import hashlib
import json
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time

import brotli

from golf import container, tokenizer_section
from golf.files import Failure
from scoring.score import read_artifact
from tests.redteam.cases import BASE
from tests.redteam.world import make_texts
from tests.support.scoring_world import DECODE, train_tokenizer

SECONDS = 20  # of one artifact, on a machine that does other things too
MEMORY_BYTES = 2 << 30


def small_artifact():
    """{tag: payload} of an artifact of the red team's kind."""
    return {
        "CODE": container.code_pack(BASE, DECODE),
        "CONF": container.config_pack({"seq_len": 16, "name": "é"}),
        "TOKN": tokenizer_section.serialise(train_tokenizer(make_texts(3))),
        "WGTS": bytes(range(256)) * 4,
    }


def damage(rng, data):
    """`data` with a few edits of the usual kinds."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at:at] = rng.randbytes(rng.choice((1, 2, 64)))
        elif kind == 2:
            del data[at : at + rng.choice((1, 3, 100))]
        elif kind == 3:
            data[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, len(data))))
        elif kind == 4:
            data = data[:at]
        else:
            data += data[:at]
    return bytes(data)


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
        inside = damage(rng, inside)
    if len(inside) > 5 << 20 or rng.randrange(2):  # PPMd takes seconds for the longest
        return brotli.compress(inside, quality=1)
    return container.compress(inside)


def mutate(rng, sections):
    """The bytes of one mutated artifact."""
    sections = dict(sections)
    choice = rng.randrange(8)
    if choice < 4:
        tag = rng.choice(("CODE", "CONF", "TOKN"))
        sections[tag] = content(rng, sections, tag)
    elif choice == 4:
        tag = rng.choice(container.TAGS)
        sections[tag] = damage(rng, sections[tag])
    elif choice == 5:
        one, other = rng.sample(container.TAGS, 2)
        sections[one], sections[other] = sections[other], sections[one]
    data = container.to_bytes(sections)
    if choice == 6:  # the header, with a checksum that is right again
        body = damage(rng, data[: container.HEADER.size]) + data[container.HEADER.size : -container.CHECKSUM_BYTES]
        data = body + hashlib.sha256(body).digest()[: container.CHECKSUM_BYTES]
    elif choice == 7:
        data = damage(rng, data)
    return data


def fuzz(count, seed=0, folder=None, on_case=lambda: None):
    """{"cases", "refused", "accepted", "tracebacks": [...], "hangs", "slowest_seconds", "left_behind"} of `count`
    mutations."""
    rng, sections = random.Random(seed), small_artifact()
    found = collections.Counter()
    tracebacks, slowest = [], 0.0

    def too_long(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, too_long)
    try:
        with tempfile.TemporaryDirectory(prefix="golf-fuzz-", dir=folder) as home:
            path = os.path.join(home, "case.golf")
            for number in range(count):
                with open(path, "wb") as file:
                    file.write(mutate(rng, sections))
                begin = time.monotonic()
                signal.alarm(SECONDS)
                try:
                    submission, tokenizer, _ = read_artifact(path)
                    json.dumps(submission.config).encode()
                    assert 1 <= tokenizer.vocab_size <= 65536
                    found["accepted"] += 1
                except Failure as error:
                    found["refused"] += 1
                    if not str(error).isprintable() or len(str(error)) > 1000:
                        tracebacks.append(f"case {number}: message {str(error)[:100]!r}")
                except TimeoutError:
                    found["hangs"] += 1
                except Exception as error:  # noqa: BLE001  (whatever else it is, a user would see a traceback)
                    tracebacks.append(f"case {number}: {type(error).__name__}: {error}")
                signal.alarm(0)
                slowest = max(slowest, time.monotonic() - begin)
                on_case()
            left = sorted(set(os.listdir(home)) - {"case.golf"})
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return {
        "cases": count,
        "refused": found["refused"],
        "accepted": found["accepted"],
        "tracebacks": tracebacks[:10],
        "hangs": found["hangs"],
        "slowest_seconds": round(slowest, 2),
        "left_behind": left,
    }


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.redteam.fuzz", description="Mutated artifacts.")
    parser.add_argument("--count", type=int, default=10_000, help="mutations (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("fuzz", total=options.count)
        result = fuzz(options.count, options.seed, on_case=lambda: progress.advance(task))
    for line in result["tracebacks"]:
        print(line)
    print(
        f"{result['cases']:,} artifacts: {result['refused']:,} refused, {result['accepted']:,} accepted, "
        f"{len(result['tracebacks'])} tracebacks, {result['hangs']} hangs, slowest {result['slowest_seconds']} s"
    )
    if options.json:
        print(json.dumps(result))
    return 1 if result["tracebacks"] or result["hangs"] or result["left_behind"] else 0


if __name__ == "__main__":
    sys.exit(main())
