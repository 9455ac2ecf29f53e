"""Landlock: the kernel's list of the files that a process may open and change. Runs in the box: standard library only.

What it closes: reading all but visible.py's files and the box's directory, writing anywhere but in the work folder;
also where the box has no root of its own (mounts.py). Newer versions close TCP, abstract sockets and signals to others.

What it leaves open: names, sizes and times of files, which stat() tells even where reading is refused; attributes,
modes and times, which it does not govern; files that were open before.
"""

import ctypes
import os
import struct
import sys

from golf.box import visible
from golf.box.kernel import error, libc

# linux/landlock.h: rights by the version of the interface that brought them.
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
MAKE_CHAR, MAKE_SOCK, MAKE_BLOCK, TRUNCATE, IOCTL_DEV = 1 << 6, 1 << 9, 1 << 11, 1 << 14, 1 << 15
RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
READ = EXECUTE | READ_FILE | READ_DIR
O_PATH = 0o10000000


def restrict(packages, processes):
    """Only what a model needs can be read, only the working directory can be written. Returns (active, note)."""
    return only(_rules(packages, processes), "libraries and the box's directory")


def only(rules, what):
    """From here on this process, and all that it starts, may use the files of `rules` and no others: (path, rights),
    where a folder stands for all below it, and a path that does not exist is skipped. Returns (active, note); the note
    names `what` it is that may be used. landlock(7)."""
    if sys.platform != "linux":
        return False, f"not available on {sys.platform}"
    version = libc().syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return False, error()
    rights = RIGHTS[max(number for number in RIGHTS if number <= version)]
    # In order: file rights; from version 4 TCP bind and connect; from version 6 abstract sockets and signals.
    words = [rights, *[3][: version >= 4], *[3][: version >= 6]]
    ruleset = libc().syscall(
        LANDLOCK_CREATE_RULESET,
        struct.pack(f"<{len(words)}Q", *words),
        ctypes.c_size_t(8 * len(words)),
        ctypes.c_uint32(0),
    )
    if ruleset < 0:
        return False, error()
    try:
        for path, access in rules:
            _allow(ruleset, path, access & rights)
        if libc().syscall(LANDLOCK_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)) != 0:
            return False, error()
    finally:
        os.close(ruleset)
    return True, f"version {version}: {what}"


def _rules(packages, processes):
    """(path, rights) of all that a model may use."""
    work = os.getcwd()
    yield work, ~(MAKE_CHAR | MAKE_BLOCK | MAKE_SOCK | IOCTL_DEV)
    yield os.path.dirname(work), READ_FILE | READ_DIR
    # Its own folder, so with the old /proc too; not those of others.
    yield os.path.realpath("/proc/self"), READ_FILE | READ_DIR | WRITE_FILE
    yield from libraries(packages, processes)


def libraries(packages, processes):
    """(path, rights) of the interpreter and `packages`, of what they need of the system, and with `processes` of the
    GPU's devices."""
    yield "/dev/null", READ_FILE | WRITE_FILE | TRUNCATE
    for path in visible.readable_roots(packages, processes):
        yield path, READ
    for folder in {os.path.dirname(path) for path in packages} | set(sys.path):
        yield folder, READ_DIR  # the import system lists it; the files in it stay closed
    if processes:
        for path in visible.gpu_devices():
            yield path, READ | WRITE_FILE | IOCTL_DEV


def _allow(ruleset, path, access):
    try:
        descriptor = os.open(path, O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    if not os.path.isdir(path):
        access &= FILE_RIGHTS
    rule = struct.pack("<Qi", access, descriptor)
    libc().syscall(LANDLOCK_ADD_RULE, ruleset, ctypes.c_int(1), rule, ctypes.c_uint32(0))
    os.close(descriptor)
