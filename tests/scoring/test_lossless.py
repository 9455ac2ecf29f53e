"""scoring/lossless.py: the check finds a tokenizer that loses text; the process that decodes never sees the text."""

import hashlib

import numpy as np
import pytest

from golf.files import Failure
from scoring import lossless, passes


def test_lossless_check_names_the_document(world):
    def document(text, tokens):
        return passes.Document(f"id of {text}", "prose", text, len(text.encode()), tokens=tokens)

    good = document("sea wall", np.append(world.tokenizer.encode("sea wall").astype(np.int64), 1))
    lossless.check(world.tokenizer, [good, document("", np.array([1]))])
    lower = document("Sea wall", good.tokens)  # as a tokenizer that folds case would give it
    with pytest.raises(Failure, match="id of Sea wall"):
        lossless.check(world.tokenizer, [good, lower])


def test_lossless_process_gets_no_text(world, monkeypatch):
    """What the decoding process is given holds ids and the model, and its answer holds hashes."""
    calls = []
    run = lossless.subprocess.run
    monkeypatch.setattr(
        lossless.subprocess, "run", lambda *args, **options: calls.append(options) or run(*args, **options)
    )
    text = "an unmistakable sentence"
    answer = lossless.hashes(world.tokenizer.model_bytes, [world.tokenizer.encode(text)])
    assert answer == [hashlib.sha256(text.encode()).hexdigest()]
    assert text.encode() not in calls[0]["input"] and not any(text in value for value in calls[0]["env"].values())
