"""One score: artifact and documents in, the object of eval.json out.

The held-out text, the tokens, the softmax, the byte count and the clock are the scorer's; boxes (box.py) only turn
tokens into logits. With scope "none" or "document" the documents are dealt to several boxes in batches of similar
length; with scope "stream" one box sees all of them in the order of the file. The end of a document (id 1) is a scored
symbol. A run scores every symbol exactly once or has no score: where a rule needs a number for a failed run, each of
its bytes costs 8 bits.

By construction here: a normalised distribution per symbol, one pass, score before update, no look at later chunks, the
raw-byte denominator, the lossless tokenizer.

NOT covered in this version: causality inside a chunk. A box is given the tokens of a chunk at once (teacher forcing),
and that row i uses nothing from token i on is promised by the artifact, not audited. The shape of a batch also tells a
box roughly how long its documents are: lanes that have ended are padded with id 0. The box itself is no security
boundary (confine.py).
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import math
import os
import queue
import re
import time

import numpy as np

from compress import container
from compress import tokenizer as tokenizer_section
from scoring import ScoringError, lossless, statistics
from scoring.box import Box, BoxFailure, Submission, remove_stale
from scoring.likelihood import Ledger, token_nats
from scoring.tokenizer import Tokenizer

BOS = 1  # id of the document boundary, and so of the end symbol
BATCH_TOKENS = 8192  # of one call; larger is no faster on a CPU, and a chunk longer than this is still one call
MIN_MEMORY_BYTES = 1 << 30  # of a box; torch alone takes a third of it
MIN_FILL = 0.75  # a batch takes a document only if it has at least this share of the windows of the longest


@dataclasses.dataclass
class Document:
    """A held-out document; `tokens` int64 [T+1] ends with the end symbol."""

    id: str
    source: str
    text: str
    raw_bytes: int
    tokens: np.ndarray = None


def read_artifact(path):
    """(Submission, Tokenizer, {"name", "bytes", "sha256"}) of a .golf file. Raises ScoringError."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise ScoringError(f"no artifact at {path}; make one with: python -m compress pack RUN") from None
    except OSError as error:
        raise ScoringError(f"cannot read {path}: {error.strerror}") from None
    try:
        sections = container.read(data)
        train_source, decode_source = container.code_unpack(sections["CODE"])
        config = container.config_unpack(sections["CONF"])
        tokenizer = Tokenizer(tokenizer_section.rebuild(sections["TOKN"]))
    except ValueError as error:  # FormatError is one
        raise ScoringError(f"{path} is not a usable artifact: {error}") from None
    submission = Submission(train_source, decode_source, config, sections["WGTS"], tokenizer.vocab_size)
    digest = hashlib.sha256(data).hexdigest()
    return submission, tokenizer, {"name": os.path.basename(path), "bytes": len(data), "sha256": digest}


def read_documents(data_dir, split):
    """([Document], {"manifest_sha256", "docs_sha256", "split"}) of a split, checked against the manifest. Raises
    ScoringError."""
    manifest_path, name = os.path.join(data_dir, "manifest.json"), f"{split}_docs.jsonl"
    docs_path = os.path.join(data_dir, name)
    try:
        with open(manifest_path, "rb") as file:
            manifest_bytes = file.read()
        with open(docs_path, "rb") as file:
            docs_bytes = file.read()
    except OSError as error:
        reason = f"{os.path.basename(error.filename)}: {error.strerror}"
        raise ScoringError(f"no complete data set in {data_dir} ({reason}); "
                           "build the default one with: python tools/data.py embedded") from None
    try:
        entry = json.loads(manifest_bytes)["splits"][split]
        promised = {file["name"]: file["sha256"] for file in entry["files"]}[name]
        totals = entry["documents"], entry["raw_bytes"]
    except (ValueError, KeyError, TypeError):
        raise ScoringError(f"{manifest_path} says nothing of {name}; "
                           "build the data set anew with tools/data.py") from None
    docs_sha256 = hashlib.sha256(docs_bytes).hexdigest()
    if docs_sha256 != promised:
        raise ScoringError(f"{docs_path} is not the file of its manifest (sha256 {docs_sha256[:16]}..., "
                           f"expected {str(promised)[:16]}...); build the data set anew with tools/data.py")
    documents = []
    for number, line in enumerate(docs_bytes.splitlines(), 1):
        try:
            row = json.loads(line)
            documents.append(Document(str(row["id"]), str(row["source"]), row["text"], len(row["text"].encode())))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ScoringError(f"{docs_path}, line {number}: not a document (id, source, text)") from None
    if not documents or not sum(document.raw_bytes for document in documents):
        raise ScoringError(f"{docs_path} holds no text: nothing to score")
    if totals != (len(documents), sum(document.raw_bytes for document in documents)):
        raise ScoringError(f"{docs_path} does not hold the number of documents and bytes that {manifest_path} states")
    manifest_sha256 = hashlib.sha256(manifest_bytes).hexdigest()
    return documents, {"manifest_sha256": manifest_sha256, "docs_sha256": docs_sha256, "split": split}


def plan(lengths, chunk, scope, batch_tokens):
    """Batches of document numbers: of similar length and longest first, or one document each in order for scope
    "stream".

    No call has more than max(batch_tokens, chunk) tokens."""
    if scope == "stream":
        return [[number] for number in range(len(lengths))]
    batches = []
    windows = [math.ceil(length / chunk) for length in lengths]
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        longest = batches[-1][0] if batches else None
        if (longest is not None and (len(batches[-1]) + 1) * min(chunk, lengths[longest]) <= batch_tokens
                and windows[number] >= MIN_FILL * windows[longest]):
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches


def score_batch(box, box_number, batch, documents, ledger, on_tokens):
    """Run one batch of documents through a box, chunk by chunk, and commit every symbol to the ledger. Raises
    BoxFailure."""
    tokens = [documents[number].tokens for number in batch]
    longest = max(map(len, tokens))
    box.start(len(batch))
    for begin in range(0, longest, box.chunk):
        length = min(box.chunk, longest - begin)
        chunk = np.zeros((len(batch), length), dtype=np.int64)
        for lane, symbols in enumerate(tokens):
            part = symbols[begin:begin + length]
            chunk[lane, :len(part)] = part
        logits = box.logits(chunk)
        for lane, number in enumerate(batch):
            part = tokens[lane][begin:begin + length]
            if not len(part):
                continue
            nats = token_nats(logits[lane * length:lane * length + len(part)], part)
            if not np.isfinite(nats).all():
                where = int(np.flatnonzero(~np.isfinite(nats))[0])
                what = "give the symbol probability zero" if nats[where] == np.inf else "hold NaN or infinity"
                raise BoxFailure("not-a-number", f"logits {what} at symbol {begin + where} of document "
                                 f"{documents[number].id}")
            ledger.commit(box_number, number, begin, nats)
            on_tokens(len(part))
        box.commit()


def score_documents(submission, documents, processes, time_limit, certify, on_phase, on_tokens):
    """Start the boxes and score all documents. Returns (ledger, [box], clock, files that the boxes say they opened); the
    boxes are gone by then, their fields remain. certify: raises ScoringError if a layer of the boxes is missing."""
    cores, gpus = _cores(), _gpus()
    count = min(processes or len(gpus) or cores, len(documents))
    boxes, clock = [], {}
    pool = concurrent.futures.ThreadPoolExecutor(count)
    try:
        on_phase("decode", None)
        for number in range(count):
            gpu = gpus[number % len(gpus)] if gpus else None
            boxes.append(Box(submission, max(1, cores // count), time_limit, gpu, memory_share(count)))
        _all(pool.submit(box.load) for box in boxes)
        missing = [row["layer"] for row in boxes[0].layers if not row["active"]]
        if certify and missing:
            raise ScoringError(f"not certified: this machine does not grant the box {'; '.join(missing)}; "
                               "score elsewhere, or without --certify")
        for phase in ("start", "decode", "build"):
            clock[phase] = max(box.clock[phase] for box in boxes)
        scope, chunk = boxes[0].scope, boxes[0].chunk
        if any((box.scope, box.chunk) != (scope, chunk) for box in boxes):
            raise BoxFailure("protocol", "boxes of one artifact disagree on scope or chunk")
        working = boxes
        if scope == "stream":
            for box in boxes[1:]:
                box.kill()
            working = boxes[:1]
            boxes[0].set_threads(cores)
        lengths = [len(document.tokens) for document in documents]
        ledger = Ledger(lengths)
        batches = queue.SimpleQueue()
        for batch in plan(lengths, chunk, scope, min(BATCH_TOKENS, boxes[0].capacity)):
            batches.put(batch)
        on_phase("score", sum(lengths))
        begin = time.monotonic()
        _all(pool.submit(_work, box, number, batches, documents, ledger, on_tokens)
             for number, box in enumerate(working))
        clock["score"] = time.monotonic() - begin
        files = sorted({path for box in working for path in box.files()})
    finally:
        for box in boxes:  # first kill, so that the threads that wait for a box end; then take away what they use
            box.kill()
        pool.shutdown(wait=True, cancel_futures=True)
        for box in boxes:
            box.close()
    return ledger, boxes, clock, files


def _work(box, number, batches, documents, ledger, on_tokens):
    while True:
        try:
            batch = batches.get_nowait()
        except queue.Empty:
            return
        score_batch(box, number, batch, documents, ledger, on_tokens)


def _all(futures):
    """Wait for all, or raise what the first one that fails raises."""
    done, _ = concurrent.futures.wait(list(futures), return_when=concurrent.futures.FIRST_EXCEPTION)
    for future in done:
        future.result()


def _cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_share(count):
    """Bytes of memory for each of `count` boxes: together four fifths of the machine's."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(MIN_MEMORY_BYTES, total * 4 // 5 // count)


def _gpus():
    """Names of the GPUs for CUDA_VISIBLE_DEVICES, without starting CUDA in the scorer."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip() not in ("", "-1")]
    names = os.listdir("/dev") if os.path.isdir("/dev") else []
    return [str(index) for index in range(sum(bool(re.fullmatch(r"nvidia\d+", name)) for name in names))]


def score(artifact_path, data_dir, split, processes=None, time_limit=600, certify=False, on_phase=lambda name, total: None,
          on_tokens=lambda count: None):
    """The object of eval.json. `processes`: boxes (default: one per GPU, or per core); `time_limit`: seconds for
    decoding and scoring.

    on_phase(name, symbols or None) and on_tokens(symbols) report progress. Raises ScoringError with one line."""
    begin = time.monotonic()
    on_phase("read", None)
    submission, tokenizer, artifact = read_artifact(artifact_path)
    documents, data = read_documents(data_dir, split)
    clock = {"read": time.monotonic() - begin}

    started = time.monotonic()
    on_phase("tokenise", None)
    for document in documents:
        document.tokens = np.append(tokenizer.encode(document.text).astype(np.int64), BOS)
    clock["tokenise"] = time.monotonic() - started

    started = time.monotonic()
    on_phase("lossless", None)
    lossless.check(tokenizer, documents)
    clock["lossless"] = time.monotonic() - started

    remove_stale()
    ledger, boxes, box_clock, files = score_documents(submission, documents, processes, time_limit, certify, on_phase,
                                                      on_tokens)
    clock.update(box_clock)

    started = time.monotonic()
    on_phase("interval", None)
    nats = ledger.document_nats()
    if not np.isfinite(nats).all():
        # Cannot happen without a failure before; but never publish such a number.
        raise RuntimeError("a symbol was not scored")
    raw_bytes = np.array([document.raw_bytes for document in documents])
    sources = np.array([document.source for document in documents])
    slices = {source: _summary(nats[sources == source], raw_bytes[sources == source])
              for source in sorted(set(sources.tolist()))}
    whole = _summary(nats, raw_bytes)
    clock["interval"] = time.monotonic() - started
    clock["total"] = time.monotonic() - begin
    tokens = sum(len(document.tokens) for document in documents)
    return {
        "format": 1, **whole, "tokens": tokens, "slices": slices,
        "per_document": [{"id": document.id, "source": document.source, "raw_bytes": document.raw_bytes,
                          "tokens": len(document.tokens), "nats": float(value)}
                         for document, value in zip(documents, nats)],
        "artifact": artifact, "data": data, "scope": boxes[0].scope, "device": boxes[0].device, "processes": len(boxes),
        "clock": {phase: round(seconds, 3) for phase, seconds in clock.items()},
        "tokens_per_second": round(tokens / clock["score"], 1), "sandbox": boxes[0].layers,
        "files_opened": files, "certified": certify,
        "ledger": [head.hex() for _, head in sorted(ledger.heads.items())],
    }


def _summary(nats, raw_bytes):
    return {"bpb": float(statistics.bits_per_byte(nats, raw_bytes)),
            "bpb_interval": statistics.bpb_interval(nats, raw_bytes),
            "raw_bytes": int(raw_bytes.sum()), "documents": len(nats), "nats": float(nats.sum())}
