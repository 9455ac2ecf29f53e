"""The minifier: minified modules do the same, Triton and dataclasses keep what they read, names outsiders use stay."""

import ast
import dataclasses
import hashlib
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

from compress.minify import blockers, minified_script, minify
from compress.reflection import read_in
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
    looks_at_itself = bool(read_in(ast.parse(source))[0])
    assert len(short) < (1 if looks_at_itself else 0.75) * len(source)
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
    def read(self): return getattr(self, "extra_value"), self.__class__.__name__

def run():
    made = generator(3)
    base = Derived.build()
    return [
        keyword(1, 2, last_value=4, other=5), keyword(first_value=1), positional(1, value=2), closure(), use_global(),
        use_global(), comprehension([1, 2, 3]), scopes(), strings("né\\"", 9), handlers(0), handlers(2),
        matching({"key": 1, "z": 2}), matching([1, 2, 3]), matching(5), matching(None), next(made), made.send(8),
        list(made), declared(1), dead_branch(), Config(width=9), Config().name, Pair(1)._asdict(), base.twice,
        base.cached(key_value=3), Base.plain(argument_value=1), base.read(), reads_locals.__name__,
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
    for name in ("compress/decode.py", "train_gpt.py"):
        if (ROOT / name).exists():
            source = (ROOT / name).read_text()
            short = minify(source)
            minify.cache_clear()
            assert short == minify(source)
            assert len(brotli.compress(short.encode())) < 0.8 * len(brotli.compress(source.encode()))


def test_the_script_and_the_decoder_cost_less_than_a_thirtieth_of_the_pocket_cap():
    script, decoder = (minify((ROOT / name).read_text()) for name in ("train_gpt.py", "compress/decode.py"))
    assert len(container.code_pack(script, decoder)) < TRACKS["pocket"].cap_bytes / 30


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
        config = module.Config(**modules[0].PRESETS["tiny"])
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


# What a script may print of itself. `f` is a function, `g` one with an annotation, `C` a class, `o` an object of it.
SELF = [
    "f.__doc__", "C.__doc__", "C.method.__doc__", "inspect.getdoc(C)", "getattr(f, '__doc__')", "vars(C)['__doc__']",
    "getattr(f, '__do' + 'c__')", "C.__dict__.get('__doc__')", "'{0.__doc__}'.format(f)", "attrgetter('__doc__')(f)",
    "object.__getattribute__(C, '__doc__')", "globals()['__doc__']", "globals()['f'].__doc__",
    "[*map(getattr, [f], D)]", "sys.modules[__name__].__doc__", "documented(C)", "Meta('M', (), {'x': 1}).seen",
    "Made.seen", "pydoc.plain(C)", "g.__annotations__", "get_type_hints(g)", "inspect.signature(g)",
    "__annotations__", "annotated", "C.__annotations__", "locals_of(1)", "alias_of(1)", "names_of(2)", "frame_of(3)",
    "code_of(4)", "evaluated(5)", "generated(6)", "sorted(inspect.getmembers(C.method.__code__, isinstance))[:0]",
    "inner_of().__name__", "shown(o)", "text_of(inner_of())", "C.plain(value=3)", "f.__name__", "matched(f)",
    "constant", "f(1)", "o.method(2)", "C.class_doc", "typed.effect",
]  # fmt: skip
WORDS = st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=3, max_size=9)
PROGRAM = """
'''Module {d[0]}.'''
import {imports}
from operator import attrgetter
from typing import get_type_hints
D = ['__doc__']
class Meta(type):
    def __new__(mcs, name, bases, space):
        made = super().__new__(mcs, name, bases, space)
        made.seen = sorted(space)
        return made
class C:
    '''Class {d[1]}.'''
    class_doc = __doc__
    field: int = 3
    def method(self, {n[0]}_argument: int = 1):
        '''Method {d[2]}.'''
        return {n[0]}_argument + 1
    def plain(value): return value
class Made(metaclass=Meta):
    '''Made {d[3]}.'''
o = C()
annotated: {t[0]} = 3
constant = {number!r}
def f({n[1]}_value, other_{n[2]}=2):
    '''Function {d[4]}.'''
    total_{n[3]}: {t[1]} = {n[1]}_value * other_{n[2]}
    return total_{n[3]}
def g(value: {t[0]}, *more_values: "{t[1]}") -> {t[1]}: return value
def typed(value: setattr(C, 'effect', {d[0]!r}) = None): pass
typed.effect = getattr(C, 'effect', None)
def documented(thing): return [name for name in dir(thing) if name == '__doc__' and getattr(thing, name)]
def locals_of({n[4]}_first):
    second_{n[5]} = {n[4]}_first
    return sorted(locals())
def alias_of(longer_name):
    read = locals
    return sorted(read())
def names_of(longer_name):
    another_name = 1
    return dir()
def frame_of(longer_name): return sorted(sys._getframe().f_locals)
def code_of(longer_name):
    another_name = longer_name
    return code_of.__code__.co_varnames
def evaluated(longer_name): return eval('longer_' + 'name')
def generated(longer_name):
    def values(inner_name):
        yield inner_name
    made = values(longer_name)
    return sorted(made.gi_frame.f_locals)
def inner_of():
    def inside_{n[6]}(): pass
    return inside_{n[6]}
def shown(thing):
    class Local_{n[7]}: pass
    return type(Local_{n[7]}()).__name__, str(Local_{n[7]})
def text_of(thing): return repr(thing).split(' at ')[0]
def matched(thing):
    match thing:
        case object(__doc__=text): return text
def run():
    found = []
    for call in {calls}:
        try: found.append(repr(call()))
        except Exception as error: found.append(type(error).__name__)
    return found
"""


@given(st.data())
def test_programs_that_look_at_themselves_do_the_same(data):
    """Made at random: which of SELF a program does, its names, texts and types. Run as they are, and minified."""
    calls = data.draw(st.lists(st.sampled_from(SELF), min_size=1, max_size=4))
    used = " ".join(calls)
    words = st.lists(WORDS, min_size=8, max_size=8)
    modules = ["sys", *(name for name in ("inspect", "pydoc") if name in used)]
    source = PROGRAM.format(
        d=data.draw(words),
        n=data.draw(words),
        t=data.draw(st.lists(st.sampled_from(["int", "str", "list[int]", "int | None"]), min_size=2, max_size=2)),
        number=data.draw(st.integers() | st.floats(allow_nan=False, allow_infinity=False)),
        imports=", ".join(modules),
        calls="[" + ", ".join(f"lambda: {call}" for call in calls) + "]",
    )
    # The parts that a program does not use must not keep what they would read
    tree = ast.parse(source)
    keep = names_mentioned(tree, "run")
    tree.body = [node for node in tree.body if getattr(node, "name", "run") in keep | {"run", "C", "typed"}]
    source = ast.unparse(tree)
    assert load(minify(source), "same").run() == load(source, "same").run(), source


def names_mentioned(tree, start):
    """Names of the module's functions and classes that a function's code mentions, at any remove."""
    defined = {node.name: node for node in tree.body if hasattr(node, "name")}
    found, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        if name in defined and name not in found:
            found.add(name)
            waiting += [node.id for node in ast.walk(defined[name]) if isinstance(node, ast.Name)]
    return found


@pytest.mark.parametrize("call", SELF)
def test_every_way_of_looking_at_oneself(call):
    source = "'doc of the module'\nimport inspect, pydoc, sys\ndef f(a):\n    'doc of f'\nclass C:\n    'doc of C'\n"
    source += f"D = ['__doc__']\nfrom operator import attrgetter\ndef run():\n    return {call}\n"
    own = source.replace("import inspect, pydoc, sys", "import sys") if "inspect" not in call else source
    assert outcome(lambda m: m.run(), load(minify(own), "own")) == outcome(lambda m: m.run(), load(own, "own"))


def test_scripts_that_python_runs_are_packed_or_named_by_line():
    ladder = "def f(n):\n if n == 0: return 0\n" + "".join(f" elif n == {i}: return {i}\n" for i in range(1, 400))
    assert load(minify(ladder)).f(399) == 399
    assert minify("\ufeffx = 1\n") == "x=1"
    with pytest.raises(ValueError, match="line 2: an integer of more than 4,300 decimal digits"):
        minified_script("x = 1\nD = 0x" + "f" * 6000 + "\n")
    with pytest.raises(ValueError, match="line 2: "):
        minified_script("x = 1\ny = (\n")


def test_what_the_packer_makes_of_the_scripts_in_records_is_known():
    """Byte by byte: a change of the packer that nobody meant shows here. (A record is held against the packer of its
    seed commit.)"""
    for name, digest in (
        ("0001_baseline", "267110df890d59cd"),
        ("0002_trellis_coded", "267110df890d59cd"),
        ("0003_stack_and_scorer", "2176947a6558a6ef"),
        ("0004_case_operators", "5f4ef2fbd0bc5073"),
    ):
        script = (ROOT / "records/pocket" / name / "train_gpt.py").read_text(encoding="utf-8")
        assert hashlib.sha256(minify(script).encode()).hexdigest()[:16] == digest, name


def test_what_annotated_adds_to_a_built_in_type_goes_and_the_fields_stay():
    """Unless the script reads it. Other types may stand for something else than a field, and stay as they are."""
    head = "from dataclasses import dataclass\nfrom typing import Annotated, ClassVar\n"
    body = (
        "@dataclass\nclass Config:\n width: Annotated[int, -1, 2**16] = 3\n rate: Annotated[float, 0.0, 1e3] = 0.5\n"
        " shared: ClassVar[Annotated[int, 1]] = 7\n"
    )
    short = minify(head + body)
    assert "-1" not in short and "Annotated[int,1]" in short
    modules = [load(source) for source in (head + body, short)]
    assert [vars(m.Config()) for m in modules] == [{"width": 3, "rate": 0.5}] * 2 and modules[1].Config.shared == 7
    reading = "from typing import get_type_hints\ndef build_model(config):\n return get_type_hints(Config)\n"
    reads = minify(head + body + reading)
    assert "Annotated[int,-1,2**16]" in reads


@pytest.mark.parametrize(
    "source, reason",
    [
        ("if x: pass\n" + "elif x: pass\n" * 20_000, "inside each other too deeply"),
        ("x = 1\n" * 200_000, "1,200,000 characters, and 1,000,000 are the most"),
    ],
)
def test_a_script_too_deep_or_too_long_is_one_line(source, reason):
    """Python's parser runs out of memory in the one, python-minifier takes a minute for the other."""
    with pytest.raises(ValueError, match=reason):
        minified_script(source)
