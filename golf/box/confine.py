"""Layers that the box puts around itself before it loads anything of the artifact. Runs in the box: standard library
only.

Each layer is tried and reported as active or missing, with what a missing one leaves open; only `--certify` insists on
all of them. On Linux: namespaces (users, network, processes, mounts, System V), a root directory of its own
(mounts.py), no capabilities, Landlock (landlock.py), a filter of system calls (calls.py), resource limits. Elsewhere:
the resource limits.

NOT covered: bugs of the kernel; the shared hardware (caches, timing); a GPU's memory and driver. On a GPU the box may
start processes (Triton calls a compiler), and only a control group (cgroup.py) limits its memory, because CUDA reserves
address space far beyond what it uses.
"""

import ctypes
import os
import resource
import signal
import struct
import sys

from golf.box import calls, landlock, mounts
from golf.box.calls import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER
from golf.box.kernel import error, libc
from golf.children import PR_SET_PDEATHSIG

PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 24, 38, 47  # linux/prctl.h
PR_CAP_AMBIENT_CLEAR_ALL, CAPABILITY_VERSION_3 = 4, 0x20080522  # linux/prctl.h, linux/capability.h
MAX_FILE_BYTES = 1 << 28
MAX_OPEN_FILES = 1024
MAX_PROCESSES = 512  # threads count, and torch and CUDA start many
MAX_QUEUED_SIGNALS = 64  # the kernel counts them for all boxes of a user together, too, with a much higher limit
MAX_ADDRESS_BYTES = 1 << 40  # page tables, which no other limit counts, are then at most 2 GiB

# What a missing layer leaves open; the report prints it.
OPEN = {
    "own session, no inherited descriptors, empty environment": "the box shares the terminal of the scorer",
    "network namespace": "the artifact can use the network",
    "process namespace": "the artifact sees other processes, and one that leaves the session outlives the box",
    "own root, read-only": "what a box leaves in attributes and times of files, the next one can find; nothing limits "
    "the sum of its files; /proc and /sys show what the machine does",
    "own /proc": "/proc shows the processes of the machine (Landlock, where active, closes their files)",
    "no capabilities": "the artifact has rights over its namespaces, or the machine, that a model has no use for",
    "no new privileges": "set-uid programs can give the artifact more rights",
    "Landlock: files": "the artifact can read what the user who scores can read, and write there",
    "seccomp: system calls": "sockets, ptrace and other processes' memory are left to the kernel's own rules",
    "seccomp: known calls only": "locks, pipes and counters of the kernel can carry something from box to box",
    "no new processes": "the artifact can start programs, each with memory of its own",
    "limit on memory": "the artifact can use up the machine's memory",
    "limit on cores": "the boxes of a score can use more cores than its track allows",
    "ends with the scorer": "a box outlives a scorer that is killed until it next reads its pipe",
    "limit on CPU time": "only the time limit ends a busy box",
    "limit on file size": "the disk can be filled",
    "limit on open files": "descriptors of the machine can be used up",
    "limit on queued signals": "boxes can use up the signals that all processes of a user may queue",
    "limit on processes": "threads and processes can use up the machine's process table",
    "no core dumps": "a crash can leave a memory image on disk",
}


def confine(options):
    """Apply every layer that the kernel grants; must run while the process has one thread. Returns [(layer, active,
    note)] in the process that may go on.

    options: cpu_seconds; memory_bytes (None: no limit but the group's); group (folder of a control group, or None);
    cores (numbers of those that the boxes of a score share, or None); processes (bool: may start some); packages (paths
    that may be imported); close (descriptors that only that process keeps). With a process namespace the caller's
    process stays outside as a guardian that waits and passes on the exit status (128 + signal); this function returns
    in a grandchild."""
    layers = {"own session, no inherited descriptors, empty environment": (os.getsid(0) == os.getpid(), "")}
    grouped, group_note = join(options["group"])  # first: children are born into it, and later no file opens
    root = os.getuid() == 0 and _read("/proc/self/uid_map").split() == ["0", "0", "4294967295"]
    got, reason = namespaces()
    layers["ends with the scorer"] = prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    layers["limit on CPU time"] = limit("RLIMIT_CPU", options["cpu_seconds"], "s")
    layers["limit on file size"] = limit("RLIMIT_FSIZE", MAX_FILE_BYTES, "bytes")
    layers["limit on open files"] = limit("RLIMIT_NOFILE", MAX_OPEN_FILES, "files")
    layers["limit on queued signals"] = limit("RLIMIT_SIGPENDING", MAX_QUEUED_SIGNALS, "signals")
    layers["no core dumps"] = limit("RLIMIT_CORE", 0, "bytes")
    layers["network namespace"] = bool(got & CLONE_NEWNET), reason
    layers["process namespace"] = bool(got & CLONE_NEWPID), reason
    if got & CLONE_NEWPID:
        for _ in range(2):  # init of the namespace, which no code of the artifact runs in; then the box itself
            child = os.fork()
            if child:
                guard(child, options["close"])
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    layers["own root, read-only"], layers["own /proc"] = _own_files(got, reason, options["processes"])
    layers["no capabilities"] = drop_capabilities()
    # Counted per user and user namespace, so only there does it count the box alone.
    processes = limit("RLIMIT_NPROC", MAX_PROCESSES, "processes and threads")
    layers["limit on processes"] = processes if got & CLONE_NEWUSER else (False, "needs a user namespace of its own")
    layers["limit on memory"] = _limit_memory(options["memory_bytes"], grouped, group_note)
    layers["no new privileges"] = prctl(PR_SET_NO_NEW_PRIVS, 1)
    layers["Landlock: files"] = landlock.restrict(options["packages"], options["processes"])
    pinned = _pin(options["cores"])  # before the filter, which then refuses other cores
    refusing, allowing = calls.restrict(options["processes"])
    layers["seccomp: system calls"], layers["seccomp: known calls only"] = refusing, allowing
    if options["cores"] is not None:
        layers["limit on cores"] = pinned if allowing[0] else (False, f"the box can take others: {allowing[1]}")
    none = refusing[0] and not options["processes"]
    if not options["processes"]:
        layers["no new processes"] = none, "threads only" if none else refusing[1]
    if root:  # the kernel does not hold RLIMIT_NPROC against root
        layers["limit on processes"] = (
            none,
            ("no new processes, and threads end at the limit on memory" if none else "root is above it"),
        )
    if grouped and not layers["limit on processes"][0]:
        layers["limit on processes"] = True, f"{MAX_PROCESSES:,} processes and threads in its control group"
    return [
        (name, active, note if active else f"{note}: {OPEN[name]}" if note else OPEN[name])
        for name, (active, note) in layers.items()
    ]


def _own_files(namespaces, reason, processes):
    """(active, note) of the box's own root and of its own /proc."""
    if not namespaces & CLONE_NEWPID:
        return (False, reason), (False, "needs a process namespace")
    root = mounts.private_root(processes)
    if not root[0]:
        return root, mounts.own_proc()
    return root, (True, "its own processes" if processes else "a few fixed files, no processes at all")


def drop_capabilities():
    """Give up all capabilities, for good: also those over the own namespaces. capabilities(7)."""
    if sys.platform != "linux":
        return False, f"not available on {sys.platform}"
    number = 0
    while libc().prctl(PR_CAPBSET_DROP, ctypes.c_ulong(number), 0, 0, 0) == 0:
        number += 1
    libc().prctl(PR_CAP_AMBIENT, ctypes.c_ulong(PR_CAP_AMBIENT_CLEAR_ALL), 0, 0, 0)
    header = struct.pack("<Ii", CAPABILITY_VERSION_3, 0)  # of this process
    held = ctypes.create_string_buffer(24)  # effective, permitted, inheritable; twice
    if libc().capset(header, held) != 0 or libc().capget(header, held) != 0 or any(held.raw):
        return False, error()
    return True, "none, and none to come" if number else "none"


def _limit_memory(memory_bytes, grouped, group_note):
    if memory_bytes is None:
        return grouped, group_note
    limit("RLIMIT_AS", MAX_ADDRESS_BYTES, "bytes")
    active, note = limit("RLIMIT_DATA", memory_bytes, "bytes of private memory")
    return active, f"{note}; {group_note}" if grouped else note


def _pin(cores):
    """Run on these cores only, as all boxes of a score do. sched_setaffinity(2)."""
    if cores is None or not hasattr(os, "sched_setaffinity"):
        return False, f"not available on {sys.platform}"
    try:
        os.sched_setaffinity(0, cores)
    except OSError as failure:
        return False, f"the kernel refuses ({failure.strerror})"
    return True, f"{len(cores)}, which all boxes of the score share"


def _read(path):
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def namespaces():
    """Own namespaces, as many as the kernel grants at once. Returns (their flags, reason if some are missing)."""
    if sys.platform != "linux":
        return 0, f"not available on {sys.platform}"
    user, group = os.getuid(), os.getgid()
    own, reason = CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC, ""
    for flags in (CLONE_NEWUSER | own, own, CLONE_NEWUSER | CLONE_NEWNET, CLONE_NEWNET):
        if libc().unshare(flags) == 0:
            if flags & CLONE_NEWUSER:
                _map_identity(user, group)
            return flags, reason
        reason = error()
    return 0, reason


def _map_identity(user, group):
    """Keep the own ids in the new user namespace, so that files look as they did (user_namespaces(7))."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        try:
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        except OSError:
            pass  # ids then read as "nobody", access is the same


def guard(child, close):
    """Wait for `child`, collecting orphans, and end as it ended."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)  # init of a namespace takes no signal from inside without a handler
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2, *close):
        os.dup2(null, descriptor)  # so that the scorer sees the end of a pipe when the box itself has gone
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def join(group):
    """Enter the control group that the scorer made, if there is one."""
    if group is None:
        return False, "with CUDA it needs a control group (v2) that the scorer may make"
    try:
        with open(os.path.join(group, "cgroup.procs"), "w", encoding="ascii") as file:
            file.write("0")  # the writer itself (cgroups(7))
    except OSError as error:
        return False, f"its control group cannot be joined ({error.strerror})"
    return True, f"control group of {_read(os.path.join(group, 'memory.max')).strip()} bytes"


def prctl(option, value):
    """prctl(2). Returns (active, note) of a layer."""
    if sys.platform != "linux":
        return False, f"not available on {sys.platform}"
    if libc().prctl(option, ctypes.c_ulong(int(value)), 0, 0, 0) != 0:
        return False, error()
    return True, ""


def limit(name, value, unit):
    """Set the resource limit `name` ("RLIMIT_..."), soft and hard, to `value` or what the machine allows of it.
    Returns (active, note) of a layer."""
    which = getattr(resource, name)
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    try:
        resource.setrlimit(which, (value, value))
    except (OSError, ValueError) as error:
        return False, str(error)
    return True, f"{value:,} {unit}"
