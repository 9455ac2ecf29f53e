"""The root directory that a box gets of its own: visible.py's files and nothing else, all read-only, without set-uid
rights and devices; a work folder in memory, limited in sum; /proc, /sys and /dev of a few fixed files. Runs in the box:
standard library only.

What it closes: through files that two boxes see, one could leave the other something: in extended attributes, modes and
times (reading alone moves the time of the last access), which a read-only mount keeps still; in names and folders,
which lie in this box's own memory; in the counters of the machine under /proc and /sys, which are not there. The work
folder is new and empty for every box, and gone with it.

What it leaves open: the files themselves are the machine's, one copy for all boxes: locks on them and their pages in
memory are closed by the filter of system calls (calls.py), and how fast a page is read is known to a box that runs
beside (docs/audits.md). With processes (on a GPU) folders are shown whole, and /proc and /sys are the kernel's own.
"""

import glob
import json
import os

from golf.box import kernel
from golf.box.visible import gpu_devices

STAGE = "root"  # name of the folder in the box's directory where the root is put together
VISIBLE = "visible.json"  # beside it: Tree.as_json() of visible.py
MAX_WORK_BYTES = 1 << 28  # of all files in the work folder together
MAX_WORK_FILES = 10_000
DEVICES = ("/dev/null", "/dev/urandom", "/dev/random")

# Of /sys, what torch's library cpuinfo and OpenMP read, and what never changes while the machine runs.
PROCESSORS = (
    "/sys/devices/system/cpu/online",
    "/sys/devices/system/cpu/possible",
    "/sys/devices/system/cpu/present",
    "/sys/devices/system/cpu/kernel_max",
    "/sys/devices/system/node/online",
    "/sys/devices/system/cpu/cpu[0-9]*/topology/*",
    "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_m??_freq",
    "/sys/devices/system/cpu/cpu[0-9]*/regs/identification/*",
)


def private_root(processes):
    """Make the root, and enter it. Needs mount and process namespaces of its own. Returns (active, note).

    processes: whether the box may start some; it then gets the kernel's own /proc and /sys, and the GPU's devices. The
    working directory is the box's work folder before and after; the files in it are taken along."""
    work = os.getcwd()
    stage = os.path.join(os.path.dirname(work), STAGE)
    try:
        with open(os.path.join(os.path.dirname(work), VISIBLE), encoding="utf-8") as file:
            visible = json.load(file)
        carried = {name: _read(os.path.join(work, name)) for name in sorted(os.listdir(work))}
        fixed = {} if processes else {**fixed_proc(), **fixed_sys()}
        kernel.mount("none", "/", None, kernel.MS_PRIVATE | kernel.MS_REC)
        flags = kernel.MS_NOSUID | kernel.MS_NODEV
        kernel.mount("golf-box", stage, "tmpfs", flags, "size=64m,nr_inodes=400k,mode=755")
        fill(stage, visible, fixed)
        make_folder(stage + work)
        devices = [path for path in DEVICES if os.path.exists(path)]
        devices += gpu_devices() if processes else []
        for path in devices:
            make_file(stage + path)
        if processes:
            for path in ("/proc", "/sys"):
                make_folder(stage + path)
            kernel.mount("/sys", stage + "/sys", None, kernel.MS_BIND | kernel.MS_REC)
        kernel.set_mount(stage, kernel.READ_ONLY | kernel.NO_SET_UID | kernel.NO_DEVICES, recursive=True)
        for path in devices:
            kernel.mount(path, stage + path, None, kernel.MS_BIND)
            kernel.set_mount(stage + path, kernel.READ_ONLY | kernel.NO_SET_UID)
        if processes:
            kernel.mount("proc", stage + "/proc", "proc", flags | kernel.MS_NOEXEC)
        kernel.mount(
            "golf-work", stage + work, "tmpfs", flags, f"size={MAX_WORK_BYTES},nr_inodes={MAX_WORK_FILES},mode=700"
        )
        kernel.make_root(stage)
        os.chdir(work)
        for name, data in carried.items():
            with open(name, "wb") as file:
                file.write(data)
    except (OSError, KeyError) as failure:
        os.chdir(work)
        return False, f"it cannot be made ({failure})"
    files = len(visible["paths"])
    return True, f"{files:,} {'files and folders' if processes else 'files of code'}, all else in memory"


def own_proc():
    """Without a root of its own, at least a /proc that shows the box's processes alone. Returns (active, note)."""
    try:
        kernel.mount("none", "/", None, kernel.MS_PRIVATE | kernel.MS_REC)
        kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    except OSError as failure:
        return False, f"the kernel refuses ({failure.strerror})"
    return True, ""


def fill(stage, visible, fixed):
    """Everything below the new root at `stage` but the devices and the work folder. visible: what Tree.as_json() of
    visible.py says; fixed: {path: text} of files that are copies."""
    made: set[str] = set()
    for path in visible["folders"]:
        make_folder(stage + path, made)
    for path in visible["paths"]:
        if os.path.isdir(path):
            make_folder(stage + path, made)
        elif not os.path.exists(stage + path):  # else it lies in a folder that is shown whole
            make_folder(os.path.dirname(stage + path), made)
            make_file(stage + path)
        kernel.mount(path, stage + path, None, kernel.MS_BIND | kernel.MS_REC)
    for path, target in visible["links"].items():
        make_folder(os.path.dirname(stage + path), made)
        if not os.path.lexists(stage + path):
            os.symlink(target, stage + path)
    for path, text in fixed.items():
        make_folder(os.path.dirname(stage + path), made)
        with open(stage + path, "w", encoding="utf-8") as file:
            file.write(text)


def make_folder(path, made=None):
    """The folder at `path`, with those above it. made: the paths of those that were made, which is faster to ask."""
    if made is not None:
        if path in made:
            return
        made.add(path)
    os.makedirs(path, exist_ok=True)


def make_file(path):
    """An empty file at `path`, a place to mount one on."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC))


def fixed_proc():
    """{path: text} of /proc: what the machine is, not what it does: all memory is free, time stands still."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024
    memory = {"MemTotal": total, "MemFree": total, "MemAvailable": total, "SwapTotal": 0, "SwapFree": 0}
    processors = ["cpu", *(f"cpu{number}" for number in range(os.cpu_count() or 1))]
    lines = _read("/proc/cpuinfo").decode("utf-8", "replace").splitlines(keepends=True)
    return {
        "/proc/cpuinfo": "".join(line for line in lines if not line.startswith("cpu MHz")),  # it follows the load
        "/proc/meminfo": "".join(f"{name + ':':<16}{value:>8} kB\n" for name, value in memory.items()),
        "/proc/stat": "".join(f"{name} 0 0 0 0 0 0 0 0 0 0\n" for name in processors) + "btime 0\n",
        "/proc/loadavg": "0.00 0.00 0.00 1/1 1\n",
        "/proc/uptime": "0.00 0.00\n",
    }


def fixed_sys():
    """{path: text} of /sys: copies of PROCESSORS."""
    texts = {}
    for pattern in PROCESSORS:
        for path in glob.glob(pattern):
            try:
                texts[path] = _read(path).decode("utf-8", "replace")
            except OSError:
                continue
    return texts


def _read(path):
    with open(path, "rb") as file:
        return file.read()
