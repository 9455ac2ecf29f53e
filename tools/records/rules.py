"""The rules of RULES.md that a program judges, one function each: it looks at a record, measures again what can be
measured, and says PASS, FAIL, NOT CHECKED or NOT APPLICABLE (tools/records/verdicts.py).

Not covered: rules that need a person: whether attribution is true, whether a script is worth its lines.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from golf.files import Failure
from tools.records import artifact_rules, claim_rules, clock_rules, data_rules, history_rules, score_rules
from tools.records.submission import Submission
from tools.records.verdicts import FAIL, NOT_CHECKED, NoScore, NotHere, Verdict, failed, not_checked


@dataclass(frozen=True)
class Rule:
    """A rule's name and title, as RULES.md has them, and the function that judges it."""

    name: str
    title: str
    function: Callable[[Submission], Verdict]


RULES = (
    Rule("R1", "one file, its size is the number", artifact_rules.size),
    Rule("R2", "that file and nothing else", artifact_rules.box),
    Rule("R3", "the script in the artifact is the script that trained", artifact_rules.script_that_trained),
    Rule("R4", "the training clock: work and speed", clock_rules.training),
    Rule("R5", "the scoring clock", clock_rules.scoring),
    Rule("R6", "the track's training data only", data_rules.training_data),
    Rule("R7", "the splits have their uses", data_rules.split),
    Rule("R8", "the scorer owns the score", score_rules.score),
    Rule("R9", "every symbol is scored once", score_rules.coverage),
    Rule("R10", "tokens give back the text", score_rules.lossless),
    Rule("R11", "nothing from the future", score_rules.causality),
    Rule("R12", "adapt within the declared scope", score_rules.scope),
    Rule("R13", "the script's defaults are the record", claim_rules.defaults),
    Rule("R14", "the commit draws the seeds", claim_rules.seeds),
    Rule("R15", "a gain against what stood before", claim_rules.gain),
    Rule("R16", "name where it comes from", claim_rules.attribution),
    Rule("R17", "records are never edited", history_rules.history),
    Rule("R18", "a script is there to be read", claim_rules.readable),
)
NAMES = tuple(rule.name for rule in RULES)
# What a rule says means nothing where one of these fails: of files edited since (R17), of other artifacts (R1), of
# another script (R3). They are judged first, in this order; a rule that needs one that failed is NOT CHECKED.
GATES = ("R17", "R1", "R3")
NEEDS: dict[str, tuple[str, ...]] = dict.fromkeys(("R1", "R6", "R9", "R14", "R15"), ("R17",))
NEEDS |= dict.fromkeys(("R2", "R5", "R8", "R10", "R11", "R12"), ("R17", "R1"))
NEEDS |= dict.fromkeys(("R4", "R13", "R16"), ("R17", "R3"))
# The rule that the scorer's verdict is about, where it gives an artifact no score.
BLAMED = {
    "R5": r"FAILED \(hang\)",
    "R8": "",
    "R10": r"FAILED \(lossless\)",
    "R11": r"FAILED \(audit blind\)",
    "R12": r"FAILED \(audit (twice|order)\)",
}


def attempt(rule: Rule, s: Submission) -> Verdict:
    """One rule's verdict; a file that is missing or unreadable is a FAIL of the rule that needs it."""
    try:
        return rule.function(s)
    except NotHere as missing:
        return not_checked(str(missing), missing.fix)
    except NoScore as failure:
        status = FAIL if re.search(BLAMED.get(rule.name, "(?!)"), str(failure)) else NOT_CHECKED
        return Verdict(status, str(failure), "", "make an artifact that has a score")
    except Failure as failure:
        return failed(str(failure), "", "put the file right, or make the record anew")
    except OSError as error:
        return failed(f"{error.filename}: {error.strerror}", "", "put the file back")
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        what = f"a file lacks what is needed: {type(error).__name__} {error}"
        return failed(what, "", "make the record with golf record")


def check(s: Submission, only: list[str] | None = None, on_rule: Callable = lambda title: None) -> dict[str, Verdict]:
    """Verdicts by rule, in the order of RULES: of all rules, or of `only` those and the rules that stop them.

    on_rule(title) is called before each."""
    chosen = set(only or NAMES)
    needed = needs(chosen)
    verdicts: dict[str, Verdict] = {}
    for rule in sorted(RULES, key=lambda rule: GATES.index(rule.name) if rule.name in GATES else len(GATES)):
        if rule.name not in chosen | needed:
            continue
        on_rule(f"{rule.name} {rule.title}")
        stops = [gate for gate in NEEDS.get(rule.name, ()) if verdicts[gate].status == FAIL]
        if stops:
            why = f"not judged, because {' and '.join(stops)} failed"
            verdicts[rule.name] = not_checked(why, f"see to {' and '.join(stops)} first")
        else:
            verdicts[rule.name] = attempt(rule, s)
    shown = chosen | {name for name in needed if verdicts[name].status == FAIL}
    return {name: verdicts[name] for name in NAMES if name in shown}


def needs(names: set[str]) -> set[str]:
    """The rules that stop one of these, or one that stops them."""
    found = {gate for name in names for gate in NEEDS.get(name, ())}
    return found if found <= names else found | needs(names | found)
