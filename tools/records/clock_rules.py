"""R4 and R5: how much a record trained, and how long its scoring takes.

Under version 1 of the rules the training clock is seconds on the wall. Under version 2, a track with par_tokens
(golf/tracks.py) counts tokens instead, against the speed of the script beside record 0001's on one machine.

Not covered: the script's own clock on tracks that have one: it is the script's word, and only a new run shows it.
"""

import math
import re

from golf.files import Failure, parse_json, read_metrics, read_text
from golf.processor import kind_of, own_kind
from golf.tracks import TRACKS
from tools.records.record import source_in_log
from tools.records.submission import WITHOUT_QUICK, Submission
from tools.records.verdicts import NotHere, Verdict, failed, judge, not_checked, passed, together

ANEW = "make the record anew from its runs"
SAME_RATIO = 0.07  # of the speed ratio by which two timings on machines of one class may differ (RULES.md, R4)
BY_WORK = ("tokens", "steps")  # what ends a run without a clock, in run.json's "stopped"
ROUNDED = 0.01  # seconds by which the phases of a clock may differ from their stated sum


def log_faults(s: Submission, seed: int, run: dict) -> list[str]:
    """Lines of a log that contradict run.json or metrics.jsonl."""
    log = s.folder / f"logs/seed{seed}.log"
    text = read_text(log)[len(source_in_log(log, run["source_sha256"]).decode()) :]
    rows = {row["step"]: row for row in reversed(read_metrics(s.folder / f"logs/seed{seed}.metrics.jsonl"))}
    faults = []
    config = re.search(r"^config (\{.*\})$", text, flags=re.MULTILINE)
    if config is None or parse_json(config[1]) != run["config"]:
        faults.append("config")
    summary = dict(re.findall(r"^(\w+): (.+)$", text, flags=re.MULTILINE))
    for key in ("seed", "steps", "tokens", "training_seconds", "train_loss", "dev_bpb", "stopped"):
        if summary.get(key) != str(run[key]):
            faults.append(f"{key}: {summary.get(key)} in the log, {run[key]} in run.json")
    # "/600" stands after the seconds of a run with a clock
    steps = re.findall(r"^step +(\d+) +([\d.]+)(?:/\d+)? s .*? loss +([\d.]+|nan) ", text, flags=re.MULTILINE)
    for step, elapsed, loss in steps:
        row = rows.get(int(step), {"elapsed": -1, "loss": -1})
        if abs(row["elapsed"] - float(elapsed)) > 0.06 or abs(row["loss"] - float(loss)) > 0.0001:
            faults.append(f"step {step}: not the row of metrics.jsonl")
    if len(steps) != len(rows):
        faults.append(f"{len(steps)} steps in the log, {len(rows)} in metrics.jsonl")
    return faults


def training(s: Submission) -> Verdict:
    """R4. How much it trained: by the wall, or by work and speed."""
    for row, seed, run in zip(s.record["seeds"], s.seeds, s.runs):
        if fault := contradiction(s, row, seed, run):
            return fault
    track = TRACKS[s.record["track"]]
    by_par = s.rules >= 2 and track.par_tokens is not None
    if not by_par:
        return wall_clock(s)
    work = training_work(s)
    return together(work, speed(s)) if s.record["par"] else work


def contradiction(s: Submission, row: dict, seed: int, run: dict) -> Verdict | None:
    """A failure if log, metrics.jsonl, run.json and record.json do not say the same of one seed."""
    where = f"seed {seed}"
    if faults := log_faults(s, seed, run):
        return failed(f"{where}: {faults[0]}", "log, metrics and run.json agree", "put back the real log")
    counted = run["clock"]["train"] + run["clock"].get("calibrate", 0.0)
    if abs(counted - run["training_seconds"]) > ROUNDED or row["train_seconds"] != run["training_seconds"]:
        return failed(f"{where}: phases sum to {counted:.3f} s, stated {run['training_seconds']} s", "equal", ANEW)
    if (row["steps"], row["tokens"], run["track"]) != (run["steps"], run["tokens"], s.record["track"]):
        return failed(f"{where}: steps, tokens or track differ from run.json", "equal", ANEW)
    return None


def wall_clock(s: Submission) -> Verdict:
    """The clock on the wall: of tracks without par, and of all records under version 1 of the rules."""
    if s.record.get("par"):
        return failed("it states a par", "none: this track has a clock on the wall", ANEW)
    cap = TRACKS[s.record["track"]].training_seconds or math.inf
    gpus = TRACKS[s.record["track"]].gpus
    if gpus and s.runs[0]["world_size"] > gpus:
        return failed(f"trained on {s.runs[0]['world_size']} GPUs", f"at most {gpus}", f"train on {gpus}")
    longest = max(run["training_seconds"] for run in s.runs)
    return judge(longest <= cap, f"{longest:.1f} s", f"{cap:g} s", "train for less")


def training_work(s: Submission) -> Verdict:
    """Whether every seed trained on at most par_tokens times the speed ratio, and nothing but work ended it."""
    par, track = s.record["par"], TRACKS[s.record["track"]]
    if par is None:
        return failed("it states no speed ratio", "golf par", "golf par train_gpt.py --json > par.json; make it anew")
    if not par["low"] <= par["ratio"] <= par["high"]:
        return failed(f"a ratio of {par['ratio']} outside its interval", f"{par['low']} to {par['high']}", ANEW)
    cap = track.allowed_tokens(par["low"])
    limit = f"{cap:,} tokens: {track.par_tokens:,} x {par['low']:.3f}"
    for seed, run in zip(s.seeds, s.runs):
        clock = run["config"].get("max_seconds")
        if clock != 0 or run["stopped"] not in BY_WORK:
            ended = f"max_seconds {clock}, ended by {run['stopped']}"
            return failed(f"seed {seed}: {ended}", "max_seconds 0, ended by its tokens", "set max_tokens in the preset")
        if run["tokens"] > cap:
            return failed(f"seed {seed}: {run['tokens']:,} tokens", limit, "train on fewer tokens")
    largest = max(run["tokens"] for run in s.runs)
    return passed(f"work: {largest:,} tokens", limit)


def speed(s: Submission) -> Verdict:
    """Whether the script's speed ratio to record 0001's comes back on this machine."""
    par = s.record["par"]
    kind = kind_of(par["processor_class"], par["processor"])
    if kind != own_kind():
        why = f"speed: timed on another kind of processor ({kind}) than this one ({own_kind()})"
        return not_checked(why, f"check on a processor that is {kind}")
    if not s.scores:
        return not_checked("speed: not timed with --quick", WITHOUT_QUICK)

    from tools.plan import par as timing  # torch

    try:
        again = timing.measure(s.folder / "train_gpt.py", s.runs[0]["preset"])["ratio"]
    except Failure as failure:  # no box, no data set, or a script that will not be timed: nothing was measured
        return not_checked(f"speed: {failure}", "see to that, and check again")
    apart = abs(again / par["ratio"] - 1)
    measured = f"speed: {again:.3f} times record 0001's here, {apart:.1%} apart"
    fix = "time it again with golf par on a quiet machine, and train on no more than that allows"
    return judge(apart <= SAME_RATIO, measured, f"{par['ratio']:.3f} +- {SAME_RATIO:.0%}", fix)


def scoring(s: Submission) -> Verdict:
    """R5. The scoring clock."""
    cap = TRACKS[s.record["track"]].scoring_seconds

    def seconds(results: list[dict]) -> float:
        return max(sum(one["clock"].get(key, 0.0) for key in ("decode", "build", "score")) for one in results)

    stated = seconds(s.evals)
    if stated > cap:
        return failed(f"{stated:.1f} s, as its scores say", f"{cap} s", "make scoring faster")
    try:
        again = seconds(list(s.scored_again.values()))
    except NotHere as missing:
        return not_checked(f"{stated:.1f} s, as its scores say; {missing}", missing.fix, f"{cap} s")
    return judge(again <= cap, f"{again:.1f} s, timed here", f"{cap} s", "make scoring faster")
