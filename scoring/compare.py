"""`eval_heldout.py compare`: is one artifact better than another, beyond the documents and the seeds at hand?

Two groups of eval.json files of the same documents: those of the old artifact's seeds, and those of the new one's.
Documents: paired bootstrap of the difference of the groups' means, of the whole and of every slice. Seeds: Welch's
one-sided test of the new mean being better by more than the margin. Both at once: the mixed model of mixed.py.

Sources: Koehn 2004 (paired bootstrap), Efron 1987 (BCa), Welch 1947. NOT covered: how many variants were tried before
this one (selection needs new seeds and another split: golf prove), and near-duplicate documents.
"""

import json

import numpy as np
import scipy.stats

from golf import slices, statistics
from scoring import ScoringError, mixed

MARGIN = 0.0015  # bpb; what a record must gain beyond noise
LEVEL = 0.01  # one-sided, of the tests
RESAMPLES = 10_000  # of the whole; a slice makes do with statistics.RESAMPLES
MIN_SAME_SIGN = 0.8  # of the slices
FIELDS = ("id", "source", "raw_bytes", "nats")


def read(path):
    """An eval.json object, of format 1 or 2. Raises ScoringError."""
    try:
        with open(path, encoding="utf-8") as file:
            result = json.load(file)
        rows = result["per_document"]
        if not rows or any(field not in row for row in rows for field in FIELDS) or "artifact" not in result:
            raise ValueError
        return result
    except OSError as error:
        raise ScoringError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise ScoringError(f"{path} is not the eval.json of a whole score (eval_heldout.py writes it)") from None


def compare(old, new, margin=MARGIN):
    """The comparison of two lists of eval.json objects as a dict; bpb differences are old minus new, so a gain is
    positive. Raises ScoringError if they are not of the same documents, or one of a group is there twice."""
    ids = [row["id"] for row in old[0]["per_document"]]
    for result in old + new:
        if [row["id"] for row in result["per_document"]] != ids:
            raise ScoringError("the files are not scores of the same documents; score both on one split of one set")
    for group in (old, new):
        names = [result["artifact"]["sha256"] for result in group if "sha256" in result["artifact"]]
        if len(set(names)) < len(names):
            raise ScoringError("an artifact is there twice on one side: these are copies of one run, not seeds")
    rows = [[result["per_document"] for result in group] for group in (old, new)]
    raw_bytes = np.array([row["raw_bytes"] for row in rows[0][0]], dtype=float)
    nats = [np.array([[row["nats"] for row in result] for result in group]) for group in rows]
    gain_nats = nats[0].mean(axis=0) - nats[1].mean(axis=0)
    seeds = [statistics.bits_per_byte(group, raw_bytes) for group in nats]
    test, model = welch(*seeds, margin), mixed.test(*nats, raw_bytes, margin)
    interval = statistics.bpb_interval(gain_nats, raw_bytes, resamples=RESAMPLES)
    missing = slices.missing(*rows[0], *rows[1])
    result = {"old_bpb": seeds[0].tolist(), "new_bpb": seeds[1].tolist(),
              "gain_bpb": float(statistics.bits_per_byte(gain_nats, raw_bytes)), "margin_bpb": margin,
              "documents": len(ids), "gain_interval_documents": interval,
              "document_error_bpb": statistics.ratio_error(gain_nats, raw_bytes), "welch": test, "mixed": model,
              "gain_interval": model and model["interval"],
              "slices": {name: slice_gain(part, *rows) for name, part in slices.cut(rows[0][0], missing).items()},
              "slices_missing": missing}
    result["sentence"] = sentence(result)
    return result


def slice_gain(part, old, new):
    """{"gain_bpb", "interval" or None, "documents"} of a Slice; old, new: the rows of each seed."""
    nats = np.mean([part.nats(rows) for rows in old], axis=0) - np.mean([part.nats(rows) for rows in new], axis=0)
    return {"gain_bpb": float(statistics.bits_per_byte(nats, part.raw_bytes)),
            "interval": statistics.bpb_interval(nats, part.raw_bytes), "documents": len(nats)}


def welch(old_bpb, new_bpb, margin):
    """{"p", "t", "degrees"} of the one-sided test that the new mean is lower by more than `margin`; None without two
    seeds in each group."""
    if min(len(old_bpb), len(new_bpb)) < 2:
        return None
    if np.ptp(old_bpb) == np.ptp(new_bpb) == 0:  # no variance at all: copies, not seeds
        raise ScoringError("all seeds of a group have the same score: these are copies of one run, not seeds")
    test = scipy.stats.ttest_ind(np.asarray(old_bpb) - margin, new_bpb, equal_var=False, alternative="greater")
    return {"p": float(test.pvalue), "t": float(test.statistic), "degrees": float(test.df)}


def sentence(result):
    """One sentence to paste, which claims no more than the numbers do."""
    gain, test, model = result["gain_bpb"], result["welch"], result["mixed"]
    interval = result["gain_interval"] or result["gain_interval_documents"]
    parts = [part for part in result["slices"].values() if part["documents"] >= slices.MIN_DOCUMENTS]
    same = sum(part["gain_bpb"] * gain > 0 for part in parts)
    by = (f"{'better' if gain > 0 else 'worse'} by {abs(gain):.4f} bpb"
          + (f" (95% {interval[0]:+.4f} .. {interval[1]:+.4f})" if interval else "")
          + f", {same} of {len(parts)} slices with the same sign")
    if test is None or model is None:
        known = interval and interval[0] * interval[1] > 0
        doubt = "" if known else ", which other documents could turn round"
        return f"At these weights the new artifact is {by}{doubt}; one seed says nothing of other seeds."
    over = (f"{len(result['old_bpb'])} against {len(result['new_bpb'])} seeds and {result['documents']:,} documents "
            f"(mixed model, one-sided p = {model['p']:.2g}; Welch over seeds alone, p = {test['p']:.2g})")
    if max(test["p"], model["p"]) >= LEVEL or gain <= 0:
        return (f"No claim: the new artifact is {by}, and {over} do not show a gain beyond the margin of "
                f"{result['margin_bpb']:g} bpb.")
    if same < MIN_SAME_SIGN * len(parts):
        return f"No claim: the new artifact is {by}: too few for a gain, whatever {over} show."
    return f"The new artifact is {by}; beyond the margin of {result['margin_bpb']:g} bpb over {over}."
