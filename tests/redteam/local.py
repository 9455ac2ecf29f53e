"""The red team without processes: a case's Scorer behind the box's methods, in this process, for tests of the audits
that have no time for boxes.

Not covered: the box itself, and cases that attack it.
"""

import math
import types
from unittest import mock

import torch

from golf.box import worker
from golf.box.box import BoxFailure
from scoring import audits, passes
from scoring.score import read_documents, tokenise


class LocalBox:
    """What passes.py and audits.py use of a Box."""

    capacity = 1 << 15
    answering = 0.0

    def __init__(self, world, case):
        host = types.ModuleType("__main__")  # where a case finds the worker's functions
        host.claimed, host.opened = worker.claimed, worker.opened
        module = types.ModuleType("train_gpt")
        with mock.patch.dict("sys.modules", {"__main__": host, "train_gpt": module}):
            exec(compile(case.script, "train_gpt.py", "exec"), module.__dict__)
        fields, weights = world.contents(case)
        config = module.Config(**fields)
        model = module.build_model(config)
        model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()}, strict=True)
        self.host, self.vocab_size = host, config.vocab_size
        self.scorer = getattr(module, "Scorer", worker.PlainScorer)(model, config)
        self.scope, self.chunk = self.scorer.scope, self.scorer.chunk
        self.claims, self.opened = getattr(self.scorer, "claims", False), 0

    @torch.no_grad()
    def logits(self, tokens):
        self.sent = torch.from_numpy(tokens.copy())
        self.kept = self.scorer.logits(self.sent)
        return self.kept.float().numpy().reshape(-1, self.vocab_size)

    def claimed(self, tokens):
        self.logits(tokens)
        return -self.host.claimed(self.kept, self.sent).double().numpy()

    def rows(self, places):
        self.opened += len(places)
        return self.host.opened(self.kept.flatten(0, 1), [int(place) for place in places]).float().numpy()

    def start(self, lanes):
        self.scorer.start(lanes)

    def commit(self):
        self.scorer.observe()


def rows_of(world, case, level="quick", seed=1):
    """(bits per byte of a pass, {audit: row}) of a case, without fresh text."""
    documents = read_documents(str(world.data), "dev")[0]
    tokenise(world.tokenizer, documents)

    class Boxes:
        def __init__(self, *_, **__):
            self.boxes = [LocalBox(world, case)]

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    with mock.patch.object(passes, "Boxes", Boxes):
        box = LocalBox(world, case)
        lengths = [len(document.tokens) for document in documents]
        ledger = passes.Ledger(lengths)
        for batch in passes.plan(lengths, box.chunk, box.scope, passes.BATCH_TOKENS):
            passes.score_batch(box, batch, documents, lambda *entry: ledger.commit(0, *entry))
        submission = types.SimpleNamespace(vocab_size=box.vocab_size)
        opened = box.opened if box.claims else None
        auditor = audits.Auditor(submission, documents, ledger, box.scope, level, 1, seed, opened)
        return auditor.bpb, {row["audit"]: row for row in auditor.run()}


def outcome_of(world, case):
    """(bits per byte of a pass, the verdict as the scorer words it, "" if there is none) of a case, without fresh
    text."""
    try:
        bpb, rows = rows_of(world, case, case.audit)
    except BoxFailure as failure:
        return math.nan, str(failure)
    failed = [f"FAILED (audit {audit}): {row['detail']}" for audit, row in rows.items() if row["verdict"] == "fail"]
    return bpb, "; ".join(failed)
