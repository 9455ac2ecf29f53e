"""A box: a fresh interpreter that runs an artifact's code, driven over pipes and shared memory.

The box is `python -I` in its own temporary directory, in its own session, with an environment of a few names, no
inherited descriptor but its channels, and the layers of confine.py. Whatever it does (crash, hang, flood, a wrong
shape, NaN) ends in one BoxFailure with a one-line verdict; the whole process group is then killed, with it a process
namespace or a control group, and the directory removed. That of a scorer that was itself killed is removed by the next
one (golf/temporary.py).

NOT covered: see confine.py. Where the process namespace and the control group are missing and processes are allowed (on
a GPU), one that the artifact moves into a session of its own outlives the box.
"""

import collections
import dataclasses
import fcntl
import json
import mmap
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np

from golf import children, temporary
from golf.box import cgroup, confine, driver, mounts, packages, protocol
from golf.files import Failure

BOX_FILES = (
    "worker.py",
    "protocol.py",
    "confine.py",
    "mounts.py",
    "landlock.py",
    "calls.py",
    "kernel.py",
    "visible.py",
    "watch.py",
)
CAPACITY_LOGITS = 1 << 27  # of one call: shared memory of 0.5 GiB, of which only what is used is real
MAX_OUTPUT_BYTES = 1 << 23  # of stdout and stderr together; a training script prints far less
TAIL_BYTES = 2000
SCOPES = ("none", "document", "stream")


class BoxFailure(Failure):
    """The box did not keep the protocol. `kind`: crash | hang | flood | not-a-number | shape | claims | protocol."""

    def __init__(self, kind, text):
        super().__init__(f"FAILED ({kind}): {text}")
        self.kind = kind


@dataclasses.dataclass(frozen=True)
class Submission:
    """What a box is given: two sources, the fields of Config, the coded weights; and the size of the alphabet."""

    train_source: str
    decode_source: str
    config: dict
    weights: bytes
    vocab_size: int


class Box:
    """One running box. Call load() once, then start/logits/commit; always kill() and then close()."""

    def __init__(
        self,
        submission,
        threads,
        time_limit,
        gpu=None,
        memory_bytes=None,
        gpu_fraction=1.0,
        cores=None,
        program=None,
        folder=None,
    ):
        """Start the interpreter with `threads` CPU threads; `time_limit` seconds from now everything must be done.
        memory_bytes: limit on its private memory (with a GPU only where the kernel grants a control group);
        gpu_fraction: of the GPU's memory; cores: numbers of those that it may run on (None: all). program: path of a
        program of the kit's that the box runs in the place of load() and what follows it: call results() alone.
        folder: its files are moved beside the artifact's."""
        self.gpu = gpu
        self.processes = gpu is not None  # whether it may start some: Triton calls a compiler
        self.cores = cores
        self.vocab_size = submission.vocab_size
        self.capacity = CAPACITY_LOGITS // self.vocab_size  # tokens of one call
        self.time_limit = time_limit
        self.deadline = time.monotonic() + time_limit
        self.layers, self.scope, self.chunk, self.device = [], None, 0, ""
        self.claims, self.opened = False, 0  # of a box with `claims`: rows that it opened
        self.answering = 0.0  # seconds that the box took for the rows of all chunks so far
        self.clock = {}
        self._tail: collections.deque[bytes] = collections.deque()
        self._output_bytes, self._stage = 0, "starting"
        cgroup.remove_stale()
        self.directory, self._lock = temporary.make("box")
        self.group = None
        try:
            if memory_bytes is not None:
                shared = protocol.memory_bytes(self.capacity, self.vocab_size)  # counts for whoever touches it first
                name = os.path.basename(self.directory)
                self.group = cgroup.make(name, memory_bytes + shared, confine.MAX_PROCESSES)
            self._write_files(submission, program, folder)
            self._make_memory()
            self._launch(threads, gpu, memory_bytes, gpu_fraction, program is not None)
        except BaseException:
            if self.group is not None:
                cgroup.remove(self.group)
            temporary.remove(self.directory)
            os.close(self._lock)
            raise

    def _write_files(self, submission, program, folder):
        self.work = os.path.join(self.directory, "work")
        os.mkdir(self.work)
        here = os.path.dirname(os.path.abspath(__file__))
        self.program = os.path.join(self.directory, "golf", "box")  # so that imports read as they do here
        os.makedirs(self.program)
        for name in BOX_FILES:
            shutil.copyfile(os.path.join(here, name), os.path.join(self.program, name))
        shutil.copyfile(children.__file__, os.path.join(self.directory, "golf", os.path.basename(children.__file__)))
        if program is not None:
            shutil.copyfile(program, os.path.join(self.program, protocol.PROGRAM))
        for name in os.listdir(folder) if folder is not None else ():
            shutil.move(os.path.join(folder, name), self.work)
        os.mkdir(os.path.join(self.directory, mounts.STAGE))
        with open(os.path.join(self.directory, mounts.VISIBLE), "w", encoding="utf-8") as file:
            file.write(packages.visible_files(self.processes).as_json())
        files = {
            "train_gpt.py": submission.train_source.encode(),
            "decode.py": submission.decode_source.encode(),
            "config.json": json.dumps(submission.config).encode(),
            "weights.bin": submission.weights,
        }
        for name, data in files.items():
            with open(os.path.join(self.work, name), "wb") as file:
                file.write(data)

    def _make_memory(self):
        size = protocol.memory_bytes(self.capacity, self.vocab_size)
        if hasattr(os, "memfd_create"):
            self.memory_fd = os.memfd_create("golf-box", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(self.memory_fd, size)
            # Sealed: a box that shrinks the file would otherwise kill the scorer with SIGBUS at its next read.
            fcntl.fcntl(self.memory_fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        else:  # macOS: an unlinked file
            with tempfile.TemporaryFile(dir=self.directory) as file:
                self.memory_fd = os.dup(file.fileno())
            os.ftruncate(self.memory_fd, size)
        self._buffer = mmap.mmap(self.memory_fd, size)
        views = protocol.memory_views(np, self._buffer, self.capacity, self.vocab_size)
        self._tokens, self._logits, self._claims = views

    def _launch(self, threads, gpu, memory_bytes, gpu_fraction, program):
        command_in, self._command = os.pipe()
        self._reply, reply_out = os.pipe()
        self._output, output_in = os.pipe()
        options = {
            "command_fd": command_in,
            "reply_fd": reply_out,
            "memory_fd": self.memory_fd,
            "capacity": self.capacity,
            "vocab_size": self.vocab_size,
            "threads": threads,
            "cpu_seconds": int((self.time_limit + 60) * (os.cpu_count() or 1)),
            "memory_bytes": memory_bytes if gpu is None else None,
            "processes": self.processes,
            "gpu": self.gpu,
            "cores": self.cores,
            "group": self.group,
            "gpu_fraction": gpu_fraction,
            "program": program,
            "close": [command_in, reply_out, self.memory_fd],
            "names": packages.importable()["names"],
            "packages": packages.readable(self.processes),
        }
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": self.work,
            "TMPDIR": self.work,
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "passive",
            "CUDA_VISIBLE_DEVICES": "" if gpu is None else str(gpu),
        }
        if self.processes and (folders := driver.find().folders):
            environment["LD_LIBRARY_PATH"] = ":".join(folders)
        try:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-u",
                    "-X",
                    "utf8",
                    os.path.join(self.program, "worker.py"),
                    json.dumps(options),
                ],
                cwd=self.work,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output_in,
                stderr=output_in,
                close_fds=True,
                pass_fds=(command_in, reply_out, self.memory_fd),
                start_new_session=True,
            )
        finally:
            for fd in (command_in, reply_out, output_in):
                os.close(fd)
        self._drainer = threading.Thread(target=self._drain, daemon=True)
        self._drainer.start()

    def _drain(self):
        """Read what the box prints, keep the last bytes; more than MAX_OUTPUT_BYTES ends the box."""
        while part := os.read(self._output, 1 << 16):
            self._output_bytes += len(part)
            self._tail.append(part[-TAIL_BYTES:])
            while len(self._tail) > 1 and sum(map(len, self._tail)) - len(self._tail[0]) >= TAIL_BYTES:
                self._tail.popleft()
            if self._output_bytes > MAX_OUTPUT_BYTES:
                self.kill()
                return

    def last_line(self):
        """The last line that the box printed, made safe for a terminal, or ''."""
        text = b"".join(self._tail).decode("utf-8", "replace")
        lines = [line for line in (_printable(line) for line in text.splitlines()) if line]
        return lines[-1] if lines else ""

    def load(self):
        """Wait until the model stands. Sets layers, device, scope, chunk and clock (seconds: start, decode, build)."""
        begin = time.monotonic()
        self._hello()
        started = time.monotonic()
        self._stage = "importing the scripts and decoding the weights"
        self._receive("decoded")
        decoded = time.monotonic()
        self._stage = "building the model"
        ready = self._receive("ready")
        self.clock = {"start": started - begin, "decode": decoded - started, "build": time.monotonic() - decoded}
        self.scope, self.chunk, self.claims = ready.get("scope"), ready.get("chunk"), ready.get("claims") is True
        if self.scope not in SCOPES:
            raise BoxFailure(
                "protocol", f"the script's Scorer has scope {_printable(repr(self.scope))}; use one of {SCOPES}"
            )
        if type(self.chunk) is not int or not 1 <= self.chunk <= self.capacity:
            raise BoxFailure(
                "protocol",
                f"the script's Scorer has chunk {_printable(repr(self.chunk))}; "
                f"use an integer from 1 to {self.capacity:,} (at a vocabulary of {self.vocab_size:,})",
            )

    def results(self):
        """Yield what the box's `program` answers, one dict after the other; it waits until the next one is asked for.

        What lies in shared memory with an answer is read by shared(). An answer may name the `stage` that begins."""
        self._hello()
        self.deadline = time.monotonic() + self.time_limit  # the interpreter's start is not the artifact's
        while True:
            answer = self._receive("result")
            if answer.get("last") is True:
                return
            if "stage" in answer:
                self._stage = _printable(str(answer["stage"]))
            yield answer
            self._send("next")

    def shared(self, size):
        """A copy of the first `size` bytes of shared memory; raises BoxFailure if it has not as many."""
        if type(size) is not int or not 0 <= size <= len(self._buffer):
            raise BoxFailure("shape", f"the box speaks of {_printable(repr(size))} bytes of shared memory")
        return self._buffer[:size]

    def _hello(self):
        self._stage = "starting the interpreter"
        hello = self._receive("hello")
        layers = hello.get("layers")
        self.layers = [{"layer": layer, "active": active, "note": note} for layer, active, note in layers]
        self.device = _printable(str(hello.get("device")))
        if self.gpu and self.device != "cuda":
            libcuda = driver.find().libcuda
            found = f"it was given {libcuda}" if libcuda else "the loader finds no libcuda.so.1 here"
            reason = _printable(str(hello.get("reason")))
            raise Failure(
                f"the box does not get GPU {self.gpu} ({reason}; {found}): mend that, or score on the CPU with "
                "CUDA_VISIBLE_DEVICES= in front of the command"
            )

    def set_threads(self, count):
        """Let the box use `count` CPU threads from now on."""
        self._send("threads", count=count)

    def start(self, lanes):
        """New documents begin in `lanes` lanes."""
        self._stage = "starting documents"
        self._send("start", lanes=lanes)

    def logits(self, tokens):
        """Send a chunk's tokens [B, C] int64, wait, and return the logits float32 [B*C, V] as a view of shared memory.

        The box can still write there: read each row once, into memory of your own."""
        self._chunk(tokens)
        return self._logits[: tokens.size]

    def claimed(self, tokens):
        """As logits(), of a box with `claims`: what it claims to be the nats of each token, float64 [B, C], a copy."""
        self._chunk(tokens)
        return -self._claims[: tokens.size].reshape(tokens.shape)

    def rows(self, places):
        """Of a box with `claims`: the rows float32 [n, V] at `places` (int [n], in the flattened chunk) of the last
        chunk, as a view of shared memory; read each once. At most 4,096 of them."""
        self._stage = "opening rows"
        self._send("rows", places=[int(place) for place in places])
        if self._receive("rows").get("count") != len(places):
            raise BoxFailure("shape", f"the box did not open the {len(places)} rows that it was asked for")
        self.opened += len(places)
        return self._logits[: len(places)]

    def _chunk(self, tokens):
        lanes, length = tokens.shape
        self._stage = "scoring"
        self._tokens[: tokens.size] = tokens.reshape(-1)
        sent = time.monotonic()
        self._send("chunk", lanes=lanes, length=length)
        shape = self._receive("logits").get("shape")
        self.answering += time.monotonic() - sent
        if shape != [lanes, length, self.vocab_size]:
            due = [lanes, length, self.vocab_size]
            raise BoxFailure(
                "shape",
                f"logits have shape {_printable(repr(shape))}, not {due} "
                "(lanes, tokens, vocabulary of the artifact's tokenizer)",
            )

    def commit(self):
        """The chunk's score is fixed; the box may adapt on it now."""
        self._stage = "observing"
        self._send("committed")

    def files(self):
        """Paths that the box says it opened outside libraries and its own directory."""
        self._stage = "asked for its files"
        self._send("files")
        files = self._receive("files").get("files")
        if not isinstance(files, list):
            raise BoxFailure("protocol", "the box sent no list of files")
        return [_printable(str(path)) for path in files[:50]]

    def kill(self):
        """Kill the box's whole process group at once. May be called from any thread, more than once."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        if self.group is not None:
            cgroup.kill(self.group)

    def close(self):
        """Kill, collect, and remove the directory. No other thread may be using the box any more."""
        self.kill()
        self.process.wait()
        self._drainer.join(timeout=5)
        for fd in (self._command, self._reply, self.memory_fd):
            os.close(fd)
        if not self._drainer.is_alive():  # else a process that left the session still holds the pipe
            os.close(self._output)
        del self._tokens, self._logits, self._claims, self._buffer
        if self.group is not None:
            cgroup.remove(self.group)
        temporary.remove(self.directory)
        os.close(self._lock)

    def _send(self, op, **fields):
        try:
            protocol.send(self._command, op=op, **fields)
        except OSError:
            raise self._died() from None

    def _receive(self, due):
        try:
            # Not one long wait: a child of the box may hold the pipe open after the box itself has died.
            while not select.select([self._reply], [], [], 0.5)[0]:
                if self.process.poll() is not None:
                    raise EOFError
                if time.monotonic() > self.deadline:
                    raise TimeoutError
            message = protocol.receive(self._reply, self.deadline)
        except TimeoutError:
            raise BoxFailure(
                "hang",
                f"no answer within the time limit of {self.time_limit:g} s while {self._stage}; "
                "raise it with --time-limit",
            ) from None
        except EOFError:
            raise self._died() from None
        except protocol.ProtocolError as error:
            raise BoxFailure("protocol", f"the box sent {error} while {self._stage}") from None
        if message["op"] == "error":
            raise BoxFailure("crash", _printable(f"{message.get('stage')}: {message.get('error')}"))
        if message["op"] != due:
            raise BoxFailure(
                "protocol", f"the box sent {_printable(repr(message['op']))} while {self._stage}, due was {due!r}"
            )
        return message

    def _died(self):
        """The verdict on a box whose pipe is closed."""
        if self._output_bytes > MAX_OUTPUT_BYTES:
            return BoxFailure(
                "flood",
                f"the box printed more than {MAX_OUTPUT_BYTES:,} bytes while {self._stage}; "
                f"last line: {self.last_line()}",
            )
        # It may have sent why before it went.
        try:
            message = protocol.receive(self._reply, time.monotonic() + 0.1)
            if message["op"] == "error":
                return BoxFailure("crash", _printable(f"{message.get('stage')}: {message.get('error')}"))
        except (EOFError, TimeoutError, protocol.ProtocolError):
            pass
        try:
            code = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return BoxFailure("protocol", f"the box closed its channel while {self._stage}")
        self._drainer.join(timeout=1)
        if 128 < code < 128 + signal.NSIG:  # as the guardian passes it on (confine.py)
            code = 128 - code
        how = f"exit status {code}" if code >= 0 else signal.Signals(-code).name
        hint = {
            -signal.SIGKILL: " (out of memory, or at the limit on CPU time?)",
            -signal.SIGXCPU: " (limit on CPU time)",
        }.get(code, "")
        line = self.last_line()
        last = f"; last line: {line}" if line else ""
        return BoxFailure("crash", f"the box ended with {how}{hint} while {self._stage}{last}")


def _printable(text):
    """One line of at most 300 characters without control characters: what a box says may be meant for the terminal."""
    return "".join(c if c.isprintable() else " " for c in text).strip()[:300]
