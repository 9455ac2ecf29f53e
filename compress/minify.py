"""Python source -> shorter source that does the same: what the artifact counts and what the scorer runs.

Comments, docstrings and annotations go; names that nobody outside a function sees become short. The work is done by
python-minifier; this module decides what it may touch:
- functions under a decorator that is not known to ignore annotations (triton.jit, custom_op, ...) keep theirs, and no
  name they use is renamed anywhere: Triton reads `tl.constexpr` from the annotation and compiles the names;
- class bodies keep annotations (dataclass fields), and modules that look annotations up at run time keep all of them;
- names of modules, classes, attributes and keyword arguments stay; `locals`, `vars`, `eval`, `exec` stop all renaming;
- the output parses on Python 3.11 even if made on a newer one (no f-string reuses the quotes around it).

Not covered: code that reads its own source text or local names through frames; removing unused functions.
"""

import ast
import contextlib
import functools
from pathlib import Path

import python_minifier
from python_minifier.expression_printer import ExpressionPrinter
from python_minifier.f_string import OuterFString

from golf import container
from golf.files import read_text
from golf.script import MAX_BYTES

DECODER = Path(__file__).with_name("decode.py")

# Decorators that read no annotations. Any other one may, so annotations under it stay.
HARMLESS = set(
    "property setter staticmethod classmethod abstractmethod cache lru_cache cached_property wraps contextmanager"
    " no_grad inference_mode enable_grad compile".split()
)
# Their presence anywhere means that annotations may be read at run time.
READERS = set(
    "__annotations__ get_type_hints get_annotations signature getfullargspec custom_op infer_schema script"
    " singledispatch singledispatchmethod".split()
)


@functools.lru_cache(maxsize=16)  # it takes a second, and the seeds of a record have one script and one decoder
def minify(source: str) -> str:
    """The minified module. Raises SyntaxError if `source` is not Python.

    Deterministic: the same source, Python version and python-minifier version give the same text.
    """
    tree = ast.parse(source)
    _Strip(tree).visit(tree)
    compiled = [node for node in ast.walk(tree) if _is_function(node) and _reads_annotations(node)]
    preserved = sorted(set().union(*map(_variables, compiled)))
    with _python_311_f_strings():
        return python_minifier.minify(
            python_minifier.unparse(ast.fix_missing_locations(tree)),  # ast.unparse fails on some f-strings of 3.11
            remove_annotations=False,  # done above, by function
            preserve_locals=preserved,
            hoist_literals=False,  # the compressor shares repeated literals at less cost
            convert_posargs_to_args=False,  # f(a, /, **rest) may be called with a keyword a
        )


def minified_script(source: str) -> str:
    """A training script as it is packed. Raises ValueError, one line, if it is not Python."""
    try:
        return minify(source)
    except SyntaxError as error:
        raise ValueError(f"the training script is not Python: line {error.lineno}: {error.msg}") from None


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
    """Removes docstrings and those annotations that nothing reads."""

    def __init__(self, tree: ast.Module):
        nodes = list(ast.walk(tree))
        self.keep_annotations = bool(_names(tree) & READERS)
        self.uses_docs = any(isinstance(node, ast.Attribute) and node.attr == "__doc__" for node in nodes)
        self.uses_module_doc = self.uses_docs or any(
            isinstance(node, ast.Name) and node.id == "__doc__" for node in nodes
        )
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
        node.returns = None
        for argument in ast.walk(node.args):
            if isinstance(argument, ast.arg):
                argument.annotation = None
        return self._visit_inside(node, is_class=False)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_AnnAssign(self, node):
        if self.keep_annotations or self.in_class or not isinstance(node.target, ast.Name):
            return node
        if node.value is None:
            node.annotation = ast.Constant(0)  # without a value it still makes the name local
            return node
        return ast.copy_location(ast.Assign([node.target], node.value), node)


def _is_function(node: ast.AST) -> bool:
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))


def _reads_annotations(function: ast.FunctionDef) -> bool:
    return not all(_last_name(item) in HARMLESS for item in function.decorator_list)


def _last_name(decorator: ast.expr) -> str:
    """jit of @triton.jit, @jit and @triton.jit(...)."""
    if isinstance(decorator, ast.Call):
        decorator = decorator.func
    return decorator.attr if isinstance(decorator, ast.Attribute) else getattr(decorator, "id", "")


def _names(tree: ast.AST) -> set[str]:
    """Every identifier in the tree: variables, arguments, attributes, imported names."""
    found = _variables(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.alias):
            found.add(node.name.split(".")[-1])
    return found


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
