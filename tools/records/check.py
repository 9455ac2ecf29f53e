"""Holds a record against RULES.md: one line per rule with what was measured, the limit and the fix.

    golf check records/pocket/0001_baseline
    golf check pull/7 --quick                          # every record that a branch adds to main
    golf check pull/7:records/pocket/0007_wider
    golf check hf://OWNER/NAME/records/pocket/0007_wider
    make hook                        # from now on `git push` checks the records that are pushed

Verdicts are PASS, FAIL, NOT CHECKED (with what to do to get it checked) and NOT APPLICABLE. Exit status: 0 every rule
passed or does not apply; 1 one failed; 4 none failed and one was not checked.

All artifacts are scored again with full audits, the data is searched for shared text, and on a track with par the
script is timed: on two cores that takes up to ten minutes an artifact, and as much for the timing. --quick leaves these
out and takes a minute; they are then NOT CHECKED. Before a push only quick checks run, and only a failure stops it.

Nothing of a record runs with the rights of who checks it: files are read and compared, artifacts are scored in the
scorer's box, the script is timed in a box of its own. Not covered: rules that need a person.
"""

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from golf.console import guarded
from golf.files import ROOT, Failure, explain
from golf.foreign import terminal
from golf.progress import Progress
from tools.records import rules, sources
from tools.records.submission import Submission
from tools.records.verdicts import FAIL, NOT_APPLICABLE, NOT_CHECKED, PASS, Verdict, counted

INCOMPLETE = 4  # the exit status where nothing failed and something was not checked
COLOURS = {PASS: "green", FAIL: "bold red", NOT_CHECKED: "yellow", NOT_APPLICABLE: "dim"}
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
    """Records touched by a push, but for those that it only makes additions to. lines: a pre-push hook's input,
    "local-ref local-hash remote-ref remote-hash"."""
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
        names = [name.lstrip("\n").split("/") for name in os.fsdecode(done.stdout).split("\0")]
        folders |= {"/".join(parts[:3]) for parts in names if len(parts) >= 4 and parts[3] != "additions"}
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


def report(name: str, verdicts: dict[str, Verdict]) -> None:
    """Prints the table of one record."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    titles = {rule.name: rule.title for rule in rules.RULES}
    table = Table(title=Text(terminal(name)), title_justify="left", box=SIMPLE)
    for column in ("", "rule", "", "measured"):
        table.add_column(column, no_wrap=column == "", overflow="fold")  # a long name is broken, not cut
    for rule, verdict in verdicts.items():
        lines = [terminal(verdict.measured)]
        if verdict.limit:
            lines.append(f"limit: {terminal(verdict.limit)}")
        if verdict.fix and verdict.status != PASS:
            lines.append(f"fix: {terminal(verdict.fix)}")
        status = Text(verdict.status, style=COLOURS[verdict.status])
        table.add_row(rule, titles[rule], status, Text("\n".join(lines)))
    Console().print(table)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; exits with 2 on bad usage."""
    parser = argparse.ArgumentParser(prog="golf check", description="Hold a record against RULES.md.")
    parser.add_argument(
        "records", nargs="*", metavar="RECORD", help="a folder, REF, REF:FOLDER, or an address hf://OWNER/NAME/FOLDER"
    )
    parser.add_argument("--data", type=Path, metavar="SET", help="the data set (default: where the runs had it)")
    parser.add_argument("--rule", action="append", metavar="R1", help="only this rule; may be repeated")
    parser.add_argument("--quick", action="store_true", help="do not score again, search the data or time the script")
    parser.add_argument(
        "--pushed", action="store_true", help="check what a pre-push hook's input names, quickly; only failures stop it"
    )
    parser.add_argument("--install-hook", action="store_true", help="write .git/hooks/pre-push (make hook)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args(argv)
    unknown = set(options.rule or []) - set(rules.NAMES)
    if unknown:
        parser.error(f"no rule {', '.join(sorted(unknown))}")
    if not (options.records or options.pushed or options.install_hook):
        parser.error("name a record: a folder, a commit, or an address on the hub")
    return options


def judged(named: Iterable[str], options: argparse.Namespace) -> dict[str, dict[str, Verdict]]:
    """{record: verdicts by rule}, printed as they come. Raises Failure and OSError."""
    results = {}
    for text in named:
        with sources.opened(text, ROOT) as found:
            for source in found:
                scores = not (options.quick or options.pushed)
                submission = Submission(source.folder, options.data, scores, ROOT, source.committed, source.more)
                with progress(source.name, len(options.rule or rules.RULES)) as on_rule:
                    results[source.name] = rules.check(submission, options.rule, on_rule)
                report(source.name, results[source.name])
    return results


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0 all is well, 1 a rule failed or bad input, 4 something was not checked."""
    options = parse(argv)
    try:
        if options.install_hook:
            print(f"wrote {install_hook(ROOT)}")
        pushed = pushed_records(ROOT, sys.stdin.read().splitlines()) if options.pushed else []
        results = judged([*options.records, *map(str, pushed)], options)
    except (Failure, OSError) as error:
        return explain("golf check", error)

    for name, verdicts in results.items():
        print(f"{terminal(name)}: {counted(verdicts)}")
    if options.json:
        as_json = {
            name: {rule: asdict(verdict) for rule, verdict in verdicts.items()} for name, verdicts in results.items()
        }
        print(json.dumps({"format": 2, "records": as_json}))
    statuses = {verdict.status for verdicts in results.values() for verdict in verdicts.values()}
    if FAIL in statuses:
        return 1
    return INCOMPLETE if NOT_CHECKED in statuses and not options.pushed else 0


if __name__ == "__main__":
    sys.exit(guarded("golf check", main))
