"""Which torch is installed here, and which one a score is to be made with: its last digits follow the version.

Versions are compared without what names a build: 2.13.0+cpu and 2.13.0+cu130 are both 2.13.0. Not covered: versions of
other packages, which change no score; they are in constraints.txt.
"""

import functools
import importlib.metadata
import importlib.util
import re
from pathlib import Path

from golf.files import ROOT, Failure

CONSTRAINTS = ROOT / "constraints.txt"


def torch_here() -> str:
    """The version of the installed torch, without importing it."""
    return importlib.metadata.version("torch")


def torch_of_records() -> str:
    """The version of torch that records are made and scored with. Raises Failure if constraints.txt names none."""
    match = re.search(r"(?m)^torch==(\S+)", CONSTRAINTS.read_text(encoding="utf-8"))
    if match is None:
        raise Failure(f"{CONSTRAINTS}: it names no version of torch: take the file of this commit again")
    return match[1]


def same_torch(one: str, other: str) -> bool:
    """Whether two versions of torch differ in their builds at most."""
    return one.partition("+")[0] == other.partition("+")[0]


def require_torch(stated: str, what: str) -> None:
    """Raises Failure, whose line begins with `what` is not done, unless torch here has the version `stated`."""
    if not same_torch(stated, torch_here()):
        number = stated.partition("+")[0]
        raise Failure(f"{what}: torch here is {torch_here()}, asked for is {number}: install torch=={number}")


@functools.cache
def torch_has_gpu_code() -> bool:
    """Whether the installed torch is a build for GPUs; without importing it. One that does not say counts as such."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return True
    return re.search(r"(?m)^cuda\b[^=]*= *None$", text) is None
