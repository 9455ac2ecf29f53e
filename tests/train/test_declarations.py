"""What parameters declare: groups and row blocks, the error without one, what a checkpoint carries; and old artifacts.

Not covered: what the optimisers do with it (test_model.py), what packing does (tests/compress/test_declarations.py).
"""

import importlib.util
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

import train_gpt as t
from compress.decode import decode_weights
from golf import container
from tests.support import ROOT
from tests.support.small_models import ALL, SMALL

RECORD = ROOT / "records/pocket/0004_case_operators"


def by_name(name, shape, config):
    """Group and rows as scripts before these declarations took them from names and shapes."""
    if name == "embed.weight":
        return "embedding", [shape[0]]
    if not name.endswith(".weight"):
        return "scalar", [shape[0]]
    width = config.model_dim // config.num_heads
    fused = [config.num_heads * width] + [config.num_kv_heads * width] * 2
    return "muon", fused if "qkv" in name else [shape[0]]


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, **ALL)], ids=["plain", "all"])
def test_every_parameter_declares_what_its_name_used_to_say(config):
    model = t.build_model(config)
    declared = t.declarations(model)
    assert list(declared) == [name for name, _ in model.named_parameters()]
    for name, p in model.named_parameters():
        group, rows = by_name(name, p.shape, config)
        assert declared[name] == {"group": group, "rows": rows} and sum(rows) == len(p)


def test_a_matrix_that_nobody_declared_stops_the_run_and_says_what_to_write():
    model = t.build_model(SMALL)
    model.extra = nn.Parameter(torch.zeros(4))  # a vector needs none
    assert t.declarations(model)["extra"] == {"group": "scalar", "rows": [4]}
    model.blocks[1].extra = nn.Linear(16, 8)
    expected = r'blocks.1.extra.weight \[8, 16\]: write declare\(parameter, "muon"\)'
    with pytest.raises(t.RunError, match=expected):
        t.Optimizers(model, SMALL, torch.float32, 1, 0)
    t.declare(model.blocks[1].extra.weight, "muon", rows=(3, 5))
    optimizers = t.Optimizers(model, SMALL, torch.float32, 1, 0)
    shapes = {shape: len(bank) for shape, bank in optimizers.muon.banks}
    assert shapes[(3, 16)] == shapes[(5, 16)] == 1 and any(p is model.extra for p in optimizers.adam_params)
    t.declare(model.blocks[1].extra.weight, "nonsense")
    with pytest.raises(t.RunError, match="blocks.1.extra.weight"):
        t.declarations(model)


def test_a_map_whose_output_the_loss_ignores_has_no_statistics_and_the_others_keep_theirs():
    model = t.build_model(SMALL)
    unused = t.matrix(16, 8)
    model.blocks[0].unused = unused
    plain = model.blocks[0].forward

    def forward(x, *others):
        unused(x)
        return plain(x, *others)

    model.blocks[0].forward = forward
    moments = t.SecondMoments(model)
    moments.batch(model, torch.randint(0, SMALL.vocab_size, (2, 12)), torch.Generator().manual_seed(5))
    linear = moments.result(1)["linear"]
    matrices = [name for name, each in t.declarations(model).items() if each["group"] == "muon"]
    assert set(linear) == {*matrices, "embed.weight"} - {"blocks.0.unused.weight"}
    assert all(entry["output_gradient"].isfinite().all() for entry in linear.values())


def test_the_weights_of_record_0004_give_the_same_logits_in_this_script(monkeypatch):
    sections = container.read((RECORD / "case_operators.golf").read_bytes())
    config, weights = container.config_unpack(sections["CONF"]), decode_weights(sections["WGTS"])
    spec = importlib.util.spec_from_file_location("record_0004", RECORD / "train_gpt.py")
    record = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "record_0004", record)  # dataclasses look the module up
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a record's folder holds its own files alone
    spec.loader.exec_module(record)
    logits = []
    for script in (record, t):
        model = script.build_model(script.Config(**config)).eval()
        model.load_state_dict(weights, strict=True)
        tokens = torch.randint(0, config["vocab_size"], (2, 96), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            logits.append(model(tokens))
    assert torch.equal(*logits) and logits[0].std() > 0.1
