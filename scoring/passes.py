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

from golf import versions
from golf.box import driver, mounts, packages
from golf.box.box import CAPACITY_LOGITS, Box, BoxFailure
from golf.files import Failure
from scoring.likelihood import Ledger, token_nats
from scoring.reference import FIRST_DECOY

BOS = 1  # id of the document boundary, and so of the end symbol
BATCH_TOKENS = 8192  # of one call; larger is no faster on a CPU, and a chunk longer than this is still one call
CPU_CORES = 2  # that all boxes of a score without a GPU share, on larger machines too (RULES.md)
MIN_MEMORY_BYTES = 1 << 30  # of a box; torch alone takes a third of it
OPENED_ROWS = 4  # of each chunk, of a box with `claims`
CLAIM_TOLERANCE = 1e-3  # nats between a claim and its own row: float32 on both sides
FILL = 2048  # lanes are filled up to a multiple of this many symbols, or to the whole chunk if that is shorter
MIN_FILL = 0.75  # a batch takes a document only if it has at least this share of the windows of the longest


@dataclasses.dataclass
class Document:
    """A held-out document; `tokens` int64 [T+1] ends with the end symbol."""

    id: str
    source: str
    text: str
    raw_bytes: int
    tokens: np.ndarray | None = None


def plan(lengths, chunk, scope, batch_tokens):
    """Batches of document numbers: of similar length, or one document each in order for scope "stream".

    The order of the batches is mixed, by a fixed seed: longest first would tell a box that no document to come is
    longer. No call has more than max(batch_tokens, chunk) tokens."""
    if scope == "stream":
        return [[number] for number in range(len(lengths))]
    batches: list[list[int]] = []
    windows = [math.ceil(length / chunk) for length in lengths]
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        longest = batches[-1][0] if batches else None
        if (
            longest is not None
            and (len(batches[-1]) + 1) * filled(0, lengths[longest], chunk) <= batch_tokens
            and windows[number] >= MIN_FILL * windows[longest]
        ):
            batches[-1].append(number)
        else:
            batches.append([number])
    return [batches[place] for place in np.random.default_rng(0).permutation(len(batches))]


def filled(begin, longest, chunk):
    """Symbols of a call from `begin` on, if lanes that hold up to `longest` symbols are filled up."""
    left = max(1, longest - begin)
    return min(chunk, math.ceil(left / FILL) * FILL)


def ask(box, chunk):
    """Send a chunk int64 [B, C]. Returns a function nats(lane, symbols) -> float64 [n]: of `symbols` in the place of
    the first n of that lane, whatever was sent there. Call it before the next chunk, for rows are read from shared
    memory then. With `claims`, the nats of what was sent are the box's claims; for all else it must open the row."""
    length = chunk.shape[1]
    if not box.claims:
        rows = box.logits(chunk)
        return lambda lane, symbols: token_nats(rows[lane * length : lane * length + len(symbols)], symbols)
    claimed = box.claimed(chunk)

    def nats(lane, symbols):
        found = claimed[lane, : len(symbols)].copy()
        others = np.flatnonzero(chunk[lane, : len(symbols)] != symbols)
        if len(others):
            found[others] = token_nats(box.rows(lane * length + others), symbols[others])
        return found

    return nats


def walk(box, lanes, before=None):
    """Run lanes (each int64 [T]) of new documents through a box, chunk by chunk. Yields (lane, begin, count, nats): the
    chunk holds `count` symbols of that lane from begin on, `nats` is the function of ask(). The chunk is committed when
    the next one is asked for. before(begin, chunk) may first ask for other chunks in the place of this one. Raises
    BoxFailure.

    Unless the scope is "stream", what follows a lane's end are random symbols, so that the shape of a call does not
    tell where documents end. With scope "stream" there is one lane, and its last chunk ends with it: what a box learns
    from that is in docs/audits.md."""
    longest = max(map(len, lanes))
    rng = np.random.default_rng(0)  # fixed, so that a score repeats to the last digit
    box.start(len(lanes))
    for begin in range(0, longest, box.chunk):
        length = min(box.chunk, longest - begin) if box.scope == "stream" else filled(begin, longest, box.chunk)
        chunk = rng.integers(FIRST_DECOY, box.vocab_size, (len(lanes), length))
        for lane, symbols in enumerate(lanes):
            part = symbols[begin : begin + length]
            chunk[lane, : len(part)] = part
        if before is not None:
            before(begin, chunk)
        nats = ask(box, chunk)
        counts = np.array([min(length, max(0, len(symbols) - begin)) for symbols in lanes])
        for number in np.flatnonzero(counts).tolist():
            yield number, begin, int(counts[number]), nats
        if box.claims:
            _open_rows(box, chunk, counts, nats)
        box.commit()


def _open_rows(box, chunk, counts, nats):
    """Draw rows now that the claims are fixed: each must hold what was claimed. This finds faults, not liars, who could
    make up a row that fits: audits.py asks boxes that do not know the symbol."""
    length = chunk.shape[1]
    places = np.flatnonzero(np.arange(length) < counts[:, None])
    drawn = np.random.default_rng().choice(places, min(OPENED_ROWS, len(places)), replace=False)
    claims = np.array([nats(place // length, chunk[place // length])[place % length] for place in drawn])
    symbols = chunk.reshape(-1)[drawn]
    rows = token_nats(box.rows(drawn), symbols)
    wrong = np.flatnonzero(~np.isclose(claims, rows, rtol=0, atol=CLAIM_TOLERANCE))
    if len(wrong):
        raise BoxFailure(
            "claims",
            f"{claims[wrong[0]]:.4f} nats were claimed for a symbol that costs "
            f"{rows[wrong[0]]:.4f} in the box's own row",
        )


def checked(nats, begin, name):
    """nats [n] of symbols begin.. of a document, or BoxFailure if one of them is no finite number, or below 0."""
    wrong = np.flatnonzero(~(np.isfinite(nats) & (nats >= 0)))
    if len(wrong):
        first = nats[wrong[0]]
        what = (
            "logits give the symbol probability zero"
            if first == np.inf
            else "a probability above one is claimed"
            if first < 0
            else "logits hold NaN or infinity"
        )
        raise BoxFailure("not-a-number", f"{what} at symbol {begin + int(wrong[0])} of document {name}")
    return nats


def score_batch(box, batch, documents, commit):
    """Run one batch of documents through a box; commit(number, begin, nats) takes every symbol's score. Raises
    BoxFailure."""
    lanes = [documents[number].tokens for number in batch]
    for lane, begin, count, nats in walk(box, lanes):
        number = batch[lane]
        commit(number, begin, checked(nats(lane, lanes[lane][begin : begin + count]), begin, documents[number].id))


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
        if not devices:
            packages.read_beforehand()
        try:
            for number in range(self.count):
                gpu = devices[number % len(devices)] if devices else None
                self.boxes.append(
                    Box(
                        self.submission,
                        self.threads,
                        self.time_limit,
                        gpu,
                        memory_share(self.count),
                        1 / math.ceil(self.count / max(1, len(devices))),
                        core_numbers(),
                    )
                )
            self.each(Box.load, self.boxes)
            if len({(box.scope, box.chunk, box.claims) for box in self.boxes}) > 1:
                raise BoxFailure("protocol", "boxes of one artifact disagree on scope, chunk or claims")
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
    the boxes are gone by then, their fields remain. certify: raises Failure if a layer of the boxes is missing."""
    count = min(processes or len(gpus()) or cores(), len(documents))
    on_phase("decode", None)
    with Boxes(submission, count, time_limit) as running:
        boxes = working = running.boxes
        missing = [row["layer"] for row in boxes[0].layers if not row["active"]]
        if certify and missing:
            raise Failure(
                f"not certified: this machine does not grant the box {'; '.join(missing)}; "
                "score elsewhere, or without --certify"
            )
        clock = {phase: max(box.clock[phase] for box in boxes) for phase in ("start", "decode", "build")}
        if boxes[0].scope == "stream":
            for box in boxes[1:]:
                box.kill()
            working = boxes[:1]
            boxes[0].set_threads(cores())
        lengths = [len(document.tokens) for document in documents]
        ledger = Ledger(lengths)
        batches: queue.SimpleQueue = queue.SimpleQueue()
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
    """Number of CPU cores that the boxes of a score may use together."""
    numbers = core_numbers()
    if numbers is not None:
        return len(numbers)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def core_numbers():
    """Numbers of the CPU cores that every box of a score is held to, or None: with a GPU, and where the system cannot
    hold it."""
    if gpus() or not hasattr(os, "sched_getaffinity"):
        return None
    return sorted(os.sched_getaffinity(0))[:CPU_CORES]


def memory_share(count):
    """Bytes of private memory for each of `count` boxes: with their shared memory and their files, which come on top,
    they together stay below four fifths of the machine's."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    on_top = 4 * CAPACITY_LOGITS + mounts.MAX_WORK_BYTES
    return max(MIN_MEMORY_BYTES, total * 4 // 5 // count - on_top)


def gpus():
    """Names of the GPUs for CUDA_VISIBLE_DEVICES, without starting CUDA in the scorer; none if torch is a build for
    CPUs."""
    if not versions.torch_has_gpu_code():
        return []
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip() not in ("", "-1")]
    names = os.listdir("/dev") if os.path.isdir("/dev") else []
    count = sum(bool(re.fullmatch(r"nvidia\d+", name)) for name in names)
    if not count and "dxg" in names and driver.find().libcuda:  # WSL, which does not say how many
        count = 1
    return [str(index) for index in range(count)]
