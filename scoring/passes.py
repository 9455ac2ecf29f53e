"""Driving boxes over documents: batches, chunks, and several boxes side by side. One pass commits every symbol once.

NOT covered: what the numbers mean (likelihood.py, score.py) and whether the rows were honestly made (audits.py).
"""

import concurrent.futures
import dataclasses
import math
import os
import queue
import re
import time

import numpy as np

from scoring import ScoringError
from scoring.box import Box, BoxFailure
from scoring.likelihood import Ledger, token_nats

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


def walk(box, lanes):
    """Run lanes (each int64 [T]) of new documents through a box, chunk by chunk. Yields (lane, begin, rows) with rows
    float32 [n, V], a view of shared memory for symbols begin.. of that lane; the chunk is committed when the next one
    is asked for. Raises BoxFailure."""
    longest = max(map(len, lanes))
    box.start(len(lanes))
    for begin in range(0, longest, box.chunk):
        length = min(box.chunk, longest - begin)
        chunk = np.zeros((len(lanes), length), dtype=np.int64)
        for lane, symbols in enumerate(lanes):
            part = symbols[begin:begin + length]
            chunk[lane, :len(part)] = part
        logits = box.logits(chunk)
        for lane, symbols in enumerate(lanes):
            count = min(length, len(symbols) - begin)
            if count > 0:
                yield lane, begin, logits[lane * length:lane * length + count]
        box.commit()


def checked_nats(rows, symbols, begin, name):
    """token_nats of rows [n, V], or BoxFailure if one of them is no finite number."""
    nats = token_nats(rows, symbols)
    if not np.isfinite(nats).all():
        where = int(np.flatnonzero(~np.isfinite(nats))[0])
        what = "give the symbol probability zero" if nats[where] == np.inf else "hold NaN or infinity"
        raise BoxFailure("not-a-number", f"logits {what} at symbol {begin + where} of document {name}")
    return nats


def score_batch(box, batch, documents, commit):
    """Run one batch of documents through a box; commit(number, begin, nats) takes every symbol's score. Raises
    BoxFailure."""
    lanes = [documents[number].tokens for number in batch]
    for lane, begin, rows in walk(box, lanes):
        number = batch[lane]
        symbols = lanes[lane][begin:begin + len(rows)]
        commit(number, begin, checked_nats(rows, symbols, begin, documents[number].id))


class Boxes:
    """Several boxes of one submission, as a context: started together on entering, gone on leaving; their fields
    remain."""

    def __init__(self, submission, count, time_limit, threads=None):
        """threads: of each box; default: the cores shared out."""
        self.submission, self.count, self.time_limit = submission, count, time_limit
        self.threads = threads or max(1, cores() // count)
        self.boxes = []
        self._pool = concurrent.futures.ThreadPoolExecutor(count)

    def __enter__(self):
        devices = gpus()
        try:
            for number in range(self.count):
                gpu = devices[number % len(devices)] if devices else None
                self.boxes.append(Box(self.submission, self.threads, self.time_limit, gpu, memory_share(self.count)))
            self.each(Box.load, self.boxes)
            scope, chunk = self.boxes[0].scope, self.boxes[0].chunk
            if any((box.scope, box.chunk) != (scope, chunk) for box in self.boxes):
                raise BoxFailure("protocol", "boxes of one artifact disagree on scope or chunk")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for box in self.boxes:  # first kill, so that the threads that wait for a box end; then take away what they use
            box.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for box in self.boxes:
            box.close()

    def each(self, function, boxes):
        """function(box) for all at once; raises what the first one that fails raises."""
        futures = [self._pool.submit(function, box) for box in boxes]
        done, _ = concurrent.futures.wait(futures, return_when=concurrent.futures.FIRST_EXCEPTION)
        for future in done:
            future.result()


def score_documents(submission, documents, processes, time_limit, certify, on_phase, on_tokens):
    """Start the boxes and score all documents. Returns (ledger, [box], clock, files that the boxes say they opened);
    the boxes are gone by then, their fields remain. certify: raises ScoringError if a layer of the boxes is missing."""
    count = min(processes or len(gpus()) or cores(), len(documents))
    on_phase("decode", None)
    with Boxes(submission, count, time_limit) as running:
        boxes = working = running.boxes
        missing = [row["layer"] for row in boxes[0].layers if not row["active"]]
        if certify and missing:
            raise ScoringError(f"not certified: this machine does not grant the box {'; '.join(missing)}; "
                               "score elsewhere, or without --certify")
        clock = {phase: max(box.clock[phase] for box in boxes) for phase in ("start", "decode", "build")}
        if boxes[0].scope == "stream":
            for box in boxes[1:]:
                box.kill()
            working = boxes[:1]
            boxes[0].set_threads(cores())
        lengths = [len(document.tokens) for document in documents]
        ledger, batches = Ledger(lengths), queue.SimpleQueue()
        for batch in plan(lengths, boxes[0].chunk, boxes[0].scope, min(BATCH_TOKENS, boxes[0].capacity)):
            batches.put(batch)
        on_phase("score", sum(lengths))
        begin = time.monotonic()

        def work(box):
            def commit(number, position, nats):
                ledger.commit(boxes.index(box), number, position, nats)
                on_tokens(len(nats))
            while True:
                try:
                    batch = batches.get_nowait()
                except queue.Empty:
                    return
                score_batch(box, batch, documents, commit)

        running.each(work, working)
        clock["score"] = time.monotonic() - begin
        files = sorted({path for box in working for path in box.files()})
    return ledger, boxes, clock, files


def cores():
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_share(count):
    """Bytes of memory for each of `count` boxes: together four fifths of the machine's."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(MIN_MEMORY_BYTES, total * 4 // 5 // count)


def gpus():
    """Names of the GPUs for CUDA_VISIBLE_DEVICES, without starting CUDA in the scorer."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip() not in ("", "-1")]
    names = os.listdir("/dev") if os.path.isdir("/dev") else []
    return [str(index) for index in range(sum(bool(re.fullmatch(r"nvidia\d+", name)) for name in names))]
