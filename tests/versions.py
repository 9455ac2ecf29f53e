"""`python -m tests.versions [VERSION ...]`: does the kit work with other versions of torch?

For each version, a fresh environment of it: the tests of how attention is chosen and called, a dry run of the 16mb
preset, then the tiny preset trained, packed and scored with every layer of the box. "newest" is what pip takes when it
may choose. Default: the oldest that requirements.txt allows, the one of the records, the newest. A row for each, exit
status 1 if one failed.

It downloads: on Linux a version of torch is a build for GPUs of about 3 GB (5 GB on the disk, for as long as it runs)
unless pip is configured for another. One environment exists at a time, below --folder. Not covered: GPUs.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from golf import versions
from golf.console import say
from golf.files import Failure
from tests.support import ROOT
from tools.runs import smoke

TRAIN = ("--preset=tiny", f"--data_dir={smoke.DATA}")
TOOLS = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis")  # of tests/requirements.txt, what one file needs
FOLLOW_TORCH = ("torch", "triton")  # whose versions in constraints.txt are those of the records


def oldest() -> str:
    """The oldest version of torch that requirements.txt allows."""
    match = re.search(r"(?m)^torch>=([\d.]+)", (ROOT / "requirements.txt").read_text(encoding="utf-8"))
    assert match is not None
    return match[1] + ".0"


def run(*command: str | Path) -> str:
    """What a command printed on standard output. Raises Failure with its last line if it fails."""
    say(f"-- {' '.join(map(str, command))}")
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        raise Failure(f"{Path(command[1]).name} ended with {done.returncode}: {lines[-1][:300]}")
    return done.stdout


def install(version: str, folder: Path) -> Path:
    """Makes an environment in `folder`; returns its Python."""
    kept = [line for line in versions.CONSTRAINTS.read_text(encoding="utf-8").splitlines()
            if not line.startswith(tuple(f"{name}==" for name in FOLLOW_TORCH))]  # fmt: skip
    (folder / "constraints.txt").write_text("\n".join(kept), encoding="utf-8")
    run(sys.executable, "-m", "venv", folder / "venv")
    python = folder / "venv/bin/python"
    torch = "torch" if version == "newest" else f"torch=={version}"
    pip = (python, "-m", "pip", "install", "--no-cache-dir", "-c", folder / "constraints.txt")
    run(*pip, torch, "-r", "requirements.txt", *TOOLS)
    return python


def check(version: str, folder: Path) -> dict:
    """All that is done with a version; returns its row. Raises Failure at what fails first."""
    start = time.monotonic()
    python = install(version, folder)
    installed = run(python, "-c", "import torch; print(torch.__version__)").strip()
    place = folder / "run"
    tests = ("tests/train/test_kernels.py", "-k", "attention or varlen", "-q", "-p", "no:cacheprovider")
    run(python, "-m", "pytest", *tests)
    run(python, "train_gpt.py", "--preset=16mb", "--dry-run")
    run(python, "train_gpt.py", *TRAIN, f"--run_dir={place}")
    run(python, "-m", "golf", "pack", place)
    score = (python, "eval_heldout.py", place / "model.golf", "--data", smoke.DATA, "--split", "dev")
    run(*score, "--certify", f"--torch={installed}")
    trained = json.loads((place / "run.json").read_text(encoding="utf-8"))
    scored = json.loads((place / "eval.json").read_text(encoding="utf-8"))
    return {
        "torch": installed,
        "good": True,
        "compiled": trained["environment"]["compiled"],
        "steps": trained["steps"],
        "bpb": scored["bpb"],
        "seconds": round(time.monotonic() - start),
    }


def sentence(row: dict) -> str:
    """What came of a version that works."""
    how = "compiled" if row["compiled"] else "NOT compiled"
    return f"good: {row['steps']} steps, {how}, {row['bpb']:.4f} bpb; {row['seconds']} s in all"


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.versions", description="Try the kit with versions of torch.")
    default = [oldest(), versions.torch_of_records(), "newest"]
    parser.add_argument("versions", nargs="*", default=default, metavar="VERSION", help=f"default: {' '.join(default)}")
    parser.add_argument("--folder", type=Path, help="where environments are made (default: the temporary folder)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args(argv)
    smoke.make_data()
    rows = []
    for version in options.versions:
        folder = Path(tempfile.mkdtemp(prefix="golf-versions-", dir=options.folder))
        try:
            rows.append(check(version, folder))
        except Failure as failure:
            rows.append({"torch": version, "good": False, "why": str(failure)})
        finally:
            shutil.rmtree(folder)
        say(f"== {rows[-1]}")
    for row in rows:
        print(f"{row['torch']:<16} {row.get('why') or sentence(row)}")
    if options.json:
        print(json.dumps({"versions": rows}))
    return 0 if all(row["good"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
