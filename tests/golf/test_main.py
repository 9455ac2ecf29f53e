"""The front door: what it lists, how it reads options, and what becomes of everything that a command may raise.

Not covered: what the commands do; each has tests of its own.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf import __main__ as front_door
from golf import console
from golf.__main__ import COMMANDS, Command, dashed, main
from golf.files import Failure
from tests.support import HALF_WRITTEN, ROOT

NAMES = (
    "data run smoke score pack size inspect verify unpack code check-script bench par bench-train log sweep watch plan "
    "methods record check reproduce rescore prove ladder lineage board"
).split()


class Parsed(Exception):
    """Stands for what a command would do after it has read its arguments."""


@pytest.fixture
def parsers(monkeypatch) -> list[argparse.ArgumentParser]:
    """The parsers that read a command line from here on. A command ends with Parsed once its arguments are read."""
    seen: list[argparse.ArgumentParser] = []
    for name in ("parse_args", "parse_known_args"):
        original = getattr(argparse.ArgumentParser, name)

        def parse(self, args=None, namespace=None, original=original):
            if seen:  # a parser of a subcommand, or the parser itself once more
                return original(self, args, namespace)
            seen.append(self)
            original(self, args, namespace)
            raise Parsed

        monkeypatch.setattr(argparse.ArgumentParser, name, parse)
    return seen


def below(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """The parsers of its subcommands, or the parser itself if it has none."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return [leaf for child in action.choices.values() for leaf in below(child)]
    return [parser]


def test_the_commands_are_those_that_were_promised():
    assert sorted(COMMANDS) == sorted(NAMES)
    assert {command.reader for command in COMMANDS.values()} == set(front_door.READERS)


def test_the_overview_has_each_command_once_in_aligned_columns(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert main([]) == 0 and capsys.readouterr().out == printed
    rows = re.findall(r"^  (\S+)( +)(.+)$", printed, re.MULTILINE)
    assert [name for name, _, _ in rows] == [
        name for reader in front_door.READERS for name, command in COMMANDS.items() if command.reader == reader
    ]
    assert len({len(name + gap) for name, gap, _ in rows}) == 1
    assert all(len(line) <= 120 for line in printed.splitlines())


def test_the_version_is_the_one_of_pyproject(capsys):
    assert main(["--version"]) == 0
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert capsys.readouterr().out == f"golf {project['version']}\n"
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[(\d\S*)\]", changelog, re.MULTILINE)[1] == project["version"]


@pytest.mark.parametrize(
    "word, hint",
    [("recrod", "did you mean record?"), ("bench_train", "did you mean bench-train?"), ("xyzzy", "--help")],
)
def test_an_unknown_command_is_wrong_usage(word, hint, capsys):
    assert main([word]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and hint in err


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_with_an_example_that_parses(name, parsers, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    [example] = re.findall(r"^Example: golf (.+)$", capsys.readouterr().out, re.MULTILINE)
    words = shlex.split(example)
    assert words[0] == name
    parsers.clear()
    with pytest.raises(Parsed):
        main(words)


@pytest.mark.parametrize("name", COMMANDS)
def test_options_have_dashes_and_every_command_takes_json(name, parsers):
    with pytest.raises(Parsed):
        main(shlex.split(COMMANDS[name].example))
    for leaf in below(parsers[0]):
        options = [option for action in leaf._actions for option in action.option_strings]
        assert "--json" in options, leaf.prog
        with_underscore = [option for option in options if "_" in option]
        assert {option.replace("_", "-") for option in with_underscore} <= set(options), leaf.prog


@given(st.lists(st.sampled_from(["--a_b", "--a_b=c_d", "--a-b", "-x_y", "c_d", "--", "--=_", "--é_é=_"])))
def test_dashes_stand_for_underscores_in_names_alone(arguments):
    expected, plain = [], False
    for argument in arguments:
        plain = plain or argument == "--"
        name = re.match(r"--[^=]*", argument)
        if name and not plain:
            argument = name[0].replace("_", "-") + argument[len(name[0]) :]
        expected.append(argument)
    assert dashed(arguments) == expected and dashed(expected) == expected


@pytest.fixture
def command(monkeypatch):
    """command(function): makes `golf example` a command whose main is `function`."""

    def make(function, takes_fields=False):
        module = types.SimpleNamespace(main=function)
        monkeypatch.setitem(sys.modules, "example_command", module)
        example = Command("reviewer", "example_command", "an example", "example", ("first",), takes_fields)
        monkeypatch.setitem(COMMANDS, "example", example)

    return make


def test_a_command_gets_its_words_and_its_status_is_passed_on(command):
    seen = []
    command(lambda argv: seen.append(argv) or 3)
    assert main(["example", "--two_words", "a_b"]) == 3
    command(lambda argv: seen.append(argv) or 0, takes_fields=True)
    assert main(["example", "--model_dim=64"]) == 0
    assert seen == [["first", "--two-words", "a_b"], ["first", "--model_dim=64"]]


@pytest.mark.parametrize(
    "raised, status, says",
    [
        (Failure("x.toml: no key 'name'"), 1, "golf example: x.toml: no key 'name'\n"),
        (Failure("--count must be positive", code=2), 2, "golf example: --count must be positive\n"),
        (FileNotFoundError(2, "No such file", "a.golf"), 1, "golf example: a.golf: No such file\n"),
        (OSError(28, "No space left"), 1, "golf example: No space left: make room there and run it again\n"),
        (KeyboardInterrupt(), 130, "golf example: interrupted\n"),
    ],
)  # fmt: skip
def test_what_a_command_raises_is_one_line(raised, status, says, command, capsys):
    def fail(argv):
        raise raised

    command(fail)
    assert main(["example"]) == status
    assert capsys.readouterr() == ("", says)


def test_sigterm_ends_a_command_that_cleans_up(command, capsys):
    """As Ctrl-C does; what was set for the signal before is set again."""
    cleaned = []

    def work(argv):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            return 0
        finally:
            cleaned.append("what was half made")

    command(work)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert main(["example"]) == front_door.INTERRUPTED
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert cleaned and capsys.readouterr() == ("", "golf example: interrupted\n")


def test_a_reader_that_leaves_is_no_error():
    """As in `golf --help | true`: more than a pipe holds, so that the writer meets the closed end."""
    code = (
        "import sys, types; from golf import __main__ as door;"
        "sys.modules['wordy'] = types.SimpleNamespace(main=lambda argv: print('word ' * 10**6) or 0);"
        "door.COMMANDS['wordy'] = door.Command('reviewer', 'wordy', '', 'wordy');"
        "sys.exit(door.main(['wordy']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == console.READER_GONE


@pytest.fixture(scope="module")
def fresh_clone(tmp_path_factory):
    """The packages, the records and the README, and nothing that a command would have made."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("golf", "compress", "scoring", "tools", "records", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=HALF_WRITTEN)
    for name in ("README.md", "pyproject.toml", "train_gpt.py", "eval_heldout.py"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.mark.parametrize(
    "arguments, empty",
    [
        ("log show", "runs"),
        ("log best --track pocket", "runs"),
        ("log sync", "rows"),
        ("log verify", None),
        ("watch --once", "running"),
        ("ladder show", "questions"),
        ("board", None),
        pytest.param("lineage", None, marks=pytest.mark.long),
    ],
)
def test_a_fresh_clone_gets_an_empty_answer(arguments, empty, fresh_clone):
    command = [sys.executable, "-m", "golf", *arguments.split(), "--json"]
    done = subprocess.run(command, cwd=fresh_clone, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""})
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(answer, dict) and (empty is None or answer[empty] == [])
