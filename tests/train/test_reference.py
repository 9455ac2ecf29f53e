"""Losses of short fixed runs against a golden file: a change that should compute the same must give the same.

The file holds what the script gave before it was rewritten for readers; tests/support/reference_run.py made it, and
compares two scripts on one machine more closely. Not covered: GPUs, compiled runs.
"""

import json

import pytest

from tests.support import ROOT, reference_run, warm

GOLDEN = ROOT / "tests/golden/reference_losses.json"


@pytest.mark.parametrize("case", ["plain", "everything"])
def test_a_fixed_run_gives_the_losses_of_the_golden_file(case, monkeypatch):
    monkeypatch.setattr(reference_run.subprocess, "run", warm.run)
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))[case]
    [(_, found)] = reference_run.measure(ROOT / "train_gpt.py", [case])
    assert found["losses"] == pytest.approx(golden["losses"], rel=1e-5)  # processors round differently
    assert found["dev_bpb"] == pytest.approx(golden["dev_bpb"], rel=1e-4)
    assert found["scored_nats"] == pytest.approx(golden["scored_nats"], rel=1e-4)
    assert found["artifact_config"] == golden["artifact_config"] and found["run"]["params"] == golden["params"]
    assert len(set(golden["losses"])) > 8 and golden["losses"][-1] < golden["losses"][0] - 1
