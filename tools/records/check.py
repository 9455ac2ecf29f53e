"""Holds a record's folder against RULES.md: one line per rule with what was measured, the limit and the fix.

    golf check records/pocket/0001_baseline
    make hook                        # from now on `git push` checks the records that are pushed

Re-scores the artifact with full audits and searches the data for shared text: on two cores three minutes for a plain
pocket model, eight for one that trains while it is scored; --quick leaves both out. Exit status: 0 no rule failed,
1 one did. tools/records/rules.py has the rules.

Nothing of a record runs with the rights of who checks it: files are read and compared, and the artifact is scored in
the scorer's box. Not covered: rules that need a person; they are SKIP.
"""

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from golf.files import ROOT, Failure, explain
from golf.foreign import terminal
from golf.progress import Progress
from tools.records import rules

HOOK = """#!/bin/sh
# Written by `make hook`: checks the records that a push adds or changes. `git push --no-verify` goes past it.
cd "$(git rev-parse --show-toplevel)" || exit 1
python=python3
[ -x .venv/bin/python ] && python=.venv/bin/python
exec "$python" -m golf check --pushed
"""


def install_hook(root: Path) -> Path:
    """Writes the pre-push hook. Failure if another hook is there."""
    done = subprocess.run(["git", "rev-parse", "--git-path", "hooks"], cwd=root, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"{root}: not a git repository")
    path = root / done.stdout.strip() / "pre-push"
    if path.exists() and path.read_text() != HOOK:
        raise Failure(f"{path}: there is another hook: add the line `golf check --pushed` to it")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HOOK)
    path.chmod(0o755)
    return path


def pushed_records(root: Path, lines: list[str]) -> list[Path]:
    """Records touched by a push. lines: a pre-push hook's input, "local-ref local-hash remote-ref remote-hash"."""
    folders = set()
    for line in lines:
        words = line.split(" ")
        if len(words) != 4 or not all(re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", words[place]) for place in (1, 3)):
            raise Failure(f"not a line of a pre-push hook's input: {terminal(line, 100)}")
        _, local, _, remote = words
        if set(local) == {"0"}:  # a branch is removed
            continue
        known = (
            set(remote) != {"0"}
            and subprocess.run(["git", "cat-file", "-e", remote], cwd=root, capture_output=True).returncode == 0
        )
        commits = [f"{remote}..{local}"] if known else [local, "--not", "--remotes"]
        done = subprocess.run(
            ["git", "log", "--format=", "--name-only", "-z", *commits, "--", "records/"], cwd=root, capture_output=True
        )
        if done.returncode != 0:
            raise Failure(f"git log {' '.join(commits)}: {done.stderr.decode(errors='replace').strip()}")
        names = os.fsdecode(done.stdout).split("\0")
        folders |= {"/".join(name.lstrip("\n").split("/")[:3]) for name in names if name.count("/") >= 3}
    return [root / folder for folder in sorted(folders) if (root / folder).is_dir()]


@contextlib.contextmanager
def progress(name: str, count: int):
    """Gives a function to call with each rule's title; on a terminal, stderr shows a bar meanwhile."""
    with Progress() as bar:
        bar.phase(terminal(name), total=count + 1, unit="rules")

        def on_rule(title: str) -> None:
            bar.advance()
            bar.note(title)

        yield on_rule


def report(name: str, verdicts: dict[str, rules.Verdict]) -> None:
    """Prints the table of one record."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    titles = {rule: title for rule, title, _ in rules.RULES}
    table = Table(title=Text(terminal(name)), title_justify="left", box=SIMPLE)
    for column in ("", "rule", "", "measured", "limit"):
        table.add_column(column, no_wrap=column == "")
    colours = {"PASS": "green", "FAIL": "bold red", "SKIP": "yellow"}
    for rule, verdict in verdicts.items():
        measured = terminal(verdict.measured) + (f"\nfix: {terminal(verdict.fix)}" if verdict.fix else "")
        table.add_row(
            rule,
            titles[rule],
            Text(verdict.status, style=colours[verdict.status]),
            Text(measured),
            Text(terminal(verdict.limit)),
        )
    Console().print(table)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0 if no rule failed."""
    parser = argparse.ArgumentParser(prog="golf check", description="Hold a record against RULES.md.")
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR", help="a record's folder")
    parser.add_argument("--data", type=Path, metavar="SET", help="the data set (default: where the runs had it)")
    parser.add_argument("--rule", action="append", metavar="R1", help="only this rule; may be repeated")
    parser.add_argument("--quick", action="store_true", help="neither score again nor search the data for shared text")
    parser.add_argument("--pushed", action="store_true", help="check what a pre-push hook's input names")
    parser.add_argument("--install-hook", action="store_true", help="write .git/hooks/pre-push (make hook)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args(argv)
    unknown = set(options.rule or []) - {name for name, _, _ in rules.RULES}
    if unknown or not (options.folders or options.pushed or options.install_hook):
        parser.error(f"no rule {', '.join(sorted(unknown))}" if unknown else "name a record's folder")
    results = {}
    try:
        if options.install_hook:
            print(f"wrote {install_hook(ROOT)}")
        folders = options.folders + (pushed_records(ROOT, sys.stdin.read().splitlines()) if options.pushed else [])
        for folder in folders:
            with progress(str(folder), len(options.rule or rules.RULES)) as on_rule:
                submission = rules.Submission(folder, options.data, not options.quick)
                results[str(folder)] = rules.check(submission, options.rule, on_rule)
            report(str(folder), results[str(folder)])
    except (Failure, OSError) as error:
        return explain("golf check", error)
    failed = {
        folder: [rule for rule, verdict in verdicts.items() if verdict.status == "FAIL"]
        for folder, verdicts in results.items()
    }
    for folder, names in failed.items():
        print(f"{terminal(folder)}: {'FAIL ' + ' '.join(names) if names else 'no rule failed'}")
    if options.json:
        print(
            json.dumps(
                {
                    "format": 1,
                    "records": {
                        folder: {rule: asdict(verdict) for rule, verdict in verdicts.items()}
                        for folder, verdicts in results.items()
                    },
                }
            )
        )
    return 1 if any(failed.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
