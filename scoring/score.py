"""One score: artifact and documents in, the object of eval.json out.

The held-out text, the tokens, the softmax, the byte count and the clock are the scorer's; boxes (golf/box/) only turn
tokens into logits. With scope "none" or "document" the documents are dealt to several boxes in batches of similar
length; with scope "stream" one box sees all of them in the order of the file. The end of a document (id 1) is a scored
symbol. A run scores every symbol exactly once or has no score: where a rule needs a number for a failed run, each of
its bytes costs 8 bits.

By construction here: a normalised distribution per symbol (unless the artifact claims log-probabilities: then audited),
one pass, score before update, no look at later chunks, the raw-byte denominator, the lossless tokenizer. Sampled by
audits.py: causality inside a chunk (a box is given the tokens of a chunk at once, teacher forcing), and that the scope
is what it says.

NOT covered: with scope "stream" the last chunk of a document is as long as what is left of it (docs/audits.md has what
that is worth). With the other scopes lanes that have ended are filled up with random symbols.
"""

import hashlib
import json
import os
import secrets
import time
from pathlib import Path

import numpy as np

from golf import container, slices, statistics, tokenizer_section
from golf.box.box import Submission
from golf.files import ROOT, Failure, read_bytes
from golf.tokenizer import Tokenizer
from scoring import audits, lossless, reference, verdicts
from scoring.passes import BOS, Document, score_documents
from scoring.positions import Pace

MAX_DOCUMENT_BYTES = 1 << 24  # of raw text; SentencePiece takes 50 bytes of memory for each
FORMAT = 2  # of eval.json; 1 had slices by source only, under their bare names

# The files of this repository that a score depends on: what runs while scoring, in the scorer's process, in the process
# that checks the tokenizer, and in the boxes. Not scoring/report.py, which only prints, nor scoring/overhead.py, which
# only times. tests/scoring/test_sources.py compares this list with the modules that a real score loads.
SOURCES = (
    "eval_heldout.py",
    "golf/__init__.py",
    "golf/box/__init__.py",
    "golf/box/box.py",
    "golf/box/calls.py",
    "golf/box/cgroup.py",
    "golf/box/confine.py",
    "golf/box/driver.py",
    "golf/box/kernel.py",
    "golf/box/landlock.py",
    "golf/box/mounts.py",
    "golf/box/packages.py",
    "golf/box/protocol.py",
    "golf/box/visible.py",
    "golf/box/watch.py",
    "golf/box/worker.py",
    "golf/case_operators.py",
    "golf/children.py",
    "golf/container.py",
    "golf/files.py",
    "golf/foreign.py",
    "golf/locks.py",
    "golf/slices.py",
    "golf/statistics.py",
    "golf/temporary.py",
    "golf/tokenizer.py",
    "golf/tokenizer_section.py",
    "golf/versions.py",
    "scoring/__init__.py",
    "scoring/audits.py",
    "scoring/likelihood.py",
    "scoring/lossless.py",
    "scoring/passes.py",
    "scoring/positions.py",
    "scoring/reference.py",
    "scoring/score.py",
    "scoring/sweep.py",
    "scoring/verdicts.py",
)


class AuditFailure(Failure):
    """An audit found the score wrong. `.result`: what eval.json would have been."""

    def __init__(self, text, result):
        super().__init__(text)
        self.result = result


def read_artifact(path):
    """(Submission, Tokenizer, {"name", "bytes", "sha256"}) of a .golf file. Raises Failure."""
    if not os.path.exists(path):
        raise Failure(f"no artifact at {path}; make one with: golf pack RUN")
    data = read_bytes(Path(path))
    try:
        sections = container.read(data)
        train_source, decode_source = container.code_unpack(sections["CODE"])
        config = container.config_unpack(sections["CONF"])
        tokenizer = Tokenizer(tokenizer_section.rebuild(sections["TOKN"]))
    except (ValueError, RuntimeError) as error:  # FormatError is the first kind, SentencePiece raises the second
        raise Failure(f"{path} is not a usable artifact: {error}") from None
    submission = Submission(train_source, decode_source, config, sections["WGTS"], tokenizer.vocab_size)
    digest = hashlib.sha256(data).hexdigest()
    return submission, tokenizer, {"name": os.path.basename(path), "bytes": len(data), "sha256": digest}


def read_documents(data_dir, split):
    """([Document], {"manifest_sha256", "docs_sha256", "split"}) of a split, checked against the manifest. Raises
    Failure."""
    manifest_path, name = os.path.join(data_dir, "manifest.json"), f"{split}_docs.jsonl"
    docs_path = os.path.join(data_dir, name)
    try:
        with open(manifest_path, "rb") as file:
            manifest_bytes = file.read()
        with open(docs_path, "rb") as file:
            docs_bytes = file.read()
    except OSError as error:
        reason = f"{os.path.basename(error.filename)}: {error.strerror}"
        raise Failure(
            f"no complete data set in {data_dir} ({reason}); build the default one with: golf data embedded"
        ) from None
    try:
        entry = json.loads(manifest_bytes)["splits"][split]
        promised = {file["name"]: file["sha256"] for file in entry["files"]}[name]
        totals = entry["documents"], entry["raw_bytes"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Failure(f"{manifest_path} says nothing of {name}; build the data set anew with golf data") from None
    docs_sha256 = hashlib.sha256(docs_bytes).hexdigest()
    if docs_sha256 != promised:
        raise Failure(
            f"{docs_path} is not the file of its manifest (sha256 {docs_sha256[:16]}..., "
            f"expected {ascii(str(promised))[1:17]}...); build the data set anew with golf data"
        )
    documents = []
    for number, line in enumerate(docs_bytes.splitlines(), 1):
        try:
            row = json.loads(line)
            documents.append(Document(str(row["id"]), str(row["source"]), row["text"], len(row["text"].encode())))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise Failure(f"{docs_path}, line {number}: not a document (id, source, text)") from None
        if documents[-1].raw_bytes > MAX_DOCUMENT_BYTES:
            raise Failure(
                f"{docs_path}, line {number}: document {documents[-1].id} holds {documents[-1].raw_bytes:,} bytes of "
                f"text; the scorer takes {MAX_DOCUMENT_BYTES:,} at most: split it"
            )
    if not documents or not sum(document.raw_bytes for document in documents):
        raise Failure(f"{docs_path} holds no text: nothing to score")
    if totals != (len(documents), sum(document.raw_bytes for document in documents)):
        raise Failure(f"{docs_path} does not hold the number of documents and bytes that {manifest_path} states")
    manifest_sha256 = hashlib.sha256(manifest_bytes).hexdigest()
    return documents, {"manifest_sha256": manifest_sha256, "docs_sha256": docs_sha256, "split": split}


def tokenise(tokenizer, documents):
    """Fill in the tokens of documents, with the end symbol."""
    for document in documents:
        document.tokens = np.append(tokenizer.encode(document.text).astype(np.int64), BOS)


def score(
    artifact_path,
    data_dir,
    split,
    processes=None,
    time_limit=600,
    certify=False,
    audit="none",
    fresh=None,
    on_phase=lambda name, total: None,
    on_tokens=lambda count: None,
    seed=None,
):
    """The object of eval.json. `processes`: boxes (default: one per GPU, or per core); `time_limit`: seconds for
    decoding and scoring; `audit`: a level of audits.py; `fresh`: another split to compare with; `seed`: of the audits'
    draws, by default one that nobody knew before.

    on_phase(name, symbols or None) and on_tokens(symbols) report progress. Raises Failure with one line; if it is
    an AuditFailure, it has the result."""
    begin = time.monotonic()
    on_phase("read", None)
    scorer = scorer_sha256()
    submission, tokenizer, artifact = read_artifact(artifact_path)
    documents, data = read_documents(data_dir, split)
    others, fresh_data = read_documents(data_dir, fresh) if fresh else ([], data)
    clock = {"read": time.monotonic() - begin}

    started = time.monotonic()
    on_phase("tokenise", None)
    tokenise(tokenizer, documents + others)
    clock["tokenise"] = time.monotonic() - started

    started = time.monotonic()
    on_phase("lossless", None)
    lossless.check(tokenizer, documents + others)
    clock["lossless"] = time.monotonic() - started

    ledger, boxes, box_clock, files = score_documents(
        submission, documents, processes, time_limit, certify, on_phase, on_tokens
    )
    clock.update(box_clock)

    started = time.monotonic()
    on_phase("interval", None)
    whole, parts, per_document = summarise(documents, tokenizer, ledger)
    clock["interval"] = time.monotonic() - started

    seed = secrets.randbits(64) if seed is None else seed
    started = time.monotonic()
    rows = [verdicts.plausibility(whole["bpb"], artifact["bytes"])]
    claims = boxes[0].claims
    if claims and audit == "none":
        audit = "quick"  # without one, claims are worth nothing
    if audit == "quick" and rows[0]["verdict"] == "note":
        audit = "full"
    if audit != "none":
        opened = sum(box.opened for box in boxes) if claims else None
        pace = pace_of(documents, boxes, clock["score"])
        auditor = audits.Auditor(submission, documents, ledger, boxes[0].scope, audit, time_limit, seed, opened, pace)
        rows += auditor.run(on_phase, on_tokens)
    if fresh:
        rows.append(
            _fresh(
                submission,
                tokenizer,
                documents,
                others,
                whole,
                processes,
                time_limit,
                certify,
                fresh,
                on_phase,
                on_tokens,
            )
        )
    clock["audits"] = time.monotonic() - started
    check_unchanged(
        {artifact_path: artifact["sha256"]}
        | {
            os.path.join(data_dir, name): sha256
            for part in (data, fresh_data)
            for name, sha256 in (
                ("manifest.json", part["manifest_sha256"]),
                (f"{part['split']}_docs.jsonl", part["docs_sha256"]),
            )
        }
    )
    if scorer_sha256() != scorer:
        raise Failure(f"FAILED (changed): the scorer's own sources in {ROOT} changed while it scored; score again")
    clock["total"] = time.monotonic() - begin
    tokens = sum(len(document.tokens) for document in documents)
    result = {
        "format": FORMAT,
        **whole,
        "tokens": tokens,
        "slices": parts,
        "per_document": per_document,
        "artifact": artifact,
        "data": data,
        "scorer_sha256": scorer,
        "scope": boxes[0].scope,
        "device": boxes[0].device,
        "processes": len(boxes),
        "clock": {phase: round(seconds, 3) for phase, seconds in clock.items()},
        "tokens_per_second": round(tokens / clock["score"], 1),
        "sandbox": boxes[0].layers,
        "probabilities": "audited" if claims else "constructed",
        "files_opened": files,
        "certified": certify,
        "audit": audit,
        "audit_seed": str(seed),
        "audits": rows,
        "ledger": [head.hex() for _, head in sorted(ledger.heads.items())],
    }
    for row in reversed(rows):  # the last ones say most about the cause
        if row["verdict"] == "fail":
            raise AuditFailure(f"FAILED (audit {row['audit']}): {row['detail']}", result)
    return result


def _fresh(submission, tokenizer, documents, others, whole, processes, time_limit, certify, name, on_phase, on_tokens):
    ledger, *_ = score_documents(submission, others, processes, time_limit, certify, on_phase, on_tokens)
    part = summarise(others, tokenizer, ledger)[0]
    simple = []
    for texts in (documents, others):
        nats = reference.adaptive_nats([document.tokens for document in texts], tokenizer.vocab_size)
        sizes = [tokenizer.lengths[text.tokens[: len(row)]].sum() for text, row in zip(texts, nats)]
        simple.append(statistics.bits_per_byte(list(map(np.sum, nats)), sizes))
    return verdicts.fresh(name, whole["bpb"], whole["bpb_interval"], part["bpb"], part["bpb_interval"], *simple)


def pace_of(documents, boxes, seconds):
    """The Pace of a pass over documents that took `seconds`; of the boxes, some may not have been needed."""
    chunks = sum(-(-len(document.tokens) // boxes[0].chunk) for document in documents)
    answering = [box.answering for box in boxes if box.answering]
    return Pace(seconds, sum(answering) / len(answering) / chunks)


def summarise(documents, tokenizer, ledger):
    """(the whole, {slice: part}, per-document rows) of a ledger that is complete."""
    nats = ledger.document_nats()
    if not np.isfinite(nats).all():
        # Cannot happen without a failure before; but never publish such a number.
        raise RuntimeError("a symbol was not scored")
    rows = [
        {
            "id": document.id,
            "source": document.source,
            "raw_bytes": document.raw_bytes,
            "tokens": len(document.tokens),
            "nats": float(value),
            "non_ascii": slices.non_ascii(document.text),
            "position_nats": slices.position_nats(by_symbol, tokenizer.lengths[document.tokens]),
        }
        for document, value, by_symbol in zip(documents, nats, ledger.nats)
    ]
    parts = {name: _summary(part.nats(rows), part.raw_bytes) for name, part in slices.cut(rows).items()}
    return _summary(nats, np.array([document.raw_bytes for document in documents])), parts, rows


def check_unchanged(promised):
    """Raises Failure if a file is not the one that was read any more. promised: {path: SHA-256 hex}.

    What was scored is what was read, whole and once; but a result must not lie beside a file that it is not of."""
    for path, sha256 in promised.items():
        try:
            with open(path, "rb") as file:
                same = hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except OSError:
            same = False
        if not same:
            raise Failure(f"FAILED (changed): {path} changed while it was scored; score it again")


def scorer_sha256():
    """SHA-256 hex over SOURCES: of each file its path, its size and its bytes."""
    digest = hashlib.sha256()
    for name in SOURCES:
        data = (ROOT / name).read_bytes()
        digest.update(f"{name} {len(data)} ".encode() + data)
    return digest.hexdigest()


def _summary(nats, raw_bytes):
    return {
        "bpb": float(statistics.bits_per_byte(nats, raw_bytes)),
        "bpb_interval": statistics.bpb_interval(nats, raw_bytes),
        "raw_bytes": int(raw_bytes.sum()),
        "documents": len(nats),
        "nats": float(nats.sum()),
    }
