"""The kind of a processor: its class, from flags as Linux lists them, and its maker."""

import os
import subprocess
import sys

import pytest

from golf import processor

ZEN4 = "fpu sse2 avx2 avx512f avx512_bf16 avx512_vnni"
SAPPHIRE = f"{ZEN4} amx_bf16 amx_tile"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """machine(flags, architecture): from here on, this machine is such a one."""

    def make(flags: str, architecture: str = "x86_64"):
        info = tmp_path / "cpuinfo"
        info.write_text(f"processor\t: 0\nmodel name\t: Some Processor @ 2.0 GHz\nflags\t\t: {flags}\n")
        monkeypatch.setattr(processor, "Path", lambda path: info)
        monkeypatch.setattr(processor.platform, "machine", lambda: architecture)

    return make


@pytest.mark.parametrize(
    "flags, architecture, expected",
    [
        (SAPPHIRE, "x86_64", "amx"),
        (ZEN4, "x86_64", "avx512-bf16"),
        ("sse2 avx2 avx512f", "x86_64", "avx512"),
        ("sse2 avx2", "x86_64", "avx2"),
        ("sse2", "x86_64", "other"),
        ("", "aarch64", "arm"),
    ],
)
def test_class_by_flags(machine, flags, architecture, expected):
    machine(flags, architecture)
    assert processor.processor_class() == expected
    assert processor.processor_name() == "Some Processor @ 2.0 GHz"


@pytest.mark.parametrize(
    "flags, kind, name, expected",
    [
        (ZEN4, "avx512-bf16", "Some other processor @ 3.1 GHz", True),
        (ZEN4, "avx512-bf16", "Intel(R) Xeon(R) Processor", False),
        (ZEN4, "amx", "Some Processor @ 2.0 GHz", False),
        (SAPPHIRE, "amx", "SOME(R) Processor", True),
        (SAPPHIRE, "avx512-bf16", "Some Processor @ 2.0 GHz", False),
    ],
)
def test_a_kind_is_a_class_and_a_maker(machine, flags, kind, name, expected):
    machine(flags)
    assert (processor.own_kind() == processor.kind_of(kind, name)) is expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no process")
def test_a_pinned_process_starts_others_on_its_cores():
    before = os.sched_getaffinity(0)
    with processor.pinned(1):
        command = [sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))"]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1\n"
    assert os.sched_getaffinity(0) == before
