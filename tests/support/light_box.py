"""Boxes that start without torch, for tests that are about the box and not about a model: everything else is real, and
a box costs a tenth of the processor time. Also a program: `python -m tests.support.light_box ...` is eval_heldout.py.

Not covered: logits. A script for such a box gets as far as its Scorer and no further.
"""

import contextlib
import sys
from pathlib import Path
from unittest import mock

import eval_heldout
from golf.box import box

TORCH = """
import sys, types
torch = sys.modules["torch"] = types.ModuleType("torch")
torch.set_num_threads = torch.manual_seed = lambda number: None
torch.cuda = types.SimpleNamespace(is_available=lambda: False)
torch.device = lambda name: types.SimpleNamespace(type=name)
"""

SCRIPT = """
class Config:
    def __init__(self, **fields):
        pass

class Model:
    def load_state_dict(self, weights, strict):
        pass

    def to(self, device):
        return self

    float = eval = lambda self: self

def build_model(config):
    return Model()

class Scorer:
    scope, chunk = "document", 8

    def __init__(self, model, config):
        pass
"""

DECODE = "def decode_weights(payload):\n    return {}\n"


@contextlib.contextmanager
def without_torch():
    """Boxes that start in this context find a stub where their worker imports torch."""
    real = box.shutil.copyfile

    def copyfile(source, target):
        real(source, target)
        if Path(source).name == "worker.py":
            Path(target).write_text(TORCH + Path(target).read_text())

    with mock.patch.object(box.shutil, "copyfile", copyfile):
        yield


if __name__ == "__main__":
    with without_torch():
        sys.exit(eval_heldout.main())
