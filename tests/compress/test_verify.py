"""verify, unpack and the packer's check: an artifact's code runs in the box alone, and what it says is checked."""

import hashlib
import json
import os
from types import SimpleNamespace

import pytest
import torch

from compress.decode import decode_weights
from compress.verify import MAX_DECODED_BYTES, ArtifactRun, check_decoded, receive_tensor, verify
from golf import container
from golf.box.box import Box, BoxFailure
from tests.support import ROOT
from tests.support.packed import NARROW, SOURCE, compress_cli, make_run, one_line, packed_toy, weights_section

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_boxes")]

DECODER = (ROOT / "compress/decode.py").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def packed():
    return packed_toy()[0] / "model.golf"


def with_code(file, script=SOURCE, decoder=DECODER):
    return container.to_bytes(container.read(file.read_bytes()) | {"CODE": container.code_pack(script, decoder)})


def test_every_tensor_is_that_of_the_decoder(packed):
    expected = decode_weights(weights_section(packed))
    run = ArtifactRun(packed.read_bytes())
    found = {tensor.name: tensor.torch() for tensor in run}
    assert list(found) == list(expected) and run.versions["torch"] == torch.__version__
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    check_decoded(ArtifactRun(packed.read_bytes()), expected)


def test_a_tensor_larger_than_the_shared_memory_comes_in_pieces(packed, monkeypatch):
    """The toy's largest tensor has 60 kB."""
    monkeypatch.setattr("golf.box.box.CAPACITY_LOGITS", 300 * 10)
    check_decoded(ArtifactRun(packed.read_bytes()), decode_weights(weights_section(packed)))


def test_the_check_is_of_every_bit(packed):
    data = packed.read_bytes()
    expected = decode_weights(weights_section(packed))
    for edit, text in (
        (lambda w: w["blocks.1.gain"].view(torch.int32)[7].bitwise_xor_(1), "blocks.1.gain decodes to other values"),
        (lambda w: w.update(temperature=w["temperature"].view(1)), "temperature decodes to other values"),
        (lambda w: w.update(temperature=w["temperature"].double()), "temperature decodes to other values"),
        (lambda w: w.pop("embed.weight"), "embed.weight is unexpected"),
        (lambda w: w.update(more=torch.ones(2)), "more is missing"),
    ):
        changed = {name: tensor.clone() for name, tensor in expected.items()}
        edit(changed)
        with pytest.raises(ValueError, match=text):
            check_decoded(ArtifactRun(data), changed)


MARK = "\nimport os, pathlib\ntry:\n    pathlib.Path({path!r}).write_text('x')\nexcept OSError:\n    pass\n"


@pytest.mark.parametrize("command", ["verify", "unpack", "inspect", "pack"])
def test_code_of_a_stranger_writes_nothing_outside_the_box(packed, tmp_path, command):
    """Seen to write with the plain child process that was here before (but for inspect, which runs no such code)."""
    mark = MARK.format(path=str(tmp_path / "written"))
    file, folder = tmp_path / "bad.golf", tmp_path / "folder"
    file.write_bytes(with_code(packed, SOURCE + mark, DECODER + mark))
    if command == "pack":  # a checkpoint of a stranger brings a script
        make_run(folder, source=SOURCE + mark, config=NARROW)
    arguments = {"verify": [file], "unpack": [file, folder], "inspect": [file], "pack": [folder]}[command]
    assert compress_cli(command, *arguments).returncode == 0
    assert "written" not in os.listdir(tmp_path)


@pytest.mark.parametrize(
    "script, decoder, parts",
    [
        ("import scipy\n" + SOURCE, DECODER, ["importing train_gpt.py", "scipy", "an artifact may import torch"]),
        (SOURCE, "import os; os._exit(3)", ["exit status 3 while importing decode.py"]),
        (
            SOURCE,
            "def decode_weights(data): raise ValueError('a\\x1b[2J\\nb')",
            ["decoding the weights: ValueError: a"],
        ),
        (
            SOURCE,
            "import torch\ndef decode_weights(data): return {'w': torch.ones(3, dtype=torch.int64)}",
            ["a tensor of type 'int64'"],
        ),
        (
            SOURCE,
            "import torch\ndef decode_weights(data): return {'w': torch.ones(1).expand(1 << 30)}",
            ["more than 1,073,741,824 bytes of numbers"],
        ),
        (SOURCE.replace("self.gain = ", "self.gains = "), DECODER, ["loading the weights into the model", "gain"]),
        (SOURCE + "\ndef Scorer(model, config): raise KeyError(4)", DECODER, ["building the Scorer: KeyError: 4"]),
    ],
)
def test_code_that_fails_is_one_line(packed, tmp_path, script, decoder, parts):
    (tmp_path / "bad.golf").write_bytes(with_code(packed, script, decoder))
    done = compress_cli("verify", tmp_path / "bad.golf")
    one_line(done, "bad.golf: ", *parts)
    assert done.stderr.strip().isprintable()


def test_code_that_hangs_is_ended(packed):
    data = with_code(packed, decoder="import time\ndef decode_weights(data): time.sleep(1000)")
    with pytest.raises(ValueError, match="no result within 2 s"):
        verify(data, seconds=2.0)


class LyingBox:
    """What _receive uses of a box."""

    def shared(self, size):
        return Box.shared(SimpleNamespace(_buffer=bytes(100)), size)


@pytest.mark.parametrize(
    "head, pieces, text",
    [
        ({"tensor": 3}, [], "a tensor of type"),
        ({"dtype": "object"}, [], "a tensor of type 'object'"),
        ({"dtype": ["float32"]}, [], "a tensor of type"),
        ({"shape": [-1]}, [], "a tensor of shape"),
        ({"shape": [True]}, [], "a tensor of shape"),
        ({"shape": [1 << 40]}, [], "more than 1,073,741,824 bytes"),
        ({}, [13], "13 bytes of 12"),
        ({}, [0], "0 bytes of 12"),
        ({}, [4], "speaks of None bytes"),
        ({}, [1 << 40], "speaks of 1099511627776 bytes"),
        ({}, [-4], "speaks of -4 bytes"),
        ({}, ["4"], "speaks of '4' bytes"),
    ],
)
def test_nothing_that_a_box_says_is_believed(head, pieces, text):
    head = {"tensor": "w", "dtype": "float32", "shape": [3]} | head
    answers = iter([{"bytes": size} for size in pieces])
    with pytest.raises(BoxFailure, match=text):
        receive_tensor(head, answers, LyingBox(), MAX_DECODED_BYTES)


def test_unpack_leaves_nothing_of_an_artifact_that_fails(packed, tmp_path):
    (tmp_path / "bad.golf").write_bytes(with_code(packed, decoder="raise KeyError"))
    one_line(compress_cli("unpack", tmp_path / "bad.golf", tmp_path / "out"), "importing decode.py: KeyError")
    assert os.listdir(tmp_path) == ["bad.golf"]


def test_verify_says_the_same_as_json(packed):
    done = compress_cli("verify", packed, "--json")
    rows = {row["name"]: row for row in json.loads(done.stdout)["tensors"]}
    expected = decode_weights(weights_section(packed))
    for name, tensor in expected.items():
        assert rows[name]["sha256"] == hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        assert rows[name]["shape"] == list(tensor.shape) and rows[name]["dtype"] == "float32"
