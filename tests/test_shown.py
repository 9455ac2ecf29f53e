"""What is handed to rich: a search of the sources for text that rich would read as markup or send to the terminal raw.

rich reads a str as markup ("[/x]" ends in a traceback, "[bold]" vanishes) and passes escapes of a terminal on. So every
text that is no literal goes to it inside rich.text.Text, and what Text holds went through golf.foreign where it may be
somebody else's. Not covered: print(), whose words are tried in tests/tools/test_hostile.py.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(path for folder in ("tools", "compress", "scoring") for path in (ROOT / folder).glob("*.py"))
SOURCES += [ROOT / "eval_heldout.py"]
# Calls that take renderables, by the name of the method or class, and their arguments that do.
SINKS = {
    "add_row": None,
    "add_column": {0, "header"},
    "Panel": {0, "title", "subtitle"},
    "Table": {"title", "caption"},
    "add_task": {0, "description"},
    "print": None,
    "status": {0},
    "track": {1},
    "TextColumn": None,
}
PLAIN_KEYWORDS = {
    "justify",
    "style",
    "no_wrap",
    "highlight",
    "soft_wrap",
    "total",
    "visible",
    "overflow",
    "end",
    "width",
}
SAFE_CALLS = {"Text", "number", "len", "table", "frame"}  # number: formatted, or "-"; the last two make renderables
NUMERIC_ENDINGS = tuple("deEfFgGn%")


def is_numeric(spec: ast.expr | None) -> bool:
    """Whether a format specification takes numbers only: it would refuse a text."""
    if spec is None:
        return False
    last = spec.values[-1] if isinstance(spec, ast.JoinedStr) and spec.values else spec
    return isinstance(last, ast.Constant) and str(last.value).endswith(NUMERIC_ENDINGS + (",",))


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def is_safe(node: ast.expr, literals: set[str]) -> bool:
    """Whether an argument is a literal, formatted numbers, or a Text."""

    def all_safe(nodes) -> bool:
        return all(is_safe(each, literals) for each in nodes)

    match node:
        case ast.Constant() | ast.Attribute(attr="stderr"):
            return True
        case ast.Name():
            return node.id in literals
        case ast.JoinedStr():
            return all(
                isinstance(part, ast.Constant) or is_numeric(part.format_spec) or is_safe(part.value, literals)
                for part in node.values
            )
        case ast.Call(func=ast.Name(id="format"), args=[_, spec]):
            return is_numeric(spec)
        case ast.Call():
            return called(node) in SAFE_CALLS
        case ast.IfExp():
            return all_safe((node.body, node.orelse))
        case ast.BoolOp():
            return all_safe(node.values)
        case ast.BinOp():
            return all_safe((node.left, node.right))
        case ast.Starred(value=ast.GeneratorExp() | ast.ListComp()):
            return is_safe(node.value.elt, literals)
        case ast.Starred():
            return is_safe(node.value, literals)
        case ast.Tuple() | ast.List():
            return all_safe(node.elts)
        case ast.Subscript():
            return is_safe(node.value, literals)
    return False


def literal_names(tree: ast.AST, known: frozenset[str] = frozenset()) -> set[str]:
    """Names that only ever stand for literals below `tree`: constants, loops over literals, and renderables."""
    values: dict[str, list[bool]] = {}

    def bind(target: ast.expr, value: ast.expr | None) -> None:
        if isinstance(target, ast.Tuple):
            parts = value.elts if isinstance(value, ast.Tuple) and len(value.elts) == len(target.elts) else None
            for place, part in enumerate(target.elts):
                bind(part, parts[place] if parts else None)
        elif isinstance(target, ast.Name):
            renderable = isinstance(value, ast.Call) and called(value) in (
                "Table",
                "Panel",
                "Group",
                "Text",
                "table",
                "frame",
            )
            good = value is not None and (renderable or is_safe(value, known))
            values.setdefault(target.id, []).append(good)

    def bind_loop(target: ast.expr, over: ast.expr) -> None:
        if isinstance(over, (ast.Tuple, ast.List)):
            for each in over.elts:
                bind(target, each.value if isinstance(each, ast.Starred) else each)
        else:
            bind(target, None)

    for node in ast.walk(tree):
        match node:
            case ast.Assign():
                for target in node.targets:
                    bind(target, node.value)
            case ast.AnnAssign() | ast.AugAssign() | ast.NamedExpr():
                bind(node.target, node.value)
            case ast.For() | ast.comprehension():
                bind_loop(node.target, node.iter)
            case ast.arg():
                values.setdefault(node.arg, []).append(False)
    return {name for name, good in values.items() if all(good)}


def unsafe_arguments(source: str) -> list[str]:
    """ "LINE: argument" of every argument that gives rich a str that is no literal."""
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    own = {id(node): function for function in reversed(functions) for node in ast.walk(function)}  # the outermost one
    constants = frozenset(name for name in literal_names(tree) if name.isupper())
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or called(node) not in SINKS:
            continue
        literals = constants | literal_names(own.get(id(node), tree), constants)
        if called(node) == "print" and isinstance(node.func, ast.Name):
            continue  # Python's own
        if called(node) == "TextColumn":
            if "{task" in ast.unparse(node.args[0]) and "markup=False" not in ast.unparse(node):
                found.append(f"{node.lineno}: {ast.unparse(node)}")
            continue
        safe = {"terminal"} if called(node) == "add_task" else set()  # its description is no markup: see TextColumn
        takes = SINKS[called(node)]
        arguments = [(place, each) for place, each in enumerate(node.args)]
        arguments += [(each.arg, each.value) for each in node.keywords if each.arg not in PLAIN_KEYWORDS]
        found += [
            f"{each.lineno}: {ast.unparse(each)}"
            for place, each in arguments
            if (takes is None or place in takes)
            and not is_safe(each, literals)
            and not (isinstance(each, ast.Call) and called(each) in safe)
        ]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_rich_gets_literals_numbers_and_text_objects_only(path):
    assert unsafe_arguments(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source, count",
    [
        ('table.add_row("a", f"{x:.4f}", f"{n:,}")', 0),
        ("table.add_row(name)", 1),
        ("table.add_row(row['name'])", 1),
        ('table.add_row(f"{name}")', 1),
        ('table.add_row(f"{name:<8}")', 1),
        ("table.add_row(Text(name))", 0),
        ("table.add_row(*cells)", 1),
        ("table.add_row(*(Text(cell) for cell in cells))", 0),
        ("table.add_row(*(cell for cell in cells))", 1),
        ('table.add_row("-" if x is None else f"{x:.1f}")', 0),
        ('table.add_row("-" if x is None else x)', 1),
        ('for name in ("a", "b"):\n table.add_column(name)', 0),
        ("for name in names:\n table.add_column(name)", 1),
        ("Panel(Text(a), title=name)", 1),
        ("Table(title=title)", 1),
        ('console.print(f"{path}", markup=False)', 1),
        ("console.print(escape(text))", 1),
        ("print(name)", 0),
        ("def f(table, name):\n table.add_row(name)", 1),
        ("table = Table()\nconsole.print(table)", 0),
        ("bar.add_task(stage)", 1),
        ("bar.add_task(terminal(stage))", 0),
        ('TextColumn("{task.description}")', 1),
        ('TextColumn("{task.description}", markup=False)', 0),
        ('TextColumn("eta")', 0),
        ('A = ("x", "y")\ndef f():\n for name in ("a", *A):\n  table.add_column(name)', 0),
        ('form = ".3f"\ntable.add_row(format(x, form))', 1),
    ],
)
def test_the_search_finds_what_it_should(source, count):
    assert len(unsafe_arguments(source)) == count, source
