"""The model of train_gpt.py against a naive float64 model, Muon against SVD and against one process, second moments
against explicit sums. Not covered here: whole runs (test_train_run.py)."""

import cmath
import math
import socket
from dataclasses import replace

import pytest
import torch
import torch.multiprocessing as mp

import train_gpt as t

SMALL = replace(
    t.Config(), vocab_size=29, seq_len=12, num_layers=3, model_dim=16, num_heads=4, num_kv_heads=2, compile=False
)


def small_model(config=SMALL, seed=0, dtype=torch.float64):
    """A model whose every parameter is random, so that no term hides behind a zero initialisation."""
    torch.manual_seed(seed)
    model = t.build_model(config).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return model


def naive_rope(vector, position, base):
    """Rotates pairs (i, i + K/2) as complex numbers by position * base^(-2i/K)."""
    half = len(vector) // 2
    turned = [
        complex(vector[i], vector[i + half]) * cmath.exp(-1j * position * base ** (-i / half)) for i in range(half)
    ]
    return torch.tensor([z.real for z in turned] + [z.imag for z in turned], dtype=torch.float64)


def rope_matrix(position, width, base):
    """The same rotation as a matrix, so that gradients flow through it."""
    return torch.stack([naive_rope(row.tolist(), position, base) for row in torch.eye(width, dtype=torch.float64)]).T


def naive_loss(weights, config, tokens, targets):
    """The forward pass of techniques' baseline, one token, one head and one document row at a time."""

    def rms(x):
        return x / torch.sqrt((x * x).mean() + torch.finfo(torch.float64).eps)

    K, group = config.model_dim // config.num_heads, config.num_heads // config.num_kv_heads
    H, G, L = config.num_heads, config.num_kv_heads, config.num_layers
    total = 0.0
    for row, goal in zip(tokens.tolist(), targets.tolist()):
        x0 = [rms(weights["embed.weight"][token]) for token in row]
        x, saved = list(x0), []
        for layer in range(L):
            w = {k.removeprefix(f"blocks.{layer}."): v for k, v in weights.items() if k.startswith(f"blocks.{layer}.")}
            if layer >= L - L // 2:
                source = saved.pop()
                x = [a + weights["skip"][len(saved)] * b for a, b in zip(x, source)]
            x = [w["mix"][0] * a + w["mix"][1] * b for a, b in zip(x, x0)]
            heads = [(w["attn.qkv.weight"] @ rms(a)).view(-1, K) for a in x]
            new = []
            for i in range(len(x)):
                out = []
                for h in range(H):
                    q = rope_matrix(i, K, config.rope_base) @ rms(heads[i][h]) * w["attn.gain"][h]
                    scores = torch.stack(
                        [
                            q @ (rope_matrix(j, K, config.rope_base) @ rms(heads[j][H + h // group]))
                            for j in range(i + 1)
                        ]
                    )
                    p = torch.softmax(scores / math.sqrt(K), 0)
                    out.append(sum(p[j] * heads[j][H + G + h // group] for j in range(i + 1)))
                new.append(x[i] + w["attn_gain"] * (w["attn.proj.weight"] @ torch.cat(out)))
            x = new
            x = [
                a + w["mlp_gain"] * (w["mlp.down.weight"] @ torch.clamp(w["mlp.up.weight"] @ rms(a), min=0) ** 2)
                for a in x
            ]
            if layer < L // 2:
                saved.append(x)
        for a, y in zip(x, goal):
            z = config.logit_softcap * torch.tanh(weights["embed.weight"] @ rms(a) / config.logit_softcap)
            total = total + torch.logsumexp(z, 0) - z[y]
    return total / targets.numel()


def test_loss_and_gradients_equal_a_naive_model():
    model = small_model()
    tokens = torch.randint(0, SMALL.vocab_size, (2, 7))
    targets = torch.randint(0, SMALL.vocab_size, (2, 7))
    loss = model.loss(tokens, targets)
    loss.backward()
    weights = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    reference = naive_loss(weights, SMALL, tokens, targets)
    reference.backward()
    assert abs(loss.item() - reference.item()) < 1e-9
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, weights[name].grad, rtol=1e-6, atol=1e-9, msg=lambda m: f"{name}: {m}")


def test_logits_do_not_read_the_future():
    model = small_model()
    tokens = torch.randint(0, SMALL.vocab_size, (1, 12))
    logits = model(tokens)
    for position in range(1, 12):
        changed = tokens.clone()
        changed[:, position] = (changed[:, position] + 1) % SMALL.vocab_size
        moved = (model(changed) - logits).abs().amax((0, 2))
        assert torch.all(moved[:position] == 0) and moved[position] > 0


def test_newton_schulz_pulls_singular_values_to_one_and_keeps_the_vectors():
    torch.manual_seed(1)
    g = torch.randn(3, 24, 40, dtype=torch.float64)
    for matrices in (g, g.mT.contiguous()):
        u, s, vt = torch.linalg.svd(matrices, full_matrices=False)
        out = t.newton_schulz(matrices, 5)
        values = u.mT @ out @ vt.mT  # diagonal, if the singular vectors are kept
        diagonal = values.diagonal(dim1=-2, dim2=-1)
        assert torch.allclose(values, torch.diag_embed(diagonal), atol=1e-9)
        s = s / matrices.norm(dim=(-2, -1))[:, None]
        for _ in range(5):  # the iteration on the singular values alone
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        torch.testing.assert_close(diagonal, s)
        assert 0.3 < diagonal.min() and diagonal.max() < 1.3


def gradients(model, rank):
    generator = torch.Generator().manual_seed(100 + rank)
    return [torch.randn(p.shape, generator=generator) for p in model.parameters()]


def run_steps(world, rank):
    """Two optimiser steps on fixed gradients: with one process, their mean over two ranks."""
    model = small_model(dtype=torch.float32)
    optimizers = t.Optimizers(model, SMALL, torch.float32, world, rank)
    for step in range(2):
        parts = [gradients(model, r) for r in ((rank,) if world > 1 else (0, 1))]
        for i, p in enumerate(model.parameters()):
            p.grad = sum(g[i] for g in parts) / len(parts) * (step + 1)
        optimizers.step(step, 0.7)
    return {n: p.detach() for n, p in model.named_parameters()}, optimizers


def _rank_main(rank, port, folder):
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    weights, optimizers = run_steps(2, rank)
    owned = sum(b.numel() for b in optimizers.muon.momentum)
    torch.save((weights, owned), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_ranks_update_like_one_process(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_rank_main, (port, str(tmp_path)), nprocs=2)
    alone, optimizers = run_steps(1, 0)
    (first, owned), (second, _) = (torch.load(tmp_path / f"{r}.pt") for r in (0, 1))
    start = dict(small_model(dtype=torch.float32).named_parameters())
    for name in alone:
        assert torch.equal(first[name], second[name])
        assert not torch.equal(alone[name], start[name].detach())
        torch.testing.assert_close(first[name], alone[name], rtol=1e-4, atol=1e-5)
    assert owned < 0.67 * sum(b.numel() for b in optimizers.muon.momentum)  # each rank holds its shard, with padding


def test_muon_orthogonalises_q_k_and_v_apart():
    model = small_model(dtype=torch.float32)
    config = replace(SMALL, muon_momentum_start=0.0, muon_momentum=0.0)
    before = model.blocks[0].attn.qkv.weight.detach().clone()
    optimizers = t.Optimizers(model, config, torch.float32, 1, 0)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    grad = model.blocks[0].attn.qkv.weight.grad.clone()
    optimizers.step(0, 1.0)
    change = (before - model.blocks[0].attn.qkv.weight.detach()) / config.matrix_lr
    for rows in (slice(0, 16), slice(16, 24), slice(24, 32)):
        expected = t.newton_schulz(grad[rows][None], config.muon_iterations)[0]
        torch.testing.assert_close(change[rows], expected, rtol=1e-3, atol=1e-4)


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
        optimizers.step(step, 1.0)
        decay = min(SMALL.ema_decay, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * p.detach()
    live = p.detach().clone()
    with optimizers.averaged():
        torch.testing.assert_close(p.detach(), average)
    assert torch.equal(p.detach(), live)


def test_warm_up_is_undone_exactly():
    a, b = (small_model(dtype=torch.float32) for _ in range(2))
    warmed, fresh = (t.Optimizers(m, SMALL, torch.float32, 1, 0) for m in (a, b))
    initial = [p.detach().clone() for p in a.parameters()]
    for p in a.parameters():
        p.grad = torch.randn_like(p)
    warmed.step(0, 1.0)
    warmed.restore(initial)
    for optimizers, model in ((warmed, a), (fresh, b)):
        for i, p in enumerate(model.parameters()):
            p.grad = torch.full_like(p, 0.01 * (i + 1)) + torch.arange(p.numel()).view(p.shape) % 7
        optimizers.step(0, 1.0)
    for p, q in zip(a.parameters(), b.parameters()):
        assert torch.equal(p, q)


@pytest.mark.parametrize("preset", ["16mb", "pocket", "tiny"])
def test_parameter_counts_and_flops_by_formula(preset):
    c = t.parse_config([f"--preset={preset}"], {})
    with torch.device("meta"):
        model = t.build_model(c)
    K = c.model_dim // c.num_heads
    matrices = c.num_layers * (
        2 * c.model_dim**2 + 2 * c.model_dim * c.num_kv_heads * K + 2 * c.model_dim * round(c.mlp_mult * c.model_dim)
    )
    vectors = c.num_layers * (4 * c.model_dim + c.num_heads) + c.num_layers // 2 * c.model_dim
    assert sum(p.numel() for p in model.parameters()) == matrices + vectors + c.vocab_size * c.model_dim
    attention = 6 * c.num_layers * c.seq_len * c.model_dim  # 12 T D for the full square, the causal half of it
    assert t.flops_per_token(model, c) == 6 * (matrices + c.vocab_size * c.model_dim) + attention
    if preset == "16mb":
        assert sum(p.numel() for p in model.parameters()) == 17_059_912  # the public baseline's own count
