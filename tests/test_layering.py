"""Who may import what, read from the syntax trees; and what importing costs, seen in fresh processes.

Not covered: imports by computed names.
"""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = {path.stem for path in ROOT.glob("*.py")} | {"compress", "scoring", "tools", "tests", "records"}

# Most special first: the first row whose pattern matches a file holds for it. A name admits its submodules.
TABLE = [
    ("train_gpt.py", {"torch", "numpy", "triton"}),
    ("compress/decode.py", {"numpy", "torch", "brotli", "zstandard"}),
    ("golf/container.py", {"brotli", "pyppmd"}),
    ("golf/tokenizer_section.py", {"compress.container"}),
    ("compress/lab/peers.py", {"compress", "torch", "numpy", "brotli", "zstandard", "zpaq"}),
    ("compress/*.py", {"compress", "torch", "numpy", "brotli", "rich", "matplotlib", "python_minifier"}),
    # These are copied into the box and run there, beside the artifact's files (box.py lists them).
    ("golf/box/worker.py", {"golf.box.confine", "golf.box.protocol", "golf.box.watch", "torch", "numpy"}),
    ("golf/box/protocol.py", set()),
    ("golf/box/kernel.py", set()),
    ("golf/box/visible.py", set()),
    ("golf/box/watch.py", {"golf.box.visible"}),
    ("golf/box/calls.py", {"golf.box.kernel"}),
    ("golf/box/mounts.py", {"golf.box.kernel"}),
    ("golf/box/landlock.py", {"golf.box.kernel", "golf.box.visible"}),
    ("golf/box/confine.py", {"golf.box.calls", "golf.box.kernel", "golf.box.landlock", "golf.box.mounts"}),
    ("scoring/*.py", {"compress.container", "compress.tokenizer", "scoring", "torch", "numpy", "sentencepiece", "scipy",
                      "rich"}),
    ("eval_heldout.py", {"compress.container", "compress.tokenizer", "scoring", "torch", "numpy", "sentencepiece",
                         "scipy", "rich"}),
    ("tools/records/pages.py", {"tools", "compress.container", "rich", "jinja2", "markupsafe", "markdown_it"}),
    ("tools/*.py", {"tools", "scoring.tokenizer", "scoring.statistics", "scoring.slices", "torch", "numpy", "rich",
                    "scipy", "matplotlib", "sentencepiece", "huggingface_hub", "zstandard", "jsonschema",
                    "tensorboard", "trackio", "submitit", "optuna"}),
]
ONLY_IN_FUNCTIONS = [("compress/*.py", "matplotlib"), ("tools/*.py", "torch")]


def is_within(name: str, allowed: str) -> bool:
    return name == allowed or name.startswith(allowed + ".")


def imports(tree: ast.AST, package: str) -> set[str]:
    """Dotted names that the code below `tree` imports; `from compress import x` gives compress.x if x is a module."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, [package if node.level else "", node.module]))
            parts = [f"{base}.{alias.name}" for alias in node.names]
            names |= {part if is_module(part) else base for part in parts}
    return names


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").exists()


def at_import_time(tree: ast.Module) -> ast.Module:
    """The tree without the bodies of functions."""
    class Remove(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            return None
        visit_AsyncFunctionDef = visit_FunctionDef

    return Remove().visit(tree)


def wrong_imports(path: str, source: str) -> list[str]:
    """Imports of a file at `path` (from the root) that the tables forbid."""
    tree, package = ast.parse(source), path.split("/")[0]
    allowed = next(names for pattern, names in TABLE if Path(path).match(pattern))
    wrong = [name for name in imports(tree, package) if name.split(".")[0] not in sys.stdlib_module_names
             and not any(is_within(name, allow) for allow in allowed)]
    top = imports(at_import_time(tree), package)
    wrong += [f"{name} outside a function" for pattern, lazy in ONLY_IN_FUNCTIONS if Path(path).match(pattern)
              for name in top if is_within(name, lazy)]
    return wrong


SOURCES = sorted(path.relative_to(ROOT).as_posix() for folder in (".", "compress", "scoring", "tools")
                 for path in (ROOT / folder).glob("*.py"))


@pytest.mark.parametrize("path", SOURCES)
def test_imports_follow_the_table(path):
    assert wrong_imports(path, (ROOT / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path, source, found", [
    ("train_gpt.py", "import os, torch.nn.functional as F", []),
    ("train_gpt.py", "def f():\n from compress import decode", ["compress.decode"]),
    ("train_gpt.py", "try:\n import scipy\nexcept ImportError: pass", ["scipy"]),
    ("compress/decode.py", "from . import container", ["compress.container"]),
    ("compress/decode.py", "from compress.container import read", ["compress.container"]),
    ("golf/container.py", "import numpy", ["numpy"]),
    ("compress/pack.py", "from compress import decode, gptq\nimport rich.table", []),
    ("compress/pack.py", "import matplotlib.pyplot", ["matplotlib.pyplot outside a function"]),
    ("compress/pack.py", "def f():\n import matplotlib.pyplot", []),
    ("scoring/score.py", "from compress import container, decode", ["compress.decode"]),
    ("scoring/score.py", "import compress", ["compress"]),
    ("eval_heldout.py", "import train_gpt", ["train_gpt"]),
    ("golf run", "from scoring import score", ["scoring.score"]),
    ("golf run", "import torch", ["torch outside a function"]),
    ("golf run", "class A:\n import torch", ["torch outside a function"]),
    ("golf run", "def f():\n import torch", []),
])
def test_the_check_finds_what_it_should(path, source, found):
    assert wrong_imports(path, source) == found


def loaded_by(code: str, cwd: Path) -> set[str]:
    """Names of all modules in a fresh process after `code`; it must run without output."""
    code = f"import sys\n{code}\nimport json; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-B", "-c", code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_tools_start_without_torch():
    tools = [path for path in SOURCES if path.startswith("tools/")]
    names = [path.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path in tools]
    lines = "\n".join(f"import {name}" for name in names)
    loaded = loaded_by(f"sys.path.insert(0, {str(ROOT)!r})\n{lines}", ROOT)
    assert "tools.run" in loaded and not loaded & {"torch", "train_gpt", "scipy", "matplotlib"}


@pytest.mark.parametrize("name", ["train_gpt", "decode"])
def test_self_contained_files_load_nothing_of_ours_and_write_nothing(name, tmp_path):
    folder = ROOT / "compress" if name == "decode" else ROOT
    code = f"""
import importlib.util
spec = importlib.util.spec_from_file_location({name!r}, {str(folder / (name + '.py'))!r})
module = importlib.util.module_from_spec(spec)
sys.modules[{name!r}] = module
spec.loader.exec_module(module)"""
    loaded = loaded_by(code, tmp_path)
    assert "torch" in loaded and not {module.split(".")[0] for module in loaded} & (OURS - {name})
    assert list(tmp_path.iterdir()) == []
