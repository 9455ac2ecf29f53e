"""NVIDIA's driver on this machine: the libraries that a box with a GPU must see. Runs on the scorer's side.

CUDA builds of torch bring everything but the driver, whose libraries belong to the machine's kernel module and lie
wherever the machine's maker put them: among the system's (Debian, RHEL), below /usr/local/nvidia (containers of clouds,
which name it in LD_LIBRARY_PATH), in a folder `compat` (a driver newer than the kernel's), in /usr/lib/wsl. So the
loader is asked, in a process of its own: there, loading the library starts nothing.

Not covered: other makers' GPUs; a driver that the loader of this process would not find either.
"""

import dataclasses
import functools
import glob
import json
import os
import subprocess
import sys

NAMES = ("libcuda.so*", "libcudadebugger.so*", "libnvidia-*.so*")
ASK = """
import ctypes, json
for name in ("libcuda.so.1", "libnvidia-ml.so.1"):
    try:
        ctypes.CDLL(name)
    except OSError:
        pass
with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
    rows = [line.rstrip("\\n").split(maxsplit=5) for line in file]
print(json.dumps(sorted({row[5] for row in rows if len(row) == 6})))
"""
ASK_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Driver:
    """What was found."""

    libraries: tuple[str, ...] = ()  # paths of its files and of links to them
    folders: tuple[str, ...] = ()  # those of LD_LIBRARY_PATH that hold some

    @property
    def libcuda(self) -> str:
        """The path of the library that CUDA begins with, or ""."""
        return next((path for path in self.libraries if os.path.basename(path) == "libcuda.so.1"), "")


def find() -> Driver:
    """The driver that a program started from here would load."""
    return _find(os.environ.get("LD_LIBRARY_PATH", ""))


@functools.cache
def _find(library_path: str) -> Driver:
    if sys.platform != "linux":
        return Driver()
    named = [os.path.normpath(folder) for folder in library_path.split(":") if os.path.isabs(folder)]
    own = [folder for folder in dict.fromkeys(named) if _libraries_in(folder)]
    loaded = [os.path.dirname(path) for path in _mapped() if path in _libraries_in(os.path.dirname(path))]
    found = {path for folder in (*own, *loaded) for path in _libraries_in(folder)}
    return Driver(tuple(sorted(found)), tuple(own))


def _libraries_in(folder: str) -> set[str]:
    """Paths of the driver's libraries in `folder`."""
    patterns = (os.path.join(glob.escape(folder), name) for name in NAMES)
    return {path for pattern in patterns for path in glob.glob(pattern) if os.path.isfile(path)}


def _mapped() -> list[str]:
    """Paths of the files that a process has in memory after it has loaded the driver, as far as it could."""
    try:
        done = subprocess.run([sys.executable, "-I", "-c", ASK], capture_output=True, text=True, timeout=ASK_SECONDS)
        return json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return []
