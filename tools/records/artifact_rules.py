"""R1 to R3: the artifacts of a record are its own, of the size that counts, and hold what was trained.

Not covered: whether the weights in an artifact come from the run (golf reproduce trains it again).
"""

from pathlib import Path

from golf import container, script, tokenizer_section
from golf.files import Failure, read_bytes, sha256_file
from golf.foreign import terminal
from golf.tracks import TRACKS
from tools.records import packer
from tools.records.record import source_in_log
from tools.records.submission import Submission
from tools.records.verdicts import NotHere, Verdict, failed, not_checked, passed, together

ANEW = "make the record anew from its runs"
ASK = "ask its author for the other artifacts, or train these seeds again (golf reproduce)"


def size(s: Submission) -> Verdict:
    """R1. One file, its size is the number: of every seed."""
    cap = TRACKS[s.record["track"]].cap_bytes
    for row, result in zip(s.record["seeds"], s.evals):
        where = f"seed {row['seed']}"
        stated = (row["artifact_bytes"], row.get("artifact_sha256", result["artifact"]["sha256"]))
        if stated != (result["artifact"]["bytes"], result["artifact"]["sha256"]):
            return failed(f"{where}: record.json and its score name different artifacts", "equal", ANEW)
        if row["artifact_bytes"] > cap:
            return failed(f"{where}: {row['artifact_bytes']:,} bytes", f"{cap:,}", "pack it smaller")
    if fault := chosen_artifact(s):
        return fault

    missing = [seed for seed, path in s.artifacts.items() if path is None]
    for row, result in zip(s.record["seeds"], s.evals):
        path = s.artifacts[row["seed"]]
        if path and (path.stat().st_size, sha256_file(path)) != (row["artifact_bytes"], result["artifact"]["sha256"]):
            limit = result["artifact"]["sha256"][:12]
            return failed(f"seed {row['seed']}: {path.name} is not the file that was scored", limit, ANEW)
    largest = max(row["artifact_bytes"] for row in s.record["seeds"])
    measured = f"{largest:,} bytes, the largest of {len(s.seeds)}"
    if missing:
        found = len(s.seeds) - len(missing)
        return not_checked(
            f"{found} of {len(s.seeds)} artifacts are in the record, {measured} claimed", ASK, f"{cap:,}"
        )
    return passed(measured, f"{cap:,}")


def chosen_artifact(s: Submission) -> Verdict | None:
    """A failure if the artifact that record.json shows is not that of its median seed."""
    stated = s.record["artifact"]
    ranked = sorted(zip(s.seeds, s.evals), key=lambda pair: pair[1]["bpb"])
    seed, score = ranked[(len(ranked) - 1) // 2]
    result = score["artifact"]
    if (stated["seed"], stated["bytes"], stated["sha256"]) == (seed, result["bytes"], result["sha256"]):
        return None
    return failed(
        f"the record's artifact is of seed {stated['seed']}, {stated['bytes']:,} bytes, {stated['sha256'][:12]}",
        f"the median: seed {seed}, {result['bytes']:,} bytes, {result['sha256'][:12]}",
        ANEW,
    )


def box(s: Submission) -> Verdict:
    """R2. That file and nothing else: every layer of the box is active."""
    for seed, result in zip(s.seeds, s.evals):
        missing = [row["layer"] for row in result.get("sandbox", []) if not row["active"]]
        certified = result.get("certified", False)
        if certified and not result.get("sandbox"):
            return failed(f"seed {seed}: its score says certified, and names no layer", "all layers", "score it again")
        if missing and (certified or s.rules >= 2):
            fix = "score all seeds again with --certify, on a machine that grants the layer"
            return failed(f"seed {seed}: scored in a box without {terminal(missing[0])}", "all layers", fix)
    for seed, result in s.scored_again.items():
        missing = [row["layer"] for row in result["sandbox"] if not row["active"]]
        if missing:
            fix = "check on a machine that grants the box every layer (docs/audits.md, The box)"
            return not_checked(f"seed {seed}: this machine's box lacks {', '.join(missing)}", fix)
    layers = min(len(result["sandbox"]) for result in s.scored_again.values())
    return together(passed(f"scored in a box with all its {layers} layers"), *all_seeds(s))


def all_seeds(s: Submission) -> list[Verdict]:
    """NOT CHECKED, if some seeds have no artifact that could be scored again."""
    missing = [str(seed) for seed in s.seeds if seed not in s.scored_again]
    if not missing:
        return []
    found = len(s.seeds) - len(missing)
    return [not_checked(f"{found} of {len(s.seeds)} artifacts are in the record, and passed", ASK)]


def script_that_trained(s: Submission) -> Verdict:
    """R3. The script in the log and in the artifact is the script."""
    sha256, stated = s.script_sha256, s.record["script_sha256"]
    for seed, run in zip(s.seeds, s.runs):
        source_in_log(s.folder / f"logs/seed{seed}.log", sha256)
        if run["source_sha256"] != sha256:
            return failed(f"seed {seed} ran {run['source_sha256'][:12]}", sha256[:12], "run this script")
    if sha256 != stated:
        return failed(sha256[:12], stated[:12], "make the record anew: train_gpt.py was changed")

    try:
        located = s.artifacts
    except NotHere:
        raise
    except Failure as failure:  # R1 fails for it
        return not_checked(f"{sha256[:12]} in every log; what the artifacts hold: {failure}", "see to R1 first")

    parts = [passed(f"{sha256[:12]} in every log")]
    for seed, path in located.items():
        if path is not None:
            parts += contents(s, seed, path)
    missing = [seed for seed, path in located.items() if path is None]
    if missing:
        found = len(s.seeds) - len(missing)
        parts.append(not_checked(f"{found} of {len(s.seeds)} artifacts are in the record, and as they must be", ASK))
    return together(*parts)


def contents(s: Submission, seed: int, path: Path) -> list[Verdict]:
    """What the CODE, CONF and TOKN of one seed's artifact hold, against what they must."""
    try:
        sections = container.read(read_bytes(path))
    except container.FormatError as error:
        return [failed(f"seed {seed}: {error}", "a .golf file", ANEW)]
    parts = []
    for what, check in (("CODE", code), ("CONF", config), ("TOKN", tokenizer)):
        try:
            wrong = check(s, seed, sections[what])
        except NotHere as missing:
            parts.append(not_checked(f"{what}: {missing}", missing.fix))
            continue
        except container.FormatError as error:
            wrong = str(error)
        if wrong:
            parts.append(failed(f"seed {seed}: {what}: {wrong}", "what the run and its commit give", ANEW))
        else:
            parts.append(passed(f"{what} as it must be"))
    return parts


def code(s: Submission, seed: int, payload: bytes) -> str:
    """What is wrong with the sources in CODE; empty if they are what the seed commit's packer makes."""
    names = ("another script than train_gpt.py", "another decoder than the packer's")
    expected = packer.sources(s.root, s.record["seed_commit"], s.script)
    found = container.code_unpack(payload)
    return next((name for name, is_, must in zip(names, found, expected) if is_ != must), "")


def config(s: Submission, seed: int, payload: bytes) -> str:
    """What is wrong with the fields in CONF; empty if they are those of the run that the script puts there."""
    run = s.runs[s.seeds.index(seed)]
    expected = script.artifact_config(s.script, run["preset"], run["config"])
    found = container.config_unpack(payload)
    wrong = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
    return f"{terminal(wrong[0], 60)} is not the run's" if wrong else ""


def tokenizer(s: Submission, seed: int, payload: bytes) -> str:
    """What is wrong with the tokenizer in TOKN; empty if it is that of the run's data set."""
    s.check_data()
    try:
        expected = tokenizer_section.canonical(read_bytes(s.data / "tokenizer.model"))
    except ValueError as error:
        raise Failure(f"{s.data / 'tokenizer.model'}: {error}") from None
    try:
        return "" if tokenizer_section.rebuild(payload) == expected else "another tokenizer than the data set's"
    except ValueError as error:
        return terminal(str(error), 200)
