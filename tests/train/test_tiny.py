"""The whole kit in one small run on real text: corpus, training, packing, scoring, against a straight evaluation.

Also what a newcomer's acceptance asks of the committed records and of the corpus check. Not covered: `make run` at its
full length (the pocket preset), GPUs.
"""

import hashlib
import json
import math
import shutil
import sys

import filelock
import numpy as np
import pytest
import torch

import train_gpt
from golf.tokenizer import Tokenizer
from tests.support import ROOT, warm

RECORDS = sorted(ROOT.glob("records/*/*/record.json"))


def command(*arguments, code=0):
    """Runs `python ARGUMENTS` in the root, holds its exit code to `code` and returns its standard output."""
    done = warm.run([sys.executable, *map(str, arguments)], cwd=ROOT, timeout=500)
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def embedded():
    """The embedded corpus, built (downloaded, cleaned, deduplicated) unless it is there; by one process at a time."""
    (ROOT / "data").mkdir(exist_ok=True)
    with filelock.FileLock(ROOT / "data" / ".embedded.lock"):
        command("-m", "golf", "data", "embedded")
    return ROOT / "data" / "embedded"


def write_documents(folder, embedded, count):
    """A data set of the first `count` dev documents; returns their raw bytes."""
    docs = (embedded / "dev_docs.jsonl").read_bytes().splitlines(keepends=True)[:count]
    raw_bytes = sum(len(json.loads(line)["text"].encode()) for line in docs)
    data = b"".join(docs)
    file = {"name": "dev_docs.jsonl", "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    dev = {"documents": len(docs), "raw_bytes": raw_bytes, "files": [file]}
    folder.mkdir(exist_ok=True)
    (folder / "dev_docs.jsonl").write_bytes(data)
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "splits": {"dev": dev}}))
    return raw_bytes


@pytest.fixture(scope="module")
def some(embedded, tmp_path_factory):
    """A data set of 60 dev documents: a straight evaluation of all takes ten seconds."""
    folder = tmp_path_factory.mktemp("some")
    write_documents(folder, embedded, 60)
    return folder


@pytest.fixture(scope="module")
def run(embedded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "run"
    command("train_gpt.py", "--preset=tiny", "--max_seconds=0", "--max_steps=20", "--compile=false",
            f"--data_dir={embedded}", f"--run_dir={folder}")  # fmt: skip
    command("-m", "compress", "pack", folder)
    return folder


def straight_bpb(folder, data, weights):
    """Bits per byte of the dev documents, each cut into windows of seq_len from its start; sums in float64."""
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    config = train_gpt.Config(**checkpoint["config"])
    model = train_gpt.build_model(config)
    model.load_state_dict(weights)
    tokenizer = Tokenizer(bytes(checkpoint["tokenizer"].numpy()))
    nats = raw_bytes = 0
    windows = []
    for line in (data / "dev_docs.jsonl").open(encoding="utf-8"):
        text = json.loads(line)["text"]
        ids = np.concatenate([[1], tokenizer.encode(text), [1]]).astype(np.int64)
        raw_bytes += len(text.encode())
        windows += [ids[i : i + config.seq_len + 1] for i in range(0, len(ids) - 1, config.seq_len)]
    windows.sort(key=len)
    with torch.no_grad():
        for i in range(0, len(windows), 64):
            rows = windows[i : i + 64]
            padded = np.zeros((len(rows), max(map(len, rows))), np.int64)
            for row, window in zip(padded, rows):
                row[: len(window)] = window
            logp = model(torch.from_numpy(padded[:, :-1])).double().log_softmax(-1)
            for j, window in enumerate(rows):
                nats -= logp[j, torch.arange(len(window) - 1), torch.from_numpy(window[1:])].sum().item()
    return nats / math.log(2) / raw_bytes


def test_the_score_is_that_of_a_straight_evaluation(run, some, tmp_path):
    """The artifact alone gives the bits per byte that its weights have; and 20 steps beat a uniform code by far."""
    out = tmp_path / "eval.json"
    stdout = command("eval_heldout.py", run / "model.golf", "--data", some, "--split", "dev", "--out", out)
    score = json.loads(out.read_text())
    assert f"val_bpb: {score['bpb']:.4f}" in stdout
    assert f"artifact_bytes: {(run / 'model.golf').stat().st_size}" in stdout
    command("-m", "compress", "unpack", run / "model.golf", tmp_path / "unpacked")
    weights = torch.load(tmp_path / "unpacked" / "weights.pt", weights_only=True)
    assert score["bpb"] == pytest.approx(straight_bpb(run, some, weights), abs=1e-6)
    assert score["bpb"] < 4.0
    manifest = json.loads((some / "manifest.json").read_text())["splits"]["dev"]
    assert score["raw_bytes"] == manifest["raw_bytes"] and score["documents"] == manifest["documents"]
    for kind in ("source", "length", "position", "non-ascii"):
        parts = [part for name, part in score["slices"].items() if name.split()[0] == kind]
        assert score["raw_bytes"] == sum(part["raw_bytes"] for part in parts)


def test_packing_twice_gives_the_same_bytes_and_costs_little(run, some, tmp_path):
    command("-m", "compress", "pack", run, "--out", tmp_path / "again.golf")
    assert (tmp_path / "again.golf").read_bytes() == (run / "model.golf").read_bytes()
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    command("-m", "compress", "unpack", run / "model.golf", tmp_path / "unpacked")
    weights = torch.load(tmp_path / "unpacked" / "weights.pt", weights_only=True)
    before, after = (straight_bpb(run, some, w) for w in (checkpoint["model"], weights))
    assert after - before < 0.02


def test_two_ranks_train_the_tiny_preset(embedded, tmp_path):
    """And leave no thread of the process group: one that drops a tensor while Python ends aborts its rank."""
    script = tmp_path / "main.py"
    script.write_text(
        f"import sys\nfrom pathlib import Path\nsys.path.insert(0, {str(ROOT)!r})\nimport train_gpt\n"
        "assert train_gpt.main() == 0\n"
        "names = [(task / 'comm').read_text() for task in Path('/proc/self/task').glob('*')]\n"
        "assert not [name for name in names if 'gloo' in name], names\n"
    )
    command("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", script, "--preset=tiny",
            "--max_seconds=0", "--max_steps=3", "--compile=false", f"--data_dir={embedded}",
            f"--run_dir={tmp_path / 'run'}")  # fmt: skip
    result = json.loads((tmp_path / "run" / "run.json").read_text())
    assert result["world_size"] == 2 and result["steps"] == 3
    torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)


@pytest.mark.parametrize("documents", [10, pytest.param(40, marks=pytest.mark.long)])
@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.parent.name)
def test_a_committed_artifact_scores_what_its_record_says(path, documents, embedded, tmp_path):
    """On the first documents, which no scope scores otherwise where others follow: Scorers that train take minutes
    for all. The record's number is the sum of such rows."""
    record = json.loads(path.read_text())
    artifact, seed = path.parent / record["artifact"]["file"], record["artifact"]["seed"]
    rows = json.loads((path.parent / "eval" / f"seed{seed}.json").read_text())["per_document"]
    recorded = next(s["bpb"] for s in record["seeds"] if s["seed"] == seed)
    bits = sum(row["nats"] for row in rows) / math.log(2)
    assert bits / sum(row["raw_bytes"] for row in rows) == pytest.approx(recorded, abs=1e-9)
    assert write_documents(tmp_path, embedded, documents) == sum(row["raw_bytes"] for row in rows[:documents])
    command("eval_heldout.py", artifact, "--data", tmp_path, "--split", "dev", "--out", tmp_path / "eval.json")
    again = json.loads((tmp_path / "eval.json").read_text())["per_document"]
    assert [row["id"] for row in again] == [row["id"] for row in rows[:documents]]
    assert [row["nats"] for row in again] == pytest.approx([row["nats"] for row in rows[:documents]], rel=3e-5)
    assert artifact.stat().st_size == record["artifact"]["bytes"] <= 250_000


@pytest.mark.long
def test_the_corpus_check_passes_and_names_a_document_copied_from_train(embedded, tmp_path):
    command("-m", "golf", "data", "check", embedded)
    copy = tmp_path / "copy"
    shutil.copytree(embedded, copy)
    tokenizer = Tokenizer((copy / "tokenizer.model").read_bytes())
    tokens = np.fromfile(copy / "train_000000.bin", "<u2", offset=1024)
    starts = np.flatnonzero(tokens == 1)
    text = tokenizer.decode(tokens[starts[7] + 1 : starts[8]]).decode()
    with (copy / "dev_docs.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"id": "copied", "source": "news", "text": text}, ensure_ascii=False) + "\n")
    stdout = command("-m", "golf", "data", "check", copy, code=1)
    assert " ".join(text.split()[:3]) in " ".join(stdout.split())
