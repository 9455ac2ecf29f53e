"""What of a script an artifact reaches: what is left out, and that the rest does what the whole did. Reference: the
script as it is.

Not covered: that weights and Scorer give the same logits (test_same.py).
"""

import ast
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.minify import minify
from compress.reach import leave_out_unreached
from tests.support import ROOT

HEAD = """
import argparse
import contextlib
import functools
import sys
from dataclasses import dataclass, field
TABLE = {}
"""
TAIL = """
@dataclass
class Config:
    width: int = 3
def gone():
    return argparse.ArgumentParser()
if __name__ == "__main__":
    print(gone())
"""


def run(source: str):
    """What build_model(Config()) of a module gives, as text."""
    module = types.ModuleType("script")
    sys.modules["script"] = module
    exec(compile(source, "script", "exec"), module.__dict__)
    try:
        return repr(module.build_model(module.Config()))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def names_of(source: str) -> set[str]:
    """The functions, classes and constants that a module defines, at any depth."""
    nodes = list(ast.walk(ast.parse(source)))
    defined = {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    return defined | {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


# What of a script stays, what is left out, and the script between HEAD and TAIL
CASES = (
    (
        "helper",
        "gone argparse",
        """
def helper():
    return 5
def build_model(c):
    return helper()
""",
    ),
    (
        "SIZE",
        "RATES",
        """
SIZE = 2**7
RATES = dict(a=1)
def build_model(c):
    return SIZE
""",
    ),
    (
        "A B",
        "C",
        """
A = 3
B = A + 1
C = B
def build_model(c):
    return B
""",
    ),
    (
        "register hidden",
        "gone",
        """
def register(f):
    TABLE[f.__name__] = f
    return f
@register
def hidden():
    return 7
def build_model(c):
    return [f() for f in TABLE.values()]
""",
    ),
    (
        "Base Hidden",
        "gone",
        """
class Base:
    def __init_subclass__(cls):
        TABLE['x'] = cls
class Hidden(Base):
    value = 4
def build_model(c):
    return TABLE['x'].value
""",
    ),
    (
        "Hidden",
        "gone",
        """
class Hidden:
    TABLE.update(x=8)
def build_model(c):
    return TABLE
""",
    ),
    (
        "default",
        "gone",
        """
def default(value=TABLE.setdefault('x', 9)):
    return value
def build_model(c):
    return TABLE
""",
    ),
    (
        "f",
        "gone",
        """
@functools.partial(TABLE.__setitem__, 'x')
def f():
    return 1
def build_model(c):
    return TABLE['x']()
""",
    ),
    (
        "hidden gone",
        "",
        """
def hidden():
    return 6
def build_model(c):
    return globals()['hid' + 'den']()
""",
    ),
    (
        "hidden",
        "",
        """
def hidden():
    return 6
def build_model(c):
    return getattr(sys.modules['script'], 'hidden')()
""",
    ),
    (
        "hidden NAMES",
        "gone",
        """
def hidden():
    return 6
NAMES = {'a': hidden}
def build_model(c):
    return NAMES['a']()
""",
    ),
    (
        "__getattr__ gone",
        "",
        """
def __getattr__(name):
    return 3
def build_model(c):
    import script
    return script.anything
""",
    ),
    (
        "FAST gone",
        "",
        """
try:
    import multiprocessing.no_such_module
    FAST = True
except ImportError:
    FAST = False
def build_model(c):
    return FAST
""",
    ),
    (
        "READ",
        "gone",
        """
try:
    READ = no_such_name
except NameError:
    TABLE['old'] = 1
def build_model(c):
    return TABLE
""",
    ),
    (
        "READ",
        "gone",
        """
with contextlib.suppress(NameError):
    READ = no_such_name
    TABLE['new'] = 1
def build_model(c):
    return TABLE
""",
    ),
    (
        "helper",
        "other",
        """
if sys.maxsize > 0:
    def helper():
        return 1
    def other():
        return 2
else:
    def helper():
        return 3
def build_model(c):
    return helper()
""",
    ),
    (
        "",
        "other",
        """
if sys.maxsize > 0:
    def other():
        return 2
def build_model(c):
    return 1
""",
    ),
    (
        "count",
        "gone",
        """
count = 0
def build_model(c):
    global count
    count += 1
    return count
""",
    ),
    (
        "Kind Part",
        "gone",
        """
Kind = int
@dataclass
class Part:
    size: Kind = 2
def build_model(c):
    return Part()
""",
    ),
    (
        "SIZE Layer",
        "gone",
        """
SIZE = 4
class Layer:
    def __init__(self, size=SIZE):
        self.size = size
def build_model(c):
    return Layer().size
""",
    ),
    (
        "Error",
        "gone",
        """
class Error(Exception):
    pass
def build_model(c):
    try:
        raise ValueError
    except (Error, ValueError):
        return 1
""",
    ),
    (
        "first second",
        "gone",
        """
class Layer:
    def first(self):
        return self.second()
    def second(self):
        return 3
def build_model(c):
    return Layer().first()
""",
    ),
    (
        "Point",
        "gone",
        """
class Point:
    def __init__(self, x):
        self.x = x
def build_model(c):
    match c:
        case Config():
            return Point(1).x
""",
    ),
    (
        "",
        "first second",
        """
def first():
    return second()
def second():
    return first
def build_model(c):
    return 1
""",
    ),
    (
        "USED",
        "gone",
        """
dict = lambda **k: TABLE.update(k)
USED = dict(x=1)
def build_model(c):
    return TABLE
""",
    ),
)


@pytest.mark.parametrize("kept, left_out, body", CASES, ids=[" ".join(case[:2]) for case in CASES])
def test_what_is_reached_stays_and_does_the_same(kept, left_out, body):
    source = HEAD + body + TAIL
    short = minify(source)
    assert run(short) == run(source) and "Error" not in run(source)
    defined = names_of(short) | {node.name for node in ast.walk(ast.parse(short)) if isinstance(node, ast.alias)}
    assert set(kept.split()) <= defined and not set(left_out.split()) & defined
    assert "__main__" not in short or not left_out


def test_a_module_without_build_model_stays_whole():
    source = "def f():\n return 1\nX=2\nif __name__=='__main__':print(f())"
    tree = ast.parse(source)
    leave_out_unreached(tree)
    assert ast.unparse(tree) == ast.unparse(ast.parse(source))


FUNCTIONS = 8


@given(
    calls=st.lists(st.tuples(st.integers(0, FUNCTIONS - 1), st.integers(0, FUNCTIONS - 1)), max_size=20),
    roots=st.sets(st.integers(0, FUNCTIONS - 1), max_size=3),
)
def test_the_functions_that_stay_are_the_closure_of_calls(calls, roots):
    """Against a closure by repeated multiplication."""
    lines = []
    for index in range(FUNCTIONS):
        called = "+".join(f"f{b}()" for a, b in calls if a == index)
        lines.append(f"def f{index}():\n return {index}+({called or 0})\n")
    lines.append("def build_model(c):\n return [" + ",".join(f"f{index}" for index in sorted(roots)) + "]\n")
    reached = set(roots)
    for _ in range(FUNCTIONS):
        reached |= {b for a, b in calls if a in reached}
    assert names_of(minify("".join(lines))) == {"build_model"} | {f"f{index}" for index in reached}


def test_the_training_of_our_own_script_is_left_out():
    """What the tests of the scorer run stays, by name; of the training, nothing."""
    short = names_of(minify((ROOT / "train_gpt.py").read_text(encoding="utf-8")))
    assert {"Config", "GPT", "Block", "Attention", "MLP", "build_model", "Scorer"} <= short
    assert not {"Run", "Loader", "Clock", "Log", "Muon", "SecondMoments", "main", "PRESETS"} & short
