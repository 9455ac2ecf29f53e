"""scoring/compare.py: size and power of the tests in simulations, intervals against closed forms, and the command."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from scoring import ScoringError, compare

ROOT = Path(__file__).resolve().parent.parent


def results(rng, gain, seeds, documents=60, seed_deviation=0.001, raw_bytes=None):
    """Two lists of eval.json objects whose true bpb differ by `gain`: shared document effects, a document-by-artifact
    part, and a seed part."""
    raw_bytes = rng.lognormal(6, 0.7, documents).round() + 1 if raw_bytes is None else raw_bytes
    shared = 1.7 + 0.2 * rng.standard_normal(documents)
    groups = []
    for mean in (0.0, -gain):
        rate = shared + mean + 0.004 * rng.standard_normal(documents)
        groups.append([{"artifact": {}, "per_document": [
            {"id": str(d), "source": "ab"[d % 2], "raw_bytes": float(b), "nats": float(b * (r + shift) * math.log(2))}
            for d, (b, r) in enumerate(zip(raw_bytes, rate))]}
            for shift in seed_deviation * rng.standard_normal(seeds)])
    return groups


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


def test_interval_over_documents_covers_and_pairs(monkeypatch):
    """95% intervals of the gain cover the truth in 200 corpora about as often as they say (binomial 99.9% bounds), and
    are far narrower than unpaired ones, because documents differ more than artifacts do."""
    monkeypatch.setattr(compare, "RESAMPLES", 400)
    rng, covered, widths = np.random.default_rng(6), 0, []
    for _ in range(200):
        old, new = results(rng, 0.003, 1, seed_deviation=0)
        rows = [np.array([row["nats"] for row in group[0]["per_document"]]) for group in (old, new)]
        raw_bytes = np.array([row["raw_bytes"] for row in old[0]["per_document"]])
        low, high = compare.gain_interval(rows[0] - rows[1], raw_bytes)
        covered += low <= 0.003 <= high
        widths.append((high - low, compare.document_error(rows[0] - rows[1], raw_bytes)))
    assert 174 <= covered <= 199
    width, error = np.mean(widths, axis=0)
    assert width == pytest.approx(2 * 1.96 * error, rel=0.12)
    assert compare.document_error(rows[0], raw_bytes) > 10 * error


def test_interval_of_seeds_and_documents_together_covers():
    """Both kinds of noise at once, three seeds each: cover at least nominally, less three binomial deviations."""
    rng, covered = np.random.default_rng(7), 0
    compare_resamples, compare.RESAMPLES = compare.RESAMPLES, 50
    try:
        for _ in range(100):
            low, high = compare.compare(*results(rng, 0.003, 3))["gain_interval"]
            covered += low <= 0.003 <= high
    finally:
        compare.RESAMPLES = compare_resamples
    assert covered >= 95 - 3 * math.sqrt(100 * 0.95 * 0.05)


@pytest.mark.parametrize("gain, seeds, says", [(0.02, 4, "The new artifact is better by 0.0"), (0.0, 4, "No claim"),
                                               (-0.02, 4, "No claim: the new artifact is worse"),
                                               (0.02, 1, "one seed says nothing of other seeds")])
def test_sentence_claims_no_more_than_the_numbers(gain, seeds, says):
    result = compare.compare(*results(np.random.default_rng(8), gain, seeds, documents=300))
    assert says in result["sentence"]
    assert result["gain_bpb"] == pytest.approx(gain, abs=0.004)
    assert set(result["slices"]) == {"source a", "source b", "length short", "length middle", "length long"}


def test_slices_add_up_to_the_whole():
    old, new = results(np.random.default_rng(9), 0.01, 2)
    result = compare.compare(old, new)
    raw_bytes = {row["id"]: row["raw_bytes"] for row in old[0]["per_document"]}
    for label in ("source", "length"):
        assert sum(part["documents"] for name, part in result["slices"].items() if name.startswith(label)) == 60
    total = sum(raw_bytes.values())
    a = sum(size for name, size in raw_bytes.items() if int(name) % 2 == 0)
    gains = [result["slices"][f"source {name}"]["gain_bpb"] for name in "ab"]
    assert (gains[0] * a + gains[1] * (total - a)) / total == pytest.approx(result["gain_bpb"])


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
                                    ((paths[0],), 2, "two files")):
        done = command(*arguments)
        assert done.returncode == status and text in done.stderr and "Traceback" not in done.stderr
