"""Messages and shared memory between the scorer and a box. The box gets a copy of this file: standard library only.

A message is a frame on a pipe: 4 bytes little-endian length, then that many bytes of JSON (one object). Arrays go
through one piece of shared memory: `capacity` int64 tokens, then `capacity` rows of `vocab_size` float32 logits, or in
the place of the rows `capacity` float64 log-probabilities.

    scorer -> box                       box -> scorer
                                        hello    {layers, device, reason}: confined, nothing of the artifact was loaded
                                        decoded  {}: train_gpt.py and decode.py imported, weights decoded
                                        ready    {scope, chunk, claims}: the model stands
    start  {lanes}                      -
    chunk  {lanes, length}              logits   {shape}: the rows lie in shared memory; with `claims` only the
                                                 log-probability of each token, and the rows stay in the box
    rows   {places}                     rows     {count}: these rows of the last chunk lie in shared memory (`claims`)
    committed {}                        -
    threads {count}                     -        (scope "stream": one box works, so it gets all cores)
    files {}                            files    {files}: paths opened outside libraries and the box, as the box says
    next {}                             result   {...}: of a program of the kit's that runs in the place of a scorer;
                                                 the first one comes unasked, `last` ends them
                                        error    {stage, error}: instead of any reply; the box then ends

A chunk's tokens [lanes, length] lie in shared memory when `chunk` is sent. `committed` follows when the scorer has
copied the logits and fixed the score; only then may the box adapt, and only then does the next chunk exist in shared
memory. Audits send several chunks for one place before `committed`, which holds for the last of them.

NOT covered: everything after `hello` may have been written by the artifact's code, so the scorer believes no reply
beyond the order of messages; frames are bounded and a shape is checked against what was asked for.
"""

import json
import os
import select
import time

PROGRAM = "program.py"  # in the box's own directory
MAX_FRAME = 1 << 16  # bytes; no message of the protocol comes near it


class ProtocolError(Exception):
    """The other side sent something that is no message, or not the one that is due."""


def send(fd, **message):
    """Write one message to the pipe `fd` (blocking). OSError if the other side is gone."""
    payload = json.dumps(message).encode()
    data = len(payload).to_bytes(4, "little") + payload
    while data:
        data = data[os.write(fd, data) :]


def receive(fd, deadline=None):
    """Read one message from the pipe `fd`; waits until `deadline` (time.monotonic seconds; None: for ever).

    Raises EOFError when the other side is gone, TimeoutError at the deadline, ProtocolError on anything that is no
    message."""
    size = int.from_bytes(_read(fd, 4, deadline), "little")
    if size > MAX_FRAME:
        raise ProtocolError(f"a message of {size:,} bytes (at most {MAX_FRAME:,})")
    try:
        message = json.loads(_read(fd, size, deadline))
    except (ValueError, RecursionError):
        raise ProtocolError("a message that is not JSON") from None
    if not isinstance(message, dict) or not isinstance(message.get("op"), str):
        raise ProtocolError("a message without a name")
    return message


def _read(fd, count, deadline):
    data = b""
    while len(data) < count:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                raise TimeoutError
        part = os.read(fd, count - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def memory_bytes(capacity, vocab_size):
    """Size of the shared memory for calls of up to `capacity` tokens."""
    return 8 * capacity + 4 * capacity * vocab_size


def memory_views(numpy, buffer, capacity, vocab_size):
    """(tokens int64 [capacity], logits float32 [capacity, vocab_size], claims float64 [capacity]) as views of the
    shared memory `buffer`; logits and claims overlap. vocab_size >= 2."""
    tokens = numpy.frombuffer(buffer, numpy.int64, capacity)
    logits = numpy.frombuffer(buffer, numpy.float32, capacity * vocab_size, 8 * capacity)
    claims = numpy.frombuffer(buffer, numpy.float64, capacity, 8 * capacity)
    return tokens, logits.reshape(capacity, vocab_size), claims
