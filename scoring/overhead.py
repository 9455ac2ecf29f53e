"""What the scorer costs: its pass against a plain evaluation of the same artifact in one process, no box, no ledger.

The plain evaluation is what a training script would do: the same batches, the artifact's Scorer (or PlainScorer) called
directly, float32 cross entropy. It runs the artifact's code in this scorer's own machine without a box, so only on
artifacts of your own.

NOT covered: what a Scorer itself costs against plain windows.
"""

import os
import sys
import time
import types

import torch

from golf import temporary
from golf.box.worker import PlainScorer
from scoring import passes
from scoring.likelihood import Ledger


def measure(submission, documents, rounds=3):
    """{"overhead": ratio, "scorer_seconds", "plain_seconds", "threads", "nats_difference"}: one box with all cores
    against this process with as many threads; starting, decoding and building are in neither.

    The two take turns on the same batches, so that a machine which gets slower does so for both."""
    threads = passes.cores()
    torch.set_num_threads(threads)
    seconds, nats = {"scorer": 0.0, "plain": 0.0}, {"scorer": 0.0, "plain": 0.0}
    with temporary.folder("plain") as folder:
        scorer = _scorer(submission, folder)
        batches = passes.plan(
            [len(document.tokens) for document in documents], scorer.chunk, scorer.scope, passes.BATCH_TOKENS
        )
        with passes.Boxes(submission, 1, 3600, threads) as running:
            box = running.boxes[0]
            for turn in range(rounds):
                ledger = Ledger([len(document.tokens) for document in documents])
                for number, batch in enumerate(batches):
                    works = {
                        "scorer": lambda: _boxed(box, batch, documents, ledger),
                        "plain": lambda: _plain(scorer, batch, documents),
                    }
                    for name in sorted(works, reverse=(number + turn) % 2 == 1):
                        begin = time.monotonic()
                        nats[name] += works[name]()
                        seconds[name] += time.monotonic() - begin
    return {
        "overhead": round(seconds["scorer"] / seconds["plain"], 4),
        "scorer_seconds": round(seconds["scorer"] / rounds, 3),
        "plain_seconds": round(seconds["plain"] / rounds, 3),
        "threads": threads,
        "nats_difference": abs(nats["scorer"] - nats["plain"]) / nats["plain"],
    }


def _boxed(box, batch, documents, ledger):
    passes.score_batch(box, batch, documents, lambda number, begin, nats: ledger.commit(0, number, begin, nats))
    return sum(float(ledger.nats[number].sum()) for number in batch)


def _plain(scorer, batch, documents):
    lanes = torch.nn.utils.rnn.pad_sequence(
        [torch.from_numpy(documents[number].tokens) for number in batch], batch_first=True, padding_value=-100
    )
    scorer.start(len(batch))
    total = 0.0
    for targets in lanes.split(scorer.chunk, dim=1):
        with torch.no_grad():
            logits = scorer.logits(targets.clamp_min(0)).detach()
        total += float(
            torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum"
            )
        )
        scorer.observe()
    return total


def _scorer(submission, folder):
    """The scorer of an artifact, its code imported into this process."""
    script = _load(folder, "train_gpt", submission.train_source)
    decoder = _load(folder, "decode", submission.decode_source)
    config = script.Config(**submission.config)
    model = script.build_model(config)
    model.load_state_dict(decoder.decode_weights(submission.weights), strict=True)
    return getattr(script, "Scorer", PlainScorer)(model.float().eval(), config)


def _load(folder, name, source):
    path = os.path.join(folder, name + ".py")
    with open(path, "w", encoding="utf-8") as file:
        file.write(source)
    module = types.ModuleType(f"plain_{name}")
    module.__file__ = path
    sys.modules[module.__name__] = module  # dataclasses look the module up
    exec(compile(source, path, "exec"), module.__dict__)
    return module
