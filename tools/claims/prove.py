"""Is A better than B, or was it luck? Prints a table and one sentence that says proven or not proven.

    golf prove records/pocket/0002_trellis_coded records/pocket/0001_baseline
    golf prove runs/a1,runs/a2,runs/a3 runs/b1,runs/b2,runs/b3 [A2 B2 ...]

A and B are records, or lists of folders of scored runs (one per seed). Both must be scored on the same documents.
tools/claims/proof.py has the statistics; the exit status is 0 if every claim is proven, 3 if one is not, 1 for bad
input. With one seed on a side nothing can be proven: it then says what holds for these weights, and no more.

Not covered: whether the scores are true (golf check), and training on the held-out text.
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from golf import schema, slices, statistics
from golf.console import guarded
from golf.files import ROOT, Failure, check_plain, explain, sha256_file
from golf.foreign import terminal
from golf.processor import kind_of
from golf.progress import track
from tools.claims import proof
from tools.runs import ledger

ALPHA, MARGIN = 0.01, 0.0015  # one-sided level; bpb that a gain must exceed (smaller ones are called ties)
NOT_PROVEN = 3
EVEN_STEPS = 0.85  # a run with fewer, as a share of another's on the same clock, was disturbed: records keep to 0.88
SLICE_RESAMPLES = 1000  # of the bootstrap; the whole has proof.RESAMPLES
MACHINE = ("platform", "device", "threads", "torch", "compute", "compiled", "world_size")  # of run.json's environment
SAME_PEAK = 2.0  # CPUs are told apart by their measured matrix rate, which varies by less on one of them
SEEDS = (3, 4, 5, 6, 8)  # a side, of the table of powers
CORRELATIONS = (0.0, 0.5, 0.9)  # of two sides' bpb over equal seeds
POWER = 0.8
RIVALS_HELP = "variants A was chosen from (default: as its record states, else counted in the log)"


@dataclass
class Arm:
    """One side of a claim: the same experiment with several seeds."""

    name: str
    track: str
    seeds: list[int]
    machines: list[tuple]
    scores: list[dict]  # eval.json of each seed
    peaks: list[float]  # FLOP/s that MFU is measured against
    share_of_steps: float  # steps of the shortest run over those of the longest, where a clock ends them
    par_kind: str | None  # kind of processor of a record's `par`: there its seeds give the same run wherever it is made
    reproduced: list[float] | None  # bpb of each time that a record's script was trained again; None for runs
    variants: int | None = None  # that a record says were tried; None for runs, and where it states no number

    @property
    def rows(self) -> list[list[dict]]:
        """The documents of each seed's score."""
        return [score["per_document"] for score in self.scores]


def read_arm(text: str) -> Arm:
    """A record's folder, or folders of runs with commas between. Raises Failure."""
    folders = [Path(part) for part in text.split(",")]
    par_kind, reproduced, variants = None, None, None
    if len(folders) == 1 and (folders[0] / "record.json").exists():
        check_plain(folders[0])
        record = schema.read(folders[0] / "record.json", "record")
        if par := record.get("par"):
            par_kind = terminal(kind_of(par["processor_class"], par["processor"]), 100)
        reproduced = reproductions(folders[0])
        variants = record.get("variants")
        seeds = [row["seed"] for row in record["seeds"]]
        pairs = [(folders[0] / f"logs/seed{seed}.run.json", folders[0] / f"eval/seed{seed}.json") for seed in seeds]
        name = folders[0].resolve().name
    else:
        pairs = [(folder / "run.json", folder / "eval.json") for folder in folders]
        name = folders[0].resolve().name + (f" and {len(folders) - 1} more" if len(folders) > 1 else "")
    runs = [schema.read(run, "run") for run, _ in pairs]
    scores = [schema.read(score, "eval") for _, score in pairs]
    for (_, path), score in zip(pairs, scores):
        check_rows(path, score["per_document"])
    for run, folder in zip(runs, pairs):
        if run["source_sha256"] != runs[0]["source_sha256"]:
            raise Failure(f"{folder[0]}: another script than {pairs[0][0]}: a side is one experiment")
        other = sorted(
            key
            for key in run["config"].keys() | runs[0]["config"].keys()
            if key not in ("seed", "run_dir") and run["config"].get(key) != runs[0]["config"].get(key)
        )
        if other:
            raise Failure(f"{folder[0]}: another {', '.join(other)} than {pairs[0][0]}: a side is one experiment")
    seeds = [run["seed"] for run in runs]
    if len(set(seeds)) != len(seeds):
        raise Failure(f"{text}: two runs have the same seed")
    machines = [tuple(run["environment"].get(key) for key in MACHINE) for run in runs]
    peaks = [
        run["tokens_per_second"] * run["flops_per_token"] / run["mfu"] / run["world_size"]
        for run in runs
        if run.get("mfu")
    ]
    steps = [run["steps"] for run in runs if run["config"].get("max_seconds")]
    share_of_steps = min(steps) / max(steps) if any(steps) else 1.0
    track_name = runs[0]["track"]
    return Arm(name, track_name, seeds, machines, scores, peaks, share_of_steps, par_kind, reproduced, variants)


def reproductions(folder: Path) -> list[float]:
    """bpb of each addition to a record that trained its script again (docs/addition.schema.json). Whether they are
    whole is for golf check. Raises Failure."""
    own = sha256_file(folder / "record.json")
    found = [schema.read(path, "addition") for path in sorted((folder / "additions").glob("*.json"))]
    return [each["bpb"] for each in found if each["kind"] == "trained" and each["record"]["sha256"] == own]


def pairing(new: Arm, old: Arm) -> tuple[bool, str]:
    """(whether the runs of equal seeds are compared with each other, why)."""
    if set(new.seeds) != set(old.seeds):
        return False, "not paired: the sides have other seeds"
    machine_of = dict(zip(old.seeds, old.machines))
    if all(machine_of[seed] == machine for seed, machine in zip(new.seeds, new.machines)):
        return True, "paired: the same seeds on the same machine"
    if new.par_kind is None or old.par_kind is None:
        return False, "not paired: the same seeds on other machines, and not both sides under par"
    if new.par_kind != old.par_kind:
        kinds = f"{new.par_kind} and {old.par_kind}"
        return False, f"not paired: the same seeds under par, on two kinds of processor ({kinds})"
    return True, f"paired: the same seeds under par on one kind of processor ({new.par_kind}), whenever they ran"


def check_rows(path: Path, rows: list[dict]) -> None:
    """Failure unless the rows of an eval.json's per_document can be summed, and cut by position (golf/slices.py)."""
    if sum(row["raw_bytes"] for row in rows) == 0:
        raise Failure(f"{path}: per_document: no bytes")
    for row in rows:
        ranges = 1 + sum(edge < row["raw_bytes"] for edge in slices.EDGES)
        if "position_nats" in row and len(row["position_nats"]) != ranges:
            raise Failure(
                f"{path}: per_document: position_nats of {terminal(row['id'], 30)} has "
                f"{len(row['position_nats'])} numbers, {row['raw_bytes']:,} bytes have {ranges} ranges"
            )


def check_side(text: str) -> None:
    """Failure that says what to give instead if a side is a file, or a folder that holds neither a run nor a record."""
    for part in text.split(","):
        if Path(part).is_file():
            raise Failure(
                f"{part}: a file; give the folder of its run, where run.json lies beside eval.json, or a "
                "record's folder"
            )
        if Path(part).is_dir() and not any((Path(part) / name).exists() for name in ("run.json", "record.json")):
            raise Failure(
                f"{part}: neither a run (run.json) nor a record (record.json); a score alone does not say "
                "which script and seed it is of: give the folder of its run"
            )


def check_copies(arm: Arm) -> None:
    """Failure if two seeds of a side are scores of one and the same artifact."""
    artifacts = [score["artifact"]["sha256"] for score in arm.scores if "artifact" in score]
    if len(set(artifacts)) < len(artifacts):
        raise Failure(f"{arm.name}: an artifact is there twice: these are copies of one run, not seeds")


def check_documents(arms: list[Arm]) -> None:
    """Failure if not all scores are of the same documents; data sets with other tokenizers may have the same."""

    def documents(score: dict) -> tuple:
        return (
            score["data"]["split"],
            score["data"]["docs_sha256"],
            [(row["id"], row["raw_bytes"]) for row in score["per_document"]],
        )

    first = documents(arms[0].scores[0])
    for arm in arms:
        for seed, score in zip(arm.seeds, arm.scores):
            if documents(score) != first:
                raise Failure(
                    f"{arm.name}, seed {seed}: scored on other documents than {arms[0].name}: score both on "
                    "the same data and split"
                )


def describe(new: Arm, old: Arm, margin: float, details: bool = True) -> dict:
    """What a claim says of its two sides, whatever comes of it. Failure if they cannot be compared.

    details: with the interval of these weights, which takes longer than all the rest."""
    for arm in (new, old):
        check_copies(arm)
    check_documents([new, old])
    sizes = np.array([row["raw_bytes"] for row in new.rows[0]], dtype=float)
    nats = [nats_of(arm.rows) for arm in (new, old)]
    peaks = new.peaks + old.peaks
    alike = len({*new.machines, *old.machines}) == 1 and max(peaks, default=1.0) < SAME_PEAK * min(peaks, default=1.0)
    return {
        "new": new.name,
        "old": old.name,
        "track": new.track,
        "split": new.scores[0]["data"]["split"],
        "seeds": [len(new.seeds), len(old.seeds)],
        "new_bpb_by_seed": statistics.bits_per_byte(nats[0], sizes).tolist(),
        "old_bpb_by_seed": statistics.bits_per_byte(nats[1], sizes).tolist(),
        "least_share_of_steps": {arm.name: arm.share_of_steps for arm in (new, old)},
        "same_machine": alike,
        "documents": len(sizes),
        "margin": margin,
        "interval_of_these_weights": proof.fixed_weights(nats[0], nats[1], sizes)["interval"] if details else None,
        "slices_missing": slices.missing(*new.rows, *old.rows),
        "reproduced": {"new": new.reproduced, "old": old.reproduced},
    }


def nats_of(side: list[list[dict]]) -> np.ndarray:
    """Nats float64 [S, D] of the rows of each seed's score."""
    return np.array([[row["nats"] for row in rows] for rows in side])


def count_signs(parts: dict) -> dict:
    """{"slices_counted", "slices_better"}: those of very few documents are not counted."""
    signs = [part["gain"] > 0 for part in parts.values() if part["documents"] >= slices.MIN_DOCUMENTS]
    return {"slices_counted": len(signs), "slices_better": sum(signs)}


def compare(
    new: Arm, old: Arm, margin: float, root: Path | None, variants: int | None = None, details: bool = True
) -> dict:
    """One claim, not yet corrected for the others. root: where the experiment log is (None: look in none).
    variants: rivals of `new`; by default those that its record states, else those that the log counts.

    details: with the slices and the interval of these weights, which decide nothing and take most of the time."""
    for arm in (new, old):
        if len(arm.seeds) < 2:
            raise Failure(f"{arm.name}: one seed has no spread: a side needs at least two, a record three")
    claim = describe(new, old, margin, details)
    paired, reason = pairing(new, old)
    order = [old.seeds.index(seed) for seed in new.seeds] if paired else range(len(old.seeds))
    a, b = new.rows, [old.rows[place] for place in order]
    sizes = [row["raw_bytes"] for row in a[0]]
    result = proof.test(nats_of(a), nats_of(b), sizes, paired, margin)
    is_stated = variants is None and new.variants is not None
    tried = new.variants if is_stated else None
    rivals = variants or tried or 1
    if variants is None and not is_stated and root is not None and (root / "runs/ledger.jsonl").exists():
        found = ledger.variants(root, new.track, new.seeds)
        tried, rivals = found["tried"], max(1, found["rivals"])
    luck = proof.expected_maximum(rivals) * result["standard_error"]
    parts = {}
    cuts = slices.cut(a[0], claim["slices_missing"]) if details else {}
    for name, part in track(cuts.items(), "comparing slices", unit="slices"):
        nats = [[part.nats(rows) for rows in side] for side in (a, b)]
        found = proof.test(nats[0], nats[1], part.raw_bytes, paired, 0.0, SLICE_RESAMPLES)
        parts[name] = {key: found[key] for key in ("new_bpb", "old_bpb", "gain", "interval", "p")}
        parts[name]["documents"] = len(part.documents)
    return {
        **claim,
        **result,
        "paired": paired,
        "pairing": reason,
        "variants_tried": tried,
        "variants_stated": is_stated,
        "rivals": rivals,
        "luck_of_the_best": luck,
        "p_of_the_best": min(1.0, rivals * result["p"]),
        "slices": parts,
        **count_signs(parts),
    }


def compare_weights(new: Arm, old: Arm, margin: float) -> dict:
    """What can be said where a side has one seed: the gain of these very weights, over other documents of the kind.

    A claim without p, which conclude() calls not proven. "interval" is None where there are too few documents."""
    claim = describe(new, old, margin)
    sizes = [row["raw_bytes"] for row in new.rows[0]]
    result = proof.fixed_weights(nats_of(new.rows), nats_of(old.rows), sizes)
    parts = {}
    for name, part in slices.cut(new.rows[0], claim["slices_missing"]).items():
        nats = [[part.nats(rows) for rows in arm.rows] for arm in (new, old)]
        parts[name] = proof.fixed_weights(nats[0], nats[1], part.raw_bytes, SLICE_RESAMPLES)
        parts[name] |= {"p": None, "documents": len(part.documents)}
    return {**claim, **result, "p": None, "p_zero": None, "slices": parts, **count_signs(parts)}


def is_proven(claim: dict, p: float, alpha: float) -> bool:
    """Whether a claim holds at the level `alpha`. p: over its rivals, and over the claims made beside it."""
    return p <= alpha and claim["gain"] - claim["luck_of_the_best"] > claim["margin"]


def conclude(claims: list[dict], alpha: float) -> list[dict]:
    """Adds Holm's p over the claims, the decision, the seeds needed if undecided, and the sentence."""
    tested = [claim for claim in claims if claim["p"] is not None]
    for claim, p in zip(tested, proof.holm([claim["p_of_the_best"] for claim in tested])):
        claim["p_holm"] = p
        claim["proven"] = is_proven(claim, p, alpha)
        level = alpha / (claim["rivals"] * len(tested))
        claim["seeds_needed"] = None if claim["proven"] else proof.seeds_needed(claim, level, claim["luck_of_the_best"])
    for claim in claims:
        claim["alpha"] = alpha
        if claim["p"] is None:
            claim |= {"p_holm": None, "proven": False, "seeds_needed": None}
        claim["sentence"] = sentence_of_weights(claim) if claim["p"] is None else sentence(claim)
    return claims


def sentence(claim: dict) -> str:
    """The one sentence."""
    what = (
        f"{claim['new']} against {claim['old']}: gain {claim['gain']:+.4f} bpb on {claim['split']} "
        f"({'paired' if claim['paired'] else 'unpaired'}, {claim['seeds'][0]} and {claim['seeds'][1]} seeds, "
        f"{claim['documents']:,} documents), p = {claim['p_holm']:.2g} for a gain of at most {claim['margin']:g}; "
        f"{slices_better(claim)}"
    )
    if claim["proven"]:
        return f"proven: {what}"
    if claim["seeds_needed"] is None:
        more = f"the gain seen does not exceed the margin and the luck of the best of {claim['rivals']}"
    else:
        more = f"if the gain seen is the true one, {claim['seeds_needed']} seeds a side would show it (power 80%)"
    return f"not proven: {what}; {more}"


def sentence_of_weights(claim: dict) -> str:
    """The one sentence of compare_weights(), which claims no more than the numbers do."""
    bounds = "no interval"
    if claim["interval"] is not None:
        low, high = claim["interval"]
        doubt = ", other documents could turn it round" if low <= 0 <= high else ""
        bounds = f"95% {low:+.4f} .. {high:+.4f}{doubt}"
    what = (
        f"{claim['new']} against {claim['old']}: gain {claim['gain']:+.4f} bpb on {claim['split']} "
        f"at these weights ({bounds}, {claim['documents']:,} documents); {slices_better(claim)}"
    )
    return f"not proven: {what}; one seed says nothing of other seeds: give at least two a side"


def slices_better(claim: dict) -> str:
    """On how many slices there is a gain; those of very few documents are not counted."""
    return f"{claim['slices_better']} of {claim['slices_counted']} slices gain"


def print_claim(claim: dict) -> None:
    """Tables of one claim."""
    print_slices(claim)
    print_tests(claim)


def print_slices(claim: dict) -> None:
    """The table of gains by slice, and what is odd about the scores that it is made of."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    title = Text(f"{terminal(claim['new'])} against {terminal(claim['old'])}")
    table = Table(box=SIMPLE, pad_edge=False, title=title, title_justify="left")
    for name in ("slice", "old bpb", "gain", "95% interval", "p", "docs"):
        table.add_column(name, justify="left" if name == "slice" else "right", no_wrap=True)
    kind = None
    for name, part in [*claim["slices"].items(), ("all", claim | {"p": claim["p_zero"]})]:
        if kind != (kind := name.split()[0]):
            table.add_section()
        table.add_row(
            Text(terminal(name, 60)),
            f"{part['old_bpb']:.4f}",
            signed_gain(part),
            "-" if part["interval"] is None else f"{part['interval'][0]:+.4f} .. {part['interval'][1]:+.4f}",
            "-" if part["p"] is None else f"{part['p']:.2g}",
            f"{part['documents']:,}",
            style="bold" if name == "all" else "",
        )
    table.caption = (
        "?: the interval holds both signs; p: of a gain of at most 0; length, position: in bytes; "
        "non-ascii: share of the characters"
    )
    Console().print(table)
    for name, share in claim["least_share_of_steps"].items():
        if share < EVEN_STEPS:
            Console().print(
                f"{terminal(name)}: one run made {1 - share:.0%} fewer steps than another in the same "
                "time: something else ran beside it; run that side again",
                highlight=False,
                markup=False,
            )
    if claim["slices_missing"]:
        Console().print(
            f"no slices by {' and '.join(claim['slices_missing'])}: some scores are of an older scorer, "
            "which did not write them; score the artifacts again",
            highlight=False,
        )


def signed_gain(part: dict) -> str:
    """A gain with its sign, and "?" where the interval does not settle the sign."""
    low, high = part["interval"] or (-1, 1)
    return f"{part['gain']:+.4f}" + ("?" if low <= 0 <= high else " ")


def print_tests(claim: dict) -> None:
    """The table of what the decision rests on."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = [
        (f"bpb of {name}, by seed", ", ".join(f"{bpb:.4f}" for bpb in claim[f"{name}_bpb_by_seed"]))
        for name in ("new", "old")
    ]
    for name in ("new", "old"):
        if claim["reproduced"][name] is not None:
            rows.append((f"{name}, trained again", Text(trained_again(claim, name))))
    if claim["p"] is not None:
        tried = "unknown: no log here" if claim["variants_tried"] is None else f"{claim['variants_tried']:,}"
        if claim["variants_stated"]:
            tried += ", as record.json states"
        rows += [
            ("seeds", Text(claim["pairing"])),
            ("standard error from seeds", f"{claim['seed_error']:.5f} bpb, {claim['df']:.1f} degrees of freedom"),
            ("standard error from documents", f"{claim['document_error']:.5f} bpb"),
            (f"p, gain <= {claim['margin']:g}", f"{claim['p']:.3g}"),
            ("standard error, bootstrap of both", f"{claim['bootstrap_error']:.5f} bpb; the larger one counts"),
            ("variants tried", tried),
            ("rivals", f"{claim['rivals']} that could have been shown instead"),
            ("luck of the best of them", f"{claim['luck_of_the_best']:.4f} bpb expected"),
            (
                "p over rivals, over claims",
                f"{claim['p_of_the_best']:.3g}, {claim['p_holm']:.3g} (limit {claim['alpha']:g})",
            ),
        ]
    rows += [
        ("slices", slices_better(claim)),
        ("machines", "the same" if claim["same_machine"] else "not the same: speed may differ, not the idea"),
    ]
    table = Table(box=SIMPLE, show_header=False)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def trained_again(claim: dict, side: str) -> str:
    """How often a side that is a record was reproduced, and what came of it."""
    found = claim["reproduced"][side]
    if not found:
        return "not reproduced yet"
    times = "once" if len(found) == 1 else f"{len(found)} times"
    mean = np.mean(claim[f"{side}_bpb_by_seed"])
    return f"reproduced {times}: mean bpb {np.mean(found):.4f} against the claim {mean:.4f}"


def print_power(claim: dict, alpha: float) -> None:
    """The gain that so many seeds a side would show, from the spread of this claim's seeds and documents."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    sd = math.sqrt(np.mean([np.var(claim[f"{side}_bpb_by_seed"], ddof=1) for side in ("new", "old")]))
    title = f"gain in bpb that is shown with power {POWER:.0%} at level {alpha:g}"
    caption = f"standard deviation of a side's seeds: {sd:.4f}; r: correlation of the two sides over equal seeds"
    table = Table(box=SIMPLE, title=title, title_justify="left", caption=Text(caption))
    for name in ("seeds a side", "unpaired", *(f"paired, r {shared:g}" for shared in CORRELATIONS)):
        table.add_column(Text(name), justify="right")
    for seeds in SEEDS:
        gains = [
            proof.detectable_gain(
                sd, claim["document_error"], claim["documents"], seeds, shared, alpha, claim["margin"]
            )
            for shared in (None, *CORRELATIONS)
        ]
        table.add_row(f"{seeds:d}", *(Text(f"{gain:.4f}") for gain in gains))
    Console().print(table)


def fraction(text: str) -> float:
    """argparse type of --alpha."""
    value = float(text)
    if not 0 < value < 1:
        raise ValueError
    return value


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0 all proven, 3 not all, 1 bad input."""
    parser = argparse.ArgumentParser(prog="golf prove", description="Is A better than B beyond luck?")
    parser.add_argument("sides", nargs="+", metavar="A B", help="pairs of records, or of RUN,RUN,... lists")
    parser.add_argument("--margin", type=float, default=MARGIN, metavar="BPB", help="default: %(default)s")
    parser.add_argument("--alpha", type=fraction, default=ALPHA, help="over all claims (default: %(default)s)")
    parser.add_argument("--rivals", type=int, help=RIVALS_HELP)
    parser.add_argument(
        "--power", action="store_true", help="also print what gain so many seeds a side would show, at this spread"
    )
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args(argv)
    if len(options.sides) % 2:
        parser.error("give pairs: A B, or A B A2 B2 for two claims")
    try:
        ledger.sync(ROOT)
        for side in options.sides:
            check_side(side)
        arms = [read_arm(side) for side in options.sides]
        claims = []
        for new, old in zip(arms[::2], arms[1::2]):
            if min(len(new.seeds), len(old.seeds)) < 2:
                claims.append(compare_weights(new, old, options.margin))
            else:
                claims.append(compare(new, old, options.margin, ROOT, options.rivals))
        conclude(claims, options.alpha)
    except (Failure, OSError) as error:
        return explain("golf prove", error)
    for claim in claims:
        print_claim(claim)
        if options.power and claim["p"] is not None:
            print_power(claim, options.alpha)
    for claim in claims:
        print(terminal(claim["sentence"], 1000))
    if options.json:
        print(json.dumps({"format": 1, "claims": claims}))
    return 0 if all(claim["proven"] for claim in claims) else NOT_PROVEN


if __name__ == "__main__":
    sys.exit(guarded("golf prove", main))
