"""What a rule says of a record: one of four verdicts, with what was measured, the limit and the fix.

A rule may judge several things; `together` makes one verdict of them. Not covered: the rules themselves
(tools/records/rules.py lists them).
"""

from dataclasses import dataclass

from golf.files import Failure

PASS, FAIL = "PASS", "FAIL"
NOT_CHECKED = "NOT CHECKED"  # it could be measured, but was not: here, now, or by a program
NOT_APPLICABLE = "NOT APPLICABLE"  # the rule asks nothing of this record
STATUSES = (PASS, FAIL, NOT_CHECKED, NOT_APPLICABLE)


@dataclass(frozen=True)
class Verdict:
    """status: one of STATUSES. measured: what was found, or why nothing was. limit: what the rule allows. fix: what to
    do about a failure, or to get it checked."""

    status: str
    measured: str
    limit: str = ""
    fix: str = ""


class NoScore(Failure):
    """The artifact has no score. R8 fails for it, and the rule that the scorer's verdict is about."""


class NotHere(Failure):
    """What a rule needs is not on this machine, or was not asked for: the rule is NOT CHECKED. fix: how to check it."""

    def __init__(self, message: str, fix: str):
        super().__init__(message)
        self.fix = fix


def passed(measured: str, limit: str = "") -> Verdict:
    return Verdict(PASS, measured, limit)


def failed(measured: str, limit: str, fix: str) -> Verdict:
    return Verdict(FAIL, measured, limit, fix)


def not_checked(why: str, fix: str, limit: str = "") -> Verdict:
    return Verdict(NOT_CHECKED, why, limit, fix)


def not_applicable(why: str) -> Verdict:
    return Verdict(NOT_APPLICABLE, why)


def judge(good: bool, measured: str, limit: str, fix: str) -> Verdict:
    """PASS or FAIL; the fix is only shown with a FAIL."""
    return passed(measured, limit) if good else failed(measured, limit, fix)


def together(*parts: Verdict) -> Verdict:
    """One verdict of a rule that judges several things: the first failure; or else NOT CHECKED if a part was not, with
    what the others found; or else PASS if a part passed."""
    for part in parts:
        if part.status == FAIL:
            return part

    left = [part for part in parts if part.status == NOT_CHECKED]
    good = [part for part in parts if part.status == PASS]
    shown = [*good, *left] or list(parts)
    measured, limit, fix = (
        "; ".join(dict.fromkeys(text for part in shown if (text := getattr(part, name))))
        for name in ("measured", "limit", "fix")
    )
    return Verdict(shown[-1].status, measured, limit, fix)


def counted(verdicts: dict[str, Verdict]) -> str:
    """One line of counts: "14 PASS, 0 FAIL, 3 NOT CHECKED (R2 R8 R11), 1 NOT APPLICABLE". verdicts: by rule."""
    parts = []
    for status in STATUSES:
        names = [rule for rule, verdict in verdicts.items() if verdict.status == status]
        listed = f" ({' '.join(names)})" if names and status in (FAIL, NOT_CHECKED) else ""
        parts.append(f"{len(names)} {status}{listed}")
    return ", ".join(parts)
