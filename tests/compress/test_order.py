"""Each module of compress/ imports only modules that stand before it in the order of the work.

Not covered: what compress/ imports from elsewhere (tests/test_layering.py).
"""

import ast

import compress
from tests.support import ROOT

STAGES = "checkpoint codes trellis decode gptq allocate quantise entropy rates sizes".split()
STAGES += "reach reflection minify verify same pack".split()
LAB = "spread inspection measure peers bench plot".split()
ORDER = [f"compress.{name}" for name in ("decode_in_box", "report", "bounded", *STAGES)]
ORDER += [f"compress.lab.{name}" for name in ("measure_in_box", *LAB)]
ORDER += ["compress.__main__"]


def imported(source: str) -> set[str]:
    """Modules of compress that a source imports."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names & set(ORDER)


def sources() -> dict[str, str]:
    files = [path for path in (ROOT / "compress").rglob("*.py") if path.name != "__init__.py"]
    names = [path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in files]
    return {name: path.read_text(encoding="utf-8") for name, path in zip(names, files, strict=True)}


def test_the_order_has_every_module():
    assert sorted(sources()) == sorted(ORDER)
    assert all(name in compress.__doc__ for name in STAGES)


def test_no_module_imports_a_later_one():
    back = [
        f"{name} imports {other}"
        for name, source in sources().items()
        for other in imported(source)
        if ORDER.index(other) >= ORDER.index(name)
    ]
    assert back == []


def test_only_the_command_line_starts_the_lab():
    outside = {name: source for name, source in sources().items() if ".lab." not in name}
    users = [name for name, source in outside.items() if any(".lab." in other for other in imported(source))]
    assert users == ["compress.__main__"]


def test_the_check_sees_an_import_in_a_function():
    source = "def f():\n    from compress.pack import pack_run\n    from compress import rates"
    assert imported(source) == {"compress.pack", "compress.rates"}
