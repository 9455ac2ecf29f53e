"""What the scorer costs: its pass against a plain evaluation of the same artifact in one process, no box, no ledger.

The plain evaluation is what a training script would do: the same batches and windows, float32 cross entropy. It runs
the artifact's code in this scorer's own machine without a box, so only on artifacts of your own.

NOT covered: artifacts with a Scorer of their own, whose plain evaluation nobody but they know.
"""

import importlib.util
import os
import sys
import tempfile
import time

import torch

from scoring import ScoringError, passes
from scoring.likelihood import Ledger


def measure(submission, documents, rounds=3):
    """{"overhead": ratio, "scorer_seconds", "plain_seconds", "threads", "nats_difference"}: one box with all cores
    against this process with as many threads; starting, decoding and building are in neither.

    The two take turns on the same batches, so that a machine which gets slower does so for both. Raises ScoringError
    for an artifact with a Scorer of its own."""
    threads = passes.cores()
    torch.set_num_threads(threads)
    seconds, nats = {"scorer": 0.0, "plain": 0.0}, {"scorer": 0.0, "plain": 0.0}
    with tempfile.TemporaryDirectory(prefix="golf-plain-") as folder:
        model, window = _model(submission, folder)
        batches = passes.plan([len(document.tokens) for document in documents], window, "document", passes.BATCH_TOKENS)
        with passes.Boxes(submission, 1, 3600, threads) as running:
            box = running.boxes[0]
            for turn in range(rounds):
                ledger = Ledger([len(document.tokens) for document in documents])
                for number, batch in enumerate(batches):
                    works = {"scorer": lambda: _boxed(box, batch, documents, ledger),
                             "plain": lambda: _plain(model, window, batch, documents)}
                    for name in sorted(works, reverse=(number + turn) % 2):
                        begin = time.monotonic()
                        nats[name] += works[name]()
                        seconds[name] += time.monotonic() - begin
    return {"overhead": round(seconds["scorer"] / seconds["plain"], 4),
            "scorer_seconds": round(seconds["scorer"] / rounds, 3),
            "plain_seconds": round(seconds["plain"] / rounds, 3), "threads": threads,
            "nats_difference": abs(nats["scorer"] - nats["plain"]) / nats["plain"]}


def _boxed(box, batch, documents, ledger):
    passes.score_batch(box, batch, documents, lambda number, begin, nats: ledger.commit(0, number, begin, nats))
    return sum(float(ledger.nats[number].sum()) for number in batch)


def _plain(model, window, batch, documents):
    lanes = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(documents[number].tokens) for number in batch],
                                            batch_first=True, padding_value=-100)
    previous, total = torch.full_like(lanes[:, :1], passes.BOS), 0.0
    for targets in lanes.split(window, dim=1):
        inputs = torch.cat([previous, targets[:, :-1]], dim=1).clamp_min(0)
        previous = targets[:, -1:]
        with torch.no_grad():
            logits = model(inputs)
        total += float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100,
                                                         reduction="sum"))
    return total


def _model(submission, folder):
    """(model, window) of an artifact, its code imported into this process."""
    script = _load(folder, "train_gpt", submission.train_source)
    decoder = _load(folder, "decode", submission.decode_source)
    if hasattr(script, "Scorer"):
        raise ScoringError("--overhead needs an artifact without a Scorer of its own: nothing plain to compare with")
    config = script.Config(**submission.config)
    model = script.build_model(config)
    model.load_state_dict(decoder.decode_weights(submission.weights), strict=True)
    return model.float().eval(), config.seq_len


def _load(folder, name, source):
    path = os.path.join(folder, name + ".py")
    with open(path, "w", encoding="utf-8") as file:
        file.write(source)
    spec = importlib.util.spec_from_file_location(f"plain_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look the module up
    spec.loader.exec_module(module)
    return module
