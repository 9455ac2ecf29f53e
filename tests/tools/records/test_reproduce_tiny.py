"""golf reproduce on the tiny preset of train_gpt.py: trained, packed, scored and certified twice, once by hand.

Not covered: refusals and verdicts (test_reproduce.py); the pocket preset, which takes ten minutes.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from golf.files import sha256_file
from tests.support import ROOT, small_record
from tests.support.texts import prose
from tools.records import additions, again, reproduce

pytestmark = [pytest.mark.long, pytest.mark.skipif(sys.platform != "linux", reason="Linux only")]
SEED = 5
FLAGS = ("--max_seconds=0", "--max_steps=12", "--vocab_size=700", "--dev_tokens=4096", "--compile=false")


def python(*words: object, cwd: Path = ROOT) -> None:
    done = subprocess.run([sys.executable, *map(str, words)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.fixture
def record(tmp_path, monkeypatch) -> Path:
    """A record of one seed, made by the public commands from the script in the root and a small data set."""
    (tmp_path / "texts").mkdir()
    for number in range(150):
        (tmp_path / f"texts/{number}.txt").write_text(prose(number, 300 + number))
    data = tmp_path / "data/own"
    data.parent.mkdir()
    python("-m", "golf", "data", "text", tmp_path / "texts", "--out", data, "--variant", "sp700")

    folder, run = tmp_path / "records/pocket/0001_tiny", tmp_path / "run"
    for place in ("logs", "artifacts"):
        (folder / place).mkdir(parents=True)
    shutil.copyfile(ROOT / "train_gpt.py", folder / "train_gpt.py")
    words = ["--preset=tiny", *FLAGS, "--data_dir=data/own", f"--seed={SEED}", "--run_dir=run"]
    python(folder / "train_gpt.py", *words, cwd=tmp_path)
    artifact = folder / f"artifacts/seed{SEED}.golf"
    python("-m", "compress", "pack", run, "--out", artifact)
    python("eval_heldout.py", artifact, "--data", data, "--out", run / "eval.json")
    shutil.copyfile(run / "run.json", folder / f"logs/seed{SEED}.run.json")
    made, score = (json.loads((run / name).read_text()) for name in ("run.json", "eval.json"))
    row = {
        "seed": SEED,
        "bpb": score["bpb"],
        "artifact_bytes": artifact.stat().st_size,
        "train_seconds": made["training_seconds"],
        "steps": made["steps"],
        "tokens": made["tokens"],
        "artifact_file": f"artifacts/seed{SEED}.golf",
        "artifact_sha256": sha256_file(artifact),
    }
    small_record.write_record(folder, data, [row])
    monkeypatch.setattr(again, "ROOT", tmp_path)
    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    return folder


def test_the_tiny_preset_is_reproduced_in_the_box(record, capfd):
    assert reproduce.main([str(record), "--by", "me", "--audit", "quick", "--json"]) == 0
    (run,) = json.loads(capfd.readouterr().out.splitlines()[-1])["runs"]
    about = json.loads((record / "record.json").read_text())
    assert run["bpb"] == pytest.approx(about["seeds"][0]["bpb"], abs=0.002)
    (addition,) = additions.read(record)
    assert addition["certified"] and addition["train"]["steps"] == 12
    assert (run["outcome"] == reproduce.EXACTLY) == (run["bpb"] == about["seeds"][0]["bpb"])
