"""golf prove: what it decides and says of simulated sides and of the records, and one line for each bad input.

Not covered: the statistics (test_proof.py).
"""

import hashlib
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from golf import slices
from tests.support import ROOT, additions
from tests.support.claims import simulate
from tools.claims import proof, prove
from tools.records import additions as record_additions
from tools.runs import ledger

pytestmark = pytest.mark.slow

BASELINE = ROOT / "records/pocket/0001_baseline"


@pytest.fixture
def root(tmp_path, monkeypatch):
    for module in (prove, ledger):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    return tmp_path


def ranges(nats, size):
    """Nats of each range of positions of a document whose bytes all cost the same."""
    edges = [edge for edge in slices.EDGES if edge < size]
    return [nats * (high - low) / size for low, high in zip([0, *edges], [*edges, size])]


def arm(root, name, nats, size, seeds, script="a", **score):
    """Run folders of one side; returns what goes on the command line."""
    for seed, row in zip(seeds, nats):
        folder = root / "runs" / f"{name}{seed}"
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(
            json.dumps(
                {
                    "track": "pocket",
                    "preset": "pocket",
                    "world_size": 1,
                    "seed": seed,
                    "config": {"width": name},
                    "source_sha256": script * 64,
                    "dev_bpb": 2.0,
                    "environment": {"platform": "x", "threads": 2},
                    "data": {"dir": "data/embedded", "manifest_sha256": "m"},
                    "training_seconds": 600.0,
                    "steps": 100,
                    "tokens": 400,
                }
            )
        )
        (folder / "eval.json").write_text(
            json.dumps(
                {
                    "bpb": row.sum() / size.sum() / math.log(2),
                    "scope": "document",
                    "clock": {},
                    "artifact": {"bytes": 1000, "sha256": hashlib.sha256(f"{name}{seed}".encode()).hexdigest()},
                    "documents": len(size),
                    "raw_bytes": int(size.sum()),
                    "tokens": len(size),
                    "data": {"docs_sha256": "d", "manifest_sha256": "m", "split": "dev"},
                }
                | score
                | {
                    "per_document": [
                        {
                            "id": str(i),
                            "source": "news" if i % 2 else "wiki",
                            "raw_bytes": int(size[i]),
                            "tokens": 1,
                            "nats": float(row[i]),
                            "non_ascii": 0.0,
                            "position_nats": ranges(float(row[i]), int(size[i])),
                        }
                        for i in range(len(size))
                    ]
                }
            )
        )
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
        (old - new)[:, sides].sum(1).mean() / size[sides].sum() / math.log(2)
    )
    late = np.clip(size - 1024, 0, 3072)  # bytes of each document in that range
    assert claim["slices"]["position 1024-4095"]["gain"] == pytest.approx(
        ((old - new) * late / size).sum(1).mean() / late.sum() / math.log(2)
    )
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
        (folder / "run.json").write_text(
            json.dumps({"track": "pocket", "seed": 1, "config": {"width": i}, "source_sha256": "s", "dev_bpb": 2.0})
        )
    prove.main([a, b, "--json"])
    [after] = claims(capsys)
    assert after["variants_tried"] >= 30 and after["rivals"] >= before["rivals"] + 29
    assert after["p_of_the_best"] == pytest.approx(min(1, after["rivals"] * after["p"]))
    assert after["luck_of_the_best"] == pytest.approx(proof.expected_maximum(after["rivals"]) * after["standard_error"])
    assert before["gain"] == after["gain"] and after["p_holm"] > before["p_holm"]


def test_a_record_pays_for_the_variants_that_it_states(root, capsys):
    """Whatever log lies here: 0004 states 20 variants, and is not proven over 0003."""
    names = ("0004_case_operators", "0003_stack_and_scorer")
    new, old = (prove.read_arm(str(ROOT / "records/pocket" / name)) for name in names)
    claim, alone = (prove.compare(new, old, prove.MARGIN, root, given, details=False) for given in (None, 1))
    assert claim["variants_tried"] == claim["rivals"] == new.variants == 20
    assert claim["p_of_the_best"] == pytest.approx(20 * alone["p"])
    assert [each["proven"] for each in prove.conclude([claim, alone], prove.ALPHA)] == [False, True]
    prove.print_tests(claim)
    assert "20, as record.json states" in capsys.readouterr().out


@pytest.mark.slow
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
    assert (
        "no slices by position and non-ascii" in out
        or "position_nats" in next(BASELINE.glob("eval/*.json")).read_text()
    )  # scores of the first format


def copies(root):
    """A side whose second run is a copy of the first under another seed."""
    nats, size = np.ones((2, 4)), np.ones(4)
    return arm(root, "copy", nats, size, [1, 2], artifact={"bytes": 1000, "sha256": "a" * 64})


@pytest.mark.parametrize("gain, says", [
    (0.02, "not proven: a1 against b2: gain +0.0"), (-0.02, "not proven: a1 against b2: gain -0.0"),
    (0.0, ", other documents could turn it round, "),
])  # fmt: skip
def test_one_seed_a_side_says_what_it_can_and_no_more(root, capsys, gain, says):
    new, old, size = simulate(np.random.default_rng(8), gain, seeds=1, documents=300, seed_sd=0.0, interaction=0.004)
    sides = [arm(root, "a", new, size, [1]), arm(root, "b", old, size, [2])]
    assert prove.main([*sides, "--json"]) == prove.NOT_PROVEN
    out = capsys.readouterr().out
    [claim] = json.loads(out.splitlines()[-1])["claims"]
    assert says in claim["sentence"] and "one seed says nothing of other seeds" in claim["sentence"]
    assert claim["sentence"] in out.splitlines()
    assert claim["p"] is None and claim["p_holm"] is None and claim["proven"] is False
    low, high = claim["interval"]
    assert low < claim["gain"] < high and claim["gain"] == pytest.approx(gain, abs=0.004)
    assert (low <= 0 <= high) == (gain == 0.0)
    assert claim["interval"] == pytest.approx(proof.fixed_weights(new, old, size)["interval"])
    signs = {line.split()[1]: line.split()[3] for line in out.splitlines() if line.startswith(" source ")}
    for name, shown in signs.items():
        part = claim["slices"][f"source {name}"]
        low, high = part["interval"]
        assert shown == f"{part['gain']:+.4f}" + ("?" if low <= 0 <= high else "")
    assert signs


def test_claims_of_one_seed_and_of_several_stand_side_by_side(root, capsys):
    """A side of one seed takes no part in the correction for several claims."""
    new, old, size = simulate(np.random.default_rng(6), gain=0.05, seeds=4, seed_sd=0.002)
    a, b = arm(root, "a", new, size, [1, 2, 3, 4]), arm(root, "b", old, size, [5, 6, 7, 8])
    one = arm(root, "one", new[:1], size, [9])
    assert prove.main([a, b, one, b, "--json"]) == prove.NOT_PROVEN
    both = claims(capsys)
    assert [claim["proven"] for claim in both] == [True, False]
    assert both[0]["p_holm"] == both[0]["p_of_the_best"] and both[0]["seeds_needed"] is None
    assert both[0]["new_bpb_by_seed"] == pytest.approx(new.sum(1) / size.sum() / math.log(2))
    assert both[0]["old_bpb_by_seed"] == pytest.approx(old.sum(1) / size.sum() / math.log(2))
    assert both[0]["interval_of_these_weights"] == pytest.approx(proof.fixed_weights(new, old, size)["interval"])


def test_slices_add_up_to_the_whole(root, capsys):
    new, old, size = simulate(np.random.default_rng(9), gain=0.01, seeds=2, documents=60, interaction=0.01)
    prove.main([arm(root, "a", new, size, [1, 2]), arm(root, "b", old, size, [3, 4]), "--json"])
    [claim] = claims(capsys)
    rows = json.loads((root / "runs/a1/eval.json").read_text())["per_document"]
    cut = slices.cut(rows)
    assert list(claim["slices"]) == list(cut)
    for kind in ("source", "length", "position", "non-ascii"):
        parts = [(part, claim["slices"][name]) for name, part in cut.items() if name.startswith(kind)]
        total = sum(part.raw_bytes.sum() for part, _ in parts)
        assert total == size.sum()
        gain = sum(found["gain"] * part.raw_bytes.sum() for part, found in parts) / total
        assert gain == pytest.approx(claim["gain"], rel=1e-3)
        if kind != "position":
            assert sum(found["documents"] for _, found in parts) == 60


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda root, a, b: (a + "," + a.split(",")[0], b), "same seed"),
        (lambda root, a, b: (a, str(root / "none")), "none"),
        (lambda root, a, b: (a.split(",")[0] + "/eval.json", b), "a1/eval.json: a file; give the folder of its run"),
        (lambda root, a, b: (a, str(root / "runs")), "runs: neither a run (run.json) nor a record (record.json)"),
        (lambda root, a, b: (a, copies(root)), "an artifact is there twice: these are copies of one run"),
        (lambda root, a, b: (a, b + "," + a.split(",")[0]), "another script"),
        (lambda root, a, b: (a, arm(root, "x", np.ones((2, 4)), np.ones(4), [1, 2])), "other documents"),
    ],
)
def test_bad_input_is_one_line(root, capsys, change, message):
    new, old, size = simulate(np.random.default_rng(6), seeds=2, documents=20)
    a, b = arm(root, "a", new, size, [1, 2]), arm(root, "b", old, size, [7, 8], script="b")
    assert prove.main(list(change(root, a, b))) == 1
    error = capsys.readouterr().err
    assert message in error and error.splitlines()[-1].startswith("golf prove: ")


def test_the_same_documents_may_lie_in_data_of_another_tokenizer(root, capsys):
    new, old, size = simulate(np.random.default_rng(6), gain=0.05, seeds=4, seed_sd=0.002)
    before = arm(root, "a", old, size, [1, 2, 3, 4])
    for name, data, code in (
        ("b", {"docs_sha256": "d", "manifest_sha256": "other", "split": "dev"}, 0),
        ("c", {"docs_sha256": "other", "manifest_sha256": "m", "split": "dev"}, 1),
        ("e", {"docs_sha256": "d", "manifest_sha256": "m", "split": "gate"}, 1),
    ):
        assert prove.main([arm(root, name, new, size, [1, 2, 3, 4], script="b", data=data), before]) == code
    assert capsys.readouterr().err.count("other documents") == 2


def test_a_file_that_cannot_be_used_is_one_line(root, capsys):
    (root / "runs/ledger.jsonl").mkdir(parents=True)
    assert prove.main(["a", "b"]) == 1
    assert capsys.readouterr().err.startswith(f"golf prove: {root}/runs/ledger.jsonl: a link, or not a regular file")


@pytest.mark.parametrize(
    "name, change, word",
    [
        ("eval.json", lambda r: r.update(bpb="x"), "bpb"),
        ("eval.json", lambda r: r.update(per_document=[]), "per_document"),
        ("eval.json", lambda r: r["per_document"][3].update(nats=float("nan")), "per_document.3.nats"),
        ("eval.json", lambda r: r["per_document"][3].update(raw_bytes=-1), "per_document.3.raw_bytes"),
        ("eval.json", lambda r: r["per_document"][3].update(position_nats=[]), "position_nats"),
        ("eval.json", lambda r: [row.update(raw_bytes=0) for row in r["per_document"]], "no bytes"),
        ("run.json", lambda r: r.update(environment=[1]), "environment"),
        ("run.json", lambda r: r.update(steps=-1), "steps"),
        ("run.json", lambda r: r["environment"].update(threads=[2]), "environment.threads"),
        ("run.json", lambda r: r.update(seed=[1]), "seed"),
        ("run.json", lambda r: r.update(config=[1]), "config"),
    ],
)
def test_a_wrong_value_is_one_line(root, tmp_path_factory, capsys, name, change, word):
    new, old, size = simulate(np.random.default_rng(6), seeds=2, documents=20)
    a, b = arm(root, "a", new, size, [1, 2]), arm(root, "b", old, size, [7, 8])
    given = tmp_path_factory.mktemp("given") / "a1"  # not in runs/, where the log would read it too
    Path(a.split(",")[0]).rename(given)
    value = json.loads((given / name).read_text())
    change(value)
    (given / name).write_text(json.dumps(value))
    assert prove.main([f"{given},{a.split(',')[1]}", b]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"a1/{name}: " in error and word in error


def test_names_are_shown_as_they_are(root, capsys):
    new, old, size = simulate(np.random.default_rng(1), gain=0.05, seeds=2, seed_sd=0.002, documents=40)
    a, b = arm(root, "a", new, size, [1, 2]), arm(root, "b", old, size, [1, 2])
    folder = root / "runs/[bold]\x1b[31m[b]"
    Path(a.split(",")[0]).rename(folder)
    for path in (folder, *map(Path, (a.split(",")[1], *b.split(",")))):
        score = json.loads((path / "eval.json").read_text())
        score["per_document"][0]["source"] = "[/x]\x1b]0;title\x07"
        (path / "eval.json").write_text(json.dumps(score))
    assert prove.main([f"{folder},{a.split(',')[1]}", b]) in (0, prove.NOT_PROVEN)
    out = capsys.readouterr().out
    assert "[bold]\\x1b[31m[b]" in out and "source [/x]\\x1b" in out and "\x1b" not in out


def test_another_processor_is_another_machine(root, capsys):
    """Two records of one machine, and 0004, whose machine multiplies at a fifth of their rate."""
    records = [next(ROOT.glob(f"records/pocket/{number}_*")) for number in ("0001", "0002", "0004")]
    prove.main([*map(str, (records[1], records[0], records[2], records[0])), "--json"])
    assert [claim["same_machine"] for claim in claims(capsys)] == [True, False]


def side(seeds, machines, par_kind):
    """One side of a claim, as far as pairing looks at it."""
    return prove.Arm("side", "pocket", seeds, machines, [], [], 1.0, par_kind, None)


@pytest.mark.parametrize(
    "new, old, paired, reason",
    [
        (([1, 2], ["x", "x"], None), ([2, 1], ["x", "x"], None), True, "on the same machine"),
        (([1, 2], ["x", "x"], None), ([1, 3], ["x", "x"], None), False, "other seeds"),
        (([1, 2], ["x", "x"], None), ([1, 2], ["y", "y"], None), False, "not both sides under par"),
        (([1, 2], ["x", "x"], "amx"), ([1, 2], ["y", "y"], None), False, "not both sides under par"),
        (([1, 2], ["x", "x"], "amx"), ([1, 2], ["y", "y"], "avx512"), False, "(amx and avx512)"),
        (([1, 2], ["x", "x"], "amx"), ([2, 1], ["y", "z"], "amx"), True, "whenever they ran"),
        (([1, 2], ["x", "x"], "amx"), ([2, 3], ["y", "z"], "amx"), False, "other seeds"),
    ],
)
def test_equal_seeds_pair_on_one_machine_or_under_par_on_one_kind(new, old, paired, reason):
    found, why = prove.pairing(side(*new), side(*old))
    assert found is paired and reason in why and why.startswith("paired" if paired else "not paired")


def test_a_record_tells_how_often_it_was_reproduced(tmp_path):
    folder = additions.copy(tmp_path)
    assert prove.reproductions(folder) == []
    for changes in ({"bpb": 1.45}, {"bpb": 1.46}, {"kind": "scored", "train": None}):
        record_additions.write(folder, additions.example(folder, **changes))
    assert sorted(prove.reproductions(folder)) == [1.45, 1.46]
    claim = {"reproduced": {"new": [1.45, 1.46], "old": []}, "new_bpb_by_seed": [1.44, 1.45]}
    assert prove.trained_again(claim, "new") == "reproduced 2 times: mean bpb 1.4550 against the claim 1.4450"
    assert prove.trained_again(claim, "old") == "not reproduced yet"


def test_power_and_pairing_are_printed_with_the_claim(root, capsys):
    new, old, size = simulate(np.random.default_rng(1), seeds=3, seed_sd=0.004, documents=50)
    sides = [arm(root, "a", new, size, [1, 2, 3]), arm(root, "b", old, size, [4, 5, 6])]
    assert prove.main([*sides, "--power"]) == prove.NOT_PROVEN
    out = capsys.readouterr().out
    assert "not paired: the sides have other seeds" in out and "seeds a side" in out
    assert [line.split()[0] for line in out.splitlines() if re.match(r" *[0-9]+ +0\.[0-9]{4} ", line)] == list("34568")
