"""The whole kit in one small run on real text: corpus, training, packing, scoring, against a straight evaluation.

Also what a newcomer's acceptance asks of the committed records and of the corpus check. Not covered: `make run` at its
full length (the pocket preset), GPUs; packing and scoring as programs of their own, which tests/scoring/
test_eval_heldout.py, tests/tools/runs/test_smoke.py and tests/tools/records/test_reproduce_tiny.py start.
"""

import contextlib
import hashlib
import io
import json
import math
import shutil
import signal
import sys

import numpy as np
import pytest
import torch

import eval_heldout
import train_gpt
from golf.tokenizer import Tokenizer
from golf.tracks import TRACKS
from tests.support import ROOT, sample, warm
from tests.support.packed import compress_cli

pytestmark = pytest.mark.usefixtures("warm_boxes")

RECORDS = sorted(ROOT.glob("records/*/*/record.json"))


def command(*arguments, code=0):
    """Runs `python ARGUMENTS` in the root, holds its exit code to `code` and returns its standard output."""
    done = warm.run([sys.executable, *map(str, arguments)], cwd=ROOT, timeout=500)
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def score(artifact, data, out, *options):
    """What eval_heldout.py prints of an artifact on dev; its result is in `out`. In this process, so that boxes start
    warm."""
    printed, before = io.StringIO(), signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.redirect_stdout(printed):
            words = [artifact, "--data", data, "--split", "dev", "--out", out, *options]
            assert eval_heldout.main(list(map(str, words))) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    return printed.getvalue()


@pytest.fixture(scope="module")
def embedded():
    """The embedded corpus, built (downloaded, cleaned, deduplicated) unless it is there: one worker builds it, and the
    command makes the others wait."""
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
    """A data set of 20 dev documents: a straight evaluation of all takes ten seconds."""
    folder = tmp_path_factory.mktemp("some")
    write_documents(folder, embedded, 20)
    return folder


@pytest.fixture(scope="module")
def run(embedded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "run"
    command("train_gpt.py", "--preset=tiny", "--max_seconds=0", "--max_steps=20", "--compile=false",
            f"--data_dir={embedded}", f"--run_dir={folder}")  # fmt: skip
    done = compress_cli("pack", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def unpacked(run, tmp_path_factory):
    """The weights of its artifact."""
    folder = tmp_path_factory.mktemp("tiny") / "unpacked"
    done = compress_cli("unpack", run / "model.golf", folder)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "weights.pt", weights_only=True)


@pytest.fixture(scope="module")
def straight(run, some, unpacked):
    """The straight evaluation of the artifact's weights on `some`."""
    return straight_bpb(run, some, unpacked)


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


def test_the_score_is_that_of_a_straight_evaluation(run, some, straight, tmp_path):
    """The artifact alone gives the bits per byte that its weights have; and 20 steps beat a uniform code by far."""
    stdout = score(run / "model.golf", some, tmp_path / "eval.json")
    result = json.loads((tmp_path / "eval.json").read_text())
    assert f"val_bpb: {result['bpb']:.4f}" in stdout
    assert f"artifact_bytes: {(run / 'model.golf').stat().st_size}" in stdout
    assert result["bpb"] == pytest.approx(straight, abs=1e-6)
    assert result["bpb"] < 4.0
    manifest = json.loads((some / "manifest.json").read_text())["splits"]["dev"]
    assert result["raw_bytes"] == manifest["raw_bytes"] and result["documents"] == manifest["documents"]
    for kind in ("source", "length", "position", "non-ascii"):
        parts = [part for name, part in result["slices"].items() if name.split()[0] == kind]
        assert result["raw_bytes"] == sum(part["raw_bytes"] for part in parts)


def test_packing_twice_gives_the_same_bytes_and_costs_little(run, some, straight, tmp_path):
    assert compress_cli("pack", run, "--out", tmp_path / "again.golf").returncode == 0
    assert (tmp_path / "again.golf").read_bytes() == (run / "model.golf").read_bytes()
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    assert straight - straight_bpb(run, some, checkpoint["model"]) < 0.02


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


@pytest.mark.parametrize("documents", [5, pytest.param(40, marks=pytest.mark.long)])
@pytest.mark.parametrize("path", sample(reversed(RECORDS), len(RECORDS)), ids=lambda p: p.parent.name)
def test_a_committed_artifact_scores_what_its_record_says(path, documents, embedded, tmp_path):
    """On the first documents, which no scope scores otherwise where others follow: Scorers that train take minutes
    for all. The record's number is the sum of such rows. One box, which decodes once."""
    record = json.loads(path.read_text())
    artifact, seed = path.parent / record["artifact"]["file"], record["artifact"]["seed"]
    rows = json.loads((path.parent / "eval" / f"seed{seed}.json").read_text())["per_document"]
    recorded = next(s["bpb"] for s in record["seeds"] if s["seed"] == seed)
    bits = sum(row["nats"] for row in rows) / math.log(2)
    assert bits / sum(row["raw_bytes"] for row in rows) == pytest.approx(recorded, abs=1e-9)
    assert write_documents(tmp_path, embedded, documents) == sum(row["raw_bytes"] for row in rows[:documents])
    score(artifact, tmp_path, tmp_path / "eval.json", "--processes", 1)
    again = json.loads((tmp_path / "eval.json").read_text())["per_document"]
    assert [row["id"] for row in again] == [row["id"] for row in rows[:documents]]
    assert [row["nats"] for row in again] == pytest.approx([row["nats"] for row in rows[:documents]], rel=3e-5)
    assert artifact.stat().st_size == record["artifact"]["bytes"] <= TRACKS[record["track"]].cap_bytes


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
