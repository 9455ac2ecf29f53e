"""golf/box/worker.py: what it computes of a model's rows, without a box.

Not covered: the protocol and the layers, which the tests of the box drive.
"""

import types

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from golf.box import worker


@given(st.integers(0, 10**6), st.integers(2, 30), st.floats(0, 60))
def test_claims_of_the_worker_are_log_softmax(seed, vocab_size, scale):
    torch.manual_seed(seed)
    logits, tokens = scale * torch.randn(2, 5, vocab_size), torch.randint(0, vocab_size, (2, 5))
    claims = worker.claimed(logits, tokens)
    expected = logits.double().log_softmax(2).gather(2, tokens[..., None])[..., 0]
    assert torch.allclose(claims.double(), expected, rtol=1e-5, atol=1e-4) and float(claims.max()) <= 0
    assert torch.equal(worker.opened(logits.flatten(0, 1), [7, 0]), torch.stack([logits[1, 2], logits[0, 0]]))


def test_plain_scorer_may_be_asked_again_before_it_observes():
    """Its inputs are the tokens before, whatever was asked in between; observe() is about the last call."""
    scorer = worker.PlainScorer(lambda inputs: inputs, types.SimpleNamespace(seq_len=3))
    first, decoy, second = torch.tensor([[5, 6, 7]]), torch.tensor([[5, 9, 9]]), torch.tensor([[8, 2]])
    for _ in range(2):
        scorer.start(1)
        assert [scorer.logits(tokens).tolist() for tokens in (decoy, first)] == [[[1, 5, 9]], [[1, 5, 6]]]
        scorer.observe()
        assert [scorer.logits(tokens).tolist() for tokens in (decoy, second)] == [[[7, 5, 9]], [[7, 8]]]


def worker_of(scorer):
    """A Worker without a process whose Scorer is this."""
    made = worker.Worker({}, None, None)
    made.torch, made.device, made.scorer = torch, torch.device("cpu"), scorer
    return made


def test_rows_that_are_no_tensor_name_the_contract():
    made = worker_of(types.SimpleNamespace(logits=lambda tokens: np.zeros((1, 2, 7))))
    made.claims = False
    with pytest.raises(TypeError, match=r"must return a torch.Tensor of logits \[B, C, V\]; it returned numpy.ndarray"):
        made.answer(torch.zeros(1, 2, dtype=torch.int64), np.zeros((2, 7), np.float32), None)


CONTRACT = worker.FIELDS + worker.METHODS


@pytest.mark.parametrize("name", CONTRACT)
def test_a_scorer_without_a_part_of_the_contract_is_named(name):
    parts = dict.fromkeys(CONTRACT)
    worker_of(types.SimpleNamespace(**parts)).check_contract(CONTRACT)
    del parts[name]
    with pytest.raises(TypeError, match=f"Scorer has no `{name}`; it needs scope, chunk, start, logits, observe"):
        worker_of(types.SimpleNamespace(**parts)).check_contract(CONTRACT)


def test_a_model_is_placed_and_one_that_is_no_module_is_taken_as_it_is():
    halves = torch.nn.Linear(2, 2).half().train()
    placed = worker.placed(halves, torch.device("cpu"))
    assert placed.weight.dtype == torch.float32 and not placed.training
    plain = types.SimpleNamespace(load_state_dict=None)
    assert worker.placed(plain, torch.device("cpu")) is plain
