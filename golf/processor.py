"""What kind of processor this machine has, as far as it decides how fast and with which roundings a model trains.

Two machines of one class give a run the same kernels; on machines of two classes, products are rounded in other places
and one script may gain more than another. Not covered: GPUs; speed within a class (golf par times it).
"""

import platform
from pathlib import Path

# What a processor's flags say, the first that fits: /proc/cpuinfo of Linux.
CLASSES = (("amx_bf16", "amx"), ("avx512_bf16", "avx512-bf16"), ("avx512f", "avx512"), ("avx2", "avx2"))


def _cpuinfo(key: str) -> str:
    """The first value of a key of /proc/cpuinfo; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def processor_class() -> str:
    """One of "amx", "avx512-bf16", "avx512", "avx2", "arm", "other"."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return "arm"
    flags = _cpuinfo("flags").split()
    return next((name for flag, name in CLASSES if flag in flags), "other")


def processor_name() -> str:
    """The maker's name of the processor, as the system tells it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine() or "unknown"
