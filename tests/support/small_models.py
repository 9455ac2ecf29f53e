"""Small models of train_gpt.py whose every parameter is random, and steps of the optimisers on them."""

import functools
from dataclasses import replace

import torch

import train_gpt as t
from tools.plan import bench_train

SIZES = dict(vocab_size=29, seq_len=12, num_layers=3, model_dim=16, num_heads=4, num_kv_heads=2, compile=False)


# the public challenge's baseline
PLAIN = t.POCKET | bench_train.PLAIN | dict(
    vocab_size=1024, seq_len=1024, num_layers=9, model_dim=512, num_heads=8, num_kv_heads=4, mlp_mult=2.0,
    qk_gain_init=1.5, ortho_init=False, matrix_lr=0.04, embed_lr=0.05, scalar_lr=0.04, muon_momentum=0.95,
    muon_momentum_start=0.85, muon_momentum_steps=500, weight_decay=0.0, embed_decay=0.0, adam_beta2=0.95,
    warmdown=0.4, min_lr=0.0, ema_decay=0.997, score_chunk=0, score_context=1, score_lr=0.0, score_counts=False,
)  # fmt: skip


SMALL = replace(t.Config(), **PLAIN | SIZES)


# every technique alone, then all of them
TECHNIQUES = {
    "rope_dims": dict(rope_dims=2),
    "ln_scale": dict(ln_scale=True),
    "leaky_slope": dict(leaky_slope=0.5),
    "xsa": dict(xsa=True),
    "attn_gate": dict(attn_gate=5),
    "smear_gate": dict(smear_gate=6),
    "gated_skips": dict(gated_skips=True),
    "parallel_start": dict(parallel_start=2),
    "loops": dict(loops=2, loop_first=0, loop_last=1),
    "document_mask": dict(document_mask=True),
}


ALL = functools.reduce(dict.__or__, TECHNIQUES.values())


VARIANTS = {"none": {}} | TECHNIQUES | {"all": ALL}


def rates(config, step, learning_rate, fraction=0.0):
    """What the schedules give, but for the learning rate."""
    return replace(t.rates(config, step, fraction), learning_rate=learning_rate)


def small_model(config=SMALL, seed=0, dtype=torch.float64):
    """A model whose every parameter is random, so that no term hides behind a zero initialisation."""
    torch.manual_seed(seed)
    model = t.build_model(config).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return model


def packed_tokens(rows, length, seed=0):
    """Rows of several documents: BOS at the start of the first row, in the middle of all, twice running in the last."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(2, SMALL.vocab_size, (rows, length), generator=generator)
    tokens[0, 0] = tokens[:, length // 2] = tokens[-1, length // 2 + 1] = t.BOS
    return tokens


# MuonEq-R, Polar Express, decay and its taper, on the full model
TUNED = replace(SMALL, **ALL, muon_polar=True, muon_row_norm=True, weight_decay=0.3, embed_decay=0.2, decay_taper=0.5)


def gradients(model, rank):
    """Random gradients of all parameters, the same for each rank number."""
    generator = torch.Generator().manual_seed(100 + rank)
    return [torch.randn(p.shape, generator=generator) for p in model.parameters()]


def run_steps(config, world, rank, of=2, model=None):
    """Two optimiser steps on fixed gradients: with one process, their mean over `of` ranks."""
    model = model or small_model(config, dtype=torch.float32)
    optimizers = t.Optimizers(model, config, torch.float32, world, rank)
    for step in range(2):
        parts = [gradients(model, r) for r in ((rank,) if world > 1 else range(of))]
        for i, p in enumerate(model.parameters()):
            p.grad = sum(g[i] for g in parts) / len(parts) * (step + 1)
        optimizers.step(rates(config, step, 0.7, 0.85))
    return {n: p.detach() for n, p in model.named_parameters()}, optimizers
