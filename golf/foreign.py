"""Makes a stranger's words harmless before they are shown: one function each for a terminal, for Markdown and HTML, and
for a spreadsheet.

A stranger's words are all text of a file that somebody else may have written: a record's title, a run's name, a seed
that should be a number, the name of a tensor, the message of a failed script, a hypothesis in the log. Whoever prints
one passes it through `terminal` (or `terminal_lines`), whoever writes one into a Markdown file through `markdown`,
whoever writes one into a CSV file through `spreadsheet`.

Not covered: pages made by jinja2, which escapes every value by itself; JSON, where json.dumps escapes control
characters.
"""

import html
import re
import unicodedata

MAX_CHARACTERS = 500
# Categories of Unicode that move the cursor, hide, or reorder what stands beside them: control characters (escapes of
# a terminal start with one), invisible formatting such as right-to-left overrides, halves of surrogate pairs, private
# and unassigned characters, and the two separators of lines and paragraphs.
UNSAFE_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
# Letters, marks and symbols that are drawn as nothing or as a blank: two words that differ in them
# look alike. They are what Unicode calls Default_Ignorable_Code_Point outside of UNSAFE_CATEGORIES, and the empty
# Braille cell.
BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
MAX_MARKS = 3  # accents on one letter; more would cover the lines above
# What starts something in CommonMark or GitHub's dialect of it, where a backslash takes the meaning away. Underscores
# inside a word mean nothing there, and names stay readable.
MARKDOWN_SPECIAL = re.compile(r"[\\`*\[\]|~$]|(?<!\w)_++|_++(?![^\W_])")
# What means something at the start of a line only: headings, lists, rules; and the dot or bracket of a numbered list.
MARKDOWN_START = re.compile(r"^(?:[#+=-]|(\d{1,9})(?=[.)]))")
# GitHub turns addresses, mentions of people and numbers of issues into links. A character that has no width, written
# as an entity, parts them without changing how they look.
MARKDOWN_AUTOMATIC = re.compile(r"(?i)(https?:|ftp:|mailto:|xmpp:|www\.|@(?=\w)|#(?=\d))")
# A spreadsheet computes a cell that begins with one of these: =, +, -, @ and their wide forms.
FORMULA_STARTS = tuple("=+-@\t\r\uff1d\uff0b\uff0d\uff20")


def _visible(character: str) -> str:
    """A character that cannot harm as itself, any other as its escape in a Python string."""
    category = unicodedata.category(character)
    odd_space = category == "Zs" and character != " "
    if category in UNSAFE_CATEGORIES or odd_space or BLANK.match(character):
        return character.encode("unicode_escape").decode("ascii")
    return character


def _shown(text: str) -> str:
    """`text` with each character that could harm, and each accent that has no letter of this text, as an escape."""
    parts, marks = [], MAX_MARKS  # at the start there is no letter
    for character in text:
        if unicodedata.category(character) not in ("Mn", "Me"):
            marks = 0 if character.isalnum() or unicodedata.category(character) in ("Mc", "So") else MAX_MARKS
            parts.append(_visible(character))
        elif marks < MAX_MARKS:
            marks += 1
            parts.append(_visible(character))
        else:
            parts.append(character.encode("unicode_escape").decode("ascii"))
    return "".join(parts)


def terminal(value: object, limit: int = MAX_CHARACTERS) -> str:
    """`value` as one line of printable text of at most `limit` characters, for a terminal or a log.

    Control characters and invisible ones become escapes that can be read, such as \\x1b. The result means nothing to a
    terminal; to rich it may still be markup, so give it to rich inside a rich.text.Text.
    """
    try:
        text = value if isinstance(value, str) else repr(value)
    except (ValueError, RecursionError):  # an integer of more digits than Python writes down, or lists in lists in ...
        text = f"a {type(value).__name__} too large to show"
    shown = _shown(text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def terminal_lines(text: str) -> str:
    """A text of several lines, such as a diff: as `terminal`, but newlines and tabs stay and nothing is cut."""
    return "".join(part if part in ("\n", "\t") else _shown(part) for part in re.split("([\n\t])", text))


def markdown(value: object, limit: int = 2 * MAX_CHARACTERS) -> str:
    """`value` as one line of Markdown that shows it as it is: no HTML, link, picture, code, table cell or comment.

    Runs of white space become one space. The result holds no `<`, `>`, `|` or backtick that is not escaped, so it can
    neither close a comment that marks a place in a file nor end a cell of a table. It is also harmless as HTML text.
    """
    text = " ".join(value.split()) if isinstance(value, str) else value
    text = html.escape(terminal(text, limit), quote=False)
    text = MARKDOWN_SPECIAL.sub(lambda match: "".join("\\" + character for character in match[0]), text)
    text = MARKDOWN_START.sub(lambda match: f"{match[1]}\\" if match[1] else f"\\{match[0]}", text)
    return MARKDOWN_AUTOMATIC.sub(lambda match: match[0][0] + "&#8203;" + match[0][1:], text)


def spreadsheet(value: object, limit: int = 20 * MAX_CHARACTERS) -> object:
    """`value` for a cell of a CSV file: a number or None as it is, text as `terminal`, never a formula.

    Text that a spreadsheet would compute gets an apostrophe in front, which spreadsheets take for "this is text".
    """
    if value is None or isinstance(value, (int, float)):
        return value
    text = terminal(value, limit)
    starts_formula = str(value).startswith(FORMULA_STARTS) or text.startswith(FORMULA_STARTS)
    return f"'{text}" if starts_formula else text
