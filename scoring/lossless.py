"""The check that tokens give back the text, in a process that never sees the text.

The child gets the tokenizer model and the ids on its standard input, and answers with one SHA-256 per document of the
bytes that they decode to. The parent compares these with the hashes of the raw UTF-8 text.

NOT covered: whether the encoder looked ahead in the document (it may: any segmentation that decodes to the text is a
valid code).
"""

import hashlib
import os
import subprocess
import sys

import numpy as np

from golf.files import ROOT, Failure
from golf.tokenizer import Tokenizer

CHILD = "import sys; sys.path.insert(0, sys.argv[1]); from scoring import lossless; lossless.child()"


def hashes(model_bytes, documents):
    """SHA-256 hex of the bytes that each document's ids (uint16 [T]) decode to, computed by a process of its own."""
    lengths = np.array([len(ids) for ids in documents], dtype="<i8")
    request = b"".join(
        [
            len(model_bytes).to_bytes(8, "little"),
            len(documents).to_bytes(8, "little"),
            model_bytes,
            lengths.tobytes(),
            *(ids.astype("<u2").tobytes() for ids in documents),
        ]
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", CHILD, str(ROOT)],
        input=request,
        cwd=os.sep,
        env={"OMP_NUM_THREADS": "1", "LANG": "C.UTF-8"},
        capture_output=True,
    )
    lines = done.stdout.decode("ascii", "replace").split()
    if done.returncode != 0 or len(lines) != len(documents):
        reason = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise Failure(f"FAILED (lossless): the decoding process gave no answer: {reason[0]}")
    return lines


def child():
    """Decode standard input's documents, print a hash a line."""
    data = memoryview(sys.stdin.buffer.read())
    model_size, count = (int.from_bytes(data[begin : begin + 8], "little") for begin in (0, 8))
    tokenizer = Tokenizer(bytes(data[16 : 16 + model_size]))
    lengths = np.frombuffer(data, "<i8", count, 16 + model_size)
    ids = np.frombuffer(data, "<u2", offset=16 + model_size + 8 * count)
    for document in np.split(ids, np.cumsum(lengths)[:-1]) if count else []:
        print(hashlib.sha256(tokenizer.decode(document)).hexdigest())


def check(tokenizer, documents):
    """Raises Failure, naming the document, unless each of `documents` (.id, .text, .tokens with the end symbol)
    comes back."""
    got = hashes(tokenizer.model_bytes, [document.tokens[:-1] for document in documents])
    for document, digest in zip(documents, got):
        if digest != hashlib.sha256(document.text.encode()).hexdigest():
            raise Failure(
                f"FAILED (lossless): the tokens of document {document.id} do not decode to its "
                "text; the artifact's tokenizer loses information"
            )
