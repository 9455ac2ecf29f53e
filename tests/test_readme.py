"""The pages for people name only what is there: commands and their options, make targets, links and files.

Each command is given to the parser that it would reach, in this process; none is run. Not covered: whether a command
does what the text says (tests/train/test_tiny.py runs the main ones); wording and layout.
"""

import argparse
import contextlib
import importlib.util
import io
import re
import shlex
from unittest import mock

import pytest

import compress.__main__
import eval_heldout
import golf.__main__
import train_gpt
from tests.support import ROOT
from tools.records import leaderboard

PAGES = [ROOT / name for name in ("README.md", "RULES.md", "CONTRIBUTING.md", "AGENTS.md")]
PAGES += sorted(path for path in ROOT.glob("docs/*.md") if path.name != "addresses.md")  # what no longer is
STARTS = ("golf ", "python ", "torchrun ", "make ")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


class Parsed(BaseException):
    """Raised in place of what a command would do after it has read its arguments."""


def usage_error(main, argv: list[str]) -> str:
    """What argparse, or a command's own check, says of `argv`; empty if it is understood."""
    depth = 0

    def stop_after(parse):
        """A method that parses, and raises Parsed where no other method of a parser called it."""

        def parse_and_stop(*arguments, **keywords):
            nonlocal depth
            depth += 1
            try:
                result = parse(*arguments, **keywords)
            finally:
                depth -= 1
            if depth == 0:
                raise Parsed
            return result

        return parse_and_stop

    output = io.StringIO()
    with contextlib.ExitStack() as stack:
        for name in ("parse_args", "parse_known_args"):
            method = stop_after(getattr(argparse.ArgumentParser, name))
            stack.enter_context(mock.patch.object(argparse.ArgumentParser, name, method))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(output))
        try:
            status = main(argv)
        except Parsed:
            return ""
        except SystemExit as end:
            status = end.code
    return "" if status == 0 else output.getvalue().strip().splitlines()[-1]


def training_error(argv: list[str]) -> str:
    """What train_gpt.py says of its arguments. A word in capitals, as in --seed=N, stands for a number."""
    argv = [re.sub(r"=[A-Z_]+$", "=1", argument) for argument in argv if argument not in ("--dry-run", "--help")]
    try:
        train_gpt.parse_config(argv, {})
    except train_gpt.RunError as error:
        return str(error)
    return ""


def make_error(words: list[str]) -> str:
    """What the Makefile lacks of the targets and variables of a make command."""
    known = set(re.findall(r"^([a-z-]+):|^([A-Z]+) \?=", MAKEFILE, flags=re.MULTILINE))
    names = {target or variable for target, variable in known}
    return " ".join(word for word in words if word.split("=")[0] not in names)


def python_error(words: list[str]) -> str:
    """What is wrong with the words after `python`: an own program is asked, of others only the name is looked up."""
    if words[0] == "train_gpt.py":
        return training_error(words[1:])
    if words[0] == "eval_heldout.py":
        return usage_error(eval_heldout.main, words[1:])
    if words[0] != "-m":
        return "" if (ROOT / words[0]).is_file() else f"no file {words[0]}"
    if words[1] == "compress":
        return usage_error(compress.__main__.main, words[2:])
    if importlib.util.find_spec(words[1]) is None:
        return f"no module {words[1]}"
    paths = [word for word in words[2:] if word.startswith("tests/")]
    return " ".join(f"no file {path}" for path in paths if not (ROOT / path).exists())


def command_error(command: str, whole: bool = True) -> str:
    """What is wrong with a command; empty if nothing is.

    whole: a command to be typed as it stands, of a code block. Otherwise text may name it without all that it needs.
    """
    words = [word for word in shlex.split(command, comments=True) if word != "..."]
    if ">" in words:  # what stands behind it is a file
        words = words[: words.index(">")]
    program, words = words[0], words[1:]
    if program == "make":
        return make_error(words)
    if program == "golf":
        error = usage_error(golf.__main__.main, words)
    elif program == "torchrun":
        script = next(number for number, word in enumerate(words) if word.endswith(".py"))
        error = python_error(words[script:])
    else:
        error = python_error(words)
    named = not whole or "..." in command
    return "" if named and re.search("arguments are required|expected one argument", error) else error


def blocks(text: str) -> list[str]:
    """The commands in a page's code blocks. A backslash at the end of a line joins it to the next; a line with columns,
    two spaces or more apart, is a picture of the flow.
    """
    text = "\n".join(re.findall(r"^```\w*\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL))
    lines = [line.partition(" #")[0].strip() for line in re.sub(r" *\\\n *", " ", text).splitlines()]
    return [line for line in lines if line.startswith(STARTS) and "  " not in line]


def mentions(text: str) -> list[str]:
    """The commands in a page's sentences and tables."""
    return [words for words in re.findall(r"`([^`\n]+)`", text) if words.startswith(STARTS)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_understood(page):
    text = page.read_text(encoding="utf-8")
    errors = {command: command_error(command) for command in blocks(text)}
    errors |= {command: command_error(command, whole=False) for command in mentions(text)}
    assert {command: error for command, error in errors.items() if error} == {}


def test_commands_are_found():
    text = "Say `golf log` or `ls`.\n```\ngolf run --budget \\\n  5   # seconds\nls\ngolf run    writes runs/\n```\n"
    assert blocks(text) == ["golf run --budget 5"]
    assert mentions(text) == ["golf log"]
    assert len({command for page in PAGES for command in blocks(page.read_text(encoding="utf-8"))}) > 20


@pytest.mark.parametrize(
    "command, found",
    [
        ("make run BUDGET=60", ""),
        ("make fly", "fly"),
        ("make run SPEED=1", "SPEED=1"),
        ("golf fly", "fly"),
        ("golf run --budget 5 --fast", "--fast"),
        ("golf run --budget 5 --json", ""),
        ("golf data text FOLDER", "--out"),
        ("golf record seeds --number 1", "--number"),
        ("golf record make ...", ""),
        ("python tools/none.py", "no file tools/none.py"),
        ("python -m compress shrink x", "shrink"),
        ("python eval_heldout.py a.golf --split all", "--split"),
        ("python train_gpt.py --preset=tiny --seed=N", ""),
        ("python train_gpt.py --seeed=1", "--seeed"),
        ("torchrun --nproc_per_node=2 train_gpt.py --preset=huge", "huge"),
        ("python -m pytest tests/test_none.py", "no file tests/test_none.py"),
        ("python -m timeit 1", ""),
    ],
)
def test_the_check_finds_what_it_should(command, found):
    error = command_error(command)
    assert found in error and bool(found) == bool(error)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_names_of_files_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if not link.startswith(("http", "mailto:"))]
    names = re.findall(r"`((?:tests|tools|golf|compress|scoring|docs)/[\w./]+)`", text)
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [name for name in names if not (ROOT / name).exists()]
    assert missing == []


def test_new_addresses_exist():
    """The last column of docs/addresses.md, where it names files."""
    text = (ROOT / "docs" / "addresses.md").read_text(encoding="utf-8")
    names = re.findall(r"\| `([\w/.]+)` \|$", text, flags=re.MULTILINE)
    assert len(names) > 50 and [name for name in names if not (ROOT / name).exists()] == []


def test_leaderboard_is_fresh():
    survey = leaderboard.read_records(ROOT)
    assert leaderboard.stale_files(leaderboard.contents(ROOT, survey)) == [] and survey.problems() == []
