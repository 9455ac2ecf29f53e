"""The family tree of the records: which lines each script inherits, changes and adds, and what falls with an ancestor.

    golf lineage                             # the tree, with lines and the gain of each step
    golf lineage --lines records/pocket/0002_trellis_coded   # where each line comes from
    golf lineage --invalid 0002_trellis_coded        # what to verify again if it is invalid

Lines are compared as statements of the syntax tree, with names replaced by the order in which a statement uses them, so
renaming, reformatting and comments make nothing new. A statement that has a near counterpart at its place is changed.

Not covered: ideas taken without code; code taken from outside the records.
"""

import argparse
import ast
import collections
import copy
import difflib
import functools
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from golf import script
from golf.console import guarded
from golf.files import ROOT, Failure, check_plain, explain, read_text
from golf.foreign import terminal
from tools.records import comparing, reading, references, remembered

KINDS = ("inherited", "changed", "new")
REWRITTEN = -1  # in place of the number of a statement: it is the parent's, in the words of the parent's reference
# A hostile script could be compared for days. The records so far have 1,052 statements of up to 4,505 characters, and
# took 3e8 comparisons of characters.
MAX_STATEMENTS, MAX_FORM, MAX_EFFORT = 5000, 10_000, 2_000_000_000


@dataclass
class Statement:
    """One statement (of a compound one the head): its lines in the file, its normal form and where it comes from."""

    lines: range
    form: str  # "" where only the others are remembered
    kind: str = "new"
    origin: str = ""


@dataclass
class Record:
    """One record in the tree."""

    name: str
    folder: Path
    data: dict
    parent: "Record | None" = None
    children: list["Record"] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)

    def count(self, kind: str) -> int:
        """Lines of this kind."""
        return sum(len(statement.lines) for statement in self.statements if statement.kind == kind)


class Rename(ast.NodeTransformer):
    """Replaces the names that a script is free to choose by the order in which the statement uses them.

    Attributes and keywords stay: they belong to libraries."""

    def __init__(self):
        self.names: dict[str, str] = {}

    def name(self, text: str) -> str:
        return self.names.setdefault(text, f"n{len(self.names)}")

    def visit_Name(self, node):
        node.id = self.name(node.id)
        return node

    def visit_arg(self, node):
        node.arg, node.annotation = self.name(node.arg), None
        return node

    def visit_ClassDef(self, node):
        node.name = self.name(node.name)
        return self.generic_visit(node)

    def visit_FunctionDef(self, node):
        node.returns = None
        return self.visit_ClassDef(node)

    visit_AsyncFunctionDef = visit_FunctionDef


def statements(source: str, name: str) -> list[Statement]:
    """The statements of a script in order, docstrings left out. Failure if it does not parse."""
    return [Statement(lines, form) for lines, form in _lines_and_forms(source, name)]


@functools.lru_cache(maxsize=16)  # a record's script is looked at again for each record that builds on it
def _lines_and_forms(source: str, name: str) -> list[tuple[range, str]]:
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise Failure(f"{name}: line {error.lineno}: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:  # a NUL, half a surrogate pair, brackets without end
        raise Failure(f"{name}: not a script: {error or type(error).__name__}") from None
    found: list[tuple[range, str]] = []

    def visit(body: list[ast.stmt]) -> None:
        for index, node in enumerate(body):
            if (
                index == 0
                and isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                continue
            blocks = [
                (key, value)
                for key, value in ast.iter_fields(node)
                if isinstance(value, list)
                and value
                and isinstance(value[0], (ast.stmt, ast.ExceptHandler, ast.match_case))
            ]
            head = copy.copy(node)
            for key, _ in blocks:
                setattr(head, key, [])
            start = min([node.lineno, *(item.lineno for item in getattr(node, "decorator_list", []))])
            inner = [item for _, block in blocks for item in block]
            end = min((getattr(item, "lineno", None) or item.pattern.lineno for item in inner), default=None)
            last = node.end_lineno if end is None else max(start, min(end - 1, node.end_lineno))
            form = ast.dump(Rename().visit(head))  # in place: nothing below looks at these expressions again
            found.append((range(start, last + 1), form))
            for _, block in blocks:
                if isinstance(block[0], ast.stmt):
                    visit(block)
                else:
                    for part in block:
                        visit(part.body)

    visit(tree.body)
    if len(found) > MAX_STATEMENTS:
        raise Failure(f"{name}: {len(found):,} statements: at most {MAX_STATEMENTS:,} are compared with a parent's")
    return found


def start_of(record: Record, source: str) -> list[Statement]:
    """The statements that a record's script started from, with their origins: its parent's, or those of the parent's
    reference where that is nearer. A reference makes nothing new: what it writes in another way is the parent's."""
    if record.parent is None:
        return []
    start = references.start_of(record.parent.folder, source.encode())
    if not start.is_reference:
        return record.parent.statements
    rewritten = Record(record.parent.name, record.parent.folder, {}, parent=record.parent)
    rewritten.statements = statements(start.source.decode(), start.name)
    trace(rewritten, record.parent.statements)
    return rewritten.statements


def trace(record: Record, before: list[Statement]) -> None:
    """Sets kind and origin of each statement of a record. before: the statements that its script started from."""
    if record.parent is None:
        for statement in record.statements:
            statement.origin = record.name
        return
    matcher = difflib.SequenceMatcher(None, [s.form for s in before], [s.form for s in record.statements], False)
    gone = collections.defaultdict(list)  # statements of the parent that moved
    effort = 0  # characters times characters that were compared
    rest = []
    for operation, i1, i2, j1, j2 in matcher.get_opcodes():
        if operation == "equal":
            for old, new in zip(before[i1:i2], record.statements[j1:j2]):
                new.kind, new.origin = "inherited", old.origin
        else:
            rest.append((before[i1:i2], record.statements[j1:j2]))
            for old in before[i1:i2]:
                gone[old.form].append(old)
    for old_block, new_block in rest:
        for new in new_block:
            new.origin = record.name
            if gone[new.form]:
                new.kind, new.origin = "inherited", gone[new.form].pop().origin
        left = [new for new in new_block if new.kind == "new"]
        for old in old_block:
            effort += len(old.form) * sum(len(new.form) for new in left)
            if effort > MAX_EFFORT:
                raise Failure(f"{record.folder}/train_gpt.py: comparing it with its parent's takes too long")
            near = max(left, key=lambda new: similarity(old.form, new.form), default=None)
            if near is not None and similarity(old.form, near.form) >= 0.6:
                near.kind = "changed"
                left.remove(near)


def similarity(a: str, b: str) -> float:
    """0 to 1, of two normal forms; 0 for forms so long that comparing them takes minutes."""
    if max(len(a), len(b)) > MAX_FORM:
        return 0.0
    matcher = difflib.SequenceMatcher(None, a, b, False)
    return matcher.ratio() if min(matcher.real_quick_ratio(), matcher.quick_ratio()) >= 0.6 else 0.0


def link(records: dict[Path, dict]) -> tuple[list[Record], dict[str, str]]:
    """({folder: record.json} as records, parents before children; {name: why its parent cannot be used}).

    A record whose parent cannot be used stands as if it had none."""
    tree: dict[str, Record] = {}
    for folder, data in records.items():
        name = f"{data['track']}/{folder.name}"
        tree[name] = Record(name, folder, data)
    faults = {}
    for record in tree.values():
        parent = record.data["parent"]
        if parent is None:
            continue
        track = record.data["track"]
        same = [name for name in (f"{track}/{parent}", *tree) if name in tree and name.endswith(f"/{parent}")]
        if not same:
            faults[record.name] = f"{record.folder}/record.json: its parent {terminal(parent)} is not in records/"
            continue
        record.parent = tree[same[0]]
        record.parent.children.append(record)

    ordered, waiting = [], [record for record in tree.values() if record.parent is None]
    while waiting:
        record = waiting.pop(0)
        ordered.append(record)
        waiting = record.children + waiting
    placed = {record.name for record in ordered}
    for name in sorted(set(tree) - placed):
        record = tree[name]
        faults[name] = f"{record.folder}/record.json: its parents form a circle"
        record.parent, record.children = None, []
        ordered.append(record)
    return ordered, faults


def parse(record: Record) -> str:
    """Reads a record's script into its statements; returns the text. Failure if it is no script."""
    path = record.folder / "train_gpt.py"
    source = read_text(path, script.MAX_BYTES)
    try:
        record.statements = statements(source, str(path))
    except RecursionError:
        raise Failure(f"{path}: statements that lie too deep in each other") from None
    return source


def relation(record: Record) -> list[dict]:
    """For each statement of a record's script its lines {"first", "last"}, its kind, and in "of" the number of the
    statement in the parent's script that it is: REWRITTEN if the parent's reference alone has it, None if it is the
    record's own. Remembered by the hashes of the scripts.

    Nothing older than the parent is looked at. Failure if a script cannot be read."""
    paths = [record.folder / "train_gpt.py"]
    if record.parent is not None:
        paths += [record.parent.folder / "train_gpt.py", references.path_of(record.parent.folder)]
    inputs = [remembered.hash_or_missing(path) for path in paths]
    return remembered.recall("statements", inputs, lambda: {"statements": related(record)})["statements"]


def related(record: Record) -> list[dict]:
    """As relation(), computed."""
    alone = Record(record.name, record.folder, record.data)
    source = parse(alone)
    if record.parent is not None:
        alone.parent = Record(record.parent.name, record.parent.folder, record.parent.data)
        parse(alone.parent)
        for number, statement in enumerate(alone.parent.statements):
            statement.origin = str(number)
    trace(alone, start_of(alone, source))
    found = []
    for statement in alone.statements:
        of = None
        if statement.kind == "inherited":
            of = int(statement.origin) if statement.origin.isdigit() else REWRITTEN
        lines = {"first": statement.lines.start, "last": statement.lines.stop - 1}
        found.append(lines | {"kind": statement.kind, "of": of})
    return found


def line_counts(record: Record) -> dict[str, int]:
    """{kind: lines} of a record's script beside the one it started from. Failure if a script cannot be read."""
    found = relation(record)
    return {kind: sum(s["last"] + 1 - s["first"] for s in found if s["kind"] == kind) for kind in KINDS}


def read_tree(root: Path) -> list[Record]:
    """All records, parents before children. Failure for one that is not valid, a parent that is not there, a circle."""
    records = reading.read_records(root)
    for folder in records:
        check_plain(folder)
    ordered, faults = link(records)
    if faults:
        raise Failure(next(iter(faults.values())))
    for record in ordered:
        for row in relation(record):
            origin = record.name
            if record.parent is not None and row["of"] is not None:
                origin = record.parent.name if row["of"] == REWRITTEN else record.parent.statements[row["of"]].origin
            record.statements.append(Statement(range(row["first"], row["last"] + 1), "", row["kind"], origin))
    return ordered


def gain(record: Record) -> dict | None:
    """Gain over the parent in bpb with its 95% interval; None for a root or where the two cannot be compared."""
    if record.parent is None:
        return None
    try:
        found = comparing.compare(ROOT, record, record.parent, details=False)
    except (Failure, OSError):
        return None
    return None if "problem" in found else {"gain": found["gain"], "interval": found["interval"]}


def find(tree: list[Record], name: str) -> Record:
    """The record of this name, with or without its track. Failure if there is none, or more than one."""
    name = name.rstrip("/").removeprefix("records/")
    found = [record for record in tree if name in (record.name, record.folder.name)]
    if len(found) != 1:
        raise Failure(
            f"{terminal(name)}: {'several records' if found else 'no record'} of this name: "
            f"{', '.join(terminal(record.name) for record in found or tree)}"
        )
    return found[0]


def fallen(record: Record, invalid: Record) -> dict | None:
    """What a record loses if `invalid` falls: lines that came from it; None if it does not descend from it."""
    ancestor = record
    while ancestor is not None and ancestor is not invalid:
        ancestor = ancestor.parent
    if ancestor is None:
        return None
    return {
        "record": record.name,
        "status": "invalid" if record is invalid else "re-verify",
        "lines": sum(len(s.lines) for s in record.statements if s.origin == invalid.name),
    }


def run(options: argparse.Namespace) -> dict:
    """Prints what was asked and returns what --json shows."""
    tree = read_tree(ROOT)
    if options.invalid:
        invalid = find(tree, options.invalid)
        rows = [row for record in tree if (row := fallen(record, invalid))]
        for row in rows:
            print(
                f"{terminal(row['record'])}: {row['status']}, {row['lines']} of its lines are from "
                f"{terminal(invalid.name)}"
            )
        return {"fallen": rows}
    if options.lines:
        record = find(tree, options.lines)
        rows = [
            {"first": s.lines.start, "last": s.lines.stop - 1, "kind": s.kind, "origin": s.origin}
            for s in record.statements
        ]
        for row in rows:
            print(f"{row['first']:5}-{row['last']:<5} {row['kind']:9} {terminal(row['origin'])}")
        return {"statements": rows}
    rows = []
    for record in tree:
        step, depth, ancestor = gain(record), 0, record.parent
        while ancestor is not None:
            depth, ancestor = depth + 1, ancestor.parent
        counts = {kind: record.count(kind) for kind in KINDS}
        text = f"gain {step['gain']:+.4f} ({step['interval'][0]:+.4f} .. {step['interval'][1]:+.4f})" if step else ""
        print(
            f"{'  ' * depth}{terminal(record.name)}  {record.data['bpb_mean']:.4f} bpb  {text}  lines: "
            + ", ".join(f"{count} {kind}" for kind, count in counts.items())
            + f"  by {terminal(', '.join(record.data['authors']))}"
        )
        rows.append(
            {
                "record": record.name,
                "parent": record.parent.name if record.parent else None,
                "bpb_mean": record.data["bpb_mean"],
                "lines": counts,
                "step": step,
            }
        )
    return {"records": rows}


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 for bad input."""
    parser = argparse.ArgumentParser(prog="golf lineage", description="The family tree of the records.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--lines", metavar="RECORD", help="where each statement of this record's script comes from")
    what.add_argument("--invalid", metavar="RECORD", help="what falls if this record is invalid")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args(argv)
    try:
        result = run(options)
    except (Failure, OSError) as error:
        return explain("golf lineage", error)
    if options.json:
        print(json.dumps({"format": 1, **result}))
    return 0


if __name__ == "__main__":
    sys.exit(guarded("golf lineage", main))
