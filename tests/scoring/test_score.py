"""scoring/score.py: the boxed score against a straight in-process evaluation, and a damaged artifact.

Not covered: what a hostile artifact does in its box (tests/golf/box/), scorers that adapt, and audits (test_audits.py),
the command (test_eval_heldout.py).
"""

import math

import numpy as np
import pytest

from golf.files import Failure
from scoring import passes
from scoring import score as scoring_score
from tests.support.scoring_world import document_id, lanes_of, plain_evaluation, write_data

pytestmark = pytest.mark.usefixtures("warm_boxes")


@pytest.mark.parametrize("processes, batch_tokens", [(1, 8192), (2, 24)])
def test_equals_plain_evaluation_whatever_the_batches_and_processes(world, monkeypatch, processes, batch_tokens):
    monkeypatch.setattr(passes, "BATCH_TOKENS", batch_tokens)
    result = world.score(world.artifact(), processes)
    expected = plain_evaluation(world, 8)
    assert np.allclose([row["nats"] for row in result["per_document"]], expected, rtol=1e-6)
    raw_bytes = sum(len(text.encode()) for text in world.texts)
    assert result["bpb"] == pytest.approx(expected.sum() / math.log(2) / raw_bytes, rel=1e-7)
    assert (result["raw_bytes"], result["documents"], result["scope"]) == (raw_bytes, len(world.texts), "document")
    assert result["tokens"] == sum(map(len, lanes_of(world)))
    assert result["bpb_interval"][0] < result["bpb"] < result["bpb_interval"][1]
    assert result["processes"] == processes == len(result["ledger"])
    assert [row["id"] for row in result["per_document"]] == list(map(document_id, world.texts))
    for name in ("prose", "other"):
        rows = [row for row in result["per_document"] if row["source"] == name]
        part = result["slices"][f"source {name}"]
        assert part["documents"] == len(rows) and part["raw_bytes"] == sum(row["raw_bytes"] for row in rows)
        assert part["bpb"] == pytest.approx(sum(row["nats"] for row in rows) / math.log(2) / part["raw_bytes"])
        assert part["bpb_interval"][0] < part["bpb"] < part["bpb_interval"][1]
    for kind in ("source", "length", "position", "non-ascii"):
        parts = [part for name, part in result["slices"].items() if name.startswith(kind)]
        assert len(parts) > 1 and sum(part["raw_bytes"] for part in parts) == raw_bytes
        assert sum(part["nats"] for part in parts) == pytest.approx(expected.sum(), abs=0.01)


def test_config_reaches_the_script(world, monkeypatch):
    """seq_len from the artifact's CONF changes the windows, and so the score. One document a batch, too."""
    monkeypatch.setattr(passes, "BATCH_TOKENS", 1)
    result = world.score(world.artifact(config={"seq_len": 13}))
    assert np.allclose([row["nats"] for row in result["per_document"]], plain_evaluation(world, 13), rtol=1e-6)


def test_damaged_file_is_one_line(world, tmp_path):
    damaged = tmp_path / "damaged.golf"
    with open(world.artifact(), "rb") as file:
        data = file.read()
    damaged.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(Failure, match="checksum"):
        world.score(str(damaged))


def test_one_document_of_20_megabytes_is_refused_by_name(world, tmp_path):
    text = "a long walk " * (20_000_000 // 12)
    write_data(tmp_path / "data", [*world.texts, text])
    with pytest.raises(Failure, match=f"line {len(world.texts) + 1}: document {document_id(text)} holds 19,999,992"):
        scoring_score.score(world.artifact(), str(tmp_path / "data"), "dev", 1)
