"""A record whose script trains nothing but has the shape of train_gpt.py, so that reproducing it takes a moment; and
stand-ins for packing and scoring. Weights are a hash of data and seed, the score follows from the weights.

Not covered: torch; tests/tools/records/test_reproduce.py trains the tiny preset once.
"""

import functools
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from golf.files import sha256_file
from golf.processor import processor_class, processor_name

SCRIPT = '''"""A stand-in for train_gpt.py: its weights are a hash of its data and its seed."""
import dataclasses
import hashlib
import json
import os
import sys


@dataclasses.dataclass(frozen=True)
class Config:
    width: int = 8
    max_seconds: float = 600.0
    max_tokens: int = 0
    preset: str = "16mb"
    track: str = "pocket"
    data_dir: str = "data/small"
    seed: int = 1337
    run_dir: str = ""


PRESETS = {"16mb": {}, "tiny": {"max_seconds": 0.0, "max_tokens": 4096}}


def read(path):
    with open(path, "rb") as file:
        return file.read()


def weights(config):
    return hashlib.sha256(read(config.data_dir + "/train.bin") + str(config.seed).encode()).digest()


def save(config, name, data):
    with open(os.path.join(config.run_dir, name), "wb") as file:
        file.write(data)


def main():
    given = dict(word[2:].split("=", 1) for word in sys.argv[1:])
    values = PRESETS[given.get("preset", "16mb")] | given
    types = {field.name: field.type for field in dataclasses.fields(Config)}
    config = Config(**{name: types[name](value) for name, value in values.items()})
    os.makedirs(config.run_dir)
    save(config, "metrics.jsonl", b'{"step": 1, "elapsed": 0.5}\\n')
    save(config, "checkpoint.pt", weights(config))
    manifest = hashlib.sha256(read(config.data_dir + "/manifest.json")).hexdigest()
    result = {
        "format": 1, "track": config.track, "preset": config.preset, "world_size": 1, "seed": config.seed,
        "config": dataclasses.asdict(config), "source_sha256": hashlib.sha256(read(__file__)).hexdigest(),
        "environment": {"torch": "2.13.0", "why": "measured matrix GFLOP/s: float32 60", "threads": 2},
        "data": {"dir": config.data_dir, "manifest_sha256": manifest},
        "training_seconds": 1.5, "steps": 2, "tokens": 4096,
    }
    save(config, "run.json", json.dumps(result).encode())


main()
'''
SEEDS = (11, 12, 13)
FOLDER = "records/pocket/0001_small"
_HOME = tempfile.TemporaryDirectory(prefix="golf-tests-")  # as long as this process lives


def stage(name: str, arguments: list[str]) -> float:
    """Stands for pipeline.stage(): packs by copying, scores by the first bytes."""
    options = dict(zip(arguments, arguments[1:]))
    out = Path(options["--out"])
    if name == "pack":
        out.write_bytes(Path(arguments[3], "checkpoint.pt").read_bytes())
        return 0.0
    data, artifact = Path(options["--data"]), Path(arguments[1])
    score = {
        "bpb": bpb(artifact.read_bytes()),
        "documents": 1,
        "certified": "--certify" in arguments,
        "audit": options["--audit"],
        "artifact": {"bytes": artifact.stat().st_size, "sha256": sha256_file(artifact)},
        "data": {"docs_sha256": sha256_file(data / "dev_docs.jsonl")},
        "scorer_sha256": "5" * 64,
    }
    out.write_text(json.dumps(score))
    return 0.0


def bpb(weights: bytes) -> float:
    """The score of weights: 1.5 and less than 0.001 more."""
    return 1.5 + int.from_bytes(weights[:4], "big") / 2**32 / 1000


def make(root: Path, script: str = SCRIPT, flags: tuple[str, ...] = ()) -> Path:
    """Makes root/data/small and the record root/records/pocket/0001_small of three runs; returns the record's folder.
    flags: `--field=value` of its runs beside the preset."""
    if script == SCRIPT and not flags:
        shutil.copytree(template(), root, dirs_exist_ok=True)
        return root / FOLDER
    return make_anew(root, script, flags)


@functools.cache
def template() -> Path:
    """What make() makes of SCRIPT, once for all tests of a process."""
    root = Path(_HOME.name)
    make_anew(root, SCRIPT, ())
    return root


def make_anew(root: Path, script: str, flags: tuple[str, ...]) -> Path:
    """As make(), by running the script three times in `root`."""
    data, folder = root / "data/small", root / FOLDER
    for place in (data, folder / "logs", folder / "artifacts"):
        place.mkdir(parents=True, exist_ok=True)
    (data / "train.bin").write_bytes(b"text to train on")
    (data / "dev_docs.jsonl").write_text('{"text": "x"}\n')
    (data / "manifest.json").write_text("{}")
    (folder / "train_gpt.py").write_text(script)
    write_record(folder, data, [make_run(root, folder, seed, flags) for seed in SEEDS])
    return folder


def write_record(folder: Path, data: Path, rows: list[dict]) -> None:
    """Writes record.json for a record whose script, logs and artifacts lie in `folder`. rows: of its seeds."""
    median = sorted(rows, key=lambda row: row["bpb"])[(len(rows) - 1) // 2]
    run = json.loads((folder / f"logs/seed{median['seed']}.run.json").read_text())
    number, slug = folder.name.split("_", 1)
    record = {
        "format": 2,
        "rules": 2,
        "track": "pocket",
        "number": number,
        "slug": slug,
        "title": "Small",
        "idea": "None.",
        "parent": None,
        "authors": ["a"],
        "agent_help": "none",
        "date": "2026-11-29",
        "script_sha256": sha256_file(folder / "train_gpt.py"),
        "artifact": {
            "file": median["artifact_file"],
            "bytes": median["artifact_bytes"],
            "sha256": median["artifact_sha256"],
            "seed": median["seed"],
        },
        "config": {key: value for key, value in run["config"].items() if key not in ("seed", "run_dir")},
        "scope": "document",
        "data": {
            "manifest_sha256": sha256_file(data / "manifest.json"),
            "split": "dev",
            "docs_sha256": sha256_file(data / "dev_docs.jsonl"),
        },
        "seeds": rows,
        "seed_commit": "1" * 40,
        "bpb_mean": statistics.mean(row["bpb"] for row in rows),
        "bpb_sd": statistics.stdev(row["bpb"] for row in rows) if len(rows) > 1 else None,
        "environment": run["environment"],
        "variants": None,
        "ledger_head": None,
        "par": {
            "ratio": 1.0,
            "low": 0.99,
            "high": 1.01,
            "rounds": 20,
            "processor_class": processor_class(),
            "processor": processor_name(),
        },
        "hub": None,
        "files": {},
    }
    (folder / "record.json").write_text(json.dumps(record))


def make_run(root: Path, folder: Path, seed: int, flags: tuple[str, ...]) -> dict:
    """Runs the record's script, keeps what a record keeps of it, and returns its row of record.json."""
    run = root / f"made{seed}"
    words = ["--preset=tiny", *flags, f"--seed={seed}", f"--run_dir={run}"]
    subprocess.run([sys.executable, str(folder / "train_gpt.py"), *words], cwd=root, check=True)
    weights = (run / "checkpoint.pt").read_bytes()
    name = f"artifacts/seed{seed}.golf"
    (folder / name).write_bytes(weights)
    (run / "run.json").rename(folder / f"logs/seed{seed}.run.json")
    return {
        "seed": seed,
        "bpb": bpb(weights),
        "artifact_bytes": len(weights),
        "train_seconds": 1.5,
        "steps": 2,
        "tokens": 4096,
        "artifact_file": name,
        "artifact_sha256": hashlib.sha256(weights).hexdigest(),
    }
