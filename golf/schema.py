"""Holds what a record's JSON files contain against docs/{record,run,eval}.schema.json, before any field is used.

The schemas are JSON Schema 2020-12, read strictly: an integer is no true, false or 1.0, and the end of a pattern is the
end of the text. One line per fault, harmless for a terminal.

Not covered: whether the values are true, or agree with each other.
"""

import functools
import itertools
import operator
import re
from collections.abc import Callable, Sized
from pathlib import Path

from golf.files import MAX_SETTINGS_BYTES, MAX_TEXT_BYTES, Failure, dotted, read_json
from golf.foreign import terminal

ROOT = Path(__file__).resolve().parent.parent
SHOWN = 20  # faults that are listed; a file may have millions
Check = Callable[[object], bool]


def _pattern(validator, pattern: str, instance: object, schema: dict):
    """The keyword "pattern". In the dialect that JSON Schema means, $ is the end of the text; in Python's it also
    stands before a last newline."""
    from jsonschema import ValidationError

    if isinstance(instance, str) and not re.search(pattern.replace("$", r"\Z"), instance):
        yield ValidationError(f"{terminal(instance, 80)} does not match {pattern}")


@functools.cache
def _schema(name: str, key: str) -> dict:
    """docs/<name>.schema.json, or what it asks of its `key`."""
    whole = read_json(ROOT / "docs" / f"{name}.schema.json")
    return whole["properties"][key] | {"$defs": whole["$defs"]} if key else whole


@functools.cache
def _validator(name: str, key: str = ""):
    import jsonschema

    base = jsonschema.Draft202012Validator
    types = base.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    strict = jsonschema.validators.extend(base, {"pattern": _pattern}, type_checker=types)
    return strict(_schema(name, key))


@functools.cache
def _quick(name: str, key: str) -> Check:
    """Whether a value is surely what the schema asks. The rows of a score take the validator a fifth of a second, and a
    leaderboard has a thousand scores."""
    schema = _schema(name, key)
    return _compiled(schema, schema.get("$defs", {}))


def _compiled(schema: dict | bool, definitions: dict) -> Check:
    """A function that is true of values that the schema takes, and false of all others, and of some that it takes in a
    way of which only the validator is to judge. A keyword that is not known here takes nothing."""
    if isinstance(schema, bool):  # any value, or none
        return lambda value: schema
    checks: list[Check] = []
    for keyword, argument in schema.items():
        if keyword in NOT_ABOUT_VALUES:
            continue
        if keyword == "$ref":
            checks.append(_compiled(definitions[argument.removeprefix("#/$defs/")], definitions))
        elif keyword in PARTS:
            checks.append(PARTS[keyword](argument, schema, definitions))
        else:
            return lambda value: False
    return lambda value: all(check(value) for check in checks)


def _of_type(names: str | list[str], *_) -> Check:
    kinds = tuple(kind for name in ([names] if isinstance(names, str) else names) for kind in TYPES[name])
    return lambda value: type(value) in kinds


def _of_values(options: list, *_) -> Check:
    return lambda value: any(type(value) is type(option) and value == option for option in options)


def _of_numbers(holds: Callable[[float, float], bool]) -> Callable[..., Check]:
    return lambda edge, *_: lambda value: type(value) not in NUMBERS or holds(value, edge)


def _of_lengths(kind: type[Sized], holds: Callable[[int, int], bool]) -> Callable[..., Check]:
    return lambda edge, *_: lambda value: not isinstance(value, kind) or holds(len(value), edge)


def _of_pattern(pattern: str, *_) -> Check:
    search = re.compile(pattern.replace("$", r"\Z")).search
    return lambda value: type(value) is not str or search(value) is not None


def _of_required(keys: list[str], *_) -> Check:
    return lambda value: type(value) is not dict or all(key in value for key in keys)


def _of_dependent(needs: dict[str, list[str]], *_) -> Check:
    return lambda value: (
        type(value) is not dict
        or all(key not in value or all(need in value for need in keys) for key, keys in needs.items())
    )


def _of_properties(properties: dict, _, definitions: dict) -> Check:
    checks = {key: _compiled(schema, definitions) for key, schema in properties.items()}
    return lambda value: (
        type(value) is not dict or all(checks[key](item) for key, item in value.items() if key in checks)
    )


def _of_others(wanted: dict | bool, schema: dict, definitions: dict) -> Check:
    known = schema.get("properties", {})
    check = _compiled(wanted, definitions)
    return lambda value: type(value) is not dict or all(check(item) for key, item in value.items() if key not in known)


def _of_names(wanted: dict, _, definitions: dict) -> Check:
    check = _compiled(wanted, definitions)
    return lambda value: type(value) is not dict or all(map(check, value))


def _of_items(wanted: dict, _, definitions: dict) -> Check:
    check = _compiled(wanted, definitions)
    return lambda value: type(value) is not list or all(map(check, value))


NOT_ABOUT_VALUES = ("$schema", "$defs", "title", "description")
NUMBERS = (int, float)
TYPES = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "integer": (int,),
    "number": NUMBERS,
}
PARTS: dict[str, Callable[..., Check]] = {
    "type": _of_type,
    "enum": _of_values,
    "const": lambda value, *_: _of_values([value]),
    "minimum": _of_numbers(operator.ge),
    "maximum": _of_numbers(operator.le),
    "exclusiveMinimum": _of_numbers(operator.gt),
    "exclusiveMaximum": _of_numbers(operator.lt),
    "maxLength": _of_lengths(str, operator.le),
    "minItems": _of_lengths(list, operator.ge),
    "maxItems": _of_lengths(list, operator.le),
    "maxProperties": _of_lengths(dict, operator.le),
    "pattern": _of_pattern,
    "required": _of_required,
    "dependentRequired": _of_dependent,
    "properties": _of_properties,
    "additionalProperties": _of_others,
    "propertyNames": _of_names,
    "items": _of_items,
}


def faults(value: object, name: str, key: str = "") -> list[str]:
    """Where `value` departs from docs/<name>.schema.json, or from what this asks of its `key`; empty if nowhere. At
    most SHOWN lines."""
    if _quick(name, key)(value):
        return []
    errors = itertools.islice(_validator(name, key).iter_errors(value), SHOWN)
    lines = [(tuple(map(str, error.absolute_path)), error.message) for error in errors]
    return [dotted(where) + terminal(message, 200) for where, message in sorted(lines)]


def read(path: Path, name: str) -> dict:
    """The JSON object in `path`. Failure with one line per fault if it is not what docs/<name>.schema.json says."""
    value = read_json(path, limit=MAX_TEXT_BYTES if name == "eval" else MAX_SETTINGS_BYTES)
    if lines := faults(value, name):
        raise Failure("\n".join(f"{path}: {line}" for line in lines))
    return value
