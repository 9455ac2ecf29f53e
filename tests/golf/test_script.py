"""golf/script.py against what importing gives, on the scripts that are committed here; and on hostile sources."""

import dataclasses
import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golf import script
from golf.files import Failure
from tests.support import ROOT, warm

SCRIPTS = [ROOT / "train_gpt.py", *sorted(ROOT.glob("records/*/*/train_gpt.py"))]
IMPORT = (
    "import dataclasses, json, sys; sys.path.insert(0, sys.argv[1]); import train_gpt; print(json.dumps({name: "
    "dataclasses.asdict(dataclasses.replace(train_gpt.Config(), **preset)) "
    "for name, preset in train_gpt.PRESETS.items()}))"
)
SOURCE = '''
from dataclasses import dataclass, field
import torch
from tests.support import ROOT
HEADS = 2
WIDTHS = [8 * HEADS, 1 << 10, 10 ** 3, 7 // 2, 7 % 4, -7 / 2]


@dataclass(frozen=True)
class Config:
    """Fields."""

    heads: int = HEADS
    rate: float = field(default=-1e-3)
    widths: tuple = (1, 2)
    name: str = "two " "parts"
    on: bool = True

    def size(self):
        return self.heads


SMALL = dict(heads=HEADS + 1)
PRESETS = {"plain": {}, "small": SMALL | {**SMALL, "rate": +2.0}, "other": dict(SMALL, widths=WIDTHS, on=None)}


def main():
    local = {}
    local.update(PRESETS["plain"])
    HEADS = 7
'''


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.parent.name)
def test_presets_are_those_of_an_import(path):
    """Our own scripts may run here; a stranger's may not."""
    done = warm.run([sys.executable, "-B", "-c", IMPORT, str(path.parent)], check=True)
    expected = json.loads(done.stdout)
    assert "tiny" in expected and len(expected) > 1
    for preset, settings_ in expected.items():
        found = script.read(path.read_bytes(), preset)
        assert found == settings_ and list(map(type, found.values())) == list(map(type, settings_.values()))


def executed(source: str, preset: str) -> dict:
    """The reference: what Python makes of a source that is ours."""
    import dataclasses

    names = {"__name__": "reference"}
    sys.modules["reference"] = sys  # dataclass looks its module up
    exec(source.replace("import torch", ""), names)
    config = dataclasses.replace(names["Config"](), **names["PRESETS"][preset])
    return json.loads(json.dumps(dataclasses.asdict(config)))


@pytest.mark.parametrize("preset", ["plain", "small", "other"])
def test_all_that_is_understood_means_what_python_means(preset):
    assert script.read(SOURCE.encode(), preset) == executed(SOURCE, preset)


literals = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**19), 10**19)
    | st.text(max_size=20)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3),
)


@given(st.dictionaries(st.from_regex("[a-z]{1,8}_", fullmatch=True), literals, min_size=1, max_size=6))
@settings(max_examples=25)  # each starts a process
def test_literals_come_back(values):
    fields = "".join(f"    {key}: object = None\n" for key in values)
    source = f"@dataclass\nclass Config:\n{fields}\nPRESETS = {{'p': {values!r}}}\n"
    assert script.read(source.encode("utf-8", "backslashreplace"), "p") == json.loads(json.dumps(values))


@pytest.mark.parametrize(
    "more, word",
    [
        ("PRESETS['small']['heads'] = 3\n", "PRESETS"),
        ("SMALL = 3\n", "SMALL"),
        ("PRESETS |= {}\n", "PRESETS"),
        ("for preset in PRESETS.values():\n    preset['heads'] = 1\n", "PRESETS"),
        ("Config.heads = 3\n", "Config"),
        ("def change():\n    global PRESETS\n", "PRESETS"),
        ("def change():\n    SMALL.update(heads=1)\n", "SMALL"),
        ("import os as PRESETS\n", "PRESETS"),
        ("HEADS = 7\n", "HEADS"),
        ("setattr(Config, 'heads', 1)\n", "Config"),
        ("if torch:\n    SMALL = 4\n", "SMALL"),
        ("from os import *\n", "import *"),
        ("x = [PRESETS := 3]\n", "PRESETS"),
        ("def dict(**values):\n    pass\n", "dict"),
        ("class Config:\n    pass\n", "Config"),
        ("register(PRESETS)\n", "PRESETS"),
    ],
)
def test_settings_that_change_after_they_were_bound_are_refused(more, word):
    with pytest.raises(Failure, match=f"^train_gpt.py: .*{word}") as caught:
        script.read((SOURCE + more).encode(), "small")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "before, after, word",
    [
        ("HEADS = 2", "HEADS = int('2')", "no literal"),
        ("heads=HEADS", "depth=HEADS", "no field of Config"),
        ("class Config:", "class Config(Base):", "no dataclass of this file"),
        ("class Config:", "class Config(A, B):", "one base"),
        ("def size", "def __init__", "methods"),
        ("@dataclass(frozen=True)\n", "", "@dataclass"),
        ('"small": SMALL', '"large": SMALL', "no dict for 'small'"),
        ("10 ** 3", "10 ** (9 ** 9)", "small exponents"),
        ("1 << 10", "1 << 10 ** 9", "small exponents"),
        ("8 * HEADS", "'x' * 10 ** 9", "not a number"),
        ("(1, 2)", "(1, print())", "no literal"),
        ("7 // 2", "7 // 0", "ZeroDivisionError"),
        ("-1e-3", "1e999", "ordinary size"),
        ("HEADS + 1", "9" * 4000, "size"),
    ],
)
def test_what_is_no_literal_is_named(before, after, word):
    source = SOURCE.replace(before, after)
    assert source != SOURCE
    with pytest.raises(Failure) as caught:
        script.read(source.encode(), "other" if before in SOURCE.split("WIDTHS = ")[1].split("\n")[0] else "small")
    assert word in str(caught.value) and "\n" not in str(caught.value)


BOMBS = {
    "brackets": b"(" * 100_000,
    "minus": b"-" * 500_000 + b"1",
    "not": b"x = " + b"not " * 200_000 + b"1",
    "sum": b"x = " + b"1+" * 300_000 + b"1",
    "digits": b"x = " + b"9" * 6000,
    "NUL": b"\0",
    "not UTF-8": b"\xff",
    "blocks": b"".join(b" " * i + b"if 1:\n" for i in range(1000)),
    "lambdas": b"lambda:" * 100_000 + b"1",
    "dots": b"x = " + b"a." * 300_000 + b"a",
    "calls": b"x = a" + b"()" * 400_000,
    "too long": b"#" * 1_000_001,
    "lists of lists": b"a0 = [0]\n"
    + b"".join(b"a%d = [%s]\n" % (i, b"a%d, " % (i - 1) * 30) for i in range(1, 30))
    + b"PRESETS = {'p': {'x': a29}}\nclass Config: pass\n",
    "escapes": b"PRESETS = {'\x1b[31m': print('\x1b]0;x\x07')}\n",
    "powers": b"PRESETS = 9**9**9**9\n",
    "nothing": b"",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_hostile_source_is_one_harmless_line(name):
    with pytest.raises(Failure) as caught:
        script.read(BOMBS[name], "p")
    assert str(caught.value).startswith("train_gpt.py: ") and str(caught.value).isprintable()


def test_nothing_runs_and_nothing_beside_the_script_is_imported(tmp_path, monkeypatch):
    for name in ("json.py", "ast.py", "sitecustomize.py", "usercustomize.py"):
        (tmp_path / name).write_text("open('ran', 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "json.py"))
    assert script.read(b"open('ran', 'w')\n" + SOURCE.encode(), "plain")["heads"] == 2
    assert not (tmp_path / "ran").exists()


INHERITED = """
from dataclasses import dataclass


@dataclass(frozen=True)
class ModelConfig:
    width: int = 96
    depth: int = 6


@dataclass(frozen=True)
class Config(ModelConfig):
    seed: int = 1
    depth: int = 4


PRESETS = {"small": dict(width=8)}
"""


def test_inherited_fields_are_those_that_an_import_gives(tmp_path):
    (tmp_path / "train_gpt.py").write_text(INHERITED)
    done = warm.run([sys.executable, "-c", IMPORT, str(tmp_path)], check=True)
    expected = json.loads(done.stdout)["small"]
    assert list(script.read(INHERITED.encode(), "small").items()) == list(expected.items())


@pytest.mark.parametrize(
    "before, after",
    [
        ("class ModelConfig:", "class ModelConfig(print()):"),
        ("@dataclass(frozen=True)\nclass ModelConfig:", "class ModelConfig:"),
        ("class ModelConfig:", "class ModelConfig:\n    def __init_subclass__(cls):\n        pass\n"),
    ],
)
def test_a_base_that_cannot_be_read_is_named(before, after):
    with pytest.raises(Failure, match=r"line \d+: (ModelConfig|print)"):
        script.read(INHERITED.replace(before, after).encode(), "small")


def test_bounds_are_those_that_an_import_gives(tmp_path, monkeypatch):
    source = """
import typing
from dataclasses import dataclass
from typing import Annotated
Share = Annotated[float, 0.0, 1.0]
Twice = Annotated[int, 0, 1]
Twice = Annotated[int, 0, 2]

@dataclass(frozen=True)
class Base:
    own: Annotated[int, -1, 2**10 - 1] = 1
    alias: Share = 0.5
    dotted: typing.Annotated[int, 1, 2] = 1
    freed: Share = 0.5
    bounded: float = 0.5
    note: Annotated[int, "a note"] = 1
    text: Annotated[str, "a", "b"] = "a"
    twice: Twice = 1

@dataclass(frozen=True)
class Config(Base):
    freed: float = 0.5
    bounded: Share = 0.5

PRESETS = {"p": {}}
"""
    (tmp_path / "bounded.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = __import__("bounded").Config
    kinds = {field.name: getattr(field.type, "__metadata__", ()) for field in dataclasses.fields(config)}
    numbers = {name: list(pair) for name, pair in kinds.items() if len(pair) == 2 and type(pair[0]) in (int, float)}
    assert script.bounds(source.encode(), "p") == {name: pair for name, pair in numbers.items() if name != "twice"}
    assert len(numbers) == 5
