"""What of a training script an artifact can reach: the code that runs when the scorer uses it, and the rest, which the
packer leaves out.

Reached is what an import runs, and from there every function, class and constant whose name is mentioned, starting with
what the scorer takes (ENTRIES). Left out are functions, classes, constants and imports of the standard library that
nothing mentions and whose definition does nothing but define: a script's training loop, data loader and command line.

Not covered: methods of classes that are reached, which all stay (torch calls some by name); statements inside `try` and
`with`, where what fails decides what comes next; modules without build_model, of which everything counts as reached.
"""

import ast
from collections.abc import Callable, Iterable, Iterator

# What the scorer takes of a training script; of other modules anything may be taken
ENTRIES = frozenset({"Config", "build_model", "Scorer"})

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef
Walk = Callable[[ast.AST], Iterable[ast.AST]]

# Decorators that read no annotations (compress/minify.py), and tell nobody of what they decorate
HARMLESS = frozenset(
    "property setter staticmethod classmethod abstractmethod cache lru_cache cached_property wraps contextmanager"
    " no_grad inference_mode enable_grad compile".split()
)
# Those that tell nobody of it; any other one may put it into a table
PRIVATE = HARMLESS | set("disable jit autotune dataclass total_ordering final override".split())
# Built-in functions without an effect, as a constant is computed with them
PURE = frozenset("abs bool dict float frozenset int len list max min range set sorted str sum tuple".split())
PURE_NODES = (
    ast.Constant, ast.Name, ast.Attribute, ast.Subscript, ast.Slice, ast.Tuple, ast.List, ast.Set, ast.Dict,
    ast.Starred, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.JoinedStr, ast.FormattedValue,
    ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context, ast.keyword,
)  # fmt: skip
# Modules of the standard library whose import has no effect that a script could rely on
SILENT = frozenset(
    "argparse array ast atexit base64 bisect bz2 collections contextlib copy csv ctypes dataclasses datetime decimal"
    " difflib enum errno fcntl fractions functools glob gzip hashlib heapq importlib inspect io itertools json logging"
    " lzma math mmap operator os pathlib pickle platform pprint queue random re shutil signal socket statistics string"
    " struct subprocess sys tempfile textwrap threading time traceback types typing unicodedata uuid warnings zipfile"
    " zlib".split()
)


class Reached:
    """The code of a module that may run: `imported` by its import, `functions` by calls, `nodes` of both; `names` are
    those that it mentions.

    `walk` goes through the nodes of a piece of code. With `annotations`, those of functions are code too.
    """

    def __init__(self, tree: ast.Module, walk: Walk = ast.walk, annotations: bool = True):
        self.functions: list[Function] = []
        self.imported: list[ast.AST] = []
        self.nodes: list[ast.AST] = []
        self.names: set[str] = set()
        self._walk = walk
        self._annotations = annotations
        self._owners: dict[str, list[ast.stmt]] = {}  # name -> what defines it
        self._waiting: list[str] = []
        self._body(tree.body, own_names(tree))
        self.is_script = "build_model" in self._owners
        self._waiting += ENTRIES if self.is_script else self._owners
        self._take(self.imported)
        self._follow()

    def _body(self, statements: list[ast.stmt], own: set[str]) -> None:
        """Follows what an import runs, and notes what it defines."""
        for statement in statements:
            if isinstance(statement, ast.If) and _is_main(statement.test):
                self._body(statement.orelse, own)
            elif only_defines(statement, own):
                for name in bound_names(statement):
                    self._owners.setdefault(name, []).append(statement)
            elif isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
                self._owners.setdefault(statement.name, []).append(statement)
                self.imported += self._run_by_definition(statement)
                if _is_told(statement):
                    self._waiting.append(statement.name)
            elif blocks := list(_blocks(statement)):
                self.imported += _heads(statement)
                for block in blocks:
                    self._body(block, own)
            else:
                self.imported.append(statement)

    def _follow(self) -> None:
        """Takes what the names that wait stand for, and what that mentions."""
        while self._waiting:
            name = self._waiting.pop()
            if name in self.names:
                continue
            self.names.add(name)
            for owner in self._owners.get(name, ()):
                if not isinstance(owner, (*FUNCTIONS, ast.ClassDef)):
                    self._take([owner])
                    continue
                self._take(self._run_by_definition(owner))
                functions = [owner] if isinstance(owner, FUNCTIONS) else list(methods(owner))
                self.functions += functions
                self._take(part for function in functions for part in run_by_call(function))

    def _take(self, parts: Iterable[ast.AST]) -> None:
        """Notes the nodes of these pieces of code; the names that they mention wait."""
        for part in parts:
            for node in self._walk(part):
                self.nodes.append(node)
                self._waiting += _mentions(node)

    def _run_by_definition(self, node: Definition) -> list[ast.AST]:
        """What of a definition runs where it stands: decorators, defaults, bases; of a class, its body and its methods'
        too."""
        parts: list[ast.AST | None] = [*node.decorator_list]
        if isinstance(node, ast.ClassDef):
            parts += [*node.bases, *node.keywords]
            for statement in run_by_call(node):
                if isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
                    parts += self._run_by_definition(statement)
                else:
                    parts += self._parts_of_block(statement)
        else:
            parts += [*node.args.defaults, *node.args.kw_defaults]
            if self._annotations:
                parts += [argument.annotation for argument in ast.walk(node.args) if isinstance(argument, ast.arg)]
                parts.append(node.returns)
        return [part for part in parts if part is not None]

    def _parts_of_block(self, statement: ast.stmt) -> list[ast.AST]:
        """What of a statement in a class's body runs where it stands; functions inside it run when they are called."""
        blocks = list(_blocks(statement))
        if not blocks:
            return [statement]
        parts = list(_heads(statement))
        for block in blocks:
            for inner in block:
                is_definition = isinstance(inner, (*FUNCTIONS, ast.ClassDef))
                parts += self._run_by_definition(inner) if is_definition else self._parts_of_block(inner)
        return parts


def leave_out_unreached(tree: ast.Module) -> None:
    """Takes out of a training script, in place, what an artifact cannot reach. Its annotations should be gone as far as
    they will: what is left of them is evaluated, and reaches what it names."""
    reached = Reached(tree)
    if reached.is_script:
        tree.body = _without(tree.body, reached.names, own_names(tree))


def _without(statements: list[ast.stmt], names: set[str], own: set[str]) -> list[ast.stmt]:
    """Statements of a module without those that only define what is not among `names`."""
    kept: list[ast.stmt] = []
    for statement in statements:
        if isinstance(statement, ast.If):
            body = [] if _is_main(statement.test) else _without(statement.body, names, own)
            statement.orelse = _without(statement.orelse, names, own)
            if _is_main(statement.test):
                kept += statement.orelse
            else:
                statement.body = body or [ast.Pass()]
                kept.append(statement)
        elif not only_defines(statement, own):
            kept.append(statement)
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            statement.names = [alias for alias in statement.names if _bound_by(alias) in names]
            kept += [statement] if statement.names else []
        elif names.intersection(bound_names(statement)):
            kept.append(statement)
    return kept


def only_defines(statement: ast.stmt, own: set[str]) -> bool:
    """Whether a statement of a module does nothing but give names a meaning, so that it can go where nothing mentions
    them. `own` are the names of the module (own_names)."""
    if any(name.startswith("__") for name in bound_names(statement)):
        return False  # Python or an importer may look for it
    match statement:
        case ast.Import(names=aliases):
            return all(alias.name in SILENT for alias in aliases)
        case ast.ImportFrom(module=str(module), names=aliases, level=0):
            package = module.partition(".")[0]
            return package in SILENT and all(alias.name != "*" for alias in aliases)
        case ast.Assign(targets=targets, value=value):
            return all(isinstance(target, ast.Name) for target in targets) and _is_pure(value, own)
        case ast.AnnAssign(target=ast.Name(), annotation=annotation, value=value):
            return _is_pure(annotation, own) and (value is None or _is_pure(value, own))
        case ast.ClassDef():
            return _defines_quietly(statement, own)
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return _defines_quietly(statement, own)
    return False


def _defines_quietly(node: Definition, own: set[str]) -> bool:
    """Whether a definition runs no code with an effect where it stands, and nobody but its name leads to it."""
    if _is_told(node) or (isinstance(node, ast.ClassDef) and "__init_subclass__" in own):
        return False
    parts: list[ast.expr | None] = []
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call):
            parts += [*decorator.args, *(word.value for word in decorator.keywords)]
        else:
            parts.append(decorator)
    if isinstance(node, ast.ClassDef):
        parts += node.bases
    else:
        annotations = [one.annotation for one in ast.walk(node.args) if isinstance(one, ast.arg)]
        parts += [*node.args.defaults, *node.args.kw_defaults, *annotations, node.returns]
    if not all(part is None or _is_pure(part, own) for part in parts):
        return False
    return not isinstance(node, ast.ClassDef) or _body_is_quiet(node, own)


def _body_is_quiet(node: ast.ClassDef, own: set[str]) -> bool:
    """Whether a class holds nothing but definitions, constants and fields of a dataclass."""
    for statement in run_by_call(node):
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                if not _defines_quietly(statement, own):
                    return False
            case ast.AnnAssign(annotation=annotation, value=ast.Call() as call) if last_name(call) == "field":
                settings = [annotation, *call.args, *(word.value for word in call.keywords)]
                if not all(_is_pure(part, own) for part in settings):
                    return False
            case ast.Assign() | ast.AnnAssign():
                if not only_defines(statement, own):
                    return False
            case ast.Pass():
                pass
            case _:
                return False
    return True


def _is_told(node: Definition) -> bool:
    """Whether something else than its name may lead to a definition: a decorator or a class that keeps a table."""
    if any(last_name(decorator) not in PRIVATE for decorator in node.decorator_list):
        return True
    return isinstance(node, ast.ClassDef) and bool(node.keywords)


def _is_pure(expression: ast.expr, own: set[str]) -> bool:
    """Whether computing it has no effect."""
    for node in ast.walk(expression):
        if isinstance(node, ast.Call):
            match node.func:
                case ast.Attribute(attr="split", value=ast.Constant()):
                    pass
                case ast.Name(id=name) if name in PURE and name not in own:
                    pass
                case _:
                    return False
        elif not isinstance(node, PURE_NODES):
            return False
        elif isinstance(node, ast.Name) and node.id.startswith("__"):
            return False  # what the module says of itself
    return True


def bound_names(statement: ast.stmt) -> list[str]:
    """The names that a definition, an assignment to names or an import gives a meaning."""
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            return [_bound_by(alias) for alias in aliases]
    return []


def _bound_by(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition(".")[0]


def own_names(tree: ast.Module) -> set[str]:
    """The names of a module: of functions and classes at any depth, and of what is assigned or imported outside
    functions."""
    names = set()
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, FUNCTIONS):
            names |= {inner.name for inner in ast.walk(node) if isinstance(inner, (*FUNCTIONS, ast.ClassDef))}
            continue
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add(_bound_by(node))
        waiting += ast.iter_child_nodes(node)
    return names


def methods(owner: ast.AST) -> Iterator[Function]:
    """The functions of a class, at any depth of classes and conditions, but not those inside functions."""
    for child in ast.iter_child_nodes(owner):
        if isinstance(child, FUNCTIONS):
            yield child
        elif not isinstance(child, ast.expr):
            yield from methods(child)


def run_by_call(function: Definition) -> list[ast.stmt]:
    """The body, without the docstring."""
    body = function.body
    return body[1:] if ast.get_docstring(function, clean=False) is not None else body


def last_name(node: ast.expr) -> str:
    """C of C, a.b.C and C(...)."""
    if isinstance(node, ast.Call):
        node = node.func
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _blocks(statement: ast.stmt) -> Iterator[list]:
    """The lists of statements inside a compound statement."""
    for child in (statement, *getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
        for field in ("body", "orelse", "finalbody"):
            if isinstance(block := getattr(child, field, None), list) and block:
                yield block


def _heads(statement: ast.stmt) -> Iterator[ast.AST]:
    """The rest of a compound statement: tests, iterators, patterns, types of exceptions."""
    for child in ast.iter_child_nodes(statement):
        if isinstance(child, (ast.ExceptHandler, ast.match_case)):
            yield from (part for part in ast.iter_child_nodes(child) if not isinstance(part, ast.stmt))
        elif not isinstance(child, ast.stmt):
            yield child


def _is_main(test: ast.expr) -> bool:
    """Whether it is `__name__ == "__main__"`, which is not true of a module that is imported."""
    match test:
        case ast.Compare(left=ast.Name(id="__name__"), ops=[ast.Eq()], comparators=[ast.Constant("__main__")]):
            return True
    return False


def _mentions(node: ast.AST) -> list[str]:
    """The names that a node may stand for something of the module by."""
    match node:
        case ast.Name(id=name) | ast.Constant(value=str(name)):
            return [name]
    return []
