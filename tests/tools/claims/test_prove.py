"""golf prove and tools/claims/proof.py: against scipy, naive loops, and simulations of claims that are true and false."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from golf import slices
from tests.support import ROOT
from tools.claims import proof, prove
from tools.runs import ledger

BASELINE = ROOT / "records/pocket/0001_baseline"


def simulate(rng, gain=0.0, seeds=3, documents=200, seed_sd=0.005, interaction=0.0, shared=0.0):
    """(new, old) nats [S, D] and bytes: bpb about 1.7 by document, noise of training seeds, and of which change suits
    which document (interaction; it is the same for all seeds of an arm)."""
    size = rng.integers(200, 4000, documents)
    document = 1.7 + rng.normal(0, 0.3, documents)
    common = rng.normal(0, shared, seeds)
    new = document - gain + rng.normal(0, interaction, documents) + (common + rng.normal(0, seed_sd, seeds))[:, None]
    old = document + (common + rng.normal(0, seed_sd, seeds))[:, None]
    return new * size * math.log(2), old * size * math.log(2), size


@pytest.mark.parametrize("paired", [False, True])
def test_without_document_noise_it_is_scipys_test(paired):
    new, old, size = simulate(np.random.default_rng(0), gain=0.01, seeds=5)
    result = proof.test(new, old, size, paired, 0.002)
    a, b = ((arm.sum(1) / size.sum() / math.log(2)) for arm in (new, old))
    reference = (scipy.stats.ttest_rel(b, a + 0.002, alternative="greater") if paired else
                 scipy.stats.ttest_ind(b, a + 0.002, equal_var=False, alternative="greater"))
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
        test = scipy.stats.ttest_rel(b, a, alternative="greater") if paired else scipy.stats.ttest_ind(
            b, a, equal_var=False, alternative="greater")
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
    result = {"gain": 0.006, "margin": 0.0, "seed_error": 0.005 * math.sqrt(2 / 3), "document_error": 0.0,
              "seeds": [3, 3], "paired": False, "documents": 50}
    count = proof.seeds_needed(result, 0.05, 0.0)
    power = np.mean([scipy.stats.ttest_ind(rng.normal(0.006, 0.005, count), rng.normal(0, 0.005, count),
                                           alternative="greater").pvalue <= 0.05 for _ in range(1500)])
    assert 0.75 < power < 0.9
    assert proof.seeds_needed(result | {"gain": -0.001}, 0.05, 0.0) is None
    assert proof.seeds_needed(result, 0.05, 0.01) is None  # less than luck
    assert proof.seeds_needed(result | {"document_error": 0.01}, 0.05, 0.0) is None  # no number of seeds helps


@pytest.fixture
def root(tmp_path, monkeypatch):
    for module in (prove, ledger):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    return tmp_path


def ranges(nats, size):
    """Nats of each range of positions of a document whose bytes all cost the same."""
    edges = [edge for edge in slices.EDGES if edge < size]
    return [nats * (high - low) / size for low, high in zip([0, *edges], [*edges, size])]


def arm(root, name, nats, size, seeds, script="s", **score):
    """Run folders of one side; returns what goes on the command line."""
    for seed, row in zip(seeds, nats):
        folder = root / "runs" / f"{name}{seed}"
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({
            "track": "pocket", "seed": seed, "source_sha256": script, "config": {"width": name}, "dev_bpb": 2.0,
            "environment": {"platform": "x", "threads": 2}, "data": {"manifest_sha256": "m"}}))
        (folder / "eval.json").write_text(json.dumps({
            "bpb": row.sum() / size.sum() / math.log(2), "scope": "document", "artifact": {"sha256": "a"},
            "data": {"docs_sha256": "d", "manifest_sha256": "m", "split": "dev"}} | score | {"per_document": [
                {"id": str(i), "source": "news" if i % 2 else "wiki", "raw_bytes": int(size[i]), "nats": float(row[i]),
                 "non_ascii": 0.0, "position_nats": ranges(float(row[i]), int(size[i]))} for i in range(len(size))]}))
    return ",".join(str(root / "runs" / f"{name}{seed}") for seed in seeds)


def claims(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])["claims"]


def test_command_proves_a_real_gain_and_pairs_by_seed_only_when_all_match(root, capsys):
    new, old, size = simulate(np.random.default_rng(1), gain=0.05, seeds=4, seed_sd=0.002)
    a = arm(root, "a", new, size, [1, 2, 3, 4])
    b = arm(root, "b", old[::-1], size, [4, 3, 2, 1])  # in another order
    assert prove.main([a, b, "--json"]) == 0
    [claim] = claims(capsys)
    assert claim["paired"] and claim["proven"] and claim["sentence"].startswith("proven: ")
    assert claim["gain"] == pytest.approx(0.05, abs=0.005)
    assert {name.split()[0] for name in claim["slices"]} == {"source", "length", "position", "non-ascii"}
    counted = sum(part["documents"] >= 20 for part in claim["slices"].values())
    assert claim["slices_better"] == claim["slices_counted"] == counted < len(claim["slices"])
    assert claim["slices_missing"] == [] and f"; {counted} of {counted} slices gain" in claim["sentence"]
    sides = np.array([i % 2 == 1 for i in range(len(size))])
    assert claim["slices"]["source news"]["gain"] == pytest.approx(
        (old - new)[:, sides].sum(1).mean() / size[sides].sum() / math.log(2))
    late = np.clip(size - 1024, 0, 3072)  # bytes of each document in that range
    assert claim["slices"]["position 1024-4095"]["gain"] == pytest.approx(
        ((old - new) * late / size).sum(1).mean() / late.sum() / math.log(2))
    reference = scipy.stats.ttest_rel(*(x.sum(1) / size.sum() / math.log(2) for x in (old, new)))
    assert claim["seed_error"] == pytest.approx(claim["gain"] / reference.statistic)
    c = arm(root, "c", old, size, [1, 2, 3, 9])
    assert prove.main([a, c, "--json"]) == 0
    assert claims(capsys)[0]["paired"] is False
    assert prove.main([b, a]) == prove.NOT_PROVEN
    assert "not proven: " in capsys.readouterr().out


def test_a_side_of_two_experiments_is_refused_and_a_disturbed_run_named(root, capsys):
    new, old, size = simulate(np.random.default_rng(2), gain=0.05, seeds=2)
    a, b = arm(root, "a", new, size, [1, 2]), arm(root, "b", old, size, [1, 2])
    mixed = ",".join((a.split(",")[0], b.split(",")[1]))
    assert prove.main([mixed, b]) == 1
    assert "b2/run.json: another width than" in capsys.readouterr().err
    for folder, steps in zip(a.split(","), (100, 80)):
        path = Path(folder) / "run.json"
        run = json.loads(path.read_text())
        run["config"]["max_seconds"] = 60.0
        path.write_text(json.dumps(run | {"steps": steps}))
    prove.main([a, b, "--json"])
    output = capsys.readouterr().out
    assert "one run made 20% fewer steps than another" in " ".join(output.split())
    assert list(json.loads(output.splitlines()[-1])["claims"][0]["least_share_of_steps"].values()) == [0.8, 1.0]


def test_holm_over_the_claims_of_one_command(root, capsys):
    new, old, size = simulate(np.random.default_rng(6), gain=0.03, seeds=4)
    a, b = arm(root, "a", new, size, range(4)), arm(root, "b", old, size, range(10, 14))
    prove.main([a, b, "--json"])
    [alone] = claims(capsys)
    prove.main([a, b, b, a, "--json"])
    two = claims(capsys)
    assert two[0]["p_holm"] == pytest.approx(2 * alone["p_holm"]) and not two[1]["proven"]


def test_rivals_of_the_log_are_paid_for(root, capsys):
    new, old, size = simulate(np.random.default_rng(6), gain=0.03, seeds=3)
    a, b = arm(root, "a", new, size, [1, 2, 3]), arm(root, "b", old, size, [7, 8, 9])
    prove.main([a, b, "--json"])
    [before] = claims(capsys)
    for i in range(30):  # thirty other variants on A's first seed
        folder = root / "runs" / f"try{i}"
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps({"track": "pocket", "seed": 1, "config": {"width": i},
                                                     "source_sha256": "s", "dev_bpb": 2.0}))
    prove.main([a, b, "--json"])
    [after] = claims(capsys)
    assert after["variants_tried"] >= 30 and after["rivals"] >= before["rivals"] + 29
    assert after["p_of_the_best"] == pytest.approx(min(1, after["rivals"] * after["p"]))
    assert after["luck_of_the_best"] == pytest.approx(
        proof.expected_maximum(after["rivals"]) * after["standard_error"])
    assert before["gain"] == after["gain"] and after["p_holm"] > before["p_holm"]


def test_two_seed_sets_of_the_baseline_are_not_proven(root, capsys):
    seeds = [row["seed"] for row in json.loads((BASELINE / "record.json").read_text())["seeds"]]
    for seed in seeds:
        folder = root / "runs" / str(seed)
        folder.mkdir(parents=True)
        (folder / "run.json").write_text((BASELINE / f"logs/seed{seed}.run.json").read_text())
        (folder / "eval.json").write_text((BASELINE / f"eval/seed{seed}.json").read_text())
    for i in range(3):
        sets = [[s for s in seeds if s != seeds[i]], [s for s in seeds if s != seeds[i - 1]]]
        sides = [",".join(str(root / "runs" / str(seed)) for seed in side) for side in sets]
        assert prove.main(sides) == prove.NOT_PROVEN
    assert prove.main([str(BASELINE), str(BASELINE)]) == prove.NOT_PROVEN
    out = capsys.readouterr().out
    assert out.count("not proven: ") == 4
    assert "no slices by position and non-ascii" in out or "position_nats" in next(
        BASELINE.glob("eval/*.json")).read_text()  # scores of the first format


@pytest.mark.parametrize("change, message", [
    (lambda root, a, b: (a.split(",")[0], b), "at least two"),
    (lambda root, a, b: (a + "," + a.split(",")[0], b), "same seed"),
    (lambda root, a, b: (a, str(root / "none")), "none"),
    (lambda root, a, b: (a, b + "," + a.split(",")[0]), "another script"),
    (lambda root, a, b: (a, arm(root, "x", np.ones((2, 4)), np.ones(4), [1, 2])), "other documents"),
])
def test_bad_input_is_one_line(root, capsys, change, message):
    new, old, size = simulate(np.random.default_rng(6), seeds=2, documents=20)
    a, b = arm(root, "a", new, size, [1, 2]), arm(root, "b", old, size, [7, 8], script="t")
    assert prove.main(list(change(root, a, b))) == 1
    error = capsys.readouterr().err
    assert message in error and error.splitlines()[-1].startswith("golf prove: ")


def test_the_same_documents_may_lie_in_data_of_another_tokenizer(root, capsys):
    new, old, size = simulate(np.random.default_rng(6), gain=0.05, seeds=4, seed_sd=0.002)
    before = arm(root, "a", old, size, [1, 2, 3, 4])
    for name, data, code in (("b", {"docs_sha256": "d", "manifest_sha256": "other", "split": "dev"}, 0),
                             ("c", {"docs_sha256": "other", "manifest_sha256": "m", "split": "dev"}, 1),
                             ("e", {"docs_sha256": "d", "manifest_sha256": "m", "split": "gate"}, 1)):
        assert prove.main([arm(root, name, new, size, [1, 2, 3, 4], script="t", data=data), before]) == code
    assert capsys.readouterr().err.count("other documents") == 2


def test_a_file_that_cannot_be_used_is_one_line(root, capsys):
    (root / "runs/ledger.jsonl").mkdir(parents=True)
    assert prove.main(["a", "b"]) == 1
    assert capsys.readouterr().err == f"golf prove: {root}/runs/ledger.jsonl: Is a directory\n"


def test_another_processor_is_another_machine(root, capsys):
    """Two records of one machine, and 0004, whose machine multiplies at a fifth of their rate."""
    records = [next(ROOT.glob(f"records/pocket/{number}_*")) for number in ("0001", "0002", "0004")]
    prove.main([*map(str, (records[1], records[0], records[2], records[0])), "--json"])
    assert [claim["same_machine"] for claim in claims(capsys)] == [True, False]
