"""The program inside the box: decodes the artifact's model and answers the scorer. It is copied into the box with the
files that box.py lists, and imports nothing else of this repository: standard library, numpy and torch.

Run as `python -I worker.py '{...}'` in a directory that holds train_gpt.py and decode.py (real files: Triton reads
source), config.json and weights.bin. Floating point: float32 on the CPU; with a CUDA device, autocast to bfloat16.

A script may define `Scorer(model, config)` with `.scope` ("none" | "document" | "stream"), `.chunk` (tokens per call),
`.start(lanes)`, `.logits(tokens[B,C]) -> [B,C,V]` and `.observe()`. Otherwise PlainScorer below is used. State changes
in start() and observe() only: audits call logits() several times for one place, and observe() is about the last call.

With `Scorer.claims = True` the rows stay here until the chunk is committed, for vocabularies on a GPU whose rows are
too much to hand over: the scorer gets the log-probability of each token, and single rows that it asks for afterwards.
Such a score is audited, not constructed (docs/audits.md).

Other work on an artifact runs here as well: with the option `program` the worker runs a program of the kit's in the
place of all that. Its function `run(memory)` (uint8 array: the shared memory) yields dicts, which the other side
gets one by one; `stage` in one says what begins, for the message if it fails.

NOT covered: once the artifact is imported it can change anything in this process. What is sent before that (`hello`) is
the worker's own; the scorer takes nothing after it on trust.
"""

import contextlib
import importlib
import json
import mmap
import os
import sys
import types

BOS = 1  # id of the document boundary, fixed by the format of the data


# What the protocol uses of a Scorer; `claims` is optional.
FIELDS, METHODS = ("scope", "chunk"), ("start", "logits", "observe")


class PlainScorer:
    """For scripts without a Scorer: non-overlapping windows of config.seq_len tokens that start at the document's
    start.

    Window k's input is ([BOS] + document)[k*T : (k+1)*T]; row i predicts token i of the chunk. Nothing is carried but
    the last token."""

    scope = "document"

    def __init__(self, model, config):
        self.model = model
        self.chunk = config.seq_len

    def start(self, lanes):
        """New documents begin in `lanes` lanes."""
        self.previous = None

    def logits(self, tokens):
        """tokens [B, C] int64 -> logits [B, C, V]."""
        import torch

        previous = torch.full_like(tokens[:, :1], BOS) if self.previous is None else self.previous
        self.last = tokens[:, -1:]
        return self.model(torch.cat([previous, tokens[:, :-1]], dim=1))

    def observe(self):
        """The chunk's score is final; a fixed predictor keeps the last token."""
        self.previous = self.last


def placed(model, device):
    """The model on `device` and in evaluation mode. A decoder may hand over halves to save memory: on the CPU
    everything is computed in float32. A model that is no torch module has none of these methods, and is taken as it
    is."""
    if hasattr(model, "to"):
        model = model.to(device)
    if device.type == "cpu" and hasattr(model, "float"):
        model = model.float()
    if hasattr(model, "eval"):
        model = model.eval()
    return model


def claimed(logits, tokens):
    """log softmax(logits)[token]: logits [B, C, V], tokens int64 [B, C] -> float32 [B, C], at most 0."""
    logits = logits.float()
    target = logits.gather(2, tokens[..., None])[..., 0]
    return (target - logits.logsumexp(2)).clamp(max=0)


def opened(kept, places):
    """Rows [n, V] at `places` (list of int) of the kept logits [N, V]."""
    return kept[places]


def choose_device(gpu):
    """(the torch.device that a box computes on which was given `gpu`, or none; why it is not that GPU, or "")."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda"), ""
    reason = ""
    if gpu:
        try:
            torch.cuda.init()  # it says why
        except Exception as error:
            reason = str(error).partition("\n")[0].partition(". ")[0]
    return torch.device("cpu"), reason


class Worker:
    """Loads the artifact's model, then answers `start`, `chunk` and `committed` until the pipe closes."""

    def __init__(self, options, protocol, watch):
        self.options, self.protocol, self.watch = options, protocol, watch
        self.stage = "starting"  # what is being done, for the message if it fails
        self.kept = None  # the last chunk's rows [N, V], of a Scorer with claims
        self.device = None  # the torch.device that it computes on

    def send(self, op, **fields):
        self.protocol.send(self.options["reply_fd"], op=op, **fields)

    def load(self):
        """Import the two scripts, decode the weights, build the model and its scorer. Sends `decoded` and `ready`."""
        import torch

        self.torch = torch
        torch.set_num_threads(self.options["threads"])
        torch.manual_seed(0)
        if self.device.type == "cuda":  # only torch's own allocator keeps to it: for honest artifacts that share a GPU
            torch.cuda.set_per_process_memory_fraction(self.options["gpu_fraction"])
        sys.path.insert(0, os.getcwd())
        self.stage = "importing train_gpt.py"
        script = importlib.import_module("train_gpt")
        self.stage = "importing decode.py"
        decoder = importlib.import_module("decode")
        self.stage = "decoding the weights"
        with open("weights.bin", "rb") as file:
            weights = decoder.decode_weights(file.read())
        self.send("decoded")
        self.stage = "building the model"
        with open("config.json", encoding="utf-8") as file:
            config = script.Config(**json.load(file))
        model = script.build_model(config)
        model.load_state_dict(weights, strict=True)
        make = getattr(script, "Scorer", PlainScorer)
        self.scorer = make(placed(model, self.device), config)
        self.check_contract(FIELDS)
        self.claims = getattr(self.scorer, "claims", False) is True
        self.send("ready", scope=self.scorer.scope, chunk=self.scorer.chunk, claims=self.claims)

    def check_contract(self, names):
        """Raises TypeError if the script's Scorer lacks one of `names`."""
        for name in names:
            if not hasattr(self.scorer, name):
                raise TypeError(f"the script's Scorer has no `{name}`; it needs {', '.join(FIELDS + METHODS)}")

    def serve(self):
        """Answer the scorer until it closes the pipe."""
        import numpy

        capacity, vocab_size = self.options["capacity"], self.options["vocab_size"]
        size = self.protocol.memory_bytes(capacity, vocab_size)
        buffer = mmap.mmap(self.options["memory_fd"], size)
        token_memory, logit_memory, claim_memory = self.protocol.memory_views(numpy, buffer, capacity, vocab_size)
        while True:
            self.stage = "waiting"
            try:
                message = self.protocol.receive(self.options["command_fd"])
            except EOFError:
                return
            if message["op"] == "threads":
                self.torch.set_num_threads(message["count"])
            elif message["op"] == "start":
                self.stage = "start()"
                self.check_contract(METHODS)
                self.scorer.start(message["lanes"])
            elif message["op"] == "chunk":
                self.stage = "logits()"
                lanes, length = message["lanes"], message["length"]
                # A copy: the scorer will write the next chunk into the same memory.
                tokens = (
                    self.torch.from_numpy(token_memory[: lanes * length].copy()).view(lanes, length).to(self.device)
                )
                shape = self.answer(tokens, logit_memory, claim_memory)
                self.send("logits", shape=shape)
            elif message["op"] == "rows":
                self.stage = "opening rows"
                rows = self.torch.from_numpy(logit_memory[: len(message["places"])])
                rows.copy_(opened(self.kept, message["places"]))
                self.send("rows", count=len(rows))
            elif message["op"] == "committed":
                self.stage = "observe()"
                self.kept = None
                self.scorer.observe()
            elif message["op"] == "files":
                self.send("files", files=[path[:200] for path in self.watch.files])

    def run_program(self, source):
        """Run the kit's program, whose text is `source`, beside the artifact's files and send what it yields."""
        import numpy
        import torch

        torch.set_num_threads(self.options["threads"])
        program = types.ModuleType("program")
        exec(compile(source, self.protocol.PROGRAM, "exec"), vars(program))
        sys.path.insert(0, os.getcwd())
        size = self.protocol.memory_bytes(self.options["capacity"], self.options["vocab_size"])
        memory = numpy.frombuffer(mmap.mmap(self.options["memory_fd"], size), numpy.uint8)
        for answer in program.run(memory):
            self.stage = answer.get("stage", self.stage)
            self.send("result", **answer)
            self.protocol.receive(self.options["command_fd"])
        self.send("result", last=True)

    def answer(self, tokens, logit_memory, claim_memory):
        """Write the logits for tokens [B, C] into shared memory, or what is claimed of them; returns their shape, and
        writes nothing if it is not [B, C, V]."""
        torch = self.torch
        autocast = torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else contextlib.nullcontext()
        with torch.no_grad(), autocast:
            logits = self.scorer.logits(tokens)
        if not isinstance(logits, torch.Tensor):
            raise TypeError(
                "the script's Scorer.logits(tokens [B, C]) must return a torch.Tensor of logits [B, C, V]; it returned "
                f"{type(logits).__module__}.{type(logits).__name__}"
            )
        shape = list(logits.shape)
        if shape == [*tokens.shape, logit_memory.shape[1]]:
            logits = logits.detach()
            if self.claims:
                self.kept = logits.flatten(0, 1)
                torch.from_numpy(claim_memory[: tokens.numel()]).copy_(claimed(logits, tokens).flatten())
            else:
                torch.from_numpy(logit_memory[: tokens.numel()]).view(shape).copy_(logits)
        return shape


def main():
    """Confine, say hello, load, serve. A failure of the artifact becomes one `error` message and exit status 1."""
    options = json.loads(sys.argv[1])
    program = os.path.dirname(os.path.abspath(__file__))
    sys.path.insert(0, os.path.dirname(os.path.dirname(program)))  # where `golf` lies
    from golf.box import confine, protocol
    from golf.box.watch import Watch

    sys.path.pop(0)
    source = None
    if options["program"]:
        with open(os.path.join(program, protocol.PROGRAM), encoding="utf-8") as file:  # the box's root will not have it
            source = file.read()
    watch = Watch(options["names"], options["packages"], options["processes"])
    layers = confine.confine(options)  # before numpy and torch: namespaces need a single thread
    watch.limit_imports()
    import torch  # noqa: F401  (its import counts as starting the box, not as decoding)

    worker = Worker(options, protocol, watch)
    worker.device, reason = choose_device(options["gpu"])
    worker.send("hello", layers=layers, device=worker.device.type, reason=reason)
    watch.log_files()
    try:
        if source is not None:
            worker.run_program(source)
        else:
            worker.load()
            worker.serve()
    except BaseException as error:  # SystemExit and KeyboardInterrupt of the artifact too
        text = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        worker.send("error", stage=worker.stage, error=text)
        sys.exit(1)


if __name__ == "__main__":
    main()
