"""A small clone with a kit, a data set and records of format 2 that pass every rule: what tests of golf check damage.

Its records are invented, but agree with themselves: script, seeds drawn from a commit, logs, artifacts, scores of 20
documents. Scoring again and timing are stubs of the tests. Not covered: records of format 1 (the committed ones are).
"""

import hashlib
import importlib.metadata
import json
import math
import os
import shutil
import statistics
import subprocess
from pathlib import Path

from compress.minify import code_section, minified_script
from golf import container, processor, tokenizer_section
from tests.support import ROOT, edit_json
from tools.records import additions, packer, record

SCRIPT = '''"""A script for the tests of golf check."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelConfig:
    width: int = 8
    depth: int = 1


@dataclass(frozen=True)
class Config(ModelConfig):
    """Every knob."""

    lr: float = 0.1
    max_seconds: float = 600.0
    max_tokens: int = 0
    preset: str = "pocket"
    track: str = "pocket"
    data_dir: str = "data/small"
    seed: int = 0
    run_dir: str = ""


PRESETS = {"pocket": dict(width=16, max_seconds=0.0, max_tokens=9_000_000)}


def idea():
    return "SLUG"
'''
TOKENIZER = tokenizer_section.rebuild(container.compress(b"th\nthe\n an"))
DOCUMENTS = 20
TOKENS, STEPS = 9_000_000, 3
IDENTITY = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
SANDBOX = [{"layer": name, "active": True, "note": ""} for name in ("network namespace", "Landlock: files")]
AUDITS = [{"audit": "blind", "verdict": "pass", "detail": "2,000 positions"}]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Clone:
    """A repository with a branch main. manifest: the hash of its data set's manifest."""

    def __init__(self, root: Path):
        self.root = root
        for name in packer.SOURCES:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, root / name)
        (root / ".gitignore").write_text("data/\n")
        self.git("init", "-q", "-b", "main")
        self.commit("the kit")
        self.make_data()

    def git(self, *words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=self.root, env=os.environ | IDENTITY, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def commit(self, message: str) -> str:
        """Commits everything; returns the commit's hash."""
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)
        return self.git("rev-parse", "HEAD")

    def make_data(self) -> None:
        folder = self.root / "data/small"
        folder.mkdir(parents=True)
        texts = [f"On day {i} the president said that the country would pay.\n" * (i % 5 + 1) for i in range(DOCUMENTS)]
        rows = [{"id": sha256(text.encode())[:16], "source": "news", "text": text} for text in texts]
        docs = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "dev_docs.jsonl").write_text(docs)
        (folder / "tokenizer.model").write_bytes(TOKENIZER)
        (folder / "manifest.json").write_text('{"format": 1}')
        self.documents = [(row["id"], len(row["text"])) for row in rows]
        self.manifest = sha256((folder / "manifest.json").read_bytes())
        self.data = {"manifest_sha256": self.manifest, "split": "dev", "docs_sha256": sha256(docs.encode())}

    def add(self, number: str, slug: str, parent: Path | None = None, bpb: float = 2.0, script: str = "") -> Path:
        """Commits a script, draws seeds, and writes the record that it makes, uncommitted; returns its folder. bpb:
        about its mean. script: its text, by default SCRIPT with the slug in it."""
        text = script or SCRIPT.replace("SLUG", slug)
        (self.root / "train_gpt.py").write_text(text)
        self.git("add", "train_gpt.py", "compress")
        self.git("commit", "-q", "--allow-empty", "-m", f"the script of {slug}")
        folder = self.root / "records/pocket" / f"{number}_{slug}"
        self.write(folder, self.git("rev-parse", "HEAD"), text, parent, bpb)
        return folder

    def write(self, folder: Path, commit: str, script: str, parent: Path | None, bpb: float) -> None:
        """Writes a record's folder."""
        seeds = record.draw_seeds(commit, 3)
        for name in ("artifacts", "logs", "eval"):
            (folder / name).mkdir(parents=True)
        (folder / "train_gpt.py").write_text(script)
        (folder / "parent.diff").write_text(record.parent_diff(parent, folder.name, script.encode()))
        rows = [self.write_seed(folder, script, seed, bpb * (1 + 0.001 * place)) for place, seed in enumerate(seeds)]
        (folder / "README.md").write_text("A record.\n")
        number, _, slug = folder.name.partition("_")
        median = sorted(rows, key=lambda row: row["bpb"])[1]
        values = [row["bpb"] for row in rows]
        run = json.loads((folder / f"logs/seed{seeds[0]}.run.json").read_text())
        value = {
            "format": 2,
            "rules": 2,
            "track": "pocket",
            "number": number,
            "slug": slug,
            "title": "A title",
            "idea": "An idea.",
            "parent": parent.name if parent else None,
            "authors": ["Ann"],
            "sources": [],
            "agent_help": "none",
            "date": "2026-11-29",
            "script_sha256": sha256(script.encode()),
            "artifact": {
                "file": median["artifact_file"],
                "bytes": median["artifact_bytes"],
                "sha256": median["artifact_sha256"],
                "seed": median["seed"],
            },
            "config": {key: item for key, item in run["config"].items() if key not in ("seed", "run_dir")},
            "scope": "document",
            "data": self.data,
            "seeds": rows,
            "seed_commit": commit,
            "bpb_mean": statistics.mean(values),
            "bpb_sd": statistics.stdev(values),
            "environment": run["environment"],
            "variants": 2,
            "ledger_head": "a" * 64,
            "par": {
                "ratio": 1.02,
                "low": 1.0,
                "high": 1.04,
                "rounds": 40,
                "processor_class": processor.processor_class(),
                "processor": processor.processor_name(),
            },
            "hub": None,
        }
        (folder / "record.json").write_text(json.dumps(value))
        seal(folder)

    def write_seed(self, folder: Path, script: str, seed: int, bpb: float) -> dict:
        """Writes artifact, log, run.json, metrics.jsonl and eval.json of a seed; returns its row of record.json."""
        packed = container.to_bytes(
            {
                "CODE": code_section(minified_script(script)),
                "CONF": container.config_pack({"width": 16}),
                "TOKN": tokenizer_section.serialise(TOKENIZER),
                "WGTS": f"{folder.name} {seed}".encode(),
            }
        )
        (folder / f"artifacts/seed{seed}.golf").write_bytes(packed)
        run = run_of(script, seed, self.manifest)
        (folder / f"logs/seed{seed}.run.json").write_text(json.dumps(run))
        metrics = [
            {"step": step, "elapsed": step * 100.0, "loss": round(4.0 - step + seed / 2**32, 5)} for step in (1, 2, 3)
        ]
        (folder / f"logs/seed{seed}.metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
        (folder / f"logs/seed{seed}.log").write_text(log_of(script, run, metrics))
        score = self.score_of(packed, seed, bpb)
        (folder / f"eval/seed{seed}.json").write_text(json.dumps(score))
        return {
            "seed": seed,
            "bpb": score["bpb"],
            "artifact_bytes": len(packed),
            "train_seconds": run["training_seconds"],
            "steps": run["steps"],
            "tokens": run["tokens"],
            "artifact_file": f"artifacts/seed{seed}.golf",
            "artifact_sha256": sha256(packed),
        }

    def score_of(self, packed: bytes, seed: int, bpb: float) -> dict:
        """The eval.json of an artifact; documents differ in how hard they are, and a little by seed."""
        rows = []
        for place, (name, size) in enumerate(self.documents):
            hard = 1 + 0.1 * math.sin(place) + 0.001 * math.sin(place * seed)
            nats = bpb * math.log(2) * size * hard
            rows.append({"id": name, "source": "news", "raw_bytes": size, "tokens": size // 2, "nats": nats})
        raw_bytes = sum(row["raw_bytes"] for row in rows)
        return {
            "format": 2,
            "bpb": sum(row["nats"] for row in rows) / math.log(2) / raw_bytes,
            "documents": len(rows),
            "raw_bytes": raw_bytes,
            "tokens": sum(row["tokens"] for row in rows),
            "per_document": rows,
            "artifact": {"name": "model.golf", "bytes": len(packed), "sha256": sha256(packed)},
            "data": self.data,
            "scope": "document",
            "clock": {"decode": 1.0, "build": 1.0, "score": 100.0},
            "sandbox": SANDBOX,
            "certified": True,
            "audit": "full",
            "audits": AUDITS,
        }


def run_of(script: str, seed: int, manifest: str) -> dict:
    """The run.json of a seed."""
    config = {"width": 16, "depth": 1, "lr": 0.1, "max_seconds": 0.0, "max_tokens": TOKENS, "preset": "pocket"}
    config |= {"track": "pocket", "data_dir": "data/small", "seed": seed, "run_dir": f"runs/s{seed}"}
    return {
        "format": 1,
        "track": "pocket",
        "preset": "pocket",
        "world_size": 1,
        "seed": seed,
        "config": config,
        "source_sha256": sha256(script.encode()),
        "environment": {"torch": importlib.metadata.version("torch"), "device": "cpu"},
        "data": {"dir": "data/small", "manifest_sha256": manifest},
        "clock": {"train": 290.0, "calibrate": 10.0},
        "training_seconds": 300.0,
        "steps": STEPS,
        "tokens": TOKENS,
        "train_loss": 1.0,
        "dev_bpb": 2.0,
        "stopped": "tokens",
    }


def log_of(script: str, run: dict, metrics: list[dict]) -> str:
    """The train.log of a run: the script, its config, its steps, its last lines."""
    lines = [f"config {json.dumps(run['config'])}"]
    lines += [f"step {row['step']:6} {row['elapsed']:.1f}/0 s  loss {row['loss']:.5f}  lr 1" for row in metrics]
    keys = ("seed", "steps", "tokens", "training_seconds", "train_loss", "dev_bpb", "stopped")
    lines += [f"{key}: {run[key]}" for key in keys]
    return script + "\n" + "\n".join(lines) + "\n"


def seal(folder: Path) -> None:
    """Writes the hashes of a record's files into its record.json again, as who edits a record would."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    listed = [name for name in names if name not in ("record.json", "README.md") and not name.startswith("additions/")]
    edit_json(folder / "record.json", files={name: sha256((folder / name).read_bytes()) for name in listed})


def add_score(folder: Path, seed: int) -> Path:
    """An addition to a record that fits it: one of its artifacts, scored again."""
    value = {
        "format": 1,
        "kind": "scored",
        "date": "2026-11-29",
        "by": "Bob",
        "record": additions.describe(folder),
        "seed": seed,
        "seed_commit": None,
        "bpb": 1.8,
        "documents": DOCUMENTS,
        "certified": True,
        "audit": "full",
        "artifact": {"bytes": 10, "sha256": "0" * 64},
        "scorer_sha256": "0" * 64,
        "train": None,
        "environment": {},
    }
    return additions.write(folder, value)
