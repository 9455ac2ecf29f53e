"""The packer from a run folder to a .golf file, GPTQ under it, and the command line over it."""

import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import brotli
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress import container, tokenizer
from compress.__main__ import main
from compress.decode import decode_weights, read_codes
from compress.encode import encode_weights
from compress.gptq import BLOCK, gptq, inverse_factor, nearest, relative_error
from compress.pack import OverCap, pack_run
from compress.quantise import EMBEDDING, MATRIX, Quantised, quantise, row_scales
from compress.sizes import entropy_bits

ROOT = Path(__file__).parent.parent
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


TOKENIZER = tokenizer.rebuild(brotli.compress(b"th\nthe\n an"))


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


# GPTQ


def naive_gptq(weight, hessian, scales, limit):
    """Column by column with explicit inverses, as in the paper: for each column, H^-1 of the columns that are left."""
    weight, hessian = weight.double().numpy().copy(), hessian.double().numpy().copy()
    diagonal = hessian.diagonal().copy()
    live = diagonal > 0
    weight[:, ~live] = 0
    hessian[~live, ~live] = diagonal[live].mean() if live.any() else 1.0
    order = np.argsort(-diagonal, kind="stable")
    hessian += 0.01 * (diagonal[live].mean() if live.any() else 1.0) * np.eye(len(hessian))
    codes, left = np.zeros(weight.shape), list(order)
    while left:
        column = left[0]
        codes[:, column] = np.clip(np.round(weight[:, column] / scales), -limit, limit)
        inverse = np.linalg.inv(hessian[np.ix_(left, left)])
        error = (weight[:, column] - codes[:, column] * scales) / inverse[0, 0]
        for position, other in enumerate(left[1:], start=1):
            weight[:, other] -= error * inverse[0, position]
        left.pop(0)
    return codes


@pytest.mark.parametrize("rows,columns,rank", [(7, 1, None), (5, 40, None), (9, BLOCK + 30, None), (6, 30, 8)])
def test_gptq_equals_the_naive_algorithm(rows, columns, rank):
    generator = torch.Generator().manual_seed(columns)
    weight, hessian = torch.randn(rows, columns, generator=generator), correlated(400, columns, generator, rank)
    scales = row_scales(weight, MATRIX)
    codes = gptq(weight, hessian, scales, 31)
    assert np.array_equal(codes.numpy(), naive_gptq(weight, hessian, scales.double().numpy(), 31))


def test_gptq_beats_rounding_to_nearest():
    generator = torch.Generator().manual_seed(1)
    weight, hessian = torch.randn(64, 96, generator=generator), correlated(500, 96, generator)
    scales = row_scales(weight, MATRIX)
    errors = [
        relative_error(weight, codes * scales.float()[:, None], hessian)
        for codes in (gptq(weight, hessian, scales, 31), nearest(weight, scales, 31))
    ]
    assert 0 < errors[0] < 0.5 * errors[1]


def test_gptq_gives_dead_columns_zero_and_stays_in_range():
    generator = torch.Generator().manual_seed(2)
    weight, hessian = 100 * torch.randn(8, 20, generator=generator), correlated(300, 20, generator)
    hessian[3], hessian[:, 3], hessian[11], hessian[:, 11] = 0, 0, 0, 0
    scales = torch.ones(8)
    codes = gptq(weight, hessian, scales, 31)
    assert (codes[:, [3, 11]] == 0).all() and codes.abs().max() == 31
    assert np.array_equal(codes.numpy(), naive_gptq(weight, hessian, scales.numpy(), 31))
    assert (gptq(weight, torch.zeros(20, 20), scales, 31) == 0).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda g: correlated(3, 50, g, 2),
        lambda g: torch.ones(50, 50),
        lambda g: torch.cov(torch.randn(50, 9, generator=g)) * 9 - 0.5 * torch.eye(50),
    ],
)
def test_rank_deficient_and_indefinite_hessians_are_damped(make):
    hessian = make(torch.Generator().manual_seed(3)).double()
    factor = inverse_factor(hessian)
    assert torch.isfinite(factor).all() and torch.equal(factor, factor.triu())
    added = torch.linalg.inv(factor.T @ factor) - hessian  # a multiple of the identity, at least the usual damping
    amount = added.diagonal().mean()
    mean, smallest = float(hessian.diagonal().mean()), float(torch.linalg.eigvalsh(hessian)[0])
    assert 0.0099 * mean < amount < max(0.0101 * mean, -11 * smallest)
    torch.testing.assert_close(
        added, amount * torch.eye(50, dtype=torch.float64), atol=1e-6 * float(hessian.abs().max()), rtol=0
    )


def test_gptq_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="do not fit"):
        gptq(torch.ones(2, 3), torch.eye(2), torch.ones(2), 31)
    with pytest.raises(ValueError, match="not finite"):
        gptq(torch.ones(2, 2), torch.full((2, 2), math.nan), torch.ones(2), 31)


# Grids and coding


def test_row_scales_follow_sdclip():
    weight = torch.randn(5, 4000, generator=torch.Generator().manual_seed(4)) * torch.tensor(
        [[1e-3], [0.02], [1], [7], [0]]
    )
    expected = weight.double().pow(2).mean(1).sqrt() * 12.85 / 31
    torch.testing.assert_close(row_scales(weight, MATRIX)[:4].double(), expected[:4], rtol=1e-3, atol=0)
    assert row_scales(weight, MATRIX)[4] > 0
    with pytest.raises(ValueError, match="too large"):
        row_scales(weight * 1e6, MATRIX)


shapes = st.one_of(
    st.just(()),
    st.tuples(st.integers(0, 70)),
    st.tuples(st.integers(0, 40), st.integers(0, 70)),
    st.tuples(st.integers(0, 4), st.integers(0, 20), st.integers(0, 40)),
)


@settings(max_examples=60)
@given(st.lists(st.tuples(shapes, st.sampled_from([0.0, 1e-7, 1e-3, 1.0, 300.0, 1e6])), max_size=6), st.integers(0, 9))
def test_quantise_encode_decode_is_exact(specification, seed):
    generator = torch.Generator().manual_seed(seed)
    model = {}
    for index, (shape, size) in enumerate(specification):
        model[f"blocks.{index % 3}.t{index // 3}é"] = tensor = size * torch.randn(shape, generator=generator)
        if tensor.numel() > 3:
            tensor.view(-1)[1] *= 25  # an outlier
    try:
        tensors = quantise(model, None)
    except ValueError as error:
        assert "too large" in str(error) and any(size == 1e6 for _, size in specification)
        return
    decoded = decode_weights(encode_weights(tensors))
    assert list(decoded) == list(model)
    for name, tensor in model.items():
        assert decoded[name].shape == tensor.shape and torch.equal(decoded[name], tensors[name].decoded())
        if tensors[name].codes is None and tensor.numel():
            assert (decoded[name] - tensor).abs().max() <= 2.0**-11 * tensor.abs().max()


def test_dequantisation_is_exact():
    """int8 code x float16 scale in float32 is not rounded: it equals the product of rationals."""
    codes = torch.arange(-127, 128, dtype=torch.int8).repeat(64, 1)
    scales = torch.from_numpy(np.random.default_rng(5).integers(1, 0x7BFF, 64).astype(np.uint16).view(np.float16))
    exact = codes.double() * scales.double()[:, None]
    assert torch.equal(Quantised((64, 255), codes, scales).decoded().double(), exact)
    assert torch.equal(decode_weights(encode_weights({"w": Quantised((64, 255), codes, scales)}))["w"].double(), exact)


def test_entropy_bits_against_counting():
    codes = np.random.default_rng(6).integers(-3, 4, (30, 50)).astype(np.int8) ** 3
    shares = [np.mean(codes == value) for value in np.unique(codes)]
    assert entropy_bits(codes.T) == pytest.approx(-sum(share * math.log2(share) for share in shares))
    assert entropy_bits(np.zeros((2, 2), np.int8)) == 0 and entropy_bits(np.zeros((0, 2), np.int8)) == 0


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
    assert report["seconds"] > 0 and report["warnings"] == []
    assert container.config_unpack(sections["CONF"]) == CONFIG
    assert tokenizer.rebuild(sections["TOKN"]) == TOKENIZER
    assert sorted(os.listdir(run)) == ["checkpoint.pt", "model.golf", "statistics.pt"]


def test_packed_weights_are_gptq_codes_of_the_checkpoint(packed):
    """The tied embedding is rounded with its head tap, a matrix with its own; each equals gptq() called by hand."""
    run, report = packed
    stored = read_codes(container.read((run / "model.golf").read_bytes())["WGTS"])
    model, statistics = torch.load(run / "checkpoint.pt")["model"], torch.load(run / "statistics.pt")
    assert list(stored) == list(model)
    for name, grid in (("embed.weight", EMBEDDING), ("blocks.1.down.weight", MATRIX)):
        hessian = statistics["taps"][statistics["linear"][name]["tap"]]
        scales = row_scales(model[name], grid)
        _, codes, values = stored[name]
        assert np.array_equal(values, scales.float().numpy())
        assert np.array_equal(codes, gptq(model[name], hessian, scales, grid.limit).numpy())
    assert stored["blocks.0.gain"][1] is None
    errors = {row["name"]: row["relative_error"] for row in report["tensors"]}
    assert errors["embed.weight"] < 1e-3 and 1e-5 < errors["blocks.0.up.weight"] < 0.05


def test_two_packs_give_the_same_bytes(packed, tmp_path):
    run, _ = packed
    pack_run(run, tmp_path / "again.golf")
    assert (tmp_path / "again.golf").read_bytes() == (run / "model.golf").read_bytes()


def test_without_statistics_it_warns_and_rounds_to_nearest(tmp_path, packed):
    run = make_run(tmp_path / "run")
    (run / "statistics.pt").unlink()
    report = pack_run(run)
    assert "no statistics.pt" in report["warnings"][0]
    weight = torch.load(run / "checkpoint.pt")["model"]["blocks.0.up.weight"]
    codes = read_codes(container.read((run / "model.golf").read_bytes())["WGTS"])["blocks.0.up.weight"][1]
    assert np.array_equal(codes, nearest(weight, row_scales(weight, MATRIX), 31).numpy())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_checkpoints(tmp_path, dtype):
    def edit(checkpoint):
        checkpoint["model"] = {name: tensor.to(dtype) for name, tensor in checkpoint["model"].items()}

    run = make_run(tmp_path / "run", edit=edit)
    pack_run(run)
    gain = decode_weights(container.read((run / "model.golf").read_bytes())["WGTS"])["blocks.0.gain"]
    torch.testing.assert_close(
        gain, torch.load(run / "checkpoint.pt")["model"]["blocks.0.gain"].float(), rtol=2**-11, atol=2**-24
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
    "huge": (put(["model", "blocks.0.up.weight"], torch.full((192, 48), 1e30)), ["blocks.0.up.weight", "too large"]),
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
    ):
        broken = {
            **statistics,
            "taps": {k: v.clone() for k, v in statistics["taps"].items()},
            "linear": dict(statistics["linear"]),
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
        .replace("codes * values[:, None]", "np.nextafter(codes * values[:, None], 9)")
    )
    (tmp_path / "decode.py").write_text(source)
    monkeypatch.setattr("compress.pack.DECODER", tmp_path / "decode.py")
    run = make_run(tmp_path / "run")
    with pytest.raises(ValueError, match="decodes to other values"):
        pack_run(run)
    assert not (run / "model.golf").exists()


def test_over_the_cap_writes_nothing_and_says_by_how_much(packed, tmp_path, monkeypatch):
    run, report = packed
    monkeypatch.setattr("compress.sizes.CAP_BYTES", {"pocket": report["artifact_bytes"] - 1000, "16mb": 1, "open": 1})
    with pytest.raises(OverCap, match="1,000 over the cap"):
        pack_run(run, tmp_path / "out.golf")
    assert os.listdir(tmp_path) == []
    monkeypatch.setattr("compress.sizes.CAP_BYTES", {"pocket": report["artifact_bytes"], "16mb": 1, "open": 1})
    assert pack_run(run, tmp_path / "out.golf")["headroom_bytes"] == 0


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
    assert row["entropy"] == pytest.approx(entropy_bits(codes)) and row["largest_code"] == abs(codes.astype(int)).max()
    assert row["bits_per_weight"] == pytest.approx(8 * (row["code_bytes"] + 2 * 192) / codes.size)
    assert 0.9 * row["entropy_bytes"] < row["code_bytes"] < 1.2 * row["entropy_bytes"] + 100
    assert rows["blocks.0.gain"]["entropy"] is None
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
