"""A control group of its own for a box, where this user may make one (Linux, cgroup v2): the kernel then holds memory,
swap and the number of processes of all that is in the box, with a GPU too, where a limit on address space breaks CUDA.

A group is made below the scorer's own group or beside it, whichever already hands `memory` and `pids` on to its
children and can be written; under systemd, `systemd-run --user --scope python eval_heldout.py ...` gives such a place.
Nothing that exists is changed, and where nothing fits the box goes without.

NOT covered: cgroup v1; containers that mount the tree read-only; a GPU's own memory, which the kernel does not count.
"""

import glob
import os
import time

PREFIX = "golf-box-"
SETTINGS = ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max")


def parents():
    """Folders of groups that may hold a box's group, the best one first."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            mounts = [line.split() for line in file]
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            own = next((line[3:].strip() for line in file if line.startswith("0::")), None)
    except OSError:
        return []
    root = next((words[4] for words in mounts if words[words.index("-") + 1] == "cgroup2"), None)
    if root is None or own is None or ".." in own:  # the latter: outside of what this namespace may see
        return []
    folder = os.path.normpath(root + own)
    return [folder] if folder == root else [folder, os.path.dirname(folder)]


def make(name, memory_bytes, processes):
    """The folder of a new group `name` with its limits set, or None where none can be made. A box joins it by itself
    (confine.py)."""
    values = dict(zip(SETTINGS, (memory_bytes, 0, 1, processes)))
    for parent in parents():
        folder = os.path.join(parent, name)
        try:
            with open(os.path.join(parent, "cgroup.subtree_control"), encoding="ascii") as file:
                if not {"memory", "pids"} <= set(file.read().split()):
                    continue
            os.mkdir(folder)
            for setting, value in values.items():
                path = os.path.join(folder, setting)
                if setting == "memory.swap.max" and not os.path.exists(path):
                    continue  # a kernel without swap
                with open(path, "w", encoding="ascii") as file:
                    file.write(str(value))
            return folder
        except OSError:
            remove(folder)
    return None


def kill(folder):
    """Kill every process in a group, those that left the box's session too. Nothing where the kernel cannot
    (before 5.14)."""
    try:
        with open(os.path.join(folder, "cgroup.kill"), "w", encoding="ascii") as file:
            file.write("1")
    except OSError:
        pass


def remove(folder, patience=2.0):
    """Remove a group; waits up to `patience` seconds for its processes to be gone, then leaves it to remove_stale()."""
    until = time.monotonic() + patience
    while os.path.isdir(folder):
        try:
            os.rmdir(folder)
        except OSError:
            if time.monotonic() > until:
                return
            time.sleep(0.02)


def remove_stale(older_than=60):
    """Remove the empty groups of scorers that were killed. older_than: seconds; a box may be about to join a newer
    one."""
    for parent in parents():
        for folder in glob.glob(os.path.join(glob.escape(parent), PREFIX + "*")):
            try:
                if time.time() - os.stat(folder).st_mtime > older_than:
                    os.rmdir(folder)  # refused where a process is in it
            except OSError:
                continue
