"""How much faster train_gpt.py trains than the baseline record's plain compiled model, and where a step's time goes.

    golf bench-train
    golf bench-train --field=value ... --json     # fields for train_gpt.py alone, such as --xsa=true

Both scripts run for real, each in a child process: loader, compiled model, optimiser, clock. They train the model of
the baseline (its layers, width, heads, MLP, vocabulary, context and batch, without the techniques that came later) and
take turns of a few steps (trainers.py). The ratio is the median over rounds of the two rates of one round. After that
each is profiled for a few steps.

Not covered: loss (a faster step may learn less: compare runs of equal time), the speed of whole presets with their
stages and calibration (golf par), GPUs, several ranks.
"""

import argparse
import json
import statistics
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from golf.files import ROOT, Failure
from golf.foreign import terminal
from golf.progress import Progress
from tools.plan.trainers import trainers

BASELINE = ROOT / "records/pocket/0001_baseline/train_gpt.py"
SCRIPT = ROOT / "train_gpt.py"
DATA = ROOT / "data/embedded"  # of the baseline
PLAIN = dict(  # of train_gpt.py: every technique that costs time in a step is off
    rope_dims=0, ln_scale=False, leaky_slope=0.0, xsa=False, attn_gate=0, smear_gate=0, gated_skips=False,
    parallel_start=0, loops=0, document_mask=False, stages="", muon_polar=False, muon_row_norm=False,
)  # fmt: skip
WARM_STEPS = 5  # of the first round, not counted
OPERATORS = (  # what a profiled operator is, by a part of its name; the first that fits
    ("attention", ("scaled_dot_product",)),
    ("matrix products", ("aten::mm", "aten::bmm", "aten::addmm", "mkldnn", "onednn")),
    ("fused kernels", ("CompiledFxGraph",)),
    ("optimiser, other operators", ("Optimizer", "_fused_adam_", "_foreach", "lerp")),
)


def summarise(rows: list[tuple[str, float, float]], steps: int) -> dict:
    """Milliseconds per step by part of the step and by kind of operator. rows: what Trainer.profile() gives."""
    total = sum(itself for _, itself, _ in rows)

    def inclusive(name: str) -> float:
        return sum(in_all for operator, _, in_all in rows if operator == name)

    parts = {
        "forward": inclusive("CompiledFunction"),
        "backward": inclusive("CompiledFunctionBackward"),
        "optimiser": inclusive("optimizer step"),
    }
    kinds = dict.fromkeys([kind for kind, _ in OPERATORS] + ["other operators"], 0.0)
    for operator, itself, _ in rows:
        kind = next((kind for kind, marks in OPERATORS if any(mark in operator for mark in marks)), "other operators")
        kinds[kind] += itself
    parts["loader, clock and the rest"] = max(0.0, total - sum(parts.values()))
    scale = 1e-3 / steps
    return {"parts": {k: v * scale for k, v in parts.items()}, "operators": {k: v * scale for k, v in kinds.items()}}


def measure(baseline: Path, script: Path, fields: list[str], rounds: int, steps: int) -> dict:
    """Runs the benchmark. Rates are tokens per second; Failure if a script does not run or the data set is not here."""
    if not (DATA / "manifest.json").is_file():
        raise Failure(f"{DATA}: no such data set here, and the baseline's script trains on it: golf data embedded")

    rates: list[tuple[float, float]] = []
    endless = ["--preset=pocket", "--max_seconds=1e6"]
    with trainers(trust=True) as start, Progress() as progress:
        progress.phase("compiling (20-60 s each, the first time)", total=2, unit="scripts")
        old = start("the baseline's script", baseline, endless, DATA)
        progress.advance()
        same = [f"--{name}={value}" for name, value in (old.shape | PLAIN).items()]
        new = start("the current script", script, endless + same + fields, DATA)
        for trainer in (old, new):
            trainer.turn(WARM_STEPS)
        progress.advance()

        progress.phase("training in turn", total=rounds, unit="rounds")
        tokens = steps * old.shape["batch_tokens"]
        for number in range(rounds):
            order = (old, new) if number % 2 == 0 else (new, old)
            seconds = {trainer: trainer.turn(steps) for trainer in order}
            rates.append((tokens / seconds[old], tokens / seconds[new]))
            progress.advance()

        progress.phase("profiling")
        profiles = {
            "baseline": summarise(old.profile(steps), steps),
            "current": summarise(new.profile(steps), steps),
        }
    ratios = [new_rate / old_rate for old_rate, new_rate in rates]
    return {
        "shape": old.shape,
        "rounds": rounds,
        "steps": steps,
        "baseline_tokens_per_second": statistics.median(old_rate for old_rate, _ in rates),
        "current_tokens_per_second": statistics.median(new_rate for _, new_rate in rates),
        "ratios": ratios,
        "profile": profiles,
        "ratio": statistics.median(ratios),
    }


def show(result: dict, console: Console) -> None:
    """Prints the tables."""
    table = Table(title="milliseconds per step", title_justify="left")
    for heading in ("", "baseline", "current"):
        table.add_column(heading, justify="right" if heading else "left")
    for group in ("parts", "operators"):
        old, new = (result["profile"][name][group] for name in ("baseline", "current"))
        for key in old:
            table.add_row(Text(terminal(key)), f"{old[key]:.1f}", f"{new[key]:.1f}")
        table.add_section()
    console.print(table)
    console.print(
        f"baseline {result['baseline_tokens_per_second']:,.0f} tokens/s, current "
        f"{result['current_tokens_per_second']:,.0f}; ratio {result['ratio']:.3f} "
        f"(rounds {min(result['ratios']):.3f} to {max(result['ratios']):.3f})"
    )


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status, 0. Raises Failure if a script does not run."""
    parser = argparse.ArgumentParser(
        prog="golf bench-train",
        allow_abbrev=False,
        description=(__doc__ or "").split("\n")[0],
        epilog="--field=value goes to train_gpt.py",
    )
    parser.add_argument("--rounds", type=int, default=12, help="turns of each script (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=8, help="steps in a turn (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options, fields = parser.parse_known_args(argv)
    if min(options.rounds, options.steps) < 1:
        parser.error("--rounds and --steps must be at least 1")
    result = measure(BASELINE, SCRIPT, fields, options.rounds, options.steps)
    show(result, Console(stderr=options.json))
    if options.json:
        print(json.dumps(result))
    return 0
