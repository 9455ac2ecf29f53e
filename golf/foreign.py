"""Makes a stranger's words harmless before they are shown: one function for a terminal, one for Markdown and HTML.

A stranger's words are all text of a file that somebody else may have written: a record's title, a run's name, a seed
that should be a number, the name of a tensor, the message of a failed script, a hypothesis in the log. Whoever prints
one passes it through `terminal` (or `terminal_lines`), whoever writes one into a Markdown file through `markdown`.

Not covered: pages made by jinja2, which escapes every value by itself; JSON, where json.dumps escapes control characters.
"""

import html
import re
import unicodedata

MAX_CHARACTERS = 500
# Categories of Unicode that move the cursor, hide, or reorder what stands beside them: control characters (escapes of
# a terminal start with one), invisible formatting such as right-to-left overrides, halves of surrogate pairs, private
# and unassigned characters, and the two separators of lines and paragraphs.
UNSAFE_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
# What starts something in CommonMark or GitHub's dialect of it, where a backslash takes the meaning away.
MARKDOWN_SPECIAL = re.compile(r"[\\`*_\[\]{}|~$!^]")
# GitHub turns addresses, mentions of people and numbers of issues into links. A character that has no width, written
# as an entity, parts them without changing how they look.
MARKDOWN_AUTOMATIC = re.compile(r"(?i)(https?:|ftp:|mailto:|xmpp:|www\.|@(?=\w)|#(?=\d))")


def _visible(character: str) -> str:
    """A character that cannot harm as itself, any other as its escape in a Python string."""
    if unicodedata.category(character) in UNSAFE_CATEGORIES:
        return character.encode("unicode_escape").decode("ascii")
    return character


def terminal(value: object, limit: int = MAX_CHARACTERS) -> str:
    """`value` as one line of printable text of at most `limit` characters, for a terminal or a log.

    Control characters and invisible ones become escapes that can be read, such as \\x1b. The result means nothing to a
    terminal; to rich it may still be markup, so give it to rich inside a rich.text.Text.
    """
    try:
        text = value if isinstance(value, str) else repr(value)
    except ValueError:  # an integer of more digits than Python writes down
        text = f"a {type(value).__name__} too large to show"
    shown = "".join(map(_visible, text[: limit + 1]))
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def terminal_lines(text: str) -> str:
    """A text of several lines, such as a diff: as `terminal`, but newlines and tabs stay and nothing is cut."""
    return "".join(character if character in "\n\t" else _visible(character) for character in text)


def markdown(value: object, limit: int = 2 * MAX_CHARACTERS) -> str:
    """`value` as one line of Markdown that shows it as it is: no HTML, link, picture, code, table cell or comment.

    The result holds no `<`, `>`, `|` or backtick that is not escaped, so it can neither close a comment that marks a
    place in a file nor end a cell of a table. It is also harmless as HTML text.
    """
    text = html.escape(terminal(value, limit), quote=False)
    text = MARKDOWN_SPECIAL.sub(lambda match: "\\" + match[0], " ".join(text.split()))
    return MARKDOWN_AUTOMATIC.sub(lambda match: match[0][0] + "&#8203;" + match[0][1:], text)
