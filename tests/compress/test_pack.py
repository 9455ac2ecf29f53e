"""The packer from a run folder to a .golf file, GPTQ under it, and the command line over it."""

import hashlib
import json
import math
import os
import subprocess
import sys

import brotli
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.__main__ import main
from compress.checkpoint import Statistics, load_checkpoint, load_statistics
from compress.decode import decode_weights, read_codes
from compress.entropy import encode_weights
from compress.pack import FINEST_LOSS, Attempt, OverCap, measure_packed, pack_run
from compress.quantise import decoded, make_plan, quantise, scales_of
from compress.sizes import entropy_bits
from compress.trellis import RESTART
from golf import container, tokenizer_section
from tests.support import ROOT

CONFIG = {"width": 48, "layers": 2}
SOURCE = '''
"""A toy in the shape of train_gpt.py."""
from dataclasses import dataclass
import torch
from torch import nn

@dataclass(frozen=True)
class Config:
    """Every knob."""
    vocab_size: int = 300
    width: int = 32
    layers: int = 1

class Block(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.up = nn.Linear(config.width, 4 * config.width, bias=False)
        self.down = nn.Linear(4 * config.width, config.width, bias=False)
        self.gain = nn.Parameter(torch.ones(config.width))  # a comment

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        return stream + self.gain * self.down(torch.relu(self.up(stream)).square())

class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for layer in range(config.layers))
        self.temperature = nn.Parameter(torch.tensor(1.0))

    def forward(self, tokens):
        stream = self.embed(tokens)
        for block in self.blocks:
            stream = block(stream)
        return stream @ self.embed.weight.T * self.temperature

def build_model(config):
    return GPT(config)
'''


def correlated(rows, columns, generator, rank=None):
    """E[x x^T] of inputs with a decaying spectrum: [columns, columns]."""
    inputs = torch.randn(rows, rank or columns, generator=generator, dtype=torch.float64)
    mixed = inputs @ torch.randn(rank or columns, columns, generator=generator, dtype=torch.float64)
    mixed *= torch.linspace(0.1, 2, columns, dtype=torch.float64)
    return mixed.T @ mixed / rows


def make_run(folder, seed=0, track="pocket", source=SOURCE, edit=lambda checkpoint: None):
    """A run folder with a checkpoint of SOURCE's model (correlated weights) and its statistics."""
    generator = torch.Generator().manual_seed(seed)
    width, layers = CONFIG["width"], CONFIG["layers"]
    shapes = {"embed.weight": (300, width), "temperature": ()}
    for layer in range(layers):
        shapes |= {
            f"blocks.{layer}.gain": (width,),
            f"blocks.{layer}.up.weight": (4 * width, width),
            f"blocks.{layer}.down.weight": (width, 4 * width),
        }
    model = {name: 0.05 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    taps = {"head": width} | {
        f"{layer}.{part}": columns
        for layer in range(layers)
        for part, columns in (("in", width), ("hidden", 4 * width))
    }
    linear = {"embed.weight": "head"} | {
        f"blocks.{layer}.{name}.weight": f"{layer}.{tap}"
        for layer in range(layers)
        for name, tap in (("up", "in"), ("down", "hidden"))
    }
    checkpoint = {
        "format": 1,
        "track": track,
        "config": CONFIG,
        "source": source,
        "source_sha256": hashlib.sha256(source.encode()).hexdigest(),
        "tokenizer": torch.frombuffer(bytearray(TOKENIZER), dtype=torch.uint8),
        "model": model,
        "step": 3,
        "loader": {},
    }
    statistics = {
        "format": 1,
        "tokens": 999,
        "linear": {name: {"tap": tap, "output_gradient": torch.ones(shapes[name][0])} for name, tap in linear.items()},
        "taps": {tap: correlated(500, columns, generator).float() for tap, columns in taps.items()},
        "embedding": {"embed.weight": {"gradient_second_moment": torch.eye(width), "row_gradient": torch.ones(300)}},
    }
    edit(checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, folder / "checkpoint.pt")
    torch.save(statistics, folder / "statistics.pt")
    return folder


TOKENIZER = tokenizer_section.rebuild(brotli.compress(b"th\nthe\n an"))


@pytest.fixture
def cli(capsys):
    """Runs the command line in this process (a fresh one imports torch for seconds)."""

    def run(*arguments):
        capsys.readouterr()
        try:
            code = main(list(map(str, arguments)))
        except SystemExit as stop:  # argparse
            code = stop.code
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, out, err)

    return run


def one_line(done, *parts):
    """The command failed with exit status 1 and one line on stderr that holds all parts."""
    assert done.returncode == 1, done
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and all(part in lines[0] for part in parts), done.stderr


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("runs") / "one")
    return run, pack_run(run)


# Quantising


shapes = st.one_of(
    st.just(()),
    st.tuples(st.integers(0, 70)),
    st.tuples(st.integers(0, 40), st.integers(0, 70)),
    st.tuples(st.integers(0, 4), st.integers(0, 20), st.integers(0, 40)),
)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(shapes, st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 300.0, 1e30])), max_size=6),
    st.integers(0, 9),
    st.sampled_from([1, 8]),
)
def test_quantise_encode_decode_is_exact(specification, seed, states):
    """Any shapes and sizes: the file's decoder gives bit for bit what the packer expects, near the weights."""
    generator = torch.Generator().manual_seed(seed)
    model = {}
    for index, (shape, size) in enumerate(specification):
        model[f"blocks.{index % 3}.t{index // 3}é"] = tensor = size * torch.randn(shape, generator=generator)
        if tensor.numel() > 3:
            tensor.view(-1)[1] *= 1000  # an outlier
        if tensor.ndim == 2 and len(tensor):
            tensor[-1] = 0
    dial = 2.0**-7
    plan = make_plan(model, None, states)
    tensors = quantise(plan, dial)
    weights = decode_weights(encode_weights(tensors, plan.trellis, scales_of(dial).tolist(), RESTART))
    assert set(weights) == set(model)
    for name, tensor in model.items():
        expected = decoded(tensors[name], plan.trellis, scales_of(dial))
        assert weights[name].shape == tensor.shape and torch.equal(weights[name], expected)
        size = tensor.double().square().mean().sqrt() if tensor.numel() else 0
        assert not tensor.numel() or (weights[name] - tensor).abs().max() <= size * 2.0**-5


def test_huge_values_are_refused_by_name():
    model = {"a": torch.ones(3), "b": torch.full((20, 20), 3.4e38)}
    plan = make_plan(model, None)
    with pytest.raises(ValueError, match="b: values too large"):
        Attempt(0.3, quantise(plan, 0.3), b"").decoded(plan)


def test_dead_inputs_get_zero_weights():
    generator = torch.Generator().manual_seed(2)
    hessian = correlated(300, 20, generator).float()
    hessian[3], hessian[:, 3] = 0, 0
    statistics = Statistics(300, {"w": {"tap": "t", "output_gradient": torch.ones(16)}}, {"t": hessian}, {})
    codes = quantise(make_plan({"w": torch.randn(16, 20, generator=generator)}, statistics), 0.1)["w"].codes
    assert (codes[:, 3] == 0).all() and (codes != 0).any(0).sum() == 19


# The packer


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
    stored = read_codes(container.read((run / "model.golf").read_bytes())["WGTS"])
    checkpoint = load_checkpoint(run)
    plan = make_plan(checkpoint.model, load_statistics(run, checkpoint.model))
    tensors = quantise(plan, report["dial"])
    assert set(stored) == set(tensors) == {row["name"] for row in report["tensors"]}
    for name in ("embed.weight", "blocks.1.down.weight"):
        assert np.array_equal(stored[name][1], tensors[name].codes)
    assert stored["blocks.0.gain"][1] is None


def test_reported_loss_is_that_of_the_decoded_weights(packed):
    run, report = packed
    weights = decode_weights(container.read((run / "model.golf").read_bytes())["WGTS"])
    model, statistics = torch.load(run / "checkpoint.pt")["model"], torch.load(run / "statistics.pt")
    expected = 0.0
    for layer in range(2):
        error = (model[f"blocks.{layer}.up.weight"] - weights[f"blocks.{layer}.up.weight"]).double()
        hessian = statistics["taps"][f"{layer}.in"].double()
        expected += 0.5 * torch.einsum("rc,cd,rd", error, hessian, error).item()
    row = {row["type"]: row for row in report["types"]}["blocks.*.up.weight"]
    assert row["weights"] == 2 * 192 * 48 and row["actual"] == pytest.approx(expected, rel=1e-6)
    assert row["forecast"] == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize("room", [16_000, 30_000])
def test_the_file_fills_its_cap(packed, tmp_path, monkeypatch, room):
    """Between 99.9% and 100% of what the other sections leave."""
    run, report = packed
    rest = report["artifact_bytes"] - report["sections"]["WGTS"]
    monkeypatch.setattr("compress.sizes.CAP_BYTES", {"pocket": rest + room, "16mb": 1, "open": 1})
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


def test_an_interrupted_pack_leaves_no_file(tmp_path):
    for stage in ("rounding", "coding", "checking"):
        run = make_run(tmp_path / stage)

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
    run = make_run(tmp_path / "run")
    (run / "statistics.pt").unlink()
    report = pack_run(run)
    assert "no statistics.pt" in report["warnings"][0] and "larger model" in report["warnings"][1]
    _, codes, _, rows, columns, values = read_codes(container.read((run / "model.golf").read_bytes())["WGTS"])[
        "blocks.0.up.weight"
    ]
    assert len(set(rows.tolist())) == 1 and not columns.any()
    step = scales_of(report["dial"])[rows[0] & 3] * 2.0 ** (rows[0] >> 2)
    weight = torch.load(run / "checkpoint.pt")["model"]["blocks.0.up.weight"].numpy()
    assert np.abs(values - weight).max() <= 2.01 * step and np.sqrt(np.mean((values - weight) ** 2)) < 0.54 * step
    assert all(row["actual"] is None for row in report["types"])


def test_measuring_equals_a_forward_by_hand(packed, tmp_path):
    run, report = packed
    tokens = np.random.default_rng(3).integers(0, 300, 2000).astype("<u2")
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, tokens.size
    (tmp_path / "dev_000000.bin").write_bytes(header.tobytes() + tokens.tobytes())
    split = {"documents": 1, "raw_bytes": 5000, "tokens": 2000, "files": [{"name": "dev_000000.bin"}]}
    (tmp_path / "manifest.json").write_text(json.dumps({"splits": {"dev": split}}))
    measured = measure_packed(run, report, tmp_path)
    namespace = {"__name__": "toy"}
    sys.modules["toy"] = type(sys)("toy")  # dataclasses look their module up
    exec(compile(SOURCE, "toy", "exec"), namespace)
    weights = decode_weights(container.read((run / "model.golf").read_bytes())["WGTS"])
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_checkpoints(tmp_path, dtype):
    def edit(checkpoint):
        checkpoint["model"] = {name: tensor.to(dtype) for name, tensor in checkpoint["model"].items()}

    run = make_run(tmp_path / "run", edit=edit)
    pack_run(run)
    gain = decode_weights(container.read((run / "model.golf").read_bytes())["WGTS"])["blocks.0.gain"]
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
    "nan": (put(["model", "blocks.0.gain"], torch.full((48,), math.nan)), ["blocks.0.gain", "48 NaN or infinite"]),
    "inf": (put(["model", "embed.weight"], torch.full((300, 48), math.inf)), ["embed.weight", "infinite"]),
    "integer": (put(["model", "counts"], torch.arange(3)), ["counts", "int64"]),
    "missing tensor": (
        lambda checkpoint: checkpoint["model"].pop("temperature"),
        ["loading the weights", "temperature"],
    ),
    "no source": (drop("source"), ["checkpoint.pt", "source"]),
    "edited source": (put(["source"], SOURCE + "\n"), ["source_sha256"]),
    "format": (put(["format"], 2), ["format 1"]),
    "tokenizer": (put(["tokenizer"], torch.ones(30, dtype=torch.uint8)), ["okenizer"]),
    "config": (put(["config"], {"widht": 48}), ["building the model", "widht"]),
    "config value": (put(["config"], {"width": torch.float32}), ["config", "dtype"]),
    "track": (put(["track"], "lunar"), ["lunar", "pocket"]),
    "bytes per token": (put(["bytes_per_token"], -2.0), ["bytes_per_token", "-2.0"]),
}


@pytest.mark.parametrize("case", BAD_CHECKPOINTS)
def test_bad_checkpoints_are_named_and_leave_no_file(tmp_path, case):
    edit, parts = BAD_CHECKPOINTS[case]
    run = make_run(tmp_path / "run", edit=edit)
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
    monkeypatch.setattr("compress.pack.DECODER", tmp_path / "decode.py")
    run = make_run(tmp_path / "run")
    with pytest.raises(ValueError, match="decodes to other values"):
        pack_run(run)
    assert not (run / "model.golf").exists()


def test_over_the_cap_writes_nothing_and_says_by_how_much(packed, tmp_path, monkeypatch):
    """Even the coarsest steps need names, shapes and tables."""
    run, report = packed
    rest = report["artifact_bytes"] - report["sections"]["WGTS"]
    monkeypatch.setattr("compress.sizes.CAP_BYTES", {"pocket": rest + 300, "16mb": 1, "open": 1})
    with pytest.raises(OverCap, match=r"\d over the cap of [\d,]+ \(pocket\): train a model with about"):
        pack_run(run, tmp_path / "out.golf")
    assert os.listdir(tmp_path) == []


# The command line


def test_command_line_round(packed, tmp_path, cli):
    run, report = packed
    done = cli("pack", run, "--out", tmp_path / "m.golf", "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    ignored = {"seconds", "artifact"}
    assert {k: v for k, v in printed.items() if k not in ignored} == {
        k: v for k, v in report.items() if k not in ignored
    }
    assert (tmp_path / "m.golf").read_bytes() == (run / "model.golf").read_bytes()

    done = cli("size", tmp_path / "m.golf", "--json")
    size = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0 and size["sections"] == report["sections"] and size["track"] == "pocket"
    lengths = report["sections"]
    assert size["public_rule"]["total_bytes"] == lengths["CODE"] + lengths["CONF"] + lengths["WGTS"]
    assert size["artifact_bytes"] - size["public_rule"]["total_bytes"] == lengths["TOKN"] + lengths["overhead"]
    done = cli("size", tmp_path / "m.golf")
    assert (
        all(f"{length:,}" in done.stdout for length in lengths.values())
        and f"{report['headroom_bytes']:,}" in done.stdout
    )

    done = cli("inspect", tmp_path / "m.golf", "--json")
    rows = {row["name"]: row for row in json.loads(done.stdout.splitlines()[-1])["tensors"]}
    stored = read_codes(container.read((tmp_path / "m.golf").read_bytes())["WGTS"])
    row, codes = rows["blocks.0.up.weight"], stored["blocks.0.up.weight"][1]
    assert row["entropy"] == pytest.approx(entropy_bits(codes)) and row["largest_code"] == abs(codes).max()
    assert 0.8 * row["entropy_bytes"] < row["code_bytes"] < 1.1 * row["entropy_bytes"]
    assert "blocks.0.up.weight" in cli("inspect", tmp_path / "m.golf").stdout

    done = cli("verify", tmp_path / "m.golf", "--env")
    assert done.returncode == 0 and torch.__version__ in done.stdout and "8 tensors" in done.stdout
    done = cli("verify", tmp_path / "m.golf", "--json")
    assert {t["name"] for t in json.loads(done.stdout.splitlines()[-1])["tensors"]} == set(stored)


def test_unpack(packed, tmp_path, cli):
    run, _ = packed
    folder = tmp_path / "new" / "out"
    done = cli("unpack", run / "model.golf", folder, "--json")
    assert done.returncode == 0, done.stderr
    names = ["config.json", "decode.py", "tokenizer.model", "train_gpt.py", "weights.pt"]
    assert json.loads(done.stdout.splitlines()[-1])["files"] == sorted(os.listdir(folder)) == names
    assert os.listdir(folder.parent) == ["out"]
    sections = container.read((run / "model.golf").read_bytes())
    assert ((folder / "train_gpt.py").read_text(), (folder / "decode.py").read_text()) == container.code_unpack(
        sections["CODE"]
    )
    assert json.loads((folder / "config.json").read_text()) == CONFIG
    assert (folder / "tokenizer.model").read_bytes() == TOKENIZER
    weights, expected = torch.load(folder / "weights.pt"), decode_weights(sections["WGTS"])
    assert list(weights) == list(expected) and all(torch.equal(weights[name], expected[name]) for name in expected)
    one_line(cli("unpack", run / "model.golf", folder), "not an empty folder")
    assert sorted(os.listdir(folder)) == names


def test_bad_input_is_one_line(packed, tmp_path, cli):
    run, report = packed
    broken = tmp_path / "broken.golf"
    broken.write_bytes((run / "model.golf").read_bytes()[:-1])
    for command in (["size"], ["inspect"], ["verify"], ["unpack"]):
        more = [tmp_path / "d"] if command == ["unpack"] else []
        one_line(cli(*command, tmp_path / "none.golf", *more), "none.golf", "No such file")
        one_line(cli(*command, broken, *more), "broken.golf", "cut short")
    assert not (tmp_path / "d").exists()
    one_line(cli("pack", tmp_path / "nowhere"), "checkpoint.pt", "no such file")
    one_line(cli("pack", run, "--out", tmp_path / "nowhere" / "m.golf"), "nowhere is not a folder")
    (tmp_path / "checkpoint.pt").write_bytes(b"PK junk")
    one_line(cli("pack", tmp_path), "checkpoint.pt", "damaged")
    assert cli("size").returncode == 2


def test_size_over_the_cap_exits_1(tmp_path, cli):
    sections = {
        "CODE": container.code_pack("", ""),
        "CONF": container.config_pack({}),
        "TOKN": b"",
        "WGTS": bytes(250_000),
    }
    container.write(tmp_path / "big.golf", sections)
    one_line(cli("size", tmp_path / "big.golf", "--track", "pocket"), "over the cap of 250,000 (pocket)")
    assert cli("size", tmp_path / "big.golf").returncode == 0


def test_the_module_runs_and_size_needs_no_torch(packed):
    run, report = packed
    code = "import sys, runpy; sys.modules['torch'] = None; runpy.run_module('compress', run_name='__main__')"
    command = [sys.executable, "-c", code, "size", run / "model.golf", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True)
    assert done.returncode == 0 and json.loads(done.stdout)["artifact_bytes"] == report["artifact_bytes"], done.stderr
