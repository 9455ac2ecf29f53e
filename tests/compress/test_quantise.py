"""Quantising: bit for bit what the decoder gives, near the weights, and what cannot be stored is refused by name."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.checkpoint import Statistics
from compress.codes import QuantisedModel
from compress.decode import decode_weights
from compress.entropy import encode_weights
from compress.quantise import decoded, fixed_point, make_plan, quantise, scales_of
from tests.support.packed import correlated

pytestmark = pytest.mark.slow

shapes = st.one_of(
    st.just(()),
    st.tuples(st.integers(0, 70)),
    st.tuples(st.integers(0, 40), st.integers(0, 70)),
    st.tuples(st.integers(0, 4), st.integers(0, 20), st.integers(0, 40)),
)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(shapes, st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 300.0, 1e30])), max_size=6),
    st.integers(0, 9),
    st.sampled_from([1, 8]),
)
def test_quantise_encode_decode_is_exact(specification, seed, states):
    """Any shapes and sizes: the file's decoder gives bit for bit what the packer expects, near the weights."""
    generator = torch.Generator().manual_seed(seed)
    model = {}
    for index, (shape, size) in enumerate(specification):
        model[f"blocks.{index % 3}.t{index // 3}é"] = tensor = size * torch.randn(shape, generator=generator)
        if tensor.numel() > 3:
            tensor.view(-1)[1] *= 1000  # an outlier
        if tensor.ndim == 2 and len(tensor):
            tensor[-1] = 0
    dial = 2.0**-7
    plan = make_plan(model, None, states)
    quantised = quantise(plan, dial)
    weights = decode_weights(encode_weights(quantised).payload)
    expected = decoded(quantised)
    assert set(weights) == set(model)
    for name, tensor in model.items():
        assert weights[name].shape == tensor.shape and torch.equal(weights[name], expected[name])
        size = tensor.double().square().mean().sqrt() if tensor.numel() else 0
        assert not tensor.numel() or (weights[name] - tensor).abs().max() <= size * 2.0**-5


def test_huge_values_are_refused_by_name():
    model = {"a": torch.ones(3), "b": torch.full((20, 20), 3.4e38)}
    plan = make_plan(model, None)
    with pytest.raises(ValueError, match="b: values too large"):
        decoded(quantise(plan, 0.3))


def test_dead_inputs_get_zero_weights():
    generator = torch.Generator().manual_seed(2)
    hessian = correlated(300, 20, generator).float()
    hessian[3], hessian[:, 3] = 0, 0
    statistics = Statistics(300, {"w": {"tap": "t", "output_gradient": torch.ones(16)}}, {"t": hessian}, {})
    codes = quantise(make_plan({"w": torch.randn(16, 20, generator=generator)}, statistics), 0.1).tensors["w"].codes
    assert (codes[:, 3] == 0).all() and (codes != 0).any(0).sum() == 19


def stored(tensor):
    return decoded(QuantisedModel({"v": fixed_point(tensor)}, [0, 0], 512, scales_of(1.0)))["v"]


def test_vectors_are_stored_to_a_percent_and_short_ones_better():
    generator = torch.Generator().manual_seed(8)
    for size in (3, 96, 1000):
        for scale in (1e-20, 1.0, 1e20):
            tensor = scale * (1 + 0.2 * torch.randn(size, generator=generator))
            error = (stored(tensor) - tensor).abs().max() / scale
            assert error <= 2.0**-8 if size > 16 else error <= 2.0**-12
    scalar = torch.tensor(-1.2345)
    assert abs(stored(scalar) - scalar) < 2e-4
    assert stored(torch.zeros(0, 3)).shape == (0, 3)
    assert (stored(torch.zeros(5)) == 0).all()
