"""What `golf run` does: data, train, pack, score, then one table. What is there and up to date is reused.

Every stage is the public command that a participant would type, in its own process, with its output passed through.
Not covered: tracks other than pocket, several processes (use torchrun), choosing seeds (golf record seeds).
"""

import argparse
import hashlib
import json
import lzma
import math
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from golf import folders, locks
from golf.children import Terminated, end_with_parent
from golf.console import say
from golf.files import ROOT, Failure, read_json, read_metrics, sha256_file, write_json
from golf.foreign import terminal
from golf.tracks import POCKET
from tools.plan.dry_run import code_bytes
from tools.runs import curves, ledger
from tools.runs.folder import finished

VARIANT = "sp2048_case"  # of the pocket preset
DATA = Path(f"data/embedded_{VARIANT}")
SPLIT = "dev"
FILES = {
    "checkpoint.pt": "weights, script, tokenizer: what is packed",
    "eval.json": "the score, by document and slice",
    "loss.png": "loss curve",
    "metrics.jsonl": "one row per logged step",
    "model.golf": "the artifact",
    "run.json": "config, clock and speed of training",
    "statistics.pt": "second moments that packing uses",
    "train.log": "the script that ran, then what it printed",
}


def run_id(name: str, data: Path) -> str:
    """<name>-<8 hex>: the same name, script and data give the same id, so a finished run can be reused."""
    digest = hashlib.sha256(name.encode())
    for path in (ROOT / "train_gpt.py", ROOT / data / "manifest.json"):
        digest.update(bytes.fromhex(sha256_file(path)))
    return f"{name}-{digest.hexdigest()[:8]}"


def sources(*packages: str) -> list[Path]:
    """The Python files of some packages of this repository: what they make is stale when one of them is newer."""
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def up_to_date(output: Path, inputs: list[Path]) -> bool:
    """Whether `output` exists and is at least as new as every input that exists."""
    times = [path.stat().st_mtime_ns for path in inputs if path.exists()]
    return output.exists() and output.stat().st_mtime_ns >= max(times, default=0)


def stage(name: str, arguments: list[str]) -> float:
    """Runs `python ARGUMENTS` in the root with its output passed through; returns its wall time in seconds."""
    say(f"== {name}: python {' '.join(arguments)}")
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, preexec_fn=end_with_parent())
    try:
        code = process.wait()
    except KeyboardInterrupt as interrupt:  # the stage may still be saving what it has
        if isinstance(interrupt, Terminated):  # else the terminal told the stage too
            process.terminate()
        process.wait()
        raise
    if code != 0:
        raise Failure(f"the {name} stage failed with exit code {code} (see its output above)")
    return time.monotonic() - start


def train(run_dir: Path, data: Path, flags: list[str]) -> float | None:
    """Trains into `run_dir` on the data set `data`; both are paths from the root.

    Returns the wall time in seconds, or None if the run is finished already. Raises Failure if training fails, and
    before it if the script could not be packed.
    """
    folder = ROOT / run_dir
    if finished(folder):
        say(f"== train: reusing {run_dir}")
        return None
    code_bytes()
    (folder / "run.json").unlink(missing_ok=True)  # of a run that was stopped: train_gpt.py keeps what has one
    try:
        return stage("train", ["train_gpt.py", *flags, f"--data_dir={data}", f"--run_dir={run_dir}"])
    finally:
        ledger.sync(ROOT, ended=folder)  # a crash is a row too


def pack(run_dir: Path) -> float | None:
    """Packs a run into its model.golf; returns the wall time in seconds, or None if that file is up to date."""
    folder = ROOT / run_dir
    inputs = [folder / "checkpoint.pt", folder / "statistics.pt", *sources("compress", "golf")]
    if up_to_date(folder / "model.golf", inputs):
        say(f"== pack: reusing {run_dir}/model.golf")
        return None
    return stage("pack", ["-m", "compress", "pack", str(run_dir)])


def score(run_dir: Path, data: Path) -> float | None:
    """Scores a run's model.golf on the dev split of `data` and logs the run.

    Returns the wall time in seconds, or None if the run's eval.json is up to date.
    """
    folder = ROOT / run_dir
    scorer = [ROOT / "eval_heldout.py", *sources("scoring", "golf")]
    texts = [ROOT / data / f"{SPLIT}_docs.jsonl", ROOT / data / "manifest.json"]
    wall = None
    if up_to_date(folder / "eval.json", [folder / "model.golf", *texts, *scorer]):
        say(f"== score: reusing {run_dir}/eval.json")
    else:
        wall = stage("score", ["eval_heldout.py", f"{run_dir}/model.golf", "--data", str(data), "--split", SPLIT])
    ledger.sync(ROOT)
    return wall


def run_stages(run_dir: Path, data: Path, flags: list[str]) -> dict[str, float | None]:
    """Trains, packs and scores; returns the wall time in seconds of each, None where its result was reused.

    A second process that asks for the same run waits, and finds the results."""
    (ROOT / "runs").mkdir(exist_ok=True)
    lock = ROOT / "runs" / f".{run_dir.name}.lock"
    with locks.held(lock, folders.say_that_we_wait_for(run_dir)):
        return {"train": train(run_dir, data, flags), "pack": pack(run_dir), "score": score(run_dir, data)}


def section_bytes(artifact: Path) -> dict[str, int]:
    """Bytes of the artifact by section, as `compress size` counts them; they sum to the size of the file."""
    command = [sys.executable, "-m", "compress", "size", str(artifact), "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise Failure(f"the size stage failed with exit code {done.returncode} (python -m compress size {artifact})")
    return json.loads(done.stdout.splitlines()[-1])["sections"]


def xz_bits_per_byte(docs: Path, cache_dir: Path) -> float:
    """Compressed bits per raw byte of `xz -9e` over the concatenated documents; computed once per content of `docs`."""
    cache = cache_dir / f"xz_{sha256_file(docs)[:16]}.json"
    if not cache.exists():
        text = b"".join(json.loads(line)["text"].encode() for line in docs.open(encoding="utf-8"))
        say(f"== xz -9e on the {len(text):,} bytes of {docs.name}, for comparison")
        packed = lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)
        write_json(cache, {"raw_bytes": len(text), "xz_bytes": len(packed)})
    sizes = read_json(cache, ("raw_bytes", "xz_bytes"))
    return 8 * sizes["xz_bytes"] / sizes["raw_bytes"]


def make(budget_seconds: float) -> dict:
    """Runs the stages that are not up to date and returns the summary that report() prints."""
    stages: dict[str, float | None] = {}  # wall seconds by stage, None where the result was reused
    if (ROOT / DATA / "manifest.json").exists():
        say(f"== data: reusing {DATA}")
        stages["data"] = None
    else:
        stages["data"] = stage("data", ["-m", "golf", "data", "embedded", "--variant", VARIANT])

    run_dir = Path("runs") / run_id(f"pocket-{budget_seconds:g}s", DATA)
    folder = ROOT / run_dir
    flags = ["--preset=pocket", f"--max_seconds={budget_seconds:g}"]
    stages |= run_stages(run_dir, DATA, flags)

    curve = folder / "loss.png"
    if not up_to_date(curve, [folder / "metrics.jsonl"]):
        curves.draw(curve, run_dir.name, [("this run", read_metrics(folder / "metrics.jsonl"))])

    run = read_json(folder / "run.json", ("seed", "clock", "steps", "tokens", "tokens_per_second", "mfu"))
    result = read_json(folder / "eval.json", ("bpb", "bpb_interval", "documents", "raw_bytes", "scope", "clock"))
    size = (folder / "model.golf").stat().st_size
    return {
        "format": 1,
        "run_dir": str(run_dir),
        "seed": run["seed"],
        "split": SPLIT,
        "val_bpb": result["bpb"],
        "bpb_interval": result["bpb_interval"],
        "documents": result["documents"],
        "raw_bytes": result["raw_bytes"],
        "scope": result["scope"],
        "xz_bits_per_byte": xz_bits_per_byte(ROOT / DATA / f"{SPLIT}_docs.jsonl", ROOT / "data"),
        "artifact_bytes": size,
        "headroom_bytes": POCKET.cap_bytes - size,
        "sections": section_bytes(folder / "model.golf"),
        "steps": run["steps"],
        "tokens": run["tokens"],
        "tokens_per_second": run["tokens_per_second"],
        "mfu": run["mfu"],
        "clock": {"stages": stages, "train": run["clock"], "score": result["clock"]},
        "files": [str(run_dir / path.name) for path in sorted(folder.iterdir()) if path.is_file()],
    }


def seconds(value: float | None) -> str:
    """A wall time for the table."""
    return "reused" if value is None else f"{value:,.1f} s"


def report(summary: dict, console: Console) -> None:
    """Prints the final table."""
    table = Table(title=Text(terminal(f"{summary['run_dir']}/")), title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    low, high = summary["bpb_interval"]
    ratio = summary["val_bpb"] / summary["xz_bits_per_byte"]
    table.add_row(
        Text(f"bpb, {summary['split']} split"),
        f"{summary['val_bpb']:.4f}",
        f"95% interval {low:.4f} to {high:.4f} over {summary['documents']:,} documents",
    )
    table.add_row(
        "xz -9e, same text",
        f"{summary['xz_bits_per_byte']:.4f}",
        f"bits per byte of {summary['raw_bytes']:,}; the model needs {ratio:.2f} times these",
    )
    table.add_section()
    table.add_row(
        "artifact",
        f"{summary['artifact_bytes']:,} B",
        f"{summary['headroom_bytes']:,} under the cap of {POCKET.cap_bytes:,}",
    )
    for name, size in summary["sections"].items():
        table.add_row(Text(f"  {terminal(name)}"), f"{size:,} B", f"{size / summary['artifact_bytes']:.1%}")
    table.add_section()
    table.add_row(
        "training speed",
        f"{summary['tokens_per_second']:,.0f} tokens/s",
        f"{summary['tokens']:,} tokens in {summary['steps']:,} steps",
    )
    mfu = summary["mfu"]
    table.add_row("model flop utilisation", "unknown" if mfu is None else f"{mfu:.1%}")
    table.add_section()
    clock = summary["clock"]
    for name, wall in clock["stages"].items():
        table.add_row(Text(name), Text(seconds(wall)), "wall time of the whole stage")
        for phase, wall_phase in clock.get(name, {}).items():
            if phase != "total":
                table.add_row(Text(f"  {terminal(phase)}"), Text(seconds(wall_phase)))
    table.add_section()
    for path in map(Path, summary["files"]):
        what = Text(FILES.get(path.name, ""))
        table.add_row(Text(terminal(path.name)), f"{(ROOT / path).stat().st_size:,} B", what)
    console.print(table)


def positive_seconds(text: str) -> float:
    """argparse type of --budget."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return value


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status, 0. Raises Failure when a stage failed or was interrupted."""
    parser = argparse.ArgumentParser(prog="golf run", description="Train, pack and score the pocket model.")
    parser.add_argument(
        "--budget",
        type=positive_seconds,
        default=120,
        metavar="SECONDS",
        help=f"training clock in seconds (default: %(default)s; a record on the track has {POCKET.training_seconds})",
    )
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args(argv)
    try:
        summary = make(options.budget)
    except KeyboardInterrupt:
        message = "interrupted; run it again to go on from the first stage that is not complete"
        raise Failure(message, code=130) from None
    report(summary, Console())
    print(f"val_bpb: {summary['val_bpb']:.4f}")
    print(f"artifact_bytes: {summary['artifact_bytes']}")
    if options.json:
        print(json.dumps(summary))
    return 0
