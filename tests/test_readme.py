"""README.md says what is there: paths of the tree, commands and their flags, make targets, leaderboard.

Not covered: whether the commands do what the text says; tests/train/test_tiny.py runs them.
"""

import ast
import functools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tools.records import leaderboard

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def tree_paths(block: str) -> list[str]:
    """Paths of a tree in which two spaces of indent mean "inside the folder above"."""
    paths, folders = [], []
    for line in block.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        path = "/".join([*folders[:depth], name.rstrip("/")])
        if name.endswith("/"):
            folders[depth:] = [path.split("/")[-1]]
        paths.append(path)
    return paths


TREE = tree_paths(next(block for block in BLOCKS if "train_gpt.py  " in block and "LICENSE" in block))


def commands(text: str) -> list[list[str]]:
    """Shell commands in code blocks and in cells of tables: python, torchrun and make lines, split into words."""
    lines = "\n".join(re.findall(r"^```\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    lines += "\n" + "\n".join(re.findall(r"`((?:python|torchrun|make) [^`]*)`", text))
    return [shlex.split(line, comments=True) for line in lines.splitlines()
            if line.startswith(("python ", "torchrun ", "make "))]


PAGES = ("README.md", "RULES.md", "CONTRIBUTING.md", "AGENTS.md", "docs/h100.md")
COMMANDS = {shlex.join(words): words for name in PAGES
            for words in commands((ROOT / name).read_text(encoding="utf-8"))}


@functools.cache
def help_of(command: tuple[str, ...]) -> str:
    """What `python COMMAND --help` prints; it must succeed."""
    done = subprocess.run([sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)} --help: {done.stderr}"
    return done.stdout


@functools.cache
def config_fields() -> set[str]:
    """Names of the fields of train_gpt.py's Config, and the switches beside it, from its source."""
    tree = ast.parse((ROOT / "train_gpt.py").read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in ("ModelConfig", "Config")]
    fields = [node for each in classes for node in each.body if isinstance(node, ast.AnnAssign)]
    return {node.target.id for node in fields} | {"dry-run", "help"}


def split(words: list[str]) -> tuple[tuple[str, ...], list[str]]:
    """A command after `python` or `torchrun`, as (what to run, its arguments). Sub-commands belong to what is run."""
    words = words[1:]
    if words[0] == "-m":
        target, words = words[:2], words[2:]
    else:
        while words[0].startswith("--"):  # torchrun's own
            words = words[1:]
        target, words = words[:1], words[1:]
    with_commands = ("compress", "golf data", "golf record", "golf log", "golf ladder",
                     "golf methods")
    is_command = target[-1] in with_commands or (*target, *words[:1]) == ("eval_heldout.py", "compare")
    if is_command and words and not words[0].startswith("-"):
        target, words = [*target, words[0]], words[1:]
    return tuple(target), words


def problems(words: list[str]) -> list[str]:
    """What is wrong with a command: no such target, script, sub-command or flag, or a required flag left out."""
    if words[0] == "make":
        targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
        variables = set(re.findall(r"^([A-Z]+) \?=", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
        return [word for word in words[1:] if word != "..." and word.split("=")[0] not in targets | variables]
    target, arguments = split(words)
    if target[0] != "-m" and not (ROOT / target[0]).is_file():
        return [f"no {target[0]}"]
    flags = {word.split("=")[0] for word in arguments if word.startswith("--")}
    if target[0] == "train_gpt.py":
        return sorted(flag for flag in flags if flag.removeprefix("--") not in config_fields())
    try:
        text = help_of(target)
    except AssertionError as error:
        return [str(error)]
    usage = text.split("\n\n")[0]
    while "[" in usage:
        usage = re.sub(r"\[[^][]*\]", "", usage)  # what is left are the arguments that must be given
    usage = re.sub(r"\([^()]*\|[^()]*\)", "", usage)  # one of several: not any one of them
    required = set(re.findall(r"--\w+", usage)) if arguments and "..." not in arguments else set()
    unknown = [flag for flag in flags if not re.search(rf"{flag}\b", text)]
    return sorted(unknown + [f"no {flag}" for flag in required - flags])


@pytest.mark.parametrize("path", TREE)
def test_path_of_the_tree_exists(path):
    assert list(ROOT.glob(re.sub("<[^>]*>", "*", path))), f"{path} is in the README's tree and not in the repository"


def test_every_module_is_in_the_tree():
    modules = {path.relative_to(ROOT).as_posix() for folder in (".", "compress", "scoring", "tools")
               for path in (ROOT / folder).glob("*.py") if path.name != "__init__.py"}
    assert modules - set(TREE) == set()
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))}
    assert folders - {path.split("/")[0] for path in TREE} <= {"data", "runs", "site"}


@pytest.mark.parametrize("command", COMMANDS)
def test_command_exists_with_its_flags(command):
    assert problems(COMMANDS[command]) == []


@pytest.mark.parametrize("command, found", [
    ("make run BUDGET=60", []), ("make fly", ["fly"]), ("make run SPEED=1", ["SPEED=1"]),
    ("python tools/none.py", ["no tools/none.py"]), ("python train_gpt.py --seeed=1 --seed=2", ["--seeed"]),
    ("torchrun --nproc_per_node=2 train_gpt.py --presets=tiny", ["--presets"]),
    ("golf run --budget 5 --fast", ["--fast"]), ("golf data text FOLDER", ["no --out"]),
    ("golf record seeds --number 1", ["--number"]),
])
def test_the_check_finds_what_it_should(command, found):
    assert problems(shlex.split(command)) == found


def test_unknown_subcommand_is_found():
    assert problems(["python", "-m", "compress", "shrink", "x"]) != []


def test_the_two_commands_and_both_torchrun_lines_are_shown():
    assert {"make run", "make test", "torchrun --standalone --nproc_per_node=8 train_gpt.py",
            "torchrun --standalone --nproc_per_node=2 train_gpt.py --preset=tiny",
            "python train_gpt.py --preset=16mb --dry-run"} <= set(COMMANDS)
    assert len(COMMANDS) > 20


def test_local_links_lead_somewhere():
    for page in ("README.md", "RULES.md", "CONTRIBUTING.md", "AGENTS.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)#]+)", text):
            assert link.startswith("http") or (ROOT / link).exists(), f"{page} links to {link}"
        for path in re.findall(r"`((?:tests|tools|compress|scoring|docs)/[\w./]+)`", text):
            assert (ROOT / path).exists(), f"{page} names {path}"


def test_make_help_lists_every_target():
    shown = subprocess.check_output(["make", "help"], cwd=ROOT, text=True)
    for target in ("run", "test", "venv", "help"):
        assert re.search(rf"^make {target} ", shown, flags=re.MULTILINE)


def test_leaderboard_is_fresh():
    assert leaderboard.rewrite(README, leaderboard.read_records(ROOT)) == README
