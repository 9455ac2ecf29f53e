"""scoring/likelihood.py: nats of tokens against torch, bad rows, and the ledger of what was committed."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scoring import likelihood


@given(st.integers(0, 10**6), st.integers(2, 40), st.floats(0, 60))
def test_token_nats_equals_log_softmax(seed, vocab_size, scale):
    rng = np.random.default_rng(seed)
    logits = (scale * rng.standard_normal((9, vocab_size))).astype(np.float32)
    tokens = rng.integers(0, vocab_size, 9)
    expected = -torch.from_numpy(logits).double().log_softmax(dim=1).numpy()[np.arange(9), tokens]
    assert np.allclose(likelihood.token_nats(logits, tokens), expected, rtol=1e-12, atol=1e-12)


def test_token_nats_over_block_borders_and_bad_rows(monkeypatch):
    monkeypatch.setattr(likelihood, "BLOCK_LOGITS", 10)
    logits = np.log(np.arange(1, 41, dtype=np.float32).reshape(8, 5))
    logits[4, 0], logits[5], logits[6, 2], logits[7, 1] = np.nan, -np.inf, -np.inf, np.inf
    nats = likelihood.token_nats(logits, np.array([0, 1, 2, 3, 4, 0, 2, 1]))
    rows = np.arange(1, 41).reshape(8, 5)
    assert np.allclose(nats[:4], [-math.log(rows[i, i] / rows[i].sum()) for i in range(4)])
    assert np.isnan(nats[[4, 5, 7]]).all() and nats[6] == np.inf


def test_ledger_takes_a_symbol_once_and_chains():
    ledger, other = likelihood.Ledger([3, 2]), likelihood.Ledger([3, 2])
    ledger.commit(0, 0, 0, np.array([1.0, 2.0]))
    assert np.isnan(ledger.document_nats()).all()  # incomplete documents have no score
    for document, begin, count in ((0, 1, 1), (1, 1, 2)):
        with pytest.raises(RuntimeError, match="outside the document, or committed twice"):
            ledger.commit(0, document, begin, np.ones(count))
    ledger.commit(0, 0, 2, np.array([4.0]))
    ledger.commit(0, 1, 0, np.array([0.5, 0.25]))
    assert ledger.document_nats().tolist() == [7.0, 0.75]
    for document, begin, values in ((0, 0, [1.0, 2.0]), (0, 2, [4.0]), (1, 0, [0.5, 0.25 + 2**-50])):
        other.commit(0, document, begin, np.array(values))
    assert ledger.heads[0] != other.heads[0]  # the last bit of a number, and nothing else, differs
