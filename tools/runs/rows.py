"""What a row of the experiment log holds: for each kind of row its fields, their types and their bounds.

The log takes rows from files that anybody may have written (run.json, eval.json, train.log), and rows stay for ever. So
a row is checked before it is appended, and again when it is read: a reader may rely on every field that is named here.
A field may be missing or null unless its kind requires it. NaN and infinities count as null, as the log stores them.

Not covered: whether the values are true; the chain of hashes (tools/runs/store.py). Fields that no kind names pass if
they are small: a log of a newer kit can be read.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from golf.foreign import terminal

MAX_TEXT = 10_000  # characters of a text: a hypothesis, the last line of a log
MAX_NAME = 255  # characters of a name: a run, a preset, a split
MAX_ITEMS = 1000  # of an object or a list
MAX_CHARACTERS = 2**22  # of the whole row
MAX_DEPTH = 4  # of objects and lists in each other
LAST_SECOND = 253_402_300_799  # of the year 9999, the last one that Python's datetime knows


@dataclass(frozen=True)
class Content:
    """What a field holds: in words for a message, and as a test of a value that is not null."""

    words: str
    fits: Callable[[object], bool]


def is_whole(value: object) -> bool:
    """A whole number that SQLite can store."""
    return type(value) is int and -(2**63) <= value < 2**63


def is_number(value: object) -> bool:
    """A whole or a finite number."""
    return is_whole(value) or (type(value) is float and math.isfinite(value))


def is_text(value: object, longest: int = MAX_TEXT) -> bool:
    """Text that UTF-8 can encode: without halves of surrogate pairs."""
    return isinstance(value, str) and len(value) <= longest and not re.search("[\ud800-\udfff]", value)


def is_name(value: object) -> bool:
    """A text that is short enough for a name."""
    return is_text(value, MAX_NAME)


def is_folder(value: object) -> bool:
    """The name of a folder in runs/, which must not lead out of it."""
    return is_name(value) and value not in ("", ".", "..") and not re.search("[/\0]", value)


def is_scalar(value: object) -> bool:
    """Null, a truth value, a number (NaN counts as null) or a text."""
    return value is None or isinstance(value, (bool, float)) or is_whole(value) or is_text(value)


def is_numbers(value: object) -> bool:
    """An object whose values are numbers or null."""
    return (
        isinstance(value, dict)
        and len(value) <= MAX_ITEMS
        and all(map(is_name, value))
        and all(item is None or is_number(item) for item in value.values())
    )


def is_interval(value: object) -> bool:
    """Two numbers."""
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value))


def is_small(value: object, depth: int = MAX_DEPTH) -> bool:
    """Any JSON that is neither long nor deep."""
    if isinstance(value, dict):
        return (
            depth > 0
            and len(value) <= MAX_ITEMS
            and all(is_name(key) and is_small(item, depth - 1) for key, item in value.items())
        )
    if isinstance(value, list):
        return depth > 0 and len(value) <= MAX_ITEMS and all(is_small(item, depth - 1) for item in value)
    return is_scalar(value)


WHOLE = Content("a whole number of at most 64 bits", is_whole)
COUNT = Content("a whole number from 0, of at most 64 bits", lambda value: is_whole(value) and value >= 0)
NUMBER = Content("a finite number", is_number)
MOMENT = Content(
    "seconds since 1970, up to the year 9999", lambda value: is_number(value) and 0 <= value <= LAST_SECOND
)
FLAG = Content("true or false", lambda value: isinstance(value, bool))
TEXT = Content(f"text of at most {MAX_TEXT:,} characters", is_text)
NAME = Content(f"a name of at most {MAX_NAME} characters", is_name)
FOLDER = Content(f"the name of a folder in runs/, of at most {MAX_NAME} characters", is_folder)
HASH = Content(
    "a hash in hexadecimal digits", lambda value: is_name(value) and re.fullmatch("[0-9a-f]{1,64}", value) is not None
)
INTERVAL = Content("two finite numbers", is_interval)
NUMBERS = Content("an object of finite numbers", is_numbers)
SMALL = Content(f"short texts and 64-bit numbers, at most {MAX_DEPTH} objects and lists deep", is_small)
OBJECT = Content(f"an object of {SMALL.words}", lambda value: isinstance(value, dict) and is_small(value))

TRAINED = {
    "run": FOLDER,
    "file_sha256": HASH,
    "code": HASH,
    "parent_code": HASH,
    "lines_added": COUNT,
    "lines_removed": COUNT,
    "config": OBJECT,
    "track": NAME,
    "preset": NAME,
    "seed": WHOLE,
    "finished": MOMENT,
}
KINDS = {
    "run": TRAINED
    | {
        "world_size": COUNT,
        "environment": OBJECT,
        "clock": NUMBERS,
        "steps": COUNT,
        "tokens": COUNT,
        "params": COUNT,
        "train_loss": NUMBER,
        "dev_bpb": NUMBER,
        "stopped": NAME,
        "data": NAME,
        "seconds": NUMBER,
        "source_matches": FLAG,
        "variant": HASH,
    },
    "crash": TRAINED | {"last_line": TEXT},
    "pack": {"run": FOLDER, "file_sha256": HASH, "artifact": HASH, "bytes": COUNT},
    "score": {
        "run": FOLDER,
        "file_sha256": HASH,
        "bpb": NUMBER,
        "artifact": HASH,
        "split": NAME,
        "scope": NAME,
        "bpb_interval": INTERVAL,
        "docs": NAME,
        "clock": NUMBERS,
        "slices": NUMBERS,
    },
    "note": {
        "run": FOLDER,
        "hypothesis": TEXT,
        "verdict": NAME,
        "who": NAME,
        "sweep": NAME,
        "outcome": NAME,
        "error": TEXT,
        "stop": OBJECT,
        "file_sha256": HASH,
    },
    "asked": {"run": NAME, "track": NAME, "split": NAME, "artifact": HASH, "docs": NAME},
    "question": {
        "run": NAME,
        "track": NAME,
        "split": NAME,
        "artifact": HASH,
        "docs": NAME,
        "before": COUNT,
        "file_sha256": HASH,
        "released": NUMBER,
        "new_best": FLAG,
        "needed": NUMBER,
    },
}
REQUIRED = {
    "run": ("run", "file_sha256"),
    "crash": ("run", "file_sha256"),
    "pack": ("run", "file_sha256", "artifact", "bytes"),
    "score": ("run", "file_sha256", "bpb", "artifact", "split"),
    "note": ("run",),
    "asked": ("run", "track", "split", "artifact", "docs"),
    "question": ("run", "track", "split", "artifact", "docs", "before", "released"),
}


def fault(row: object) -> str | None:
    """What is wrong with a row, as one line that can be shown: the field, what it should hold, the value; or None."""
    if not isinstance(row, dict):
        return f"it is no object: {terminal(row, 60)}"
    kind = row.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        return f"kind should be one of {', '.join(KINDS)}, not {terminal(kind, 60)}"
    fields = KINDS[kind]
    for key, value in row.items():
        if not is_name(key):
            return f"the name of a field is too long or no text: {terminal(key, 60)}"
        missing = value is None or isinstance(value, float) and not math.isfinite(value)
        content = fields.get(key, SMALL)
        if not missing and not content.fits(value):
            return f"{terminal(key, 60)} should be {content.words}, not {terminal(value, 60)}"
        if missing and key in REQUIRED[kind]:
            return f"{key} should be {content.words}, not {terminal(value, 60)}"
    for key in REQUIRED[kind]:
        if key not in row:
            return f"{key} is missing"
    if len(json.dumps(row, ensure_ascii=False)) > MAX_CHARACTERS:
        return f"it has more than {MAX_CHARACTERS:,} characters"
    return None
