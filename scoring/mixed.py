"""Seeds and documents at once: the gain of one artifact over another as a mixed model with crossed random effects.

Every seed is scored on every document, so the table of nats is balanced. Of the gain in bpb, artifact is the fixed
effect; random are the seed (within its artifact), the document (it cancels: both artifacts meet the same ones), the
document's own liking for one of the artifacts, and the rest (seed by document). A test over seeds alone says nothing
of other documents and a bootstrap over documents nothing of other seeds (Clark 1973, the language-as-fixed-effect
fallacy); adding their variances counts the rest twice.

For a balanced table the variances have a closed form, equal to restricted maximum likelihood where none is negative
(Searle, Casella & McCulloch 1992, 4.4); the test is Clark's quasi-F as a t with Satterthwaite's degrees of freedom
(1946), and allows the artifacts different variances (Welch 1947). Bits per byte is a ratio: documents enter with their
residuals (Cochran 1977, 6.19), weighted by their bytes.

NOT covered: pairs of seeds; near-duplicate documents and scope "stream", which make documents dependent; few documents
of very unequal sizes (60, the largest ten times the median: it errs in 7% of cases where it should in 5%).
"""

import math

import numpy as np
import scipy.stats

from golf import statistics


def test(old, new, raw_bytes, margin):
    """One-sided test that `new` is better than `old` by more than `margin` bpb: {"p", "t", "degrees", "error_bpb",
    "interval", "seed_error_bpb", "document_error_bpb", "rest_error_bpb"}; the last three add in squares to the error.

    old, new: nats float64 [S, D] of seeds and documents; raw_bytes [D]. None unless both have two seeds and documents,
    and something varies."""
    if min(*old.shape, *new.shape) < 2:
        return None
    parts = [_mean_squares(nats, raw_bytes) for nats in (old, new)]
    documents = len(raw_bytes)
    gain_nats = old.mean(axis=0) - new.mean(axis=0)
    gain = float(statistics.bits_per_byte(gain_nats, raw_bytes))
    by_seed, rest = ([part[name] for part in parts] for name in ("seed", "rest"))
    by_document = statistics.ratio_error(gain_nats, raw_bytes) ** 2
    # Each is a mean square over its count, with its degrees of freedom; a variance below nothing counts as nothing.
    seeds = [(value, len(group) - 1) for value, group in zip(by_seed, (old, new))]
    rests = [(value, (len(group) - 1) * (documents - 1)) for value, group in zip(rest, (old, new))]
    seed, document, rest = max(0.0, sum(by_seed) - sum(rest)), max(0.0, by_document - sum(rest)), sum(rest)
    variance = seed + document + rest
    if variance == 0:
        return None
    used = (seeds if seed else []) + ([(by_document, documents - 1)] if document else [])
    used += rests if bool(seed) == bool(document) else []
    degrees = variance ** 2 / sum(value ** 2 / count for value, count in used)
    error = math.sqrt(variance)
    half = float(scipy.stats.t.ppf(0.975, degrees)) * error
    t = (gain - margin) / error
    return {"p": float(scipy.stats.t.sf(t, degrees)), "t": t, "degrees": float(degrees), "error_bpb": error,
            "interval": [gain - half, gain + half], "seed_error_bpb": math.sqrt(seed),
            "document_error_bpb": math.sqrt(document), "rest_error_bpb": math.sqrt(rest)}


def _mean_squares(nats, raw_bytes):
    """{"seed": variance of the mean over seeds, "rest": the part of it, and of the documents', that is the rest} of one
    artifact's nats [S, D], in bpb squared."""
    count, documents = nats.shape
    by_seed = statistics.bits_per_byte(nats, raw_bytes)
    residual = (nats / statistics.LN2 - by_seed[:, None] * raw_bytes) / raw_bytes.mean()
    residual -= residual.mean(axis=0)
    rest = (residual ** 2).sum() / ((count - 1) * (documents - 1))
    return {"seed": float(np.var(by_seed, ddof=1) / count), "rest": float(rest / (count * documents))}
