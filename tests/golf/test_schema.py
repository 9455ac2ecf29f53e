"""The quick check of a schema against jsonschema's validator, on true files and on what is left of them when a value, a
key or a length is changed."""

import copy
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf import schema
from tests.support import ROOT

RECORD = ROOT / "records/pocket/0006_case_operators_under_par"
FILES = {
    "eval": sorted((RECORD / "eval").glob("*.json"))[0],
    "run": sorted((RECORD / "logs").glob("*.run.json"))[0],
    "record": RECORD / "record.json",
}
ODD = [
    None,
    True,
    False,
    0,
    1,
    -1,
    1.0,
    0.5,
    1e9,
    2**31,
    2**63,
    "",
    "x",
    "x\n",
    "a\x1b",
    "y" * 2000,
    [],
    [1],
    {},
    {"a": 1},
]


def small(name: str) -> dict:
    """A true file, with few documents, for which the validator takes no time."""
    value = json.loads(FILES[name].read_text())
    if name == "eval":
        value["per_document"] = value["per_document"][:3]
    return value


def places(value: object, path: tuple = ()) -> list[tuple]:
    """The paths to all values inside a value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inside for place in places(item, (*path, key)))]


PLACES = {name: places(small(name)) for name in FILES}


def judged(value: object, name: str) -> tuple[bool, bool]:
    """(by the quick check, by the validator)."""
    return schema._quick(name, "")(value), next(schema._validator(name).iter_errors(value), None) is None


@given(st.sampled_from(sorted(FILES)), st.data())
def test_what_the_quick_check_takes_the_validator_takes(name, data):
    value = small(name)
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(PLACES[name]))
        value = changed(value, path, data.draw(st.sampled_from([*ODD, "drop", "twice", "more"])))
    quick, true = judged(value, name)
    assert true or not quick


def changed(value: object, path: tuple, new: object) -> object:
    """`value` with `new` at the path; "drop": without it; "twice": a list twice as long; "more": a key more."""
    whole = [copy.deepcopy(value)]
    parent, key = whole, 0
    for step in path:
        try:
            parent, key = parent[key], step
            parent[key]
        except (IndexError, KeyError, TypeError):  # an earlier change took it away
            return value
    if not isinstance(parent, (dict, list)):  # an earlier change put a text there, whose characters have places too
        return value
    if new == "drop":
        del parent[key]
        return whole[0] if whole else None
    if new == "twice" and isinstance(parent[key], list):
        parent[key] = parent[key] * 300
    elif new == "more" and isinstance(parent[key], dict):
        parent[key]["a new key\n"] = 1
    else:
        parent[key] = copy.deepcopy(new)
    return whole[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eval", "run"])
def test_each_limit_of_the_schema_is_seen_by_both(name):
    """At every place a quarter of the odd values, each at every fourth place: the two agree, but where an enum has the
    value as another kind of number."""
    value, taken = small(name), 0
    for number, path in enumerate(PLACES[name]):
        for odd in ODD[number % 4 :: 4]:
            quick, true = judged(changed(value, path, odd), name)
            assert quick == true or (true and not quick and isinstance(odd, float)), (path, odd)
            taken += quick
    assert taken > len(PLACES[name]) / 4


def test_the_files_of_records_are_taken_quickly():
    """None of them needs the validator, which takes a fifth of a second for a score."""
    for folder in sorted((ROOT / "records/pocket").iterdir()):
        for path in [*folder.glob("eval/*.json"), *folder.glob("logs/*.run.json")]:
            assert schema._quick("eval" if path.parent.name == "eval" else "run", "")(json.loads(path.read_text()))


def patterns_in(schema):
    """Every regular expression of a schema, but for those that only add to another one."""
    for key, value in schema.items() if isinstance(schema, dict) else ():
        if key == "pattern" and isinstance(value, str) and "$ref" not in schema:
            yield value
        for part in value if isinstance(value, list) else [value]:
            yield from patterns_in(part)


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.schema.json")), ids=lambda path: path.name)
def test_no_text_of_a_schema_may_hold_what_utf8_has_no_form_for(path):
    """Half of a surrogate pair: what holds one can be read as JSON, and never be written."""
    for pattern in patterns_in(json.loads(path.read_text())):
        for text in ("\ud800", "a\udfffb"):
            assert not re.search(pattern.replace("$", r"\Z"), text), pattern
