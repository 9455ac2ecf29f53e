"""Set-up that all tests share: import path, threads, hypothesis profile. No fixtures and no helpers live here."""

import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in the Makefile; read when torch is first imported
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job: programs under test would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

from hypothesis import settings  # noqa: E402

# No deadline: a timing never decides a test. In CI the examples are fixed, so that a red run can be repeated.
settings.register_profile("kit", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("kit")
