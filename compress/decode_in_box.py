"""A program for the box (golf/box/worker.py): decodes an artifact with its own decoder and loads its model.

It is copied into the box, so it imports nothing of this repository. First come the tensors, piece by piece through
shared memory, while only the decoder was imported; then the artifact's script has its turn: model and Scorer are built
as the scorer builds them.

Not covered: whether what it says is true, once code of the artifact was imported; and the score.
"""

import json
import platform


def run(memory):
    """Yields {"tensor", "dtype", "shape"} for each tensor, each followed by {"bytes"} for every piece of it in `memory`
    (uint8); at the end {"versions"}."""
    import brotli
    import numpy
    import torch

    yield {"stage": "importing decode.py"}
    import decode

    yield {"stage": "decoding the weights"}
    with open("weights.bin", "rb") as file:
        weights = decode.decode_weights(file.read())
    for name, tensor in weights.items():
        yield {"tensor": name, "dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
        data = tensor.detach().contiguous().flatten().view(torch.uint8).numpy()
        for at in range(0, data.size, memory.size):
            piece = data[at : at + memory.size]
            memory[: piece.size] = piece
            yield {"bytes": piece.size}

    yield {"stage": "importing train_gpt.py"}
    import train_gpt

    yield {"stage": "building the model"}
    with open("config.json", encoding="utf-8") as file:
        config = train_gpt.Config(**json.load(file))
    model = train_gpt.build_model(config)

    yield {"stage": "loading the weights into the model"}
    model.load_state_dict(weights, strict=True)

    yield {"stage": "building the Scorer"}
    if hasattr(train_gpt, "Scorer"):
        train_gpt.Scorer(model.float().eval(), config)
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "brotli": brotli.__version__,
        "machine": platform.platform(),
    }
    yield {"versions": versions}
