"""A small repository for the tests of sweeps: the real tools, and stand-ins for training, packing and scoring.

The stand-ins take no time and have known results: bpb = 2 + |log2(lr / 0.04)| + seed / 1000 at the end of training,
twice the distance at the start, and 0.01 less when packed. Each writes its command line to calls.jsonl.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.support import HALF_WRITTEN, ROOT

CALL = """
import hashlib, json, math, os, signal, sys, time
from pathlib import Path
def call():
    with open("calls.jsonl", "a") as file:
        file.write(json.dumps([Path(sys.argv[0]).name, *sys.argv[1:]]) + "\\n")
"""
TRAIN = (
    CALL
    + """
import dataclasses

@dataclasses.dataclass(frozen=True)
class Config:
    preset: str = "pocket"
    track: str = "pocket"
    seed: int = 1
    lr: float = 0.04
    width: int = 64
    tied: bool = True
    act: str = "relu"  # nan: the loss is; kill: takes its worker along, once; hold: waits for a file `go`
    step_seconds: float = 0.0  # where lr is far off
    max_seconds: float = 0.0
    max_steps: int = 4
    checkpoint_every: int = 1000
    seq_len: int = 512
    stages: str = "0.5:256:4096"
    calibration_tokens: int = 100_000
    dev_tokens: int = 1000
    dev_evals: int = 4
    data_dir: str = "data/embedded"
    run_dir: str = ""

class RunError(Exception):
    pass

def parse_config(argv, environment):
    kinds = {f.name: type(f.default) for f in dataclasses.fields(Config)}
    values = dict(argument[2:].split("=", 1) for argument in argv)
    config = Config(**{k: v == "true" if kinds[k] is bool else kinds[k](v) for k, v in values.items()})
    if config.width % 32:
        raise RunError("--width must be a multiple of 32")
    return config

def main():
    call()
    config = parse_config(sys.argv[1:], {})
    folder, source, told = Path(config.run_dir), Path(__file__).read_text(), []
    assert not (folder / "run.json").exists()
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    sha = hashlib.sha256(source.encode()).hexdigest()
    fields = dataclasses.asdict(config)
    (folder / "train.log").write_text(f"{source}\\n# source_sha256 {sha}\\nconfig {json.dumps(fields)}\\n")
    (folder / "metrics.jsonl").unlink(missing_ok=True)
    with open(folder / "starts", "a") as file:
        file.write(f"{os.getpid()} {os.getppid()} {os.environ.get('SLURM_RESTART_COUNT', 0)}\\n")
    if config.act == "nan":
        print("train_gpt.py: the loss is nan at step 1", file=sys.stderr)
        return 1
    if config.act == "kill" and not Path("killed").exists():
        Path("killed").touch()
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    end = time.monotonic() + 150  # of a test that failed
    while config.act == "hold" and not Path("go").exists() and not told and time.monotonic() < end:
        time.sleep(0.05)
    step, distance = 0, abs(math.log2(config.lr / 0.04))
    while step < config.max_steps and not told:
        time.sleep(config.step_seconds * (distance > 1))
        step += 1
        bpb = 2 + distance * (2 - step / config.max_steps) + config.seed / 1000
        with open(folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps({"step": step, "elapsed": step, "loss": 4.0, "dev_bpb": bpb}) + "\\n")
    manifest = (Path(config.data_dir) / "manifest.json").read_bytes()
    (folder / "run.json").write_text(json.dumps({
        "track": config.track, "preset": config.preset, "seed": config.seed, "config": fields,
        "source_sha256": sha, "data": {"manifest_sha256": hashlib.sha256(manifest).hexdigest()}, "steps": step,
        "training_seconds": step, "clock": {"train": step * config.width / 64}, "params": 1000 * config.width,
        "environment": {"threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1},
        "dev_bpb": None if told else bpb, "stopped": "sigterm" if told else "steps"}))
    return 0

if __name__ == "__main__":
    sys.exit(main())
"""
)
PACK = (
    CALL
    + """
if sys.argv[1] == "code":
    print(json.dumps({"code_bytes": 1000}))
    sys.exit()
call()
run = Path(sys.argv[2])
(run / "model.golf").write_bytes(run.name.encode())
"""
)
SCORE = (
    CALL
    + """
call()
artifact = Path(sys.argv[1])
run = json.loads((artifact.parent / "run.json").read_text())
artifact.with_name("eval.json").write_text(json.dumps({
    "bpb": run["dev_bpb"] - 0.01, "artifact": {"sha256": hashlib.sha256(artifact.read_bytes()).hexdigest()},
    "scope": "document", "clock": {"score": 10.0 + run["config"]["tied"]},
    "data": {"split": sys.argv[sys.argv.index("--split") + 1], "docs_sha256": "d"}}))
"""
)
SPEC = {
    "name": "test",
    "hypothesis": "A learning rate of 0.04 is best.",
    "who": "agent",
    "search": "grid",
    "seeds": [1],
    "fixed": {"preset": "pocket"},
}
STARTED: list[subprocess.Popen] = []


def build(folder: Path) -> Path:
    """Fills `folder`; returns it. Byte code goes along: else each of the many programs of a sweep compiles its own."""
    for package in ("golf", "tools"):
        shutil.copytree(ROOT / package, folder / package, ignore=HALF_WRITTEN)
    for module, name in (("engine", "TICK_SECONDS"), ("trial", "LOOK_SECONDS")):  # stand-ins end at once
        path = folder / f"tools/sweep/{module}.py"
        text, count = re.subn(rf"^{name} = .*", f"{name} = 0.02", path.read_text(), flags=re.MULTILINE)
        assert count == 1
        path.write_text(text)
    (folder / "compress").mkdir()
    (folder / "data/embedded").mkdir(parents=True)
    (folder / "compress/__init__.py").touch()
    (folder / "data/embedded/manifest.json").write_text("{}")
    for name, text in {"train_gpt.py": TRAIN, "compress/__main__.py": PACK, "eval_heldout.py": SCORE}.items():
        (folder / name).write_text(text)
    return folder


def write_spec(path: Path, **changes) -> Path:
    """SPEC with changes as a TOML file (JSON's scalars and lists are TOML's)."""
    values = SPEC | changes
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items() if not isinstance(value, dict)]
    for table in ("fixed", "space", "slurm"):
        lines += [f"[{table}]"] + [f"{key} = {json.dumps(value)}" for key, value in values.get(table, {}).items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def start(tree: Path, *arguments: str, **spec) -> subprocess.Popen:
    """Starts a sweep whose spec is SPEC with changes."""
    write_spec(tree / "spec.toml", **spec)
    STARTED.append(
        subprocess.Popen(
            [sys.executable, "-m", "golf", "sweep", "spec.toml", "--json", *arguments],
            cwd=tree,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"COLUMNS": "200"},
        )
    )
    return STARTED[-1]


def stop_all() -> None:
    """Ends the sweeps that a failed test has left."""
    while STARTED:
        sweep = STARTED.pop()
        if sweep.poll() is None:
            sweep.send_signal(signal.SIGINT)
            try:
                sweep.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                sweep.kill()


def end(sweep: subprocess.Popen, code: int = 0) -> dict:
    """Waits for a sweep and holds its exit code to `code`; returns what it printed, with its runs by name."""
    out, errors = sweep.communicate(timeout=300)
    assert sweep.returncode == code, out[-3000:] + errors[-3000:]
    summary = json.loads(out.splitlines()[-1]) if out.endswith("}\n") else {"configurations": []}
    return {
        "text": out,
        "errors": errors,
        **summary,
        "runs": {run["run"]: run for each in summary["configurations"] for run in each["runs"]},
    }


def calls(tree: Path) -> list[list[str]]:
    """What the stand-ins were called with since the last look."""
    path = tree / "calls.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return [json.loads(line) for line in lines]


def rows(tree: Path, kind: str) -> list[dict]:
    """Rows of the log of a kind."""
    lines = (tree / "runs/ledger.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is only waiting for its parent to notice its end does not."""
    try:
        os.kill(pid, 0)
        status = Path(f"/proc/{pid}/stat")
        return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] in "ZX")
    except OSError:
        return False


def wait_for(condition, what: str, seconds: float = 120.0):
    """The first true value of condition(); an assertion names `what` if none comes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds:.0f} s for {what}")
