"""`golf COMMAND ...`: the front door to everything in this repository, and the only place that starts other packages.

Each command is a function `main(argv) -> exit status` of its own module, imported when it is asked for, so that
`golf --help` starts at once. What a command raises becomes one line here: a Failure or an OSError, an interruption.

Exit status, the same everywhere: 0 done; 1 a check failed or the input is bad; 2 wrong usage; 3 a claim is not proven;
4 nothing failed, and something was not checked; 130 interrupted; 141 nobody reads what it prints. Options are written
with dashes; an underscore in their name means the same.

Not covered: training, which is `python train_gpt.py` or `torchrun ... train_gpt.py`.
"""

import difflib
import importlib
import os
import signal
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from golf.children import terminate
from golf.console import guarded
from golf.files import ROOT, Failure, explain

DESCRIPTION = "Train the best language model that fits in a fixed number of bytes within a fixed time, and prove it."
READERS = {
    "participant": "For participants: train, pack and score, and see what was tried",
    "reviewer": "For reviewers: look into an artifact, hold a record against the rules",
    "maintainer": "For maintainers: the leaderboard, and what is known",
}
INTERRUPTED = 130
NO_HOME = "/nonexistent"  # as Debian says of users who have none


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
    "calibrate": Command(
        "participant",
        "compress.__main__",
        "gather packing's statistics for a script and weights from outside",
        "calibrate --script fork.py --weights final_model.pt --data data/embedded_sp2048_case",
        prefix=("calibrate",),
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
    "check-script": Command(
        "participant",
        "tools.plan.check_script",
        "hold a training script against docs/contract.md, before anything is trained",
        "check-script train_gpt.py --preset=tiny",
    ),
    "bench": Command(
        "participant",
        "compress.__main__",
        "this coder and others at equal loss",
        "bench --run runs/NAME",
        prefix=("bench",),
    ),
    "par": Command(
        "participant",
        "tools.plan.par",
        "how fast a script trains beside the baseline's: how many tokens it may use",
        "par train_gpt.py",
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
        "draw seeds; make a record of runs; publish it",
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
        "check records/pocket/0006_case_operators_under_par",
    ),
    "reproduce": Command(
        "reviewer",
        "tools.records.reproduce",
        "train a record's script again in a box, and compare",
        "reproduce records/pocket/0006_case_operators_under_par",
    ),
    "rescore": Command(
        "reviewer",
        "tools.records.rescore",
        "score a record's artifacts again",
        "rescore records/pocket/0006_case_operators_under_par",
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
        "Exit status: 0 done; 1 failed or bad input; 2 wrong usage; 3 not proven; 4 not checked; 130 interrupted;",
        "141 nobody reads the output.",
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
    # SIGTERM ends a command as Ctrl-C does: boxes are ended, and what is half made is removed
    handler = signal.signal(signal.SIGTERM, terminate)
    try:
        return importlib.import_module(command.module).main([*command.prefix, *arguments])
    except SystemExit as stop:
        words = [word for word in arguments if not word.startswith("-")]
        of_these = command.example.split()[1 : 1 + len(words)] == words  # an example of another subcommand misleads
        if stop.code == 0 and of_these and {"-h", "--help"} & set(arguments):
            print(f"\nExample: golf {command.example}")
        raise
    except (Failure, OSError) as error:
        return explain(f"golf {name}", error)
    except UnicodeEncodeError as error:  # of an argument or a file's name: Python keeps such bytes as surrogates
        part = ascii(error.object[max(0, error.start - 20) : error.end + 20])
        return explain(f"golf {name}", Failure(f"{part}: not UTF-8, and it would be written to a file: use UTF-8"))
    except KeyboardInterrupt:
        print(f"golf {name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, handler)


def main(argv: list[str] | None = None) -> int:
    """The front door; returns the exit status."""
    words = sys.argv[1:] if argv is None else argv
    return guarded("golf", lambda: enter(words))


def find_home() -> None:
    """Libraries ask for the user's home: where nobody knows one, they get a folder that is not there."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = NO_HOME


def enter(argv: list[str]) -> int:
    """As main(), for the words of a command line; what it prints may meet a reader who has left."""
    find_home()
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
