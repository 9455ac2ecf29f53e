"""A sample of the fuzzer with other seeds than that of tests/tools/test_fuzzed_files.py, and with commands.

Not covered: the scorer's decoder and Scorer, which see only artifacts that the reader lets through; all 2,000 files of
each kind (make fuzz, about 15 minutes).
"""

import json
import subprocess
import sys

import pytest

from tests.redteam.fuzz.engine import MEMORY_BYTES
from tests.redteam.fuzz.kinds import KINDS
from tests.support import ROOT

FILES, COMMANDS = 40, 4


@pytest.mark.long
@pytest.mark.parametrize("kind", list(KINDS))
def test_mutated_files_are_read_or_refused_in_one_line(kind):
    command = [sys.executable, "-m", "tests.redteam.fuzz", "--json"]
    command += ["--kind", kind, "--files", str(FILES), "--commands", str(COMMANDS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    reports = json.loads(done.stdout.splitlines()[-1])["reports"]
    assert [report["files"] for report in reports] == [FILES, COMMANDS]
    assert all(report["refused"] + report["accepted"] == report["files"] for report in reports)
    assert max(report["most_memory_bytes"] for report in reports) < MEMORY_BYTES
