"""What kind of processor this machine has, as far as it decides how fast and with which roundings a model trains.

A kind is a class and a maker. Two machines of one kind give a run the same kernels, and so far the same weights to the
last bit. Those of two classes round products in other places, and of two makers too: a Xeon with AMX that was told to
do without it (class avx512-bf16) had another loss than an EPYC of that class from the first step on. One script may
also gain more on one kind than on another: that of record 0006 was 2.3 times as fast as record 0001's on the EPYC, and
1.4 times on that Xeon, whose bfloat16 products are no faster without AMX than its float32 ones.

Not covered: GPUs; speed within a kind (golf par times it).
"""

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

# What a processor's flags say, the first that fits: /proc/cpuinfo of Linux.
CLASSES = (("amx_bf16", "amx"), ("avx512_bf16", "avx512-bf16"), ("avx512f", "avx512"), ("avx2", "avx2"))
NAMES = (*(name for _, name in CLASSES), "arm", "other")


def _cpuinfo(key: str) -> str:
    """The first value of a key of /proc/cpuinfo; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def processor_class() -> str:
    """One of NAMES."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return "arm"
    flags = _cpuinfo("flags").split()
    return next((name for flag, name in CLASSES if flag in flags), "other")


@contextlib.contextmanager
def pinned(cores: int) -> Iterator[None]:
    """Inside, this process and those that it starts run on at most so many of its cores. How many threads share a
    product decides how it is rounded, so the number of cores belongs to what a run is. Nothing where the system cannot
    pin."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def kind_of(class_name: str, name: str) -> str:
    """The kind of a processor, in words, by its class and what its maker calls it: `amx by intel`."""
    maker = name.partition(" ")[0].partition("(")[0].lower()  # `intel` of `Intel(R) Xeon(R) Processor`
    return f"{class_name} by {maker}"


def own_kind() -> str:
    """The kind of this machine's processor."""
    return kind_of(processor_class(), processor_name())


def processor_name() -> str:
    """The maker's name of the processor, as the system tells it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine() or "unknown"
