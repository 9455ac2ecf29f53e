"""scoring/passes.py: the plan of batches. What the passes compute is compared in test_score.py."""

import math

from hypothesis import given
from hypothesis import strategies as st

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
