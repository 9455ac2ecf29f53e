"""Budgets on size and place: lines per file, columns per line, what may lie in the root. Readability, not line golf.

records/ is left out: a record keeps the script that ran.
"""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES, MAX_SCRIPT_LINES, MAX_COLUMNS = 600, 2000, 120
ROOT_ENTRIES = {".ci", ".gitignore", "AGENTS.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "RULES.md",
                "compress", "docs", "eval_heldout.py", "records", "requirements.txt", "scoring", "tests", "tools",
                "train_gpt.py"}


def repository_files() -> list[str]:
    """What git tracks or would track, as paths from the root."""
    done = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                          capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"not a git checkout: {done.stderr.strip()}")
    return sorted({name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()})


def python_files() -> list[str]:
    return [name for name in repository_files() if name.endswith(".py") and not name.startswith("records/")]


def test_files_are_short():
    lines = {name: len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in python_files()}
    assert "train_gpt.py" in lines and "tests/test_budgets.py" in lines
    long = {name: count for name, count in lines.items()
            if count > (MAX_SCRIPT_LINES if name == "train_gpt.py" else MAX_LINES)}
    assert not long, f"split these, along a line of thought rather than of length: {long}"


def test_lines_are_short():
    long = [f"{name}:{number} has {len(line)}" for name in python_files()
            for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), start=1)
            if len(line) > MAX_COLUMNS]
    assert not long, f"{len(long)} lines over {MAX_COLUMNS} columns:\n" + "\n".join(long)


def test_text_is_tidy():
    untidy = []
    for name in repository_files():
        if name.startswith(("records/", "tests/golden/")) or Path(name).suffix not in (".py", ".md", ".txt", ""):
            continue
        text = (ROOT / name).read_bytes()
        untidy += [name] * (b"\r" in text or not text.endswith(b"\n") and text != b"" or b" \n" in text)
    assert not untidy, f"carriage return, space at the end of a line, or no newline at the end: {untidy}"


def test_root_is_pristine():
    found = {name.split("/")[0] for name in repository_files()}
    assert found <= ROOT_ENTRIES, f"the root holds only the main line; move or ignore {sorted(found - ROOT_ENTRIES)}"
    assert {"train_gpt.py", "eval_heldout.py", "Makefile", "README.md"} <= found
