"""The program that goes into a box to train in: puts walls around itself, then becomes `python ARGUMENTS`. Standard
library and golf.box only.

    python -I trainer.py '{"arguments": [...], "readable": [...], "writable": ..., "environment": {...}, ...}'

What is to be seen: the interpreter, the packages that an artifact may import, a compiler with its headers
(torch.compile starts one), the GPU's devices and driver, and the paths of `readable`, all read-only; `writable`; /tmp
and /dev/shm in memory; a /proc of its own. There is no network. If a layer that is NEEDED cannot be had, nothing is
started. Where `arguments` is null it prints the table of layers instead.

Unlike the scorer's box (confine.py) this one may start processes, has no allow-list of system calls, and shows the
machine's load: one box says nothing to a later one but through `writable`, and nothing that it computes is a score.

Not covered: see training.py.
"""

import ctypes
import glob
import json
import os
import platform
import signal
import struct
import sys
import sysconfig
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))  # where golf lies

from golf.box import calls, confine, kernel, landlock, mounts, packages, visible  # noqa: E402
from golf.children import PR_SET_PDEATHSIG  # noqa: E402

sys.path.pop(0)  # the folder is none of the script's

NEEDED = (
    "network namespace",
    "process namespace",
    "own root, read-only",
    "own /proc",
    "no capabilities",
    "no new privileges",
    "Landlock: files",
    "seccomp: system calls",
    "seccomp: the machine's cores",
)
REFUSED = 4  # exit status where a needed layer is missing
TEMPORARY = "/tmp"
IN_MEMORY = {TEMPORARY: "size=4g,mode=1777", "/dev/shm": "size=2g,mode=1777"}
MAX_FILE_BYTES = 4 << 30
MAX_OPEN_FILES = 4096
MAX_PROCESSES = 4096  # threads count
DEVICES = (*mounts.DEVICES, "/dev/zero")
SET_AFFINITY = {"x86_64": 203, "aarch64": 122}  # sched_setaffinity
DONE = 0x00050000  # SECCOMP_RET_ERRNO without an error: the call does nothing and says that all is well
FLAGS = kernel.MS_NOSUID | kernel.MS_NODEV


def enclose(options):
    """Puts all layers around this process that the kernel grants; it must have one thread. Returns {layer: (active,
    note)} in the process that may go on, while the one that called it waits outside and ends as that one ends."""
    grouped, group_note = confine.join(options["group"])
    # Asked before the walls stand, which it looks behind.
    system = packages.visible_files(True)
    libraries = packages.readable(True)
    own = visible.Tree()
    for path in (*interpreter_libraries(), *options["readable"], options["writable"]):
        own.add(path)
    for path in (sys.executable, sysconfig.get_path("include"), sysconfig.get_path("platinclude")):
        if os.path.exists(path):
            system.add(path)
    writable = os.path.realpath(options["writable"])
    in_memory = set(filter(_is_in_memory, system.paths))  # an environment below /tmp: mounted after the memory is
    system.paths -= in_memory
    own.paths |= in_memory
    own.links |= system.links

    got, reason = confine.namespaces()
    layers = {"ends with who started it": confine.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)}
    layers["limit on file size"] = confine.limit("RLIMIT_FSIZE", MAX_FILE_BYTES, "bytes")
    layers["limit on open files"] = confine.limit("RLIMIT_NOFILE", MAX_OPEN_FILES, "files")
    layers["no core dumps"] = confine.limit("RLIMIT_CORE", 0, "bytes")
    layers["network namespace"] = bool(got & calls.CLONE_NEWNET), reason
    layers["process namespace"] = bool(got & calls.CLONE_NEWPID), reason
    if got & calls.CLONE_NEWPID:
        for _ in range(2):  # init of the namespace, then the one that becomes the script
            child = os.fork()
            if child:
                confine.guard(child, [])
            confine.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        layers["own root, read-only"] = private_root(system, own, writable)
    else:
        layers["own root, read-only"] = False, reason
    active, reason = layers["own root, read-only"]
    layers["own /proc"] = active, "its own processes" if active else reason
    layers["no capabilities"] = confine.drop_capabilities()
    layers["limit on memory"] = limit_memory(options["memory_bytes"], grouped, group_note)
    layers["limit on processes"] = limit_processes(got, grouped)
    layers["no new privileges"] = confine.prctl(confine.PR_SET_NO_NEW_PRIVS, 1)
    rules = file_rules(libraries, sorted(own.paths - {writable}), writable)
    layers["Landlock: files"] = landlock.only(rules, "libraries, what is readable, the run folder")
    layers["seccomp: system calls"] = calls.restrict(True)[0]
    layers["seccomp: the machine's cores"] = keep_machine()
    return layers


def keep_machine():
    """A script stays on the cores that it is timed on: more of the machine would make it look faster than its rivals.
    To choose cores is answered with "done", since OpenMP ends where it may not. Returns (active, note)."""
    machine = platform.machine()
    if machine not in SET_AFFINITY:
        return False, f"not written for {machine}"
    program = calls.Program()
    program.load(calls.Program.NUMBER)
    program.when_answer(calls.Program.EQUAL, SET_AFFINITY[machine], DONE)
    program.answer(calls.Program.ALLOW)
    code = ctypes.create_string_buffer(b"".join(program.code))
    argument = struct.pack("<H6xQ", program.length, ctypes.addressof(code))  # struct sock_fprog
    if kernel.libc().prctl(calls.PR_SET_SECCOMP, ctypes.c_ulong(calls.SECCOMP_MODE_FILTER), argument, 0, 0) != 0:
        return False, kernel.error()
    return True, "it keeps those that it was started on"


def interpreter_libraries():
    """The library that a Python built to be shared is in, beside it: without its own it would start with whichever of
    that name the system has."""
    folders = {sysconfig.get_config_var("LIBDIR") or "", os.path.join(sys.base_prefix, "lib")}
    return sorted(path for folder in folders for path in glob.glob(os.path.join(folder, "libpython*.so*")))


def private_root(system, own, writable):
    """Makes a root of the files of `system` and `own` (visible.Tree), all read-only but `writable`, and enters it.
    Needs mount and process namespaces of its own. Returns (active, note)."""
    stage = tempfile.mkdtemp(prefix=".root-", dir=writable)
    try:
        _fill_root(stage, system, own, writable)
        kernel.make_root(stage)
        os.chdir(writable)
    except (OSError, KeyError) as failure:
        kernel.libc().umount2(os.fsencode(stage), kernel.MNT_DETACH)
        os.rmdir(stage)
        return False, f"it cannot be made ({failure})"
    os.rmdir(stage)  # what was mounted there is the root now
    return True, f"{len(system.paths):,} files and folders, and {len(own.paths):,} that were named"


def _fill_root(stage, system, own, writable):
    kernel.mount("none", "/", None, kernel.MS_PRIVATE | kernel.MS_REC)
    kernel.mount("golf-box", stage, "tmpfs", FLAGS, "size=64m,nr_inodes=400k,mode=755")
    mounts.fill(stage, json.loads(system.as_json()), {})
    _prepare(stage, own, in_memory=False)
    for path in ("/proc", "/sys", *IN_MEMORY):
        mounts.make_folder(stage + path)
    devices = [path for path in DEVICES if os.path.exists(path)] + visible.gpu_devices()
    for path in devices:
        mounts.make_file(stage + path)
    kernel.mount("/sys", stage + "/sys", None, kernel.MS_BIND | kernel.MS_REC)
    kernel.set_mount(stage, kernel.READ_ONLY | kernel.NO_SET_UID | kernel.NO_DEVICES, recursive=True)

    for path in devices:
        kernel.mount(path, stage + path, None, kernel.MS_BIND)
        kernel.set_mount(stage + path, kernel.READ_ONLY | kernel.NO_SET_UID)
    kernel.mount("proc", stage + "/proc", "proc", FLAGS | kernel.MS_NOEXEC)
    kernel.set_mount(stage + "/proc", kernel.READ_ONLY)  # root may write there without a capability
    for path, size in IN_MEMORY.items():
        kernel.mount("golf-memory", stage + path, "tmpfs", FLAGS, size)
    _prepare(stage, own, in_memory=True)

    for path in sorted(own.paths):  # a folder before what lies in it
        if path == writable:
            kernel.mount(path, stage + path, None, kernel.MS_BIND)  # without what is mounted on the stage
            kernel.set_mount(stage + path, kernel.NO_SET_UID | kernel.NO_DEVICES)
        else:
            kernel.mount(path, stage + path, None, kernel.MS_BIND | kernel.MS_REC)
            attributes = kernel.READ_ONLY | kernel.NO_SET_UID | kernel.NO_DEVICES
            kernel.set_mount(stage + path, attributes, recursive=True)


def _prepare(stage, own, in_memory):
    """Places to mount the paths of `own` on, and its links: those in folders that lie in memory, or all others."""
    for path in sorted(own.paths):
        if _is_in_memory(path) != in_memory or os.path.exists(stage + path):
            continue
        if os.path.isdir(path):
            mounts.make_folder(stage + path)
        else:
            mounts.make_file(stage + path)
    for path, target in own.links.items():
        if _is_in_memory(path) == in_memory and not os.path.lexists(stage + path):
            mounts.make_folder(os.path.dirname(stage + path))
            os.symlink(target, stage + path)


def _is_in_memory(path):
    return path.startswith(tuple(folder + os.sep for folder in IN_MEMORY))


def file_rules(libraries, readable, writable):
    """(path, rights) for Landlock. libraries: what packages.readable() gives; readable: what the caller names."""
    everything = ~(landlock.MAKE_CHAR | landlock.MAKE_BLOCK | landlock.IOCTL_DEV)
    for folder in (writable, *IN_MEMORY):
        yield folder, everything
    for path in (*readable, sysconfig.get_path("include"), sysconfig.get_path("platinclude"), "/proc", "/sys"):
        yield path, landlock.READ
    yield "/dev/zero", landlock.READ_FILE
    yield from landlock.libraries(libraries, True)


def limit_memory(memory_bytes, grouped, group_note):
    """Of the control group for all processes together, else of each process. Returns (active, note)."""
    if grouped:
        return True, group_note
    if glob.glob("/dev/nvidia[0-9]*"):  # CUDA reserves far more than it uses
        return False, group_note
    active, note = confine.limit("RLIMIT_DATA", memory_bytes, "bytes of private memory of each process")
    return active, note


def limit_processes(namespaces, grouped):
    """Returns (active, note)."""
    active, note = confine.limit("RLIMIT_NPROC", MAX_PROCESSES, "processes and threads")
    if grouped:
        return True, f"{MAX_PROCESSES:,} processes and threads in its control group"
    if not namespaces & calls.CLONE_NEWUSER or os.getuid() == 0:
        return False, "counted for a user who is not root, in a user namespace of its own"
    return active, note


def main():
    """Exit status: the script's, or REFUSED."""
    options = json.loads(sys.argv[1])
    layers = enclose(options)
    if options["arguments"] is None:
        rows = [
            {"layer": name, "active": active, "note": note, "needed": name in NEEDED}
            for name, (active, note) in layers.items()
        ]
        print(json.dumps(rows), flush=True)
        return 0
    missing = [name for name in NEEDED if not layers[name][0]]
    if missing:
        print(f"the box to train in lacks {', '.join(missing)}", file=sys.stderr)
        return REFUSED
    os.execve(sys.executable, [sys.executable, *options["arguments"]], options["environment"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
