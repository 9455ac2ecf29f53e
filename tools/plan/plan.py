"""What a run will need and give, before anything is rented: parameters, FLOPs, memory, step time, bytes, price.

    golf plan --preset=16mb --dollars-per-hour=24
    golf plan --preset=16mb --num_layers=13 --gpus=1 --json
    golf plan --preset=pocket                # on this machine's CPU
    golf plan --validate                     # how far the step-time model is off on records it has not seen

All arguments but the tool's own go to `train_gpt.py --dry-run`, whose numbers it takes. GPU times come from
step_time.py, fitted on logs of the public challenge; CPU times from the newest run of the same script and shape in
runs/ on this machine, else from five seconds of training.

Not covered: bpb; GPUs that step_time.py does not list.
"""

import argparse
import difflib
import functools
import json
import math
import platform
import statistics
import subprocess
import sys

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from golf import temporary
from golf.files import ROOT, Failure, read_json, sha256_file
from golf.foreign import terminal
from golf.progress import Progress
from golf.tracks import TRACKS
from tools.plan import step_time
from tools.plan.dry_run import code_bytes, dry_run

SPARE_MEMORY = 0.05  # of a GPU, which the script keeps free when it tries what fits
MAX_ERROR = 0.08  # of the step-time model, over records left out
# Seconds of the clock per token of calibration: 3.4 to 4.7 s for the Hessians of PR #1626 to #1855, 12 to 22 s for
# 131,072 tokens in records 0003 and 0004
CALIBRATION = {"pocket": 1.5e-4, "2mb": 2e-5, "16mb": 2e-5, "open": 2e-5}
# Beside the clock: start, compiling, warm-up, packing, scoring. A guess: nobody has run this script on GPUs yet.
OTHER_SECONDS = (300, 1800)
# docs/coder.md, "Measured": weights of two models, and bytes of their files at four losses (KL, bits per byte)
LOSSES = (0.0025, 0.008, 0.015, 0.03)
PACKED = ((469_554, (287_887, 241_877, 217_447, 193_023)), (251_274, (149_727, 125_807, 112_775, 99_890)))
OTHER_BYTES = 12_745  # of these files that are not weights: script, decoder, tokenizer, header
CODED_BYTES_PER_PIECE = 2.6  # of a tokenizer
SAMPLE_SECONDS = 5

# ----------------------------------------------------------------------------------------------------------------------
# Bytes


def bits_at(loss: float) -> tuple[float, float]:
    """Bits per weight, least and most of the measured models, at a loss measured in docs/coder.md."""
    bits = [8 * (sizes[LOSSES.index(loss)] - OTHER_BYTES) / weights for weights, sizes in PACKED]
    return min(bits), max(bits)


def packing_loss(bits: float) -> tuple[float, float]:
    """Rise of bpb from packing at so many bits per weight, least and most of the measured models.

    The logarithm of the loss is taken as linear in bits; outside 2.8 to 4.7 bits, where it was measured, that is a
    guess.
    """
    losses = []
    for weights, sizes in PACKED:
        points = [(8 * (size - OTHER_BYTES) / weights, math.log(loss)) for loss, size in zip(LOSSES, sizes)]
        (x0, y0), (x1, y1) = min(points), max(points)
        losses.append(math.exp(y0 + (y1 - y0) * (bits - x0) / (x1 - x0)))
    return min(losses), max(losses)


def plan_bytes(config: dict, params: int, code: int) -> dict:
    """The artifact: `compress pack` fills the cap, so the question is how many bits are left for a weight."""
    cap = TRACKS[config["track"]].cap_bytes
    other = code + CODED_BYTES_PER_PIECE * config["vocab_size"]
    bits = min(8.0, 8 * (cap - other) / params)
    low, high = packing_loss(bits) if bits > 0 else (math.inf, math.inf)
    return {
        "cap_bytes": cap,
        "code_bytes": code,
        "artifact_bytes": round(other + max(0.0, bits) * params / 8),
        "bits_per_weight": round(bits, 3),
        "packing_loss_bpb": [round(low, 5), round(high, 5)],
        "bytes_at_loss_0.008": [round(other + params * b / 8) for b in bits_at(0.008)],
    }


# ----------------------------------------------------------------------------------------------------------------------
# Time


def layers_of(config: dict, stage: dict) -> int:
    """Layer applications: one that loops counts each time."""
    looped = config["loop_last"] - config["loop_first"] + 1 if stage["loops"] else 0
    return config["num_layers"] + stage["loops"] * looped


def gpu_step(config: dict, stage: dict, attention: str) -> step_time.Step:
    """A step of a stage on one GPU; attention: sdpa (what torch has of itself) or fa3."""
    micro = stage["rows"] * config["seq_len"]
    return step_time.Step(
        tokens=micro * stage["accumulate"],
        micro_tokens=micro,
        layers=layers_of(config, stage),
        model_dim=config["model_dim"],
        kv_share=config["num_kv_heads"] / config["num_heads"],
        mlp_mult=config["mlp_mult"],
        vocab_size=config["vocab_size"],
        embed_dim=config["model_dim"],
        seq_len=stage["length"],
        attention=attention + "_varlen" * bool(config.get("document_mask")),
    )


def counts(config: dict, stages: list[dict], step_seconds: list[float]) -> dict:
    """Seconds, steps and tokens of the run, from the seconds of a step in each stage.

    A stage ends at its fraction of the clock, of max_steps or of max_tokens, whichever comes first, as in the script.
    """
    clock = math.inf
    if config["max_seconds"] > 0:
        clock = max(0.0, config["max_seconds"] - CALIBRATION[config["track"]] * config["calibration_tokens"])
    max_steps = config["max_steps"] or math.inf
    max_tokens = config.get("max_tokens") or math.inf  # scripts of older records have no such field
    seconds, steps, tokens = 0.0, 0.0, 0.0
    for stage, each in zip(stages, step_seconds):
        left_by_limit = (
            (stage["until"] * clock - seconds) / each,
            stage["until"] * max_steps - steps,
            (stage["until"] * max_tokens - tokens) / stage["tokens"],
        )
        count = max(0.0, min(left_by_limit))
        seconds, steps, tokens = seconds + count * each, steps + count, tokens + count * stage["tokens"]
    return {"seconds": round(seconds, 1), "steps": int(steps), "tokens": int(tokens)}


@functools.cache
def fitted() -> tuple:
    """The public facts; coefficients and spread of the model of time; the same of the model of memory."""
    points = step_time.read_points()
    time, memory = step_time.fit(points), step_time.fit_memory(points)
    return points, time, step_time.validate(points)["spread"], memory, step_time.memory_spread(points)


def fitting_rows(stages: list[dict], bytes_per_row: float, room: float) -> int:
    """Rows of the largest forward once the script has halved them until they fit into `room` bytes; 0 if none fits.

    It takes the most rows that divide those of a step (Stage.within in train_gpt.py).
    """
    largest = max(stages, key=lambda stage: stage["rows"])
    total, rows = largest["rows"] * largest["accumulate"], largest["rows"]
    while rows and rows * bytes_per_row > room:
        rows = max((n for n in range(1, rows // 2 + 1) if total % n == 0), default=0)
    return rows


def plan_gpus(config: dict, stages: list[dict], traced_bytes: int, kind: str = "H100") -> dict:
    """Memory, step time by stage, steps and tokens on GPUs of a kind, for either attention kernel."""
    points, coefficients, factor, memory_coefficients, memory_factor = fitted()
    gpu = step_time.GPUS[kind]
    speeds = {}
    for attention in ("sdpa", "fa3"):
        steps = [gpu_step(config, stage, attention) for stage in stages]
        ms = [step_time.predict(coefficients, step) / gpu.speed for step in steps]
        low, planned, high = (counts(config, stages, [f * m / 1e3 for m in ms]) for f in (factor, 1.0, 1 / factor))
        speeds[attention] = {
            "step_ms": [round(m, 2) for m in ms],
            "step_ms_interval": [[round(m / factor, 2), round(m * factor, 2)] for m in ms],
            "tflops_per_gpu": [round(step_time.matrix_flops(s) * s.tokens / m / 1e9, 1) for s, m in zip(steps, ms)],
            **planned,
            "steps_interval": [low["steps"], high["steps"]],
            "tokens_interval": [low["tokens"], high["tokens"]],
        }
    mib = max(float(step_time.memory_features(step) @ memory_coefficients) for step in steps)
    most_rows = max(stage["rows"] for stage in stages)
    rows = fitting_rows(stages, mib * 2**20 * memory_factor / most_rows, (1 - SPARE_MEMORY) * gpu.memory_bytes)
    memory = [round(mib * 2**20 * f * rows / most_rows) for f in (1 / memory_factor, 1.0, memory_factor)]
    warnings = []
    if not rows:
        warnings.append(f"not even one row may fit in {gpu.memory_bytes / 1e9:.0f} GB: make the model smaller")
    elif rows < most_rows:
        warnings.append(
            f"forwards of {most_rows * config['seq_len']:,} tokens may not fit in {gpu.memory_bytes / 1e9:.0f} GB: "
            f"the run will then halve --micro_batch_tokens by itself, here to {rows * config['seq_len']:,}"
        )
    if kind != "H100":
        warnings.append(f"{gpu.speed:g} times the speed of an H100 by {gpu.basis}")
    widths = {p.step.model_dim for p in points}
    if config["model_dim"] not in widths:
        warnings.append(
            f"no public log is {config['model_dim']} wide, only {sorted(widths)}: intervals may be too narrow"
        )
    return {
        "gpus": round(stages[-1]["tokens"] / steps[-1].tokens),
        "gpu_kind": kind,
        "micro_batch_tokens": rows * config["seq_len"],
        "stages": [stage | {"layers": step.layers} for stage, step in zip(stages, steps)],
        "memory_bytes": memory[1],
        "memory_interval": [memory[0], memory[2]],
        "memory_traced_bytes": traced_bytes,
        "coverage": step_time.COVERAGE,
        "speed": speeds,
        "warnings": warnings,
    }


def same_run(run: dict, config: dict, script_sha256: str) -> bool:
    """Whether a run.json is of this script, this machine and a step of this shape."""
    kept = {"seed", "run_dir", "data_dir", "max_seconds", "max_steps", "max_tokens", "dev_evals", "dev_tokens"}
    kept |= {"calibration_tokens"}
    return (
        run["source_sha256"] == script_sha256
        and run["environment"]["platform"] == platform.platform()
        and run["world_size"] == 1
        and run["steps"] >= 20
        and all(run["config"].get(key) == value for key, value in config.items() if key not in kept)
    )


def runs_like(config: dict) -> list[dict]:
    """The run.json of runs/ that are as same_run() says, newest first. Files that cannot be read are passed over."""
    script, found = sha256_file(ROOT / "train_gpt.py"), []
    for path in sorted((ROOT / "runs").glob("*/run.json"), key=lambda p: p.stat().st_mtime, reverse=True):
        try:
            run = read_json(
                path, ("source_sha256", "environment", "world_size", "steps", "config", "tokens_per_second")
            )
            found += [run] * same_run(run, config, script)
        except (Failure, KeyError, TypeError):
            continue
    return found


def sample(arguments: list[str], config: dict) -> dict:
    """run.json of SAMPLE_SECONDS of training here, in a folder that goes away; compiling comes on top."""
    with temporary.folder("sample") as folder:
        command = [
            sys.executable,
            "train_gpt.py",
            *arguments,
            f"--max_seconds={SAMPLE_SECONDS}",
            "--max_steps=0",
            "--max_tokens=0",
            f"--run_dir={folder}/run",
            "--dev_evals=1",
            f"--dev_tokens={config['micro_batch_tokens']}",
            f"--calibration_tokens={config['micro_batch_tokens']}",
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"training ended with exit code {done.returncode}"]
            raise Failure(f"no run of this script and shape in runs/ to go by, and a sample failed: {lines[-1]}")
        return read_json(folder / "run" / "run.json", ("tokens_per_second", "steps"))


def plan_cpu(arguments: list[str], config: dict, stages: list[dict]) -> dict:
    """Steps and tokens on this machine's CPU, and what they were measured on: a mean over the stages."""
    runs = runs_like(config)
    if runs:
        rates = [run["tokens_per_second"] for run in runs]
        basis = f"{len(runs)} such run(s) in runs/, last {runs[0]['id']}"
    else:
        with Progress() as progress:
            progress.phase(f"training for {SAMPLE_SECONDS} s, after compiling (20 to 60 s the first time)")
            rates = [sample(arguments, config)["tokens_per_second"]]
        basis = f"{SAMPLE_SECONDS} s of training just now"
    # Runs of one shape differed by 7% on one quiet machine (records/pocket/0001_baseline); how well a few seconds stand
    # for ten minutes was not measured, so that factor is a guess
    factor = 1.07 if runs else 1.25
    low, planned, high = (
        counts(config, stages, [stage["tokens"] / rate for stage in stages])
        for rate in (min(rates) / factor, rates[0], max(rates) * factor)
    )
    return {
        "basis": basis,
        "tokens_per_second": rates[0],
        "step_ms": [round(1e3 * stage["tokens"] / rates[0], 2) for stage in stages],
        **planned,
        "steps_interval": [low["steps"], high["steps"]],
        "tokens_interval": [low["tokens"], high["tokens"]],
    }


# ----------------------------------------------------------------------------------------------------------------------
# The command


def make_plan(arguments: list[str], gpus: int | None, dollars_per_hour: float | None, kind: str | None = None) -> dict:
    """Everything that print_plan() shows; kind: of the GPUs. Raises Failure."""
    with Progress() as progress:
        progress.phase("tracing a step of the configuration")
        numbers, config, stages = dry_run(arguments, gpus)
        code = code_bytes()
    plan = {
        "format": 1,
        "preset": config["preset"],
        "track": config["track"],
        "params": numbers["params"],
        "flops_per_token": numbers["flops_per_token"],
        "flops_per_step": numbers["flops_per_step"],
        **plan_bytes(config, numbers["params"], code),
        "warnings": [],
    }
    if plan["bits_per_weight"] < 1:
        raise Failure(
            f"{plan['params']:,} weights do not fit under {plan['cap_bytes']:,} bytes: make the model smaller"
        )
    if config["track"] == "pocket" and gpus is None and kind is None:
        plan["cpu"] = plan_cpu(arguments, config, stages)
    else:
        plan |= plan_gpus(config, stages, numbers["memory_per_gpu_bytes"], kind or "H100")
    if plan["packing_loss_bpb"][1] < LOSSES[0]:
        fit = int(plan["params"] * plan["bits_per_weight"] / statistics.fmean(bits_at(0.008)))
        plan["warnings"].append(f"small for the cap, which holds about {fit:,} weights at a packing loss of 0.008 bpb")
    if dollars_per_hour is not None:
        seconds = plan["cpu"]["seconds"] if "cpu" in plan else max(s["seconds"] for s in plan["speed"].values())
        seconds = config["max_seconds"] or seconds
        plan["dollars"] = round(dollars_per_hour * seconds / 3600, 2)
        plan["dollars_with_the_rest"] = [round(dollars_per_hour * (seconds + s) / 3600, 2) for s in OTHER_SECONDS]
    return plan


def print_plan(plan: dict, console: Console) -> None:
    """Prints the table of make_plan(), and its warnings on standard error."""
    table = Table(box=SIMPLE, pad_edge=False)
    for name in ("", "planned", "interval", "from"):
        table.add_column(Text(name), justify="right" if name in ("planned", "interval") else "left")

    def row(name, value, interval=None, basis="", form="{:,.0f}"):
        limits = " to ".join(form.format(v) for v in interval or [])
        table.add_row(Text(name), Text(form.format(value)), Text(limits), Text(basis))

    row("parameters", plan["params"], basis="dry run")
    row("GFLOP per token", plan["flops_per_token"] / 1e9, basis="dry run", form="{:.3f}")
    row("TFLOP per step", plan["flops_per_step"] / 1e12, basis="dry run", form="{:,.2f}")
    row("artifact bytes", plan["artifact_bytes"], basis="the packer fills the cap")
    row("  code bytes", plan["code_bytes"], basis="minified, with the decoder")
    row("  bits per weight", plan["bits_per_weight"], form="{:.2f}", basis="what the cap leaves")
    low, high = plan["packing_loss_bpb"]
    if high < LOSSES[0]:
        table.add_row("bpb lost to packing", f"< {LOSSES[0]}", "", "finer than measured")
    else:
        row("bpb lost to packing", math.sqrt(low * high), (low, high), "docs/coder.md", "{:.4f}")
    if "cpu" in plan:
        cpu = plan["cpu"]
        row("tokens per second", cpu["tokens_per_second"], basis=cpu["basis"])
        row("ms per step at the end", cpu["step_ms"][-1], form="{:.1f}")
        row(f"steps in {cpu['seconds']:.0f} s", cpu["steps"], cpu["steps_interval"])
        row("tokens", cpu["tokens"], cpu["tokens_interval"])
    else:
        share = f"{plan['coverage']:.0%}"
        row(
            "GB per GPU",
            plan["memory_bytes"] / 1e9,
            [b / 1e9 for b in plan["memory_interval"]],
            f"logs, {share}",
            "{:.1f}",
        )
        row("  tokens in a forward", plan["micro_batch_tokens"], basis="what fits")
        row("  traced, not fused", plan["memory_traced_bytes"] / 1e9, basis="dry run: upper bound", form="{:.1f}")
        for attention, name in (("sdpa", "torch's own attention"), ("fa3", "FlashAttention 3")):
            speed = plan["speed"][attention]
            table.add_section()
            table.add_row(Text(name))
            for ms, limits, stage, rate in zip(
                speed["step_ms"], speed["step_ms_interval"], plan["stages"], speed["tflops_per_gpu"]
            ):
                name = f"  ms a step, {stage['layers']} layers" + f", to {stage['until']:.0%}" * (stage["until"] < 1)
                row(name, ms, limits, f"{rate:.0f} TFLOP/s by 6 N", "{:.1f}")
            row(f"  steps in {speed['seconds']:.0f} s", speed["steps"], speed["steps_interval"], f"logs, {share}")
            row("  million tokens", speed["tokens"] / 1e6, [count / 1e6 for count in speed["tokens_interval"]])
    if "dollars" in plan:
        table.add_section()
        row("dollars for the clock", plan["dollars"], form="{:.2f}")
        limits = plan["dollars_with_the_rest"]
        row("dollars with the rest", sum(limits) / 2, limits, "guess: 5 to 30 min", "{:.2f}")
    console.print(table)
    if "speed" in plan:
        console.print(
            f"On {plan['gpus']:d} {plan['gpu_kind']}. Times are a prediction from other people's scripts of these "
            "shapes: nobody has run this one there yet.",
            soft_wrap=True,
        )
    for warning in plan["warnings"]:
        print(f"golf plan: warning: {terminal(warning)}", file=sys.stderr)


def print_validation(result: dict, console: Console) -> None:
    """Prints what step_time.validate() found."""
    print("Milliseconds a step, of records that were left out of the fit (L: layer applications, T: context)")
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("record", no_wrap=True)
    for name in ("PR", "L", "T", "actual", "planned", "error", "new shape"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in result["rows"]:
        table.add_row(
            *(Text(terminal(row[key])) for key in ("record", "pr")),
            *(Text(str(row[key])) for key in ("layers", "seq_len")),
            f"{row['ms']:.1f}",
            f"{row['predicted_ms']:.1f}",
            f"{row['error']:+.1%}",
            f"{row['error_new_shape']:+.1%}",
        )
    console.print(table)
    rates = result["coefficients"]
    console.print(
        f"fit on all of them: attention {1e3 / rates['sdpa']:.0f} TFLOP/s by SDPA and {1e3 / rates['fa3']:.0f} by FA3, "
        f"matrices {1e3 / rates['matrices']:.0f}, elementwise {1e3 / rates['elementwise']:.2f} TB/s, "
        f"{rates['constant']:.1f} ms a step\n"
        f"median error over {result['records']:d} records: {result['median_error']:.1%}; with all records of a shape "
        f"left out, over {result['shapes']:d} shapes: {result['median_error_new_shape']:.1%}\n"
        f"interval: a factor of {result['spread']:g} up or down for {result['coverage']:.0%} of new shapes; "
        f"{result['spread_covers']:.0%} lay within when left out",
        soft_wrap=True,
    )


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status, 0. Raises Failure, also if --validate finds the step-time model too far off."""
    parser = argparse.ArgumentParser(
        prog="golf plan",
        allow_abbrev=False,
        description="What a run will need and give, before anything is rented.",
        epilog="Every other --field=value goes to train_gpt.py: --preset, --num_layers, ...",
    )
    parser.add_argument(
        "--gpus", type=int, help="how many (default: the track's; without it the pocket track is planned for this CPU)"
    )
    parser.add_argument(
        "--gpu-kind", "--gpu_kind", choices=tuple(step_time.GPUS), help="what GPUs they are (default: H100)"
    )
    parser.add_argument(
        "--dollars-per-hour", "--dollars_per_hour", type=float, metavar="X", help="of the whole machine: adds the price"
    )
    parser.add_argument("--validate", action="store_true", help="test the step-time model on records left out")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options, arguments = parser.parse_known_args(argv)
    for argument in arguments:
        near = difflib.get_close_matches(
            argument.split("=")[0], ("--gpus", "--gpu-kind", "--dollars-per-hour", "--validate", "--json"), cutoff=0.8
        )
        if near:
            parser.error(f"unknown argument {argument!r}: did you mean {near[0]}?")
    if options.gpus is not None and options.gpus < 1:
        parser.error("--gpus must be at least 1")
    if options.dollars_per_hour is not None and not 0 <= options.dollars_per_hour < math.inf:
        parser.error("--dollars-per-hour must be a price")
    if options.validate and arguments:
        parser.error(f"--validate takes no other argument: {' '.join(arguments)}")
    if options.validate:
        result = step_time.validate(step_time.read_points())
        if options.json:
            print(json.dumps(result))
        else:
            print_validation(result, Console())
        if result["median_error"] >= MAX_ERROR:
            raise Failure(f"median error {result['median_error']:.1%} is not under {MAX_ERROR:.0%}")
        return 0
    plan = make_plan(arguments, options.gpus, options.dollars_per_hour, options.gpu_kind)
    if options.json:
        print(json.dumps(plan))
    else:
        print_plan(plan, Console())
    return 0
