"""What pack, score or the machine would refuse is refused before anything is trained.

The bounds of the fields are held against what a run does with any number: it starts, or one line refuses it.

Not covered: what a run leaves (test_run.py).
"""

import hashlib
import io
import json
import math
import shutil
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import compress.quantise
import train_gpt as t
from golf import script, tracks
from golf.box import box
from tests.support import ROOT
from tests.support.small_models import SMALL

NUMBERS = [field.name for field in fields(t.Config) if type(field.default) in (int, float)]
ODD = ["", "0", "-1", "1", "0.5", "1e300", "-1e300", "1e-300", "nan", "inf", "-inf", "9" * 20, "9" * 5000, "1_0", "٣"]


# -------------------------------------------------------------------------------------------------- bounds of fields


def start(config):
    """What a run does with its Config until its first step is over, on two tokens; on no device where it is large."""
    for world in (1, 3, 8):
        for stage in t.stages(config, world):
            assert min(stage.length, stage.rows, stage.accumulate, stage.tokens) >= 1
    rates = t.rates(config, 0, 0.0)
    for each in (rates, t.rates(config, 10**9, 1.0)):
        assert all(map(math.isfinite, vars(each).values()))
    with torch.device("meta"):
        model = t.build_model(config)
        model.loss(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.int64))
    if sum(p.numel() for p in model.parameters()) < 2**19:
        model = t.build_model(config)
        optimizers = t.Optimizers(model, config, torch.float32, 1, 0)
        model.loss(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.int64)).backward()
        optimizers.step(rates)


def values(name):
    """Texts for a field: any numbers, odd ones, and those around its bounds."""
    near = [str(bound + step) for bound in t.bounds()[name] for step in (-1, 0, 1)]
    return st.sampled_from(ODD + near) | st.integers().map(str) | st.floats().map(str)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.sampled_from(NUMBERS).flatmap(lambda name: st.tuples(st.just(name), values(name))))
def test_any_number_in_any_field_is_refused_in_a_line_or_a_run_starts(given):
    name, text = given
    try:
        config = t.parse_config(["--preset=tiny", "--vocab_size=64", f"--{name}={text}"], {})
    except t.UsageError as error:
        assert "--" in str(error) and "\n" not in str(error) and len(str(error)) < 250
        return
    least, largest = t.bounds()[name]
    assert least <= getattr(config, name) <= largest
    start(config)


@settings(max_examples=100, deadline=None)
@given(st.text("0123456789.:,-e naif", max_size=30) | st.lists(
    st.tuples(st.floats(), st.integers(-1, 2**40), st.integers(-1, 2**70)), max_size=3
).map(lambda rows: ",".join(":".join(map(str, row)) for row in rows)))  # fmt: skip
def test_any_stages_are_refused_in_a_line_or_stand_in_order(text):
    try:
        config = t.parse_config(["--preset=tiny", f"--stages={text}"], {})
    except t.UsageError as error:
        assert "--stages must be like" in str(error) and "\n" not in str(error)
        return
    ends = [stage.until for stage in t.stages(config, 1)]
    assert ends == sorted(set(ends)) and ends[-1] == 1.0


def test_every_number_has_bounds_which_the_tools_read_too():
    assert set(t.bounds()) == set(NUMBERS)
    found = script.bounds((ROOT / "train_gpt.py").read_bytes(), "tiny")
    assert {name: tuple(pair) for name, pair in found.items()} == t.bounds()
    for name in t.PRESETS:
        t.check_config(t.parse_config([f"--preset={name}"], {}))


def test_its_numbers_are_the_kits():
    assert t.TRACKS == tuple(sorted(tracks.TRACKS, key=t.TRACKS.index)) and len(t.TRACKS) == len(tracks.TRACKS)
    assert t.MAX_LOGITS == box.CAPACITY_LOGITS and t.MATRIX_SIDE == compress.quantise.MIN_SIDE
    for shape in ((16, 16), (15, 16), (16, 15), (2, 8, 16), (16,), (0, 16)):
        assert t.is_matrix(torch.zeros(shape)) == compress.quantise.is_matrix(torch.zeros(shape))


# ------------------------------------------------------------------------------------------------------- the machine


def machine(world=1):
    return SimpleNamespace(on_gpu=False, world=world)


def test_a_model_that_no_memory_holds_is_refused_before_it_is_made():
    for preset in t.PRESETS:
        t.check_model(t.parse_config([f"--preset={preset}"], {}), machine())
    for more in (
        ["--model_dim=65536", "--num_layers=100"],
        ["--micro_batch_tokens=268435456", "--batch_tokens=268435456", "--vocab_size=65536"],
    ):
        config = t.parse_config(["--preset=tiny", *more], {})
        with pytest.raises(t.RunError, match=r"takes more than \d+ GB of memory, of \d+ here: lower --num_layers"):
            t.check_model(config, machine())


def saved_bytes(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return len(buffer.getvalue())


@pytest.mark.parametrize("ranks", [0, 1])
def test_a_disk_without_room_for_what_a_run_saves_is_refused(monkeypatch, tmp_path, ranks):
    """Reference: the files of a real model and its statistics, and two states to go on from."""
    config = t.parse_config(["--preset=tiny", "--vocab_size=512"], {})
    model = t.build_model(config)
    optimizers = t.Optimizers(model, config, torch.float32, 1, 0)
    tokens = torch.zeros(2, 8, dtype=torch.int64)
    moments = t.SecondMoments(model)
    moments.batch(model, tokens, torch.Generator().manual_seed(1))
    model.loss(tokens, tokens).backward()
    optimizers.step(t.rates(config, 0, 0.0))
    files = saved_bytes(dict(zip(optimizers.names, optimizers.ema))) + saved_bytes(moments.result(1))
    files += 2 * ranks * saved_bytes(optimizers.state())
    for free in (files * 3 // 4, files * 5 // 4):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
        if free > files:
            t.check_space(tmp_path, model, optimizers, ranks)
            continue
        with pytest.raises(t.RunError, match=r"files take [\d.]+ MB, and [\d.]+ MB are free: free some space"):
            t.check_space(tmp_path, model, optimizers, ranks)


def test_memory_that_runs_out_later_is_one_line(monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory: you")

    monkeypatch.setattr(t, "train", fail)
    assert t.main(["--preset=tiny"]) == 1
    assert capsys.readouterr().err == "train_gpt.py: out of memory: try --micro_batch_tokens=512, or a smaller model\n"
    monkeypatch.setattr(t, "train", lambda *_: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        t.main(["--preset=tiny"])


def test_a_folder_of_too_long_a_name_is_one_line(tmp_path):
    config = t.parse_config(["--preset=tiny", f"--run_dir={tmp_path / ('x' * 300)}"], {})
    with pytest.raises(t.RunError, match="File name too long; give --run_dir another place$"):
        t.open_folder(config, 1)


# ------------------------------------------------------------------------------------------------- model and data


def test_a_matrix_without_statistics_is_named():
    """One that is multiplied past F.linear, one that the loss ignores; a small one is a vector for packing."""
    model = t.build_model(SMALL)
    for name, side in (("past", 16), ("ignored", 16), ("small", 15)):
        setattr(model, name, t.declare(torch.nn.Parameter(torch.eye(side)), "muon"))
    hidden = model.hidden

    def other(tokens, memory=None):
        x = hidden(tokens, memory)
        F.linear(x, model.ignored)
        return x @ model.past

    model.hidden = other
    moments = t.SecondMoments(model)
    moments.batch(model, torch.randint(0, SMALL.vocab_size, (2, 12)), torch.Generator().manual_seed(5))
    assert moments.missing(model) == ["past", "ignored"]


def test_a_model_that_reaches_no_linear_map_still_ends_its_run():
    class Bare(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Parameter(torch.randn(20, 20))

        def forward(self, tokens):
            return self.table[tokens]

    moments = t.SecondMoments(Bare())
    moments.batch(Bare(), torch.zeros(2, 8, dtype=torch.int64), torch.Generator().manual_seed(1))
    assert moments.result(1) == {"format": 1, "tokens": 16, "linear": {}, "taps": {}, "embedding": {}}


@pytest.mark.parametrize(
    "tied, words", [(True, "head.weight is a buffer or a second name"), (False, "no optimiser is declared for head.w")]
)
def test_a_model_that_could_not_be_trained_or_saved_is_refused_before_it_is_made(monkeypatch, tied, words):
    def build(config):
        model = real(config)
        model.head = torch.nn.Linear(config.model_dim, config.vocab_size, bias=False)
        model.head.weight = model.embed.weight if tied else model.head.weight
        return model

    real = t.build_model
    monkeypatch.setattr(t, "build_model", build)
    with pytest.raises(t.RunError, match=words):
        t.check_model(t.parse_config(["--preset=tiny"], {}), machine())


@pytest.mark.parametrize("kind", ["tied", "buffer"])
def test_what_would_not_be_saved_is_refused_at_setup(kind):
    model = torch.nn.Module()
    model.embed, model.head = torch.nn.Embedding(8, 4), torch.nn.Linear(4, 8, bias=False)
    t.check_saved(model)
    if kind == "tied":
        model.head.weight = model.embed.weight
    else:
        model.register_buffer("head_scale", torch.ones(1))
    with pytest.raises(
        t.RunError, match="head[._](weight|scale) is a buffer or a second name of a weight, which no checkpoint"
    ):
        t.check_saved(model)


def test_a_vocabulary_that_is_not_the_tokenizers_is_refused_at_setup():
    manifest = {"tokenizer": {"vocab_size": 1024, "sha256": hashlib.sha256(b"model").hexdigest()}}
    config = t.Config(vocab_size=1024)
    t.check_tokenizer(config, b"model", json.dumps(manifest).encode())
    with pytest.raises(t.RunError, match="set --vocab_size=1024"):
        t.check_tokenizer(replace(config, vocab_size=1088), b"model", json.dumps(manifest).encode())
    with pytest.raises(t.RunError, match="is not its manifest's"):
        t.check_tokenizer(config, b"another", json.dumps(manifest).encode())


@pytest.mark.parametrize(
    "manifest", ["[]", "{", "[" * 100_000, '{"tokenizer": []}', "null", '"x"', '{"a": 1' + "0" * 5000 + "}"]
)
def test_a_manifest_that_is_none_is_one_line(manifest):
    with pytest.raises(t.RunError, match="manifest.json does not say which tokenizer it is made with"):
        t.check_tokenizer(t.Config(), b"model", manifest.encode())


def test_unreadable_data_is_one_line(tmp_path):
    (tmp_path / "train_000000.bin").symlink_to("/nowhere")
    with pytest.raises(t.RunError, match="cannot read .*train_000000.bin: No such file"):
        t.open_shard(tmp_path / "train_000000.bin", 10)
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(t.RunError, match="cannot read .*manifest.json: Is a directory"):
        t.read_data_file(str(tmp_path), "manifest.json")
