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
        assert len(batch) * chunk <= max(batch_tokens, chunk)
        windows = [math.ceil(lengths[number] / chunk) for number in batch]
        assert min(windows) >= 0.75 * max(windows)
    assert passes.plan(lengths, chunk, "stream", batch_tokens) == [[number] for number in range(len(lengths))]


class Recorder:
    """A box that keeps the calls it gets. Its rows are flat."""

    claims = False
    vocab_size = 30
    scope = "document"

    def __init__(self, chunk):
        self.chunk, self.calls = chunk, []

    def start(self, lanes):
        self.calls.append(lanes)

    def logits(self, tokens):
        self.calls.append(tokens.copy())
        return np.zeros((tokens.size, self.vocab_size), np.float32)

    def commit(self):
        pass


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 16))
def test_the_shape_of_a_call_tells_no_length(lengths, chunk):
    """Whatever the documents' lengths, each call has whole chunks, and what follows an end is no padding."""
    lanes = [np.append(np.full(length - 1, 5), 1) for length in lengths]
    recorder = Recorder(chunk)
    seen = [np.empty(0, int) for _ in lanes]
    for lane, begin, count, nats in passes.walk(recorder, lanes):
        assert begin == len(seen[lane])
        seen[lane] = np.append(seen[lane], recorder.calls[-1][lane, :count])
        assert np.allclose(nats(lane, lanes[lane][begin : begin + count]), math.log(30))
    assert all(np.array_equal(a, b) for a, b in zip(seen, lanes))
    assert recorder.calls[0] == len(lanes)
    assert all(call.shape == (len(lanes), chunk) for call in recorder.calls[1:])
    sent = np.concatenate(recorder.calls[1:], axis=1)
    for lane, length in zip(sent, lengths):
        assert (lane[length:] >= 4).all()


def test_a_stream_gets_no_filling_and_long_chunks_are_not_filled_whole():
    recorder = Recorder(8)
    recorder.scope = "stream"
    list(passes.walk(recorder, [np.full(11, 5)]))
    assert [call.shape for call in recorder.calls[1:]] == [(1, 8), (1, 3)]
    assert passes.filled(0, 100, 65_536) == 2048 and passes.filled(0, 2049, 65_536) == 4096
    assert passes.filled(65_536, 65_540, 65_536) == 2048 and passes.filled(0, 65_530, 65_530) == 65_530


def test_the_order_of_batches_tells_no_length():
    """Longest first would say that no later document is longer."""
    batches = passes.plan(list(range(1, 400)), 4, "document", 32)
    longest = [max(batch) for batch in batches]
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)
    assert batches == passes.plan(list(range(1, 400)), 4, "document", 32)


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
    monkeypatch.setattr(passes.versions, "torch_has_gpu_code", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,5")
    with passes.Boxes(None, 3, 1) as running:
        assert [box.given for box in running.boxes] == [("0", 0.5, None), ("5", 0.5, None), ("0", 0.5, None)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with passes.Boxes(None, 2, 1) as running:
        assert [box.given for box in running.boxes] == [(None, 0.5, passes.core_numbers())] * 2
