"""`golf COMMAND ...`: the front door to everything in this repository, and the only place that starts other packages.

Each command is a function `main(argv) -> exit status` of its own module, imported when it is asked for, so that
`golf --help` starts at once. Exit status, the same everywhere: 0 done; 1 a check failed or the input is bad (one line
on standard error says what); 2 wrong usage; 3 a claim is not proven; 130 interrupted.

Not covered: training, which is `python train_gpt.py` or `torchrun ... train_gpt.py`.
"""

import importlib
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One command: who reads of it, the module that holds its `main`, and what it does, in one line."""

    reader: str
    module: str
    help: str
    prefix: tuple[str, ...] = ()  # words that go before the user's, where a module has several commands


COMMANDS = {
    "data": Command("participant", "tools.data.cli", "build or check a data set"),
    "run": Command("participant", "tools.runs.pipeline", "train, pack and score the pocket model, start to end"),
    "smoke": Command("participant", "tools.runs.smoke", "a first score within two minutes, to see that all works"),
    "score": Command("participant", "eval_heldout", "score one .golf file on held-out text"),
    "pack": Command("participant", "compress.__main__", "make a .golf file of a run", ("pack",)),
    "size": Command("participant", "compress.__main__", "bytes of a .golf file by section", ("size",)),
    "code": Command("participant", "compress.__main__", "bytes that a script takes in an artifact", ("code",)),
    "bench": Command("participant", "compress.__main__", "this coder and others at equal loss", ("bench",)),
    "bench-train": Command("participant", "tools.plan.bench_train", "speed of a script beside record 0001's"),
    "log": Command("participant", "tools.runs.ledger", "the experiment log: what was tried and what came of it"),
    "sweep": Command("participant", "tools.sweep.engine", "many runs from one file"),
    "watch": Command("participant", "tools.runs.watch", "a live view of the runs in a folder"),
    "plan": Command("participant", "tools.plan.plan", "what a run will need and give"),
    "record": Command("participant", "tools.records.record", "draw seeds; make a record's folder from runs"),
    "inspect": Command("reviewer", "compress.__main__", "bits per weight of a .golf file or a run", ("inspect",)),
    "verify": Command("reviewer", "compress.__main__", "decode a .golf file and load its model", ("verify",)),
    "unpack": Command("reviewer", "compress.__main__", "write what is in a .golf file to a folder", ("unpack",)),
    "check": Command("reviewer", "tools.records.check", "hold a record against RULES.md"),
    "prove": Command("reviewer", "tools.claims.prove", "is A better than B beyond luck?"),
    "lineage": Command("reviewer", "tools.records.lineage", "the family tree of the records"),
    "ladder": Command("maintainer", "tools.claims.ladder", "questions about the gate and final splits"),
    "methods": Command("maintainer", "tools.sweep.methods", "the table of techniques, run and written"),
    "board": Command("maintainer", "tools.records.leaderboard", "README.md's leaderboard, and the site"),
}


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    command = COMMANDS.get(argv[0]) if argv else None
    if command is None:
        print(f"golf: no command {argv[0]!r}" if argv else "golf: name a command", file=sys.stderr)
        return 2
    module = importlib.import_module(command.module)
    return module.main([*command.prefix, *argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
