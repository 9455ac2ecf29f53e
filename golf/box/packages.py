"""Which packages an artifact may import: an allow-list and what these need in turn, as installed here. And which files
a box sees: these, the interpreter's, the system's, and with a GPU the driver's.

NOT covered: what is inside the packages. They are free, so a package that holds data about the held-out text would have
to be kept off the list.
"""

import functools
import importlib.metadata
import importlib.util
import os
import re
import sysconfig

from golf.box import driver, visible

# flash-attn-3 is FlashAttention 3: its module is flash_attn_interface.
ALLOWED = ("torch", "numpy", "brotli", "zstandard", "sentencepiece", "triton", "flash-attn-3")


@functools.cache
def importable():
    """{"names": top-level module names, "packages": their files and folders} for the box; found by the metadata of the
    installed distributions."""
    names, paths, seen, todo = set(), set(), set(), list(ALLOWED)
    homes = {os.path.realpath(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        needed = [line for line in distribution.requires or () if "extra ==" not in line]
        todo += [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in needed]
        tops = {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."} - {"__pycache__"}
        for top in tops:
            paths.add(os.path.realpath(str(distribution.locate_file(top))))
            if not top.endswith((".dist-info", ".egg-info", ".libs", ".pth")):
                names.add(top.partition(".")[0])
        spec = None if tops else importlib.util.find_spec(name)  # as Linux distributions install it
        if spec is not None and spec.origin is not None:
            names.add(name)
            is_folder = spec.submodule_search_locations
            paths.add(os.path.realpath(os.path.dirname(spec.origin) if is_folder else spec.origin))
    # A folder of packages itself must never be among them.
    return {"names": sorted(names), "packages": sorted(paths - homes)}


def readable(processes):
    """Paths of the packages, and if the box may start `processes`, as with a GPU, of the driver's libraries."""
    return [*importable()["packages"], *(driver.find().libraries if processes else ())]


def visible_files(processes):
    """The visible.Tree of a box; `processes`: whether it may start some."""
    return visible.tree(tuple(readable(processes)), processes)


def read_beforehand():
    """Bring all files that a box without processes sees into memory, so that waiting for a page tells it nothing of the
    boxes before it. Returns the bytes."""
    return visible.read_beforehand(sorted(visible_files(False).paths))
