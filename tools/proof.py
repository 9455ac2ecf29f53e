"""The statistics of a claim "A has lower bpb than B by more than a margin": seeds and documents are both drawn.

Two tests, and a claim needs both. Welch's t with the variance of the seeds (of the differences, where seeds are paired)
and of the documents added, degrees of freedom by Satterthwaite (Welch 1947). And a bootstrap that draws seeds, then
documents, the same documents for both sides; its spread is widened by sqrt(n / (n - 1)), without which it is too narrow
for a few seeds (Davison & Hinkley 1997, 3.8).

Not covered: near-duplicates among documents (they make it too sure); scores of scope "stream".
"""

import math

import numpy as np

RESAMPLES = 4000
SEED = 20240520
LN2 = math.log(2)


def seed_variance(new: np.ndarray, old: np.ndarray, paired: bool) -> tuple[float, float]:
    """(variance of the mean gain due to seeds, its degrees of freedom) from bpb per seed [S]."""
    if paired:
        return float(np.var(old - new, ddof=1) / len(new)), len(new) - 1
    parts = [np.var(arm, ddof=1) / len(arm) for arm in (new, old)]
    total = sum(parts)
    if total == 0:
        return 0.0, len(new) + len(old) - 2
    return float(total), float(total**2 / sum(part**2 / (len(arm) - 1) for part, arm in zip(parts, (new, old))))


def document_variance(gain: np.ndarray, raw_bytes: np.ndarray) -> float:
    """Variance of a ratio sum(gain) / sum(raw_bytes) over documents [D], by its residuals."""
    count = len(raw_bytes)
    if count < 2:
        return 0.0
    residual = gain - gain.sum() / raw_bytes.sum() * raw_bytes
    return float(count / (count - 1) * (residual**2).sum() / raw_bytes.sum() ** 2)


def bootstrap(new: np.ndarray, old: np.ndarray, raw_bytes: np.ndarray, paired: bool) -> np.ndarray:
    """Deviations [RESAMPLES] of the gain from its estimate; new, old: bits [S, D]. Seeded."""
    rng = np.random.default_rng(SEED)
    arms = [(old - new, None)] if paired else [(-new, None), (old, None)]
    deviations = np.zeros(RESAMPLES)
    weights = rng.multinomial(len(raw_bytes), np.full(len(raw_bytes), 1 / len(raw_bytes)), RESAMPLES)
    sizes = weights @ raw_bytes
    for bits, _ in arms:
        seeds, mean = len(bits), bits.mean(0)
        picks = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
        by_seed = weights @ (bits - mean).T / sizes[:, None]  # [RESAMPLES, S]: how each seed departs from the mean
        deviations += math.sqrt(seeds / (seeds - 1)) * (picks * by_seed).sum(1) + weights @ mean / sizes
    return deviations - sum(bits.mean(0).sum() for bits, _ in arms) / raw_bytes.sum()


def test(new_nats, old_nats, raw_bytes, paired: bool, margin: float) -> dict:
    """new_nats, old_nats: [S, D] nats; rows correspond if paired. gain = old - new in bpb; p is one-sided."""
    from scipy import stats

    new, old = np.asarray(new_nats, dtype=float) / LN2, np.asarray(old_nats, dtype=float) / LN2
    sizes = np.asarray(raw_bytes, dtype=float)
    by_new, by_old = new.sum(1) / sizes.sum(), old.sum(1) / sizes.sum()
    gain = float(by_old.mean() - by_new.mean())
    from_seeds, df_seeds = seed_variance(by_new, by_old, paired)
    from_documents = document_variance(old.mean(0) - new.mean(0), sizes)
    total = from_seeds + from_documents
    error = math.sqrt(total)
    if error > 1e-12:
        df = total**2 / (from_seeds**2 / df_seeds + from_documents**2 / max(1, len(sizes) - 1))
        p_welch, p_zero = (float(stats.t.sf((gain - edge) / error, df)) for edge in (margin, 0.0))
        half = float(stats.t.isf(0.025, df)) * error
    else:
        df, half = float(df_seeds), 0.0
        p_welch, p_zero = float(gain <= margin), float(gain <= 0)
    deviations = bootstrap(new, old, sizes, paired)
    p_bootstrap = (1 + int((deviations >= gain - margin).sum())) / (1 + RESAMPLES)
    low, high = np.quantile(deviations, [0.025, 0.975])
    return {"new": float(by_new.mean()), "old": float(by_old.mean()), "new_bpb": float(by_new.mean()),
            "old_bpb": float(by_old.mean()), "gain": gain, "standard_error": error,
            "seed_error": math.sqrt(from_seeds), "document_error": math.sqrt(from_documents), "df": df,
            "df_seeds": df_seeds, "interval": [gain - half, gain + half],
            "bootstrap_interval": [gain - float(high), gain - float(low)], "p_welch": p_welch, "p_zero": p_zero,
            "p_bootstrap": p_bootstrap, "p": max(p_welch, p_bootstrap)}


def expected_maximum(count: int) -> float:
    """E[max of `count` standard normals]: what the luckiest of so many equal variants seems to gain."""
    from scipy import integrate, stats

    if count < 2:
        return 0.0
    return float(integrate.quad(lambda x: x * count * stats.norm.pdf(x) * stats.norm.cdf(x) ** (count - 1), -8, 10)[0])


def holm(p_values: list[float]) -> list[float]:
    """Adjusted p values (Holm 1979), in the order given."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def seeds_needed(result: dict, alpha: float, luck: float, power: float = 0.8) -> int | None:
    """Seeds a side that show the gain seen with this power, if the variances stay; None if no number below 1,000 does.

    `result` is what test() gave, with "seeds": [new, old], "paired", "margin".
    """
    from scipy import stats

    over = result["gain"] - result["margin"] - luck
    if over <= 0:
        return None
    seeds = min(result["seeds"])
    for count in range(2, 1000):
        from_seeds, from_documents = result["seed_error"] ** 2 * seeds / count, result["document_error"] ** 2
        total = from_seeds + from_documents
        if total == 0:
            return count
        df_seeds = (count - 1) * (1 if result["paired"] else 2)
        df = total**2 / (from_seeds**2 / df_seeds + from_documents**2 / max(1, result["documents"] - 1))
        if (stats.t.isf(alpha, df) + stats.norm.isf(1 - power)) * math.sqrt(total) <= result["gain"] - result["margin"]:
            return count
    return None
