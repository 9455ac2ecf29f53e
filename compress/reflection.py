"""What a script may read of itself at run time: docstrings, annotations, names. The minifier keeps what is read.

Judged is the code that an artifact can reach (compress/reach.py). A training script's command line is not reached, so
what it reads keeps nothing. In reachable code
- a name that reads one thing (`__doc__`, `get_type_hints`, `locals`) keeps that thing, wherever it stands: a name, an
  attribute, an import, a pattern, a string;
- what may read anything keeps everything: `globals`, `getattr` with a computed name, frames, a metaclass, and every
  module that is not known to leave such things alone, as `inspect` does not;
- inside functions, classes keep their names, and so do functions that are not only called: `repr` shows them.

Not covered: a script that reads its own source text, the wording or line numbers of error messages, or names that it
puts together and hands to str.format. `golf check-script` compares the logits of both, which finds those.
"""

import ast
import re
from collections.abc import Iterator

from compress.reach import FUNCTIONS, Function, Reached, last_name, methods, run_by_call

DOCSTRINGS, MODULE_DOCSTRING, ANNOTATIONS, NAMES = "docstrings", "module docstring", "annotations", "names"
EVERYTHING = frozenset({DOCSTRINGS, MODULE_DOCSTRING, ANNOTATIONS, NAMES})

# What is read by built-in functions: these are names, never attributes (`model.eval()` is torch's)
BUILT_IN = {
    "__doc__": {MODULE_DOCSTRING},
    "help": {DOCSTRINGS, MODULE_DOCSTRING},
    "locals": {NAMES},
    **dict.fromkeys("dir eval exec globals vars".split(), EVERYTHING),
}
READERS = {
    "__doc__": {DOCSTRINGS, MODULE_DOCSTRING},
    **dict.fromkeys(
        "__annotations__ get_type_hints custom_op infer_schema script singledispatch singledispatchmethod".split(),
        {ANNOTATIONS},
    ),
    **dict.fromkeys(
        "__builtins__ __closure__ __code__ __dict__ __getattribute__ __globals__ __subclasses__ _current_frames"
        " _getframe ag_frame cr_frame exc_info f_back f_globals f_locals FunctionType gi_frame modules py_object"
        " pythonapi setprofile settrace symbolic_trace tb_frame".split(),
        EVERYTHING,
    ),
}
BY_NAME = {"getattr": 1, "hasattr": 1, "attrgetter": 0, "__import__": 0, "import_module": 0}  # the name's place
METACLASSES = {"ABCMeta", "EnumMeta", "EnumType"}  # that read nothing of the class's own
# Modules that read nothing of what they are handed, but for the names above; of a package, all that is in it
LEAVE_ALONE = frozenset(
    "__future__ abc argparse array ast atexit base64 bisect brotli bz2 cmath codecs collections colorsys contextlib"
    " contextvars copy csv ctypes dataclasses datetime decimal difflib enum errno fcntl fractions functools gzip"
    " hashlib heapq hmac importlib io itertools json keyword locale logging lzma math mmap numbers numpy operator os"
    " pathlib platform pprint queue random re reprlib resource secrets sentencepiece shutil signal statistics"
    " string struct subprocess sys tempfile textwrap threading time torch triton types typing unicodedata uuid"
    " warnings weakref zipfile zlib zstandard".split()
)
WORD = re.compile(r"\b(?:__\w+__|f_locals|f_globals)\b")


def read_in(tree: ast.Module) -> tuple[set[str], set[str]]:
    """(what of EVERYTHING a module may read of itself, names inside functions that must stay)."""
    reached = Reached(tree, walk=_walk, annotations=False)
    harmless = {id(node.func) for node in reached.nodes if isinstance(node, ast.Call) and _is_harmless(node)}
    kept: set[str] = set()
    for node in reached.nodes:
        kept |= _reads(node) if id(node) not in harmless else set()
    for part in reached.imported:
        # Outside a function these give a module or a class with all that it has
        if any(isinstance(node, ast.Name) and node.id in ("locals", "__doc__") for node in _walk(part)):
            kept |= EVERYTHING if "locals" in ast.dump(part) else {DOCSTRINGS, MODULE_DOCSTRING}
    if any(isinstance(node, ast.ClassDef) and _has_metaclass(node) for node in ast.walk(tree)):
        kept |= EVERYTHING
    stay = {name for function in reached.functions for name in _inner_names(function)}
    return kept, stay | _keywords_of_first_arguments(tree)


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Like ast.walk, without docstrings and annotations: the ones decide nothing, the others are what is decided."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        for field, value in ast.iter_fields(node):
            if field in ("returns", "annotation") and not isinstance(node, ast.AnnAssign):
                continue
            values = value if isinstance(value, list) else [value]
            if field == "body" and isinstance(node, (*FUNCTIONS, ast.ClassDef)):
                values = run_by_call(node)
            waiting += [item for item in values if isinstance(item, ast.AST)]


def _is_harmless(call: ast.Call) -> bool:
    """Whether a call with a reader's name is none: `model.modules()`, or getattr and its like with a constant name that
    is looked at as such."""
    name = last_name(call.func)
    place = BY_NAME.get(name)
    if place is None:
        return name == "modules"
    return len(call.args) > place and isinstance(call.args[place], ast.Constant)


def _reads(node: ast.AST) -> set[str]:
    """What the node itself may read; its children are asked for themselves."""
    match node:
        case ast.Name(id=name):
            found = [BUILT_IN.get(name) or READERS.get(name)]
        case ast.Attribute(attr=name):
            found = [READERS.get(name)]
        case ast.Constant(value=str(text)):
            found = [READERS.get(word) for word in {text, *WORD.findall(text)}]
        case ast.MatchClass(kwd_attrs=names):
            found = [READERS.get(name) for name in names]
        case ast.Import(names=names):
            found = [_of_module(alias.name) for alias in names]
        case ast.ImportFrom(module=module, names=names):
            found = [_of_module(module or ""), *(BUILT_IN.get(one.name) or READERS.get(one.name) for one in names)]
        case ast.Call(func=function, args=[ast.Constant(value=str(module)), *_]) if "import" in last_name(function):
            found = [_of_module(module)]
        case _:
            return set()
    if isinstance(node, (ast.Name, ast.Attribute)) and name in BY_NAME:
        return set(EVERYTHING)
    return set().union(*filter(None, found))


def _of_module(name: str) -> frozenset[str]:
    """What a module that is imported may read; `_json` is the part of json that is written in C."""
    package = name.partition(".")[0]
    return frozenset() if {package, package.removeprefix("_")} & LEAVE_ALONE else EVERYTHING


def _has_metaclass(node: ast.ClassDef) -> bool:
    """Whether a class is one, or has one that may read what the class holds."""
    own = [word.value for word in node.keywords if word.arg == "metaclass"]
    return any(last_name(one) not in METACLASSES for one in own) or any(last_name(one) == "type" for one in node.bases)


def _inner_names(function: Function) -> set[str]:
    """Names inside a function that something may show: of classes, and of functions that are not only called."""
    nodes = list(ast.walk(function))
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    handed_on = {node.id for node in nodes if isinstance(node, ast.Name) and id(node) not in called}
    names = {node.name for node in nodes if isinstance(node, ast.ClassDef)}
    inner = [node for node in nodes if isinstance(node, FUNCTIONS) and node is not function]
    return names | {node.name for node in inner if node.name in handed_on or node.decorator_list}


def _keywords_of_first_arguments(tree: ast.Module) -> set[str]:
    """Names of first arguments in classes that some call passes by keyword: `C.f(value=1)`."""
    keywords = {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    first = set()
    for owner in ast.walk(tree):
        if isinstance(owner, ast.ClassDef):
            for function in methods(owner):
                first |= {argument.arg for argument in function.args.args[:1]}
    return first & keywords
