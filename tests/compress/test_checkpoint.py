"""Checkpoints and statistics of others: what later code cannot use is refused in one line that names it.

Not covered: what only packing finds (tests/compress/test_pack.py).
"""

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
    "a number for a name": (3, torch.ones(48), "named 3, which is not text"),
}


@pytest.mark.parametrize("case", ODD_MODELS)
def test_odd_tensors_are_named(tmp_path, case):
    name, tensor, text = ODD_MODELS[case]
    run = make_run(tmp_path, edit=lambda checkpoint: checkpoint["model"].update({name: tensor}))
    with pytest.raises(RunError, match=text) as caught:
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


ODD_STATISTICS = {
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
