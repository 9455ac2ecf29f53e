"""What test_kernels.py runs in processes of its own, because Triton reads its switches when it is first imported.

    TRITON_INTERPRET=1 python kernel_checks.py interpret SCRIPT...   # kernels of each script against float64 formulas
    python kernel_checks.py compile SCRIPT     # machine code for sm_90, and what torch.compile sees of the kernels

SCRIPT is train_gpt.py or a changed copy. The last line printed is a JSON object. No GPU is used or needed; races,
occupancy and speed are not seen by either.
"""

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import torch

CAP = 30.0
# rows, vocabulary, type of the logits, their spread, softcap. Odd counts of rows; vocabularies of several whole blocks,
# with a partial one, below one; and a softcap so high that sums come close to the largest float32.
CASES = {
    "V1024": (5, 1024, torch.bfloat16, 8.0, CAP),
    "V8192": (3, 8192, torch.bfloat16, 8.0, CAP),
    "partial": (5, 2500, torch.float32, 8.0, CAP),
    "small": (3, 50, torch.float32, 8.0, 15.0),
    "steep": (3, 1100, torch.float32, 300.0, 40.0),
}
SCALE = 0.7  # the gradient that comes in


def load(path: str, name: str = "script"):
    """The script as a module; while it is imported there seems to be a GPU, so that it defines its kernels."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    with mock.patch("torch.cuda.is_available", lambda: True):
        spec.loader.exec_module(module)
    return module


def inputs(rows: int, V: int, dtype: torch.dtype, spread: float) -> tuple:
    """Logits [rows, V] with rows of extremes, and targets at the edges of blocks."""
    generator = torch.Generator().manual_seed(V)
    z = torch.randn(rows, V, generator=generator) * spread
    z[0] = -1e4  # all of them at the lower end of the softcap
    z[1, V // 2], z[1, 0] = 3e38, -3e38
    z[2] = torch.linspace(-3 * spread, 3 * spread, V)
    targets = torch.randint(0, V, (rows,), generator=generator, dtype=torch.int32)
    targets[:3] = torch.tensor([V - 1, min(1024, V - 1), min(1023, V - 1)])
    return z.to(dtype), targets


def reference(z, targets, cap) -> tuple:
    """Losses, and the gradient of SCALE times their mean, in float64, written out."""
    z = z.double()
    y = cap * torch.tanh(z / cap)
    lse = torch.logsumexp(y, 1)
    hit = torch.arange(z.size(1)) == targets[:, None]
    loss = lse - y[torch.arange(len(z)), targets.long()]
    dz = SCALE / len(z) * (torch.exp(y - lse[:, None]) - hit.double()) / torch.cosh(z / cap) ** 2
    return loss, dz


def excess(got: torch.Tensor, expected: torch.Tensor, relative: float, absolute: float) -> float:
    """Largest error over what is allowed: up to 1 is right; infinite for NaN."""
    ratio = (got.double() - expected).abs() / (relative * expected.abs() + absolute)
    return float(ratio.max()) if bool(ratio.isfinite().all()) else float("inf")


def interpret(path: str) -> dict:
    """Errors of losses and gradients over the tolerance, by case."""
    script, found = load(path), {}
    for case, (rows, V, dtype, spread, cap) in CASES.items():
        z, targets = inputs(rows, V, dtype, spread)
        loss, dz = reference(z, targets, cap)
        leaf = z.clone().requires_grad_()
        mean = script.FusedLoss.apply(leaf, targets, 2 * cap)
        mean.backward(torch.tensor(SCALE))
        each, lse = torch.empty(2, rows)
        script.loss_kernel[(rows,)](z, targets, each, lse, 2 * cap, V, 1024)
        assert mean.dtype == torch.float32 and leaf.grad.dtype == dtype and torch.equal(leaf.detach(), z)
        rounding = 2.0**-7 if dtype == torch.bfloat16 else 1e-6 * cap  # the interpreter cuts bits off
        losses, expected = torch.cat((each, mean.detach()[None])), torch.cat((loss, loss.mean()[None]))
        found[case] = [excess(losses, expected, 1e-6, 1e-6 * cap), excess(leaf.grad, dz, rounding, 1e-6 / rows)]
        if max(found[case]) > 10:
            break
    return found


def machine_code(kernel, types: dict, constants: dict, num_warps: int = 4) -> dict:
    """Compiles a kernel for sm_90, pointers aligned as torch aligns them; what resources() says of it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    source = ASTSource(
        fn=kernel,
        signature={name: "constexpr" if name in constants else types[name] for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if types.get(name, "").startswith("*")},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": num_warps})
    return resources(compiled)


def resources(compiled) -> dict:
    """What a compiled kernel takes of the GPU; Triton itself counts registers only once a driver has loaded it."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage, sass = (
            subprocess.run([tool, flag, file.name], capture_output=True, text=True, check=True).stdout
            for flag in ("-res-usage", "-sass")
        )
    registers, stack = re.search(r"REG:(\d+)\s+STACK:(\d+)", usage).groups()
    return {
        "target": re.search(r"\.target (\w+)", compiled.asm["ptx"])[1],
        "registers": int(registers),
        "stack_bytes": int(stack),
        "spills": len(re.findall(r"\b(?:STL|LDL)\b", sass)),
        "shared_bytes": compiled.metadata.shared,
        "instructions": len(re.findall(r"/\*[0-9a-f]{4}\*/", sass)),
        "loads_of_16_bytes": len(re.findall(r"\bLDG\.E\.128", sass)),
        "stores_of_16_bytes": len(re.findall(r"\bSTG\.E\.128", sass)),
    }


def zeros_for(graph):
    """A stand-in for a compiled graph: zeros of the right shapes, as nothing here could run it."""
    outputs = [node and node.meta["val"] for node in graph.graph.output_node().args[0]]

    def run(*_):
        return [torch.zeros(v.shape, dtype=v.dtype) if isinstance(v, torch.Tensor) else v for v in outputs]

    return run


class Driver:
    """Says what Triton asks of a GPU's driver to translate a kernel: that this is an H100."""

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)


@mock.patch("torch.utils._triton.has_triton", lambda: True)
def graphs(script) -> dict:
    """What AOTAutograd makes of the fused loss behind a matrix product: which arguments each kernel is seen to write,
    and the largest float32 tensor."""
    import triton
    from torch._dynamo.backends.common import aot_autograd

    found = {}

    def record(name):
        def compiler(graph, _):
            values = [node.meta.get("val") for node in graph.graph.nodes]
            calls = [node for node in graph.graph.nodes if "triton_kernel_wrapper" in str(node.target)]
            found[name] = {
                "written": [sorted(node.kwargs["tensors_to_clone"]) for node in calls],
                "float32": max(v.numel() for v in values if isinstance(v, torch.Tensor) and v.dtype == torch.float32),
            }
            return zeros_for(graph)

        return compiler

    def loss(x, w, targets):
        return script.FusedLoss.apply(x @ w, targets, 2 * CAP)

    triton.runtime.driver.set_active(Driver())
    x = torch.randn(64, 32, dtype=torch.bfloat16, requires_grad=True)
    w = torch.randn(32, 2048, dtype=torch.bfloat16, requires_grad=True)
    backend = aot_autograd(fw_compiler=record("forward"), bw_compiler=record("backward"))
    targets = torch.zeros(64, dtype=torch.int32)
    torch.compile(loss, fullgraph=True, dynamic=False, backend=backend)(x, w, targets).backward()
    return found


def compile_all(path: str) -> dict:
    script, found = load(path), {}
    pointers = dict(z_ptr="*bf16", dz_ptr="*bf16", target_ptr="*i32", loss_ptr="*fp32", lse_ptr="*fp32")
    types = pointers | dict(scale_ptr="*fp32")
    for kernel in (script.loss_kernel, script.gradient_kernel):
        for V in (1024, 8192):
            found[f"{kernel.__name__} V{V}"] = machine_code(kernel, types, dict(c=2 * CAP, V=V, BLOCK=1024))
    # so much in so few threads that registers cannot hold it: the limits must notice
    found["too much"] = machine_code(script.loss_kernel, types, dict(c=2 * CAP, V=8192, BLOCK=8192), num_warps=1)
    return {"kernels": found, "graphs": graphs(script)}


if __name__ == "__main__":
    mode, *paths = sys.argv[1:]
    result = {path: interpret(path) for path in paths} if mode == "interpret" else compile_all(*paths)
    print(json.dumps(result))
