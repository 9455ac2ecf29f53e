"""How much faster train_gpt.py trains than the baseline record's plain compiled model, and where a step's time goes.

    golf bench-train
    golf bench-train --field=value ... --json     # fields for train_gpt.py alone, such as --xsa=true

Both scripts run for real, each in a child process: loader, compiled model, optimiser, clock. They train the model of
the baseline (its layers, width, heads, MLP, vocabulary, context and batch, without the techniques that came later) and
take turns of a few steps, so that whatever else the machine does hits both alike. The ratio is the median over rounds
of the two rates of one round. After that each is profiled for a few steps.

Not covered: loss (a faster step may learn less: compare runs of equal time), GPUs, several ranks.
"""

import argparse
import ast
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from golf.files import ROOT, Failure
from golf.foreign import terminal
from golf.progress import Progress

BASELINE = ROOT / "records/pocket/0001_baseline/train_gpt.py"
SCRIPT = ROOT / "train_gpt.py"
DATA = "data/embedded"  # of the baseline
SHAPE = ("vocab_size", "seq_len", "num_layers", "model_dim", "num_heads", "num_kv_heads", "mlp_mult", "batch_tokens",
         "micro_batch_tokens")  # fmt: skip
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


def load(script: Path) -> dict:
    """The script's globals, as when it is run, without its last statement, which would start main()."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    if not isinstance(tree.body[-1], ast.If):
        raise Failure(f"{script}: does not end with `if __name__ == ...`: not a training script of this kit")
    tree.body.pop()
    names = {"__name__": "__main__", "__file__": str(script)}
    exec(compile(tree, str(script), "exec"), names)
    return names


def child(script: Path, arguments: list[str]) -> None:
    """Trains, a turn at a time. Each line on stdin is a number of steps, negative for a profiled turn; each turn is
    answered by a line of JSON: seconds of its steps, or what the profiler saw."""
    channel = sys.stdout
    sys.stdout = sys.stderr  # the script's own log
    names = load(script)
    left, started, profiler = 0, 0.0, None
    lengths: list[float] = []

    def say(value) -> None:
        channel.write(json.dumps(value) + "\n")
        channel.flush()

    def take_turn() -> None:
        nonlocal left, started, profiler
        turn = sys.stdin.readline()
        if not turn:
            raise SystemExit
        left, lengths[:] = abs(int(turn)), []
        if int(turn) < 0:
            from torch.profiler import ProfilerActivity, profile

            profiler = profile(activities=[ProfilerActivity.CPU])
            profiler.__enter__()
        started = time.perf_counter()

    def tick(clock) -> None:
        """Stands in for Clock.tick, which the script calls after each step. The clock never moves on."""
        nonlocal left, started, profiler
        now = time.perf_counter()
        lengths.append(now - started)
        started, left = now, left - 1
        if left:
            return
        if profiler:
            profiler.__exit__(None, None, None)
            say(summarise(profiler, len(lengths)))
            profiler = None
        else:
            say(lengths)
        take_turn()

    names["Clock"].tick = tick
    step = names["Optimizers"].step

    def optimise(self, *positional, **named):
        from torch.profiler import record_function

        with record_function("optimizer step"):
            return step(self, *positional, **named)

    names["Optimizers"].step = optimise
    config = names["parse_config"](arguments, {})
    say({name: getattr(config, name) for name in SHAPE})

    def start(clock) -> None:  # the script calls it once, when compiling and warming up are over
        take_turn()

    names["Clock"].start = start
    sys.exit(names["main"](arguments))


def summarise(profiler, steps: int) -> dict:
    """Milliseconds per step by part of the step and by kind of operator."""
    rows = profiler.key_averages()
    total = sum(row.self_cpu_time_total for row in rows)

    def inclusive(name: str) -> float:
        return sum(row.cpu_time_total for row in rows if row.key == name)

    parts = {
        "forward": inclusive("CompiledFunction"),
        "backward": inclusive("CompiledFunctionBackward"),
        "optimiser": inclusive("optimizer step"),
    }
    kinds = dict.fromkeys([kind for kind, _ in OPERATORS] + ["other operators"], 0.0)
    for row in rows:
        kind = next((kind for kind, marks in OPERATORS if any(mark in row.key for mark in marks)), "other operators")
        kinds[kind] += row.self_cpu_time_total
    parts["loader, clock and the rest"] = max(0.0, total - sum(parts.values()))
    scale = 1e-3 / steps
    return {"parts": {k: v * scale for k, v in parts.items()}, "operators": {k: v * scale for k, v in kinds.items()}}


class Trainer:
    """A child that trains when told to."""

    def __init__(self, name: str, script: Path, arguments: list[str], folder: Path):
        self.name, self.log = name, folder / f"{name}.txt"
        command = [
            sys.executable,
            "-m",
            "tools.plan.bench_train",
            str(script),
            "--preset=pocket",
            "--max_seconds=1e6",
            f"--data_dir={DATA}",
            f"--run_dir={folder / name}",
            *arguments,
        ]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT
            )
        assert self.process.stdin and self.process.stdout
        self.questions, self.answers = self.process.stdin, self.process.stdout
        self.shape = self.answer()

    def answer(self):
        """What the child says next. Raises Failure if it has ended."""
        line = self.answers.readline()
        if not line:
            last = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:] or ["no output"]
            raise Failure(f"the {self.name} script ended early: {last[0]}")
        return json.loads(line)

    def turn(self, steps: int):
        """Seconds of each step; a profile when `steps` is negative."""
        with contextlib.suppress(BrokenPipeError):  # it has ended: answer() says why
            self.questions.write(f"{steps}\n")
            self.questions.flush()
        return self.answer()

    def stop(self) -> None:
        """Ends the child."""
        self.process.kill()
        self.process.communicate()


def measure(baseline: Path, script: Path, fields: list[str], rounds: int, steps: int) -> dict:
    """Runs the benchmark. Rates are tokens per second; Failure if a script does not run."""
    trainers: list[Trainer] = []
    rates: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory(prefix="bench_train_") as folder, Progress() as progress:
        try:
            progress.phase("compiling (20-60 s each, the first time)", total=2, unit="scripts")
            trainers.append(Trainer("baseline", baseline, [], Path(folder)))
            shape = trainers[0].shape
            trainers[0].turn(WARM_STEPS)
            progress.advance()
            same = [f"--{name}={value}" for name, value in (shape | PLAIN).items()]
            trainers.append(Trainer("current", script, same + fields, Path(folder)))
            trainers[1].turn(WARM_STEPS)

            progress.phase("training in turn", total=rounds, unit="rounds")
            for number in range(rounds):
                order = (0, 1) if number % 2 == 0 else (1, 0)
                taken = {i: statistics.median(trainers[i].turn(steps)) for i in order}
                rates.append((shape["batch_tokens"] / taken[0], shape["batch_tokens"] / taken[1]))
                progress.advance()

            progress.phase("profiling")
            profiles = {trainer.name: trainer.turn(-steps) for trainer in trainers}
        finally:
            for trainer in trainers:
                trainer.stop()
    ratios = [new / old for old, new in rates]
    return {
        "shape": shape,
        "rounds": rounds,
        "steps": steps,
        "baseline_tokens_per_second": statistics.median(old for old, _ in rates),
        "current_tokens_per_second": statistics.median(new for _, new in rates),
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


if __name__ == "__main__":  # the process of one script
    child(Path(sys.argv[1]), sys.argv[2:])
