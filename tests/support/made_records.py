"""Hand-made runs and records of format 2: folders as training, packing and scoring leave them, and `golf record make`
on them; and copies of the first record turned into records of format 2. Nothing is trained, packed or scored."""

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

from golf.tracks import DATA_SETS, TRACKS
from tools.records import record

SCRIPT = '''"""A stand-in for train_gpt.py."""
from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    width: int = 64
    seed: int = 1337
    run_dir: str = ""
    preset: str = "16mb"
    compile: bool = True
    max_seconds: float = 600.0
    max_tokens: int = 0


PRESETS = {"16mb": {}, "pocket": {"width": 96, "max_seconds": 0.0, "max_tokens": 8192000}}
'''
ENVIRONMENT = {"python": "3.11", "torch": "2.13.0"}
MANIFEST = DATA_SETS["pocket"]["data/embedded"]
PAR = {
    "ratio": 1.04,
    "low": 1.02,
    "high": 1.06,
    "rounds": 40,
    "processor_class": "avx512-bf16",
    "processor": "A Processor | of 2 cores",
}


def repository(folder: Path, monkeypatch) -> Path:
    """Makes `folder` a repository with one commit, which record.py takes for its own."""
    for key, value in {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
        "GIT_CONFIG_GLOBAL": os.devnull,
    }.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(record, "ROOT", folder)
    subprocess.run("git init -q && git commit -q --allow-empty -m first", shell=True, check=True, cwd=folder)
    return folder


def head(root: Path) -> str:
    return subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=root, text=True).strip()


def make_run(folder: Path, seed: int, bpb: float, script: str = SCRIPT, artifact: bytes = b"", **changes) -> Path:
    """A run's folder as training, packing and scoring leave it. changes: of run.json; config: of its config."""
    folder.mkdir(parents=True)
    artifact = artifact or f"GOLF{seed}".encode() * 100
    (folder / "model.golf").write_bytes(artifact)
    sha256 = hashlib.sha256(script.encode()).hexdigest()
    (folder / "train.log").write_text(f"{script}\n# source_sha256 {sha256}\nconfig {{}}\nstep 1\n")
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": i, "elapsed": i * 0.5, "loss": 5 - i / 10}) + "\n" for i in range(20))
    )
    run = {
        "track": "pocket",
        "preset": "pocket",
        "world_size": 1,
        "seed": seed,
        "environment": ENVIRONMENT,
        "config": {
            "width": 96,
            "seed": seed,
            "run_dir": str(folder),
            "preset": "pocket",
            "compile": True,
            "max_seconds": 0.0,
            "max_tokens": 8192000,
        },
        "source_sha256": sha256,
        "data": {"dir": "data/embedded", "manifest_sha256": MANIFEST},
        "training_seconds": 599.5,
        "steps": 1000 + seed % 7,
        "tokens": 8192 * 1000,
        "stopped": "tokens",
    }
    run["config"] |= changes.pop("config", {})
    (folder / "run.json").write_text(json.dumps(run | changes))
    (folder / "eval.json").write_text(
        json.dumps(
            {
                "bpb": bpb,
                "scope": "document",
                "data": {"manifest_sha256": run["data"]["manifest_sha256"], "docs_sha256": "d", "split": "dev"},
                "documents": 1,
                "raw_bytes": 100,
                "tokens": 40,
                "clock": {"score": 1.0},
                "per_document": [{"id": "0" * 16, "source": "news", "raw_bytes": 100, "tokens": 40, "nats": 133.0}],
                "artifact": {
                    "name": "model.golf",
                    "bytes": len(artifact),
                    "sha256": hashlib.sha256(artifact).hexdigest(),
                },
            }
        )
    )
    return folder


def make_runs(root: Path, count: int = 3, bpbs=(1.92, 1.90, 1.97), **changes) -> list[Path]:
    """Folders of runs with the seeds that HEAD draws. changes: as of make_run."""
    seeds = record.draw_seeds(head(root), count)
    return [make_run(root / "runs" / f"s{i}", seed, bpb, **changes) for i, (seed, bpb) in enumerate(zip(seeds, bpbs))]


def make(
    root: Path,
    runs: list[Path],
    *more: str,
    number: str = "0001",
    slug: str = "baseline",
    track: str = "pocket",
    par: dict | None = PAR,
) -> int:
    """What `golf record make` ends with. par: as `golf par` printed it; None gives no --par."""
    if par is not None:
        (root / "par.json").write_text(f"a line of progress\n{json.dumps(par)}\n")
        more = ("--par", str(root / "par.json"), *more)
    return record.main(
        [
            "make",
            "--track",
            track,
            "--number",
            number,
            "--slug",
            slug,
            "--title",
            "The baseline",
            "--idea",
            "Start here.",
            "--author",
            "Ann",
            "--agent-help",
            "some",
            "--seed-commit",
            "HEAD",
            *more,
            *map(str, runs),
        ]
    )


def rewrite(path: Path, change) -> None:
    """Lets `change` edit the JSON object in `path`."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def upgrade(folder: Path, **changes) -> dict:
    """Turns a copy of record 0001 into a record of format 2, as `golf record make` would have written it for runs under
    par; returns its record.json, with `changes`. All seeds get the one artifact that the record has. R14 fails: no
    commit has this script."""
    data = json.loads((folder / "record.json").read_text())
    artifact = folder / data["artifact"]["file"]
    blob = artifact.read_bytes()
    artifact.unlink()
    steps = max(row["steps"] for row in data["seeds"])
    config = {"max_seconds": 0.0, "max_steps": steps}
    before = (folder / "train_gpt.py").read_text()
    script = before.replace("max_seconds: float = 600.0", "max_seconds: float = 0.0")
    script = script.replace("max_steps: int = 0", f"max_steps: int = {steps}")
    assert script.count(f"max_steps: int = {steps}") == script.count("max_seconds: float = 0.0") == 1
    (folder / "train_gpt.py").write_text(script)
    sha256 = hashlib.sha256(script.encode()).hexdigest()

    (folder / "artifacts").mkdir()
    for row in data["seeds"]:
        seed = row["seed"]
        file = f"artifacts/seed{seed}.golf"
        (folder / file).write_bytes(blob)
        stated = {"bytes": len(blob), "sha256": hashlib.sha256(blob).hexdigest()}
        row |= {"artifact_file": file, "artifact_bytes": stated["bytes"], "artifact_sha256": stated["sha256"]}
        rewrite(folder / f"eval/seed{seed}.json", lambda score: score["artifact"].update(stated))
        path = folder / f"logs/seed{seed}.run.json"
        rewrite(path, lambda run: run["config"].update(config))
        rewrite(path, lambda run: run.update(source_sha256=sha256, stopped="steps"))
        log = folder / f"logs/seed{seed}.log"
        text = log.read_text()
        rest = text[text.index("\n# source_sha256 ") :]
        rest = re.sub(r"^# source_sha256 .*$", f"# source_sha256 {sha256}", rest, flags=re.MULTILINE)
        rest = re.sub(r"^stopped: .*$", "stopped: steps", rest, flags=re.MULTILINE)
        whole = "config " + json.dumps(json.loads(path.read_text())["config"])
        log.write_text(script + re.sub(r"^config \{.*\}$", lambda _: whole, rest, flags=re.MULTILINE))

    tokens, median = max(row["tokens"] for row in data["seeds"]), data["artifact"]["seed"]
    low = tokens / TRACKS["pocket"].par_tokens * 1.01
    data |= {
        "format": 2,
        "rules": 2,
        "script_sha256": sha256,
        "config": data["config"] | config,
        "artifact": data["artifact"] | {"file": f"artifacts/seed{median}.golf"},
        "variants": 1,
        "ledger_head": "0" * 64,
        "par": PAR | {"low": low, "ratio": low * 1.01, "high": low * 1.02},
        "hub": None,
    } | changes
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    data["files"] = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in names
        if name not in ("record.json", "README.md", "curves.png") and not name.startswith("additions/")
    }
    (folder / "record.json").write_text(json.dumps(data, indent=1))
    return data
