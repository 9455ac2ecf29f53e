"""A program for the box (golf/box/worker.py): losses and KL of a model with some of its tensors exchanged.

It is copied into the box, so it imports nothing of this repository. Beside the artifact's files lie tokens.npy (int64
[T + 1]), whole.pt (the model's tensors), groups.json (lists of tensors of which the artifact's own decoder gives the
changed values, empty for none) and changed_*.pt (more sets of tensors that take the place of the model's).

Not covered: what the sums mean (compress/lab/measure.py).
"""

import json
import os

LOGITS_ROWS = 4096  # tokens of one forward


def run(memory):
    """Yields {"done", "total"} rows as it goes on; at the end {"sums": {"tokens", "loss", "packed_loss": [...], "kl":
    [...]}}, in nats, the lists by group and then by file."""
    import numpy
    import torch

    yield {"stage": "importing train_gpt.py"}
    import train_gpt

    whole = torch.load("whole.pt", weights_only=True)
    with open("groups.json", encoding="utf-8") as file:
        groups = json.load(file)
    changes = []
    if groups:
        yield {"stage": "decoding the weights"}
        import decode

        with open("weights.bin", "rb") as file:
            packed = decode.decode_weights(file.read())
        changes += [{name: packed[name] for name in names} for names in groups]
    for name in sorted(name for name in os.listdir() if name.startswith("changed_")):
        changes.append(torch.load(name, weights_only=True, mmap=True))

    yield {"stage": "building the model"}
    with open("config.json", encoding="utf-8") as file:
        config = train_gpt.Config(**json.load(file))
    model = train_gpt.build_model(config).eval()

    yield {"stage": "measuring"}
    tokens = torch.from_numpy(numpy.load("tokens.npy"))
    length = min(getattr(config, "seq_len", 512), len(tokens) - 1)
    rows = (len(tokens) - 1) // length
    inputs = tokens[: rows * length].view(rows, length)
    targets = tokens[1 : rows * length + 1].view(rows, length)
    size = max(1, LOGITS_ROWS // length)
    loss = 0.0
    packed_loss = [0.0] * len(changes)
    kl = [0.0] * len(changes)
    with torch.inference_mode():
        for at in range(0, rows, size):
            part = inputs[at : at + size]
            target = targets[at : at + size, :, None]

            def logs(weights, part=part):
                model.load_state_dict(weights, strict=True)
                return model(part).double().log_softmax(-1)

            reference = logs(whole)
            loss -= reference.gather(-1, target).sum().item()
            share = reference.exp()
            for index, changed in enumerate(changes):
                other = logs({**whole, **changed})
                kl[index] += (share * (reference - other)).sum().item()
                packed_loss[index] -= other.gather(-1, target).sum().item()
            yield {"done": min(rows, at + size), "total": rows}
    yield {"sums": {"tokens": rows * length, "loss": loss, "packed_loss": packed_loss, "kl": kl}}
