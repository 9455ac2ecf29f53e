"""A program for the box (golf/box/worker.py): decodes an artifact with its own decoder and loads its model.

It is copied into the box, so it imports nothing of this repository. First come the tensors, piece by piece through
shared memory, while only the decoder was imported; then the artifact's script has its turn: model and Scorer are built
as the scorer builds them. For the packer (compress/same.py) they then run on random tokens, and so do those of the
script before it was minified.

Not covered: whether what it says is true, once code of the artifact was imported; and the score.
"""

import functools
import gc
import hashlib
import json
import os
import platform
import sys

WALK = "walk.json"  # {"scripts": folders of the scripts that run, from here, "vocab_size": of the tokens}
SHORT = 64  # tokens of a call where the Scorer's chunk is longer than LONG, and of the model's
LONG = 256
CHUNKS = 4  # that the Scorer takes: three of a document, one of the next, each with what it learnt of those before
SPECIALS = 4  # ids that are no text


def run(memory):
    """Yields {"tensor", "dtype", "shape"} for each tensor, each followed by {"bytes"} for every piece of it in `memory`
    (uint8); where WALK lies beside it, the answers of walk() with {"script"}, its folder; at the end {"versions"}."""
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

    if os.path.exists(WALK):
        with open(WALK, encoding="utf-8") as file:
            task = json.load(file)
        for folder in task["scripts"]:
            for answer in walk(folder, weights, task["vocab_size"]):
                yield {"script": folder, **answer}
    else:
        yield from stand(weights)
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "brotli": brotli.__version__,
        "machine": platform.platform(),
    }
    yield {"versions": versions}


def stand(weights):
    """Yields {"stage"}; returns the script's config, model and Scorer (or None), made as the scorer makes them."""
    import torch

    yield {"stage": "importing train_gpt.py"}
    torch.manual_seed(0)
    import train_gpt

    yield {"stage": "building the model"}
    with open("config.json", encoding="utf-8") as file:
        config = train_gpt.Config(**json.load(file))
    model = train_gpt.build_model(config)

    yield {"stage": "loading the weights into the model"}
    model.load_state_dict(weights, strict=True)

    yield {"stage": "building the Scorer"}
    model = sys.modules["__main__"].placed(model, torch.device("cpu"))
    return config, model, train_gpt.Scorer(model, config) if hasattr(train_gpt, "Scorer") else None


def walk(folder, weights, vocab_size):
    """Yields {"what", "digest"} for each thing that the script in `folder` gives, {"what", "fails"} where it fails,
    with "stands": False if its model cannot be made."""
    sys.modules.pop("train_gpt", None)
    gc.collect()  # of the script before this one
    sys.path.insert(0, os.path.abspath(folder))
    steps, stage, standing = stand(weights), "", None
    while standing is None:
        try:
            stage = next(steps)["stage"]
            yield {"stage": stage}
        except StopIteration as end:
            standing = end.value
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            yield {"what": stage, "fails": said(error), "stands": False}
            return
    config, model, scorer = standing
    vocab_size = min(vocab_size, getattr(config, "vocab_size", vocab_size))
    yield {"stage": "running the model"}
    yield from attempts(model_steps(config, model, vocab_size))
    if scorer is not None:
        yield {"stage": "running the Scorer"}
        yield from attempts(scorer_steps(scorer, vocab_size))


def attempts(steps):
    """Yields the outcome of each of `steps`, (what, function) pairs; a failure is the last one."""
    what = "running it"
    try:
        for what, function in steps:
            yield {"what": what, "digest": digest(function())}
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        yield {"what": what, "fails": said(error)}


def model_steps(config, model, vocab_size):
    """What a model is asked for."""
    import torch

    @torch.no_grad()
    def logits():
        return model(random_tokens(2, min(config.seq_len, SHORT), vocab_size, 0))

    yield "the model's logits", logits


def scorer_steps(scorer, vocab_size):
    """What a Scorer is asked for: chunks of a document, each observed, then the first one of the next document."""
    import torch

    yield "the Scorer's scope and chunk", lambda: (scorer.scope, scorer.chunk)
    lanes = 1 if scorer.scope == "stream" else 2
    length = scorer.chunk if scorer.chunk <= LONG else SHORT

    def logits(number):
        # Only the last chunk of a document is shorter than the others
        if number in (0, CHUNKS - 1) or length < scorer.chunk:
            scorer.start(lanes)
        with torch.no_grad():
            found = scorer.logits(random_tokens(lanes, length, vocab_size, number)).clone()
        scorer.observe()
        return found

    for number in range(CHUNKS):
        yield f"the Scorer's logits of chunk {number + 1}", functools.partial(logits, number)


def random_tokens(lanes, count, vocab_size, seed):
    """int64 [lanes, count]."""
    import torch

    lowest = min(SPECIALS, vocab_size - 1)
    return torch.randint(lowest, vocab_size, (lanes, count), generator=torch.Generator().manual_seed(seed))


def digest(value):
    """SHA-256 of a tensor's type, shape and bytes; of anything else, of how it is printed."""
    import torch

    if not isinstance(value, torch.Tensor):
        return hashlib.sha256(repr(value).encode(errors="replace")).hexdigest()
    data = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(f"{value.dtype} {list(value.shape)} ".encode() + data).hexdigest()


def said(error):
    """What an exception says, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
