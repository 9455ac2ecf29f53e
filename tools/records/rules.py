"""One function per rule of RULES.md: looks at a record's folder, measures again what can be measured, and judges.

A function returns PASS, FAIL or SKIP with what was measured, the limit and the fix; SKIP where a person must look or
something needed is not here. Nothing in record.json is believed that a file of the folder or a new score can
contradict. Nothing of the folder runs here: its script is read, and only the scorer's box runs what the artifact holds.

Not covered: the clock of training (it is the script's own), whether attribution is true, and the code in the artifact
against train_gpt.py (it travels minified).
"""

import functools
import hashlib
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from golf import schema
from golf.files import ROOT, Failure, check_plain, parse_json, read_bytes, read_metrics, read_text, sha256_file
from golf.script import MAX_BYTES
from golf.tracks import TRACKS
from tools.claims import prove
from tools.records.record import draw_seeds, overrides, parent_diff, source_in_log

SAME_SCORE = 0.0005  # bpb by which two scores of one artifact may differ between machines
MAX_LINES, MAX_COLUMNS, MIN_SEEDS = 2000, 120, 3
RULES: list[tuple[str, str, Callable]] = []
# What a rule says means nothing where one of these fails: of files edited since (R17), of another script (R3). They are
# judged first, and a rule that needs one is then SKIP.
NEEDS = dict.fromkeys(("R1", "R2", "R5", "R6", "R8", "R9", "R10", "R11", "R12", "R14", "R15"), ("R17",))
NEEDS |= dict.fromkeys(("R4", "R13", "R16"), ("R17", "R3"))


@dataclass(frozen=True)
class Verdict:
    """What one rule says of a record."""

    status: str  # PASS, FAIL or SKIP
    measured: str
    limit: str = ""
    fix: str = ""


def judge(good: bool, measured: str, limit: str, fix: str) -> Verdict:
    """PASS or FAIL; the fix is only shown with a FAIL."""
    return Verdict("PASS", measured, limit) if good else Verdict("FAIL", measured, limit, fix)


def rule(name: str, title: str):
    """Registers a function Submission -> Verdict under its rule's name."""

    def register(function: Callable) -> Callable:
        RULES.append((name, title, function))
        return function

    return register


class NoScore(Failure):
    """The artifact has no score. R8 fails for it, and the rule that the scorer's verdict is about."""


BLAMED = {
    "R5": r"FAILED \(hang\)",
    "R8": "",
    "R10": r"FAILED \(lossless\)",
    "R11": r"FAILED \(audit blind\)",
    "R12": r"FAILED \(audit (twice|order)\)",
}


class Submission:
    """A record's folder: plain files, and a record.json as its schema says, or Failure. The other files are read when a
    rule asks; a Failure then makes that rule FAIL."""

    def __init__(self, folder: Path, data: Path | None = None, scores: bool = True):
        check_plain(folder)
        self.folder, self.scores = folder.resolve(), scores
        self.record = schema.read(folder / "record.json", "record")
        self._data = data

    @property
    def seeds(self) -> list[int]:
        return [row["seed"] for row in self.record["seeds"]]

    @functools.cached_property
    def runs(self) -> list[dict]:
        return [schema.read(self.folder / f"logs/seed{seed}.run.json", "run") for seed in self.seeds]

    @functools.cached_property
    def evals(self) -> list[dict]:
        return [schema.read(self.folder / f"eval/seed{seed}.json", "eval") for seed in self.seeds]

    @property
    def artifacts_eval(self) -> dict:
        """eval.json of the seed whose artifact is the record's."""
        seed = self.record["artifact"]["seed"]
        if seed not in self.seeds:
            raise Failure(f"record.json: artifact.seed is {seed}, the seeds are {', '.join(map(str, self.seeds))}")
        return self.evals[self.seeds.index(seed)]

    @functools.cached_property
    def script(self) -> bytes:
        return read_bytes(self.folder / "train_gpt.py", MAX_BYTES)

    @functools.cached_property
    def script_sha256(self) -> str:
        return hashlib.sha256(self.script).hexdigest()

    @property
    def artifact(self) -> Path | None:
        """The committed artifact, or None if it is named by its hash only."""
        return self.folder / self.record["artifact"]["file"] if self.record["artifact"]["file"] else None

    @property
    def data(self) -> Path:
        """The data set on this machine: the one named, or that of the same place in data/. A record chooses no other
        folder of the machine, and none that travels with the record."""
        stated = Path(os.path.normpath(ROOT / self.runs[0]["data"]["dir"]))
        known = stated.is_relative_to(ROOT / "data")
        return self._data or (stated if known else ROOT / "data" / "not-known")

    @functools.cached_property
    def parent(self) -> Path | None:
        """The parent's folder. Failure if it is named and not there."""
        if self.record["parent"] is None:
            return None
        places = [ROOT / "records" / self.record["track"], *sorted((ROOT / "records").glob("*"))]
        found = [place / self.record["parent"] for place in places if (place / self.record["parent"]).is_dir()]
        if not found:
            raise Failure(f"no record {self.record['parent']} in records/")
        check_plain(found[0])
        return found[0]

    @property
    def rescored(self) -> dict | None:
        """eval.json of the committed artifact, scored now with full audits; None where that cannot be done here. Raises
        NoScore."""
        if isinstance(self._rescored, NoScore):
            raise self._rescored
        return self._rescored

    @functools.cached_property
    def _rescored(self) -> dict | Failure | None:
        if not self.scores or self.artifact is None or not (self.data / "manifest.json").exists():
            return None
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "eval.json"
            done = subprocess.run(
                [
                    sys.executable,
                    "eval_heldout.py",
                    str(self.artifact),
                    "--data",
                    str(self.data),
                    "--split",
                    self.record["data"]["split"],
                    "--audit",
                    "full",
                    "--out",
                    str(out),
                ],
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            if done.returncode != 0:
                return NoScore(f"scoring it failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
            return schema.read(out, "eval")


def not_rescored(what: str) -> Verdict:
    """SKIP of a rule that needs the artifact to be scored here."""
    return Verdict("SKIP", f"{what}: needs the artifact, the data set, and no --quick")


@rule("R1", "one file, its size is the number")
def size(s: Submission) -> Verdict:
    cap, stated = TRACKS[s.record["track"]].cap_bytes, s.record["artifact"]
    sizes = [row["artifact_bytes"] for row in s.record["seeds"]]
    if sizes != [score["artifact"]["bytes"] for score in s.evals]:
        return Verdict("FAIL", f"record.json says {sizes}, the scores say other bytes", "equal", "make the record anew")
    if max(sizes) > cap:
        return Verdict("FAIL", f"{max(sizes):,} bytes", f"{cap:,}", "pack it smaller")
    if s.artifact is None:
        return Verdict("SKIP", f"{max(sizes):,} bytes claimed; the artifact is not committed", f"{cap:,}")
    measured = s.artifact.stat().st_size
    scored = s.artifacts_eval["artifact"]["sha256"]
    if not sha256_file(s.artifact) == stated["sha256"] == scored:
        return Verdict(
            "FAIL",
            f"{s.artifact.name} is not the file that was scored (its sha256 differs)",
            scored[:12],
            "commit the artifact of the median seed",
        )
    return judge(measured == stated["bytes"] <= cap, f"{measured:,} bytes", f"{cap:,}", "pack it smaller")


@rule("R2", "that file and nothing else")
def box(s: Submission) -> Verdict:
    if s.rescored is None:
        return not_rescored("the box")
    active = [row["layer"] for row in s.rescored["sandbox"] if row["active"]]
    if "network namespace" not in active:
        return Verdict("SKIP", "scored, but this kernel gives the box no network namespace")
    return Verdict("PASS", f"scored in a box with {len(active)} active layers, without network")


@rule("R3", "the script in the log is the script")
def script(s: Submission) -> Verdict:
    sha256, limit = s.script_sha256, s.record["script_sha256"]
    for seed, run in zip(s.seeds, s.runs):
        source_in_log(s.folder / f"logs/seed{seed}.log", sha256)
        if run["source_sha256"] != sha256:
            return Verdict("FAIL", f"seed {seed} ran {run['source_sha256'][:12]}", sha256[:12], "run this script")
    return judge(sha256 == limit, sha256[:12], limit[:12], "make the record anew: train_gpt.py was changed")


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
    steps = re.findall(r"^step +(\d+) +([\d.]+)/.*? loss +([\d.]+|nan) ", text, flags=re.MULTILINE)
    for step, elapsed, loss in steps:
        row = rows.get(int(step), {"elapsed": -1, "loss": -1})
        if abs(row["elapsed"] - float(elapsed)) > 0.06 or abs(row["loss"] - float(loss)) > 0.0001:
            faults.append(f"step {step}: not the row of metrics.jsonl")
    if len(steps) != len(rows):
        faults.append(f"{len(steps)} steps in the log, {len(rows)} in metrics.jsonl")
    return faults


@rule("R4", "the training clock")
def training_clock(s: Submission) -> Verdict:
    cap = TRACKS[s.record["track"]].training_seconds or math.inf
    for row, seed, run in zip(s.record["seeds"], s.seeds, s.runs):
        where = f"seed {seed}"
        if faults := log_faults(s, seed, run):
            return Verdict("FAIL", f"{where}: {faults[0]}", "log, metrics and run.json agree", "put back the real log")
        counted = run["clock"]["train"] + run["clock"].get("calibrate", 0.0)
        if abs(counted - run["training_seconds"]) > 0.01 or row["train_seconds"] != run["training_seconds"]:
            return Verdict(
                "FAIL",
                f"{where}: phases sum to {counted:.3f} s, stated {run['training_seconds']} s",
                "equal",
                "make the record anew from the runs",
            )
        if (row["steps"], row["tokens"], run["track"]) != (run["steps"], run["tokens"], s.record["track"]):
            return Verdict("FAIL", f"{where}: steps, tokens or track differ from run.json", "equal", "make it anew")
    longest = max(run["training_seconds"] for run in s.runs)
    return judge(longest <= cap, f"{longest:.1f} s", f"{cap:g} s", "train for less")


@rule("R5", "the scoring clock")
def scoring_clock(s: Submission) -> Verdict:
    scores = [*s.evals, *([s.rescored] if s.rescored else [])]
    longest = max(sum(score["clock"].get(key, 0.0) for key in ("decode", "build", "score")) for score in scores)
    cap = TRACKS[s.record["track"]].scoring_seconds
    return judge(longest <= cap, f"{longest:.1f} s", f"{cap} s", "make scoring faster")


@rule("R6", "the track's training data only")
def data(s: Submission) -> Verdict:
    stated = s.record["data"]
    for seed, run, score in zip(s.seeds, s.runs, s.evals):
        if run["data"]["manifest_sha256"] != stated["manifest_sha256"] or score["data"] != stated:
            return Verdict(
                "FAIL",
                f"seed {seed}: another data set than record.json names",
                "one data set",
                "train and score all seeds on the same data",
            )
    manifest = s.data / "manifest.json"
    if not manifest.exists():
        return Verdict("SKIP", f"{s.data}: the data set is not here")
    if sha256_file(manifest) != stated["manifest_sha256"]:
        return Verdict("SKIP", f"{s.data}: another data set than the record's: name it with --data")
    if sha256_file(s.data / f"{stated['split']}_docs.jsonl") != stated["docs_sha256"]:
        return Verdict(
            "FAIL",
            "the documents are not those that were scored",
            stated["docs_sha256"][:12],
            "score again on the manifest's documents",
        )
    if not s.scores:
        return Verdict("PASS", "hashes as stated; with --quick no search for shared text")
    done = subprocess.run(
        [sys.executable, "-m", "golf", "data", "check", str(s.data)], cwd=ROOT, capture_output=True, text=True
    )
    lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
    return judge(
        done.returncode == 0,
        "hashes as stated, no shared text found" if done.returncode == 0 else lines[0],
        "no text on both sides of a split",
        "build the data set again",
    )


@rule("R7", "the splits have their uses")
def split(s: Submission) -> Verdict:
    name = s.record["data"]["split"]
    return judge(name == "dev", f"scored on {name}", "dev", "score on dev; ask about gate with golf ladder")


@rule("R8", "the scorer owns the score")
def score(s: Submission) -> Verdict:
    fix = "make the record anew from what the scorer wrote"
    values = [row["bpb"] for row in s.record["seeds"]]
    for seed, value, result in zip(s.seeds, values, s.evals):
        documents = result["per_document"]
        raw_bytes = sum(row["raw_bytes"] for row in documents)
        bpb = sum(row["nats"] for row in documents) / math.log(2) / raw_bytes if raw_bytes else math.nan
        if not math.isclose(bpb, result["bpb"], abs_tol=1e-9) or value != result["bpb"]:
            return Verdict(
                "FAIL",
                f"seed {seed}: {value} stated, {result['bpb']} in eval.json, {bpb:.6f} from its documents",
                "equal",
                fix,
            )
    spread = statistics.stdev(values) if len(values) > 1 else None
    stated = (s.record["bpb_mean"], s.record["bpb_sd"])
    if (
        not math.isclose(stated[0], statistics.mean(values), abs_tol=1e-9)
        or (spread is None) != (stated[1] is None)
        or spread is not None
        and not math.isclose(stated[1], spread, abs_tol=1e-9)
    ):
        return Verdict(
            "FAIL", f"mean and deviation stated as {stated}", f"{statistics.mean(values):.6f}, {spread}", fix
        )
    if s.rescored is None:
        return not_rescored("numbers agree with each other, but the score itself")
    claimed, again = s.artifacts_eval["bpb"], s.rescored["bpb"]
    return judge(
        abs(again - claimed) <= SAME_SCORE,
        f"{again:.6f} bpb, scored again",
        f"{claimed:.6f} +- {SAME_SCORE}",
        "the artifact does not have this score",
    )


@rule("R9", "every symbol is scored once")
def coverage(s: Submission) -> Verdict:
    first = [(row["id"], row["raw_bytes"], row["tokens"]) for row in s.evals[0]["per_document"]]
    for seed, result in zip(s.seeds, s.evals):
        rows = result["per_document"]
        sums = [len(rows), *(sum(row[key] for row in rows) for key in ("raw_bytes", "tokens"))]
        if sums != [result["documents"], result["raw_bytes"], result["tokens"]] or first != [
            (row["id"], row["raw_bytes"], row["tokens"]) for row in rows
        ]:
            return Verdict(
                "FAIL",
                f"seed {seed}: documents, bytes or tokens do not add up",
                "all documents, once",
                "score it again",
            )
    docs = s.data / f"{s.record['data']['split']}_docs.jsonl"
    if docs.exists() and sha256_file(docs) == s.record["data"]["docs_sha256"]:
        with docs.open(encoding="utf-8") as file:
            texts = [json.loads(line)["text"].encode() for line in file]
        real = [(hashlib.sha256(text).hexdigest()[:16], len(text)) for text in texts]
        if real != [row[:2] for row in first]:
            return Verdict(
                "FAIL", "the scored documents are not those of the data set", f"{len(real)} documents", "score it again"
            )
    return Verdict("PASS", f"{len(first):,} documents, {sum(row[1] for row in first):,} bytes")


@rule("R10", "tokens give back the text")
def lossless(s: Submission) -> Verdict:
    return not_rescored("the tokenizer") if s.rescored is None else Verdict("PASS", "checked while scoring again")


@rule("R11", "nothing from the future")
def causality(s: Submission) -> Verdict:
    limit, fix = "scores come back without what follows", "a row may use nothing from its own token on"
    for seed, result in zip(s.seeds, s.evals):
        if failed := [row for row in result.get("audits", []) if row["verdict"] == "fail"]:
            return Verdict("FAIL", f"seed {seed}: eval.json holds a failed audit: {failed[0]['detail']}", limit, fix)
    if s.rescored is None:
        stated = ", ".join(sorted({result.get("audit", "none") for result in s.evals}))
        return not_rescored(f"audits (the record's own scores state: {stated})")
    [blind] = [row for row in s.rescored["audits"] if row["audit"] == "blind"]
    return judge(blind["verdict"] == "pass", f"audited here: {blind['detail']}", limit, fix)


@rule("R12", "adapt within the declared scope")
def scope(s: Submission) -> Verdict:
    found = {result["scope"] for result in [*s.evals, *([s.rescored] if s.rescored else [])]}
    return judge(found == {s.record["scope"]}, ", ".join(sorted(found)), s.record["scope"], "state the real scope")


@rule("R13", "the script's defaults are the record")
def defaults(s: Submission) -> Verdict:
    for seed, run in zip(s.seeds, s.runs):
        config = {key: value for key, value in run["config"].items() if key not in ("seed", "run_dir")}
        if config != s.record["config"]:
            return Verdict("FAIL", f"seed {seed}: another config than record.json's", "equal", "make the record anew")
    flags = overrides(s.script, s.runs[0])
    return judge(
        not flags,
        " ".join(flags) or "the bare preset gives the config",
        "no flag but the seed",
        "put these values into the script's preset, commit, draw seeds, run",
    )


@rule("R14", "the commit draws the seeds")
def seeds(s: Submission) -> Verdict:
    commit = s.record["seed_commit"]
    drawn = draw_seeds(commit, len(s.seeds))
    if s.seeds != drawn or [run["seed"] for run in s.runs] != drawn:
        return Verdict("FAIL", f"seeds {s.seeds}", f"{drawn} of commit {commit[:12]}", "run the drawn seeds")
    if len(drawn) < MIN_SEEDS:
        return Verdict("FAIL", f"{len(drawn)} seeds", f"at least {MIN_SEEDS}", "run more of the drawn seeds")
    done = subprocess.run(["git", "show", "--end-of-options", f"{commit}:train_gpt.py"], cwd=ROOT, capture_output=True)
    if done.returncode != 0:
        return Verdict("SKIP", f"seeds as drawn, but commit {commit[:12]} is not in this clone")
    return judge(
        hashlib.sha256(done.stdout).hexdigest() == s.record["script_sha256"],
        f"the first {len(drawn)} that {commit[:12]} draws",
        "that commit's train_gpt.py is the record's",
        "commit the script first, then draw",
    )


@rule("R15", "a gain against its parent")
def gain(s: Submission) -> Verdict:
    if s.parent is None:
        return Verdict("PASS", "the first of its line: there is nothing to beat")
    arms = [prove.read_arm(str(folder)) for folder in (s.folder, s.parent)]
    [claim] = prove.conclude([prove.compare(*arms, prove.MARGIN, ROOT)], prove.ALPHA)
    if not claim["proven"] and s.record["track"] == "open":
        return Verdict("SKIP", claim["sentence"])
    return judge(claim["proven"], claim["sentence"], f"p <= {prove.ALPHA}", "more seeds, or a larger gain")


@rule("R16", "name where it comes from")
def attribution(s: Submission) -> Verdict:
    name = f"{s.record['number']}_{s.record['slug']}"
    diff = parent_diff(s.parent, name, s.script)
    return judge(
        read_text(s.folder / "parent.diff") == diff,
        f"by {', '.join(s.record['authors'])}; parent {s.record['parent'] or 'none'}; agents: {s.record['agent_help']}",
        "parent.diff turns the parent's script into this one",
        "make the record with golf record",
    )


@rule("R17", "records are never edited")
def history(s: Submission) -> Verdict:
    for name, sha256 in s.record.get("files", {}).items():
        if not (s.folder / name).is_file() or sha256_file(s.folder / name) != sha256:
            return Verdict("FAIL", f"{name}: missing or edited since the record was made", sha256[:12], "put it back")

    def git(*words: str) -> str:
        command = ["git", "--literal-pathspecs", *words, "--", str(s.folder)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace").stdout

    if not s.folder.is_relative_to(ROOT) or not git("log", "-1", "--format=%h"):
        return Verdict("PASS" if "files" in s.record else "SKIP", "not committed here yet")
    # git would look into a repository inside the record, and run what its settings name (core.fsmonitor).
    later = git("log", "--format=%h", "--diff-filter=MDRT").split()
    status = git("status", "--porcelain", "--ignore-submodules=all").splitlines()
    edited = [line for line in status if not line.startswith("??")]
    return judge(
        not later and not edited,
        (edited + [f"edited in {commit}" for commit in later] + ["as committed"])[0],
        "no change after the commit that added it",
        "undo it; a correction is a new record",
    )


@rule("R18", "a script is there to be read")
def readable(s: Submission) -> Verdict:
    lines = read_text(s.folder / "train_gpt.py", MAX_BYTES).splitlines()
    widest = max(map(len, lines), default=0)
    return judge(
        len(lines) <= MAX_LINES and widest <= MAX_COLUMNS,
        f"{len(lines)} lines, {widest} columns",
        f"{MAX_LINES}, {MAX_COLUMNS}",
        "make it shorter",
    )


def attempt(name: str, function: Callable, s: Submission) -> Verdict:
    """One rule's verdict; a file that is missing or unreadable is a FAIL of the rule that needs it."""
    try:
        return function(s)
    except NoScore as failure:
        status = "FAIL" if re.search(BLAMED.get(name, "(?!)"), str(failure)) else "SKIP"
        return Verdict(status, str(failure), "", "make an artifact that has a score")
    except Failure as failure:
        return Verdict("FAIL", str(failure), "", "put the file right, or make the record anew")
    except OSError as error:
        return Verdict("FAIL", f"{error.filename}: {error.strerror}", "", "put the file back")
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        return Verdict(
            "FAIL",
            f"a file lacks what is needed: {type(error).__name__} {error}",
            "",
            "make the record with golf record",
        )


def check(s: Submission, only: list[str] | None = None, on_rule: Callable = lambda title: None) -> dict[str, Verdict]:
    """Verdicts by rule, in the order of RULES: of all rules, or of `only` those and the rules that stop them.

    on_rule(title) is called before each."""
    chosen = {name for name, _, _ in RULES if not only or name in only}
    first = {gate for gates in NEEDS.values() for gate in gates}
    needed = {gate for name in chosen for gate in NEEDS.get(name, ())}
    verdicts = {}
    for name, title, function in sorted(RULES, key=lambda entry: entry[0] not in first):
        if name not in chosen | needed:
            continue
        on_rule(f"{name} {title}")
        stops = [gate for gate in NEEDS.get(name, ()) if verdicts[gate].status == "FAIL"]
        if stops:
            verdicts[name] = Verdict("SKIP", f"not judged, because {' and '.join(stops)} failed")
        else:
            verdicts[name] = attempt(name, function, s)
    shown = chosen | {name for name in needed if verdicts[name].status == "FAIL"}
    return {name: verdicts[name] for name, _, _ in RULES if name in shown}
