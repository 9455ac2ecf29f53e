"""How much of a run is over, against the clock of train_gpt.py itself."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import train_gpt as t
from tools.runs.fraction import fraction

LIMIT = st.integers(0, 1000)


@given(LIMIT, LIMIT, LIMIT, st.integers(1, 900), st.integers(1, 900), st.integers(1, 900))
def test_the_script_counts_the_same(max_seconds, max_steps, max_tokens, elapsed, step, tokens):
    config = {"max_seconds": float(max_seconds), "max_steps": max_steps, "max_tokens": max_tokens}
    row = {"elapsed": elapsed, "step": step, "tokens": tokens}
    found = fraction(config, row)
    if not any(config.values()):
        assert found is None
        return
    clock = t.Clock(t.Config(**config), 1, torch.device("cpu"))
    clock.elapsed = float(elapsed)
    assert found == pytest.approx(clock.fraction(t.Progress(step, tokens)))


@pytest.mark.parametrize("odd", ["600", None, True, [600], float("nan")])
def test_what_is_no_number_counts_as_missing(odd):
    assert fraction({"max_seconds": odd, "max_steps": 10}, {"step": 5, "elapsed": 1.0}) == 0.5
    assert fraction({"max_seconds": odd}, {}) is None
    assert fraction({"max_steps": 10}, {"step": odd}) == 0.0
