"""The fixture of the tests of the log."""

import pytest

from tools.runs import ledger


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "ROOT", tmp_path)
    (tmp_path / "runs").mkdir()
    return tmp_path
