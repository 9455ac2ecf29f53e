"""The fuzzer of the scorer's reader, in full.

Not covered: the scorer's decoder and Scorer, which see only artifacts that the reader lets through.
"""

import json
import subprocess
import sys

import pytest

from tests.support import ROOT


@pytest.mark.long
def test_mutated_artifacts_are_read_or_refused_in_one_line():
    command = [sys.executable, "-m", "tests.redteam.fuzz", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["cases"] == 10_000 and result["refused"] + result["accepted"] == 10_000
    assert not result["tracebacks"] and not result["hangs"] and not result["left_behind"]
