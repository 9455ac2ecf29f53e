"""What each technique of train_gpt.py is worth: pairs of runs with and without it, and the table in docs/methods.md.

    python tools/methods.py run --parallel 2                # every technique that docs/techniques.toml lists: hours
    python tools/methods.py run "partial RoPE" XSA --steps 500
    python tools/methods.py table --write                   # puts the table into docs/methods.md

`run` trains the pocket preset (in rows of 256 where nothing is scored), and for each technique the preset with this
technique turned off, or on if the preset has it off, with the same seeds and steps. Steps end these runs, not a clock,
so other work on the machine changes how long they take and nothing else. They are a sweep named methods
(tools/sweep.py): what the log holds is not run again, and what was cut off goes on. What came of the pairs lies in
docs/methods.jsonl, for clones that have no log.

Not covered: techniques together; equal time, in which a slow technique gets fewer steps; what packing makes of a gain,
except for techniques that work in scoring: their runs are packed and scored. Each configuration is a variant more in
the log, and tools/prove.py asks more of later claims: use a clone of its own.
"""

import argparse
import contextlib
import itertools
import json
import math
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if not __package__:  # run as a file: import from the repository's root, not from tools/
    sys.path[0] = str(ROOT)

from rich.box import SIMPLE  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from rich.text import Text  # noqa: E402

from golf.foreign import terminal  # noqa: E402
from tools import ledger, sweep, sweep_spec  # noqa: E402
from tools.files import Failure, explain, write_atomic  # noqa: E402
from tools.techniques import (  # noqa: E402
    PRESETS, Technique, cells, effects, markdown, read_pairs, read_techniques, rewrite, write_pairs)

TECHNIQUES, PAIRS, PAGE = (ROOT / "docs" / name for name in ("techniques.toml", "methods.jsonl", "methods.md"))
PRESET = "pocket"
DEV_TOKENS = 131_072  # of an estimate
# Where nothing is packed: rows of one length (each length is a graph to compile), and next to no calibration.
SHORT = {"seq_len": 256, "stages": "", "calibration_tokens": 8192}
SAME_MACHINE = ("device", "torch", "compute", "threads", "compiled")  # in run.json, or the numbers are of two machines


def pair_of(technique: Technique, base: dict, other: dict) -> dict:
    """A line of docs/methods.jsonl from two rows of the log (with "bpb" and "cost"). Failure if they differ in more."""
    differs = [key for key in ("code", "data", "steps", "seed") if base.get(key) != other.get(key)]
    machines = [row.get("environment") or {} for row in (base, other)]
    differs += [key for key in SAME_MACHINE if machines[0].get(key) != machines[1].get(key)]
    a, b = (row.get("config") or {} for row in (base, other))
    changed = {key: [a.get(key), b.get(key)] for key in sorted({**a, **b}) if a.get(key) != b.get(key)}
    differs += [key for key in changed if key not in (*technique.on, "run_dir", "data_dir")]
    if differs or technique.is_on(a) == technique.is_on(b):
        raise Failure(f"{base['run']} and {other['run']} are no pair for {technique.name}: they differ in "
                      f"{', '.join(differs) or 'nothing'}")
    off, on = (base, other) if technique.is_on(b) else (other, base)
    return {"technique": technique.name, "seed": base["seed"], "base": "on" if base is on else "off",
            "fields": {key: [off["config"][key], on["config"][key]] for key in technique.on if key in changed},
            "code": base["code"], "data": base["data"], "steps": base["steps"],
            "machine": {key: machines[0].get(key) for key in SAME_MACHINE},
            **{side: {"run": row["run"], "row": row["hash"][:12], "bpb": row["bpb"], "seconds": row["cost"],
                      "params": row["params"]} for side, row in (("on", on), ("off", off))}}


def logged(run: sweep.Run, score: bool) -> dict:
    """The log's row of a run that is done, with its objective as "bpb", and "cost": seconds of training or scoring."""
    rows = [json.loads(row["body"]) for row in ledger.query(
        ROOT, "SELECT body FROM rows WHERE run = ? AND kind IN ('run', 'score') ORDER BY n", (run.holder,))]
    last = {row["kind"]: row for row in rows}
    phase = "score" if score else "train"
    try:
        cost = last["score" if score else "run"]["clock"][phase]
        return last["run"] | {"bpb": run.value, "cost": cost}
    except (KeyError, TypeError):
        raise Failure(f"{run.holder}: its rows in the log do not say how long it took to {phase}") from None


def spec_of(options: argparse.Namespace, points: list[dict], score: bool) -> sweep_spec.Spec:
    """The sweep: the preset itself, and each of `points`."""
    return sweep_spec.Spec(
        path=TECHNIQUES, name="methods", hypothesis="Each technique of docs/methods.md lowers bpb by itself.",
        who="both", search="grid", seeds=options.seeds, space={}, points=({}, *points), stop_margin=math.inf,
        parallel=1 if score else options.parallel, objective="packed" if score else "dev_estimate",  # scoring is timed
        fixed={"preset": PRESET, "max_seconds": 0.0, "max_steps": options.steps, "checkpoint_every": 0,
               "dev_tokens": DEV_TOKENS, "dev_evals": 1} | ({} if score else SHORT))


def collect(techniques: list[Technique], runner: sweep.Sweep) -> tuple[list[dict], dict]:
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
    """Runs what the log lacks and updates docs/methods.jsonl, even if interrupted: what --json shows, exit code."""
    every, pairs, problems = read_techniques(TECHNIQUES), [], {}
    names = [each.name for each in every if not each.dropped]
    for name in options.technique:
        if name not in names:
            raise Failure(f"no technique {name!r} to run in {TECHNIQUES}{sweep_spec.nearest(name, names)}")
    read_pairs(PAIRS, every)  # what is wrong with it is better known now than in some hours
    (ROOT / "runs" / "scripts").mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sweep_spec.Script(ROOT / "train_gpt.py", ROOT)) as script, \
            sweep.only_one(ROOT / "runs" / "sweeps" / "methods"):
        chosen = [each for each in every if each.name in (options.technique or names)]
        problems |= {each.name: f"not in the script: {', '.join(missing)}" for each in chosen
                     if (missing := each.missing(script.defaults))}
        chosen = [each for each in chosen if each.name not in problems]
        for score in (False, True):
            part = [each for each in chosen if each.score == score]
            if not part:
                continue
            base = script.resolve(spec_of(options, [], score).fixed)
            points = [dict(each.off if each.is_on(base) else each.on) for each in part]
            runner = sweep.Sweep(spec_of(options, points, score), script, "local", dry=False)
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
    """Prints the table, and writes it into docs/methods.md if asked: what --json shows, exit code."""
    techniques = read_techniques(TECHNIQUES)
    pairs = read_pairs(PAIRS, techniques)
    with contextlib.closing(sweep_spec.Script(ROOT / "train_gpt.py", ROOT)) as script:
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
    """Returns the exit code: 0; 1 if a technique has no pairs or the input is bad; 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="tools/methods.py", formatter_class=argparse.RawDescriptionHelpFormatter,
                                     description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("run", help="run the pairs that the log lacks")
    command.add_argument("technique", nargs="*", help="names in docs/techniques.toml; none: all")
    command.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    command.add_argument("--steps", type=int, default=1000)
    command.add_argument("--parallel", type=int, default=1, help="runs at once, each with its share of the cores; "
                         "the same for all, as runs with other numbers of threads are no pairs")
    command.add_argument("--json", action="store_true", help="end with one JSON object")
    command = commands.add_parser("table", help="print the table")
    command.add_argument("--write", action="store_true", help="put it into docs/methods.md")
    command.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args(argv)
    if options.command == "run" and (min(options.steps, options.parallel) < 1 or
                                     len(set(options.seeds)) < len(options.seeds)):
        parser.error("--steps and --parallel are at least 1, --seeds are different")
    os.chdir(ROOT)  # where jobs start
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        summary, code = run(options) if options.command == "run" else table(options)
    except (Failure, OSError) as error:
        return explain("methods.py", error)
    except KeyboardInterrupt:
        print("methods.py: interrupted: start it again to go on", file=sys.stderr)
        return 130
    if code:
        print(f"methods.py: no pairs for {terminal(', '.join(summary['problems']))} (see above)", file=sys.stderr)
    if options.json:
        print(json.dumps(summary))
    return code


if __name__ == "__main__":
    sys.exit(main())
