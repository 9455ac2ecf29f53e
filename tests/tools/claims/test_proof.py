"""tools/claims/proof.py: against scipy, naive loops, and simulations of claims that are true and false."""

import math

import numpy as np
import pytest
import scipy.stats

from golf import statistics
from tests.support.claims import simulate
from tools.claims import proof

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("paired", [False, True])
def test_without_document_noise_it_is_scipys_test(paired):
    new, old, size = simulate(np.random.default_rng(0), gain=0.01, seeds=5)
    result = proof.test(new, old, size, paired, 0.002)
    a, b = ((arm.sum(1) / size.sum() / math.log(2)) for arm in (new, old))
    reference = (
        scipy.stats.ttest_rel(b, a + 0.002, alternative="greater")
        if paired
        else scipy.stats.ttest_ind(b, a + 0.002, equal_var=False, alternative="greater")
    )
    assert result["gain"] == pytest.approx(b.mean() - a.mean())
    assert result["document_error"] == pytest.approx(0, abs=1e-9)
    assert result["df"] == pytest.approx(reference.df)
    t = (result["gain"] - 0.002) / result["seed_error"]
    assert t == pytest.approx(reference.statistic)
    assert result["p"] == pytest.approx(reference.pvalue, rel=0.2)  # the bootstrap's error may be a little larger
    assert result["bootstrap_error"] == pytest.approx(result["seed_error"], rel=0.05)


def test_the_bootstrap_is_the_naive_loop():
    rng = np.random.default_rng(5)
    new, old, size = simulate(rng, seeds=4, documents=60, interaction=0.05)
    bits = np.stack([new, old]) / math.log(2)
    wide, gains = math.sqrt(4 / 3), []
    for _ in range(3000):
        docs, total = rng.integers(0, 60, 60), 0.0
        for arm, sign in zip(bits, (-1, 1)):
            mean = arm.mean(0)
            chosen = mean + wide * (arm - mean)[rng.integers(0, 4, 4)].mean(0)
            total += sign * chosen[docs].sum() / size[docs].sum()
        gains.append(total)
    ours = proof.bootstrap(bits[0], bits[1], size.astype(float), False)
    assert ours.std() == pytest.approx(np.std(gains), rel=0.05)
    estimate = (bits[1].mean(0) - bits[0].mean(0)).sum() / size.sum()
    assert np.quantile(ours, [0.05, 0.95]) == pytest.approx(np.quantile(gains, [0.05, 0.95]) - estimate, abs=0.0015)


@pytest.mark.slow
@pytest.mark.parametrize("paired, interaction, shared", [(False, 0.0, 0.0), (False, 0.1, 0.0), (True, 0.1, 0.02)])
def test_false_positives_keep_to_the_level_with_seeds_and_documents_random(paired, interaction, shared):
    rng, found, naive = np.random.default_rng(8), [], []
    for _ in range(150):
        new, old, size = simulate(rng, seeds=3, documents=80, interaction=interaction, shared=shared)
        found.append(proof.test(new, old, size, paired, 0.0)["p"] <= 0.05)
        a, b = new.sum(1) / size.sum(), old.sum(1) / size.sum()
        test = (
            scipy.stats.ttest_rel(b, a, alternative="greater")
            if paired
            else scipy.stats.ttest_ind(b, a, equal_var=False, alternative="greater")
        )
        naive.append(test.pvalue <= 0.05)
    assert np.mean(found) <= 0.1  # 0.05 and three standard errors of 150 draws
    if interaction:
        assert np.mean(naive) > 0.12  # what a test over seeds alone would claim


@pytest.mark.slow
def test_real_gains_are_found_and_pairing_helps_where_seeds_agree():
    rng = np.random.default_rng(9)
    rates = {}
    for paired in (False, True):
        draws = [simulate(rng, gain=0.02, seeds=3, seed_sd=0.002, shared=0.02) for _ in range(40)]
        rates[paired] = np.mean([proof.test(*draw, paired, 0.0015)["p"] <= 0.01 for draw in draws])
    assert rates[True] > 0.8 and rates[True] > rates[False] + 0.3


def test_margin_counts():
    new, old, size = simulate(np.random.default_rng(3), gain=0.01, seeds=5, seed_sd=0.001)
    assert proof.test(new, old, size, False, 0.001)["p"] < 0.01 < 0.5 < proof.test(new, old, size, False, 0.03)["p"]


def test_expected_maximum_is_that_of_a_simulation():
    rng = np.random.default_rng(2)
    for count in (1, 2, 10, 100):
        assert proof.expected_maximum(count) == pytest.approx(rng.normal(size=(20000, count)).max(1).mean(), abs=0.03)


def test_holm_is_the_published_example_and_the_definition():
    assert proof.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert proof.holm([0.9, 0.8]) == [1.0, 1.0] and proof.holm([0.02]) == [0.02]


def test_seeds_needed_gives_the_power_it_says():
    rng = np.random.default_rng(4)
    result = {
        "gain": 0.006,
        "margin": 0.0,
        "seed_error": 0.005 * math.sqrt(2 / 3),
        "document_error": 0.0,
        "seeds": [3, 3],
        "paired": False,
        "documents": 50,
    }
    count = proof.seeds_needed(result, 0.05, 0.0)
    power = np.mean(
        [
            scipy.stats.ttest_ind(
                rng.normal(0.006, 0.005, count), rng.normal(0, 0.005, count), alternative="greater"
            ).pvalue
            <= 0.05
            for _ in range(1500)
        ]
    )
    assert 0.75 < power < 0.9
    assert proof.seeds_needed(result | {"gain": -0.001}, 0.05, 0.0) is None
    assert proof.seeds_needed(result, 0.05, 0.01) is None  # less than luck
    assert proof.seeds_needed(result | {"document_error": 0.01}, 0.05, 0.0) is None  # no number of seeds helps


def test_intervals_of_seeds_and_documents_together_cover():
    """Both kinds of noise at once, three seeds each: at least 95% of 200 intervals hold the truth, less three binomial
    deviations; those over documents alone do not, where seeds have most of the noise."""
    rng, covered, alone = np.random.default_rng(7), 0, 0
    for _ in range(200):
        new, old, size = simulate(rng, gain=0.003, documents=60, seed_sd=0.004, interaction=0.01)
        low, high = proof.test(new, old, size, False, 0.0, 400)["interval"]
        covered += low <= 0.003 <= high
        low, high = proof.fixed_weights(new, old, size, 400)["interval"]
        alone += low <= 0.003 <= high
    assert covered >= 190 - 3 * math.sqrt(200 * 0.95 * 0.05) and alone < 160


def test_the_interval_of_fixed_weights_covers_and_pairs():
    """One seed a side and no noise of seeds: 95% intervals hold the truth in 200 corpora about as often as they say
    (binomial 99.9% bounds), and are far narrower than unpaired ones, for documents differ more than artifacts do."""
    rng, covered, widths = np.random.default_rng(6), 0, []
    for _ in range(200):
        new, old, size = simulate(rng, gain=0.003, seeds=1, documents=60, seed_sd=0.0, interaction=0.004)
        found = proof.fixed_weights(new, old, size, 400)
        low, high = found["interval"]
        covered += low <= 0.003 <= high
        widths.append((high - low, statistics.ratio_error((old - new)[0] / math.log(2), size)))
        assert found["gain"] == pytest.approx(found["old_bpb"] - found["new_bpb"])
        assert found["old_bpb"] == pytest.approx(old.sum() / size.sum() / math.log(2))
    assert 174 <= covered <= 199
    width, error = np.mean(widths, axis=0)
    assert width == pytest.approx(2 * 1.96 * error, rel=0.12)
    assert statistics.ratio_error(old[0] / math.log(2), size) > 10 * error
    assert proof.fixed_weights(new[:, :1], old[:, :1], size[:1])["interval"] is None


@pytest.mark.parametrize("correlation", [None, 0.0, 0.8])
@pytest.mark.parametrize("seeds", [3, 5])
def test_a_detectable_gain_has_the_power_it_says(seeds, correlation):
    """By scipy's tests of simulated seeds, without noise of documents; 80% less or more three binomial deviations."""
    gain = proof.detectable_gain(0.004, 0.0, 50, seeds, correlation, 0.01, 0.0)
    rng, shared = np.random.default_rng(11), correlation or 0.0
    found = []
    for _ in range(1500):
        common = rng.normal(0, 0.004 * math.sqrt(shared), seeds)
        new, old = (common + rng.normal(0, 0.004 * math.sqrt(1 - shared), seeds) for _ in range(2))
        test = scipy.stats.ttest_ind if correlation is None else scipy.stats.ttest_rel
        found.append(test(old + gain, new, alternative="greater").pvalue <= 0.01)
    assert abs(np.mean(found) - 0.8) < 3 * math.sqrt(0.8 * 0.2 / 1500)


def test_a_detectable_gain_is_what_seeds_needed_asks_for():
    """The gain that five seeds a side show needs five; documents add to it, and so does the margin."""
    gain = proof.detectable_gain(0.004, 0.0005, 500, 5, None, 0.01, 0.0015)
    result = {
        "gain": gain + 1e-9,
        "margin": 0.0015,
        "seed_error": 0.004 * math.sqrt(2 / 3),
        "document_error": 0.0005,
        "seeds": [3, 3],
        "paired": False,
        "documents": 500,
    }
    assert proof.seeds_needed(result, 0.01, 0.0) == 5
    assert proof.detectable_gain(0.004, 0.0, 500, 5, None, 0.01, 0.0015) < gain
    assert proof.detectable_gain(0.0, 0.0, 500, 5, None, 0.01, 0.0015) == 0.0015


@pytest.mark.parametrize("documents", [5, 700, 5000])  # of 5,000 documents, 1,000 draws are made in two parts
def test_a_first_draw_that_is_kept_changes_no_number(documents):
    """The same deviations as from one generator that draws everything anew."""
    rng = np.random.default_rng(1)
    new, old = rng.gamma(2, 1, (3, documents)), rng.gamma(2, 1, (3, documents))
    raw_bytes = rng.integers(100, 1000, documents).astype(float)
    proof.first_draw.cache_clear()
    fresh, kept = (proof.bootstrap(new, old, raw_bytes, False, 1000) for _ in range(2))
    assert np.array_equal(fresh, kept)

    draws = np.random.default_rng(proof.SEED)
    expected = []
    size = 4_000_000 // documents
    for start in range(0, 1000, size):
        count = min(size, 1000 - start)
        weights = draws.multinomial(documents, np.full(documents, 1 / documents), count).astype(float)
        gain = np.zeros(count)
        for bits in (-new, old):
            picks = draws.multinomial(3, np.full(3, 1 / 3), count) / 3
            centred = (bits - bits.mean(0)) @ weights.T / (weights @ raw_bytes)
            gain += math.sqrt(3 / 2) * (picks.T * centred).sum(0) + weights @ bits.mean(0) / (weights @ raw_bytes)
        expected.append(gain)
    centre = (old.mean(0) - new.mean(0)).sum() / raw_bytes.sum()
    assert np.allclose(fresh, np.concatenate(expected) - centre, rtol=0, atol=1e-12)
