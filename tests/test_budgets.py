"""Budgets on size and place: lines of a file, what may lie in the root and in tools/, tidy text.

Readability, not line golf: train_gpt.py has no budget here, as bytes have their price in the artifact. Not covered:
columns and style, which are ruff's; records/, as a record keeps the script that ran.
"""

import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT

MAX_LINES = 600
ROOT_ENTRIES = {
    ".ci", ".github", ".gitignore", "AGENTS.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md",
    "RULES.md", "compress", "constraints.txt", "docs", "eval_heldout.py", "golf", "pyproject.toml", "records",
    "requirements.txt", "scoring", "tests", "tools", "train_gpt.py",
}  # fmt: skip
TEXT = {".py", ".md", ".txt", ".toml", ".yml", ""}


def repository_files() -> list[str]:
    """What git tracks or would track, as paths from the root."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"not a git checkout: {done.stderr.strip()}")
    return sorted({name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()})


def test_files_are_short():
    names = [name for name in repository_files() if name.endswith(".py") and not name.startswith("records/")]
    lines = {name: len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in names}
    assert lines.pop("train_gpt.py") > 0 and "tests/test_budgets.py" in lines
    long = {name: count for name, count in lines.items() if count > MAX_LINES}
    assert not long, f"split these, along a line of thought rather than of length: {long}"


def test_text_is_tidy():
    untidy = []
    for name in repository_files():
        if name.startswith(("records/", "tests/golden/")) or Path(name).suffix not in TEXT:
            continue
        text = (ROOT / name).read_bytes()
        if b"\r" in text or b" \n" in text or (text and not text.endswith(b"\n")):
            untidy.append(name)
    assert not untidy, f"carriage return, space at the end of a line, or no newline at the end: {untidy}"


def test_the_root_holds_only_the_main_line():
    found = {name.split("/")[0] for name in repository_files()}
    assert found <= ROOT_ENTRIES, f"move or ignore {sorted(found - ROOT_ENTRIES)}"
    assert {"train_gpt.py", "eval_heldout.py", "Makefile", "README.md"} <= found


def test_each_tool_is_in_the_folder_of_its_job():
    assert [path.name for path in (ROOT / "tools").glob("*.py")] == ["__init__.py"]
