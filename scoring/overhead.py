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


def plain_seconds(submission, documents, threads):
    """(seconds, nats) of scoring all documents in this process with `threads` threads; decoding and building are not
    in it. Raises ScoringError for an artifact with a Scorer."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(prefix="golf-plain-") as folder:
        script = _load(folder, "train_gpt", submission.train_source)
        decoder = _load(folder, "decode", submission.decode_source)
        if hasattr(script, "Scorer"):
            raise ScoringError("--overhead needs an artifact without a Scorer of its own: nothing plain to compare with")
        config = script.Config(**submission.config)
        model = script.build_model(config)
        model.load_state_dict(decoder.decode_weights(submission.weights), strict=True)
        model = model.float().eval()
        lengths = [len(document.tokens) for document in documents]
        begin, total = time.monotonic(), 0.0
        for batch in passes.plan(lengths, config.seq_len, "document", passes.BATCH_TOKENS):
            lanes = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(documents[number].tokens) for number in batch],
                                                    batch_first=True, padding_value=-100)
            previous = torch.full_like(lanes[:, :1], passes.BOS)
            for targets in lanes.split(config.seq_len, dim=1):
                inputs = torch.cat([previous, targets[:, :-1]], dim=1).clamp_min(0)
                previous = targets[:, -1:]
                with torch.no_grad():
                    logits = model(inputs)
                total += float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(),
                                                                 ignore_index=-100, reduction="sum"))
        return time.monotonic() - begin, total


def measure(submission, documents):
    """{"overhead": ratio, "scorer_seconds", "plain_seconds", "nats_difference"}: one box with all cores against one
    process with as many threads."""
    threads = passes.cores()
    plain, plain_nats = plain_seconds(submission, documents, threads)
    ledger, _, clock, _ = passes.score_documents(submission, documents, 1, 3600, False, lambda *_: None, lambda _: None)
    nats = float(ledger.document_nats().sum())
    return {"overhead": round(clock["score"] / plain, 4), "scorer_seconds": round(clock["score"], 3),
            "plain_seconds": round(plain, 3), "threads": threads, "nats_difference": abs(nats - plain_nats) / nats}


def _load(folder, name, source):
    path = os.path.join(folder, name + ".py")
    with open(path, "w", encoding="utf-8") as file:
        file.write(source)
    spec = importlib.util.spec_from_file_location(f"plain_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look the module up
    spec.loader.exec_module(module)
    return module
