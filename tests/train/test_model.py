"""The model of train_gpt.py against a naive float64 model, Muon against SVD and against one process, second moments
against explicit sums. Not covered here: whole runs (test_train_run.py)."""

import cmath
import functools
import importlib.util
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import train_gpt as t
from tests.support.small_models import (
    ALL,
    PLAIN,
    SMALL,
    TUNED,
    VARIANTS,
    packed_tokens,
    rates,
    run_steps,
    small_model,
)
from tests.support.small_runs import two_ranks


@functools.cache
def rope_matrix(position, width, dims, base):
    """A rotation of pairs (i, i + dims/2) as complex numbers by position * base^(-2i/dims), the rest left alone."""
    columns = []
    for vector in torch.eye(width, dtype=torch.float64).tolist():
        turned = [
            complex(vector[i], vector[i + dims // 2]) * cmath.exp(-1j * position * base ** (-2 * i / dims))
            for i in range(dims // 2)
        ]
        columns.append([z.real for z in turned] + [z.imag for z in turned] + vector[dims:])
    return torch.tensor(columns, dtype=torch.float64).T


def naive_loss(weights, c, tokens, targets):
    """The forward pass as docs and papers state it, in float64: one token, one head and one document row at a time."""

    def rms(x):
        return x / torch.sqrt((x * x).mean() + torch.finfo(torch.float64).eps)

    def sigmoid(x):
        return 1 / (1 + torch.exp(-x))

    K, group = c.model_dim // c.num_heads, c.num_heads // c.num_kv_heads
    H, G, L, rope = c.num_heads, c.num_kv_heads, c.num_layers, c.rope_dims or c.model_dim // c.num_heads
    order = list(range(L))
    for _ in range(c.loops):
        order[c.loop_last + 1 : c.loop_last + 1] = range(c.loop_first, c.loop_last + 1)
    half, total = len(order) // 2, 0.0
    for row, goal in zip(tokens.tolist(), targets.tolist()):
        x = [weights["embed.weight"][token] for token in row]
        first = [max(j for j in range(i + 1) if j == 0 or row[j] == t.BOS) for i in range(len(row))]  # of its document
        if c.smear_gate:
            raw = list(x)
            for i in range(len(row)):
                if i > first[i]:
                    gate = sigmoid(weights["smear"][0] @ raw[i][: c.smear_gate])
                    x[i] = raw[i] + weights["smear_scale"] * gate * raw[i - 1]
        x = x0 = [rms(a) for a in x]
        lane, saved = None, []
        for place, layer in enumerate(order):
            w = {k.removeprefix(f"blocks.{layer}."): v for k, v in weights.items() if k.startswith(f"blocks.{layer}.")}
            if c.parallel_start and layer >= c.parallel_start and lane is None:
                lane = x
            if place >= len(order) - half:
                source = saved.pop()
                back = [weights["skip"][len(saved)] * b for b in source]
                if c.gated_skips:
                    g = sigmoid(weights["skip_gate"][len(saved)])
                    x = [g * a + (1 - g) * b for a, b in zip(x, back)]
                else:
                    x = [a + b for a, b in zip(x, back)]
            mixed = [w["mix"][0] * a + w["mix"][1] * b for a, b in zip(x, x0)]
            scale = 1 / math.sqrt(layer + 1) if c.ln_scale else 1
            read = [rms(a) * scale for a in mixed]
            heads = [(w["attn.qkv.weight"] @ a).view(-1, K) for a in read]
            values = [a[H + G :] for a in heads]
            attention = []
            for i in range(len(row)):
                out, start = [], first[i] if c.document_mask else 0
                for h in range(H):
                    q = rope_matrix(i, K, rope, c.rope_base) @ rms(heads[i][h]) * w["attn.gain"][h]
                    keys = [
                        rope_matrix(j, K, rope, c.rope_base) @ rms(heads[j][H + h // group])
                        for j in range(start, i + 1)
                    ]
                    p = torch.softmax(torch.stack([q @ k for k in keys]) / math.sqrt(K), 0)
                    y = sum(p[j - start] * values[j][h // group] for j in range(start, i + 1))
                    if c.xsa:
                        own = values[i][h // group] / values[i][h // group].norm()
                        y = y - (y @ own) * own
                    if c.attn_gate:
                        y = y * sigmoid(0.5 * (w["attn.gate"][h] @ read[i][: c.attn_gate]))
                    out.append(y)
                attention.append(w["attn_gain"] * (w["attn.proj.weight"] @ torch.cat(out)))

            def mlp(a):
                u = w["mlp.up.weight"] @ (rms(a) * scale)
                return w["mlp_gain"] * (w["mlp.down.weight"] @ torch.where(u > 0, u, c.leaky_slope * u) ** 2)

            if lane is None:
                x = [a + b for a, b in zip(mixed, attention)]
                x = [a + mlp(a) for a in x]
            else:
                r, wide = w["route"], [mlp(a) for a in lane]
                x, lane = (
                    [r[j][0] * a + r[j][1] * b + r[j][2] * d for a, b, d in zip(old, attention, wide)]
                    for j, old in ((0, x), (1, lane))
                )
            if place < half:
                saved.append(x)
        if lane is not None:
            x = [(a + b) / 2 for a, b in zip(x, lane)]
        for a, y in zip(x, goal):
            z = c.logit_softcap * torch.tanh(weights["embed.weight"] @ rms(a) / c.logit_softcap)
            total = total + torch.logsumexp(z, 0) - z[y]
    return total / targets.numel()


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_loss_and_gradients_equal_a_naive_model(name):
    config = replace(SMALL, **VARIANTS[name])
    model = small_model(config)
    tokens, targets = packed_tokens(2, 7), packed_tokens(2, 7, seed=1)
    loss = model.loss(tokens, targets)
    loss.backward()
    weights = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    reference = naive_loss(weights, config, tokens, targets)
    reference.backward()
    assert abs(loss.item() - reference.item()) < 1e-9
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, weights[name].grad, rtol=1e-6, atol=1e-9, msg=lambda m: f"{name}: {m}")


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_read_neither_the_future_nor_another_document(name):
    """A changed token moves its own logits, nothing before it and, with the mask, nothing in another document."""
    model = small_model(replace(SMALL, **VARIANTS[name] | {"document_mask": True}))
    tokens = packed_tokens(2, 12)
    logits = model(tokens)
    for position in (*range(1, 6), *range(8, 12)):  # not a BOS
        changed = tokens.clone()
        changed[:, position] = 2 + (changed[:, position] - 1) % (SMALL.vocab_size - 2)
        moved = (model(changed) - logits).abs().amax(2)
        assert torch.all(moved[:, :position] == 0) and torch.all(moved[:, position] > 0)
        if position < 6:
            assert torch.all(moved[:, 6:] < 1e-12) and torch.all(moved[:, position:6] > 0)
    plain = small_model(replace(SMALL, **VARIANTS[name] | {"document_mask": False}))
    moved = (plain(changed) - plain(tokens)).abs().amax(2)
    assert torch.equal(plain.eval()(tokens), model.eval()(tokens))  # where a row is one document no mask is needed
    assert torch.all(moved[:, :11] == 0)


def test_segments_of_packed_rows_are_those_of_a_naive_search(monkeypatch):
    """The kernel for variable lengths gets the same documents as the dense mask, and gives the same attention."""
    tokens = packed_tokens(3, 256)
    tokens[1, [5, 6, 7, 8, 9]] = t.BOS
    limit = 9
    cuts = t.document_bounds(tokens, limit).tolist()
    naive = sorted({i for i, token in enumerate(tokens.flatten().tolist()) if token == t.BOS or i % 256 == 0})
    assert len(naive) > limit and len(cuts) == limit + 1 and cuts[-1] == 768  # overfull: what was dropped is interior
    assert set(cuts) <= set(naive) | {768} and {0, 256, 512} <= set(cuts)
    tokens = packed_tokens(2, 256)
    cuts = t.document_bounds(tokens, 6)
    assert cuts.tolist() == [0, 128, 256, 384, 385, 512, 512] and cuts.dtype == torch.int32

    def naive_varlen(q, k, v, starts, _, longest, __, *, window_size, enable_gqa=False):
        assert window_size == (-1, 0) and enable_gqa and longest == 256
        out = torch.zeros_like(q)
        for low, high in zip(starts.tolist(), starts.tolist()[1:]):
            if high > low:
                part = [x[low:high].transpose(0, 1)[None] for x in (q, k, v)]
                y = torch.nn.functional.scaled_dot_product_attention(*part, is_causal=True, enable_gqa=True)
                out[low:high] = y[0].transpose(0, 1)
        return out

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", naive_varlen)
    q, k, v = (torch.randn(2, n, 256, 4, dtype=torch.float64) for n in (4, 2, 2))
    masked = t.attend(q, k, v, t.document_mask(tokens))
    torch.testing.assert_close(t.attend(q, k, v, cuts), masked, rtol=0, atol=0.03)  # these kernels take halves only
    assert (t.attend(q, k, v, None) - masked).abs().max() > 0.3


def test_without_techniques_the_model_trains_like_record_0001(monkeypatch):
    """Up to rounding: the script of the record and this one give the same losses."""
    path = Path(t.__file__).parent / "records/pocket/0001_baseline/train_gpt.py"
    spec = importlib.util.spec_from_file_location("record_0001", path)
    record = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "record_0001", record)  # dataclasses look the module up
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a record's folder holds its own files alone
    spec.loader.exec_module(record)
    losses = []
    for script, plain in ((record, {}), (t, PLAIN)):
        changes = {k: v for k, v in record.POCKET.items() if k != "num_layers"} | dict(num_layers=3, compile=False)
        config = replace(script.Config(), **plain | changes)
        torch.manual_seed(config.seed)
        model = script.build_model(config)
        optimizers = script.Optimizers(model, config, torch.float32, 1, 0)
        generator, found = torch.Generator().manual_seed(3), []
        for step in range(3):
            tokens = torch.randint(0, config.vocab_size, (2, 65), generator=generator)
            loss = model.loss(tokens[:, :-1], tokens[:, 1:])
            loss.backward()
            if script is record:
                optimizers.step(step, 0.9)
            else:
                optimizers.step(rates(config, step, 0.9))
            found.append(loss.item())
        losses.append(found)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5) and len(set(losses[0])) == 3


@pytest.mark.parametrize("T", [1, 64, 96, 256, 512])
def test_attention_in_blocks_is_attention(T):
    """Value and gradients against torch's; 96 is one block, since it is no power of two."""
    torch.manual_seed(T)
    inputs = [torch.randn(2, heads, T, 8, dtype=torch.float64, requires_grad=True) for heads in (6, 2, 2)]
    reference = torch.nn.functional.scaled_dot_product_attention(*inputs, is_causal=True, enable_gqa=True)
    blocks, g = t.attend_in_blocks(*inputs), torch.randn_like(reference)
    torch.testing.assert_close(blocks, reference)
    for ours, theirs in zip(torch.autograd.grad(blocks, inputs, g), torch.autograd.grad(reference, inputs, g)):
        torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        torch.testing.assert_close(t.attend(*inputs, None), reference)


def test_scores_cannot_overflow_where_no_maximum_is_subtracted():
    model = small_model(dtype=torch.float32)
    tokens = torch.randint(0, SMALL.vocab_size, (2, 9))
    for gain in (1e4, -1e4):
        for block in model.blocks:
            block.attn.gain.data.fill_(gain)
        largest = []
        plain = t.attend

        def attend(q, k, v, documents):
            group = q.size(1) // k.size(1)
            scores = q @ k.repeat_interleave(group, 1).mT / math.sqrt(q.size(-1))
            largest.append(scores.abs().max().item())
            return plain(q, k, v, documents)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(t, "attend", attend)
            assert math.isfinite(model.loss(tokens[:, :-1], tokens[:, 1:]).item())
        assert len(largest) == SMALL.num_layers and 0.9 * t.MAX_SCORE < max(largest) <= 1.001 * t.MAX_SCORE


def test_loss_is_the_cross_entropy_of_the_logits_and_so_is_its_gradient():
    model = small_model()
    model.embed.weight.data.mul_(40)  # far into the softcap
    tokens = torch.randint(0, SMALL.vocab_size, (2, SMALL.seq_len + 1))
    x, y = tokens[:, :-1], tokens[:, 1:]
    reference = torch.nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
    loss, weights = model.loss(x, y), list(model.parameters())
    torch.testing.assert_close(loss, reference)
    for ours, theirs in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(reference, weights)):
        torch.testing.assert_close(ours, theirs)


def test_contexts_longer_than_in_training_rotate_alike():
    short, long = small_model(), small_model(replace(SMALL, seq_len=4 * SMALL.seq_len))
    tokens = torch.randint(0, SMALL.vocab_size, (1, 3 * SMALL.seq_len))
    with torch.no_grad():
        torch.testing.assert_close(short(tokens), long(tokens))


@pytest.mark.parametrize("coefficients", [t.QUINTIC, t.POLAR_EXPRESS])
def test_newton_schulz_pulls_singular_values_to_one_and_keeps_the_vectors(coefficients):
    torch.manual_seed(1)
    g = torch.randn(3, 24, 40, dtype=torch.float64)
    for matrices in (g, g.mT.contiguous()):
        u, s, vt = torch.linalg.svd(matrices, full_matrices=False)
        out = t.newton_schulz(matrices, 5, coefficients)
        values = u.mT @ out @ vt.mT  # diagonal, if the singular vectors are kept
        diagonal = values.diagonal(dim1=-2, dim2=-1)
        assert torch.allclose(values, torch.diag_embed(diagonal), atol=1e-9)
        s = s / matrices.norm(dim=(-2, -1))[:, None]
        for a, b, c in coefficients * (5 // len(coefficients)):  # the iteration on the singular values alone
            s = a * s + b * s**3 + c * s**5
        torch.testing.assert_close(diagonal, s)
        spread = 0.35 if coefficients == t.QUINTIC else 0.15  # Polar Express is the more exact one
        assert 1 - 2 * spread < diagonal.min() and diagonal.max() < 1 + spread


RANK_MAIN = """
import os, sys
import torch
from tests.support.small_models import SMALL, TUNED, run_steps

rank = int(os.environ["RANK"])
torch.distributed.init_process_group("gloo")
results = []
for config in (SMALL, TUNED):
    weights, optimizers = run_steps(config, 2, rank)
    results.append((weights, sum(b.numel() for b in optimizers.muon.momentum)))
torch.save(results, f"{sys.argv[1]}/{rank}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_ranks_update_like_one_process(tmp_path):
    ended = two_ranks(RANK_MAIN, tmp_path)
    assert [rank.returncode for rank in ended] == [0, 0], ended
    ranks = [torch.load(tmp_path / f"{r}.pt") for r in (0, 1)]
    for config, (first, owned), (second, _) in zip((SMALL, TUNED), *ranks):
        alone, optimizers = run_steps(config, 1, 0)
        start = dict(small_model(config, dtype=torch.float32).named_parameters())
        for name in alone:
            assert torch.equal(first[name], second[name])
            assert not torch.equal(alone[name], start[name].detach())
            torch.testing.assert_close(first[name], alone[name], rtol=1e-4, atol=1e-5)
        # each rank holds its shard, with padding
        assert owned < 0.67 * sum(b.numel() for b in optimizers.muon.momentum)


def test_an_update_is_the_formula_with_row_norm_polar_express_decay_and_taper():
    """The second step of Muon on q alone and of AdamW on the embedding, written out."""
    model = small_model(TUNED, dtype=torch.float32)
    optimizers = t.Optimizers(model, TUNED, torch.float64, 1, 0)
    q, table = model.blocks[0].attn.qkv.weight, model.embed.weight
    momentum = first = second = 0.0
    for step, fraction in ((0, 0.2), (1, 0.85)):
        before, rows = q.detach()[:16].double().clone(), table.detach().double().clone()
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        g, h = q.grad[:16].double(), table.grad.double()
        optimizers.step(rates(TUNED, step, 0.7, fraction))
        taper = 1.0 if fraction < 0.7 else 1 - 0.5 * 0.5  # halfway down to one half
        mu = 0.85 + step / 500 * (0.95 - 0.85)
        momentum = mu * momentum + g
        u = g + mu * momentum
        u = u / u.norm(dim=1, keepdim=True)
        x = u / (u.norm() + 1e-7)
        for a, b, c in t.POLAR_EXPRESS:
            x = a * x + (b * x @ x.T + c * x @ x.T @ x @ x.T) @ x
        lr = 0.04 * 0.7
        torch.testing.assert_close(
            q.detach()[:16].double(), before * (1 - lr * 0.3 * taper) - lr * x, rtol=0, atol=1e-6
        )
        first, second = 0.9 * first + 0.1 * h, 0.95 * second + 0.05 * h**2
        hat = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.95 ** (step + 1))
        lr = 0.05 * 0.7
        expected = rows * (1 - lr * 0.2 * taper) - lr * hat[0] / (hat[1].sqrt() + 1e-8)
        torch.testing.assert_close(table.detach().double(), expected, rtol=0, atol=1e-6)


def test_initialisation():
    """Orthogonal rows or columns of each matrix, and a model that starts as the identity."""
    config = replace(SMALL, **ALL, ortho_init=True)
    torch.manual_seed(0)
    model = t.build_model(config)
    declared = t.declarations(model)
    for name, p in model.named_parameters():
        is_matrix = declared[name]["group"] == "muon"
        assert is_matrix == (p.ndim == 2 and name.endswith(".weight") and "embed" not in name)
        for m in p.detach().split(declared[name]["rows"]) if is_matrix else ():
            if "proj" in name or "down" in name:
                assert not m.any()
            else:
                m = m if m.size(0) <= m.size(1) else m.T
                torch.testing.assert_close(m @ m.T, torch.eye(len(m)), rtol=0, atol=1e-5)
    tokens = packed_tokens(2, 12)
    torch.testing.assert_close(model.hidden(tokens), t.norm(t.norm(model.embed(tokens))), rtol=1e-5, atol=1e-5)


def test_muon_orthogonalises_q_k_and_v_apart():
    model = small_model(dtype=torch.float32)
    config = replace(SMALL, muon_momentum_start=0.0, muon_momentum=0.0)
    before = model.blocks[0].attn.qkv.weight.detach().clone()
    optimizers = t.Optimizers(model, config, torch.float32, 1, 0)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    grad = model.blocks[0].attn.qkv.weight.grad.clone()
    optimizers.step(rates(config, 0, 1.0))
    change = (before - model.blocks[0].attn.qkv.weight.detach()) / config.matrix_lr
    for rows in (slice(0, 16), slice(16, 24), slice(24, 32)):
        expected = t.newton_schulz(grad[rows][None], config.muon_iterations)[0]
        torch.testing.assert_close(change[rows], expected, rtol=1e-3, atol=1e-4)


def test_calibration_keeps_to_its_clock(monkeypatch):
    """A batch of 24 tokens takes 2 s here, and another one begins only where 3 s are left."""
    monkeypatch.setattr(t.time, "perf_counter", lambda: next(now) // 2 * 2.0)
    config, model = replace(SMALL, calibration_tokens=120), small_model()

    def tokens(limit):
        batch = torch.randint(0, SMALL.vocab_size, (2, 12))
        machine = SimpleNamespace(world=1, rank=0, device=torch.device("cpu"))
        return t.calibrate(model, lambda: batch, limit, config, machine)["tokens"]

    counts = []
    for limit in (-1.0, 5.0, 5.1, 9.1, math.inf):
        now = iter(range(1, 1000))
        counts.append(tokens(limit))
    assert counts == [24, 24, 48, 96, 120]


def test_second_moments_equal_explicit_sums():
    model = small_model()
    tokens = torch.randint(0, SMALL.vocab_size, (2, 12))
    moments = t.SecondMoments(model)
    moments.batch(model, tokens, torch.Generator().manual_seed(5))
    result = moments.result(1)

    # the same sums by module hooks and the same sampled labels
    inputs, outputs = {}, {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            handles.append(
                module.register_forward_hook(
                    lambda m, a, o, n=name: (
                        (inputs.__setitem__(n, a[0].detach()), o.retain_grad(), outputs.__setitem__(n, o)) and None
                    )
                )
            )
        if isinstance(module, torch.nn.Embedding):
            handles.append(
                module.register_forward_hook(
                    lambda m, a, o: (o.retain_grad(), outputs.__setitem__("embedding", o)) and None
                )
            )
    logits = model(tokens)
    logits.retain_grad()
    labels = torch.multinomial(logits.detach().flatten(0, 1).softmax(-1), 1, generator=torch.Generator().manual_seed(5))
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 0], reduction="sum").backward()
    n = tokens.numel()
    for name, x in inputs.items():
        tap = result["linear"][f"{name}.weight"]["tap"]
        x, g = x.flatten(0, 1), outputs[name].grad.flatten(0, 1)
        torch.testing.assert_close(result["taps"][tap], sum(torch.outer(row, row) for row in x) / n)
        torch.testing.assert_close(result["linear"][f"{name}.weight"]["output_gradient"], sum(row**2 for row in g) / n)
    g = outputs["embedding"].grad.flatten(0, 1)
    embedding = result["embedding"]["embed.weight"]
    torch.testing.assert_close(embedding["gradient_second_moment"], g.T @ g / n)
    rows = torch.zeros(SMALL.vocab_size, dtype=torch.float64)
    for token, row in zip(tokens.flatten().tolist(), g):
        rows[token] += (row @ row) / n
    torch.testing.assert_close(embedding["row_gradient"], rows)
    # the tied head: its outputs are the logits before the softcap
    cap = SMALL.logit_softcap
    z = torch.atanh(logits.detach() / cap) * cap
    head = logits.grad * (1 - torch.tanh(z / cap) ** 2)
    torch.testing.assert_close(result["linear"]["embed.weight"]["output_gradient"], (head**2).flatten(0, 1).mean(0))
    assert result["tokens"] == n and set(result["linear"]) == {f"{k}.weight" for k in inputs} | {"embed.weight"}


def test_averages_match_a_naive_average():
    model = small_model(dtype=torch.float32)
    optimizers = t.Optimizers(model, SMALL, torch.float32, 1, 0)
    name, p = next(iter(model.named_parameters()))
    average = p.detach().clone()
    for step in range(5):
        for q in model.parameters():
            q.grad = torch.randn_like(q)
        optimizers.step(rates(SMALL, step, 1.0))
        decay = min(SMALL.ema_decay, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * p.detach()
    live = p.detach().clone()
    with optimizers.averaged():
        torch.testing.assert_close(p.detach(), average)
    assert torch.equal(p.detach(), live)


def test_warm_up_is_undone_exactly():
    a, b = (small_model(dtype=torch.float32) for _ in range(2))
    warmed, fresh = (t.Optimizers(m, SMALL, torch.float32, 1, 0) for m in (a, b))
    initial = warmed.state()
    for p in a.parameters():
        p.grad = torch.randn_like(p)
    warmed.step(rates(SMALL, 0, 1.0))
    warmed.load(initial)
    for optimizers, model in ((warmed, a), (fresh, b)):
        for i, p in enumerate(model.parameters()):
            p.grad = torch.full_like(p, 0.01 * (i + 1)) + torch.arange(p.numel()).view(p.shape) % 7
        optimizers.step(rates(SMALL, 0, 1.0))
    for p, q in zip(a.parameters(), b.parameters()):
        assert torch.equal(p, q)


@pytest.mark.parametrize("preset", ["plain", "16mb", "2mb", "pocket", "tiny"])
def test_parameter_counts_and_flops_by_formula(preset):
    c = replace(t.Config(), **PLAIN) if preset == "plain" else t.parse_config([f"--preset={preset}"], {})
    with torch.device("meta"):
        model = t.build_model(c)
    K = c.model_dim // c.num_heads
    passes = c.num_layers + c.loops * (c.loop_last - c.loop_first + 1)
    matrices = (
        2 * c.model_dim**2 + 2 * c.model_dim * c.num_kv_heads * K + 2 * c.model_dim * round(c.mlp_mult * c.model_dim)
    )
    layer = matrices + 4 * c.model_dim + c.num_heads * (1 + c.attn_gate)
    lanes = (c.num_layers - c.parallel_start) * 6 if c.parallel_start else 0
    smear = c.smear_gate + 1 if c.smear_gate else 0
    count = c.num_layers * layer + lanes + smear + passes // 2 * c.model_dim * (1 + c.gated_skips)
    assert sum(p.numel() for p in model.parameters()) == count + c.vocab_size * c.model_dim
    attention = 6 * passes * c.seq_len * c.model_dim  # 12 T D for the full square, the causal half of it
    assert t.flops_per_token(model, c) == 6 * (passes * matrices + c.vocab_size * c.model_dim) + attention
    if preset == "plain":
        assert sum(p.numel() for p in model.parameters()) == 17_059_912  # the public baseline's own count
    if preset == "16mb":  # PR #1855's own count, but for the routes of the eight layers that have one lane
        assert sum(p.numel() for p in model.parameters()) == 35_945_671 - 8 * 6
