"""The packer from a run folder to a .golf file, with GPTQ under it and the box at its end."""

import math
import os

import numpy as np
import pytest
import torch

from compress.checkpoint import load_checkpoint, load_statistics
from compress.decode import decode_weights, read_codes
from compress.pack import FINEST_LOSS, OverCap, pack_run
from compress.quantise import make_plan, quantise, scales_of
from golf import container, tokenizer_section
from tests.support import ROOT
from tests.support.packed import CONFIG, NARROW, SOURCE, TOKENIZER, make_run, packed_toy, weights_section

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_boxes")]


@pytest.fixture(scope="module")
def packed():
    return packed_toy()


def test_pack_reports_what_it_wrote(packed):
    run, report = packed
    data = (run / "model.golf").read_bytes()
    sections = container.read(data)
    assert report["artifact"] == str(run / "model.golf") and report["artifact_bytes"] == len(data)
    assert report["cap_bytes"] == 250_000 and report["headroom_bytes"] == 250_000 - len(data)
    assert report["sections"] == {tag: len(payload) for tag, payload in sections.items()} | {
        "overhead": container.OVERHEAD_BYTES
    }
    assert sum(report["sections"].values()) == len(data)
    weights = sum(tensor.numel() for tensor in torch.load(run / "checkpoint.pt")["model"].values())
    assert report["bits_per_weight"] == pytest.approx(8 * len(sections["WGTS"]) / weights)
    assert report["seconds"] > 0
    assert container.config_unpack(sections["CONF"]) == CONFIG
    assert tokenizer_section.rebuild(sections["TOKN"]) == TOKENIZER
    assert sorted(os.listdir(run)) == ["checkpoint.pt", "model.golf", "statistics.pt"]


def test_packed_weights_are_gptq_codes_of_the_checkpoint(packed):
    """The file holds what quantise() gives for the reported dial, with the statistics of the run."""
    run, report = packed
    stored = read_codes(weights_section(run / "model.golf"))
    checkpoint = load_checkpoint(run)
    plan = make_plan(checkpoint.model, load_statistics(run, checkpoint.model))
    tensors = quantise(plan, report["dial"]).tensors
    assert set(stored) == set(tensors) == {row["name"] for row in report["tensors"]}
    for name in ("embed.weight", "blocks.1.down.weight"):
        assert np.array_equal(stored[name][1], tensors[name].codes)
    assert stored["blocks.0.gain"][1] is None


def test_reported_loss_is_that_of_the_decoded_weights(packed):
    run, report = packed
    weights = decode_weights(weights_section(run / "model.golf"))
    model, statistics = torch.load(run / "checkpoint.pt")["model"], torch.load(run / "statistics.pt")
    expected = 0.0
    for layer in range(2):
        error = (model[f"blocks.{layer}.up.weight"] - weights[f"blocks.{layer}.up.weight"]).double()
        hessian = statistics["taps"][f"{layer}.in"].double()
        expected += 0.5 * torch.einsum("rc,cd,rd", error, hessian, error).item()
    row = {row["type"]: row for row in report["types"]}["blocks.*.up.weight"]
    assert row["weights"] == 2 * 192 * 48 and row["actual"] == pytest.approx(expected, rel=1e-6)
    assert row["forecast"] == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize("room", [16_000, pytest.param(30_000, marks=pytest.mark.long)])
def test_the_file_fills_its_cap(packed, tmp_path, monkeypatch, room):
    """Between 99.9% and 100% of what the other sections leave."""
    run, report = packed
    rest = report["artifact_bytes"] - report["sections"]["WGTS"]
    monkeypatch.setattr("compress.sizes.CAP_BYTES", {"pocket": rest + room, "2mb": 1, "16mb": 1, "open": 1})
    lines = []
    filled = pack_run(run, tmp_path / "m.golf", announce=lines.append)
    assert 0 <= filled["headroom_bytes"] <= 0.001 * room and filled["warnings"] == []
    forecast = sum(row["forecast"] for row in filled["types"])
    assert len(lines) == 1 and f"{room:,} bytes" in lines[0]
    assert float(lines[0].split()[3]) == pytest.approx(forecast, rel=0.3) and "nats per token" in lines[0]
    assert filled["predicted_rise"] is None  # how many bytes a token has is not known
    assert os.path.getsize(tmp_path / "m.golf") == filled["artifact_bytes"]


def test_the_forecast_is_in_bits_per_byte_where_the_checkpoint_knows_them(packed, tmp_path):
    nats = sum(row["actual"] for row in packed[1]["types"])
    run, lines = make_run(tmp_path / "run", edit=lambda c: c.update(bytes_per_token=2.5)), []
    report = pack_run(run, announce=lines.append)
    assert report["predicted_rise"] == pytest.approx(nats / 2.5 / np.log(2), rel=1e-6)
    bits, nats = (float(word.strip("(")) for word in (lines[0].split()[3], lines[0].split()[7]))
    assert "bits per byte" in lines[0] and bits == pytest.approx(nats / 2.5 / np.log(2), abs=1e-5)


def test_a_model_too_small_for_its_cap_stops_at_the_finest_useful_steps(packed):
    _, report = packed
    assert report["headroom_bytes"] > 0.001 * report["cap_bytes"]
    assert len(report["warnings"]) == 1 and "train a larger model" in report["warnings"][0]
    assert 0.5 * FINEST_LOSS < sum(row["actual"] for row in report["types"]) < 2 * FINEST_LOSS


@pytest.mark.slow
def test_an_interrupted_pack_leaves_no_file(tmp_path):
    for stage in ("rounding", "coding", "checking"):
        run = make_run(tmp_path / stage, config=NARROW)

        def stop(name, done, total, stage=stage):
            if name.startswith(stage):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            pack_run(run, progress=stop)
        assert sorted(os.listdir(run)) == ["checkpoint.pt", "statistics.pt"]


def test_two_packs_give_the_same_bytes(packed, tmp_path):
    run, _ = packed
    pack_run(run, tmp_path / "again.golf")
    assert (tmp_path / "again.golf").read_bytes() == (run / "model.golf").read_bytes()


def test_without_statistics_it_warns_and_rounds_to_nearest(tmp_path, monkeypatch):
    """One step per matrix, in proportion to its size."""
    run = make_run(tmp_path / "run", config=NARROW)
    (run / "statistics.pt").unlink()
    report = pack_run(run)
    assert "no statistics.pt" in report["warnings"][0] and "larger model" in report["warnings"][1]
    _, codes, _, rows, columns, values = read_codes(weights_section(run / "model.golf"))["blocks.0.up.weight"]
    assert len(set(rows.tolist())) == 1 and not columns.any()
    step = scales_of(report["dial"])[rows[0] & 3] * 2.0 ** (rows[0] >> 2)
    weight = torch.load(run / "checkpoint.pt")["model"]["blocks.0.up.weight"].numpy()
    assert np.abs(values - weight).max() <= 2.01 * step and np.sqrt(np.mean((values - weight) ** 2)) < 0.54 * step
    assert all(row["actual"] is None for row in report["types"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_checkpoints(tmp_path, dtype):
    def edit(checkpoint):
        checkpoint["model"] = {name: tensor.to(dtype) for name, tensor in checkpoint["model"].items()}

    run = make_run(tmp_path / "run", config=NARROW, edit=edit)
    pack_run(run)
    gain = decode_weights(weights_section(run / "model.golf"))["blocks.0.gain"]
    torch.testing.assert_close(
        gain, torch.load(run / "checkpoint.pt")["model"]["blocks.0.gain"].float(), rtol=0, atol=2**-13
    )


def drop(key):
    return lambda checkpoint: checkpoint.pop(key)


def put(path, value):
    def edit(checkpoint):
        for key in path[:-1]:
            checkpoint = checkpoint[key]
        checkpoint[path[-1]] = value

    return edit


BAD_CHECKPOINTS = {
    "nan": (put(["model", "blocks.0.gain"], torch.full((16,), math.nan)), ["blocks.0.gain", "16 NaN or infinite"]),
    "inf": (put(["model", "embed.weight"], torch.full((300, 16), math.inf)), ["embed.weight", "infinite"]),
    "integer": (put(["model", "counts"], torch.arange(3)), ["counts", "int64"]),
    "missing tensor": (
        lambda checkpoint: checkpoint["model"].pop("temperature"),
        ["loading the weights", "temperature"],
    ),
    "no source": (drop("source"), ["checkpoint.pt", "source"]),
    "edited source": (put(["source"], SOURCE + "\n"), ["source_sha256"]),
    "format": (put(["format"], 2), ["format 1"]),
    "tokenizer": (put(["tokenizer"], torch.ones(30, dtype=torch.uint8)), ["okenizer"]),
    "config": (put(["config"], {"widht": 16}), ["building the model", "widht"]),
    "config value": (put(["config"], {"width": torch.float32}), ["config", "dtype"]),
    "track": (put(["track"], "lunar"), ["lunar", "pocket"]),
    "bytes per token": (put(["bytes_per_token"], -2.0), ["bytes_per_token", "-2.0"]),
}


@pytest.mark.parametrize("case", BAD_CHECKPOINTS)
def test_bad_checkpoints_are_named_and_leave_no_file(tmp_path, case):
    edit, parts = BAD_CHECKPOINTS[case]
    run = make_run(tmp_path / "run", config=NARROW, edit=edit)
    with pytest.raises(ValueError) as caught:
        pack_run(run)
    assert all(part in str(caught.value) for part in parts) and "\n" not in str(caught.value), caught.value
    assert sorted(os.listdir(run)) == ["checkpoint.pt", "statistics.pt"]


def test_statistics_of_another_run_are_refused(tmp_path):
    run = make_run(tmp_path / "run")
    statistics = torch.load(run / "statistics.pt")
    for edit, part in (
        (lambda s: s["taps"].update(head=torch.eye(7)), "tap head of embed.weight"),
        (lambda s: s["taps"]["0.in"].fill_(math.nan), "tap 0.in"),
        (lambda s: s["linear"].update(other={"tap": "head"}), "other is not in the checkpoint"),
        (lambda s: s["linear"].update(temperature=3), "tap None of temperature"),
        (
            lambda s: s["linear"]["embed.weight"].update(output_gradient=torch.ones(3)),
            "output_gradient of embed.weight",
        ),
        (lambda s: s["embedding"].update(other={}), "other is no matrix"),
        (lambda s: s["embedding"].update({"embed.weight": {"row_gradient": None}}), "row_gradient of embed.weight"),
    ):
        broken = {
            **statistics,
            "taps": {k: v.clone() for k, v in statistics["taps"].items()},
            "linear": {k: dict(v) for k, v in statistics["linear"].items()},
            "embedding": dict(statistics["embedding"]),
        }
        edit(broken)
        torch.save(broken, run / "statistics.pt")
        with pytest.raises(ValueError, match=part):
            pack_run(run)


def test_a_decoder_that_disagrees_is_caught(tmp_path, monkeypatch):
    """The comparison is of decoded bytes: a decoder off by one unit in the last place fails, and no file appears."""
    source = (
        (ROOT / "compress/decode.py")
        .read_text()
        .replace("values = np.ldexp(values * scales", "values = np.ldexp(np.nextafter(values, 9) * scales")
    )
    (tmp_path / "decode.py").write_text(source)
    monkeypatch.setattr("compress.minify.DECODER", tmp_path / "decode.py")
    run = make_run(tmp_path / "run", config=NARROW)
    with pytest.raises(ValueError, match="decodes to other values"):
        pack_run(run)
    assert not (run / "model.golf").exists()


def test_over_the_cap_writes_nothing_and_says_by_how_much(packed, tmp_path, monkeypatch):
    """Even the coarsest steps need names, shapes and tables."""
    run, report = packed
    rest = report["artifact_bytes"] - report["sections"]["WGTS"]
    monkeypatch.setattr("compress.sizes.CAP_BYTES", {"pocket": rest + 300, "2mb": 1, "16mb": 1, "open": 1})
    with pytest.raises(OverCap, match=r"\d over the cap of [\d,]+ \(pocket\): train a model with about"):
        pack_run(run, tmp_path / "out.golf")
    assert os.listdir(tmp_path) == []
