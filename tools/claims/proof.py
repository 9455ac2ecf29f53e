"""The statistics of a claim "A has lower bpb than B by more than a margin": seeds and documents are both drawn.

The spread of the gain is taken twice, and a claim must hold with the larger one. In closed form: the variance of the
seeds (of the differences, where seeds are paired) plus that of the documents. And by a bootstrap that draws seeds, then
documents, the same documents for both sides; its seeds are widened by sqrt(n / (n - 1)), without which they spread too
little (Davison & Hinkley 1997, 3.8). The tail is Student's t, one-sided, with Satterthwaite's degrees of freedom (Welch
1947): with three seeds a bootstrap has no tail of its own.

Where a side has one seed there is no test, only the gain of these very weights over the documents (fixed_weights).

Not covered: near-duplicates among documents (they make it too sure); scores of scope "stream".
"""

import functools
import math
from collections.abc import Mapping

import numpy as np

from golf.statistics import LN2, bits_per_byte, bpb_interval, ratio_variance

RESAMPLES = 4000
SEED = 20240520


def seed_variance(new: np.ndarray, old: np.ndarray, paired: bool) -> tuple[float, float]:
    """(variance of the mean gain due to seeds, its degrees of freedom) from bpb per seed [S]."""
    if paired:
        return float(np.var(old - new, ddof=1) / len(new)), len(new) - 1
    parts = [np.var(arm, ddof=1) / len(arm) for arm in (new, old)]
    total = sum(parts)
    if total == 0:
        return 0.0, len(new) + len(old) - 2
    return float(total), float(total**2 / sum(part**2 / (len(arm) - 1) for part, arm in zip(parts, (new, old))))


@functools.lru_cache(maxsize=32)
def first_draw(documents: int, count: int) -> tuple[np.ndarray, Mapping]:
    """The weights [count, documents] that bootstrap() draws first, and the state of its generator after that.

    They are the same for all claims on as many documents, and take most of the time of one. Kept as small integers."""
    rng = np.random.default_rng(SEED)
    weights = rng.multinomial(documents, np.full(documents, 1 / documents), count)
    return weights.astype(np.min_scalar_type(int(weights.max()))), rng.bit_generator.state


def bootstrap(
    new: np.ndarray, old: np.ndarray, raw_bytes: np.ndarray, paired: bool, resamples: int = RESAMPLES
) -> np.ndarray:
    """Deviations [resamples] of the gain from its estimate; new, old: bits [S, D]. Seeded."""
    rng = np.random.default_rng(SEED)
    arms, documents = [old - new] if paired else [-new, old], len(raw_bytes)
    batches = []
    for start in range(0, resamples, max(1, 4_000_000 // documents)):  # bounds the memory
        count = min(max(1, 4_000_000 // documents), resamples - start)
        if start == 0:
            drawn, rng.bit_generator.state = first_draw(documents, count)
        else:
            drawn = rng.multinomial(documents, np.full(documents, 1 / documents), count)
        weights = drawn.astype(float)
        sizes, gain = weights @ raw_bytes, np.zeros(count)
        for bits in arms:
            seeds, mean = len(bits), bits.mean(0)
            picks = rng.multinomial(seeds, np.full(seeds, 1 / seeds), count) / seeds
            by_seed = weights @ (bits - mean).T / sizes[:, None]  # [count, S]: how each seed departs from the mean
            gain += math.sqrt(seeds / (seeds - 1)) * (picks * by_seed).sum(1) + weights @ mean / sizes
        batches.append(gain)
    return np.concatenate(batches) - sum(bits.mean(0).sum() for bits in arms) / raw_bytes.sum()


def test(new_nats, old_nats, raw_bytes, paired: bool, margin: float, resamples: int = RESAMPLES) -> dict:
    """new_nats, old_nats: [S, D] nats; rows correspond if paired. gain = old - new in bpb; p is one-sided."""
    from scipy import stats

    new, old = np.asarray(new_nats, dtype=float) / LN2, np.asarray(old_nats, dtype=float) / LN2
    sizes = np.asarray(raw_bytes, dtype=float)
    by_new, by_old = new.sum(1) / sizes.sum(), old.sum(1) / sizes.sum()
    gain = float(by_old.mean() - by_new.mean())
    from_seeds, df_seeds = seed_variance(by_new, by_old, paired)
    from_documents = ratio_variance(old.mean(0) - new.mean(0), sizes) if len(sizes) > 1 else 0.0
    total = from_seeds + from_documents
    deviations = bootstrap(new, old, sizes, paired, resamples)
    bootstrap_error = float(deviations.std())
    error = max(math.sqrt(total), bootstrap_error)
    if error > 1e-12:
        df = total**2 / (from_seeds**2 / df_seeds + from_documents**2 / max(1, len(sizes) - 1))
        p, p_zero = (float(stats.t.sf((gain - edge) / error, df)) for edge in (margin, 0.0))
        half = float(stats.t.isf(0.025, df)) * error
    else:
        df, half = float(df_seeds), 0.0
        p, p_zero = float(gain <= margin), float(gain <= 0)
    low, high = np.quantile(deviations, [0.025, 0.975])
    return {
        "new_bpb": float(by_new.mean()),
        "old_bpb": float(by_old.mean()),
        "gain": gain,
        "standard_error": error,
        "bootstrap_error": bootstrap_error,
        "seed_error": math.sqrt(from_seeds),
        "document_error": math.sqrt(from_documents),
        "df": df,
        "interval": [gain - half, gain + half],
        "bootstrap_interval": [gain - float(high), gain - float(low)],
        "p_zero": p_zero,
        "p": p,
    }


def fixed_weights(new_nats, old_nats, raw_bytes, resamples: int = RESAMPLES) -> dict:
    """The gain of these very weights, where documents alone are drawn: {"new_bpb", "old_bpb", "gain", "interval"}.

    new_nats, old_nats: [S, D] nats, of one seed or more. The interval of 95% is a paired bootstrap over the documents
    (Koehn 2004), None where there is none: it says nothing of other seeds."""
    new, old = np.mean(new_nats, axis=0), np.mean(old_nats, axis=0)
    return {
        "new_bpb": float(bits_per_byte(new, raw_bytes)),
        "old_bpb": float(bits_per_byte(old, raw_bytes)),
        "gain": float(bits_per_byte(old - new, raw_bytes)),
        "interval": bpb_interval(old - new, raw_bytes, resamples=resamples),
    }


def expected_maximum(count: int) -> float:
    """E[max of `count` standard normals]: what the luckiest of so many equal variants seems to gain."""
    from scipy import integrate, special

    if count < 2:
        return 0.0

    def integrand(x: float) -> float:  # x times the density of the largest
        density = math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
        return x * count * density * float(special.ndtr(x)) ** (count - 1)

    return float(integrate.quad(integrand, -8, 10)[0])


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
        shown = (result["gain"] - result["margin"]) / math.sqrt(total)
        if stats.nct.sf(stats.t.isf(alpha, df), df, shown) >= power:  # the noncentral t: small numbers of seeds need it
            return count
    return None


def detectable_gain(
    seed_sd: float,
    document_error: float,
    documents: int,
    seeds: int,
    correlation: float | None,
    alpha: float,
    margin: float,
    power: float = 0.8,
) -> float:
    """The true gain in bpb that a claim with `seeds` seeds a side shows with this power: seeds_needed() turned round.

    seed_sd: standard deviation of bpb over seeds, of either side. document_error: standard error of the gain from the
    documents. correlation: of the two sides' bpb over equal seeds, where they are paired; None where they are not."""
    from scipy import optimize, stats

    from_seeds = 2 * seed_sd**2 * (1 - (correlation or 0.0)) / seeds
    from_documents = document_error**2
    total = from_seeds + from_documents
    if total == 0:
        return margin
    df_seeds = (seeds - 1) * (2 if correlation is None else 1)
    df = total**2 / (from_seeds**2 / df_seeds + from_documents**2 / max(1, documents - 1))
    limit = float(stats.t.isf(alpha, df))
    in_errors = optimize.brentq(lambda gain: stats.nct.sf(limit, df, gain) - power, 0.0, 10 * limit + 10)
    return margin + in_errors * math.sqrt(total)
