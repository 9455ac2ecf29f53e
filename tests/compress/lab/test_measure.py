"""What packing costs on text, measured in the box, against forwards of the same models here."""

import json
import math
import shutil
import sys
from dataclasses import replace

import brotli
import numpy as np
import pytest
import torch

from compress.checkpoint import load_checkpoint
from compress.decode import decode_weights
from compress.lab.measure import measure_packed, measure_sets
from golf import tokenizer_section
from golf.shards import write_shard
from tests.support.packed import (
    CONFIG,
    SMALL_SOURCE,
    SOURCE,
    measured_run,
    packed_toy,
    weights_section,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_boxes")]


@pytest.fixture(scope="module")
def packed():
    return packed_toy()


@pytest.fixture(scope="module")
def run():
    return measured_run()


def test_measuring_equals_a_forward_by_hand(packed, tmp_path):
    run, report = packed
    tokens = np.random.default_rng(3).integers(0, 300, 2000).astype("<u2")
    write_shard(tmp_path / "dev_000000.bin", tokens)
    split = {"documents": 1, "raw_bytes": 5000, "tokens": 2000, "files": [{"name": "dev_000000.bin"}]}
    (tmp_path / "manifest.json").write_text(json.dumps({"splits": {"dev": split}}))
    measured = measure_packed(run, report, tmp_path)
    namespace = {"__name__": "toy"}
    sys.modules["toy"] = type(sys)("toy")  # dataclasses look their module up
    exec(compile(SOURCE, "toy", "exec"), namespace)
    weights = decode_weights(weights_section(run / "model.golf"))
    logs = []
    for state in (torch.load(run / "checkpoint.pt")["model"], weights):
        model = namespace["build_model"](namespace["Config"](**CONFIG))
        model.load_state_dict(state)
        with torch.no_grad():
            logs.append(model(torch.from_numpy(tokens[:1536].astype(np.int64)).view(3, 512)).double().log_softmax(-1))
    kl = (logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean().item()
    target = torch.from_numpy(tokens[1:1537].astype(np.int64)).view(3, 512, 1)
    assert measured["tokens"] == 1536 and measured["bytes_per_token"] == 2.5
    assert measured["kl"] == pytest.approx(kl / 2.5 / math.log(2), rel=1e-4)
    for key, log in zip(("bpb", "packed_bpb"), logs, strict=True):
        assert measured[key] == pytest.approx(-log.gather(-1, target).mean().item() / 2.5 / math.log(2))
    assert set(measured["group_kl"]) == {row["type"] for row in report["types"]} | {"vectors"}
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ValueError, match="no dev split"):
        measure_packed(run, report, tmp_path)


def test_sets_are_measured_as_the_model_itself_gives(run):
    """KL of one set against a model built here."""
    checkpoint, data = load_checkpoint(run), run.parent.parent / "data"
    changed = {"up.weight": torch.zeros_like(checkpoint.model["up.weight"])}
    zero, other = measure_sets(checkpoint, [{}, changed], data, 320)
    space = {}
    exec(SMALL_SOURCE, space)
    model, logs = space["build_model"](None), []
    tokens = torch.from_numpy(np.fromfile(data / "dev_000000.bin", "<u2", 321, offset=1024).astype(np.int64))
    for weights in (checkpoint.model, {**checkpoint.model, **changed}):
        model.load_state_dict(weights)
        with torch.no_grad():
            logs.append(model(tokens[:-1].view(-1, 32)).double().log_softmax(-1))
    kl = (logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean().item() / 2 / math.log(2)
    loss = [-log.gather(-1, tokens[1:].view(-1, 32, 1)).mean().item() / 2 / math.log(2) for log in logs]
    assert zero == {"kl": 0.0, "bpb": pytest.approx(loss[0])}
    assert other == {"kl": pytest.approx(kl), "bpb": pytest.approx(loss[1])}

    same, another = (run.parent.parent / name for name in ("same", "another"))  # data with a tokenizer beside it
    for folder, pieces in ((same, b"th\nthe\n an"), (another, b"th\nthe\n on")):
        shutil.copytree(data, folder)
        (folder / "tokenizer.model").write_bytes(tokenizer_section.rebuild(brotli.compress(pieces)))
    assert measure_sets(checkpoint, [{}], same, 320) == [zero]
    with pytest.raises(ValueError, match="another tokenizer than the model"):
        measure_sets(checkpoint, [{}], another, 320)


def test_a_script_that_fails_is_one_line(run):
    checkpoint = replace(load_checkpoint(run), source="raise RuntimeError('no\\nway')")
    with pytest.raises(ValueError, match="own script: importing train_gpt.py: RuntimeError: no way") as caught:
        measure_sets(checkpoint, [{}], run.parent.parent / "data", 320)
    assert "\n" not in str(caught.value)
