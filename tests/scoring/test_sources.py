"""What the scorer's hash covers: exactly the modules of this repository that a real score loads, in the scorer's
process, in the process that checks the tokenizer, and in the box.

Not covered: modules that only an option loads; --overhead is the one such option, and it gives no score.
"""

import hashlib
import json
import subprocess
import sys

from golf.box.box import BOX_FILES
from scoring import score as scoring_score
from tests.support import ROOT
from tests.support.scoring_world import SCRIPT

# Loaded while scoring, but what they do with a score is to print it.
PRINTERS = {"scoring/report.py", "golf/console.py", "golf/progress.py"}

# The command eval_heldout.py in a process of its own, and lists of the modules that were loaded there and in the
# process that checks the tokenizer.
PROGRAM = """
import runpy, sys
from scoring import lossless

LIST = "; print(*[getattr(m, '__file__', '') for m in [*sys.modules.values()]], sep=chr(10), file=open({!r}, 'w'))"
_, scorer, checker, *sys.argv = sys.argv
lossless.CHILD += LIST.format(checker)
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    exec("import sys" + LIST.format(scorer))
"""

# A box may tell nothing but its score and which files it opened: so it tries to open one of the name of each module
# that lies beside its worker, after everything was imported.
TELLS = """
import os, sys
home = os.path.join(os.path.dirname(os.getcwd()), "golf", "box")
plain = Model.forward

def forward(self, tokens):
    for module in [*sys.modules.values()]:
        path = os.path.abspath(getattr(module, "__file__", None) or "/")
        if os.path.dirname(path) == home:
            try:
                open("/loaded/" + os.path.basename(path))
            except OSError:
                pass
    return plain(self, tokens)

Model.forward = forward
"""


def listed(path):
    """Files of this repository in a list of modules, from the root of the checkout, where a .venv may lie too."""
    lines = [line for line in path.read_text().splitlines() if "site-packages" not in line]
    return {line.removeprefix(f"{ROOT}/") for line in lines if line.startswith(f"{ROOT}/")}


def test_the_hash_covers_what_a_score_loads_and_nothing_else(world, tmp_path):
    scorer, checker, out = tmp_path / "scorer", tmp_path / "checker", tmp_path / "eval.json"
    artifact = world.artifact(SCRIPT + TELLS, name="tells.golf")
    command = [ROOT / "eval_heldout.py", artifact, "--data", world.data, "--processes", "1", "--out", out]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *map(str, [scorer, checker, *command])],
                          cwd=ROOT, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    opened = json.loads(out.read_text())["files_opened"]
    in_box = {f"golf/box/{name.removeprefix('/loaded/')}" for name in opened}
    assert in_box == {f"golf/box/{name}" for name in BOX_FILES}
    assert {"scoring/lossless.py", "golf/tokenizer.py"} <= listed(checker)
    loaded = {"eval_heldout.py"} | listed(scorer) | listed(checker) | in_box
    hashed = set(scoring_score.SOURCES)
    assert loaded - hashed == PRINTERS, "loaded while scoring, and not hashed"
    assert hashed - loaded == set(), "hashed, and not loaded while scoring"


def test_the_hash_is_that_of_the_bytes_of_all_of_them():
    data = b""
    for name in scoring_score.SOURCES:
        text = (ROOT / name).read_bytes()
        data += f"{name} {len(text)} ".encode() + text
    assert scoring_score.scorer_sha256() == hashlib.sha256(data).hexdigest()
    assert list(scoring_score.SOURCES) == sorted(set(scoring_score.SOURCES))
