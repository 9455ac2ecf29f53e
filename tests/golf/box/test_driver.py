"""The GPU's driver in the box: its libraries are found where a machine's maker put them, and a box sees them and
nothing beside them; a box that does not get its GPU is an error.

The driver is a stand-in, built here: a library named libcuda.so.1 whose cuInit() answers, and one beside it that it
loads later by name, as the driver's own compiler is. Not covered: a real driver, its devices, CUDA.
"""

import ctypes
import os
import shutil
import subprocess
import sys

import pytest

from golf import versions
from golf.box import box, driver, packages, trainer, training, visible
from golf.files import Failure
from scoring import passes
from tests.support import light_box
from tests.support.box_walls import take_out

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="builds a library for Linux"),
]

LIBCUDA = """
#include <dlfcn.h>
int cuInit(unsigned flags) { return dlopen("libnvidia-ptxjitcompiler.so.1", RTLD_NOW) ? 0 : 999; }
"""

# What stands for torch: CUDA is there if the driver loads, by its name, and what it loads itself.
TORCH = """
import ctypes
def cuda_error():
    try:
        code = ctypes.CDLL("libcuda.so.1").cuInit(0)
    except OSError:
        return "Found no NVIDIA driver on your system. Please check that."
    return "" if code == 0 else "CUDA error " + str(code)
def init():
    if cuda_error(): raise RuntimeError(cuda_error())
torch.cuda = types.SimpleNamespace(
    is_available=lambda: not cuda_error(), init=init, set_per_process_memory_fraction=lambda share: None
)
"""


def build(source, path):
    command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=source, text=True, check=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """As containers of clouds have it: real files with the driver's version, links with the names that are loaded."""
    path = tmp_path_factory.mktemp("nvidia") / "lib64"
    path.mkdir()
    build(LIBCUDA, path / "libcuda.so.580.95")
    build("int compile(void) { return 1; }", path / "libnvidia-ptxjitcompiler.so.580.95")
    for name in ("libcuda.so", "libnvidia-ptxjitcompiler.so"):
        (path / f"{name}.1").symlink_to(f"{name}.580.95")
    (path / "notes.txt").write_text("what else lies there")
    return path


@pytest.fixture
def named(folder, monkeypatch):
    """The folder stands in LD_LIBRARY_PATH, among others."""
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/nonexistent::lib:{folder}:/usr/lib")


def names(paths):
    return {os.path.basename(path) for path in paths}


def test_the_driver_is_found_where_the_environment_names_it(folder, named):
    found = driver.find()
    ours = {path for path in found.libraries if path.startswith(str(folder))}
    assert names(ours) == {
        "libcuda.so.1",
        "libcuda.so.580.95",
        "libnvidia-ptxjitcompiler.so.1",
        "libnvidia-ptxjitcompiler.so.580.95",
    }
    assert found.folders[0] == str(folder) and "/nonexistent" not in found.folders
    assert found.libcuda == f"{folder}/libcuda.so.1"


def test_the_driver_is_found_where_only_the_loader_knows(folder, monkeypatch, tmp_path):
    """As by a line in /etc/ld.so.conf.d: what was loaded says where it lies, and links beside it are seen too."""
    program = tmp_path / "loads.py"
    program.write_text(f"import ctypes\nctypes.CDLL({str(folder / 'libcuda.so.1')!r})\n{driver.ASK}")
    monkeypatch.setattr(driver, "ASK", program.read_text())
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/nonexistent/{tmp_path.name}")  # no answer of before
    found = driver.find()
    assert names(found.libraries) >= {"libcuda.so.1", "libcuda.so.580.95", "libnvidia-ptxjitcompiler.so.1"}
    assert found.folders == () and found.libcuda == f"{folder}/libcuda.so.1"


def test_a_machine_without_a_driver_has_none(monkeypatch, tmp_path):
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.setattr(driver, "ASK", "print('[]')")
    assert driver.find() == driver.Driver() and driver.find().libcuda == ""


def start(monkeypatch, gpu, script=""):
    """A box with a GPU, whose torch is the stand-in."""
    monkeypatch.setattr(light_box, "TORCH", light_box.TORCH + TORCH)
    with light_box.without_torch():
        submission = box.Submission(light_box.SCRIPT + script, light_box.DECODE, {}, b"", 300)
        return box.Box(submission, threads=1, time_limit=120, gpu=gpu)


LOOKS = """
import ctypes, os
assert ctypes.CDLL("libcuda.so.1").cuInit(0) == 0
def refused(action):
    try:
        action()
    except OSError:
        return
    raise RuntimeError("ESCAPED")
refused(lambda: open({folder!r} + "/notes.txt"))
refused(lambda: open({folder!r} + "/libcuda.so.580.95", "r+b"))
"""
KEEPS_NAMES = """
refused(lambda: open({folder!r} + "/new", "w"))
refused(lambda: os.remove({folder!r} + "/libcuda.so.1"))
"""


@pytest.mark.parametrize("missing", [None, "own root", "Landlock"])
def test_a_box_loads_the_driver_and_cannot_change_it_or_see_what_lies_beside(folder, named, monkeypatch, missing):
    """Also where one of the two walls is all that there is."""
    if missing:
        take_out(monkeypatch, missing)
    running = start(monkeypatch, "0", (LOOKS + KEEPS_NAMES).format(folder=str(folder)))
    try:
        running.load()
        layers = {row["layer"]: row["active"] for row in running.layers}
        assert running.device == "cuda" and running.scope == "document"
        assert layers["own root, read-only"] == (missing != "own root")
    finally:
        running.close()


def test_a_box_without_its_gpu_is_an_error_that_says_why(folder, monkeypatch):
    """As where the driver is not found: before the artifact is decoded, not as a score from the CPU, or a time-out."""
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    if driver.find().libcuda:
        pytest.skip("a driver is here")
    running = start(monkeypatch, "3", "raise RuntimeError('the artifact ran')")
    try:
        with pytest.raises(Failure) as caught:
            running.load()
    finally:
        running.close()
    said = str(caught.value)
    assert said.startswith("the box does not get GPU 3 (Found no NVIDIA driver on your system; the loader finds no ")
    assert said.endswith("score on the CPU with CUDA_VISIBLE_DEVICES= in front of the command") and "\n" not in said


def test_a_box_without_a_gpu_sees_no_driver(named):
    """Nor a machine that has one: on the CPU a box sees code that its packages need, and nothing else."""
    assert names(packages.visible_files(False).paths).isdisjoint(names(driver.find().libraries))
    assert set(driver.find().libraries) <= set(packages.readable(True))


def test_a_box_to_train_in_loads_the_driver_too(folder, named, tmp_path):
    """Here it lies below /tmp, which such a box has in its own memory: names are its own there, files are not."""
    if not all(row["active"] for row in training.layers() if row["needed"]):
        pytest.skip("no box to train in here")
    (tmp_path / "train_gpt.py").write_text(LOOKS.format(folder=str(folder)) + "open('done', 'w').close()\n")
    writable = tmp_path / "out"
    writable.mkdir()
    script = tmp_path / "train_gpt.py"
    process = training.start([str(script)], readable=[script], writable=writable, stderr=subprocess.PIPE)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 0 and (writable / "done").exists(), error


def test_flash_attention_3_may_be_imported_where_it_is_installed(monkeypatch, tmp_path):
    """By the layout of its wheel: a module, and a package with the kernels."""
    about = tmp_path / "flash_attn_3-3.0.0.dist-info"
    for path in (about / "METADATA", about / "RECORD", tmp_path / "flash_attn_3/_C.abi3.so"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    (tmp_path / "flash_attn_interface.py").write_text("")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: flash-attn-3\nVersion: 3.0.0\nRequires-Dist: torch\n")
    (about / "RECORD").write_text("flash_attn_3/_C.abi3.so,,\nflash_attn_interface.py,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(packages, "importable", packages.importable.__wrapped__)
    found = packages.importable()
    assert {"flash_attn_interface", "flash_attn_3", "torch"} <= set(found["names"])
    assert {str(tmp_path / "flash_attn_interface.py"), str(tmp_path / "flash_attn_3")} <= set(packages.readable(True))


def test_devices_are_those_of_gpus(monkeypatch):
    """Whole GPUs, parts of them in a folder, and WSL's; a folder is none."""
    here = {"/dev/nvidia*": ["/dev/nvidia0", "/dev/nvidiactl", "/dev"], "/dev/dxg": ["/dev/dxg"]}
    here["/dev/nvidia-caps/*"] = ["/dev/nvidia-caps/nvidia-cap1"]
    monkeypatch.setattr(visible.glob, "glob", here.__getitem__)
    found = ["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-caps/nvidia-cap1", "/dev/dxg"]
    assert visible.gpu_devices() == found and trainer.visible.gpu_devices is visible.gpu_devices


def test_a_torch_for_cpus_is_scored_on_the_cpu(monkeypatch, tmp_path):
    """Beside a GPU too: it could not use one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    for text, gpus in (
        ("cuda: Optional[str] = None\n", []),
        ("cuda: Optional[str] = '13.0'\n", ["0", "1"]),
        ("", ["0", "1"]),
    ):
        (tmp_path / "version.py").write_text(f"from typing import Optional\n{text}hip: Optional[str] = None\n")
        spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
        monkeypatch.setattr(versions.importlib.util, "find_spec", lambda name, spec=spec: spec)
        versions.torch_has_gpu_code.cache_clear()
        assert passes.gpus() == gpus
    monkeypatch.undo()
    versions.torch_has_gpu_code.cache_clear()
    import torch

    assert versions.torch_has_gpu_code() == (torch.version.cuda is not None)


def test_the_stand_in_is_a_driver_to_ctypes(folder, named):
    """The library itself needs the other one's folder, which this process was not started with."""
    assert ctypes.CDLL(str(folder / "libcuda.so.1")).cuInit(0) == 999
