"""The parts of the scorer: box, protocol, likelihood, statistics of a score, report. `eval_heldout.py` is the
command."""


class ScoringError(Exception):
    """The run has no score; the message is one line that says what is wrong, where, and what to do about it."""
