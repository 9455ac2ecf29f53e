"""scoring/compare.py and mixed.py: size and power of the tests in simulations, intervals and variances against closed
forms, and the command."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from golf import slices, statistics
from scoring import ScoringError, compare, mixed, report
from tests.support import ROOT


def results(rng, gain, seeds, documents=60, seed_deviation=0.001, raw_bytes=None):
    """Two lists of eval.json objects whose true bpb differ by `gain`: shared document effects, a document-by-artifact
    part, and a seed part."""
    raw_bytes = rng.lognormal(6, 0.7, documents).round() + 1 if raw_bytes is None else raw_bytes
    shared = 1.7 + 0.2 * rng.standard_normal(documents)
    groups = []
    for mean in (0.0, -gain):
        rate = shared + mean + 0.004 * rng.standard_normal(documents)
        groups.append([{"artifact": {}, "per_document": [row(d, int(b), r + shift) for d, (b, r) in enumerate(zip(
            raw_bytes, rate))]} for shift in seed_deviation * rng.standard_normal(seeds)])
    return groups


def row(number, raw_bytes, bpb):
    """A document of one symbol a byte, all alike."""
    by_byte = np.full(raw_bytes, bpb * math.log(2))
    return {"id": str(number), "source": "ab"[number % 2], "raw_bytes": raw_bytes, "nats": float(by_byte.sum()),
            "non_ascii": 0.01 * (number % 3), "position_nats": slices.position_nats(by_byte, np.ones(raw_bytes, int))}


def table(rng, gain, seeds, documents, seed=0.0, document=0.0, rest=0.0):
    """(old, new) nats [S, D] and bytes, with these standard deviations of the parts of the gain, in bpb."""
    raw_bytes = rng.lognormal(6, 0.7, documents).round() + 1
    shared = 1.7 + 0.2 * rng.standard_normal(documents)
    arms = [(shared + mean + document / math.sqrt(2) * rng.standard_normal(documents)
             + seed * rng.standard_normal((seeds, 1)) + rest * rng.standard_normal((seeds, documents))
             ) * raw_bytes * math.log(2) for mean in (0.0, -gain)]
    return *arms, raw_bytes


def quasi_f(old, new):
    """Clark's F' by its definition, from the mean squares of a table with documents of one size."""
    y = np.stack([old, new])
    arms, seeds, documents = y.shape
    by_arm, by_seed, by_document = y.mean((1, 2)), y.mean(2), y.mean(1)
    treatment = seeds * documents * sum((value - y.mean()) ** 2 for value in by_arm)
    crossed = liking = between = 0.0
    for a in range(arms):
        for d in range(documents):
            liking += seeds * (by_document[a, d] - by_arm[a] - y[:, :, d].mean() + y.mean()) ** 2 / (documents - 1)
        for s in range(seeds):
            between += documents * (by_seed[a, s] - by_arm[a]) ** 2 / arms / (seeds - 1)
            for d in range(documents):
                crossed += ((y[a, s, d] - by_seed[a, s] - by_document[a, d] + by_arm[a]) ** 2
                            / arms / (seeds - 1) / (documents - 1))
    return treatment / (liking + between - crossed)


def test_mixed_model_is_clarks_quasi_f():
    old, new, _ = table(np.random.default_rng(1), 0.01, 4, 30, seed=0.01, document=0.05, rest=0.03)
    found = mixed.test(old, new, np.full(30, 500.0), 0.0)
    assert found["t"] ** 2 == pytest.approx(quasi_f(old, new))
    parts = [found[f"{name}_error_bpb"] for name in ("seed", "document", "rest")]
    assert min(parts) > 0 and math.hypot(*parts) == pytest.approx(found["error_bpb"])


def test_mixed_model_of_one_kind_of_noise_is_that_kinds_test():
    """Seeds alone: Welch's. Documents alone: the linearised error over documents. Nothing, or one seed: no test."""
    old, new, raw_bytes = table(np.random.default_rng(2), 0.01, 4, 50, seed=0.01)
    found = mixed.test(old, new, raw_bytes, 0.002)
    expected = compare.welch(*(statistics.bits_per_byte(nats, raw_bytes) for nats in (old, new)), 0.002)
    assert (found["t"], found["p"], found["degrees"]) == pytest.approx(tuple(expected[key] for key in (
        "t", "p", "degrees")))
    old, new, raw_bytes = table(np.random.default_rng(3), 0.01, 4, 50, document=0.05)
    found = mixed.test(old, new, raw_bytes, 0.002)
    error = statistics.ratio_error(old[0] - new[0], raw_bytes)
    assert found["error_bpb"] == pytest.approx(error) and found["degrees"] == pytest.approx(49)
    assert mixed.test(old[:1], new, raw_bytes, 0.0) is None and mixed.test(old, old, raw_bytes, 0.0) is None


@pytest.mark.parametrize("noise", [dict(seed=0.005, document=0.02), dict(seed=0.0005, document=0.05),
                                   dict(seed=0.002, document=0.03, rest=0.05)])
def test_mixed_model_keeps_its_size_where_welch_alone_does_not_and_has_power(noise):
    """No true gain: at level 0.05 it errs in at most that share of 400 cases (three binomial deviations), in whatever
    part the noise is; a test over seeds alone errs far more often where documents have most of it. A gain of 3.2
    standard errors is found in most cases, and adding the two variances finds fewer where the rest has most."""
    rng, hits, naive, alone, found = np.random.default_rng(4), 0, 0, 0, 0
    for _ in range(400):
        old, new, raw_bytes = table(rng, 0.0, 3, 150, **noise)
        test = mixed.test(old, new, raw_bytes, 0.0)
        hits += test["p"] < 0.05
        alone += compare.welch(*(statistics.bits_per_byte(nats, raw_bytes) for nats in (old, new)), 0.0)["p"] < 0.05
    assert hits <= 20 + 3 * math.sqrt(19)
    if noise["document"] > 0.04:
        assert alone > 80
    error = math.sqrt(2 / 3 * noise["seed"] ** 2 + noise["document"] ** 2 / 92 + 2 / 3 * noise.get("rest", 0) ** 2 / 92)
    for _ in range(200):  # 92: about as many documents of one size are worth 150 of these sizes
        old, new, raw_bytes = table(rng, 3.2 * error, 3, 150, **noise)
        test = mixed.test(old, new, raw_bytes, 0.0)
        found += test["p"] < 0.05
        both = math.hypot(statistics.ratio_error(old.mean(0) - new.mean(0), raw_bytes), math.sqrt(sum(
            np.var(statistics.bits_per_byte(nats, raw_bytes), ddof=1) / 3 for nats in (old, new))))
        naive += scipy.stats.t.sf(test["t"] * test["error_bpb"] / both, test["degrees"]) < 0.05
    assert found > 130 and found > naive + (10 if "rest" in noise else -1)


def rejects(gain, seeds, level, margin, runs=400):
    """Share of simulations in which the test over seeds says yes."""
    rng, hits = np.random.default_rng(5), 0
    for _ in range(runs):
        old, new = (0.001 * rng.standard_normal(seeds) + mean for mean in (1.7, 1.7 - gain))
        hits += compare.welch(old, new, margin)["p"] < level
    return hits / runs


def test_welch_has_its_size_at_the_margin_and_its_power_beyond():
    """At a true gain of just the margin it errs in at most `level` of the cases (binomial bounds); the power at 1.8
    deviations and 5 seeds is about 80% at level 0.05."""
    assert rejects(0.0015, 5, 0.05, 0.0015) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
    assert 0.01 < rejects(0.0015, 5, 0.05, 0.0015)
    assert rejects(0.0, 3, 0.05, 0.0015) < 0.02  # no gain at all
    assert 0.68 < rejects(0.0015 + 0.0018, 5, 0.05, 0.0015) < 0.9
    assert rejects(0.0015 + 0.0018, 3, 0.05, 0.0015) < rejects(0.0015 + 0.0018, 8, 0.05, 0.0015)


def test_welch_equals_the_formula():
    old, new, margin = np.array([1.70, 1.702, 1.699]), np.array([1.690, 1.6915, 1.688, 1.6905]), 0.0015
    part = [np.var(group, ddof=1) / len(group) for group in (old, new)]
    t = (old.mean() - new.mean() - margin) / math.sqrt(sum(part))
    degrees = sum(part) ** 2 / (part[0] ** 2 / 2 + part[1] ** 2 / 3)
    found = compare.welch(old, new, margin)
    assert found["t"] == pytest.approx(t) and found["degrees"] == pytest.approx(degrees)
    assert found["p"] == pytest.approx(scipy.stats.t.sf(t, degrees))
    with pytest.raises(ScoringError, match="copies of one run"):
        compare.welch(np.array([1.7, 1.7]), np.array([1.6, 1.6]), margin)


def test_interval_over_documents_covers_and_pairs():
    """95% intervals of the gain cover the truth in 200 corpora about as often as they say (binomial 99.9% bounds), and
    are far narrower than unpaired ones, because documents differ more than artifacts do."""
    rng, covered, widths = np.random.default_rng(6), 0, []
    for _ in range(200):
        old, new = results(rng, 0.003, 1, seed_deviation=0)
        rows = [np.array([row["nats"] for row in group[0]["per_document"]]) for group in (old, new)]
        raw_bytes = np.array([row["raw_bytes"] for row in old[0]["per_document"]])
        low, high = statistics.bpb_interval(rows[0] - rows[1], raw_bytes, resamples=400)
        covered += low <= 0.003 <= high
        widths.append((high - low, statistics.ratio_error(rows[0] - rows[1], raw_bytes)))
    assert 174 <= covered <= 199
    width, error = np.mean(widths, axis=0)
    assert width == pytest.approx(2 * 1.96 * error, rel=0.12)
    assert statistics.ratio_error(rows[0], raw_bytes) > 10 * error


def test_interval_of_seeds_and_documents_together_covers():
    """Both kinds of noise at once, three seeds each: 95% of 300 intervals hold the truth, within three binomial
    deviations below; and most of those over documents alone do not, where seeds have most of the noise."""
    rng, covered, alone = np.random.default_rng(7), 0, 0
    for _ in range(300):
        old, new, raw_bytes = table(rng, 0.003, 3, 60, seed=0.004, document=0.01, rest=0.01)
        low, high = mixed.test(old, new, raw_bytes, 0.0)["interval"]
        covered += low <= 0.003 <= high
        gain_nats = old.mean(axis=0) - new.mean(axis=0)
        half = 1.96 * statistics.ratio_error(gain_nats, raw_bytes)
        alone += abs(statistics.bits_per_byte(gain_nats, raw_bytes) - 0.003) <= half
    assert covered >= 285 - 3 * math.sqrt(300 * 0.95 * 0.05) and alone < 240


@pytest.mark.parametrize("gain, seeds, says", [(0.02, 4, "The new artifact is better by 0.0"), (0.0, 4, "No claim"),
                                               (-0.02, 4, "No claim: the new artifact is worse"),
                                               (0.02, 1, "one seed says nothing of other seeds")])
def test_sentence_claims_no_more_than_the_numbers(gain, seeds, says):
    result = compare.compare(*results(np.random.default_rng(8), gain, seeds, documents=300))
    assert says in result["sentence"]
    assert result["gain_bpb"] == pytest.approx(gain, abs=0.004)
    assert {name.split()[0] for name in result["slices"]} == {"source", "length", "position", "non-ascii"}
    assert result["slices_missing"] == []


def test_slices_add_up_to_the_whole():
    old, new = results(np.random.default_rng(9), 0.01, 2)
    result = compare.compare(old, new)
    low, high = result["gain_interval_documents"]
    assert low < result["gain_bpb"] < high and high - low == pytest.approx(3.92 * result["document_error_bpb"], rel=0.3)
    raw_bytes = {row["id"]: row["raw_bytes"] for row in old[0]["per_document"]}
    for label in ("source", "length", "non-ascii"):
        assert sum(part["documents"] for name, part in result["slices"].items() if name.startswith(label)) == 60
    total = sum(raw_bytes.values())
    a = sum(size for name, size in raw_bytes.items() if int(name) % 2 == 0)
    gains = [result["slices"][f"source {name}"]["gain_bpb"] for name in "ab"]
    assert (gains[0] * a + gains[1] * (total - a)) / total == pytest.approx(result["gain_bpb"])
    positions = [(name, part) for name, part in result["slices"].items() if name.startswith("position")]
    sizes = [slices.cut(old[0]["per_document"])[name].raw_bytes.sum() for name, _ in positions]
    gain = sum(part["gain_bpb"] * size for (_, part), size in zip(positions, sizes)) / total
    assert gain == pytest.approx(result["gain_bpb"], rel=1e-3)


def test_a_gain_that_is_not_that_of_most_slices_is_no_claim():
    """All of it in the few long documents, the others lose a little."""
    rng = np.random.default_rng(11)
    raw_bytes = np.where(np.arange(200) % 10 == 0, 6000, 200)
    groups = [[{"artifact": {}, "per_document": [row(d, int(b), 1.7 + shift - mean * (0.02 if b > 1000 else -0.01))
                                                 for d, b in enumerate(raw_bytes)]}
               for shift in 1e-4 * rng.standard_normal(4)] for mean in (0, 1)]
    for group in groups:  # position: gains only late in the long documents
        for result in group:
            for line in result["per_document"]:
                line["source"] = f"source {int(line['id']) % 5}"
    result = compare.compare(*groups)
    assert result["mixed"]["p"] < 0.01 and result["gain_bpb"] > 0.01
    assert result["sentence"].startswith("No claim: the new artifact is better") and "too few" in result["sentence"]


def test_scores_of_the_first_format_are_compared_and_what_is_missing_is_said(capsys):
    folder = ROOT / "records/pocket/0001_baseline/eval"
    old, new, other = (compare.read(path) for path in sorted(folder.glob("*.json")))
    new["per_document"] = [{**line, "non_ascii": 0.0, "position_nats": [line["nats"]]} for line in new["per_document"]]
    if "position_nats" in old["per_document"][0]:
        pytest.skip("the record was scored anew")
    result = compare.compare([old], [new])
    assert result["slices_missing"] == ["position", "non-ascii"]
    assert {name.split()[0] for name in result["slices"]} == {"source", "length"}
    report.print_comparison(result)
    assert "no slices by position and non-ascii" in capsys.readouterr().out
    with pytest.raises(ScoringError, match="an artifact is there twice"):
        compare.compare([old, old], [new, other])


def test_command(tmp_path):
    old, new = results(np.random.default_rng(10), 0.02, 3, documents=30)
    paths = []
    for number, result in enumerate(old + new):
        paths.append(tmp_path / f"{number}.json")
        paths[-1].write_text(json.dumps(result))

    def command(*arguments):
        return subprocess.run([sys.executable, ROOT / "eval_heldout.py", "compare", *map(str, arguments)],
                              capture_output=True, text=True)

    done = command(*paths[:3], "--new", *paths[3:], "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed["gain_bpb"] == pytest.approx(compare.compare(old, new)["gain_bpb"])
    assert printed["sentence"] in " ".join(done.stdout.split("\n"))
    assert json.loads(command(paths[0], paths[3], "--json").stdout.splitlines()[-1])["welch"] is None
    changed = {**new[0], "per_document": new[0]["per_document"][1:]}
    paths[5].write_text(json.dumps(changed))
    for arguments, status, text in (((paths[0], paths[5]), 1, "not scores of the same documents"),
                                    ((paths[0], tmp_path / "none.json"), 1, "cannot read"),
                                    ((paths[0], Path(__file__)), 1, "is not the eval.json"),
                                    ((paths[0],), 2, "two files"),
                                    ((paths[0], paths[0], "--margin", "x"), 2, "--margin")):
        done = command(*arguments)
        assert done.returncode == status and text in done.stderr and "Traceback" not in done.stderr
