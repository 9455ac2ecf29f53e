"""Mutated JSON: every field of a value in turn becomes something that no tool expects there; and damaged bytes of any
file. A helper, not a test.

    for where, text in itertools.islice(mutations(json.loads(path.read_text()), random.Random(0)), 300):
        path.write_text(text)

The mutants are texts, since some cannot be written by json.dumps: NaN, integers of 5,000 digits, 100,000 brackets.
Not covered: mutations of one kind of file (tests/redteam/fuzz).
"""

import copy
import json
import random
import struct
from collections.abc import Callable, Iterator, Sequence

PLACE = "the place that is filled in as text"
DEEP = 100_000
ODD = (  # JSON texts
    "null",
    "true",
    "false",
    "0",
    "1",
    "-1",
    "2",
    "1.0",
    "0.5",
    "-0.0",
    "1e308",
    "-1e308",
    "1e-320",
    "2147483648",
    "18446744073709551616",
    "9" * 400,
    "9" * 5000,
    "-" + "9" * 5000,
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    '""',
    '" "',
    '"x"',
    '"0"',
    '"NaN"',
    "[]",
    "[1]",
    "[null]",
    '["x"]',
    "[[]]",
    "{}",
    '{"a": 1}',
    '{"": {}}',
    "[" * 20 + "]" * 20,
    "[" * 900 + "]" * 900,
    "[" * DEEP + "]" * DEEP,
    '{"a":' * DEEP + "1" + "}" * DEEP,
    '"' + "x" * 200_000 + '"',
    '"' + "x " * 600 + '"',
    '"a\\nb"',
    '"a\\u0000b"',
    '"\\ud800"',
    '"\\u202eabc"',
    '"\\u001b[31mred\\u001b]0;title\\u0007"',
    '"\\u009b31m"',
    '"[/x] [bold red]a[link=file:///etc/passwd]b"',
    '"[/]"',
    '"--output=stolen"',
    '"--output=/tmp/stolen"',
    '"-x"',
    '"../../stolen"',
    '"/etc/passwd"',
    '"~/.ssh"',
    '"."',
    '"$(touch stolen)"',
    '"; touch stolen"',
    '"`touch stolen`"',
    '"<!-- /leaderboard -->"',
    '"<script>alert(1)</script>"',
    '"| a | [b](javascript:c) ![d](https://e.invalid/f.png)"',
    '"{{ 7 * 7 }}"',
    '"%s %n {0}"',
    '"0001_baseline"',
    '"' + "0" * 40 + '"',
    '"' + "a" * 40 + '\\n"',
    '"' + "f" * 64 + '"',
)
ODD_KEYS = ("", "x", "../x", "--output=stolen", "\x1b[31m", "[/x]", "__class__", "seed", "k" * 10_000, "a\nb")


def places(value: object, path: tuple = ()) -> list[tuple]:
    """The paths of all fields in `value`, itself first; of a list only the first and the last item."""
    found = [path]
    if isinstance(value, dict):
        for key in value:
            found += places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in sorted({0, len(value) - 1} if value else ()):
            found += places(value[index], (*path, index))
    return found


def mutations(value: object, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Endless (what was done, JSON text) pairs: each field of `value` has its turn before any has a second one."""
    while True:
        paths = places(value)
        rng.shuffle(paths)
        for path in paths:
            yield mutant(value, path, rng)


def mutant(
    value: object,
    path: tuple,
    rng: random.Random,
    odd: Sequence[str] = ODD,
    write: Callable[[object], str] = json.dumps,
) -> tuple[str, str]:
    """One mutant of `value`, changed at `path`: another value, no such key, a key more, a key renamed, a list.

    odd, write: the texts of odd values, and what writes a value, if it is another language than JSON."""
    text = rng.choice(odd)
    if not path:
        return f"the whole: {text[:40]}", text
    changed = copy.deepcopy(value)
    parent = changed
    for step in path[:-1]:
        parent = parent[step]
    action = rng.choice(("replace",) * 4 + ("remove", "add", "rename", "wrap"))
    if action == "remove":
        del parent[path[-1]]
    elif action == "wrap":
        parent[path[-1]] = [parent[path[-1]]]
    elif action == "replace" or isinstance(parent, list):
        parent[path[-1]] = PLACE
    else:
        key = rng.choice(ODD_KEYS)
        parent[key] = PLACE if action == "add" else parent.pop(path[-1])
    written = write(changed).replace(json.dumps(PLACE), text)
    return f"{'.'.join(map(str, path))}: {action} {text[:40]}", written


def damaged(rng: random.Random, data: bytes) -> bytes:
    """`data` with a few bits flipped, bytes put in, taken out or written over, an end cut off or a part repeated."""
    edited = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(edited) + 1)
        kind = rng.randrange(6)
        if kind == 0 and edited:
            edited[at % len(edited)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            edited[at:at] = rng.randbytes(rng.choice((1, 2, 64)))
        elif kind == 2:
            del edited[at : at + rng.choice((1, 3, 100))]
        elif kind == 3:
            edited[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, len(edited))))
        elif kind == 4:
            del edited[at:]
        else:
            edited += edited[:at]
    return bytes(edited)
