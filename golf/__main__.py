"""`golf COMMAND ...`: the front door to everything in this repository, and the only place that starts other packages.

Each command is a function `main(argv) -> exit status` of its own module, imported when it is asked for, so that
`golf --help` starts at once. What a command raises becomes one line here: a Failure or an OSError, an interruption.

Exit status, the same everywhere: 0 done; 1 a check failed or the input is bad; 2 wrong usage; 3 a claim is not proven;
130 interrupted. Options are written with dashes; an underscore in their name means the same.

Not covered: training, which is `python train_gpt.py` or `torchrun ... train_gpt.py`.
"""

import difflib
import importlib
import os
import sys
import tomllib
from dataclasses import dataclass

from golf.files import ROOT, Failure, explain

DESCRIPTION = "Train the best language model that fits in a fixed number of bytes within a fixed time, and prove it."
READERS = {
    "participant": "For participants: train, pack and score, and see what was tried",
    "reviewer": "For reviewers: look into an artifact, hold a record against the rules",
    "maintainer": "For maintainers: the leaderboard, and what is known",
}
BROKEN_PIPE = 1
INTERRUPTED = 130


@dataclass(frozen=True)
class Command:
    """One command: who reads of it, the module that holds its `main`, what it does in one line, and an example."""

    reader: str
    module: str
    help: str
    example: str  # what stands after `golf`
    prefix: tuple[str, ...] = ()  # words that go before the user's, where a module has several commands
    takes_fields: bool = False  # passes --field_name=value on to train_gpt.py, whose fields have underscores


COMMANDS = {
    "data": Command(
        "participant",
        "tools.data.cli",
        "build or check a data set",
        "data embedded --variant sp2048_case",
    ),
    "run": Command(
        "participant",
        "tools.runs.pipeline",
        "train, pack and score the pocket model, start to end",
        "run --budget 120",
    ),
    "smoke": Command(
        "participant",
        "tools.runs.smoke",
        "a first score within two minutes, to see that all works",
        "smoke",
    ),
    "score": Command(
        "participant",
        "eval_heldout",
        "score one .golf file on held-out text",
        "score runs/NAME/model.golf --data data/embedded_sp2048_case --split dev",
    ),
    "pack": Command(
        "participant",
        "compress.__main__",
        "make a .golf file of a run",
        "pack runs/NAME",
        prefix=("pack",),
    ),
    "size": Command(
        "participant",
        "compress.__main__",
        "bytes of a .golf file by section, and what is left under the cap",
        "size runs/NAME/model.golf --track pocket",
        prefix=("size",),
    ),
    "code": Command(
        "participant",
        "compress.__main__",
        "bytes that a script takes in an artifact",
        "code train_gpt.py",
        prefix=("code",),
    ),
    "bench": Command(
        "participant",
        "compress.__main__",
        "this coder and others at equal loss",
        "bench --run runs/NAME",
        prefix=("bench",),
    ),
    "bench-train": Command(
        "participant",
        "tools.plan.bench_train",
        "speed of train_gpt.py beside the script of record 0001",
        "bench-train --rounds 4",
        takes_fields=True,
    ),
    "plan": Command(
        "participant",
        "tools.plan.plan",
        "what a run will need and give, before anything is rented",
        "plan --preset=16mb --dollars-per-hour 24",
        takes_fields=True,
    ),
    "log": Command(
        "participant",
        "tools.runs.ledger",
        "the experiment log: what was tried and what came of it",
        "log best --track pocket",
    ),
    "watch": Command(
        "participant",
        "tools.runs.watch",
        "a live view of the runs in a folder",
        "watch --once",
    ),
    "sweep": Command(
        "participant",
        "tools.sweep.engine",
        "many runs from one file",
        "sweep SPEC.toml --dry-run",
    ),
    "record": Command(
        "participant",
        "tools.records.record",
        "draw seeds; make a record's folder from runs",
        "record seeds --commit HEAD --count 3",
    ),
    "inspect": Command(
        "reviewer",
        "compress.__main__",
        "bits per weight of a .golf file or a run, tensor by tensor",
        "inspect runs/NAME/model.golf",
        prefix=("inspect",),
    ),
    "verify": Command(
        "reviewer",
        "compress.__main__",
        "decode a .golf file and load its model",
        "verify runs/NAME/model.golf",
        prefix=("verify",),
    ),
    "unpack": Command(
        "reviewer",
        "compress.__main__",
        "write what is in a .golf file to a folder",
        "unpack runs/NAME/model.golf unpacked",
        prefix=("unpack",),
    ),
    "check": Command(
        "reviewer",
        "tools.records.check",
        "hold a record against RULES.md",
        "check records/pocket/0004_case_operators",
    ),
    "prove": Command(
        "reviewer",
        "tools.claims.prove",
        "is A better than B beyond luck?",
        "prove records/pocket/0004_case_operators records/pocket/0003_stack_and_scorer",
    ),
    "lineage": Command(
        "reviewer",
        "tools.records.lineage",
        "the family tree of the records",
        "lineage",
    ),
    "ladder": Command(
        "maintainer",
        "tools.claims.ladder",
        "questions about the gate and final splits",
        "ladder show",
    ),
    "methods": Command(
        "maintainer",
        "tools.sweep.methods",
        "what each technique is worth: measure it, and write the table",
        "methods table",
    ),
    "board": Command(
        "maintainer",
        "tools.records.leaderboard",
        "the leaderboard in README.md, and its pages",
        "board --check",
    ),
}


def version() -> str:
    """The kit's version, whose home is pyproject.toml: this repository is worked in, not published."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["version"]


def overview() -> str:
    """What `golf --help` prints: the commands by reader."""
    lines = [DESCRIPTION, "", "usage: golf COMMAND [OPTIONS] | golf COMMAND --help | golf --version"]
    width = max(map(len, COMMANDS))
    for reader, title in READERS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {name:{width}}  {each.help}" for name, each in COMMANDS.items() if each.reader == reader]
    lines += [
        "",
        "Training is a script of its own: python train_gpt.py --preset=pocket (on GPUs: torchrun ... train_gpt.py).",
        "With --json the last line on standard output is one JSON object.",
        "Exit status: 0 done; 1 a check failed or bad input; 2 wrong usage; 3 not proven; 130 interrupted.",
    ]
    return "\n".join(lines)


def dashed(arguments: list[str]) -> list[str]:
    """The arguments with --some_option as --some-option; values, and what stands behind a plain --, stay."""
    result = list(arguments)
    for place, argument in enumerate(arguments):
        if argument == "--":
            break
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            result[place] = name.replace("_", "-") + equals + value
    return result


def run(name: str, arguments: list[str]) -> int:
    """Runs one command; returns its exit status."""
    command = COMMANDS[name]
    if not command.takes_fields:
        arguments = dashed(arguments)
    try:
        status = importlib.import_module(command.module).main([*command.prefix, *arguments])
        sys.stdout.flush()
        return status
    except SystemExit as stop:
        if stop.code == 0 and {"-h", "--help"} & set(arguments):
            print(f"\nExample: golf {command.example}")
        raise
    except BrokenPipeError:
        # Whoever read our output has left, as `head` does. Python would complain once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (Failure, OSError) as error:
        return explain(f"golf {name}", error)
    except KeyboardInterrupt:
        print(f"golf {name}: interrupted", file=sys.stderr)
        return INTERRUPTED


def main(argv: list[str] | None = None) -> int:
    """The front door; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(overview())
        return 0
    if argv[0] == "--version":
        print(f"golf {version()}")
        return 0
    if argv[0] not in COMMANDS:
        near = difflib.get_close_matches(argv[0], COMMANDS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "golf --help lists the commands"
        print(f"golf: no command {argv[0]!r}: {hint}", file=sys.stderr)
        return 2
    return run(argv[0], argv[1:])


if __name__ == "__main__":
    sys.exit(main())
