"""Python programs that start in a fork of a process that has imported torch: the import is most of the processor time
of a short program, and of a box, where what they compute is small.

All else is as in a new interpreter: descriptors, environment, session, cores, exit status, and the box's walls, which
go up after the fork. For tests that are about what a program computes.

Not covered: tests about the start itself, the walls (tests/golf/box, the red team), or an interpreter's options, of
which only -B, -I, -c, -m and a path are understood; an interpreter's end, of which threads are joined, functions
registered for it called and the output flushed, but objects are left as they are (torchrun's programs end as usual,
tests/train/test_tiny.py); Windows and macOS, where programs start as usual.
"""

import atexit
import contextlib
import fcntl
import functools
import gc
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Iterator
from unittest import mock

NUMBER = struct.Struct("<q")  # a process's number, later its exit status
HIGH = 1000  # descriptors from here on are in nobody's way
MAX_MESSAGE = 1 << 18


class Program:
    """What tests and golf.box need of a subprocess.Popen; takes the same arguments."""

    def __init__(self, words, stdin, stdout, stderr, pass_fds=(), cwd=None, env=None, start_new_session=False, **_):
        if stdin == subprocess.DEVNULL:
            stdin = os.open(os.devnull, os.O_RDONLY)
        else:
            stdin = os.dup(stdin)
        self.args, self.returncode = words, None
        self.status, sent = os.pipe()
        request = {
            "words": [os.fspath(word) for word in words[1:]],
            "descriptors": [0, 1, 2, *pass_fds],
            "cwd": os.fspath(cwd or os.getcwd()),
            "environment": dict(os.environ if env is None else env),
            "session": start_new_session,
            "cores": sorted(os.sched_getaffinity(0)),
        }
        try:
            socket.send_fds(server(), [json.dumps(request).encode()], [stdin, stdout, stderr, *pass_fds, sent])
        finally:
            os.close(sent)
            os.close(stdin)
        self.pid = self._number()

    def _number(self):
        data = os.read(self.status, NUMBER.size)
        if len(data) != NUMBER.size:
            raise RuntimeError("the process that forks programs has ended")
        return NUMBER.unpack(data)[0]

    def poll(self):
        """The exit status, or None while the program runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def kill(self):
        """Ends the program at once."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout=None):
        """The exit status. Raises TimeoutExpired after `timeout` seconds."""
        if self.returncode is None:
            if not select.select([self.status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = self._number()
            os.close(self.status)
        return self.returncode


def run(words, cwd=None, env=None, timeout=None, check=False, input=None, **_) -> subprocess.CompletedProcess:
    """As subprocess.run(..., capture_output=True), text=True unless there is an input, of bytes."""
    text = input is None
    if sys.platform != "linux":
        return subprocess.run(
            words, cwd=cwd, env=env, timeout=timeout, check=check, input=input, capture_output=True, text=text
        )
    mode = "w+" if text else "w+b"
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile(mode) as out,
        tempfile.TemporaryFile(mode) as errors,
    ):
        given.write(input or b"")
        given.seek(0)
        program = Program(words, given.fileno(), out.fileno(), errors.fileno(), cwd=cwd, env=env)
        try:
            program.wait(timeout)
        except subprocess.TimeoutExpired:
            os.kill(program.pid, signal.SIGKILL)
            raise
        for file in (out, errors):
            file.seek(0)
        done = subprocess.CompletedProcess(words, program.returncode, out.read(), errors.read())
    if check:
        done.check_returncode()
    return done


@functools.cache
def server():
    """The socket of the process that forks; it ends with this one."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # One thread: a process that forks must not have more, and numpy would start some.
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, "-I", "-X", "utf8", __file__, str(there.fileno())]
    subprocess.Popen(command, pass_fds=[there.fileno()], env=environment, cwd="/", start_new_session=True)
    there.close()
    return here


@contextlib.contextmanager
def boxes() -> Iterator[None]:
    """A context in which boxes start warm, and the files that they see are read beforehand once for all; and warm are
    the children with limits that read a file for compress."""
    from compress import bounded  # not in the process that forks
    from golf.box import box, packages

    if sys.platform != "linux":
        yield
        return
    names = {name: getattr(subprocess, name) for name in ("DEVNULL", "TimeoutExpired")}
    warm = types.SimpleNamespace(Popen=Program, run=run, **names)
    with (
        mock.patch.object(box, "subprocess", warm),
        mock.patch.object(bounded, "subprocess", warm),
        mock.patch.object(packages, "read_beforehand", read_once),
    ):
        yield


@functools.cache
def read_once() -> int:
    """The bytes of packages.read_beforehand()."""
    from golf.box import packages, visible

    return visible.read_beforehand(sorted(packages.visible_files(False).paths))


def serve(channel):
    """Forks a program for each request, until the other end is closed."""
    import torch
    import torch._dynamo  # which an optimiser imports when it is made  # noqa: F401

    gc.freeze()  # a program's collections would write to, and so copy, every page that holds an object
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes that wait for the programs
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, MAX_MESSAGE, 16)
        if not message:
            return
        if os.fork() == 0:
            wait_for_program(json.loads(message), descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)


def wait_for_program(request, descriptors):
    """Forks the program, reports its number and its exit status. Returns in the program, when that has ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *descriptors, status = descriptors
    program = os.fork()
    if program == 0:
        os.close(status)
        become(request, descriptors)
        return
    os.write(status, NUMBER.pack(program))
    status = fcntl.fcntl(status, fcntl.F_DUPFD, HIGH)
    os.closerange(0, HIGH)
    code = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    os.write(status, NUMBER.pack(code))
    os._exit(0)


def become(request, descriptors):
    """Runs the requested program in this process."""
    if request["session"]:
        os.setsid()
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, HIGH) for descriptor in descriptors]
    os.closerange(0, HIGH)
    for source, target in zip(moved, request["descriptors"]):
        os.dup2(source, target)
        os.close(source)
    os.sched_setaffinity(0, request["cores"])
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    code = None
    try:
        execute(request["words"])
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            raise  # a message, which the interpreter prints
        code = end.code
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit((code or 0) & 0xFF)  # a teardown of torch's objects costs as much as many a program


def execute(words):
    """Runs what `python WORDS` runs, as __main__."""
    options = []
    while words[0] not in ("-c", "-m") and words[0].startswith("-"):
        options.append(words.pop(0))
        if options[-1] == "-X":
            words.pop(0)
    sys.dont_write_bytecode = "-B" in options
    beside = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if words[0] == "-m":
        sys.argv, sys.path[:0] = words[1:], [os.getcwd(), *filter(None, beside)]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        return
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    if words[0] == "-c":
        sys.argv, source, folder = ["-c", *words[2:]], words[1], ""
    else:
        sys.argv, folder, main.__file__ = words, os.path.dirname(words[0]), words[0]
        with open(words[0], encoding="utf-8") as file:
            source = file.read()
    if "-I" not in options:
        sys.path[:0] = [folder, *filter(None, beside)]
    exec(compile(source, words[0], "exec"), vars(main))


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
