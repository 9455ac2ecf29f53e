"""The GPU path of train_gpt.py as far as a machine without GPU can check it.

Triton kernels run in Triton's interpreter against float64 formulas, and a change of one term must be noticed; they are
compiled for sm_90 within limits on registers, spills and shared memory, and so are, in `make test-all`, the kernels
that torch.compile generates. The choice of attention is held against stand-ins of FlashAttention, the sharded step
against one process on a world of eight ranks, and the guard against a simulated GPU. With a GPU, kernels and attention
are also held against plain torch on it. Not covered: speed, races, NCCL. docs/gpu.md lists what a first person with a
GPU should run.
"""

import contextlib
import inspect
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import train_gpt as t
from compress.minify import minify
from tests.support import ROOT
from tests.support.small_models import SMALL, TUNED, rates, run_steps, small_model

pytestmark = pytest.mark.slow

SCRIPT = Path(t.__file__)
CPU = torch.device("cpu")


def checks(cache: Path, *arguments, interpret: bool = False) -> dict:
    pytest.importorskip("triton", reason="Triton has no wheel for this platform")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/support/kernel_checks.py"), *map(str, arguments)],
        env=os.environ | {"TRITON_INTERPRET": str(int(interpret)), "TRITON_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# ------------------------------------------------------------------------------------------------------------- kernels

# one term of a formula, and what it is changed to; by the function that holds it
MUTATIONS = {
    "loss_kernel": [
        ("s), 0.0)", "s), 1.0)"),  # columns beyond V counted
        ("tl.where(j < V, tl.exp(c * s), 0.0)", "tl.exp(c * s)"),
        ("tl.exp(c * s)", "tl.exp(c / 2 * s)"),
        ("sums +=", "sums ="),
        ("at + tl.arange", "tl.arange"),
        ("4 / c * tl.load(z_ptr + i * V + j", "2 / c * tl.load(z_ptr + i * V + j"),
        ("4 / c * tl.load(z_ptr + i * V + tl", "2 / c * tl.load(z_ptr + i * V + tl"),
        ("+ tl.load(target_ptr + i)", "+ tl.load(target_ptr)"),
        ("tl.log(", "("),
        ("lse - c * s)", "lse + c * s)"),
        ("lse - c * s)", "lse - c / 2 * s)"),
        ("tl.store(lse_ptr + i, lse)", "tl.store(lse_ptr + i, lse - c * s)"),
        ("z_ptr + i * V + j", "z_ptr + j"),
    ],
    "gradient_kernel": [
        ("4 / c", "2 / c"),
        ("* 4 * s * (1 - s)", ""),
        ("* 4 * s", "* 2 * s"),
        ("* 4 * s", "* 4"),
        (" * (1 - s)", ""),
        (" - h)", ")"),
        (" - h)", " + h)"),
        ("c * s -", "s -"),
        (" - tl.load(lse_ptr + i)", ""),
        ("tl.load(lse_ptr + i)", "tl.load(lse_ptr)"),
        ("tl.load(target_ptr + i)", "tl.load(target_ptr)"),
        ("tl.load(scale_ptr) * ", ""),
    ],
    "FusedLoss": [
        ("loss.mean()", "loss.sum()"),
        ("scale / len(z)", "scale"),
        ("triton.cdiv(z.size(1), 1024)", "z.size(1) // 1024"),
    ],
}  # fmt: skip


def mutants(source: str) -> dict[str, str]:
    """Copies of the script with one term changed."""
    found, starts = {}, [source.index(f" {name}(") for name in MUTATIONS] + [source.index("\nclass GPT(")]
    for (name, changes), start, end in zip(MUTATIONS.items(), starts, starts[1:]):
        for old, new in changes:
            part = source[start:end]
            assert part.count(old) == 1, f"{name} no longer contains {old!r} once"
            found[f"{name}: {old} -> {new}"] = source[:start] + part.replace(old, new) + source[end:]
    return found


def test_kernels_equal_float64_formulas_and_a_change_of_one_term_shows(tmp_path):
    source = SCRIPT.read_text(encoding="utf-8")
    changed = mutants(source)
    paths = {name: tmp_path / f"{i}.py" for i, name in enumerate(changed)}
    for name, path in paths.items():
        path.write_text(changed[name], encoding="utf-8")
    minified = tmp_path / "minified.py"
    minified.write_text(minify(source), encoding="utf-8")
    found = checks(tmp_path, "interpret", SCRIPT, minified, *paths.values(), interpret=True)
    for path in (SCRIPT, minified):
        right = found[str(path)]
        assert {"V1024", "V8192"} < set(right) and all(max(errors) <= 1 for errors in right.values()), right
    for name, path in paths.items():
        worst = max(max(errors) for errors in found[str(path)].values())
        assert worst > 10, f"{name} goes unnoticed: {found[str(path)]}"


@pytest.mark.long
def test_kernels_compile_for_sm_90_within_limits(tmp_path):
    found = checks(tmp_path, "compile", SCRIPT)
    kernels = found["kernels"]
    crammed = kernels.pop("too much")
    assert crammed["spills"] > 0 and crammed["registers"] > 64, crammed  # the limits can be missed
    assert set(kernels) == {f"{kernel} V{V}" for kernel in ("loss_kernel", "gradient_kernel") for V in (1024, 8192)}
    for name, k in kernels.items():
        assert k["target"].startswith("sm_90"), (name, k)
        # 128 threads of at most 40 registers: 12 programs of 4 warps share a multiprocessor, 75% of its warps
        assert k["spills"] == k["stack_bytes"] == 0 and 0 < k["registers"] <= 40, (name, k)
        assert k["shared_bytes"] <= 256 and k["instructions"] > 50, (name, k)
        assert k["loads_of_16_bytes"] >= 1, (name, k)  # eight bf16 logits per thread at once
        assert k["stores_of_16_bytes"] == name.startswith("gradient"), (name, k)
    # torch.compile sees both kernels and what they write, so that it copies nothing else, and no float32 tensor of
    # rows x V = 64 x 2048 is made
    written = {"forward": [["loss_ptr", "lse_ptr"]], "backward": [["dz_ptr"]]}
    for direction, names in written.items():
        graph = found["graphs"][direction]
        assert graph["written"] == names and graph["float32"] < 64 * 2048, found["graphs"]


@pytest.mark.long
def test_what_inductor_generates_compiles_for_sm_90(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/support/inductor_checks.py")],
        env=os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    kernels = found.pop("kernels")
    best = {name: min(tried, key=lambda k: (k["spills"], k["registers"])) for name, tried in kernels.items()}
    worst = {key: max((k[key], name) for name, k in best.items()) for key in ("registers", "spills", "shared_bytes")}
    print(f"\n{found}, {sum(map(len, kernels.values()))} configurations; most, in the best of each kernel: {worst}")
    assert {"loss_kernel", "gradient_kernel"} < {name.split(" ")[1] for name in kernels}  # the script's own, and more
    for name, k in best.items():
        assert k["target"].startswith("sm_90") and k["shared_bytes"] <= 227 * 1024, (name, k)
    # two of 94 have one configuration each, and that spills a little: 2 and 47 instructions
    spilling = {name: k for name, k in best.items() if k["spills"]}
    assert len(spilling) <= 2 and sum(k["spills"] for k in spilling.values()) <= 64, spilling


@pytest.mark.parametrize(
    "before", ["", "sys.modules['triton'] = None; torch.cuda.is_available = lambda: True"], ids=["no GPU", "no Triton"]
)
def test_without_a_gpu_or_triton_the_script_uses_torch_and_says_nothing(before):
    code = (
        f"import sys, torch; torch.cuda.is_available = lambda: False; {before}\n"
        "import train_gpt; assert train_gpt.triton is None and not hasattr(train_gpt, 'FusedLoss')\n"
        "assert sys.modules.get('triton') is None"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parent, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr


# ----------------------------------------------------------------------------------------------------------- attention


def pretend_flash(monkeypatch, broken=(), wrong=()) -> list[str]:
    """Stands in for FlashAttentions, which torch activates by name; the list returned says what is active."""
    from torch.nn import attention

    active = []

    def register(name):
        if name in broken:
            raise ModuleNotFoundError("No module named 'flash'")
        active.append(name)
        return SimpleNamespace(remove=active.clear)

    def attend(q, k, v, documents):
        """As torch's: rows are cut by documents, and gradients reach all three."""
        if active and active[-1] in wrong:
            raise RuntimeError("no kernel image is available\nfor this GPU")
        assert documents.tolist() == [0, 50, 128] and documents.dtype == torch.int32
        assert (q.shape, k.shape, v.shape) == ((1, 4, 128, 16), (1, 2, 128, 16), (1, 2, 128, 16))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    monkeypatch.setattr(t, "attend", attend)
    for name in ("FA3", "FA4"):
        monkeypatch.setitem(attention._registry._FLASH_ATTENTION_IMPLS, name, lambda name=name: register(name))
    return active


@pytest.mark.parametrize(
    "broken, wrong, chosen",
    [
        ((), (), "FA3"),
        (("FA3",), (), "FA4"),
        ((), ("FA3",), "FA4"),
        (
            ("FA3",),
            ("FA4",),
            "torch's own attention, no FA3: ModuleNotFoundError(\"No module named 'flash'\"), no FA4: Runt",
        ),
        (("FA3", "FA4"), (), "torch's own attention, no FA3: ModuleNotFoundError("),
    ],
)
def test_attention_takes_the_first_that_is_installed_and_runs(monkeypatch, broken, wrong, chosen):
    active, randn, tensor = pretend_flash(monkeypatch, broken, wrong), torch.randn, torch.tensor
    monkeypatch.setattr(torch, "randn", lambda *shape, device, **kind: randn(*shape, **kind))
    monkeypatch.setattr(torch, "tensor", lambda values, device, **kind: tensor(values, **kind))
    config = replace(t.Config(), model_dim=64, num_heads=4, num_kv_heads=2)
    try:
        said = t.choose_attention(config, torch.device("cuda"))
        assert said.startswith(chosen) and (said == chosen or "torch's" in chosen) and "\n" not in said
        assert active == ([chosen] if chosen in ("FA3", "FA4") else [])
        assert torch.backends.cuda.cudnn_sdp_enabled() == ("torch's" in chosen)
    finally:
        torch.nn.attention.restore_flash_attention_impl(False)
        torch.backends.cuda.enable_cudnn_sdp(True)


def test_without_flash_attention_torchs_own_is_tried_too(monkeypatch):
    """Found out before anything is compiled; a run that cuts no rows does without."""
    pretend_flash(monkeypatch, broken=("FA3", "FA4"))
    randn, tensor = torch.randn, torch.tensor
    monkeypatch.setattr(torch, "randn", lambda *shape, device, **kind: randn(*shape, **kind))
    monkeypatch.setattr(torch, "tensor", lambda values, device, **kind: tensor(values, **kind))
    monkeypatch.setattr(t, "attend", lambda *_: 1 / 0)
    config = replace(t.Config(), model_dim=64, num_heads=4, num_kv_heads=2)
    with pytest.raises(t.RunError, match=r"torch's own attention, no FA3.*which fails: ZeroDiv.*--document_mask=false"):
        t.choose_attention(config, torch.device("cuda"))
    assert t.choose_attention(replace(config, document_mask=False), torch.device("cuda")).startswith("torch's own")


def varlen_of_2_11(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
    """varlen_attn with the arguments that it has up to torch 2.12: groups of heads are seen from the shapes."""
    assert cu_seq_q is cu_seq_k and max_q == max_k and window_size == (-1, 0)
    documents = torch.bucketize(torch.arange(len(query)), cu_seq_q, right=True)
    mask = (documents[:, None] == documents).tril()
    heads = [x.transpose(0, 1)[None] for x in (query, key, value)]
    return F.scaled_dot_product_attention(*heads, attn_mask=mask, enable_gqa=True)[0].transpose(0, 1)


def varlen_of_2_13(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1),
                   enable_gqa=False, seqused_k=None, block_table=None, num_splits=None):  # fmt: skip
    """As from torch 2.13 on: groups of heads must be allowed."""
    if not enable_gqa and query.size(1) != key.size(1):
        raise ValueError("Grouped query attention needs enable_gqa=True")
    return varlen_of_2_11(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, window_size=window_size)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "traced"])
@pytest.mark.parametrize("varlen", [varlen_of_2_11, varlen_of_2_13])
def test_attention_by_documents_fits_what_the_installed_torch_takes(monkeypatch, varlen, compiled):
    """Against a mask; traced whole, as torch.compile does it for training."""
    import torch.nn.attention.varlen

    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", varlen)
    torch.manual_seed(0)
    tokens = torch.where(torch.rand(2, 32) < 0.1, t.BOS, 7)
    q, k, v = (torch.randn(2, heads, 32, 8) for heads in (4, 2, 2))
    attend = torch.compile(t.attend, backend="eager", fullgraph=True) if compiled else t.attend
    found = attend(q, k, v, t.document_bounds(tokens, 40))
    assert (found - t.attend(q, k, v, t.document_mask(tokens))).abs().max() < 0.03  # bfloat16


def test_the_installed_varlen_attn_takes_the_arguments_it_is_given():
    from torch.nn.attention.varlen import varlen_attn

    parameters = inspect.signature(varlen_attn).parameters
    assert list(parameters)[:7] == list(inspect.signature(varlen_of_2_11).parameters)[:7]
    assert "window_size" in parameters
    # The script looks among the defaults of keywords: the packer would keep every name for what `inspect` may read
    assert ("enable_gqa" in parameters) == ("enable_gqa" in varlen_attn.__kwdefaults__)


@pytest.mark.parametrize("preset, seq_len", [("pocket", 512), ("pocket", 2048), ("16mb", 512)])
def test_what_the_log_calls_attention_on_a_cpu_is_what_trains(monkeypatch, preset, seq_len):
    called = []
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for owner, name in ((t, "attend_in_blocks"), (F, "scaled_dot_product_attention")):
        monkeypatch.setattr(owner, name, lambda q, *_, name=name, **__: called.append(name) or q)
    config = replace(t.parse_config([f"--preset={preset}", f"--seq_len={seq_len}"], {}), num_layers=1, model_dim=16,
                     parallel_start=0, loops=0, rope_dims=0, attn_gate=0, smear_gate=0, num_heads=2, num_kv_heads=1,
                     vocab_size=32)  # fmt: skip
    tokens = torch.full((1, seq_len), 5)
    t.build_model(config).loss(tokens, tokens)
    assert called == [t.choose_attention(config, CPU)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_loss_and_attention_equal_plain_torch():
    config = t.Config()
    device, said = torch.device("cuda"), t.choose_attention(config, torch.device("cuda"))
    torch.manual_seed(0)
    z, targets = torch.randn(500, 8192, device=device).mul(20).bfloat16(), torch.randint(0, 8192, (500,), device=device)
    tokens = torch.where(torch.rand(3, 512, device=device) < 0.01, t.BOS, 7)
    qkv = torch.randn(3, 16, 512, 64, device=device, dtype=torch.bfloat16)
    results = []
    for dtype, documents in ((torch.float32, t.document_mask(tokens)), (torch.bfloat16, t.document_bounds(tokens, 60))):
        logits, heads = (x.to(dtype, copy=True).requires_grad_() for x in (z, qkv))
        if dtype == torch.float32:
            loss = F.cross_entropy(30 * torch.tanh(logits / 30), targets)
        else:
            loss = t.FusedLoss.apply(logits, targets.int(), 60.0)
        out = t.attend(*heads.split((8, 4, 4), 1), documents)
        results.append([loss, out, *torch.autograd.grad(loss * 1e3 + (out.float() ** 2).sum(), (logits, heads))])
    for name, a, b in zip(("loss", "attention", "loss's gradient", "attention's gradient"), *results):
        worst = float((a - b.float()).abs().max() / a.abs().max())
        print(f"{name}: largest error {worst:.4f} of the largest value; {said}")
        assert worst < 0.02, (name, worst, said)


# ------------------------------------------------------------------------------------------- the step, on several ranks


@contextlib.contextmanager
def fake_world(rank: int, world: int):
    """A process group of `world` ranks that moves nothing: shapes, order and host reads can be seen on one."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def test_the_16mb_step_reads_nothing_on_the_host():
    """The whole step of one of eight ranks on fake tensors of the real shapes: any read of a value would raise."""
    config = replace(t.parse_config(["--preset=16mb"], {}), compile=False)
    rows = config.micro_batch_tokens // config.seq_len
    with fake_world(5, 8), FakeTensorMode():
        model = t.build_model(config)
        optimizers = t.Optimizers(model, config, torch.bfloat16, 8, 5)
        data, starts = torch.zeros(10**8, dtype=torch.int16), torch.zeros(10**5, dtype=torch.int64)
        x, y = t.cut_rows(data, starts, starts, torch.zeros((), dtype=torch.int64), rows, config.seq_len)
        assert t.document_bounds(x, 4 * rows).shape == (4 * rows + 1,)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model.loss(x, y)
        loss.backward()
        optimizers.step(rates(config, 3, 0.5))
        assert x.shape == (rows, config.seq_len) and loss.shape == () and loss.dtype == torch.float32
        with pytest.raises(DataDependentOutputException):
            float(loss.detach())
    owned = sum(b.numel() for b in optimizers.muon.momentum)
    matrices = sum(p.numel() for n, p in model.named_parameters() if n.startswith("blocks.") and n.endswith(".weight"))
    assert matrices / 8 <= owned < matrices / 4  # a rank's share, with padding


def test_sums_travel_while_matrices_are_computed(monkeypatch):
    """All gradients are on their way before the first is awaited, and updates leave as soon as they are computed."""
    events = []

    class Work:
        def wait(self):
            events.append("wait")

    def send(word):
        return lambda *_, async_op=False, **__: events.append(word) or (Work() if async_op else None)

    def compute(g, iterations, coefficients):
        events.append("compute")
        return g

    monkeypatch.setattr(dist, "all_reduce", send("sum"))
    monkeypatch.setattr(dist, "reduce_scatter_tensor", send("reduce"))
    monkeypatch.setattr(dist, "all_gather_into_tensor", send("gather"))
    monkeypatch.setattr(t, "newton_schulz", compute)
    model = small_model(dtype=torch.float32)
    optimizers = t.Optimizers(model, SMALL, torch.float32, 2, 0)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizers.step(rates(SMALL, 3, 0.5))
    banks = len(optimizers.muon.banks)
    assert banks == 4
    muon = ["reduce"] * banks + ["wait", "compute", "gather"] * banks + ["wait"] * banks
    assert events == ["sum", *muon, "wait"]


def on_threads(world: int, work) -> list:
    """work(rank) on `world` threads whose collectives are real; its results in the order of ranks."""
    from torch.testing._internal.distributed import multi_threaded_pg as threaded

    results, store = [None] * world, dist.HashStore()

    def main(rank):
        try:
            dist.init_process_group("threaded", rank=rank, world_size=world, store=store)
            results[rank] = work(rank)
        except BaseException as error:
            results[rank] = error
            threaded.ProcessLocalGroup.exception_handle(error)

    threaded._install_threaded_pg()
    torch._C._distributed_c10d._set_thread_isolation_mode(True)
    try:
        threads = [threading.Thread(target=main, args=(rank,), daemon=True) for rank in range(world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    finally:
        threaded.ProcessLocalGroup.reset()
        torch._C._distributed_c10d._set_thread_isolation_mode(False)
        threaded._uninstall_threaded_pg()
    for result in results:
        if result is None or isinstance(result, BaseException):
            raise AssertionError(f"a rank did not finish: {results}")
    return results


def test_eight_ranks_update_like_one_process():
    """Banks of 3 and of 6 matrices on 8 ranks: some own one, some own only padding."""
    alone, _ = run_steps(TUNED, 1, 0, of=8)
    models = [small_model(TUNED, dtype=torch.float32) for _ in range(8)]  # threads would share the random state
    ranks = on_threads(8, lambda rank: run_steps(TUNED, 8, rank, model=models[rank]))
    for weights, _ in ranks:
        for name, value in alone.items():
            assert torch.equal(weights[name], ranks[0][0][name])
            torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-5)


# ----------------------------------------------------------------------------------------------- the clock, with a GPU


class Simulation:
    """A host and the GPU that it feeds, in simulated seconds: launching is quick, work is done in order."""

    LAUNCH = 0.001

    def __init__(self):
        self.now = self.busy_until = self.idle = 0.0

    def launch(self, duration: float):
        self.now += self.LAUNCH
        self.idle += max(0.0, self.now - self.busy_until)
        self.busy_until = max(self.now, self.busy_until) + duration

    def record_event(self):
        at = self.busy_until
        return SimpleNamespace(synchronize=lambda: setattr(self, "now", max(self.now, at)))


@contextlib.contextmanager
def simulated(find):
    """The clock's time and CUDA calls go to find(), the simulation of the thread that asks."""
    patch = pytest.MonkeyPatch()
    patch.setattr(t.time, "perf_counter", lambda: find().now)
    patch.setattr(torch.cuda, "current_stream", lambda: find())
    try:
        yield
    finally:
        patch.undo()


def simulated_run(clock, simulation, durations) -> int:
    """Steps of Run.loop until the guard says stop; the number of steps that were launched."""
    clock.start()
    for step, duration in enumerate(durations, 1):
        simulation.launch(duration)
        clock.tick()
        if clock.verdict(t.Progress(step), 0):
            break
    clock.tick()  # as Run.loop does at the end
    return step


@settings(max_examples=150)
@given(
    st.floats(0.02, 0.5),
    st.lists(st.floats(0.95, 1.04), min_size=1, max_size=12),
    st.floats(1.0, 12.0),
    st.floats(0.0, 0.5),
)
def test_the_guard_leaves_room_for_the_steps_under_way_on_a_gpu(typical, ratios, cap, reserve):
    """If no step is over 10% slower than another, training ends before cap - reserve, with no more than two such
    steps to spare; every step is counted; and the GPU never waits for the host after the first step."""
    durations = [typical * ratios[i % len(ratios)] for i in range(1000)]
    simulation = Simulation()
    clock = t.Clock(t.Config(max_seconds=cap), 1, torch.device("cuda"))
    clock.reserve = reserve
    with simulated(lambda: simulation):
        steps = simulated_run(clock, simulation, durations)
    end = simulation.busy_until
    assert steps < 1000 and clock.elapsed == pytest.approx(end)
    assert end <= cap - reserve or steps == 1
    assert end + 2.2 * max(durations) + 0.01 > cap - reserve
    assert simulation.idle <= 2.5 * simulation.LAUNCH


def test_pauses_of_the_clock_are_not_counted_and_lose_no_step():
    simulation = Simulation()
    clock = t.Clock(t.Config(max_seconds=100.0), 1, torch.device("cuda"))
    with simulated(lambda: simulation):
        clock.start()
        for step in range(1, 10):
            simulation.launch(1.0)
            clock.tick()
            if step % 3 == 0:  # as Run.loop does around an estimate
                clock.tick()
                assert clock.elapsed == pytest.approx(step, rel=0.01)
                simulation.now += 50.0
                clock.start()


def test_ranks_of_a_simulated_gpu_machine_stop_at_the_same_step():
    """One rank of eight is slow: all follow its clock, and it does not overrun either."""
    local, ends = threading.local(), {}

    def work(rank):
        local.simulation = Simulation()
        clock = t.Clock(t.Config(max_seconds=10.0), 8, torch.device("cuda"))
        steps = simulated_run(clock, local.simulation, [0.1 + 0.1 * (rank == 3)] * 200)
        ends[rank] = local.simulation.busy_until
        return steps, clock.elapsed, clock.step_seconds

    with simulated(lambda: local.simulation):
        results = on_threads(8, work)
    assert len(set(results)) == 1, results
    steps, elapsed, _ = results[0]
    assert 46 <= steps <= 49 and elapsed == pytest.approx(ends[3]) and ends[3] <= 10.0
