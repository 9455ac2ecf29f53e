"""A program for the box (golf/box/worker.py): holds a training script against docs/contract.md, as an artifact would
run it, with random weights in the place of trained ones.

It is copied into the box, so it imports nothing of this repository. The box holds the script as train_gpt.py, the
fields of its Config in config.json, and check.json: {"vocab_size": how many logits a row must have, or null, "whole":
whether to look for faults; otherwise only the digest is computed, for the minified script}.

Not covered: whether what it says is true, once code of the script was imported.
"""

import dataclasses
import hashlib
import importlib
import json
import math
import sys

MIN_SIDE = 16  # compress/quantise.py: with fewer rows or columns it is no matrix
LARGEST_VOCABULARY = 65_536  # ids have 16 bits
PARTS = {"Config": "config", "build_model": "model"}  # what a script must define, and which part lacks it
SHORT = 64  # tokens of a call where the script's chunk is longer than LONG: a model of the 16mb track takes seconds
LONG = 512
SPECIALS = 4  # ids that are no text
TOLERANCE = 1e-4  # of the logits' size, for what must be equal but need not be so to the last bit


class Fault(Exception):
    """A fault that leaves nothing more to be checked."""

    def __init__(self, part, text):
        super().__init__(text)
        self.part, self.text = part, text


def fault(part, text):
    """An answer of this program."""
    return {"fault": part, "text": text[:400]}


def attempt(part, what, function):
    """What function() returns. Raises Fault if it raises anything, sys.exit() too."""
    try:
        return function()
    except BaseException as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise Fault(part, f"{what} fails: {said[:300]}") from None


def run(memory):
    """Yields {"stage"}, {"fault", "text"}, {"parameters", "tensors", "scope", "chunk"} and {"digest"} of the logits."""
    with open("check.json", encoding="utf-8") as file:
        task = json.load(file)
    with open("config.json", encoding="utf-8") as file:
        fields = json.load(file)
    try:
        yield from answers(fields, task["vocab_size"], task["whole"])
    except Fault as found:
        yield fault(found.part, found.text)


def answers(fields, vocab_size, whole):
    """As run(). Raises Fault where a fault leaves nothing more to be checked."""
    yield {"stage": "importing the script"}
    script = attempt("script", "importing it in the box", lambda: importlib.import_module("train_gpt"))
    yield from missing(script)
    config = attempt("config", f"Config({', '.join(fields)})", lambda: script.Config(**fields))
    yield from config_faults(config)
    vocab_size = vocab_size or getattr(config, "vocab_size", None)

    yield {"stage": "building the model"}
    model = built(script, config, 0)
    state = model.state_dict()
    if whole:
        yield {"parameters": sum(p.numel() for p in model.parameters()), "tensors": len(state)}
        yield from state_faults(model, state)
    weights = random_weights(state)

    if whole:  # on another model than that which gives the digest: what is asked here may leave something in it
        yield {"stage": "running the model"}
        other = loaded(built(script, config, 1), weights)
        yield from model_faults(other, config, vocab_size)
        yield {"stage": "running the Scorer"}
        probe = Probe(script, config, other, vocab_size)
        yield {"scope": probe.scope, "chunk": probe.chunk}
        yield from probe.faults()
    yield {"stage": "running the model and the Scorer as they are scored"}
    first, second = Probe(script, config, loaded(model, weights), vocab_size).walk()
    if whole:
        yield from differences(probe, first, second)
    yield {"digest": hashlib.sha256(first.numpy().tobytes() + second.numpy().tobytes()).hexdigest()}


def missing(script):
    """Raises Fault unless Config and build_model are there."""
    absent = [name for name in PARTS if not callable(getattr(script, name, None))]
    for name in absent[:-1]:
        yield fault(PARTS[name], f"the script defines no {name}")
    if absent:
        raise Fault(PARTS[absent[-1]], f"the script defines no {absent[-1]}")


def config_faults(config):
    """Fields without which nothing can be scored, and numbers that are no numbers."""
    if not dataclasses.is_dataclass(config):
        raise Fault("config", "Config is no dataclass: write @dataclass(frozen=True) above it")
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            yield fault("config", f"{field.name} is {value}: JSON has no such number, so it cannot be packed")
    for name, largest in (("vocab_size", LARGEST_VOCABULARY), ("seq_len", 2**31)):
        value = getattr(config, name, None)
        if type(value) is not int or not 1 <= value <= largest:
            raise Fault("config", f"{name} is {str(value)[:40]}: write a whole number from 1 to {largest:,}")


def built(script, config, seed):
    """A model, made with torch's generator at `seed`."""
    import torch

    torch.manual_seed(seed)
    model = attempt("model", "build_model(config)", lambda: script.build_model(config))
    if not isinstance(model, torch.nn.Module):
        raise Fault("model", f"build_model gives {type(model).__name__}, not a torch.nn.Module")
    return model


def state_faults(model, state):
    """Tensors of the state_dict that packing stores twice, rounds against their sense, or refuses."""
    import torch

    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    places: dict = {}
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            yield fault("state", f"{name} is {kind}: only floating-point tensors can be packed")
        if name not in parameters:
            yield fault(
                "state",
                f"{name} is a buffer in the state_dict: it would be rounded as weights are, or be missing where "
                "parameters are saved; write register_buffer(..., persistent=False)",
            )
        if isinstance(tensor, torch.Tensor) and tensor.numel():
            place = (tensor.data_ptr(), tensor.shape)
            first = places.setdefault(place, name)
            if first != name:
                yield fault(
                    "state",
                    f"{name} is {first} again: it would be packed twice; use one name, as in F.linear(x, self.{first})",
                )


def random_weights(state):
    """Other weights than the start's, near to them in size: what starts at zero would hide what it multiplies."""
    import torch

    generator = torch.Generator().manual_seed(0)
    result = {}
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            result[name] = tensor
            continue
        size = tensor.float().square().mean().sqrt().item() if tensor.numel() else 0.0
        if not math.isfinite(size):
            raise Fault("state", f"{name} holds NaN or infinity before any training")
        of_zeros = 0.5 / math.sqrt(tensor.shape[-1]) if tensor.ndim > 1 else 0.1
        noise = torch.randn(tensor.shape, generator=generator)
        result[name] = (tensor.float() + (0.1 * size or of_zeros) * noise).to(tensor.dtype)
    return result


def loaded(model, weights):
    """The model with these weights, as the worker loads and places it."""
    import torch

    attempt("state", "load_state_dict of its own state_dict", lambda: model.load_state_dict(weights, strict=True))
    return sys.modules["__main__"].placed(model, torch.device("cpu"))


def random_tokens(lanes, count, vocab_size, seed):
    """int64 [lanes, count]."""
    import torch

    lowest = min(SPECIALS, vocab_size - 1)
    return torch.randint(lowest, vocab_size, (lanes, count), generator=torch.Generator().manual_seed(seed))


def checked(logits, shape, what):
    """The logits, a copy in float32. Raises Fault unless they are finite and of this shape."""
    import torch

    if not isinstance(logits, torch.Tensor):
        raise Fault("logits", f"{what} gives {type(logits).__name__}, not a tensor of logits {list(shape)}")
    if tuple(logits.shape) != tuple(shape):
        last = ": the last side is the number of the tokenizer's ids" if logits.shape[:-1] == shape[:-1] else ""
        raise Fault("logits", f"{what} gives the shape {list(logits.shape)}, not {list(shape)}{last}")
    if not bool(torch.isfinite(logits).all()):
        raise Fault("logits", f"{what} gives NaN or infinity with random weights")
    return logits.detach().float().clone()


def differ(one, other):
    """Whether logits differ by more than rounding."""
    if not one.numel():
        return False
    return bool((one - other).abs().max() > TOLERANCE * one.std(unbiased=False).clamp_min(1e-6))


def model_faults(model, config, vocab_size):
    """What model(tokens) gives, and the matrices that it takes past F.linear and F.embedding."""
    import torch
    import torch.nn.functional as F

    reached: set[int] = set()

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func in (F.linear, F.embedding):
                reached.update(id(value) for value in (*args, *(kwargs or {}).values()))
            return func(*args, **(kwargs or {}))

    tokens = random_tokens(2, min(config.seq_len, SHORT), vocab_size, 0)

    def logits_of(tokens):
        with torch.no_grad():
            found = attempt("logits", f"model(tokens {list(tokens.shape)})", lambda: model(tokens))
        return checked(found, (*tokens.shape, vocab_size), "model(tokens)")

    with Watch():
        logits = logits_of(tokens)
    if differ(logits, logits_of(tokens)):
        raise Fault("repeat", "two calls of model(tokens) in evaluation mode differ: nothing may be drawn there")
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim >= 2 and min(parameter.shape[-1], parameter.shape[:-1].numel()) >= MIN_SIDE
        if is_matrix and id(parameter) not in reached:
            yield fault(
                "statistics",
                f"{name} {list(parameter.shape)} reaches neither F.linear nor F.embedding as a parameter: it gets no "
                f"statistics; write F.linear(x, self.{name})",
            )
    places = tokens.size(1)
    at = places // 2
    if at + 1 < places:
        tokens[0, at + 1 :] = (tokens[0, at + 1 :] + 1) % vocab_size
        if differ(logits[0, : at + 1], logits_of(tokens)[0, : at + 1]):
            yield fault("causality", f"model(tokens): logits at places up to {at} change with the tokens after {at}")


class Probe:
    """A script's Scorer on a model that nobody else uses, and two chunks of random tokens for it."""

    def __init__(self, script, config, model, vocab_size):
        worker = sys.modules["__main__"]
        make = getattr(script, "Scorer", worker.PlainScorer)
        self.scorer = attempt("scorer", "Scorer(model, config)", lambda: make(model, config))
        absent = [name for name in (*worker.FIELDS, *worker.METHODS) if not hasattr(self.scorer, name)]
        if absent:
            raise Fault("scorer", f"the Scorer has no {', '.join(absent)}")
        self.scope, self.chunk = self.scorer.scope, self.scorer.chunk
        if self.scope not in ("none", "document", "stream"):
            raise Fault("scorer", f"its scope is {str(self.scope)[:40]!r}: write none, document or stream")
        if type(self.chunk) is not int or not 1 <= self.chunk <= (1 << 27) // vocab_size:
            raise Fault("scorer", f"its chunk is {str(self.chunk)[:40]}: write an integer from 1 to 2^27 / vocab_size")
        self.lanes = 1 if self.scope == "stream" else 2
        count = self.chunk if self.chunk <= LONG else SHORT
        self.tokens = [random_tokens(self.lanes, count, vocab_size, seed) for seed in (1, 2)]
        self.vocab_size = vocab_size

    def start(self):
        attempt("scorer", f"start({self.lanes})", lambda: self.scorer.start(self.lanes))

    def logits(self, tokens):
        import torch

        with torch.no_grad():
            what = f"logits(tokens {list(tokens.shape)})"
            found = attempt("logits", f"the Scorer's {what}", lambda: self.scorer.logits(tokens.clone()))
        return checked(found, (*tokens.shape, self.vocab_size), f"the Scorer's {what}")

    def walk(self):
        """Logits of the two chunks, scored one after the other."""
        self.start()
        first = self.logits(self.tokens[0])
        attempt("scorer", "observe()", self.scorer.observe)
        if self.tokens[0].size(1) < self.chunk:  # only the last chunk of a document is shorter than the others
            self.start()
        return first, self.logits(self.tokens[1])

    def faults(self):
        """Rows that change with what they must not see, or from call to call. Leaves the logits of both chunks."""
        tokens = self.tokens[0]
        self.start()
        self.first = self.logits(tokens)
        if differ(self.first, self.logits(tokens)):
            raise Fault("repeat", "two calls of logits() for one place differ: nothing may be drawn, or change there")
        count = tokens.size(1)
        for at in sorted({0, count // 2, count - 1}):
            decoys = tokens.clone()
            decoys[0, at:] = (decoys[0, at:] + 1) % self.vocab_size
            other = self.logits(decoys)
            if differ(self.first[0, : at + 1], other[0, : at + 1]):
                yield fault("causality", f"the Scorer's rows up to {at} change with the tokens from {at} on")
                break
            if differ(self.first[1:], other[1:]):
                yield fault("causality", "rows of one lane change with another lane's tokens")
                break
        self.logits(tokens)  # what observe() is about
        attempt("scorer", "observe()", self.scorer.observe)
        if count < self.chunk:
            self.start()
        self.second = self.logits(self.tokens[1])


def differences(probe, first, second):
    """Between a probe that was asked for decoys and a fresh one that was not, of a model that was made anew."""
    if differ(probe.first, first):
        yield fault(
            "state",
            "two models with one state_dict give other logits: something that is drawn when the model is made "
            "(a buffer?) is not in the state_dict",
        )
    elif differ(probe.second, second):
        yield fault("repeat", "logits() changes what later calls give: change state in start() and observe() only")
