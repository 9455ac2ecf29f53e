"""Records of format 2: one that passes every rule, and copies of it that cheat, each found by its rule's name.

Scoring again gives what eval/ held before the damage, timing gives about the record's ratio; some tests change that.
"""

import json
import shutil
import sys
import types
from pathlib import Path

import pytest

from compress.minify import code_section, minified_script
from golf import container, tokenizer_section
from golf.files import Failure
from tests.support import edit_json, reviewed
from tests.support.reviewed import Clone, add_score, seal
from tools.claims import prove
from tools.plan import par as timing
from tools.records import claim_rules, clock_rules, data_rules, packer, rules, submission
from tools.records.submission import Submission
from tools.records.verdicts import FAIL, NOT_APPLICABLE, NOT_CHECKED, PASS, NotHere, passed

pytestmark = pytest.mark.slow


MINIFIED: dict[tuple[str, bytes], tuple[str, str]] = {}
MINIFY = packer._minified  # the real one


def minified(root: Path, commit: str, script: bytes) -> tuple[str, str]:
    """What the packer makes: a commit has one text in every copy of the clone."""
    if (commit, script) not in MINIFIED:
        MINIFIED[commit, script] = MINIFY(root, commit, script)
    return MINIFIED[commit, script]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A clone with two records of format 2."""
    clone = Clone(tmp_path_factory.mktemp("made") / "clone")
    first = clone.add("0005", "first")
    clone.add("0006", "second", parent=first, bpb=1.8)
    return clone


@pytest.fixture
def clone(made, tmp_path, monkeypatch):
    """A copy of it, with the stubs."""
    root = tmp_path / "clone"
    shutil.copytree(made.root, root)
    copy = Clone.__new__(Clone)
    vars(copy).update(vars(made), root=root)
    scores = {}
    for path in made.root.glob("records/*/*/eval/*.json"):
        score = json.loads(path.read_text())
        scores[score["artifact"]["sha256"]] = score

    def score(artifact: Path, s: Submission) -> dict:
        return scores[reviewed.sha256(artifact.read_bytes())]

    monkeypatch.setattr(submission, "score", score)
    monkeypatch.setattr(data_rules, "DATA_SETS", {"pocket": {"data/small": made.manifest}})
    monkeypatch.setattr(data_rules, "shared_text", lambda s: passed("stub"))
    monkeypatch.setattr(prove, "SLICE_RESAMPLES", 10)
    monkeypatch.setattr(packer, "_minified", minified)
    timing = types.SimpleNamespace(measure=lambda script, preset: {"ratio": 1.03})
    monkeypatch.setitem(sys.modules, "tools.plan.par", timing)
    monkeypatch.setattr("tools.plan.par", timing, raising=False)
    return copy


def first(clone) -> Path:
    return clone.root / "records/pocket/0005_first"


def second(clone) -> Path:
    return clone.root / "records/pocket/0006_second"


def seed_of(folder: Path, place: int = 0) -> int:
    return json.loads((folder / "record.json").read_text())["seeds"][place]["seed"]


def verdicts(clone, folder, **options):
    return rules.check(Submission(folder, root=clone.root, **options))


def failed(clone, folder, **options) -> set[str]:
    return {name for name, verdict in verdicts(clone, folder, **options).items() if verdict.status == FAIL}


def by_status(found, status) -> set[str]:
    return {name for name, verdict in found.items() if verdict.status == status}


def copy_as(clone, folder: Path, name: str, **values) -> Path:
    """A record's folder under another name, with `values` in its record.json, its hashes made to fit."""
    number, _, slug = name.partition("_")
    copy = folder.with_name(name)
    shutil.copytree(folder, copy)
    edit_json(copy / "record.json", number=number, slug=slug, **values)
    seal(copy)
    return copy


def test_records_that_are_as_they_must_be(clone):
    found = verdicts(clone, first(clone))
    assert by_status(found, NOT_APPLICABLE) == {"R15"} and by_status(found, PASS) == set(rules.NAMES) - {"R15"}, found
    found = verdicts(clone, second(clone))
    assert by_status(found, PASS) == set(rules.NAMES), found
    assert "2 variants, as record.json states" in found["R15"].measured


def test_quick_says_what_it_leaves_out_and_how_to_check_it(clone):
    found = verdicts(clone, second(clone), scores=False)
    left = {"R2", "R4", "R5", "R8", "R10", "R11", "R12"}
    assert by_status(found, NOT_CHECKED) == left and by_status(found, FAIL) == set()
    assert all("without --quick" in found[name].fix for name in left)


# ---- What integrity asks for, by the names of the rules


def test_r14_invented_seeds(clone):
    folder = second(clone)
    old = seed_of(folder)
    for path in [*folder.glob(f"logs/seed{old}.*"), *folder.glob(f"*/seed{old}.*")]:
        if path.exists():
            path.rename(path.with_name(path.name.replace(str(old), "42")))
    for path in folder.glob("logs/seed42.*"):
        path.write_text(path.read_text().replace(str(old), "42"))
    value = json.loads((folder / "record.json").read_text().replace(str(old), "42"))
    (folder / "record.json").write_text(json.dumps(value))
    seal(folder)
    assert "R14" in failed(clone, folder)


def test_r14_a_commit_with_another_script_or_none(clone):
    """Seeds that were drawn from it, as everything says."""
    folder = clone.add("0007", "third", parent=second(clone), bpb=1.7)
    (clone.root / "train_gpt.py").write_text("")
    commit = clone.commit("another script")
    other = folder.with_name("0008_fourth")
    clone.write(other, commit, (folder / "train_gpt.py").read_text(), second(clone), 1.7)
    assert "R14" in failed(clone, other, scores=False)
    shutil.rmtree(other)
    (clone.root / "train_gpt.py").unlink()
    commit = clone.commit("no script")
    clone.write(other, commit, (folder / "train_gpt.py").read_text(), second(clone), 1.7)
    assert "R14" in failed(clone, other, scores=False)


def test_r16_a_relabelled_parent(clone):
    copy = copy_as(clone, second(clone), "0007_third", parent="0006_second")
    found = verdicts(clone, copy)
    assert found["R16"].status == FAIL and "its script is that of pocket/0006_second" in found["R16"].measured
    assert found["R15"].status == FAIL


def test_r15_no_parent_is_for_the_first_record(clone):
    edit_json(second(clone) / "record.json", parent=None)
    found = verdicts(clone, second(clone))
    assert found["R15"].status == FAIL and "no parent, and 0005_first stood before" in found["R15"].measured


def test_r15_a_weak_parent(clone):
    """Better than its parent, and worse than the best."""
    folder = clone.add("0007", "third", parent=first(clone), bpb=1.9)
    found = verdicts(clone, folder, scores=False)
    assert found["R15"].status == FAIL and "0007_third against 0006_second" in found["R15"].measured


def test_r15_counts_the_variants_that_the_record_states(clone):
    folder = clone.add("0007", "third", parent=second(clone), bpb=1.795)
    edit_json(folder / "record.json", variants=4000)
    found = verdicts(clone, folder, scores=False)["R15"]
    assert found.status == FAIL and "4000 variants, as record.json states" in found.measured


def test_r15_wants_the_head_of_the_log(clone):
    edit_json(second(clone) / "record.json", ledger_head=None)
    assert failed(clone, second(clone)) == {"R15"}


def test_r15_wants_a_number_of_variants(clone):
    """Without one, a gain would be held against no rival."""
    edit_json(second(clone) / "record.json", variants=None)
    assert failed(clone, second(clone)) == {"R15"}


@pytest.mark.parametrize("name", ["0000_zero", "0004_between", "0005_same"])
def test_r16_a_number_below_those_of_main(clone, name):
    """Nothing would stand before it: it had nothing to beat."""
    clone.commit("two records")
    clone.git("checkout", "-q", "-b", "pull")
    folder = clone.add(*name.split("_"), bpb=2.5)
    found = verdicts(clone, folder, scores=False)
    assert found["R16"].status == FAIL and "next number" in found["R16"].fix
    shutil.rmtree(folder)
    folder = clone.add("0007", "next", parent=second(clone), bpb=1.7)
    clone.commit("a record")
    assert not failed(clone, folder, scores=False) and not failed(clone, first(clone), scores=False)


def test_r14_a_tag_draws_no_seeds(clone):
    commit = clone.git("rev-parse", "HEAD")
    clone.git("tag", "-a", "-m", "a tag", "luck", commit)
    tag = clone.git("rev-parse", "luck")
    folder = second(clone).with_name("0007_third")
    clone.write(folder, tag, (second(clone) / "train_gpt.py").read_text(), second(clone), 1.7)
    found = verdicts(clone, folder, scores=False)["R14"]
    assert found.status == FAIL and "is a tag" in found.measured


def test_r15_another_scope_is_another_table(clone):
    folder = clone.add("0007", "third", parent=second(clone), bpb=1.9)
    edit_json(folder / "record.json", scope="stream")
    assert verdicts(clone, folder, scores=False)["R15"].status == NOT_APPLICABLE


def test_r6_another_training_set(clone, monkeypatch):
    monkeypatch.setattr(data_rules, "DATA_SETS", {"pocket": {"data/other": "0" * 64}})
    found = verdicts(clone, second(clone), scores=False)["R6"]
    assert found.status == FAIL and "data/other" in found.limit
    monkeypatch.setattr(data_rules, "DATA_SETS", {})
    assert verdicts(clone, second(clone))["R6"].status == PASS
    shutil.rmtree(clone.root / "data")
    assert verdicts(clone, second(clone))["R6"].status == NOT_CHECKED


@pytest.mark.parametrize("certified", [True, False])
def test_r2_a_missing_layer(clone, certified):
    folder = second(clone)
    sandbox = [row | {"active": row["layer"] != "Landlock: files"} for row in reviewed.SANDBOX]
    edit_json(folder / f"eval/seed{seed_of(folder)}.json", sandbox=sandbox, certified=certified)
    seal(folder)
    found = verdicts(clone, folder)
    assert by_status(found, FAIL) == {"R2"} and "Landlock: files" in found["R2"].measured


def test_r2_a_layer_that_this_machine_lacks(clone, monkeypatch):
    def score(artifact, s):
        raise NotHere("eval_heldout: not certified: this machine does not grant the box seccomp", "elsewhere")

    monkeypatch.setattr(submission, "score", score)
    found = verdicts(clone, second(clone))
    assert by_status(found, NOT_CHECKED) == {"R2", "R5", "R8", "R10", "R11", "R12"} and not by_status(found, FAIL)
    assert "seccomp" in found["R2"].measured


def test_r8_a_swapped_list_of_documents(clone):
    """Two documents' nats exchanged: the sum, and all that is made of it, stays."""
    folder = second(clone)
    path = folder / f"eval/seed{seed_of(folder)}.json"
    rows = json.loads(path.read_text())["per_document"]
    rows[3]["nats"], rows[8]["nats"] = rows[8]["nats"], rows[3]["nats"]
    edit_json(path, per_document=rows)
    seal(folder)
    found = verdicts(clone, folder)
    assert by_status(found, FAIL) == {"R8"} and rows[3]["id"] in found["R8"].measured


def test_r8_every_seeds_artifact_is_scored(clone):
    """The better score that one seed claims is not what its artifact has."""
    folder = second(clone)
    place, seed = 0, seed_of(folder, 0)  # the lowest: which one is the median stays
    path = folder / f"eval/seed{seed}.json"
    score = json.loads(path.read_text())
    rows = [row | {"nats": row["nats"] * 0.9994} for row in score["per_document"]]
    bpb = score["bpb"] * 0.9994
    edit_json(path, per_document=rows, bpb=bpb)
    value = json.loads((folder / "record.json").read_text())
    value["seeds"][place]["bpb"] = bpb
    values = [row["bpb"] for row in value["seeds"]]
    mean = sum(values) / 3
    spread = (sum((one - mean) ** 2 for one in values) / 2) ** 0.5
    edit_json(folder / "record.json", seeds=value["seeds"], bpb_mean=mean, bpb_sd=spread)
    seal(folder)
    assert failed(clone, folder) == {"R8"} and failed(clone, folder, scores=False) == set()


def repack(folder: Path, seed: int, **sections) -> None:
    """Other sections in a seed's artifact, with all that names it made to fit."""
    path = folder / f"artifacts/seed{seed}.golf"
    data = container.to_bytes(container.read(path.read_bytes()) | sections)
    path.write_bytes(data)
    named = {"name": "model.golf", "bytes": len(data), "sha256": reviewed.sha256(data)}
    edit_json(folder / f"eval/seed{seed}.json", artifact=named)
    value = json.loads((folder / "record.json").read_text())
    for row in value["seeds"]:
        if row["seed"] == seed:
            row |= {"artifact_bytes": len(data), "artifact_sha256": named["sha256"]}
    if value["artifact"]["seed"] == seed:
        value["artifact"] |= {"bytes": len(data), "sha256": named["sha256"]}
    (folder / "record.json").write_text(json.dumps(value))
    seal(folder)


OTHER_SCRIPT = code_section(minified_script(reviewed.SCRIPT.replace("SLUG", "a trick")))
OTHER_TOKENIZER = tokenizer_section.serialise(tokenizer_section.rebuild(container.compress(b"he\nthe\nand")))
SECTIONS = {
    "another script": ({"CODE": OTHER_SCRIPT}, "CODE: another script"),
    "another tokenizer": ({"TOKN": OTHER_TOKENIZER}, "TOKN: another tokenizer"),
    "another config": ({"CONF": container.config_pack({"width": 16, "depth": 2})}, "CONF: depth"),
    "a field too many": ({"CONF": container.config_pack({"width": 16, "lr": 0.1})}, "CONF: lr"),
    "no code": ({"CODE": b""}, "CODE: "),
}


@pytest.mark.parametrize("name", SECTIONS)
@pytest.mark.parametrize("place", [0, 2])
def test_r3_the_artifacts_hold_what_was_trained(clone, name, place):
    sections, message = SECTIONS[name]
    repack(second(clone), seed_of(second(clone), place), **sections)
    found = verdicts(clone, second(clone), scores=False)
    assert by_status(found, FAIL) == {"R3"} and message in found["R3"].measured


def test_r3_another_decoder(clone):
    script = minified_script((second(clone) / "train_gpt.py").read_text())
    repack(second(clone), seed_of(second(clone)), CODE=container.code_pack(script, "def decode_weights(x): pass"))
    found = verdicts(clone, second(clone), scores=False)["R3"]
    assert found.status == FAIL and "CODE: another decoder" in found.measured


def test_r3_runs_no_packer_that_main_does_not_have(clone):
    """The seed commit lies on a branch whose packer would leave a file."""
    clone.git("checkout", "-q", "-b", "branch")
    path = clone.root / "compress/minify.py"
    path.write_text(path.read_text() + f"\nopen({str(clone.root / 'ran')!r}, 'w')\n")
    folder = clone.add("0007", "third", parent=second(clone), bpb=1.7)
    found = verdicts(clone, folder, scores=False)["R3"]
    assert found.status == NOT_CHECKED and "compress/minify.py" in found.measured and "merge" in found.fix
    assert not (clone.root / "ran").exists()


def test_r3_a_seed_commit_of_a_branch_with_mains_packer(clone):
    clone.git("checkout", "-q", "-b", "branch")
    folder = clone.add("0007", "third", parent=second(clone), bpb=1.7)
    clone.git("checkout", "-q", "main")
    assert verdicts(clone, folder, scores=False)["R3"].status == PASS


def test_the_packers_sources_are_those_that_minify_needs():
    import ast

    def imports(name: str) -> set[str]:
        tree = ast.parse((reviewed.ROOT / name).read_text())
        found = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        paths = {f"{module.replace('.', '/')}.py" for module in found}
        return {path for path in paths if path.startswith(("compress/", "golf/")) and (reviewed.ROOT / path).exists()}

    needed, new = set(), {"compress/minify.py"}
    while new:
        needed |= new
        new = set().union(*map(imports, new)) - needed
    assert needed | {"compress/decode.py", "compress/__init__.py", "golf/__init__.py"} == set(packer.SOURCES)


@pytest.mark.parametrize("what", ["script", "artifact", "seed_commit", "log"])
def test_r16_what_is_of_another_record(clone, what):
    folder, other = second(clone), first(clone)
    if what == "script":
        text = (other / "train_gpt.py").read_text()
        folder = clone.add("0007", "third", parent=second(clone), bpb=1.7, script=text)
    elif what == "artifact":
        source, seed = other / f"artifacts/seed{seed_of(other)}.golf", seed_of(folder)
        repack(folder, seed, **container.read(source.read_bytes()))
    elif what == "seed_commit":
        edit_json(folder / "record.json", seed_commit=json.loads((other / "record.json").read_text())["seed_commit"])
    else:
        name, theirs = f"logs/seed{seed_of(folder)}.metrics.jsonl", f"logs/seed{seed_of(other)}.metrics.jsonl"
        shutil.copyfile(other / theirs, folder / name)
        seal(folder)
    s = Submission(folder, scores=False, root=clone.root)
    found = claim_rules.attribution(s)  # alone: some of these fail a rule that it waits for
    assert found.status == FAIL and "pocket/0005_first" in found.measured
    assert failed(clone, folder, scores=False)


@pytest.mark.parametrize("what", ["artifact", "scores", "log"])
def test_r16_one_run_for_two_seeds(clone, what):
    """The best of many runs, or what a script makes that ignores its seed."""
    folder = second(clone)
    one, two = seed_of(folder, 0), seed_of(folder, 1)
    if what == "artifact":
        repack(folder, two, **container.read((folder / f"artifacts/seed{one}.golf").read_bytes()))
    elif what == "scores":
        rows = json.loads((folder / f"eval/seed{one}.json").read_text())["per_document"]
        edit_json(folder / f"eval/seed{two}.json", per_document=rows)
        seal(folder)
    else:
        shutil.copyfile(folder / f"logs/seed{one}.metrics.jsonl", folder / f"logs/seed{two}.metrics.jsonl")
        seal(folder)
    found = claim_rules.attribution(Submission(folder, scores=False, root=clone.root))
    assert found.status == FAIL and "run for each seed" in found.limit


def test_r8_two_artifacts_that_are_one_model(clone, monkeypatch):
    """Packed twice, with claims that differ a little."""
    real = submission.score
    one = second(clone) / f"artifacts/seed{seed_of(second(clone), 1)}.golf"
    monkeypatch.setattr(submission, "score", lambda artifact, s: real(one, s))
    found = verdicts(clone, second(clone))["R8"]
    assert found.status == FAIL and "score every document alike" in found.measured


def test_r16_folder_number_and_slug(clone):
    folder = second(clone)
    for name in ("0006_other", "0007_second"):
        copy = folder.with_name(name)
        folder.rename(copy)
        assert "R16" in failed(clone, copy, scores=False)
        copy.rename(folder)
    elsewhere = folder.parent.with_name("16mb") / folder.name
    elsewhere.parent.mkdir()
    shutil.copytree(folder, elsewhere)
    assert "R16" in failed(clone, elsewhere, scores=False)
    shutil.rmtree(elsewhere.parent)
    taken = copy_as(clone, folder, "0005_again")
    found = verdicts(clone, taken, scores=False)["R16"]
    assert found.status == FAIL and "0005_first has its number" in found.measured


def test_a_new_table_may_begin_with_an_old_script(clone):
    """0007 is of newer rules, and has the script of its parent, which is of older ones."""
    edit_json(first(clone) / "record.json", rules=2)
    s = Submission(second(clone), scores=False, root=clone.root)
    s.rules = 3
    other = {"rules": 2, "script_sha256": s.script_sha256}
    assert claim_rules.may_share_script(s, first(clone), other)  # its parent
    assert claim_rules.may_share_script(s, Path("0001_other"), other)  # the first of its table
    s.rules = 2
    assert not claim_rules.may_share_script(s, first(clone), other)


@pytest.mark.parametrize(
    "track, gpus, seconds, status", [("2mb", 1, 600.0, PASS), ("2mb", 2, 600.0, FAIL), ("16mb", 8, 600.0, PASS),
                                     ("16mb", 16, 600.0, FAIL), ("2mb", 1, 600.5, FAIL)]
)  # fmt: skip
def test_r4_seconds_and_gpus_where_the_wall_rules(track, gpus, seconds, status):
    run = {"world_size": gpus, "training_seconds": seconds}
    record = {"track": track, "par": None}
    assert clock_rules.wall_clock(types.SimpleNamespace(record=record, runs=[run])).status == status


# ---- R4 without a clock


def change_run(folder: Path, place: int, config: dict | None = None, **values) -> None:
    """Changes a seed's run in run.json, log and record.json, so that they agree."""
    seed = seed_of(folder, place)
    path = folder / f"logs/seed{seed}.run.json"
    run = edit_json(path, **values)
    run = edit_json(path, config=run["config"] | (config or {}))
    metrics = [json.loads(line) for line in (folder / f"logs/seed{seed}.metrics.jsonl").read_text().splitlines()]
    log = reviewed.log_of((folder / "train_gpt.py").read_text(), run, metrics)
    (folder / f"logs/seed{seed}.log").write_text(log)
    value = json.loads((folder / "record.json").read_text())
    value["seeds"][place] |= {"tokens": run["tokens"], "steps": run["steps"]}
    (folder / "record.json").write_text(json.dumps(value))
    seal(folder)


RUNS = {
    "more tokens than its speed allows": (dict(tokens=9_000_001), "9,000,001 tokens"),
    "a clock on the wall": (dict(config={"max_seconds": 600.0}), "max_seconds 600.0"),
    "ended by a clock": (dict(stopped="clock"), "ended by clock"),
}


@pytest.mark.parametrize("name", RUNS)
def test_r4_work(clone, name):
    values, message = RUNS[name]
    change_run(second(clone), 1, **values)
    found = verdicts(clone, second(clone), scores=False)["R4"]
    assert found.status == FAIL and message in found.measured


def test_r4_steps_end_a_run_too(clone):
    for place in range(3):
        change_run(second(clone), place, stopped="steps")
    assert verdicts(clone, second(clone))["R4"].status == PASS


def test_r4_needs_a_speed_ratio(clone):
    edit_json(second(clone) / "record.json", par=None)
    assert failed(clone, second(clone)) == {"R4"}


def test_r4_few_rounds_are_no_timing(clone):
    """Of few rounds the interval is what chance makes it."""
    par = json.loads((second(clone) / "record.json").read_text())["par"]
    edit_json(second(clone) / "record.json", par=par | {"rounds": timing.MIN_ROUNDS - 1})
    with pytest.raises(Failure, match="rounds"):
        Submission(second(clone), root=clone.root)


@pytest.mark.parametrize("ratio, status", [(1.08, PASS), (1.10, FAIL), (0.96, PASS), (0.94, FAIL)])
def test_r4_speed_is_timed_again(clone, monkeypatch, ratio, status):
    monkeypatch.setattr(sys.modules["tools.plan.par"], "measure", lambda *words, **options: {"ratio": ratio})
    assert verdicts(clone, second(clone))["R4"].status == status


def test_r4_speed_on_another_kind_of_processor(clone, monkeypatch):
    monkeypatch.setattr(clock_rules, "own_kind", lambda: "avx2 by nobody")
    found = verdicts(clone, second(clone))["R4"]
    assert found.status == NOT_CHECKED and "another kind of processor" in found.measured and found.fix


# ---- What a reviewer's machine lacks


def test_a_seed_commit_that_is_not_here(clone, monkeypatch):
    monkeypatch.setattr(claim_rules.repository, "commit_of", lambda root, name: None)
    found = verdicts(clone, second(clone), scores=False)
    assert found["R14"].status == found["R3"].status == NOT_CHECKED and "git fetch" in found["R14"].fix


def test_another_torch_leaves_scores_unchecked(clone):
    edit_json(second(clone) / "record.json", environment={"torch": "1.0.0+cpu"})
    found = verdicts(clone, second(clone))
    assert by_status(found, NOT_CHECKED) == {"R2", "R5", "R8", "R10", "R11", "R12"}
    assert "torch==1.0.0" in found["R8"].fix


def test_a_missing_data_set(clone):
    shutil.rmtree(clone.root / "data")
    found = verdicts(clone, second(clone))
    assert by_status(found, NOT_CHECKED) == {"R2", "R3", "R5", "R6", "R8", "R9", "R10", "R11", "R12"}
    assert not by_status(found, FAIL)


def test_rules_of_the_future(clone):
    edit_json(second(clone) / "record.json", rules=99)
    with pytest.raises(Failure, match="version 99 of the rules.*update the clone"):
        Submission(second(clone), root=clone.root)


# ---- R17 and additions


def test_r17_additions_may_be_made_and_never_changed(clone):
    path = add_score(second(clone), seed_of(second(clone)))
    assert verdicts(clone, second(clone), scores=False)["R17"].status == PASS
    clone.commit("an addition")
    found = verdicts(clone, second(clone), scores=False)["R17"]
    assert found.status == PASS, found
    path.write_text(path.read_text().replace("Bob", "Eve"))
    assert failed(clone, second(clone), scores=False) >= {"R17"}
    clone.commit("an addition, changed")
    assert failed(clone, second(clone), scores=False) >= {"R17"}


def test_r17_a_taken_addition(clone):
    path = add_score(second(clone), seed_of(second(clone)))
    clone.commit("an addition")
    path.unlink()
    clone.commit("gone")
    assert failed(clone, second(clone), scores=False) >= {"R17"}


def test_r17_a_name_that_main_has(clone, tmp_path):
    """The record with other authors: as a folder from elsewhere, and on a branch that knows nothing of main."""
    add_score(second(clone), seed_of(second(clone)))
    clone.commit("two records")
    place = tmp_path / "hub/pocket/0006_second"
    shutil.copytree(second(clone), place)
    assert verdicts(clone, place, scores=False)["R17"].status == PASS
    shutil.rmtree(place / "additions")
    (place / "README.md").unlink()
    assert verdicts(clone, place, scores=False)["R17"].status == PASS
    edit_json(place / "record.json", authors=["Eve"])
    found = verdicts(clone, place, scores=False)["R17"]
    assert found.status == FAIL and "main has another one" in found.measured

    clone.git("checkout", "-q", "--orphan", "alone")
    shutil.rmtree(second(clone) / "additions")
    shutil.copyfile(place / "record.json", second(clone) / "record.json")
    clone.commit("all anew")
    found = verdicts(clone, second(clone), scores=False)["R17"]
    assert found.status == FAIL and "main has another one" in found.measured


def test_r17_no_other_file(clone):
    (second(clone) / "json.py").write_text("")
    found = verdicts(clone, second(clone), scores=False)["R17"]
    assert found.status == FAIL and "json.py" in found.measured
