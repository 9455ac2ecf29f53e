"""Checkpoints and statistics of others: what later code cannot use is refused in one line that names it.

Not covered: what only packing finds (tests/compress/test_pack.py).
"""

import math
import resource
import sys
import zipfile

import pytest
import torch

from compress.checkpoint import RunError, load_checkpoint, load_statistics
from tests.support.packed import TOKENIZER, load_run, make_run


def test_what_was_saved_is_loaded(tmp_path):
    run = make_run(tmp_path)
    saved = torch.load(run / "checkpoint.pt", weights_only=True)
    checkpoint = load_checkpoint(run)
    assert checkpoint.tokenizer == TOKENIZER and checkpoint.source == saved["source"]
    assert list(checkpoint.model) == list(saved["model"])
    assert all(torch.equal(checkpoint.model[name], tensor) for name, tensor in saved["model"].items())


GAIN = "blocks.0.gain"
ODD_MODELS = {
    "beyond float32": (GAIN, torch.full((48,), 1e300, dtype=torch.float64), "48 NaN or infinite values of 48"),
    "meta": (GAIN, torch.ones(48, device="meta"), "only dense tensors"),
    "sparse": (GAIN, torch.ones(48).to_sparse(), "only dense tensors"),
    "complex": (GAIN, torch.ones(48, dtype=torch.complex64), "only floating-point tensors"),
    "not a tensor": (GAIN, [1.0], "list; only floating-point tensors"),
    "expanded": (GAIN, torch.ones(1).expand(48), "no values of its own for all its places"),
    "a billion of one number": (GAIN, torch.ones(1).expand(1 << 30), "no values of its own for all its places"),
    "a number for a name": (3, torch.ones(48), "named 3, which is not text"),
}


@pytest.mark.parametrize("case", ODD_MODELS)
def test_odd_tensors_are_named(tmp_path, case):
    name, tensor, text = ODD_MODELS[case]
    run = make_run(tmp_path, edit=lambda checkpoint: checkpoint["model"].update({name: tensor}))
    with pytest.raises(RunError, match=text) as caught:
        load_checkpoint(run)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("odd", [{"a": math.inf}, {"a": {"b": [1.0, math.nan]}}, {"a": 2**64}])
def test_a_config_that_no_artifact_can_hold_is_refused(tmp_path, odd):
    run = make_run(tmp_path, edit=lambda checkpoint: checkpoint.update(config=odd))
    with pytest.raises(RunError, match=r"config: a.*(not a finite number|an integer of 2\^64)") as caught:
        load_checkpoint(run)
    assert str(caught.value).isprintable()


def test_eight_bit_floats_are_taken_as_they_are(tmp_path):
    tensor = torch.linspace(-2, 2, 48).to(torch.float8_e4m3fn)
    run = make_run(tmp_path, edit=lambda checkpoint: checkpoint["model"].update({GAIN: tensor}))
    assert torch.equal(load_checkpoint(run).model[GAIN], tensor.float())


@pytest.mark.parametrize(
    "tokenizer", [torch.ones(3), torch.ones(2, 2, dtype=torch.uint8), torch.ones(9, dtype=torch.uint8, device="meta")]
)
def test_odd_tokenizers_are_refused(tmp_path, tokenizer):
    run = make_run(tmp_path, edit=lambda checkpoint: checkpoint.update(tokenizer=tokenizer))
    with pytest.raises(RunError, match="tokenizer is not a row of bytes"):
        load_checkpoint(run)


def test_names_that_share_their_values_are_bounded_by_the_file(tmp_path):
    """A tied head has two names; a thousand names of one tensor are a file that claims a thousand times its size."""
    whole = torch.ones(300, 48)
    run = make_run(tmp_path / "tied", edit=lambda c: c["model"].update({"head.weight": c["model"]["embed.weight"]}))
    assert torch.equal(load_checkpoint(run).model["head.weight"], load_checkpoint(run).model["embed.weight"])
    run = make_run(tmp_path / "many", edit=lambda c: c["model"].update({f"m{i}": whole for i in range(1000)}))
    with pytest.raises(RunError, match="claim .* bytes, more than the file has"):
        load_checkpoint(run)


def rezip(path, method, edit=lambda name, data: data):
    """The archive again, with another method, and its entries edited."""
    with zipfile.ZipFile(path) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, edit(name, data))


def test_a_compressed_archive_is_refused(tmp_path):
    run = make_run(tmp_path)
    rezip(run / "checkpoint.pt", zipfile.ZIP_STORED)
    assert load_checkpoint(run).tokenizer == TOKENIZER
    rezip(run / "checkpoint.pt", zipfile.ZIP_DEFLATED)
    with pytest.raises(RunError, match="a compressed archive; save it with torch.save"):
        load_checkpoint(run)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux")
def test_a_tensor_that_claims_more_than_its_file_holds_is_not_made(tmp_path):
    """The gain has 48 numbers, and says 2^28 in the pickle that describes it."""
    run = make_run(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    large = b"J" + (1 << 28).to_bytes(4, "little")
    rezip(
        run / "checkpoint.pt",
        zipfile.ZIP_STORED,
        lambda name, data: data.replace(b"K0", large) if name.endswith("data.pkl") else data,
    )
    with pytest.raises(RunError, match="cannot be read as a torch file"):
        load_checkpoint(run)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


@pytest.mark.parametrize("value", [torch.ones(3), True, 1.0, "1", None])
def test_only_the_number_one_is_format_one(tmp_path, value):
    run = make_run(tmp_path, edit=lambda checkpoint: checkpoint.update(format=value))
    with pytest.raises(RunError, match="not a file of format 1"):
        load_checkpoint(run)


ODD_STATISTICS = {
    "beyond all measure": (lambda s: s["taps"]["head"].fill_(1e31), "tap head is not a finite"),
    "expanded": (lambda s: s["taps"].update(head=torch.ones(1, 1).expand(48, 48)), "tap head is not a finite"),
    "a list for a tap": (lambda s: s["linear"]["embed.weight"].update(tap=["head"]), "tap .* of embed.weight"),
    "integers": (lambda s: s["taps"].update(head=torch.ones(48, 48, dtype=torch.int64)), "tap head is not a finite"),
    "meta": (lambda s: s["taps"].update(head=torch.ones(48, 48, device="meta")), "tap head is not a finite"),
    "sparse": (lambda s: s["taps"].update(head=torch.eye(48).to_sparse()), "tap head is not a finite"),
    "a vector": (lambda s: s["embedding"]["embed.weight"].update(row_gradient=torch.ones(3)), "row_gradient"),
}


@pytest.mark.parametrize("case", ODD_STATISTICS)
def test_odd_statistics_are_named(tmp_path, case):
    edit, text = ODD_STATISTICS[case]
    run = make_run(tmp_path)
    model, _ = load_run(run)
    statistics = torch.load(run / "statistics.pt", weights_only=True)
    edit(statistics)
    torch.save(statistics, run / "statistics.pt")
    with pytest.raises(RunError, match=text):
        load_statistics(run, model)


def test_nothing_is_unpickled(tmp_path):
    """A class in the place of a tensor: torch's weights-only loader refuses the file."""

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    run = make_run(tmp_path / "run", edit=lambda checkpoint: checkpoint["config"].update(width=Evil()))
    with pytest.raises(RunError, match="cannot be read as a torch file"):
        load_checkpoint(run)
    assert not (tmp_path / "written").exists()
