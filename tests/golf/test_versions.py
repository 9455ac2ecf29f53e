"""Versions of torch: which one is asked for, and what a command says where another one is installed.

Not covered: that other versions work (python -m tests.versions).
"""

import re
import signal

import pytest
import torch

import eval_heldout
from golf import versions
from golf.files import Failure
from tests.support import ROOT
from tests.support.made_records import ENVIRONMENT


def test_the_version_of_the_records_is_within_what_is_required():
    stated = versions.torch_of_records()
    assert re.fullmatch(r"\d+\.\d+\.\d+", stated) and versions.same_torch(stated, ENVIRONMENT["torch"])
    least = re.search(r"(?m)^torch>=([\d.]+) ", (ROOT / "requirements.txt").read_text())[1]
    assert [int(part) for part in least.split(".")] <= [int(part) for part in stated.split(".")][:2]
    assert versions.torch_here() == torch.__version__


def test_builds_of_a_version_are_one(monkeypatch):
    assert versions.same_torch("2.13.0", "2.13.0+cu130") and versions.same_torch("2.13.0+cpu", "2.13.0+cu130")
    assert not versions.same_torch("2.13.0", "2.13.1") and not versions.same_torch("2.1", "2.13")
    monkeypatch.setattr(versions, "torch_here", lambda: "2.14.1+cu130")
    versions.require_torch("2.14.1+cpu", "not certified")
    with pytest.raises(Failure) as caught:
        versions.require_torch("2.13.0+cpu", "not certified")
    assert str(caught.value) == (
        "not certified: torch here is 2.14.1+cu130, asked for is 2.13.0: install torch==2.13.0"
    )


@pytest.mark.parametrize("here, options, certified", [
    ("2.13.0+cpu", [], True),
    ("2.14.1", [], False),
    ("2.14.1", ["--torch=2.14.1+cu130"], True),
    ("2.13.0+cpu", ["--torch=2.14.1"], False),
])  # fmt: skip
def test_certify_asks_for_the_version_of_the_records_or_the_one_named(monkeypatch, tmp_path, capsys, here, options,
                                                                      certified):  # fmt: skip
    """Before anything is scored."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(versions, "torch_here", lambda: here)
    monkeypatch.setattr(versions, "torch_of_records", lambda: "2.13.0")
    monkeypatch.setattr(eval_heldout, "torch_of_records", versions.torch_of_records)
    scored = []
    monkeypatch.setattr(eval_heldout, "score", lambda *_: scored.append(1) or {"bpb": 1.0})
    monkeypatch.setattr(eval_heldout.report, "print_report", lambda *_: None)
    command = ["model.golf", "--out", str(tmp_path / "eval.json")]
    assert eval_heldout.main([*command, "--certify", *options]) == (0 if certified else 1)
    assert scored == [1] * certified
    refusal = "eval_heldout: not certified: torch here is .*, asked for is .*: install .*\n"
    assert certified or re.fullmatch(refusal, capsys.readouterr().err)
    assert eval_heldout.main(command) == 0  # a score that is not certified takes any
