"""A program for the box (golf/box/worker.py): asks a stranger's script for the shapes of its model, and gathers second
moments of its matrices.

It is copied into the box, so it imports nothing of this repository. Beside it lies task.json: {"calibrate": whether to
gather}; then also weights.pt, the state_dict, and rows.npy, int64 [rows, T], tokens of training text.

Second moments follow K-FAC (Martens & Grosse 2015), with labels that the model draws, as train_gpt.py gathers them: of
what F.linear reads, and of the gradients of what F.linear and F.embedding give. A parameter that was cast on its way
there (`weight.to(x.dtype)`) counts as itself. One that is used several times, or tied, has the sum over its uses.

Not covered: matrices that reach neither function (`x @ weight.T`): they get no statistics. Whether what it says is
true, once code of the script was imported.
"""

import json
import sys

BATCH_LOGITS = 1 << 23  # of a batch of rows, one at least
CASTS = ("to", "float", "bfloat16", "half", "type", "type_as", "contiguous")


def run(memory):
    """Yields {"stage"}, {"name", "shape", "is_float"} of each tensor of the state_dict, {"computed"} for a buffer that
    is not in it, {"again", "first"} for a second name, {"vocab_size", "seq_len"}; then, asked to calibrate, {"done",
    "total"} and the sums over tokens as {"tensor", "dtype", "shape"}, each followed by {"bytes"} for every piece in `memory`."""
    import torch

    with open("task.json", encoding="utf-8") as file:
        task = json.load(file)
    yield {"stage": "importing the script"}
    torch.manual_seed(0)
    import train_gpt

    yield {"stage": "making Config()"}
    config = train_gpt.Config()
    yield {"stage": "building the model with build_model(Config())"}
    model = train_gpt.build_model(config)
    yield from shapes(model)
    yield {"vocab_size": config.vocab_size, "seq_len": config.seq_len}
    if not task["calibrate"]:
        return
    yield {"stage": "loading the weights into the model"}
    model.load_state_dict(torch.load("weights.pt", weights_only=True), strict=True)
    model = sys.modules["__main__"].placed(model, torch.device("cpu"))
    yield {"stage": "gathering statistics"}
    moments = SecondMoments(model)
    yield from gather(model, moments)
    for (kind, name), value in moments.sums.items():
        yield {"tensor": f"{kind} {name}", "dtype": "float32", "shape": list(value.shape)}
        data = value.float().contiguous().flatten().view(torch.uint8).numpy()
        for at in range(0, data.size, memory.size):
            piece = data[at : at + memory.size]
            memory[: piece.size] = piece
            yield {"bytes": piece.size}


def shapes(model):
    """What a state_dict of the model holds, and what it does not."""
    state = model.state_dict()
    places: dict = {}
    for name, tensor in state.items():
        yield {"name": name, "shape": list(tensor.shape), "is_float": tensor.is_floating_point()}
        first = places.setdefault((tensor.data_ptr(), tensor.shape), name) if tensor.numel() else name
        if first != name:
            yield {"again": name, "first": first}
    for name, _ in model.named_buffers():
        if name not in state:
            yield {"computed": name}


def gather(model, moments):
    """Runs the model on all rows; yields {"done", "total"} in tokens."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    rows = torch.from_numpy(np.load("rows.npy"))
    generator = torch.Generator().manual_seed(0)
    size, done = 1, 0
    while done < len(rows):
        with moments:
            logits = model(rows[done : done + size])
        logits = logits.float().flatten(0, 1)
        labels = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
        F.cross_entropy(logits, labels, reduction="sum").backward()
        model.zero_grad()
        moments.casts.clear()
        done += min(size, len(rows) - done)
        size = max(1, BATCH_LOGITS // max(1, rows.size(1) * logits.size(1)))
        yield {"done": done * rows.size(1), "total": rows.numel()}


class SecondMoments:
    """Sums over tokens of second moments, for every parameter that reaches F.linear or F.embedding. A context within
    which the model runs."""

    def __init__(self, model):
        self.names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.casts: dict = {}  # id -> (name, the tensor, which must live as long as its id counts)
        self.sums: dict = {}  # (kind, parameter) -> sum over tokens

    def __enter__(self):
        import torch

        moments = self

        class Watch(torch.overrides.TorchFunctionMode):
            def __torch_function__(self, func, types, args=(), kwargs=None):
                out = func(*args, **(kwargs or {}))
                moments.see(func, out, args, kwargs or {})
                return out

        self.watch = Watch()
        self.watch.__enter__()
        return self

    def __exit__(self, *error):
        self.watch.__exit__(*error)

    def name_of(self, tensor):
        """The parameter's name of a tensor, or of what it was cast from; None for any other."""
        return self.names.get(id(tensor)) or self.casts.get(id(tensor), (None,))[0]

    def see(self, func, out, args, kwargs):
        """A call that was made: sums up what a linear map reads, and asks for the gradient of what it gave."""
        import torch.nn.functional as F

        if getattr(func, "__name__", "") in CASTS and args:
            if name := self.name_of(args[0]):
                self.casts[id(out)] = (name, out)
            return
        if func not in (F.linear, F.embedding):
            return
        read = args[0] if args else kwargs["input"]
        weight = args[1] if len(args) > 1 else kwargs["weight"]
        name = self.name_of(weight)
        if name is None or not out.requires_grad:
            return
        if func is F.linear:
            x = read.detach().float().flatten(0, -2)
            self.add("inputs", name, x.T @ x)
            out.register_hook(lambda g: self.add("outputs", name, g.float().flatten(0, -2).square().sum(0)))
        else:
            out.register_hook(lambda g: self.looked_up(name, read.flatten(), len(weight), g.float().flatten(0, -2)))

    def looked_up(self, name, ids, rows, gradient):
        """ids [N] of a matrix of so many rows, gradient [N, D] at what they gave."""
        self.add("lookups", name, gradient.T @ gradient)
        self.add("rows", name, gradient.new_zeros(rows).index_add_(0, ids, gradient.square().sum(1)))

    def add(self, kind, name, value):
        self.sums[kind, name] = self.sums.get((kind, name), 0.0) + value
