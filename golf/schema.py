"""Holds what a record's JSON files contain against docs/{record,run,eval}.schema.json, before any field is used.

The schemas are JSON Schema 2020-12, read strictly: an integer is no true, false or 1.0, and the end of a pattern is the
end of the text. One line per fault, harmless for a terminal.

Not covered: whether the values are true, or agree with each other.
"""

import functools
import itertools
import re
from pathlib import Path

from golf.files import MAX_SETTINGS_BYTES, MAX_TEXT_BYTES, Failure, dotted, read_json
from golf.foreign import terminal

ROOT = Path(__file__).resolve().parent.parent
SHOWN = 20  # faults that are listed; a file may have millions


def _pattern(validator, pattern: str, instance: object, schema: dict):
    """The keyword "pattern". In the dialect that JSON Schema means, $ is the end of the text; in Python's it also
    stands before a last newline."""
    from jsonschema import ValidationError

    if isinstance(instance, str) and not re.search(pattern.replace("$", r"\Z"), instance):
        yield ValidationError(f"{terminal(instance, 80)} does not match {pattern}")


@functools.cache
def _validator(name: str):
    import jsonschema

    base = jsonschema.Draft202012Validator
    types = base.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    strict = jsonschema.validators.extend(base, {"pattern": _pattern}, type_checker=types)
    return strict(read_json(ROOT / "docs" / f"{name}.schema.json"))


def faults(value: object, name: str) -> list[str]:
    """Where `value` departs from docs/<name>.schema.json; empty if nowhere. At most SHOWN lines."""
    errors = itertools.islice(_validator(name).iter_errors(value), SHOWN)
    lines = [(tuple(map(str, error.absolute_path)), error.message) for error in errors]
    return [dotted(where) + terminal(message, 200) for where, message in sorted(lines)]


def read(path: Path, name: str) -> dict:
    """The JSON object in `path`. Failure with one line per fault if it is not what docs/<name>.schema.json says."""
    value = read_json(path, limit=MAX_TEXT_BYTES if name == "eval" else MAX_SETTINGS_BYTES)
    if lines := faults(value, name):
        raise Failure("\n".join(f"{path}: {line}" for line in lines))
    return value
