"""golf/foreign.py on any text: what it gives against Unicode's categories, markdown-it-py and Python's csv module."""

import csv
import html
import io
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from golf import foreign

UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
# Characters that mean something to a terminal, to rich, to Markdown, to HTML or to a spreadsheet, beside any others.
PIECES = [
    "\x1b[2J",
    "\x9b31m",
    "\x1b]0;t\x07",
    "[/x]",
    "[bold]",
    "[red]a[/red]",
    "<!-- /leaderboard -->",
    "-->",
    "<b>",
    "<script>",
    "javascript:",
    "https://",
    "www.",
    "@name",
    "#12",
    "![a](http://b/c.png)",
    "[a](b)",
    "[a]: b",
    "|",
    "||",
    "\n",
    "\r\n",
    "\n\n",
    "\t",
    " ",
    "    ",
    "`",
    "```",
    "~~~",
    "\\",
    "\\|",
    "*",
    "**a**",
    "_",
    "__a__",
    "a_b",
    "- ",
    "+ ",
    "1. ",
    "2) ",
    "# ",
    "## ",
    "> ",
    "---",
    "===",
    "***",
    "&lt;",
    "&#60;",
    "$x$",
    "\u202e",
    "\u200b",
    "\ud800",
    "\x00",
    "\x7f",
    "\u2028",
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\uff1d",
    "a" * 300,
]
TEXT = st.lists(st.one_of(st.sampled_from(PIECES), st.text(st.characters(), max_size=8)), max_size=12).map("".join)
VALUE = st.recursive(
    st.one_of(TEXT, st.none(), st.booleans(), st.integers(), st.floats()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def unsafe(text: str) -> list[str]:
    return [character for character in text if unicodedata.category(character) in UNSAFE]


@given(VALUE, st.integers(10, 600))
def test_for_a_terminal_it_is_one_line_that_can_be_read(value, limit):
    shown = foreign.terminal(value, limit)
    assert unsafe(shown) == [] and len(shown) <= limit and "\n" not in shown
    if isinstance(value, str) and not unsafe(value) and len(value) <= limit:
        assert shown == value


def test_what_python_cannot_write_down_is_named():
    nested = []
    for _ in range(100_000):
        nested = [nested]
    assert foreign.terminal(10**5000) == "a int too large to show"
    assert foreign.terminal(nested) == "a list too large to show"
    assert foreign.markdown(nested) == "a list too large to show"


@given(TEXT)
def test_lines_stay_lines(text):
    shown = foreign.terminal_lines(text)
    assert unsafe(shown.replace("\n", "").replace("\t", "")) == []
    assert shown.count("\n") == text.count("\n") and shown.count("\t") == text.count("\t")


def text_of(rendered: str) -> str:
    """What a reader sees of HTML that holds no tag."""
    return html.unescape(rendered).replace("\u200b", "")


def visible(value: str) -> str:
    """What of a text can be seen, in one line, cut as `markdown` cuts it."""
    return " ".join(foreign.terminal(" ".join(value.split()), 1000).split())


def renderer(**options) -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": True} | options).enable(["table", "strikethrough"])


@given(TEXT)
def test_in_markdown_it_is_one_paragraph_of_its_own_words(text):
    written = foreign.markdown(text)
    assert "<" not in written and ">" not in written and "-->" not in written
    rendered = renderer().render(written)
    if not visible(text):
        assert rendered == ""
        return
    found = re.fullmatch(r"<p>([^<>]*)</p>\n", rendered)
    assert found and text_of(found[1]) == visible(text)


@given(TEXT)
def test_in_a_cell_of_a_table_it_is_that_cell(text):
    written = foreign.markdown(text)
    rendered = renderer().render(f"| a | b |\n|---|---|\n| {written} | last |\n")
    cells = re.findall(r"<td>([^<>]*)</td>", rendered)
    assert len(cells) == 2 and cells[1] == "last" and text_of(cells[0]) == visible(text)


@given(TEXT)
def test_no_automatic_link_of_github_starts_in_it(text):
    """The beginnings that cmark-gfm's autolink extension looks for, and GitHub's mentions and numbers of issues."""
    source = html.unescape(foreign.markdown(text))
    assert not re.search(r"(?i)https?:/|ftp:/|mailto:|xmpp:|www\.|@\w|#\d", source)


@pytest.mark.parametrize(
    "text",
    ["LeakyReLU(0.5)^2, XSA: 2,048 ids", "0004_case_operators", "2026-11-27", "a - b + c", "what's new? 50% (of it)!"],
)
def test_ordinary_words_stay_as_they_are_written(text):
    assert foreign.markdown(text) == text


@given(VALUE)
def test_no_cell_of_a_spreadsheet_is_a_formula(value):
    out = io.StringIO()
    csv.writer(out).writerow([foreign.spreadsheet(value), "last"])
    [[cell, last]] = csv.reader(io.StringIO(out.getvalue()))
    assert last == "last" and unsafe(cell) == []
    if value is None or isinstance(value, (int, float)):
        assert cell == ("" if value is None else str(value))  # a number is one, with its sign
    else:
        assert cell[:1] not in ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def test_numbers_of_a_spreadsheet_can_be_read_back():
    assert [foreign.spreadsheet(value) for value in (-0.5, 3, None, "-0.5", "=A1", "\t=A1", "kept")] == [
        -0.5,
        3,
        None,
        "'-0.5",
        "'=A1",
        "'\\t=A1",
        "kept",
    ]
