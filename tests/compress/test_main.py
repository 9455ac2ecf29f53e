"""The command line: what it prints, and one line on bad input."""

import json
import os
import subprocess
import sys

import pytest
import torch

from compress.__main__ import size_of
from compress.decode import decode_weights, read_codes
from compress.rates import entropy_bits
from golf import container
from tests.support import ROOT
from tests.support.packed import CONFIG, TOKENIZER, compress_cli, one_line, packed_toy

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_boxes")]


@pytest.fixture(scope="module")
def packed():
    return packed_toy()


def test_command_line_round(packed, tmp_path):
    run, report = packed
    done = compress_cli("pack", run, "--out", tmp_path / "m.golf", "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    ignored = {"seconds", "artifact"}
    assert {k: v for k, v in printed.items() if k not in ignored} == {
        k: v for k, v in report.items() if k not in ignored
    }
    assert (tmp_path / "m.golf").read_bytes() == (run / "model.golf").read_bytes()

    done = compress_cli("size", tmp_path / "m.golf", "--json")
    size = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0 and size["sections"] == report["sections"] and size["track"] == "pocket"
    lengths = report["sections"]
    assert size["public_rule"]["total_bytes"] == lengths["CODE"] + lengths["CONF"] + lengths["WGTS"]
    assert size["artifact_bytes"] - size["public_rule"]["total_bytes"] == lengths["TOKN"] + lengths["overhead"]
    done = compress_cli("size", tmp_path / "m.golf")
    assert (
        all(f"{length:,}" in done.stdout for length in lengths.values())
        and f"{report['headroom_bytes']:,}" in done.stdout
    )

    done = compress_cli("inspect", tmp_path / "m.golf", "--json")
    rows = {row["name"]: row for row in json.loads(done.stdout.splitlines()[-1])["tensors"]}
    stored = read_codes(container.read((tmp_path / "m.golf").read_bytes())["WGTS"])
    row, codes = rows["blocks.0.up.weight"], stored["blocks.0.up.weight"][1]
    assert row["entropy"] == pytest.approx(entropy_bits(codes)) and row["largest_code"] == abs(codes).max()
    assert 0.8 * row["entropy_bytes"] < row["code_bytes"] < 1.1 * row["entropy_bytes"]
    assert "blocks.0.up.weight" in compress_cli("inspect", tmp_path / "m.golf").stdout

    done = compress_cli("verify", tmp_path / "m.golf", "--env")
    assert done.returncode == 0 and torch.__version__ in done.stdout and "8 tensors" in done.stdout
    done = compress_cli("verify", tmp_path / "m.golf", "--json")
    assert {t["name"] for t in json.loads(done.stdout.splitlines()[-1])["tensors"]} == set(stored)


def test_unpack(packed, tmp_path):
    run, _ = packed
    folder = tmp_path / "new" / "out"
    done = compress_cli("unpack", run / "model.golf", folder, "--json")
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
    one_line(compress_cli("unpack", run / "model.golf", folder), "not an empty folder")
    assert sorted(os.listdir(folder)) == names


def test_bad_input_is_one_line(packed, tmp_path):
    run, report = packed
    broken = tmp_path / "broken.golf"
    broken.write_bytes((run / "model.golf").read_bytes()[:-1])
    for command in (["size"], ["inspect"], ["verify"], ["unpack"]):
        more = [tmp_path / "d"] if command == ["unpack"] else []
        one_line(compress_cli(*command, tmp_path / "none.golf", *more), "none.golf", "No such file")
        one_line(compress_cli(*command, broken, *more), "broken.golf", "cut short")
    assert not (tmp_path / "d").exists()
    one_line(compress_cli("pack", tmp_path / "nowhere"), "checkpoint.pt", "no such file")
    one_line(compress_cli("pack", run, "--out", tmp_path / "nowhere" / "m.golf"), "nowhere is not a folder")
    (tmp_path / "checkpoint.pt").write_bytes(b"PK junk")
    one_line(compress_cli("pack", tmp_path), "checkpoint.pt", "damaged")
    assert compress_cli("size").returncode == 2


def test_size_over_the_cap_exits_1(tmp_path):
    sections = {
        "CODE": container.code_pack("", ""),
        "CONF": container.config_pack({}),
        "TOKN": b"",
        "WGTS": bytes(250_000),
    }
    container.write(tmp_path / "big.golf", sections)
    one_line(compress_cli("size", tmp_path / "big.golf", "--track", "pocket"), "over the cap of 250,000 (pocket)")
    assert compress_cli("size", tmp_path / "big.golf").returncode == 0


@pytest.mark.parametrize("size, track", [(249_000, "pocket"), (250_000, "2mb"), (2_000_000, "16mb"), (2**24, "16mb")])
def test_size_goes_by_the_smallest_track_whose_cap_holds_the_file(size, track):
    assert size_of({"CODE": b"", "CONF": b"", "WGTS": bytes(size)}, None)["track"] == track
    assert size_of({"CODE": b"", "CONF": b"", "WGTS": b""}, "open")["track"] == "open"


def test_the_module_runs_and_size_needs_no_torch(packed):
    run, report = packed
    code = "import sys, runpy; sys.modules['torch'] = None; runpy.run_module('compress', run_name='__main__')"
    command = [sys.executable, "-c", code, "size", run / "model.golf", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True)
    assert done.returncode == 0 and json.loads(done.stdout)["artifact_bytes"] == report["artifact_bytes"], done.stderr
