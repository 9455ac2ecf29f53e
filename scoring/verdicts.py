"""Rows of the table of audits, and the tests that turn numbers into verdicts.

Not covered: where the numbers come from (audits.py, sweep.py). The power of the tests: scoring/lab/power.py.
"""

import math

import numpy as np

MAX_DRIFT = 2e-4  # of the score, in bits per byte: beyond it noise is no excuse
MIN_DRIFT = 2e-5  # bits per byte; a drift below it is not tested
LEVEL = 1e-4  # of the tests of sign and mean: how seldom honest noise may look like a leak
EQUAL = 1e-7  # nats; below it two scores are the same
MISS = 0.01  # `misses` is the largest cheat that is missed with this probability

# Bits per byte of good models of two sizes, straight in the logarithm between: a score well below wants an explanation.
KNOWN = ((250_000, 1.45), (16_000_000, 1.05))
PLAUSIBLE = 0.9


def row(audit, verdict, detail, **fields):
    """A row of the table of audits. verdict: pass | fail | note | constructed | audited | not applicable."""
    return {"audit": audit, "verdict": verdict, "detail": detail, **fields}


def tested(audit, problem, detail, **fields):
    """The row of an audit that failed if there is a problem; otherwise it passed, and `detail` says what was done."""
    return row(audit, "fail" if problem else "pass", problem or detail, **fields)


def missed(count, unit, bpb):
    """The largest cheat that `count` uniform draws miss with probability MISS: a share f of the units with
    (1 - f)^count = MISS; and f of the score `bpb`, in case that symbols of average cost cost nothing any more."""
    share = 1 - MISS ** (1 / max(1, count))
    return {"share": share, "of": unit, "bpb": share * bpb, "with_probability": MISS}


def favoured(deltas, bpb_per_nat):
    """What is wrong if differences favour the record although each is small, or None.

    deltas: recorded minus new nats [n]; bpb_per_nat: what one nat more in the mean of `deltas` is in bits per byte.
    Noise that is nobody's fault has no sign and no mean. Two tests, each one-sided and at LEVEL: how many differences
    are negative (sign test), and how large their mean is (Student's t). The second finds many small losses that pay
    for larger gains."""
    mean = float(deltas.mean())
    drift = mean * bpb_per_nat
    moved = deltas[np.abs(deltas) > EQUAL]
    if not len(moved) or -drift < MIN_DRIFT:
        return None
    from scipy import stats  # takes a second to import, and most scores do without

    negative = int((moved < 0).sum())
    sign = stats.binomtest(negative, len(moved), 0.5, alternative="greater").pvalue
    if sign < LEVEL:
        return (
            f"{negative} of {len(moved)} differences favour the recorded score, by {-drift:.1e} bpb together (sign "
            f"test p = {sign:.1e}): noise has no sign"
        )
    size = mean_test(deltas)
    if size < LEVEL:
        return (
            f"the differences favour the recorded score by {-drift:.1e} bpb in the mean of {len(deltas)} (t test "
            f"p = {size:.1e}): noise has no mean"
        )
    return None


def mean_test(deltas):
    """The p of Student's one-sided t test that the mean of `deltas` [n] is not below 0."""
    from scipy import stats

    if len(deltas) < 2 or np.ptp(deltas) == 0:  # no spread: the test is undefined, and the signs say all
        return 1.0
    return float(stats.ttest_1samp(deltas, 0, alternative="less").pvalue)


def plausibility(bpb, artifact_bytes):
    """The row that compares a score with good models of the artifact's size: a note, never a verdict."""
    (small, worse), (large, better) = KNOWN
    place = math.log(max(artifact_bytes, 1) / small) / math.log(large / small)
    expected = worse + (better - worse) * place
    if bpb >= PLAUSIBLE * expected:
        return row("plausibility", "pass", f"good models of this size reach about {expected:.2f} bpb on English text")
    return row(
        "plausibility",
        "note",
        f"{bpb:.4f} bpb is far below the {expected:.2f} of good models of this size on "
        "English text: ask why before you believe it, and see --fresh",
    )


def fresh(name, bpb, bpb_interval, fresh_bpb, fresh_interval, simple_bpb, simple_fresh_bpb):
    """The row that compares a split with one that the submission cannot have seen. Intervals are (low, high) or None;
    simple_*: of the reference model, which tells how much harder the fresh text is."""
    gap, expected = fresh_bpb - bpb, bpb * (simple_fresh_bpb / simple_bpb - 1)
    if bpb_interval is None or fresh_interval is None:
        return row("fresh text", "note", f"{gap:+.4f} bpb on {name}; too few documents for an interval", gap_bpb=gap)
    # Two independent samples of documents: half widths add in squares.
    below = math.hypot(fresh_bpb - fresh_interval[0], bpb_interval[1] - bpb)
    above = math.hypot(fresh_interval[1] - fresh_bpb, bpb - bpb_interval[0])
    excess = gap - expected - 1.5 * below  # from 95% to about 99.8%
    detail = f"{gap:+.4f} bpb on {name} ({gap - below:+.4f} .. {gap + above:+.4f}), text alone {expected:+.4f}"
    verdict = "fail" if excess > 0.02 * bpb else "pass"
    if verdict == "fail":
        detail += ": the artifact knows the first split"
    return row(
        "fresh text", verdict, detail, gap_bpb=gap, gap_interval=[gap - below, gap + above], expected_gap_bpb=expected
    )
