"""scoring/passes.py: the plan of batches, which nats are no score, and which box gets which GPU.

Not covered: what the passes compute (test_score.py).
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf.box.box import BoxFailure
from scoring import passes


@given(st.lists(st.integers(1, 200), min_size=1, max_size=60), st.integers(1, 64), st.integers(1, 500))
def test_plan_holds_every_document_once_within_the_bound(lengths, chunk, batch_tokens):
    batches = passes.plan(lengths, chunk, "document", batch_tokens)
    assert sorted(number for batch in batches for number in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[number] for number in batch)
        assert len(batch) * min(chunk, longest) <= max(batch_tokens, min(chunk, longest))
        windows = [math.ceil(lengths[number] / chunk) for number in batch]
        assert min(windows) >= 0.75 * max(windows)
    assert passes.plan(lengths, chunk, "stream", batch_tokens) == [[number] for number in range(len(lengths))]


@pytest.mark.parametrize("wrong, text", [
    (np.nan, "logits hold NaN or infinity at symbol 12 of document d"),
    (np.inf, "logits give the symbol probability zero at symbol 12"),
    (-1e-9, "a probability above one is claimed at symbol 12"),
])  # fmt: skip
def test_nats_that_are_no_score_are_named(wrong, text):
    good = np.array([0.0, 1.5, 80.0])
    assert passes.checked(good, 10, "d") is good
    with pytest.raises(BoxFailure, match=text) as caught:
        passes.checked(np.array([0.0, 1.5, wrong, wrong]), 10, "d")
    assert caught.value.kind == "not-a-number"


def test_boxes_are_dealt_to_gpus(monkeypatch):
    """Each box sees one GPU, in turn; boxes that share one share its memory."""

    class Fake:
        scope, chunk, claims = "document", 8, False
        load = kill = close = lambda self: None

        def __init__(self, submission, threads, time_limit, gpu, memory_bytes, gpu_fraction, cores):
            self.given = gpu, gpu_fraction, cores

    monkeypatch.setattr(passes, "Box", Fake)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,5")
    with passes.Boxes(None, 3, 1) as running:
        assert [box.given for box in running.boxes] == [("0", 0.5, None), ("5", 0.5, None), ("0", 0.5, None)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with passes.Boxes(None, 2, 1) as running:
        assert [box.given for box in running.boxes] == [(None, 0.5, passes.core_numbers())] * 2
