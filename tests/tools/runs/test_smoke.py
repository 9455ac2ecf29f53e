"""golf smoke: which documents it takes, its commands in order, what is reused, and how it ends; once for real.

The stages of the fast tests are stubs that write what the real ones leave. Not covered: how fast it is.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest

import train_gpt
from golf.files import Failure
from tests.support import ROOT
from tools.data import text
from tools.data.embedded import Document
from tools.runs import ledger, pipeline, smoke

DOCUMENTS = [Document(f"Document {number} of a source, é.", ("news", "wiki")[number // 60]) for number in range(100)]


class Stages:
    """In place of pipeline.stage: notes each command and writes the files that it would leave under `root`."""

    def __init__(self, root):
        self.root = root
        self.calls = []
        self.error = {}  # what the stage of a name raises

    def __call__(self, name, arguments):
        self.calls.append((name, arguments))
        if name in self.error:
            raise self.error[name]
        getattr(self, name)()
        return 1.5

    def write(self, path, value):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))

    def data(self):
        self.write(self.root / "data/smoke/dev_docs.jsonl", {})
        self.write(self.root / "data/smoke/manifest.json", {})

    def run_dir(self):
        return self.root / "runs" / pipeline.run_id("smoke", smoke.DATA)

    def train(self):
        for name in ("checkpoint.pt", "statistics.pt"):
            self.write(self.run_dir() / name, name)
        self.write(self.run_dir() / "run.json", {"steps": 300, "tokens": 614400, "stopped": "clock"})

    def pack(self):
        (self.run_dir() / "model.golf").write_bytes(bytes(80_000))

    def score(self):
        result = {"bpb": 2.34567, "bpb_interval": [2.25, 2.5], "documents": 104, "raw_bytes": 191_119}
        self.write(self.run_dir() / "eval.json", result)


@pytest.fixture
def stages(tmp_path, monkeypatch):
    (tmp_path / "train_gpt.py").touch()
    for module in (smoke, pipeline):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(smoke.embedded, "download", lambda cache: {})
    monkeypatch.setattr(smoke.embedded, "read", lambda archives: iter(DOCUMENTS))
    monkeypatch.setattr(ledger, "sync", lambda root, ended=None: None)
    monkeypatch.setattr(pipeline, "code_bytes", lambda: 1000)
    stages = Stages(tmp_path)
    monkeypatch.setattr(pipeline, "stage", stages)
    return stages


def test_every_ninth_document_is_taken_with_its_source(stages, tmp_path):
    smoke.write_texts()
    files, left_out = text.files(tmp_path / "data/smoke_texts")
    found = [(document.text, document.source) for path in files for document in text.read(path)]
    wanted = [document for number, document in enumerate(DOCUMENTS) if number % 9 == 0]
    assert found == [(document.text, document.source) for document in wanted] and len(found) == 12
    assert left_out == {}


def test_the_commands_the_table_and_the_last_line(stages, capsys):
    assert smoke.main(["--json"]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    run_dir = f"runs/{stages.run_dir().name}"
    assert stages.calls == [
        ("data", ["-m", "golf", "data", "text", "data/smoke_texts", "--out", "data/smoke"]),
        ("train", ["train_gpt.py", *smoke.FLAGS, "--data_dir=data/smoke", f"--run_dir={run_dir}"]),
        ("pack", ["-m", "compress", "pack", run_dir]),
        ("score", ["eval_heldout.py", f"{run_dir}/model.golf", "--data", "data/smoke", "--split", "dev"]),
    ]
    summary = json.loads(last)
    assert summary.pop("stages").keys() == {"data", "train", "pack", "score"}
    assert summary == {
        "format": 1,
        "run_dir": run_dir,
        "val_bpb": 2.34567,
        "bpb_interval": [2.25, 2.5],
        "documents": 104,
        "raw_bytes": 191_119,
        "artifact_bytes": 80_000,
        "steps": 300,
        "tokens": 614_400,
    }
    shown = "\n".join(table)
    for piece in ("2.3457", "2.2500 to 2.5000", "80,000 B", "make run"):
        assert piece in shown


def test_what_is_there_is_reused(stages):
    smoke.make()
    stages.calls.clear()
    assert set(smoke.make()["stages"].values()) == {None} and stages.calls == []
    (stages.run_dir() / "model.golf").unlink()
    smoke.make()
    assert [name for name, _ in stages.calls] == ["pack", "score"]


@pytest.mark.parametrize("name", ["data", "train", "pack", "score"])
def test_a_failure_and_an_interruption_end_it_and_it_goes_on_from_there(stages, name):
    for error, code in ((Failure(f"the {name} stage failed"), 1), (KeyboardInterrupt(), 130)):
        stages.error = {name: error}
        with pytest.raises(Failure) as caught:
            smoke.main([])
        assert caught.value.code == code and stages.calls[-1][0] == name
    stages.error = {}
    stages.calls.clear()
    assert smoke.main([]) == 0 and stages.calls[0][0] == name


def test_an_interruption_while_reading_leaves_nothing_half_written(stages, tmp_path, monkeypatch):
    def interrupted(archives):
        yield DOCUMENTS[0]
        raise KeyboardInterrupt

    monkeypatch.setattr(smoke.embedded, "read", interrupted)
    with pytest.raises(Failure, match="interrupted"):
        smoke.main([])
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["train_gpt.py"]


def test_training_neither_compiles_nor_adapts():
    config = train_gpt.parse_config(smoke.FLAGS, {})
    assert config.preset == "tiny" and not config.compile
    assert config.score_lr == 0 and not config.score_counts and config.max_seconds <= 20


@pytest.mark.long
def test_the_real_stages_give_a_score_better_than_no_model(tmp_path):
    """In a copy of the sources, with the downloads of this checkout if there are any."""
    for name in ("golf", "compress", "scoring", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train_gpt.py", "eval_heldout.py"):
        shutil.copy(ROOT / name, tmp_path)
    downloads = ROOT / "data" / ".cache"
    if downloads.exists():
        shutil.copytree(downloads, tmp_path / "data" / ".cache")
    command = [sys.executable, "-m", "golf", "smoke", "--json"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["documents"] >= 100
    assert 1 < summary["val_bpb"] < 8  # bytes as they are need 8
