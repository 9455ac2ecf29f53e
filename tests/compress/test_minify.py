"""The minifier: minified modules do the same, Triton and dataclasses keep what they read, names outsiders use stay."""

import ast
import dataclasses
import importlib
import inspect
import io
import random
import sys
import tokenize
import types

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.minify import blockers, minify
from golf import container
from golf.tracks import TRACKS
from tests.support import ROOT

pytestmark = pytest.mark.slow


def load(source, name="minified"):
    """A module made of the source, registered under its name (dataclasses look there)."""
    module = types.ModuleType(name)
    module.__package__ = name.rpartition(".")[0]
    sys.modules[name] = module
    exec(compile(source, name, "exec"), module.__dict__)
    return module


def outcome(call, module):
    try:
        return repr(call(module))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def numbers(seed):
    return [random.Random(seed).gauss(3, 2) for _ in range(30)]


TEXT = "  Der Zufall\tist nur das Maß\n\n  unserer Unwissenheit - so  sagt man. " * 3
STDLIB = {
    "textwrap": [
        lambda m: m.wrap(TEXT, 17, max_lines=4, placeholder=" ..."),
        lambda m: m.dedent(TEXT),
        lambda m: m.shorten(TEXT, width=30),
        lambda m: m.indent(TEXT, "> ", predicate=str.strip),
        lambda m: m.fill(TEXT, width=20, break_on_hyphens=False),
        lambda m: m.wrap("abcdefgh", width=0),
    ],
    "heapq": [
        lambda m: list(m.merge([1, 4, 9], [2, 3, 10], key=lambda x: -x, reverse=True)),
        lambda m: m.nlargest(4, numbers(0), key=abs),
        lambda m: m.nsmallest(n=3, iterable=numbers(1)),
        lambda m: (h := numbers(2), m.heapify(h), [m.heappop(h) for _ in range(9)]),
    ],
    "statistics": [
        lambda m: m.quantiles(numbers(3), n=5, method="inclusive"),
        lambda m: m.linear_regression(numbers(4), numbers(5)),
        lambda m: m.NormalDist(1, sigma=2).overlap(m.NormalDist(mu=0, sigma=1)),
        lambda m: m.stdev([]),
        lambda m: m.multimode("aabbc"),
        lambda m: m.NormalDist.from_samples(numbers(6)).inv_cdf(p=0.3),
        lambda m: m.median_grouped(data=[1, 2, 2, 3], interval=2),
    ],
    "json.decoder": [
        lambda m: m.JSONDecoder(object_pairs_hook=tuple).decode('{"a": [1, 2.5e3, "\\u00e9\\n", null, true]}'),
        lambda m: m.JSONDecoder(parse_float=str).raw_decode('[1.5, {"x": {}}] rest'),
        lambda m: m.JSONDecoder().decode('{"a" 1}'),
        lambda m: m.py_scanstring('a\\ud83d\\ude00b"c', 0),
        lambda m: m.JSONDecoder(strict=False).decode('["\t"]'),
    ],
    "fractions": [
        lambda m: m.Fraction("3.1415926").limit_denominator(max_denominator=1000),
        lambda m: m.Fraction(numerator=6, denominator=-4) ** -3,
        lambda m: hash(m.Fraction(1, 3)),
        lambda m: m.Fraction("x"),
    ],
    "argparse": [
        lambda m: parse(m, ["-n", "3", "--name=x", "a", "b"]),
        lambda m: parse(m, []),
        lambda m: parser(m).format_help(),
    ],
    "dataclasses": [lambda m: fields(m), lambda m: m.make_dataclass("A", ["x", ("y", int, 3)])(1)],
    "difflib": [
        lambda m: list(m.unified_diff("one\ntwo\nthree".split(), "one\n2\nthree\nfour".split(), lineterm="")),
        lambda m: m.get_close_matches("sede", ["seed", "steps", "sed"], n=2, cutoff=0.3),
        lambda m: list(m.ndiff("ab", "bc")),
    ],
    "configparser": [lambda m: ini(m)],
    "collections": [
        lambda m: m.Counter("abracadabra").most_common(n=2),
        lambda m: m.namedtuple("P", "x y", defaults=[3])(1),
        lambda m: m.ChainMap({"a": 1}, {"b": 2}).new_child(m={"c": 3}),
        lambda m: m.OrderedDict(a=1, b=2).popitem(last=False),
        lambda m: m.UserDict(self=1, other=2).data,
    ],
}


def parser(m):
    made = m.ArgumentParser(prog="p", description="what it does")
    made.add_argument("-n", type=int, default=1, help="a number")
    made.add_argument("--name", required=True)
    made.add_argument("rest", nargs="*")
    made.exit = lambda status=0, message=None: (_ for _ in ()).throw(ValueError(message))
    return made


def parse(m, arguments):
    return sorted(vars(parser(m).parse_args(arguments)).items())


def fields(m):
    @m.dataclass(frozen=True, order=True)
    class Point:
        x: int
        y: list = m.field(default_factory=list, repr=False)

    return (
        m.asdict(Point(3, y=[4])),
        repr(Point(1)),
        Point(1) < Point(2),
        [f.name for f in m.fields(Point)],
        m.replace(Point(1), x=2),
    )


def ini(m):
    config = m.ConfigParser(defaults={"base": "7"}, interpolation=m.ExtendedInterpolation())
    config.read_string("[a]\nx = ${base}1\n[b]\ny: ${a:x}\n z\n")
    return config.getint("a", "x"), config["b"]["y"], config.get("b", "none", fallback=3)


@pytest.mark.parametrize("name", STDLIB)
def test_minified_library_modules_do_the_same(name):
    original = importlib.import_module(name)
    source = inspect.getsource(original)
    short = minify(source)
    assert len(short) < 0.75 * len(source)
    minified = load(short, f"{name.rpartition('.')[0]}.minified_{name.rpartition('.')[2]}".lstrip("."))
    for index, call in enumerate(STDLIB[name]):
        expected, got = (outcome(call, module).replace("minified_", "") for module in (original, minified))
        assert got == expected, f"{name} call {index}"


CASES = '''
import dataclasses, functools
from typing import NamedTuple
counter = 0

def keyword(first_value, *more_values, last_value=3, **other_values):
    """Docstring."""
    total_value: int = first_value + sum(more_values) + last_value  # comment
    return total_value, sorted(other_values.items())

def positional(value, /, **rest):
    return value, rest

def closure():
    state_value = 0
    def increase(amount: int = 1) -> int:
        nonlocal state_value
        state_value += amount
        return state_value
    increase(); increase(amount=5)
    return state_value

def use_global():
    global counter
    counter += 1
    return counter

def comprehension(values):
    result_value = [inner_value * len(values) for inner_value in values if (last_seen := inner_value) > 1]
    return result_value, last_seen, {key: [key for key in range(key)] for key in values}

def scopes():
    shared_name = "function"
    class Inner:
        shared_name = "class"
        copied_name = shared_name
        def method(self): return shared_name
        generated = list(x for x in range(2))
    return Inner.shared_name, Inner.copied_name, Inner().method(), Inner.generated

def strings(name, width):
    inner = {"a": name, 'b"': width}
    first = f"{name!r:>{width}} {inner['a']}{width=} {{}} {f'{name}!'}" + f'{inner["a"]}'
    return first + rf"\\d{name}" + "\\n\\t'\\"" + """x
y"""

def reads_locals(first_name):
    second_name = first_name + 1
    return sorted(locals().items())

def handlers(value):
    try:
        return 1 / value
    except ZeroDivisionError as zero_error:
        text = str(zero_error)
    finally:
        pass
    try:
        zero_error
    except UnboundLocalError as unbound:
        return text, type(unbound).__name__

def matching(subject_value):
    match subject_value:
        case {"key": found_value, **rest_values}: return found_value, rest_values
        case [first_item, *other_items]: return first_item, other_items
        case int() | str() as scalar_value: return scalar_value
        case _: return None

def generator(limit):
    if False:
        yield
    received_value = yield limit
    yield from (received_value, limit)

def dead_branch():
    if False: counter = 1
    try: return counter
    except UnboundLocalError: return "local"

def declared(flag):
    late_value: int
    try:
        return late_value
    except UnboundLocalError:
        return "unbound"

@dataclasses.dataclass(frozen=True)
class Config:
    """Fields."""
    width: int = 3
    ratio: float = 0.5
    if counter == 0:
        name: str = "x"

class Pair(NamedTuple):
    left_side: int
    right_side: str = "r"

class Base:
    class_value = 7
    def __init__(self, initial_value): self.stored_value = self.__private = initial_value
    @property
    def twice(self): return 2 * self.__private
    @classmethod
    def build(cls, initial_value=4): return cls(initial_value=initial_value)
    @staticmethod
    def plain(argument_value): return argument_value + Base.class_value
    @functools.lru_cache
    def cached(self, key_value: int): return (self.stored_value, key_value)

class Derived(Base):
    def __init__(self, initial_value, extra_value=0):
        super().__init__(initial_value)
        self.extra_value = extra_value
    def read(self, name): return getattr(self, name), self.__class__.__name__

def run():
    made = generator(3)
    base = Derived.build()
    return [
        keyword(1, 2, last_value=4, other=5), keyword(first_value=1), positional(1, value=2), closure(), use_global(),
        use_global(), comprehension([1, 2, 3]), scopes(), strings("né\\"", 9), handlers(0), handlers(2),
        matching({"key": 1, "z": 2}), matching([1, 2, 3]), matching(5), matching(None), next(made), made.send(8),
        list(made), declared(1), dead_branch(), Config(width=9), Config().name, Pair(1)._asdict(), base.twice,
        base.cached(key_value=3), Base.plain(argument_value=1), base.read("extra_value"), reads_locals.__name__,
        (lambda named_value, other=2: named_value + other)(named_value=3)]
'''


@pytest.mark.parametrize("with_locals", [True, False])
def test_every_kind_of_scope(with_locals):
    source = CASES if with_locals else CASES.replace("sorted(locals().items())", "second_name")
    short = minify(source)
    expected, got = load(source), load(short)
    assert repr(expected.run()) == repr(got.run())
    assert expected.reads_locals(1) == got.reads_locals(1)
    assert ("state_value" in short) == with_locals and blockers(source) == ["locals"] * with_locals
    for text in ("Docstring", "comment", "->", "amount: int", "amount:int"):
        assert text not in short
    assert [(f.name, f.type) for f in dataclasses.fields(got.Config)] == [
        ("width", int),
        ("ratio", float),
        ("name", str),
    ]
    assert inspect.signature(got.keyword).parameters.keys() >= {"first_value", "last_value"}


KERNEL = '''
import triton, torch
import triton.language as tl
from torch.library import wrap_triton

@triton.autotune(configs=[], key=["n"])
@triton.jit
def scale_kernel(x_ptr, n, BLOCK_SIZE: tl.constexpr, FAST: "tl.constexpr" = True):
    """Doc of the kernel."""
    offsets = tl.arange(0, BLOCK_SIZE)  # a comment
    HALF: tl.constexpr = BLOCK_SIZE // 2
    for step in range(HALF):
        tl.store(x_ptr + offsets, len([1]) * tl.load(x_ptr + offsets, mask=offsets < n))

def launch(values: torch.Tensor, longer_name: int = 3) -> None:
    offsets, another_local = values.numel(), longer_name
    scale_kernel[(offsets,)](values, offsets, BLOCK_SIZE=another_local)
'''


def test_triton_kernels_keep_annotations_and_names():
    before, after = (
        next(n for n in ast.parse(s).body if getattr(n, "name", "") == "scale_kernel") for s in (KERNEL, minify(KERNEL))
    )
    assert ast.dump(before.args) == ast.dump(after.args)
    assert [ast.dump(d) for d in before.decorator_list] == [ast.dump(d) for d in after.decorator_list]
    body = before.body[1:] if ast.get_docstring(before) and not ast.get_docstring(after) else before.body
    assert [ast.dump(node) for node in body] == [ast.dump(node) for node in after.body]
    launch = minify(KERNEL).split("def launch(")[1]
    assert "Tensor" not in launch and "None" not in launch and "another_local" not in launch and "offsets" in launch
    assert "comment" not in minify(KERNEL)


def test_annotations_that_are_read_stay():
    source = "import typing\ndef f(value: int) -> str:\n    x: int = 3\n    return typing.get_type_hints(f)\n"
    assert load(minify(source)).f(1) == {"value": int, "return": str}
    source = "import torch.library as l\n@l.custom_op('a::b', mutates_args=())\ndef f(value: int) -> str: return 1\n"
    assert "value:int)->str" in minify(source)


def test_docstrings_that_are_read_stay():
    assert load(minify('"""Usage: x."""\ndef show():\n    "Local."\n    return __doc__\n')).show() == "Usage: x."
    assert "Local" not in minify('"""Usage: x."""\ndef show():\n    "Local."\n    return __doc__\n')
    assert load(minify('def show():\n    "Local."\n    return show.__doc__\n')).show() == "Local."
    assert minify('"""Nobody reads this."""\nx = 1\n') == "x=1"


def test_output_is_python_3_11():
    """Where f-strings are tokens (3.12 on), none may hold the quote that encloses it, a backslash or a line break."""
    source = """def f(table, name):
    return f'{table["it"]} {name!r:>{table["width"]}} {", ".join(table)}', f"{name + 'a'}{chr(10)}{table['x']:{'>'}5}"
"""
    short = minify(source)
    arguments = ({"it": 1, "width": 5, "x": 3}, "n")
    assert load(short).f(*arguments) == load(source).f(*arguments)
    start, end = (getattr(tokenize, name, None) for name in ("FSTRING_START", "FSTRING_END"))
    quotes = []
    for token in tokenize.generate_tokens(io.StringIO(short).readline):
        if quotes and token.type in (tokenize.STRING, start):
            assert token.string.lstrip("rbuRBUfF")[0] not in [quote[0] for quote in quotes] and "\\" not in token.string
        if start and token.type == start:
            quotes.append(token.string.lstrip("rfRF"))
        elif end and token.type == end:
            quotes.pop()


@pytest.mark.slow
def test_minifying_is_repeatable_and_pays():
    for name in ("compress/decode.py", "golf/container.py", "train_gpt.py"):
        if (ROOT / name).exists():
            source = (ROOT / name).read_text()
            short = minify(source)
            minify.cache_clear()
            assert short == minify(source)
            assert len(brotli.compress(short.encode())) < 0.8 * len(brotli.compress(source.encode()))


def test_the_script_and_the_decoder_cost_less_than_a_fourteenth_of_the_pocket_cap():
    script, decoder = (minify((ROOT / name).read_text()) for name in ("train_gpt.py", "compress/decode.py"))
    assert len(container.code_pack(script, decoder)) < TRACKS["pocket"].cap_bytes / 14


def test_the_training_script_still_builds_its_model():
    torch = pytest.importorskip("torch")
    path = ROOT / "train_gpt.py"
    if not path.exists():
        pytest.skip("no training script in this checkout")
    modules = [
        load(source, f"train_{index}") for index, source in enumerate((path.read_text(), minify(path.read_text())))
    ]
    logits = []
    for module in modules:
        torch.manual_seed(0)
        config = module.Config(**module.PRESETS["tiny"])
        model = module.build_model(config)
        tokens = torch.arange(40).reshape(2, 20) % config.vocab_size
        logits.append(model(tokens))
    assert torch.equal(*logits) and logits[0].abs().sum() > 0
    assert [f.name for f in dataclasses.fields(modules[0].Config)] == [
        f.name for f in dataclasses.fields(modules[1].Config)
    ]


@given(st.text(), st.text())
def test_any_string_literal_survives(first, second):
    template = "{name}" + second.replace("{", "{{").replace("}", "}}")
    source = f"def f(name):\n    return {first!r}, {first.encode('utf-8', 'replace')!r}, f{template!r}\n"
    assert load(minify(source)).f("x") == load(source).f("x")


def test_bad_source_is_a_syntax_error():
    with pytest.raises(SyntaxError):
        minify("def f(:\n")
