"""R6 and R7: what a record was trained on, and which split it was scored on.

Not covered: held-out text that a script reads in spite of the rules; a new run in a box without it shows that.
"""

import subprocess
import sys

from golf.files import ROOT, sha256_file
from golf.foreign import terminal
from golf.tracks import DATA_SETS
from tools.records.submission import WITHOUT_QUICK, Submission
from tools.records.verdicts import NotHere, Verdict, failed, judge, not_checked, passed, together


def training_data(s: Submission) -> Verdict:
    """R6. The track's training data only."""
    stated = s.record["data"]
    for seed, run, score in zip(s.seeds, s.runs, s.evals):
        if run["data"]["manifest_sha256"] != stated["manifest_sha256"] or score["data"] != stated:
            what = f"seed {seed}: another data set than record.json names"
            return failed(what, "one data set", "train and score all seeds on the same data")

    known = DATA_SETS.get(s.record["track"])
    if known is not None and stated["manifest_sha256"] not in known.values():
        return failed(
            f"trained on a data set with manifest {terminal(stated['manifest_sha256'][:12])}",
            f"one of the track's: {', '.join(sorted(known))}",
            "train on a data set of golf data; a new one is added to golf/tracks.py first",
        )
    try:
        s.check_data()
    except NotHere as missing:
        pinned = "the hash is one of the track's; " if known else ""
        return not_checked(f"{pinned}{missing}", missing.fix)
    if sha256_file(s.data / f"{stated['split']}_docs.jsonl") != stated["docs_sha256"]:
        fix = "score again on the manifest's documents"
        return failed("the documents are not those that were scored", stated["docs_sha256"][:12], fix)
    return together(passed("hashes as stated"), shared_text(s))


def shared_text(s: Submission) -> Verdict:
    """Whether the data set's splits share text, searched now."""
    if not s.scores:
        return not_checked("no search for shared text with --quick", WITHOUT_QUICK)
    command = [sys.executable, "-m", "golf", "data", "check", str(s.data.resolve())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
    measured = "no shared text found" if done.returncode == 0 else lines[0]
    return judge(done.returncode == 0, measured, "no text on both sides of a split", "build the data set again")


def split(s: Submission) -> Verdict:
    """R7. The splits have their uses."""
    name = s.record["data"]["split"]
    return judge(name == "dev", f"scored on {name}", "dev", "score on dev; ask about gate with golf ladder")
