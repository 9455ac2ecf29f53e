"""Lists the float32 tensors of the residual stream's size that a training step of the 16mb preset makes on a GPU.

    python tests/support/dtype_checks.py

GPT.loss, forward and backward, runs eagerly under CUDA's autocast on fake CUDA tensors, on a pretended H100. Each
operation that gives a float32 tensor of B x T x D numbers or more is on the list, with how often. The last line printed
is a JSON object: the number of operations seen, and {operation: times}. What torch.compile fuses away is on the list too.
Not covered: the loss's kernels and attention, which are other tensors; speed.
"""

import collections
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from inductor_checks import LAYERS, pretend_h100

ROOT = Path(__file__).resolve().parents[2]


def step(script) -> dict:
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    config = replace(script.parse_config(["--preset=16mb"], {}), **LAYERS)
    rows = script.stages(config, 8)[-1].rows
    size = rows * config.seq_len * config.model_dim
    found: collections.Counter = collections.Counter()
    seen = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal seen
            result = function(*args, **kwargs or {})
            seen += 1
            for value in tree_leaves(result):
                if isinstance(value, torch.Tensor) and value.dtype == torch.float32 and value.numel() >= size:
                    found[str(function)] += 1
            return result

    FakeTensorMode.avoid_device_init = True
    with FakeTensorMode(), torch.device("cuda"):
        model = script.build_model(config)
        window = torch.zeros(rows, config.seq_len + 1, dtype=torch.int32)
        with Watch():
            with torch.autocast("cuda", dtype=torch.bfloat16):
                hidden = model.hidden(window[:, :-1])
            hidden.backward(torch.empty_like(hidden))
    return {"operations": seen, "float32": dict(found), "result": str(hidden.dtype)}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        pretend_h100(Path(folder))
        sys.path.insert(0, str(ROOT))
        import train_gpt

        print(json.dumps(step(train_gpt)))


if __name__ == "__main__":
    main()
