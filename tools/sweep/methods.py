"""What each technique of train_gpt.py is worth: pairs of runs with and without it, and the table in docs/techniques.md.

    golf methods run --parallel 2                # every technique that docs/techniques.toml lists: hours
    golf methods run "partial RoPE" XSA --steps 500
    golf methods table --write                   # puts the table into docs/techniques.md

`run` trains the pocket preset (in rows of 256 where nothing is scored), and for each technique the preset with this
technique turned off, or on if the preset has it off, with the same seeds and steps. Steps end these runs, not a clock,
so other work on the machine changes how long they take and nothing else. They are a sweep named methods
(golf sweep): what the log holds is not run again, and what was cut off goes on. What came of the pairs lies in
docs/techniques.jsonl, for clones that have no log.

Not covered: techniques together; equal time, in which a slow technique gets fewer steps; what packing makes of a gain,
except for techniques that work in scoring: their runs are packed and scored. Each configuration is a variant more in
the log, and golf prove asks more of later claims: use a clone of its own.
"""

import argparse
import contextlib
import itertools
import json
import math
import os
import sys

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from golf.files import ROOT, Failure, write_atomic
from golf.foreign import terminal
from tools.runs import ledger
from tools.runs.store import body_of
from tools.sweep import engine
from tools.sweep.configuration import Run
from tools.sweep.spec import Script, Spec, nearest
from tools.sweep.techniques import (
    PRESETS,
    Technique,
    cells,
    effects,
    markdown,
    read_pairs,
    read_techniques,
    rewrite,
    write_pairs,
)

TECHNIQUES, PAIRS, PAGE = (ROOT / "docs" / name for name in ("techniques.toml", "techniques.jsonl", "techniques.md"))
PRESET = "pocket"
DEV_TOKENS = 131_072  # of an estimate
# Where nothing is packed: rows of one length (each length is a graph to compile), and next to no calibration.
SHORT = {"seq_len": 256, "stages": "", "calibration_tokens": 8192}
SAME_MACHINE = ("device", "torch", "compute", "threads", "compiled")  # in run.json, or the numbers are of two machines


def pair_of(technique: Technique, base: dict, other: dict) -> dict:
    """A line of docs/techniques.jsonl from two rows of the log (with "bpb", "cost"). Failure if they differ in more."""
    differs = [key for key in ("code", "data", "steps", "seed") if base.get(key) != other.get(key)]
    machines = [row.get("environment") or {} for row in (base, other)]
    differs += [key for key in SAME_MACHINE if machines[0].get(key) != machines[1].get(key)]
    a, b = (row.get("config") or {} for row in (base, other))
    changed = {key: [a.get(key), b.get(key)] for key in sorted({**a, **b}) if a.get(key) != b.get(key)}
    differs += [key for key in changed if key not in (*technique.on, "run_dir", "data_dir")]
    if differs or technique.is_on(a) == technique.is_on(b):
        raise Failure(
            f"{base['run']} and {other['run']} are no pair for {technique.name}: they differ in "
            f"{', '.join(differs) or 'nothing'}"
        )
    off, on = (base, other) if technique.is_on(b) else (other, base)
    return {
        "technique": technique.name,
        "seed": base["seed"],
        "base": "on" if base is on else "off",
        "fields": {key: [off["config"][key], on["config"][key]] for key in technique.on if key in changed},
        "code": base["code"],
        "data": base["data"],
        "steps": base["steps"],
        "machine": {key: machines[0].get(key) for key in SAME_MACHINE},
        **{
            side: {
                "run": row["run"],
                "row": row["hash"][:12],
                "bpb": row["bpb"],
                "seconds": row["cost"],
                "params": row["params"],
            }
            for side, row in (("on", on), ("off", off))
        },
    }


def logged(run: Run, score: bool) -> dict:
    """The log's row of a run that is done, with its objective as "bpb", and "cost": seconds of training or scoring."""
    rows = [
        body_of(row)
        for row in ledger.query(
            ROOT, "SELECT body FROM rows WHERE run = ? AND kind IN ('run', 'score') ORDER BY n", (run.holder,)
        )
    ]
    last = {row["kind"]: row for row in rows}
    phase = "score" if score else "train"
    try:
        cost = last["score" if score else "run"]["clock"][phase]
        return last["run"] | {"bpb": run.value, "cost": cost}
    except (KeyError, TypeError):
        raise Failure(f"{run.holder}: its rows in the log do not say how long it took to {phase}") from None


def spec_of(options: argparse.Namespace, points: list[dict], score: bool) -> Spec:
    """The sweep: the preset itself, and each of `points`."""
    return Spec(
        path=TECHNIQUES,
        name="methods",
        hypothesis="Each technique of docs/techniques.md lowers bpb by itself.",
        who="both",
        search="grid",
        seeds=options.seeds,
        space={},
        points=({}, *points),
        stop_margin=math.inf,
        parallel=1 if score else options.parallel,
        objective="packed" if score else "dev_estimate",  # scoring is timed
        fixed={
            "preset": PRESET,
            "max_seconds": 0.0,
            "max_steps": options.steps,
            "checkpoint_every": 0,
            "dev_tokens": DEV_TOKENS,
            "dev_evals": 1,
        }
        | ({} if score else SHORT),
    )


def collect(techniques: list[Technique], runner: engine.Sweep) -> tuple[list[dict], dict]:
    """(pairs, {technique: what is in the way}) of a sweep, `techniques` its points after the first, the base.

    A technique has all of its pairs or none.
    """
    pairs, problems = [], {}
    for each, configuration in itertools.zip_longest(techniques, runner.configurations[1:]):
        if configuration is None:
            problems[each.name] = "not reached yet"
        elif configuration.error:
            problems[each.name] = f"refused: {configuration.error}"
        else:
            both = list(zip(runner.configurations[0].runs, configuration.runs))
            bad = [run for pair in both for run in pair if run.value is None]
            if bad:
                problems[each.name] = f"{bad[0].name} {bad[0].status}" + f": {bad[0].error}" * bool(bad[0].error)
                continue
            try:
                pairs += [pair_of(each, *(logged(run, each.score) for run in pair)) for pair in both]
            except Failure as error:
                problems[each.name] = str(error)
    return pairs, problems


def run(options: argparse.Namespace) -> tuple[dict, int]:
    """Runs what the log lacks and updates docs/techniques.jsonl, even if interrupted: what --json shows, status."""
    every = read_techniques(TECHNIQUES)
    pairs: list[dict] = []
    problems: dict[str, str] = {}
    names = [each.name for each in every if not each.dropped]
    for name in options.technique:
        if name not in names:
            raise Failure(f"no technique {name!r} to run in {TECHNIQUES}{nearest(name, names)}")
    read_pairs(PAIRS, every)  # what is wrong with it is better known now than in some hours
    (ROOT / "runs" / "scripts").mkdir(parents=True, exist_ok=True)
    with (
        contextlib.closing(Script(ROOT / "train_gpt.py", ROOT)) as script,
        engine.only_one(ROOT / "runs" / "sweeps" / "methods"),
    ):
        chosen = [each for each in every if each.name in (options.technique or names)]
        problems |= {
            each.name: f"not in the script: {', '.join(missing)}"
            for each in chosen
            if (missing := each.missing(script.defaults))
        }
        chosen = [each for each in chosen if each.name not in problems]
        for score in (False, True):
            part = [each for each in chosen if each.score == score]
            if not part:
                continue
            base = script.resolve(spec_of(options, [], score).fixed)
            points = [dict(each.off if each.is_on(base) else each.on) for each in part]
            runner = engine.Sweep(spec_of(options, points, score), script, "local", dry=False)
            try:
                runner.work()
            finally:
                new, why = collect(part, runner)
                if new:
                    write_pairs(PAIRS, new, every)
                pairs, problems = pairs + new, problems | why
    for name, text in problems.items():
        print(f"{terminal(name)}: {terminal(text)}")
    print(f"{PAIRS}: {len(pairs)} pairs of {len({pair['technique'] for pair in pairs})} techniques")
    return {"format": 1, "pairs": pairs, "problems": problems}, 1 if problems else 0


def table(options: argparse.Namespace) -> tuple[dict, int]:
    """Prints the table, and writes it into docs/techniques.md if asked: what --json shows, exit status."""
    techniques = read_techniques(TECHNIQUES)
    pairs = read_pairs(PAIRS, techniques)
    with contextlib.closing(Script(ROOT / "train_gpt.py", ROOT)) as script:
        rows = effects(techniques, pairs, {name: script.resolve({"preset": name}) for name in PRESETS})
    if options.write:
        write_atomic(PAGE, rewrite(PAGE.read_text(encoding="utf-8"), markdown(rows, pairs)).encode())
    shown = Table(box=SIMPLE, pad_edge=False)
    for name in ("technique", "measured change of bpb", "time", "bytes", *PRESETS):
        shown.add_column(Text(name), justify="right" if name in ("time", "bytes") else "left")
    for row in rows:
        shown.add_row(*(Text(terminal(cell)) for cell in (row["name"], *cells(row))))
    Console().print(shown)
    return {"format": 1, "techniques": rows, "written": options.write}, 0


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 if a technique has no pairs. Raises Failure."""
    parser = argparse.ArgumentParser(
        prog="golf methods", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("run", help="run the pairs that the log lacks")
    command.add_argument("technique", nargs="*", help="names in docs/techniques.toml; none: all")
    command.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    command.add_argument("--steps", type=int, default=1000)
    command.add_argument(
        "--parallel",
        type=int,
        default=1,
        help="runs at once, each with its share of the cores; "
        "the same for all, as runs with other numbers of threads are no pairs",
    )
    command.add_argument("--json", action="store_true", help="end with one JSON object")
    command = commands.add_parser("table", help="print the table")
    command.add_argument("--write", action="store_true", help="put it into docs/techniques.md")
    command.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args(argv)
    if options.command == "run" and (
        min(options.steps, options.parallel) < 1 or len(set(options.seeds)) < len(options.seeds)
    ):
        parser.error("--steps and --parallel are at least 1, --seeds are different")
    os.chdir(ROOT)  # where jobs start
    try:
        summary, status = run(options) if options.command == "run" else table(options)
    except KeyboardInterrupt:
        raise Failure("interrupted: start it again to go on", code=130) from None
    if status:
        print(f"golf methods: no pairs for {terminal(', '.join(summary['problems']))} (see above)", file=sys.stderr)
    if options.json:
        print(json.dumps(summary))
    return status
