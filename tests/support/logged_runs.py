"""Hand-made folders of runs for the tests of the log: trained, packed, scored."""

import hashlib
import json

SCRIPT = "WIDTH = 64\nprint(WIDTH)\n"


def train(root, name, seed=1, script=SCRIPT, dev_bpb=2.0, **config):
    folder = root / "runs" / name
    folder.mkdir()
    sha256 = hashlib.sha256(script.encode()).hexdigest()
    config = {"width": 64, "seed": seed, "run_dir": f"runs/{name}", "track": "pocket"} | config
    (folder / "train.log").write_text(f"{script}\n# source_sha256 {sha256}\nconfig {json.dumps(config)}\nstep 1\n")
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": i, "elapsed": i, "loss": 5 - i / 10}) + "\n" for i in range(1, 6))
    )
    (folder / "run.json").write_text(
        json.dumps(
            {
                "track": config["track"],
                "preset": "pocket",
                "seed": seed,
                "config": config,
                "source_sha256": sha256,
                "data": {"manifest_sha256": "m"},
                "training_seconds": 9.5,
                "steps": 5,
                "train_loss": float("nan"),
                "dev_bpb": dev_bpb,
                "stopped": "clock",
            }
        )
    )
    return folder


def pack(folder, data=b"GOLF"):
    (folder / "model.golf").write_bytes(data)


def score(folder, bpb, split="dev"):
    artifact = hashlib.sha256((folder / "model.golf").read_bytes()).hexdigest()
    (folder / "eval.json").write_text(
        json.dumps(
            {
                "bpb": bpb,
                "artifact": {"sha256": artifact},
                "scope": "document",
                "slices": {"news": {"bpb": bpb + 1}},
                "data": {"split": split, "docs_sha256": "d", "manifest_sha256": "m"},
            }
        )
    )


def kinds(rows):
    return [(row["kind"], row["run"]) for row in rows]
