"""Which files of the machine a box may see: the interpreter, the standard library, the packages on the list, the system
libraries these load; with processes (on a GPU) also a compiler and the driver. Runs in the scorer, which lists the
files, and in the box: standard library only.

Without processes only code is shown, file by file: Python's sources and byte code, and shared libraries. Tests, headers
and data of packages stay away, and so do folders of the machine: a box never looks up a name in a folder that another
box looks names up in, for the kernel remembers names that do not exist too, and answers faster the second time.

Not covered: what is inside the files. Comments and docstrings of libraries are readable text (docs/audits.md says what
they are worth).
"""

import functools
import glob
import json
import mmap
import os
import sys
import sysconfig

# What torch, glibc and a compiler read of the system; everything else of it stays closed. Not /usr/share (dictionaries,
# corpora) and no package folder of the interpreter: what may be imported is listed by name.
SYSTEM = (
    "/lib64",
    "/usr/lib64",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/dev/urandom",
    "/dev/random",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/loadavg",
    "/proc/uptime",
    "/sys/devices/system",
)
GPU = (
    "/usr/bin",
    "/bin",
    "/usr/include",
    "/usr/local/include",
    "/usr/libexec",
    "/usr/local/cuda",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/proc/filesystems",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/kernel/osrelease",
    "/proc/driver/nvidia",
    "/proc/devices",
    "/proc/modules",
    "/sys/bus/pci",
    "/sys/devices",
    "/sys/kernel/mm/transparent_hugepage",
    "/sys/module/nvidia",
    "/sys/class/drm",
    "/etc/nvidia",
    "/usr/share/nvidia",
    "/run/nvidia-persistenced",
)
GPU_DEVICES = ("/dev/nvidia*", "/dev/nvidia-caps/*", "/dev/dxg")  # the last but one of parts of a GPU; the last of WSL

# Libraries that the standard library, torch and numpy load from the system.
LIBRARIES = (
    "ld-linux",
    "libc",
    "libm",
    "libdl",
    "libpthread",
    "librt",
    "libutil",
    "libgcc_s",
    "libstdc++",
    "libgomp",
    "libatomic",
    "libnuma",
    "libz",
    "libbz2",
    "liblzma",
    "libzstd",
    "libffi",
    "libexpat",
    "libssl",
    "libcrypto",
    "libcrypt",
    "libuuid",
    "libresolv",
    "libsqlite3",
)
LIBRARY_FOLDERS = ("/lib64", "/usr/lib64", "/lib", "/usr/lib", "/lib/*-linux-gnu", "/usr/lib/*-linux-gnu")
UNUSED = {
    "site-packages",
    "dist-packages",
    "__pycache__",
    "test",
    "tests",
    "include",
    "idlelib",
    "lib2to3",
    "ensurepip",
    "pydoc_data",
    "tkinter",
    "turtledemo",
}
MADV_POPULATE_READ = 22  # linux/mman.h, Linux 5.14


def readable_roots(packages, processes):
    """Files and folders that a model may read: the interpreter, the standard library, system libraries, `packages`; and
    if it may start `processes`, what a compiler and the GPU's driver need."""
    folders = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), "/usr/lib", "/usr/local/lib", "/lib"}
    roots = [
        *SYSTEM,
        *packages,
        os.path.join(sys.prefix, "bin"),
        os.path.join(sys.prefix, "pyvenv.cfg"),
        os.path.join(sys.base_prefix, "bin"),
        *(GPU if processes else ()),
    ]
    for folder in map(os.path.realpath, folders):
        is_stdlib = os.path.exists(os.path.join(folder, "os.py"))
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            if name not in ("site-packages", "dist-packages") and (is_stdlib or not name.startswith("python")):
                roots.append(os.path.join(folder, name))
    return roots


def gpu_devices():
    """Paths of the devices of the GPUs."""
    paths = [path for pattern in GPU_DEVICES for path in sorted(glob.glob(pattern))]
    return [path for path in paths if not os.path.isdir(path)]


class Tree:
    """Files and folders as they are to appear below a new root, at their own paths, with the symbolic links on the way
    to them."""

    def __init__(self):
        self.paths, self.folders, self.links = set(), set(), {}
        self._real = {"/": "/"}

    def add(self, path):
        """Take in the file or folder at `path` (absolute), whole."""
        self.paths.add(self._place(path))

    def add_folder(self, path):
        """Take in the folder at `path` (absolute), empty."""
        self.folders.add(self._place(path))

    def _place(self, path):
        """The real path of `path`; notes the links on the way."""
        if path in self._real:
            return self._real[path]
        at = os.path.join(self._place(os.path.dirname(path)), os.path.basename(path))
        try:
            target = os.readlink(at)
        except OSError:
            real = at
        else:
            self.links[at] = target
            real = self._place(os.path.normpath(os.path.join(os.path.dirname(at), target)))
        self._real[path] = real
        return real

    def as_json(self):
        """One JSON object: "paths" [path], "folders" [path], "links" {path: target}; sorted, so that a folder comes
        before what lies in it."""
        return json.dumps({"paths": sorted(self.paths), "folders": sorted(self.folders), "links": self.links})


@functools.cache
def tree(packages, processes):
    """The Tree of a box that may import `packages` (a tuple of paths)."""
    result = Tree()
    homes = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    for path in sorted({*homes, *map(os.path.dirname, packages), "/lib", "/lib64"}):  # with the links that lead there
        if os.path.isdir(path):
            result.add_folder(path)
    if processes:
        for path in readable_roots(packages, processes):
            if os.path.exists(path) and not path.startswith(("/proc", "/dev", "/sys")):
                result.add(path)
        return result
    for path in (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), *packages):
        for file in code(path):
            result.add(file)
    for folder in LIBRARY_FOLDERS:
        for name in LIBRARIES:
            for path in glob.glob(f"{folder}/{name}[.-]*so*"):
                result.add(path)
    result.add(os.path.realpath(sys.executable))
    if os.path.exists("/etc/ld.so.cache"):
        result.add("/etc/ld.so.cache")
    return result


def code(path):
    """Paths of the files of code at `path`, a file or a folder with all that lies below it."""
    if os.path.isfile(path):
        if _is_code(os.path.basename(path)):
            yield path
        return
    for folder, folders, names in os.walk(path):
        compiled = os.path.join(folder, "__pycache__")
        found = {os.path.join(folder, name) for name in names if _is_code(name)}
        ending = f".{sys.implementation.cache_tag}.pyc"
        for name in sorted(os.listdir(compiled)) if "__pycache__" in folders else ():
            if os.path.join(folder, name.removesuffix(ending) + ".py") in found:
                found.add(os.path.join(compiled, name))
        folders[:] = sorted(set(folders) - UNUSED)
        yield from sorted(found)


def _is_code(name):
    return name.endswith((".py", ".so")) or ".so." in name or name == "torch_shm_manager"  # torch asks if it is there


def read_beforehand(paths):
    """Bring the files at `paths` into the page cache, so that how long a box waits for a page does not tell it which
    pages a box before it has read. Returns the bytes; a file that has gone is none of a box's any more."""
    total = 0
    for path in paths:
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if not size:
                    continue
                with mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as pages:
                    try:
                        pages.madvise(MADV_POPULATE_READ)
                    except OSError:  # an older kernel
                        while file.read(1 << 20):
                            pass
                total += size
        except (OSError, ValueError):
            continue
    return total
