"""Python source -> shorter source that does the same: what the artifact counts and what the scorer runs.

What an artifact never reaches goes (compress/reach.py), and so do comments, docstrings and annotations; names that
nobody outside a function sees become short. The work is done by python-minifier; this module decides what it may touch:
- what the module may read of itself stays (compress/reflection.py says what that is);
- functions under a decorator that is not known to ignore annotations (triton.jit, custom_op, ...) keep theirs, and no
  name they use is renamed anywhere: Triton reads `tl.constexpr` from the annotation and compiles the names;
- class bodies keep annotations (dataclass fields), without what Annotated adds to a built-in type; so does every place
  whose annotation does more than name a type;
- names of modules, classes, attributes and keyword arguments stay; `locals`, `vars`, `eval`, `exec` stop all renaming;
- the output parses on Python 3.11 even if made on a newer one (no f-string reuses the quotes around it).

Not covered: code that reads its own source text or the wording of errors.
"""

import ast
import contextlib
import functools
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import python_minifier
from python_minifier.expression_printer import ExpressionPrinter
from python_minifier.f_string import OuterFString

from compress.reach import FUNCTIONS, HARMLESS, last_name, leave_out_unreached
from compress.reflection import ANNOTATIONS, DOCSTRINGS, MODULE_DOCSTRING, NAMES, read_in
from golf import container
from golf.files import read_text
from golf.script import MAX_BYTES

DECODER = Path(__file__).with_name("decode.py")

# A type is named by these; anything else in an annotation may do something when it is evaluated
NAMING = (
    ast.Name, ast.Attribute, ast.Subscript, ast.Constant, ast.Tuple, ast.List, ast.BinOp, ast.UnaryOp, ast.operator,
    ast.unaryop, ast.Load,
)  # fmt: skip
# python-minifier goes down the tree by recursion; 400 branches of one `elif` are as many levels
MAX_RECURSION, STACK_BYTES = 20_000, 256 * 2**20
MAX_DIGITS = 4300  # of an integer in decimal, Python's own limit


@functools.lru_cache(maxsize=16)  # it takes a second, and the seeds of a record have one script and one decoder
def minify(source: str) -> str:
    """The minified module. Raises SyntaxError if `source` is not Python, ValueError for what cannot be written short.

    Deterministic: the same source, Python version and python-minifier version give the same text.
    """
    return _with_deep_stack(lambda: _minify(source.removeprefix("\ufeff")))


def _minify(source: str) -> str:
    tree = ast.parse(source)
    _check_integers(tree)
    kept, inner = read_in(tree)
    _Strip(kept).visit(tree)
    if not kept:
        leave_out_unreached(tree)
    compiled = [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS) and _reads_annotations(node)]
    if ANNOTATIONS in kept:  # they are read by the name of the argument
        inner |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg) and node.annotation}
    preserved = sorted(inner.union(*map(_variables, compiled)))
    with _python_311_f_strings():
        return python_minifier.minify(
            python_minifier.unparse(ast.fix_missing_locations(tree)),  # ast.unparse fails on some f-strings of 3.11
            remove_annotations=False,  # done above, by function
            rename_locals=NAMES not in kept,
            preserve_locals=preserved,
            hoist_literals=False,  # the compressor shares repeated literals at less cost
            convert_posargs_to_args=False,  # f(a, /, **rest) may be called with a keyword a
        )


def minified_script(source: str) -> str:
    """A training script as it is packed. Raises ValueError, one line, if it cannot be."""
    if len(source) > MAX_BYTES:
        raise ValueError(f"the training script has {len(source):,} characters, and {MAX_BYTES:,} are the most")
    try:
        return minify(source)
    except SyntaxError as error:
        raise ValueError(f"the training script is not Python: line {error.lineno}: {error.msg}") from None
    except ValueError as error:
        raise ValueError(f"the training script cannot be minified: {error}") from None


def code_section(script: str) -> bytes:
    """The CODE payload: a script that is minified already, and the decoder."""
    return container.code_pack(script, minify(DECODER.read_text(encoding="utf-8")))


def code_bytes(file: str) -> int:
    """Bytes of the CODE payload of the script in `file`. Raises ValueError, one line, if it is not Python."""
    return len(code_section(minified_script(read_text(Path(file), MAX_BYTES))))


def blockers(source: str) -> list[str]:
    """The built-ins in a module that keep its names long: with them, any local name may be read as a string."""
    used = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    return sorted(used & {"eval", "exec", "globals", "locals", "vars"})


class _Strip(ast.NodeTransformer):
    """Removes docstrings and annotations, but for the kinds that are `kept`."""

    def __init__(self, kept: set[str]):
        self.keep_annotations = ANNOTATIONS in kept
        self.uses_docs = DOCSTRINGS in kept
        self.uses_module_doc = MODULE_DOCSTRING in kept
        self.in_class = False  # an annotation there is a field of a dataclass or NamedTuple

    def _visit_inside(self, node, is_class):
        outer, self.in_class = self.in_class, is_class
        self.generic_visit(node)
        self.in_class = outer
        return node

    def visit_Module(self, node):
        if not self.uses_module_doc:
            _remove_docstring(node)
        return self.generic_visit(node)

    def visit_ClassDef(self, node):
        if not self.uses_docs:
            _remove_docstring(node)
        return self._visit_inside(node, is_class=True)

    def visit_FunctionDef(self, node):
        if not self.uses_docs:
            _remove_docstring(node)
        if self.keep_annotations or _reads_annotations(node):
            return node  # as it is, with everything inside it
        if _only_names(node.returns):
            node.returns = None
        for argument in ast.walk(node.args):
            if isinstance(argument, ast.arg) and _only_names(argument.annotation):
                argument.annotation = None
        return self._visit_inside(node, is_class=False)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_AnnAssign(self, node):
        plain = isinstance(node.target, ast.Name) and _only_names(node.annotation)
        if self.keep_annotations or not plain:
            return node
        if self.in_class:
            node.annotation = _without_metadata(node.annotation)
            return node
        if node.value is None:
            node.annotation = ast.Constant(0)  # without a value it still makes the name local
            return node
        return ast.copy_location(ast.Assign([node.target], node.value), node)


def _reads_annotations(function: ast.FunctionDef) -> bool:
    """Whether a decorator may read the annotations under it: it does if it is not known to read none."""
    return not all(last_name(item) in HARMLESS for item in function.decorator_list)


def _only_names(annotation: ast.expr | None) -> bool:
    """Whether evaluating an annotation does nothing but look at names."""
    return annotation is None or all(isinstance(node, NAMING) for node in ast.walk(annotation))


def _without_metadata(annotation: ast.expr) -> ast.expr:
    """`int` of `Annotated[int, ...]`, so of each built-in type; any other annotation as it is. A dataclass tells fields
    from other names by their annotation, so it cannot go."""
    match annotation:
        case ast.Subscript(
            value=ast.Name(id="Annotated"),
            slice=ast.Tuple(elts=[ast.Name(id="int" | "float" | "str" | "bool") as kind, *_]),
        ):
            return kind
    return annotation


def _variables(tree: ast.AST) -> set[str]:
    """Variables and arguments: the names in a tree that could be renamed, as those of attributes never are."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return names | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}


def _remove_docstring(node: ast.AST) -> None:
    if ast.get_docstring(node, clean=False) is not None:
        del node.body[0]
        if not node.body and not isinstance(node, ast.Module):
            node.body.append(ast.Pass())


@contextlib.contextmanager
def _python_311_f_strings():
    """Lets python-minifier print f-strings by the rules of Python 3.11 on any version.

    It has no option for it. An f-string that 3.11 cannot express was in the source, which then needs 3.12 anyway.
    """
    original = ExpressionPrinter.visit_JoinedStr

    def visit_JoinedStr(self, node):
        try:
            text = str(OuterFString(node, pep701=False))
        except Exception:  # the library raises its own errors or none in particular
            return original(self, node)
        return self.printer.fstring(text)

    ExpressionPrinter.visit_JoinedStr = visit_JoinedStr
    try:
        yield
    finally:
        ExpressionPrinter.visit_JoinedStr = original


def _check_integers(tree: ast.Module) -> None:
    """Raises ValueError for an integer that Python does not write in decimal."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, int) and node.value >= 10**MAX_DIGITS:
            why = f"an integer of more than {MAX_DIGITS:,} decimal digits"
            raise ValueError(f"line {node.lineno}: {why}: write it as int(text, 16) or as a product")


def _with_deep_stack(work: Callable[[], str]) -> str:
    """What work() returns, run where it may recurse deeply. Raises what it raises; ValueError where it is too deep."""
    results: list = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # raised again below, by the thread that waits
            results.append(error)

    limit, size = sys.getrecursionlimit(), threading.stack_size(STACK_BYTES)
    sys.setrecursionlimit(MAX_RECURSION)
    try:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    finally:
        sys.setrecursionlimit(limit)
        threading.stack_size(size)
    if isinstance(results[0], RecursionError | MemoryError):  # Python's parser gives either
        raise ValueError("statements or expressions inside each other too deeply: use a table or a loop")
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]
