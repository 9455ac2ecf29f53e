"""Compiles for sm_90, without a GPU, the kernels that torch.compile generates for a training step of the 16mb preset.

    python tests/support/inductor_checks.py

GPT.loss, forward and backward, goes under CUDA's autocast through Dynamo, AOTAutograd and Inductor on fake CUDA
tensors: rows, widths and techniques of the preset, and a layer of each kind, as layers of a kind repeat the same code.
Each Triton kernel in the result, the script's own too, is compiled in each configuration that Inductor would time on an
H100. The last line printed is a JSON object with what they take of the GPU. It leans on private parts of torch: exit
status 1, and one line on standard error, where the versions are not those it was written for. Not covered: numbers,
speed, which configuration wins and what Inductor derives from it, products of matrices and attention (other people's
kernels), the optimiser, the stage without loops, constants of the layers left out.
"""

import ctypes
import functools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

PINNED = {"torch": "2.13.0+cpu", "triton": "3.7.1"}
# seven passes through six layers, where the preset makes 17 through 11; among them are all kinds that it has: passed
# once and again, before the skips, between them, behind them with one lane and with two
LAYERS = dict(num_layers=6, loops=1, loop_first=1, loop_last=1, parallel_start=4)

# What torch asks of CUDA before it lets autograd run on (fake) CUDA tensors; a build for CPUs has neither
GUARD = """
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
constexpr auto CUDA = c10::DeviceType::CUDA;
struct Guard final : c10::impl::NoOpDeviceGuardImpl<CUDA> {
  c10::Device getDevice() const override { return {CUDA, 0}; }
  c10::Device exchangeDevice(c10::Device) const override { return {CUDA, 0}; }
  c10::Stream getStream(c10::Device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, {CUDA, 0}); }
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard)
struct CUDAHooks final : at::CUDAHooksInterface {
  CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex current_device() const override { return 0; }
};
namespace at { REGISTER_CUDA_HOOKS(CUDAHooks) }
"""
H100 = SimpleNamespace(
    name="NVIDIA H100 80GB HBM3", major=9, minor=0, multi_processor_count=132, warp_size=32, total_memory=80 << 30,
    regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, max_threads_per_block=1024,
    shared_memory_per_block=49152, shared_memory_per_block_optin=232448, shared_memory_per_multiprocessor=233472,
    L2_cache_size=50 << 20, is_integrated=0, gcnArchName="",
)  # fmt: skip


def pretend_h100(folder: Path):
    """From here on torch, and what imports it, finds an H100 on which nothing can run."""
    root, library = Path(find_spec("torch").origin).parent, folder / "guard.so"
    options = ["-std=c++20", "-shared", "-fPIC", f"-I{root}/include", f"-L{root}/lib", f"-Wl,-rpath,{root}/lib"]
    command = ["g++", *options, "-x", "c++", "-", "-lc10", "-ltorch_cpu", "-o", library]
    subprocess.run(command, input=GUARD, text=True, check=True)
    ctypes.CDLL(str(library))  # before torch, which looks for hooks once while it is imported
    import torch

    torch.version.cuda = "13.0"
    torch._C._cuda_getCurrentRawStream = lambda device: 0
    answers = dict(
        is_available=True, is_initialized=True, device_count=1, current_device=0, get_device_properties=H100,
        get_device_capability=(9, 0), get_device_name=H100.name, _exchange_device=0, _maybe_exchange_device=0,
        set_device=None, synchronize=None, get_rng_state=torch.empty(0), set_rng_state=None, _lazy_init=None,
    )  # fmt: skip
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)


def generated(script) -> dict[str, str]:
    """The source text of each kernel of a step: its name."""
    import torch
    from functorch.compile import make_boxed_func
    from torch._inductor.async_compile import AsyncCompile
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner
    from torch._inductor.fx_passes.joint_graph import UniformValueConstantFolder
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._pytree import tree_map_only

    FakeTensorMode.avoid_device_init = True  # or torch.tensor() would ask the GPU for memory
    found, fake = {}, FakeTensorMode()
    AsyncCompile.triton = lambda self, name, source, device_str: found.setdefault(source, name)

    def inner_compile(graph, inputs, **options):
        """Inductor's last step, and in place of what it returns, as nothing can run: results of the right shapes."""
        results = [node and node.meta["val"] for node in graph.graph.output_node().args[0]]

        def run(*_):
            with fake:
                return tree_map_only(
                    torch.Tensor,
                    lambda v: torch.empty_strided(v.shape, v.stride(), dtype=v.dtype, device=v.device),
                    results,
                )

        compile_fx_inner(graph, inputs, **options)
        return make_boxed_func(run)

    def fold(self, node):
        """A graph's constants are found by running what makes them: here, on the CPU."""
        options = node.kwargs
        node.kwargs = {k: "cpu" if k == "device" else v for k, v in options.items()}
        value = deduce(self, node)
        node.kwargs = options
        return value

    deduce, UniformValueConstantFolder._deduce_value = UniformValueConstantFolder._deduce_value, fold
    config = replace(script.parse_config(["--preset=16mb"], {}), **LAYERS)
    stage = script.stages(config, 8)[-1]
    with fake, torch.device("cuda"):
        model = script.build_model(config)
        window = torch.zeros(stage.rows, config.seq_len + 1, dtype=torch.int32)
    backend = functools.partial(compile_fx, inner_compile=inner_compile)
    loss = torch.compile(model.loss, dynamic=False, fullgraph=True, backend=backend)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        value = loss(window[:, :-1], window[:, 1:])
    value.backward()
    return found


def compiled(source: str, name: str) -> list[dict]:
    """What a kernel takes of the GPU, by configuration."""
    from kernel_checks import resources
    from torch._inductor.codecache import PyCodeCache

    kernel, found = getattr(PyCodeCache.load(source), name), []
    for config in kernel.configs:
        used = resources(kernel._precompile_config(config).kernel)
        keys = "target", "registers", "spills", "stack_bytes", "shared_bytes"
        found.append({"config": str(config)} | {key: used[key] for key in keys})
    return found


def check(folder: Path) -> dict:
    start = time.perf_counter()
    pretend_h100(folder)
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import triton
    from kernel_checks import Driver
    from torch._inductor import config
    from torch._inductor.runtime import triton_helpers

    import train_gpt

    triton.runtime.driver.set_active(Driver())
    triton_helpers.set_driver_to_gpu = lambda: None  # it would look for a real one
    config.force_disable_caches, config.compile_threads, config.use_static_triton_launcher = True, 1, False
    config.shape_padding = False  # it would time products of matrices; an H100 pads none of these
    sources = generated(train_gpt)
    traced = time.perf_counter()
    kernels = {f"{i} {name}": compiled(source, name) for i, (source, name) in enumerate(sources.items())}
    seconds = {"generate": round(traced - start), "compile": round(time.perf_counter() - traced)}
    return {"versions": PINNED, "layers": LAYERS, "seconds": seconds, "count": len(kernels), "kernels": kernels}


def main() -> int:
    here = {name: version(name) if find_spec(name) else None for name in PINNED}
    if here != PINNED:
        print(f"inductor_checks.py: needs {PINNED}, found {here}", file=sys.stderr)
        return 1
    if not shutil.which("g++"):
        print("inductor_checks.py: no g++, which builds the pretended GPU: install it", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(check(Path(folder))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
