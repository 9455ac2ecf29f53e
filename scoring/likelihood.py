"""Nats of tokens under logits, in float64, and the ledger of what was committed.

NOT covered: whether the logits were honestly made; that is the protocol's and the audits' matter.
"""

import hashlib
import struct

import numpy as np

BLOCK_LOGITS = 1 << 18  # logits handled at a time: 2 MiB in float64, which stays in the cache


def token_nats(logits, tokens):
    """-log softmax(logits)[token] in nats. logits float32 [N, V], possibly still writable by a box; tokens int [N] ->
    float64 [N].

    Every row is read once, into float64 memory of our own, and everything is computed from that copy: a row that
    changes meanwhile is still one normalised distribution. A row with NaN, +inf or nothing finite gives NaN; a token of
    probability zero gives inf."""
    count, vocab_size = logits.shape
    nats = np.empty(count)
    step = max(1, BLOCK_LOGITS // vocab_size)
    with np.errstate(invalid="ignore"):  # inf - inf is the NaN we promise
        for begin in range(0, count, step):
            block = logits[begin : begin + step].astype(np.float64)
            block -= block.max(axis=1, keepdims=True)
            target = block[np.arange(len(block)), tokens[begin : begin + step]]
            np.exp(block, out=block)
            nats[begin : begin + step] = np.log(block.sum(axis=1)) - target
    return nats


class Ledger:
    """The committed nats of all documents in memory; a chunk is entered once and never changes.

    `head` is a SHA-256 hash chain over the entries: two runs with equal heads committed the same numbers in the same
    order."""

    def __init__(self, lengths):
        """lengths: symbols of each document."""
        self.nats = [np.full(length, np.nan) for length in lengths]
        self.heads = {}

    def commit(self, box, document, begin, nats):
        """Enter the nats float64 [n] of symbols begin.. of a document, scored by box number `box`."""
        place = self.nats[document][begin : begin + len(nats)]
        if len(place) != len(nats) or not np.isnan(place).all():
            raise RuntimeError(f"document {document}, symbols {begin}..: outside the document, or committed twice")
        place[:] = nats
        entry = struct.pack("<qqq", document, begin, len(nats)) + nats.astype("<f8").tobytes()
        self.heads[box] = hashlib.sha256(self.heads.get(box, b"") + entry).digest()

    def document_nats(self):
        """Sum over each document [documents] float64. A symbol that was never committed makes its document NaN."""
        return np.array([nats.sum() for nats in self.nats])
