"""Reads a training script's settings from its syntax tree: what its Config is under one of its PRESETS. Nothing runs.

    settings = read(source, "pocket")  # {field: value} for every field of Config
    bounds(source, "pocket")  # {field: (least, largest)} where the annotation is Annotated[type, least, largest]

Understood are literals, arithmetic of numbers, `dict(...)`, `|` and `**` of dicts, and names that the module binds to
such values. Parsing is done by a child process with limits on its memory and time, since a hostile source can end the
interpreter that parses it (https://docs.python.org/3/library/ast.html#ast.parse).

Not covered: a script that changes its settings behind its own back, through exec or globals(). Run it in the scorer's
box to know what it really does.
"""

import ast
import contextlib
import functools
import json
import math
import operator
import resource
import subprocess
import sys

MAX_BYTES = 1_000_000  # of a script; RULES.md's limit on lines and columns makes it 180,000
MAX_VALUES = 100_000  # that are computed or copied: an end for lists of lists of lists under a few names
MAX_DIGITS = 20  # of an integer, and the largest exponent and shift
SECONDS, MEMORY = 10, 2**30  # of the child
BORDER = "document_mask"  # in records without MODEL_FIELDS, fields of Config above it travel in the artifact
CHANGING = {
    "update",
    "setdefault",
    "pop",
    "popitem",
    "clear",
    "append",
    "extend",
    "insert",
    "remove",
    "sort",
    "reverse",
    "__setitem__",
    "__delitem__",
    "__ior__",
    "__iadd__",
}
HARMLESS = (ast.Assign, ast.AnnAssign, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
FROM_DATACLASSES = {"dataclass", "field"}
ARITHMETIC = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
}


class Unreadable(Exception):
    """A value that is no literal; one line that says where and what was found."""


def at(node: ast.AST, what: str) -> Unreadable:
    """An Unreadable that names the node's line."""
    return Unreadable(f"line {node.lineno}: {what}")


def scalar(node: ast.AST, value: object) -> object:
    """`value` if it is a number, text, truth value or None of ordinary size."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int) and abs(value) < 10**MAX_DIGITS or isinstance(value, float) and math.isfinite(value):
        return value
    raise at(node, "neither text nor a number of ordinary size")


def size(value: object) -> int:
    """How many values `value` consists of."""
    if isinstance(value, dict):
        return 1 + sum(map(size, value.values()))
    if isinstance(value, (list, tuple)):
        return 1 + sum(map(size, value))
    return 1


class Reader:
    """Evaluates a module's literals in the order of its statements."""

    def __init__(self, tree: ast.Module):
        self.values = {}  # name: the literal that it is bound to
        self.reasons = {}  # name: why what it is bound to is no literal
        self.classes = {}  # name: {field: default} of each dataclass that was read
        self.ranges = {}  # name: (least, largest) where it is bound to Annotated[type, least, largest]
        self.bounds = {}  # name: {field: (least, largest)} of each dataclass that was read
        self.left = MAX_VALUES
        self.changed = changed_names(tree)
        for statement in tree.body:
            self.statement(statement)

    def statement(self, node: ast.stmt) -> None:
        """Follows what one statement of the module binds."""
        if isinstance(node, ast.ClassDef):
            if node.name not in self.changed:
                self.dataclass(node)
        elif (name := plain_binding(node)) and name not in self.changed:
            if found := self.range_of(node.value):
                self.ranges[name] = found
            try:
                self.values[name] = self.value(node.value)
            except Unreadable as error:
                self.reasons[name] = str(error)[:200]

    def range_of(self, node: ast.expr) -> tuple | None:
        """(least, largest) of the type Annotated[type, least, largest], or of a name for one; None for another."""
        match node:
            case ast.Name(id=name) if name not in self.changed:
                return self.ranges.get(name)
            case ast.Subscript(
                value=ast.Name("Annotated") | ast.Attribute(attr="Annotated"), slice=ast.Tuple(elts=[_, least, largest])
            ):
                with contextlib.suppress(Unreadable):
                    return self.number(least), self.number(largest)
        return None

    def spend(self, node: ast.AST, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise at(node, f"more than {MAX_VALUES:,} values")

    def value(self, node: ast.expr) -> object:
        """The value of an expression. Raises Unreadable."""
        self.spend(node, 1)
        match node:
            case ast.Constant(value=value):
                return scalar(node, value)
            case ast.Name(id=name) if name in self.changed:
                raise at(node, f"{name} is bound twice, or changed after it was bound")
            case ast.Name(id=name) if name in self.reasons:
                raise at(node, f"{name} has no value: {self.reasons[name]}")
            case ast.Name(id=name) if name in self.values:
                self.spend(node, size(self.values[name]))
                return self.values[name]
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
                value = self.number(operand)
                return -value if isinstance(node.op, ast.USub) else +value
            case ast.BinOp(op=ast.BitOr()):
                return self.mapping(node.left) | self.mapping(node.right)
            case ast.BinOp():
                return self.arithmetic(node)
            case ast.List(elts=items):
                return [self.value(item) for item in items]
            case ast.Tuple(elts=items):
                return tuple(self.value(item) for item in items)
            case ast.Dict(keys=keys, values=values):
                return self.merged(zip(keys, values))
            case ast.Call(func=ast.Name(id="dict"), args=args, keywords=keywords) if "dict" not in self.changed:
                first = [(None, argument) for argument in args[:1]]
                if len(args) > 1:
                    raise at(node, "dict() of several values")
                return self.merged([*first, *((keyword.arg, keyword.value) for keyword in keywords)])
            case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(text)), attr="split"), args=[], keywords=[]):
                return text.split()
        raise at(node, f"{ast.unparse(node)[:60]!r} is no literal")

    def number(self, node: ast.expr) -> int | float:
        value = self.value(node)
        if isinstance(value, (int, float)):
            return value
        raise at(node, "not a number")

    def mapping(self, node: ast.expr) -> dict:
        value = self.value(node)
        if isinstance(value, dict):
            return value
        raise at(node, "not a dict")

    def arithmetic(self, node: ast.BinOp) -> int | float:
        left, right = self.number(node.left), self.number(node.right)
        function = ARITHMETIC.get(type(node.op))
        if function is None or isinstance(node.op, (ast.Pow, ast.LShift)) and abs(right) > MAX_DIGITS * 3:
            raise at(node, "not one of + - * / // % ** << with small exponents")
        try:
            return scalar(node, function(left, right))
        except (ArithmeticError, TypeError, ValueError) as error:
            raise at(node, f"{type(error).__name__}: {error}") from None

    def merged(self, items) -> dict:
        """The dict of (key, value) pairs. A key is a node, a name, or None: then the value is a dict to take in."""
        result = {}
        for key, value in items:
            if key is None:
                result |= self.mapping(value)
                continue
            key_value = key if isinstance(key, str) else self.value(key)
            if not isinstance(key_value, str):
                raise at(value, "a key that is not text")
            result[key_value] = self.value(value)
        return result

    def dataclass(self, node: ast.ClassDef) -> None:
        """Reads a class if it may be Config, or what Config inherits from; keeps why it cannot be read."""
        try:
            self.classes[node.name] = self.fields(node)
        except Unreadable as error:
            self.reasons[node.name] = str(error)[:200]

    def fields(self, node: ast.ClassDef) -> dict:
        """{field: default} of a dataclass, inherited ones first, as dataclasses order them."""
        decorator = node.decorator_list[0] if len(node.decorator_list) == 1 else None
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        decorated = called is not None and name_of(called) == "dataclass" and "dataclass" not in self.changed
        if not decorated or len(node.bases) > 1 or node.keywords:
            raise at(node, f"{node.name} is not `@dataclass(frozen=True) class {node.name}:`, with one base at most")
        fields, bounds = {}, {}
        for base in node.bases:
            if not isinstance(base, ast.Name) or base.id not in self.classes:
                reason = self.reasons.get(base.id) if isinstance(base, ast.Name) else None
                raise at(node, reason or f"{node.name} inherits from what is no dataclass of this file")
            fields |= self.classes[base.id]
            bounds |= self.bounds[base.id]
        for part in node.body:
            match part:
                case ast.AnnAssign(target=ast.Name(id=name), annotation=kind, value=ast.expr() as value):
                    fields[name] = self.default(value)
                    bounds.pop(name, None)
                    if found := self.range_of(kind):
                        bounds[name] = found
                case ast.FunctionDef(name=name) if not name.startswith("__"):
                    pass
                case ast.Expr(value=ast.Constant()) | ast.Pass():
                    pass
                case _:
                    raise at(part, f"{node.name} holds more than fields with a default, and methods of ordinary names")
        self.bounds[node.name] = bounds
        return fields

    def default(self, node: ast.expr) -> object:
        """The default of one field: a literal or field(default=literal)."""
        match node:
            case ast.Call(func=function, args=[], keywords=[ast.keyword(arg="default", value=value)]) if (
                name_of(function) == "field" and "field" not in self.changed
            ):
                return self.value(value)
        return self.value(node)

    def settings(self, preset: str) -> dict:
        """{field: value} of Config under PRESETS[preset]."""
        for name in ("Config", "PRESETS"):
            if name in self.changed:
                raise Unreadable(f"{name} is bound twice, or changed after it was bound")
        fields = self.classes.get("Config")
        if fields is None:
            raise Unreadable(self.reasons.get("Config", "no class Config"))
        presets = self.values.get("PRESETS")
        if not isinstance(presets, dict):
            raise Unreadable(self.reasons.get("PRESETS", "no dict PRESETS"))
        if not isinstance(presets.get(preset), dict):
            raise Unreadable(f"PRESETS has no dict for {preset!r}")
        unknown = sorted(presets[preset].keys() - fields.keys())
        if unknown:
            raise Unreadable(f"PRESETS[{preset!r}] sets {unknown[0]!r}, which is no field of Config")
        return fields | presets[preset]

    def artifact_fields(self) -> dict | None:
        """{field: default} of what travels in the artifact; None where the script does not say."""
        if "ModelConfig" in self.classes:
            return self.classes["ModelConfig"]
        fields = self.classes["Config"]
        names = self.values.get("MODEL_FIELDS") if "MODEL_FIELDS" not in self.changed else None
        if names is None and BORDER in fields:
            names = list(fields)[: list(fields).index(BORDER)]
        if not isinstance(names, (list, tuple)):
            return None
        return {name: fields[name] for name in names if isinstance(name, str) and name in fields}


def name_of(node: ast.expr) -> str | None:
    """`dataclass` for both `dataclass` and `dataclasses.dataclass`; None for anything else."""
    match node:
        case ast.Name(id=name) | ast.Attribute(value=ast.Name(id="dataclasses"), attr=name):
            return name
    return None


def plain_binding(node: ast.stmt) -> str | None:
    """The name that `name = value` or `name: type = value` binds; None for another statement."""
    match node:
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr()):
            return name
    return None


def bound_names(node: ast.stmt) -> set[str]:
    """Names of the module that any other statement binds or removes. The body of a function or class has its own."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            usual = FROM_DATACLASSES if getattr(node, "module", "") == "dataclasses" else set()
            return {alias.asname or alias.name.split(".")[0] for alias in names} - usual
    found = {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Load)}
    for part in ast.iter_child_nodes(node):  # statements inside an if, for, with or try
        if isinstance(part, (ast.stmt, ast.ExceptHandler, ast.match_case)):
            found |= bound_names(part)
    return found


def changed_names(tree: ast.Module) -> set[str]:
    """Names whose value may change after they were bound: bound twice, declared global, changed in place, as by
    `name[key] = value`, `name.key = value` and `name.update(...)`, wherever that stands, or mentioned in a statement of
    the module that may do so, such as a loop over their items."""
    times_bound, changed = {}, set()
    for statement in tree.body:
        name = plain_binding(statement)
        for bound in {name} if name else bound_names(statement):
            times_bound[bound] = times_bound.get(bound, 0) + 1
        if not isinstance(statement, HARMLESS):
            changed |= {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
    for node in ast.walk(tree):
        match node:
            case ast.Global(names=names):
                changed |= set(names)
            case ast.ImportFrom(names=[ast.alias(name="*")]):
                raise at(node, "import * may bind any name")
            case ast.NamedExpr(target=ast.Name(id=name)):
                changed.add(name)
            case ast.Attribute(ctx=ast.Store() | ast.Del()) | ast.Subscript(ctx=ast.Store() | ast.Del()):
                changed |= root_name(node)
            case ast.Call(func=ast.Attribute(attr=method)) if method in CHANGING:
                changed |= root_name(node.func)
            case ast.Call(func=ast.Name(id="setattr" | "delattr"), args=[first, *_]):
                changed |= root_name(first)
    usual = {"dict", *FROM_DATACLASSES} & times_bound.keys()  # names with a meaning of their own here
    return changed | usual | {name for name, times in times_bound.items() if times > 1}


def root_name(node: ast.expr) -> set[str]:
    """{"a"} of a.b[c].d; empty where no name stands at the root."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return {node.id} if isinstance(node, ast.Name) else set()


def read(source: bytes, preset: str) -> dict:
    """{field: value} for every field of the class Config that `source` defines, under PRESETS[preset].

    Raises Failure (golf/files.py): one line that says what is no literal, and in which line."""
    return _ask(source, preset)["settings"]


def artifact_config(source: bytes, preset: str, config: dict) -> dict:
    """What of a run's `config` the script puts into an artifact: the fields of its class ModelConfig that differ from
    their defaults. Records of before that class had MODEL_FIELDS, or the fields of Config above `document_mask`.

    Raises Failure as `read`, and if the script has neither."""
    from golf.files import Failure

    defaults = _ask(source, preset)["artifact_fields"]
    if defaults is None:
        raise Failure("train_gpt.py: no class ModelConfig, whose fields travel in the artifact")
    return {key: config[key] for key, default in defaults.items() if key in config and config[key] != default}


def bounds(source: bytes, preset: str) -> dict[str, list]:
    """{field: [least, largest]} of the numbers of Config whose annotation says so, as docs/contract.md has it.

    Raises Failure as `read`."""
    return _ask(source, preset)["bounds"]


def _ask(source: bytes, preset: str) -> dict:
    """What the child answers: {"settings", "artifact_fields", "bounds"}. Raises Failure as `read`."""
    return json.loads(_answer(source, preset))


@functools.lru_cache(maxsize=16)  # it takes a third of a second, and the seeds of a record have one script
def _answer(source: bytes, preset: str) -> str:
    from golf.files import Failure
    from golf.foreign import terminal

    if len(source) > MAX_BYTES:
        raise Failure(f"train_gpt.py: {len(source):,} bytes, its settings are read from at most {MAX_BYTES:,}")
    question = json.dumps(preset).encode() + b"\n" + source
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-B", __file__], input=question, capture_output=True, timeout=2 * SECONDS
        )
    except subprocess.TimeoutExpired:
        raise Failure(f"train_gpt.py: parsing it took more than {2 * SECONDS} s") from None
    if done.returncode != 0:
        raise Failure(
            "train_gpt.py: the parser failed: nested too deeply, or too much for "
            f"{SECONDS} s and {MEMORY // 2**20:,} MiB: write it as an ordinary script"
        )
    answer = json.loads(done.stdout)
    if "fault" in answer:
        raise Failure(
            f"train_gpt.py: {terminal(answer['fault'], 300)}: write Config and PRESETS as literals, "
            "dict(...) and |, each bound once"
        )
    return json.dumps(answer)


def main() -> None:
    """The child: reads the preset's name and the source from stdin, writes what `_ask` returns, or {"fault": ...}."""
    for limit, value in ((resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(OSError, ValueError):  # a lower one is set, or the system has no such limit
            resource.setrlimit(limit, (value, value))
    preset, source = sys.stdin.buffer.read().split(b"\n", 1)
    try:
        reader = Reader(ast.parse(source))
        settings = reader.settings(json.loads(preset))
        answer = {"settings": settings, "artifact_fields": reader.artifact_fields(), "bounds": reader.bounds["Config"]}
    except Unreadable as error:
        answer = {"fault": str(error)}
    except (SyntaxError, ValueError) as error:
        answer = {"fault": f"not Python: {error}"}
    except (RecursionError, MemoryError):
        answer = {"fault": "nested too deeply"}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
