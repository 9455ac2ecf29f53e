"""What becomes of a command whose output nobody takes: its reader has left, as `head` does, or the disk behind it is
full. It ends, without a word; but work that goes on for long, and leaves its results elsewhere, goes on.

Not covered: train_gpt.py, which stands alone and goes on without its console.
"""

import os
import sys
from collections.abc import Callable
from typing import TextIO

from golf.files import explain

READER_GONE = 141  # as a shell says of a program that SIGPIPE ended: 128 + 13


def guarded(program: str, main: Callable[[], int]) -> int:
    """main()'s exit status, once all that it printed has left; READER_GONE, without a word, if nobody took it.

    Python would try again at its end what failed here, and complain: then nothing more goes there."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names of files may be in no encoding that a console has
            stream.reconfigure(errors="backslashreplace")
    try:
        status = main()
    except BrokenPipeError:
        status = READER_GONE
    except SystemExit as stop:
        if not isinstance(stop.__context__, BrokenPipeError):  # else it is rich's answer to one
            if gone := hush(program):
                return gone
            raise
        status = READER_GONE
    return hush(program) or status


def say(text: str) -> None:
    """Prints a line of work that goes on without a reader."""
    try:
        print(text, flush=True)
    except OSError:
        silence(sys.stdout)


def silence(stream: TextIO) -> None:
    """From here on what is printed there goes nowhere, of children too."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def hush(program: str) -> int:
    """Writes what stdout and stderr still hold; a stream that takes nothing goes nowhere from here on. Returns 0, or
    the exit status that says so."""
    status = 0
    for stream in (sys.stderr, sys.stdout):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            silence(stream)
            status = READER_GONE if isinstance(error, BrokenPipeError) else explain(program, error)
    return status
