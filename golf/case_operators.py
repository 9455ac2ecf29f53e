"""Capitals as operators: a text without ASCII capitals that stands for one text with them, and back, without loss.

A vocabulary then spends no pieces, and a model no weights, on saying "The" beside "the" (CaseOps, public PR #1729).
What is new here: an operator before a word goes in front of the space before it. So the pieces " the" and " nato" are
shared by all spellings, and a sentence's end takes the operator into its own piece: ".^" instead of a token more.

    CAPITAL  the next letter is a capital
    CAPITALS all letters of the next word, two or more, are capitals
    LITERAL  the next character, one of these three, is the text's own

Not covered: capitals beyond ASCII, which stay as they are; when it is used (golf/tokenizer.py).
"""

import re

CAPITAL, CAPITALS, LITERAL = "\x11", "\x12", "\x13"
ALL = b"\x11\x12\x13"
_ENCODED = re.compile("( ?)([A-Za-z]+)|[\x11-\x13]")
_DECODED = re.compile(b"\x13([\x11-\x13])|(?:\x11( ?[a-z])|\x12( ?[a-z]+))")


def apply(text: str) -> str:
    """The text with operators instead of ASCII capitals; `remove(apply(text).encode()) == text.encode()`."""
    return _ENCODED.sub(_operate, text)


def _operate(match: re.Match) -> str:
    space, word = match.groups()
    if word is None:
        return LITERAL + match[0]
    if word.islower():
        return match[0]
    if len(word) > 1 and word.isupper():
        return CAPITALS + space + word.lower()
    first = CAPITAL if word[0].isupper() else ""
    return first + space + word[0].lower() + re.sub("[A-Z]", lambda capital: CAPITAL + capital[0].lower(), word[1:])


def remove(data: bytes) -> bytes:
    """The bytes of the text that `apply` was given. Any bytes are read: an operator with nothing to do stays."""
    return _DECODED.sub(lambda match: match[1] or (match[2] or match[3]).upper(), data)
