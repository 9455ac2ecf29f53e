"""`eval_heldout.py compare`: is one artifact better than another, beyond the documents and the seeds at hand?

Two groups of eval.json files of the same documents: those of the old artifact's seeds, and those of the new one's.
Documents: paired bootstrap of the difference of the groups' means. Seeds: Welch's
one-sided test of the new mean being better by more than the margin. Both parts together: a normal error that adds the
variance of seeds and of documents (the interaction is in the part of the seeds).

Sources: Koehn 2004 (paired bootstrap), Efron 1987 (BCa), Welch 1947, Satterthwaite 1946. NOT covered: how many variants
were tried before this one (selection needs new seeds and another split), and near-duplicate documents.
"""

import json
import math

import numpy as np
import scipy.stats

from scoring import ScoringError, statistics

MARGIN = 0.0015  # bpb; what a record must gain beyond noise
LEVEL = 0.01  # one-sided, of the test over seeds
RESAMPLES = 10_000
MIN_SAME_SIGN = 0.8  # of the slices
FIELDS = ("id", "source", "raw_bytes", "nats")


def read(path):
    """An eval.json object. Raises ScoringError."""
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
    positive. Raises ScoringError if they are not of the same documents."""
    ids = [row["id"] for row in old[0]["per_document"]]
    for result in old + new:
        if [row["id"] for row in result["per_document"]] != ids:
            raise ScoringError("the files are not scores of the same documents; score both on one split of one set")
    raw_bytes = np.array([row["raw_bytes"] for row in old[0]["per_document"]], dtype=float)
    nats = [np.array([[row["nats"] for row in result["per_document"]] for result in group]) for group in (old, new)]
    gain_nats = nats[0].mean(axis=0) - nats[1].mean(axis=0)
    gain = float(statistics.bits_per_byte(gain_nats, raw_bytes))
    seeds = [statistics.bits_per_byte(group, raw_bytes) for group in nats]
    error = document_error(gain_nats, raw_bytes)
    result = {"old_bpb": seeds[0].tolist(), "new_bpb": seeds[1].tolist(), "gain_bpb": gain, "margin_bpb": margin,
              "documents": len(ids), "gain_interval_documents": gain_interval(gain_nats, raw_bytes),
              "document_error_bpb": error, "welch": welch(*seeds, margin), "gain_interval": None,
              "slices": slices(old[0]["per_document"], gain_nats, raw_bytes)}
    if min(map(len, seeds)) > 1:
        variance = sum(np.var(group, ddof=1) / len(group) for group in seeds)
        half = scipy.stats.t.ppf(0.975, result["welch"]["degrees"]) * math.sqrt(variance + error ** 2)
        result["gain_interval"] = [gain - half, gain + half]
    result["sentence"] = sentence(result)
    return result


def gain_interval(gain_nats, raw_bytes):
    """95% interval of the gain in bpb by a BCa bootstrap over documents [D]; None for fewer than two."""
    if len(gain_nats) < 2 or np.ptp(gain_nats / raw_bytes.clip(1)) < 1e-12:
        return None if len(gain_nats) < 2 else [float(statistics.bits_per_byte(gain_nats, raw_bytes))] * 2
    found = scipy.stats.bootstrap((gain_nats, raw_bytes), lambda n, b, axis: statistics.bits_per_byte(n, b),
                                  paired=True, vectorized=True, method="BCa", n_resamples=RESAMPLES,
                                  batch=max(1, 1_000_000 // len(gain_nats)), rng=np.random.default_rng(statistics.SEED))
    return [float(found.confidence_interval.low), float(found.confidence_interval.high)]


def document_error(gain_nats, raw_bytes):
    """Standard error of the gain over documents, in bpb, by linearisation of the ratio (Cochran, 6.19)."""
    count = len(gain_nats)
    if count < 2:
        return math.nan
    residual = gain_nats / math.log(2) - statistics.bits_per_byte(gain_nats, raw_bytes) * raw_bytes
    return float(math.sqrt(count / (count - 1) * (residual ** 2).sum()) / raw_bytes.sum())


def welch(old_bpb, new_bpb, margin):
    """{"p", "t", "degrees"} of the one-sided test that the new mean is lower by more than `margin`; None without two
    seeds in each group."""
    if min(len(old_bpb), len(new_bpb)) < 2:
        return None
    if np.ptp(old_bpb) == np.ptp(new_bpb) == 0:  # no variance at all: copies, not seeds
        raise ScoringError("all seeds of a group have the same score: these are copies of one run, not seeds")
    test = scipy.stats.ttest_ind(np.asarray(old_bpb) - margin, new_bpb, equal_var=False, alternative="greater")
    return {"p": float(test.pvalue), "t": float(test.statistic), "degrees": float(test.df)}


def slices(rows, gain_nats, raw_bytes):
    """{slice: {"gain_bpb", "interval" or None, "documents"}}: by source, and by length in thirds."""
    sources = np.array([row["source"] for row in rows])
    thirds = np.quantile(raw_bytes, [1 / 3, 2 / 3])
    lengths = np.array(["short", "middle", "long"])[np.searchsorted(thirds, raw_bytes)]
    found = {}
    for label, values in (("source", sources), ("length", lengths)):
        for value in sorted(set(values.tolist())):
            chosen = values == value
            if raw_bytes[chosen].sum():
                found[f"{label} {value}"] = {
                    "gain_bpb": float(statistics.bits_per_byte(gain_nats[chosen], raw_bytes[chosen])),
                    "interval": gain_interval(gain_nats[chosen], raw_bytes[chosen]), "documents": int(chosen.sum())}
    return found


def sentence(result):
    """One sentence to paste, which claims no more than the numbers do."""
    gain, test = result["gain_bpb"], result["welch"]
    interval = result["gain_interval"] or result["gain_interval_documents"]
    same = sum(part["gain_bpb"] * gain > 0 for part in result["slices"].values())
    by = (f"{abs(gain):.4f} bpb" + (f" (95% {interval[0]:+.4f} .. {interval[1]:+.4f})" if interval else "")
          + f", {same} of {len(result['slices'])} slices with the same sign")
    if test is None:
        known = interval and interval[0] * interval[1] > 0
        return (f"At these weights the new artifact is {'better' if gain > 0 else 'worse'} by {by}"
                f"{'' if known else ', which other documents could turn round'}; "
                "one seed says nothing of other seeds.")
    seeds = f"{len(result['old_bpb'])} against {len(result['new_bpb'])} seeds"
    if test["p"] < LEVEL and interval[0] > 0 and same >= MIN_SAME_SIGN * len(result["slices"]):
        return (f"The new artifact is better by {by}; beyond the margin of {result['margin_bpb']:g} bpb over {seeds} "
                f"(Welch, one-sided p = {test['p']:.2g}).")
    return (f"No claim: the new artifact is {'better' if gain > 0 else 'worse'} by {by}, and {seeds} do not show a "
            f"gain beyond the margin of {result['margin_bpb']:g} bpb (Welch, one-sided p = {test['p']:.2g}).")
