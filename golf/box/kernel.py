"""Calls into the Linux kernel that Python has no function for. Runs in the box: standard library only.

Not covered: which calls a box needs (calls.py), and what they are for (confine.py, mounts.py, landlock.py).
"""

import ctypes
import functools
import os
import struct

PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}  # asm/unistd_64.h, asm-generic/unistd.h; the C library has no function
MOUNT_SETATTR = 442
AT_FDCWD, AT_RECURSIVE = -100, 0x8000  # linux/fcntl.h
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 0x1000, 0x4000, 0x40000  # linux/mount.h
MNT_DETACH = 2
READ_ONLY, NO_SET_UID, NO_DEVICES = 1, 2, 4  # MOUNT_ATTR_* of linux/mount.h


@functools.cache
def libc():
    """The C library, which keeps errno for error()."""
    return ctypes.CDLL(None, use_errno=True)


def error():
    """Why the last call failed, for a table of layers."""
    return f"the kernel refuses ({os.strerror(ctypes.get_errno())})"


def check(result):
    """The result of a call that tells failure by a number below 0. Raises OSError."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def mount(source, target, kind=None, flags=0, options=None):
    """mount(2). Raises OSError."""
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    check(libc().mount(*texts[:3], ctypes.c_ulong(flags), texts[3]))


def set_mount(path, attributes, recursive=False):
    """Add `attributes` (READ_ONLY, ...) to the mount at `path`, and to those below it if `recursive`; what the mount
    had stays. mount_setattr(2), Linux 5.12. Raises OSError."""
    request = struct.pack("<4Q", attributes, 0, 0, 0)
    flags = ctypes.c_uint(AT_RECURSIVE if recursive else 0)
    check(libc().syscall(MOUNT_SETATTR, AT_FDCWD, os.fsencode(path), flags, request, ctypes.c_size_t(len(request))))


def make_root(path):
    """Make the mount at `path` the root of this process, and let go of the old one. pivot_root(2), "pivot_root(., .)".
    Raises OSError, KeyError on an unknown machine."""
    number = PIVOT_ROOT[os.uname().machine]
    os.chdir(path)
    check(libc().syscall(number, b".", b"."))
    check(libc().umount2(b".", MNT_DETACH))
    os.chdir("/")
