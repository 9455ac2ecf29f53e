"""What the packer of a record's seed commit makes of its script: the two sources in the CODE of its artifacts.

The packer is taken from the history of this clone, and only from what is on its main branch: it was reviewed. It runs
in a process of its own with limits, and reads the record's script as text; the script does not run.

Not covered: whether the weights follow from the checkpoint (a new run shows that: golf reproduce).
"""

import functools
import json
import subprocess
import sys
from pathlib import Path

from golf import temporary
from golf.files import Failure
from golf.foreign import terminal
from tools.records import repository
from tools.records.verdicts import NotHere

FOLDERS = ("compress", "golf")
# What the two sources depend on, today. A branch that changes one of them may make any text of any script.
SOURCES = (
    "compress/__init__.py",
    "compress/decode.py",
    "compress/minify.py",
    "compress/reach.py",
    "compress/reflection.py",
    "golf/__init__.py",
    "golf/container.py",
    "golf/files.py",
    "golf/foreign.py",
    "golf/locks.py",
    "golf/script.py",
)
SECONDS, MEMORY = 60, 2 * 2**30  # of the child; the longest script that R18 allows takes 3 s and 0.3 GB
PROGRAM = """
import resource, sys
for limit, value in ((resource.RLIMIT_CPU, {seconds}), (resource.RLIMIT_AS, {memory}), (resource.RLIMIT_CORE, 0)):
    resource.setrlimit(limit, (value, value))
import json
sys.path.insert(0, sys.argv[1])
from compress import minify
with open(sys.argv[1] + "/compress/decode.py", encoding="utf-8") as file:
    sources = [sys.stdin.buffer.read().decode(), file.read()]
print(json.dumps([minify.minify(source) for source in sources]))
"""


def sources(root: Path, commit: str, script: bytes) -> tuple[str, str]:
    """(train_gpt.py, decode.py) as the packer of `commit` puts them into CODE.

    Raises NotHere if the commit is not in this clone, or its packer is not one of the main branch; Failure if the
    packer makes nothing of the script.
    """
    if repository.commit_of(root, commit) is None:
        raise NotHere(f"commit {commit[:12]} is not in this clone", f"git fetch origin {commit}")
    base = repository.trusted_base(root, commit)
    if base is None:
        raise NotHere(f"commit {commit[:12]} shares no history with main here", "git fetch origin main")
    own, reviewed = (repository.hashes(root, one, SOURCES) for one in (commit, base))
    changed = [path for path in SOURCES if own.get(path) != reviewed.get(path)]
    if changed:
        raise NotHere(
            f"{commit[:12]} has a packer of its own, which is not on main and does not run here ({changed[0]})",
            "merge the change of the packer first, by itself, and draw the seeds from a commit that builds on it",
        )
    return _minified(root, base, script)


@functools.lru_cache(maxsize=8)
def _minified(root: Path, commit: str, script: bytes) -> tuple[str, str]:
    """As `sources`, by the packer of a commit that is trusted."""
    with temporary.folder("packer") as folder:
        for name in FOLDERS:
            if repository.is_in(root, commit, name):  # the packer was one folder once
                repository.extract(root, commit, name, folder)
        program = PROGRAM.format(seconds=SECONDS, memory=MEMORY)
        command = [sys.executable, "-I", "-B", "-c", program, str(folder)]
        try:
            done = subprocess.run(command, input=script, capture_output=True, timeout=2 * SECONDS, cwd=folder)
        except subprocess.TimeoutExpired:
            raise Failure(f"train_gpt.py: packing it took more than {2 * SECONDS} s") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it was ended by a limit"]
        raise Failure(f"train_gpt.py: the packer of {commit[:12]} fails on it: {terminal(said[-1], 200)}")
    train, decode = json.loads(done.stdout)
    return train, decode
