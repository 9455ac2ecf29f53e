"""Who may import what, read from the syntax trees; no circles; and what importing costs, seen in fresh processes.

Not covered: imports by computed names, as golf/__main__.py starts the modules of its COMMANDS.
"""

import ast
import functools
import graphlib
import json
import subprocess
import sys
from collections.abc import Mapping, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.support import ROOT

OWN = {"train_gpt", "eval_heldout", "golf", "compress", "scoring", "tools", "tests", "records"}
NOT_SOURCES = {".git", ".venv", "data", "runs", "records", "site"}  # a record keeps the script that ran


@dataclass(frozen=True)
class Row:
    """What the files that match `pattern` may import beside the standard library.

    pattern: a path from the root; a star stands for any text, slashes too. may: names, each with its submodules.
    never: what `may` would admit and must not. in_functions: what may not be imported when the file is.
    """

    pattern: str
    may: set[str]
    never: frozenset[str] = frozenset()
    in_functions: frozenset[str] = frozenset()


TORCH = frozenset({"torch"})
BESIDE = frozenset({"train_gpt", "decode", "torch"})
LAB = frozenset({"compress.lab"})
GOLF = {"golf", "torch", "numpy", "scipy", "brotli", "pyppmd", "sentencepiece", "rich", "jsonschema"}
COMPRESS = {"golf", "compress", "torch", "numpy", "brotli", "rich", "python_minifier"}
SCORING = {"golf", "scoring", "torch", "numpy", "scipy", "sentencepiece", "rich"}
TOOLS = {"golf", "scoring", "compress", "tools", "torch", "numpy", "scipy", "rich", "matplotlib", "sentencepiece",
         "zstandard", "huggingface_hub", "jsonschema", "submitit", "optuna", "tensorboard", "trackio"}  # fmt: skip
PAGES = {"jinja2", "markupsafe", "markdown_it"}

# The first row whose pattern matches a file holds for it, so the most special ones stand first.
TABLE = [
    Row("train_gpt.py", {"torch", "numpy", "triton"}),
    Row("docs/minimal_gpt.py", {"torch", "numpy"}),
    # These travel alone: the decoder inside the artifact, the others into the box, beside the artifact's files.
    Row("compress/decode.py", {"torch", "numpy", "brotli", "zstandard"}),
    Row("golf/box/worker.py", {"golf.box.confine", "golf.box.protocol", "golf.box.watch", "torch", "numpy"}),
    Row("golf/box/protocol.py", set()),
    Row("golf/box/kernel.py", set()),
    Row("golf/box/visible.py", set()),
    Row("golf/box/watch.py", {"golf.box.visible"}),
    Row("golf/box/calls.py", {"golf.box.kernel", "golf.children"}),
    Row("golf/children.py", set()),
    Row("golf/box/mounts.py", {"golf.box.kernel"}),
    Row("golf/box/landlock.py", {"golf.box.kernel", "golf.box.visible"}),
    Row(
        "golf/box/confine.py",
        {"golf.box.calls", "golf.box.kernel", "golf.box.landlock", "golf.box.mounts", "golf.children"},
    ),
    Row("golf/box/trainer.py", {"golf.box", "golf.children"}),
    # Programs for the box: they run beside an artifact's script and decoder, and import those.
    Row("compress/*_in_box.py", {"train_gpt", "decode", "torch", "numpy", "brotli"}, in_functions=BESIDE),
    Row("tools/*_in_box.py", {"torch"}, in_functions=TORCH),
    Row("golf/__main__.py", {"golf"}),
    Row("golf/*.py", GOLF, in_functions=TORCH),
    Row("compress/__main__.py", COMPRESS | LAB),
    Row("compress/lab/*.py", COMPRESS | {"matplotlib", "zstandard", "zpaq"}, in_functions=frozenset({"matplotlib"})),
    Row("compress/*.py", COMPRESS, never=LAB),
    Row("scoring/*.py", SCORING),
    Row("eval_heldout.py", SCORING),
    Row("tools/records/rendering.py", TOOLS | PAGES, never=LAB, in_functions=TORCH),
    Row("tools/*.py", TOOLS, never=LAB, in_functions=TORCH | {"matplotlib"}),
]


def files() -> list[str]:
    """The Python files of the repository, as paths from the root."""
    paths = [path.relative_to(ROOT) for path in ROOT.rglob("*.py")]
    return sorted(path.as_posix() for path in paths if path.parts[0] not in NOT_SOURCES)


FILES = files()
SOURCES = [path for path in FILES if not path.startswith("tests/")]


def module_of(path: str) -> str:
    """The dotted name of the module in a file: "golf/files.py" is golf.files, "golf/__init__.py" is golf."""
    return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


MODULES = {module_of(path) for path in FILES}


def is_within(name: str, names: set[str] | frozenset[str]) -> bool:
    """Whether a dotted name is one of the names or below one."""
    return any(name == parent or name.startswith(parent + ".") for parent in names)


def imports(tree: ast.AST, package: str) -> set[str]:
    """Dotted names that the code below `tree` imports; `from compress import x` gives compress.x if x is a module."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            above = ".".join(parents[: len(parents) + 1 - node.level]) if node.level else ""
            base = ".".join(filter(None, [above, node.module]))
            parts = {f"{base}.{alias.name}" for alias in node.names}
            names |= (parts & MODULES) | ({base} if parts - MODULES else set())
    return names


def at_import_time(tree: ast.Module) -> ast.Module:
    """The tree without the bodies of functions."""

    class Remove(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            return None

        visit_AsyncFunctionDef = visit_FunctionDef

    return Remove().visit(tree)


def package_of(path: str) -> str:
    """The dotted name of the package that a file lies in; empty for a file in the root."""
    return ".".join(Path(path).parent.parts)


def row_of(path: str) -> Row | None:
    """The row of the table that holds for a file."""
    return next((row for row in TABLE if fnmatchcase(path, row.pattern)), None)


@functools.cache
def imports_of(path: str) -> frozenset[str]:
    """Dotted names that a file of the repository imports."""
    return frozenset(imports(ast.parse((ROOT / path).read_text(encoding="utf-8")), package_of(path)))


def wrong_imports(path: str, source: str) -> list[str]:
    """Imports of a file at `path` (from the root) that the table forbids."""
    row = row_of(path)
    if row is None:
        return [f"no row of the table is for {path}"]
    tree = ast.parse(source)
    package = package_of(path)
    wrong = []
    for name in sorted(imports(tree, package)):
        standard = name.split(".")[0] in sys.stdlib_module_names
        if not standard and (is_within(name, row.never) or not is_within(name, row.may)):
            wrong.append(name)
    top = imports(at_import_time(tree), package)
    return wrong + [f"{name} outside a function" for name in sorted(top) if is_within(name, row.in_functions)]


@pytest.mark.parametrize("path", SOURCES)
def test_imports_follow_the_table(path):
    assert wrong_imports(path, (ROOT / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "path, source, found",
    [
        ("train_gpt.py", "import os, torch.nn.functional as F", []),
        ("train_gpt.py", "def f():\n from compress import decode", ["compress.decode"]),
        ("train_gpt.py", "try:\n import scipy\nexcept ImportError: pass", ["scipy"]),
        ("compress/decode.py", "from . import trellis", ["compress.trellis"]),
        ("compress/lab/bench.py", "from .. import trellis\nfrom .measure import measure", []),
        ("compress/decode.py", "from golf.container import read", ["golf.container"]),
        ("golf/box/confine.py", "from golf.box import protocol", ["golf.box.protocol"]),
        ("golf/container.py", "import tools.data", ["tools.data"]),
        ("golf/container.py", "from scoring import score", ["scoring.score"]),
        ("golf/container.py", "import torch", ["torch outside a function"]),
        ("golf/container.py", "def f():\n import torch", []),
        ("compress/pack.py", "from compress import decode, gptq\nimport rich.table", []),
        ("compress/pack.py", "from compress.lab.measure import measure", ["compress.lab.measure"]),
        ("compress/pack.py", "def f():\n from compress import lab", ["compress.lab"]),
        ("compress/__main__.py", "def f():\n from compress.lab import bench", []),
        ("compress/lab/plot.py", "import matplotlib.pyplot", ["matplotlib.pyplot outside a function"]),
        ("compress/lab/plot.py", "def f():\n import matplotlib.pyplot", []),
        ("scoring/score.py", "from compress import decode", ["compress.decode"]),
        ("eval_heldout.py", "import train_gpt", ["train_gpt"]),
        ("tools/runs/pipeline.py", "from scoring import score", []),
        ("tools/runs/pipeline.py", "class A:\n import torch", ["torch outside a function"]),
        ("tools/runs/pipeline.py", "def f():\n import torch", []),
        ("tools/runs/pipeline.py", "import records", ["records"]),
        ("attic/new.py", "", ["no row of the table is for attic/new.py"]),
    ],
)
def test_the_check_finds_what_it_should(path, source, found):
    assert wrong_imports(path, source) == found


@pytest.mark.slow
def test_no_test_imports_another():
    """Helpers that several tests share live in tests/support."""
    wrong = []
    for path in FILES:
        if path.startswith("tests/"):
            names = sorted(name for name in imports_of(path) if name.startswith("tests.") and ".test_" in name)
            wrong += [f"{path}: {name}" for name in names]
    assert wrong == []


def graph() -> dict[str, frozenset[str]]:
    """{module: modules of this repository that it imports, in functions too}."""
    return {module_of(path): (imports_of(path) & MODULES) - {module_of(path)} for path in FILES}


def room(module: str) -> str:
    """The package that a module lies in. A file of the root, and a __main__, which starts what is around and below it,
    is a room of its own.
    """
    parent = module.rpartition(".")[0]
    is_package = any(name.startswith(module + ".") for name in MODULES)
    return module if is_package or module.endswith(".__main__") else parent or module


def circle(edges: Mapping[str, Set[str]]) -> list[str]:
    """A circle of the graph as the names along it, first and last the same; empty if there is none."""
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_circles_are_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"b"}})) == {"b", "c"}


def test_no_circle_of_modules():
    edges = graph()
    assert "golf.files" in edges["tools.data.cli"]
    assert circle(edges) == []


def test_no_circle_of_packages():
    """So every arrow between packages goes one way."""
    rooms: dict[str, set[str]] = {}
    for module, names in graph().items():
        rooms.setdefault(room(module), set()).update(room(name) for name in names)
    edges = {name: others - {name} for name, others in rooms.items()}
    assert "golf" in edges["tools.data"]
    assert circle(edges) == []


def loaded_by(code: str, cwd: Path) -> set[str]:
    """Names of all modules in a fresh process after `code`; it must run without output."""
    code = f"import sys\n{code}\nimport json; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-B", "-c", code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_commands_start_without_torch():
    """Whoever imports golf/ and tools/ does not wait for torch, scipy.stats or matplotlib, nor for the script."""
    alone = {"golf.box.worker", "golf.box.protocol", "golf.box.confine"}
    names = [module_of(path) for path in SOURCES if path.startswith(("golf/", "tools/"))]
    lines = "\n".join(f"import {name}" for name in names if name not in alone)
    loaded = loaded_by(f"sys.path.insert(0, {str(ROOT)!r})\n{lines}", ROOT)
    assert "tools.runs.pipeline" in loaded
    assert loaded & {"torch", "train_gpt", "scipy.stats", "matplotlib"} == set()


@pytest.mark.parametrize("path", ["train_gpt.py", "docs/minimal_gpt.py", "compress/decode.py"])
def test_self_contained_files_load_nothing_of_ours_and_write_nothing(path, tmp_path):
    name = Path(path).stem
    code = f"""
import importlib.util
spec = importlib.util.spec_from_file_location({name!r}, {str(ROOT / path)!r})
module = importlib.util.module_from_spec(spec)
sys.modules[{name!r}] = module
spec.loader.exec_module(module)"""
    loaded = loaded_by(code, tmp_path)
    ours = {module.split(".")[0] for module in loaded} & OWN
    assert "torch" in loaded and ours <= {name}
    assert list(tmp_path.iterdir()) == []
