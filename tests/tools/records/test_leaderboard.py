"""golf board against hand-made record.json files: order, cells, staleness, what it refuses, and what is broken in one
record and leaves the others alone."""

import html
import json
import re
import shutil
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from golf import schema
from tests.support import ROOT
from tests.support.own_cache import own_cache  # noqa: F401
from tests.support.site_records import valid_record
from tools.records import leaderboard

README = "# Kit\n\nbefore\n<!-- leaderboard -->\nold\n<!-- /leaderboard -->\nafter\n"


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(leaderboard, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text(README)
    return tmp_path


def add(root: Path, track: str, number: str, slug: str, mean: float, /, **changes) -> Path:
    folder = root / "records" / track / f"{number}_{slug}"
    folder.mkdir(parents=True)
    record = valid_record(track, folder.name, idea=f"Idea of {slug}.", date="2026-11-22", bpb_mean=mean, bpb_sd=0.00123)
    record["artifact"] |= {"file": None, "bytes": 249_999} | changes.pop("artifact", {})
    record["seeds"] = record["seeds"][: changes.pop("seeds", 3)]
    (folder / "record.json").write_text(json.dumps(record | changes))
    return folder / "record.json"


def test_table(root):
    add(root, "pocket", "0001", "baseline", 1.87344)
    add(root, "pocket", "0002", "best", 1.6, bpb_sd=None, seeds=1, scope="stream", idea="A | pipe and a bracket.")
    add(root, "pocket", "0003", "middle", 1.7)
    add(root, "open", "0001", "odd", 2.0, artifact={"file": "odd.golf", "bytes": 16_000_000})
    assert leaderboard.main([]) == 0
    header = f"{leaderboard.HEADER}\n{leaderboard.RULER}\n"
    by = "The parameter golf kit authors"
    assert (root / "README.md").read_text() == (
        "# Kit\n\nbefore\n<!-- leaderboard -->\n"
        "**Track pocket**\n\nNo record yet under the present rules.\n"
        "\n**Track pocket, under the wall clock, version 1 of the rules**\n\n"
        + header
        + f"| 1 | [0002_best](records/pocket/0002_best) | {by} | 1.6000 (1) | 249,999 | stream | no | no | first "
        "| x86_64, 2 threads | 2026-11-22 | A \\| pipe and a bracket. |\n"
        f"| 2 | [0003_middle](records/pocket/0003_middle) | {by} | 1.7000 ± 0.0012 (3) | 249,999 | document | no | no "
        "| not compared with 0001 | x86_64, 2 threads | 2026-11-22 | Idea of middle. |\n"
        f"| 3 | [0001_baseline](records/pocket/0001_baseline) | {by} | 1.8734 ± 0.0012 (3) | 249,999 | document | no "
        "| no | first | x86_64, 2 threads | 2026-11-22 | Idea of baseline. |\n"
        "\n**Track open**\n\nNo record yet under the present rules.\n"
        "\n**Track open, version 1 of the rules**\n\n"
        + header
        + f"| 1 | [0001_odd](records/open/0001_odd) | {by} | 2.0000 ± 0.0012 (3) | 16,000,000 | document | no | no "
        "| first | x86_64, 2 threads | 2026-11-22 | Idea of odd. |\n"
        f"\n{leaderboard.LEGEND}\n"
        "<!-- /leaderboard -->\nafter\n"
    )


PAR = {
    "ratio": 1.834,
    "low": 1.8,
    "high": 1.86,
    "rounds": 40,
    "processor_class": "amx",
    "processor": "Intel(R) Xeon(R) <b>",
}
PRESENT = {"format": 2, "rules": 2, "variants": 7, "ledger_head": None, "par": PAR, "hub": None, "files": {}}


def present(root: Path, number: str, slug: str, mean: float, **changes) -> Path:
    """A record under the present rules."""
    path = add(root, "pocket", number, slug, mean, **PRESENT | changes)
    record = json.loads(path.read_text())
    seeds = [row | {"artifact_file": None, "artifact_sha256": "a" * 64} for row in record["seeds"]]
    path.write_text(json.dumps(record | {"seeds": seeds}))
    return path


def test_the_present_rules_have_their_own_table_and_it_stands_first(root):
    add(root, "pocket", "0001", "baseline", 1.5)
    present(root, "0002", "par", 1.7)
    assert leaderboard.main([]) == 0
    text = (root / "README.md").read_text()
    new, old = text.split("**Track pocket, under the wall clock, version 1 of the rules**")
    assert new.index("**Track pocket**") < new.index("| 1 | [0002_par]") and "No record yet" not in text
    assert "| 1 | [0001_baseline]" in old
    assert "| first | 1.83, amx, Intel(R) Xeon(R) &lt;b&gt; |" in new  # no row before under these rules


def test_leaderboard_json_is_what_its_schema_says(root):
    add(root, "pocket", "0001", "baseline", 1.87344)
    present(root, "0002", "par", 1.7)
    present(root, "0003", "more", 1.6)
    add(root, "pocket", "0004", "cut", 1.0).write_text("{")
    assert leaderboard.main([]) == 1
    board = json.loads((root / leaderboard.FILE).read_text())
    assert schema.faults(board, "leaderboard") == []
    assert [(row["record"], row["rules"], row["rank"]) for row in board["records"]] == [
        ("pocket/0003_more", 2, 1),
        ("pocket/0002_par", 2, 2),
        ("pocket/0001_baseline", 1, 1),
    ]
    assert board["records"][0]["par"] == PAR
    assert board["records"][0]["against"]["record"] == "pocket/0002_par"
    assert [row["record"] for row in board["broken"]] == ["pocket/0004_cut"]
    assert str(root) not in (root / leaderboard.FILE).read_text()


def test_leaderboard_json_of_this_repository():
    """That it is up to date, test_readme.py checks."""
    board = json.loads((ROOT / leaderboard.FILE).read_text())
    assert schema.faults(board, "leaderboard") == []


def test_check_fails_until_written_and_changes_nothing(root, capsys):
    path = add(root, "pocket", "0001", "baseline", 1.9)
    assert leaderboard.main(["--check", "--json"]) == 1
    captured = capsys.readouterr()
    assert (root / "README.md").read_text() == README
    assert json.loads(captured.out.splitlines()[-1]) == {
        "format": 1,
        "records": 1,
        "stale": True,
        "problems": [],
        "written": False,
    }
    assert captured.err.count("\n") == 1
    assert leaderboard.main([]) == 0 and leaderboard.main(["--check"]) == 0
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"bpb_mean": 1.9000004}))  # no change in the six digits that are shown
    assert leaderboard.main(["--check"]) == 0
    path.write_text(json.dumps(record | {"bpb_mean": 1.9001}))
    assert leaderboard.main(["--check"]) == 1


def test_no_records(root):
    assert leaderboard.main([]) == 0
    assert "<!-- leaderboard -->\nNo records yet.\n<!-- /leaderboard -->" in (root / "README.md").read_text()


HOSTILE = (
    "<!-- /leaderboard -->",
    "<!-- leaderboard -->",
    "<script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "![x](https://tracker.invalid/p.png)",
    "a | b",
    "`code",
    "```",
    "<b>&amp;</b>",
    "https://tracker.invalid",
    "@someone #1",
    "**a** _b_ ~~c~~ \\",
    "| --- |",
    "one two three four five six seven eight nine ten eleven twelve `thirteen",
    "[a]: http://b",
    "-->",
)


@pytest.mark.parametrize("idea", HOSTILE)
def test_no_idea_can_break_the_table(root, idea):
    """The same rows and cells as with a harmless idea, by a Markdown renderer; only text in the last cell; and the
    table can be written again."""

    def rendered(text: str) -> tuple[int, list[str]]:
        add(root, "pocket", "0001", "one", 1.9, idea=text)
        assert leaderboard.main([]) == 0 and leaderboard.main(["--check"]) == 0
        readme = (root / "README.md").read_text()
        shutil.rmtree(root / "records")
        assert readme.count("<!-- leaderboard -->") == readme.count("<!-- /leaderboard -->") == 1
        assert leaderboard.rewrite(readme, leaderboard.read_records(root)).endswith(
            "No records yet.\n<!-- /leaderboard -->\nafter\n"
        )
        page = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(readme)
        return page.count("<"), re.findall(r"<td>(.*?)</td>", page)

    tags, harmless = rendered("harmless")
    other, cells = rendered(idea)
    assert (other, len(cells)) == (tags, len(harmless)) and cells[:-1] == harmless[:-1]
    shown = html.unescape(cells[-1]).replace("\u200b", "")
    assert shown == " ".join(idea.split()[:12]) + " ..." * (len(idea.split()) > 12)


def test_a_label_stands_for_the_idea(root):
    add(root, "pocket", "0001", "one", 1.9)
    add(root, "pocket", "0002", "two", 1.8)
    (root / "records/labels.toml").write_text("[pocket]\n0002_two = 'A | label'\n")
    assert [row["label"] for row in leaderboard.read_records(root).rows.values()] == ["Idea of one.", "A | label"]
    assert leaderboard.main([]) == 0
    assert "| A \\| label |\n" in (root / "README.md").read_text()


def test_the_labels_of_this_repository_fit_and_name_records():
    labels = leaderboard.read_labels(ROOT / "records/labels.toml")
    assert labels and all((ROOT / "records" / name / "record.json").is_file() for name in labels)


@pytest.mark.parametrize("idea", ["two\n\n# lines", "\x1b[2J", "| --- |\n| x |"])
def test_an_idea_of_several_lines_or_with_escapes_is_not_shown(root, capsys, idea):
    add(root, "pocket", "0001", "one", 1.9, idea=idea)
    assert leaderboard.main([]) == 1
    error = capsys.readouterr().err
    assert "0001_one/record.json: idea: " in error and error.count("\n") == 1 and "\x1b" not in error
    readme = (root / "README.md").read_text()
    assert "Broken, and in no table" in readme and "\x1b" not in readme and "\n# lines" not in readme


def test_hidden_folders_are_no_records(root):
    """`record make` builds a record in one; killed, it stays."""
    add(root, "pocket", "0001", "baseline", 1.9)
    add(root, "pocket", ".0002", "made", 1.8)
    add(root, ".trash", "0003", "removed", 1.7)
    assert list(leaderboard.read_records(root).rows) == ["pocket/0001_baseline"]


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda root: (root / "README.md").write_text("no markers"), "expected one <!-- leaderboard -->"),
        (lambda root: (root / "README.md").write_text(README + README), "expected one <!-- leaderboard -->"),
        (lambda root: (root / "README.md").unlink(), "README.md: No such file"),
        (lambda root: (root / "records/labels.toml").write_text("x"), "labels.toml: not TOML"),
        (lambda root: (root / "records/labels.toml").write_text("pocket = 1"), "pocket: expected a table"),
        (lambda root: (root / "records/labels.toml").write_text("[p]\na = '" + "w " * 13 + "'"), "p.a: expected"),
    ],
)
def test_bad_input_is_one_line(root, capsys, damage, message):
    add(root, "pocket", "0001", "baseline", 1.9)
    damage(root)
    before = (root / "README.md").read_text() if (root / "README.md").exists() else None
    assert leaderboard.main([]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert before == ((root / "README.md").read_text() if before is not None else None)
    assert not (root / leaderboard.FILE).exists()


@pytest.mark.parametrize(
    "damage, message",
    [
        (
            lambda root: add(root, "pocket", "0002", "cut", 1.0).write_text('{"track": '),
            "0002_cut/record.json: not JSON",
        ),
        (lambda root: add(root, "pocket", "0002", "list", 1.0).write_text("[]"), "expected a JSON object"),
        (
            lambda root: add(root, "pocket", "0002", "part", 1.0).write_text('{"track": "pocket"}'),
            "is a required property",
        ),
        (
            lambda root: add(root, "pocket", "0002", "typed", 1.0, idea=["a"]),
            "0002_typed/record.json: idea: ['a'] is not",
        ),
        (
            lambda root: add(root, "pocket", "0002", "nan", float("nan")),
            "0002_nan/record.json: not JSON: bpb_mean: nan",
        ),
        (
            lambda root: add(root, "pocket", "0002", "inf", float("inf")),
            "0002_inf/record.json: not JSON: bpb_mean: inf",
        ),
        (
            lambda root: add(root, "pocket", "0002", "far", 1.0, config={"a": [float("inf")]}),
            "config.a.0: inf is not a finite number",
        ),
        (
            lambda root: add(root, "pocket", "0002", "high", 1e6),
            "0002_high/record.json: bpb_mean: 1000000.0 is greater",
        ),
        (lambda root: add(root, "pocket", "0002", "day", 1.0, date="2026-02-30"), "0002_day/record.json: date: day"),
        (
            lambda root: add(root, "pocket", "0002", "half", 1.0, idea="\ud800"),
            "0002_half/record.json: idea: \\ud800 does not match",
        ),
        (
            lambda root: add(root, "pocket", "0002", "deep", 1.0).write_text('{"track":' + "[" * 100_000),
            "0002_deep/record",
        ),
        (lambda root: add(root, "pocket", "0002", "line\n", 1.0), "0002_line\\n/record.json: "),
        (lambda root: add(root, "pocket", "0002", "moved", 1.0, number="0009"), "it calls itself pocket/0009_moved"),
        (lambda root: add(root, "mine", "0002", "x", 1.0), "'mine' is not one of"),
    ],
)
def test_a_broken_record_is_one_line_and_the_others_are_shown(root, capsys, damage, message):
    add(root, "pocket", "0001", "baseline", 1.9)
    damage(root)
    assert leaderboard.main([]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    readme = (root / "README.md").read_text()
    assert "| 1 | [0001_baseline]" in readme and readme.startswith("# Kit\n\nbefore\n<!-- leaderboard -->\n")
    assert "Broken, and in no table:\n\n- " in readme and readme.endswith("<!-- /leaderboard -->\nafter\n")
    assert leaderboard.main(["--check"]) == 1
    assert capsys.readouterr().err == error


def test_a_broken_addition_is_said_in_its_row(root, capsys):
    folder = add(root, "pocket", "0001", "baseline", 1.9).parent
    (folder / "additions").mkdir()
    (folder / "additions/2026-11-29_scored_seed1_00000000.json").write_text("{")
    assert leaderboard.main([]) == 1
    error = capsys.readouterr().err
    assert "0001_baseline/additions/2026-11-29_scored_seed1_00000000.json: not JSON" in error and error.count("\n") == 1
    assert re.search(
        r"\| 1 \| \[0001_baseline\].*; broken: records/pocket/0001.*not JSON", (root / "README.md").read_text()
    )
    assert schema.faults(json.loads((root / leaderboard.FILE).read_text()), "leaderboard") == []
