"""golf lineage on small families of scripts and on the first record: inherited, changed, new; what falls."""

import json
import re

import pytest

from tests.support import ROOT
from tests.support.own_cache import own_cache  # noqa: F401
from tests.support.site_records import valid_record
from tools.records import lineage

BASE = '''"""The first."""
import math


class Net:
    """Docs."""

    def forward(self, x):
        y = x * 2
        for i in range(3):
            y = y + i
        return math.tanh(y)


def train(steps):
    net = Net()
    return [net.forward(step) for step in range(steps)]
'''
RENAMED = (
    BASE.replace("steps", "count")
    .replace("step ", "k ")
    .replace("(step)", "(k)")
    .replace("y", "value")
    .replace("tanh", "tanh  ")
    .replace('"""The first."""', "# other words\n")
)
CHANGED = RENAMED.replace("range(3)", "range(5)") + "\n\ndef extra(a, b):\n    return {a: b, b: a}\n"


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(lineage, "ROOT", tmp_path)
    return tmp_path


def add(root, name, source, parent=None, track="pocket"):
    folder = root / "records" / track / name
    folder.mkdir(parents=True)
    (folder / "train_gpt.py").write_text(source)
    (folder / "record.json").write_text(json.dumps(valid_record(track, name, parent=parent, authors=["Ann"])))


def tree(capsys, *arguments):
    assert lineage.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_renaming_reformatting_and_comments_are_inherited(root, capsys):
    add(root, "0001_a", BASE)
    add(root, "0002_b", RENAMED, "0001_a")
    add(root, "0003_c", CHANGED, "0002_b")
    first, second, third = tree(capsys)["records"]
    code = len([line for line in BASE.splitlines() if line.strip() and '"""' not in line])
    assert first["lines"]["new"] >= code and first["lines"]["inherited"] == 0
    assert second["lines"] == {"inherited": first["lines"]["new"], "changed": 0, "new": 0}
    assert third["lines"] == {"inherited": first["lines"]["new"] - 1, "changed": 1, "new": 2}
    assert (second["parent"], third["parent"], third["step"]) == ("pocket/0001_a", "pocket/0002_b", None)


def test_each_statement_names_the_record_it_comes_from(root, capsys):
    add(root, "0001_a", BASE)
    add(root, "0002_b", CHANGED, "0001_a")
    moved = CHANGED[CHANGED.index("def extra") :] + "\n\n" + CHANGED[: CHANGED.index("def extra")]
    add(root, "0003_c", moved + "NEW = 1\n", "0002_b")
    lines = moved.splitlines() + ["NEW = 1"]
    origins = {}
    for row in tree(capsys, "--lines", "records/pocket/0003_c")["statements"]:
        for number in range(row["first"], row["last"] + 1):
            origins[lines[number - 1].strip()] = row["origin"]
    assert origins["def extra(a, b):"] == "pocket/0002_b" == origins["return {a: b, b: a}"]
    assert origins["import math"] == "pocket/0001_a" == origins["def train(count):"]
    assert origins["for i in range(5):"] == "pocket/0002_b"
    assert origins["NEW = 1"] == "pocket/0003_c"


def test_scripts_are_parsed_once_each_and_then_only_those_that_are_new(root, capsys, monkeypatch):
    """The same tree comes of what is remembered. A record more costs its own script and its parent's."""
    parsed = []
    parse = lineage.parse
    monkeypatch.setattr(lineage, "parse", lambda record: parsed.append(record.folder.name) or parse(record))
    add(root, "0001_a", BASE + "ONCE = 1\n")
    for number in range(2, 12):
        add(root, f"{number:04d}_b", f"{CHANGED}ONCE = {number}\n", f"{number // 2:04d}_{'ab'[number > 3]}")
    first = tree(capsys), tree(capsys, "--lines", "0011_b"), tree(capsys, "--invalid", "0002_b")
    assert len(parsed) == 11 + 10
    parsed.clear()
    assert (tree(capsys), tree(capsys, "--lines", "0011_b"), tree(capsys, "--invalid", "0002_b")) == first
    assert parsed == []
    add(root, "0012_b", CHANGED, "0009_b")
    assert len(tree(capsys)["records"]) == 12 and sorted(parsed) == ["0009_b", "0012_b"]


def test_what_falls_with_an_ancestor(root, capsys):
    add(root, "0001_a", BASE)
    add(root, "0002_b", CHANGED, "0001_a")
    add(root, "0003_c", CHANGED + "NEW = 1\n", "0002_b")
    add(root, "0004_d", BASE + "OTHER = 1\n", "0001_a")
    add(root, "0001_x", CHANGED, "0002_b", track="open")
    rows = tree(capsys, "--invalid", "0002_b")["fallen"]
    assert {row["record"]: (row["status"], row["lines"]) for row in rows} == {
        "pocket/0002_b": ("invalid", 3),
        "pocket/0003_c": ("re-verify", 3),
        "open/0001_x": ("re-verify", 3),
    }
    rows = tree(capsys, "--invalid", "pocket/0001_a")["fallen"]
    base = sum(len(s.lines) for s in lineage.statements(BASE, "x"))
    assert {row["record"]: row["lines"] for row in rows} == {
        "pocket/0001_a": base,
        "pocket/0002_b": base - 1,
        "pocket/0003_c": base - 1,
        "open/0001_x": base - 1,
        "pocket/0004_d": base,
    }


def test_the_lines_of_every_statement_are_its_own(root):
    """Against a count by the tokenizer: each code line of the real script is in exactly one statement."""
    import io
    import tokenize

    source = (ROOT / "records/pocket/0001_baseline/train_gpt.py").read_text()
    found = lineage.statements(source, "x")
    covered = [number for statement in found for number in statement.lines]
    skip = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    code = {
        number
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in skip and not (token.type == tokenize.STRING and token.line.lstrip().startswith('"""'))
        for number in range(token.start[0], token.end[0] + 1)
    }
    lines = source.splitlines()
    missing = {n for n in code - set(covered) if not re.match(r"\s*(else|finally|try|except\b.*):", lines[n - 1])}
    assert not [lines[n - 1] for n in missing]
    assert len(covered) == len(set(covered))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda root: add(root, "0002_b", BASE, "0009_gone"), "0009_gone is not in records"),
        (lambda root: add(root, "0002_b", "def (", "0001_a"), "line 1"),
        (lambda root: add(root, "0002_b", BASE, "0002_b"), "circle"),
    ],
)
def test_bad_families_are_one_line(root, capsys, damage, message):
    add(root, "0001_a", BASE)
    damage(root)
    assert lineage.main([]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_unknown_record_is_named(root, capsys):
    add(root, "0001_a", BASE)
    assert lineage.main(["--invalid", "0007_z"]) == 1
    assert "no record of this name" in capsys.readouterr().err


def test_gain_of_a_step_is_that_of_prove(monkeypatch):
    baseline = ROOT / "records/pocket/0001_baseline"
    data = json.loads((baseline / "record.json").read_text())
    parent = lineage.Record("pocket/a", baseline, data)
    step = lineage.gain(lineage.Record("pocket/b", baseline, data, parent))
    assert step["gain"] == 0 and step["interval"] == [0, 0]
    assert lineage.gain(parent) is None


def test_a_rewrite_of_the_parent_is_nobodys_work(root, capsys):
    """What the kit wrote anew is the parent's; only what the author changed against that text is changed or new."""
    rewritten = BASE.replace(
        "return [net.forward(step) for step in range(steps)]", "return list(map(net.forward, range(steps)))"
    )
    rewritten = rewritten.replace("y = x * 2", "factor = 2\n        y = x * factor")
    add(root, "0001_a", BASE)
    (root / "records/references").mkdir()
    (root / "records/references/0001_a.py").write_text(rewritten)
    add(root, "0002_b", rewritten + "\n\nEXTRA = {1: 2}\n", parent="0001_a")
    add(root, "0003_c", BASE + "\n\nEXTRA = {1: 2}\n", parent="0001_a")
    lines = {row["record"]: row["lines"] for row in tree(capsys)["records"]}
    assert lines["pocket/0002_b"]["new"] == lines["pocket/0003_c"]["new"] == 1
    assert lines["pocket/0002_b"]["changed"] == lines["pocket/0003_c"]["changed"] == 0
    origins = {row["origin"] for row in tree(capsys, "--lines", "pocket/0002_b")["statements"]}
    assert origins == {"pocket/0001_a", "pocket/0002_b"}
