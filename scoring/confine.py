"""Layers that the box puts around itself before it loads anything of the artifact. The box gets a copy of this file:
stdlib only.

Each layer is tried and reported as active or missing; a missing one never stops a score, it is printed.

NOT covered yet: which files can be read (the box runs as the user who scores: it can read that user's files and, where
the kernel allows it, that user's processes), system calls (seccomp), memory, and processes that leave the box's
session. A subprocess with these layers is not by itself a security boundary: run artifacts of people you do not trust
inside a virtual machine or container that holds nothing but the scorer.
"""

import ctypes
import os
import resource
import signal
import sys

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000  # linux/sched.h
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38  # linux/prctl.h
MAX_FILE_BYTES = 1 << 28
MAX_OPEN_FILES = 1024
MAX_PROCESSES = 512  # threads count, and torch and CUDA start many


def confine(cpu_seconds):
    """Apply every layer that the kernel grants; must run while the process has one thread. Returns [(layer, active,
    note)]."""
    own_users, network, reason = _namespaces()
    reached = "no network at all" if network else f"{reason}: the artifact can use the network"
    return [
        ("own session, no inherited descriptors, empty environment", os.getsid(0) == os.getpid(), ""),
        ("network namespace", network, reached),
        ("no new privileges", *_prctl(PR_SET_NO_NEW_PRIVS, 1, "set-uid programs give nothing")),
        ("ends with the scorer", *_prctl(PR_SET_PDEATHSIG, signal.SIGKILL, "killed when the scorer dies")),
        ("limit on CPU time", *_limit("RLIMIT_CPU", cpu_seconds, "s")),
        ("limit on file size", *_limit("RLIMIT_FSIZE", MAX_FILE_BYTES, "bytes")),
        ("limit on open files", *_limit("RLIMIT_NOFILE", MAX_OPEN_FILES, "files")),
        ("limit on processes", *_limit_processes(own_users)),
        ("no core dumps", *_limit("RLIMIT_CORE", 0, "bytes")),
    ]


def _libc():
    return ctypes.CDLL(None, use_errno=True)


def _namespaces():
    """Own user and network namespaces, or the network alone. Returns (own user namespace, own network, reason if
    not)."""
    if sys.platform != "linux":
        return False, False, f"not available on {sys.platform}"
    user, group = os.getuid(), os.getgid()
    libc = _libc()
    for flags in (CLONE_NEWUSER | CLONE_NEWNET, CLONE_NEWNET):
        if libc.unshare(flags) == 0:
            if flags & CLONE_NEWUSER:
                _map_identity(user, group)
            return bool(flags & CLONE_NEWUSER), True, ""
    return False, False, f"the kernel refuses ({os.strerror(ctypes.get_errno())})"


def _map_identity(user, group):
    """Keep the own ids in the new user namespace, so that files look as they did (user_namespaces(7))."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        try:
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        except OSError:
            pass  # ids then read as "nobody", access is the same


def _prctl(option, value, note):
    if sys.platform != "linux":
        return False, f"not available on {sys.platform}"
    if _libc().prctl(option, ctypes.c_ulong(int(value)), 0, 0, 0) != 0:
        return False, os.strerror(ctypes.get_errno())
    return True, note


def _limit(name, value, unit):
    which = getattr(resource, name)
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    try:
        resource.setrlimit(which, (value, value))
    except (OSError, ValueError) as error:
        return False, str(error)
    return True, f"{value:,} {unit}"


def _limit_processes(own_users):
    # The limit counts all processes of a user; only in a user namespace of its own does it count those of the box
    # alone, and the kernel never holds it against root.
    if not own_users:
        return False, "needs a user namespace of its own"
    if os.getuid() == 0:
        return False, "the kernel does not hold it against root: score as another user"
    return _limit("RLIMIT_NPROC", MAX_PROCESSES, "processes")
