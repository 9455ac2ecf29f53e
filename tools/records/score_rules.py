"""R8 to R12: what a record's scores say, against each other and against the artifacts, scored again.

Not covered: cheats below the power of the audits (docs/audits.md).
"""

import hashlib
import json
import math
import statistics

from golf.files import sha256_file
from tools.records.artifact_rules import all_seeds
from tools.records.submission import Submission
from tools.records.verdicts import NotHere, Verdict, failed, judge, not_checked, passed, together

# Two scores of one artifact on two machines: processors round products in other places, and a model that learns while
# it is scored carries that along. In the sum over a split the differences cancel; in one document they do not, so it
# may differ by ten times as much per byte, and a short one by what a few rounded tokens can make.
SAME_SCORE = 0.0005  # bpb
SAME_DOCUMENT = 10 * SAME_SCORE  # bpb
SHORT_DOCUMENT = 0.1  # nats, on top
ANEW = "make the record anew from what the scorer wrote"


def score(s: Submission) -> Verdict:
    """R8. The scorer owns the score: of every seed, and of every document."""
    if fault := false_sums(s) or false_mean(s):
        return fault
    try:
        again = s.scored_again
    except NotHere as missing:
        return not_checked(f"numbers agree with each other; the scores themselves: {missing}", missing.fix)

    nats = {seed: [row["nats"] for row in result["per_document"]] for seed, result in again.items()}
    twice = [seed for seed in nats if list(nats.values()).count(nats[seed]) > 1]
    if twice:
        listed = " and ".join(map(str, twice))
        return failed(f"the artifacts of seeds {listed} score every document alike", "a model for each seed", ANEW)

    farthest = 0.0
    for seed, result in again.items():
        claimed = s.evals[s.seeds.index(seed)]
        if fault := other_documents(seed, claimed, result):
            return fault
        farthest = max(farthest, abs(result["bpb"] - claimed["bpb"]))
    measured = f"{len(again)} scored again: at most {farthest:.6f} bpb apart, and no document by more than allowed"
    same = judge(farthest <= SAME_SCORE, measured, f"{SAME_SCORE} bpb", "the artifact does not have this score")
    return together(same, *all_seeds(s))


def false_sums(s: Submission) -> Verdict | None:
    """A failure if the score of a seed is not what its documents give, or not record.json's."""
    for seed, row, result in zip(s.seeds, s.record["seeds"], s.evals):
        documents = result["per_document"]
        raw_bytes = sum(document["raw_bytes"] for document in documents)
        nats = sum(document["nats"] for document in documents)
        bpb = nats / math.log(2) / raw_bytes if raw_bytes else math.nan
        if not math.isclose(bpb, result["bpb"], abs_tol=1e-9) or row["bpb"] != result["bpb"]:
            stated = f"{row['bpb']} stated, {result['bpb']} in eval.json, {bpb:.6f} from its documents"
            return failed(f"seed {seed}: {stated}", "equal", ANEW)
    return None


def false_mean(s: Submission) -> Verdict | None:
    """A failure if record.json's mean and deviation are not those of its seeds."""
    values = [row["bpb"] for row in s.record["seeds"]]
    mean, spread = statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None
    stated_mean, stated_spread = s.record["bpb_mean"], s.record["bpb_sd"]
    same_mean = math.isclose(stated_mean, mean, abs_tol=1e-9)
    if spread is None or stated_spread is None:
        same_spread = spread is stated_spread
    else:
        same_spread = math.isclose(stated_spread, spread, abs_tol=1e-9)
    if same_mean and same_spread:
        return None
    return failed(f"mean {stated_mean} and deviation {stated_spread}", f"{mean:.6f}, {spread}", ANEW)


def other_documents(seed: int, claimed: dict, again: dict) -> Verdict | None:
    """A failure if a document's nats, scored again, are not those that the record has for it."""
    rows = {document["id"]: document for document in again["per_document"]}
    for document in claimed["per_document"]:
        where = f"seed {seed}, document {document['id']}"
        row = rows.get(document["id"])
        if row is None:
            return failed(f"{where}: not a document of the data set", "those of the data set", ANEW)
        allowed = SAME_DOCUMENT * math.log(2) * row["raw_bytes"] + SHORT_DOCUMENT
        if abs(row["nats"] - document["nats"]) > allowed:
            found = f"{row['nats']:.2f} nats scored again, {document['nats']:.2f} claimed"
            return failed(f"{where}: {found}", f"+- {allowed:.2f}", "the artifact does not have this score")
    return None


def coverage(s: Submission) -> Verdict:
    """R9. Every symbol is scored once."""
    first = [(row["id"], row["raw_bytes"], row["tokens"]) for row in s.evals[0]["per_document"]]
    for seed, result in zip(s.seeds, s.evals):
        rows = [(row["id"], row["raw_bytes"], row["tokens"]) for row in result["per_document"]]
        sums = [len(rows), sum(row[1] for row in rows), sum(row[2] for row in rows)]
        if sums != [result["documents"], result["raw_bytes"], result["tokens"]] or rows != first:
            what = f"seed {seed}: documents, bytes or tokens do not add up"
            return failed(what, "all documents, once", "score it again")

    measured = f"{len(first):,} documents, {sum(row[1] for row in first):,} bytes"
    docs = s.data / f"{s.record['data']['split']}_docs.jsonl"
    if not docs.exists() or sha256_file(docs) != s.record["data"]["docs_sha256"]:
        fix = "build the data set (golf data), or name its folder with --data"
        return not_checked(f"{measured}, as its scores say; the documents are not here", fix)
    with docs.open(encoding="utf-8") as file:
        texts = [json.loads(line)["text"].encode() for line in file]
    real = [(hashlib.sha256(text).hexdigest()[:16], len(text)) for text in texts]
    fault = "the scored documents are not those of the data set"
    good = real == [row[:2] for row in first]
    return judge(good, measured if good else fault, f"{len(real)} documents", "score it again")


def lossless(s: Submission) -> Verdict:
    """R10. Tokens give back the text."""
    return together(passed(f"checked while scoring {len(s.scored_again)} again"), *all_seeds(s))


def causality(s: Submission) -> Verdict:
    """R11. Nothing from the future."""
    limit, fix = "scores come back without what follows", "a row may use nothing from its own token on"
    for seed, result in zip(s.seeds, s.evals):
        failures = [row for row in result.get("audits", []) if row["verdict"] == "fail"]
        if failures:
            return failed(f"seed {seed}: eval.json holds a failed audit: {failures[0]['detail']}", limit, fix)
    try:
        again = s.scored_again
    except NotHere as missing:
        stated = ", ".join(sorted({result.get("audit", "none") for result in s.evals}))
        return not_checked(f"{missing} (the record's own scores state audits: {stated})", missing.fix)
    parts = []
    for result in again.values():
        [blind] = [row for row in result["audits"] if row["audit"] == "blind"]
        parts.append(judge(blind["verdict"] == "pass", f"audited here: {blind['detail']}", limit, fix))
    return together(*parts, *all_seeds(s))


def scope(s: Submission) -> Verdict:
    """R12. Adapt within the declared scope."""
    limit, fix = s.record["scope"], "state the real scope"
    for result in s.evals:
        if result["scope"] != limit:
            return failed(result["scope"], limit, fix)
    try:
        again = s.scored_again
    except NotHere as missing:
        return not_checked(f"{limit}, as its scores say; {missing}", missing.fix)
    found = {result["scope"] for result in again.values()}
    return together(judge(found == {limit}, f"{', '.join(sorted(found))}, scored again", limit, fix), *all_seeds(s))
