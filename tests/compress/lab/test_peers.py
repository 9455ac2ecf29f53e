"""The peers of the benchmark against naive versions of what their papers and pull requests say.

Not covered: how good the archivers are.
"""

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from compress.checkpoint import Statistics
from compress.lab.peers import Coder, Rows, coded_size, coders, int8_rows, sdclip, similarity_order, streams


def random_model(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"embed.weight": (40, 16), "blocks.0.a.weight": (24, 16), "blocks.1.a.weight": (24, 16), "gain": (5,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def statistics_of(model, seed=1):
    generator, taps, linear = torch.Generator().manual_seed(seed), {}, {}
    for name, tensor in model.items():
        if tensor.ndim == 2:
            x = torch.randn(200, tensor.shape[1], generator=generator)
            x = x @ torch.randn(tensor.shape[1], tensor.shape[1], generator=generator)
            taps[name], linear[name] = x.T @ x / len(x), {"tap": name, "output_gradient": torch.ones(len(tensor))}
    return Statistics(200, linear, taps, {})


def test_int8_rows_is_the_public_baselines_rule():
    weight = torch.randn(7, 300, generator=torch.Generator().manual_seed(0))
    rows = int8_rows(weight)
    for index, row in enumerate(weight.numpy()):
        clip = np.quantile(np.abs(row), 0.9999984)
        scale = np.float16(clip / 127)
        assert rows.scales[index] == pytest.approx(scale, rel=1e-3)
        expected = np.clip(np.round(np.clip(row, -clip, clip) / np.float32(rows.scales[index])), -127, 127)
        np.testing.assert_array_equal(rows.codes[index], expected)
    error = (rows.values(weight.shape) - weight).abs()
    assert (error <= 0.51 * torch.from_numpy(rows.scales.astype(np.float32))[:, None]).all()


def test_int8_rows_takes_zero_rows():
    assert (int8_rows(torch.zeros(3, 20)).codes == 0).all()


def naive_gptq(weight, hessian, scales):
    """Frantar et al. 2022, algorithm 1, without blocks: the inverse Hessian is downdated column by column."""
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
    weight, hessian = weight[:, order].clone(), hessian[order][:, order]
    inverse = torch.linalg.inv(hessian + 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian)).double())
    codes = torch.zeros_like(weight)
    for j in range(len(hessian)):
        codes[:, j] = (weight[:, j] / scales).round()
        error = (weight[:, j] - codes[:, j] * scales) / inverse[j, j]
        weight[:, j:] -= error[:, None] * inverse[j, j:]
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    result = torch.empty_like(codes)
    result[:, order] = codes
    return result


def test_sdclip_is_gptq_with_steps_that_follow_the_rows():
    model = random_model()
    statistics = statistics_of(model)
    steps = {"embed.weight": 0.1, "blocks.0.a.weight": 0.4}
    found = sdclip(model, statistics, steps, lambda *_: None)
    assert list(found) == list(steps)
    for name, step in steps.items():
        weight = model[name].double()
        scales = (step * weight.std(1)).half()
        np.testing.assert_array_equal(found[name].scales, scales.numpy())
        expected = naive_gptq(weight, statistics.taps[name].double(), scales.double())
        assert (torch.from_numpy(found[name].codes) == expected).double().mean() > 0.99


def test_a_matrix_without_an_input_is_rounded_to_nearest():
    model = random_model()
    rows = sdclip(model, Statistics(1, {}, {}, {}), {"embed.weight": 0.3}, lambda *_: None)["embed.weight"]
    nearest = np.round(model["embed.weight"].double().numpy() / rows.scales.astype(np.float64)[:, None])
    np.testing.assert_array_equal(rows.codes, nearest)


@given(hnp.arrays(np.int32, st.tuples(st.integers(1, 12), st.integers(1, 5)), elements=st.integers(-9, 9)))
def test_similarity_order_is_the_greedy_chain(codes):
    order, left = [0], set(range(1, len(codes)))
    while left:
        order.append(min(left, key=lambda row: (np.abs(codes[row] - codes[order[-1]]).sum(), row)))
        left.remove(order[-1])
    assert similarity_order(codes).tolist() == order


def test_streams_hold_everything_transposed_by_type():
    model = random_model()
    rows = {name: int8_rows(model[name]) for name in model if model[name].ndim == 2}
    parts = streams(model, rows)
    assert set(parts) == {"embed.weight", "blocks.*.a.weight", "rest"}
    expected = b"".join(rows[f"blocks.{i}.a.weight"].codes.T.astype(np.int8).tobytes() for i in (0, 1))
    assert parts["blocks.*.a.weight"] == expected
    assert parts["rest"].endswith(model["gain"].half().numpy().tobytes())
    assert rows["embed.weight"].scales.tobytes() in parts["rest"]
    sorted_parts = streams(model, rows, similar=True)
    order = similarity_order(rows["embed.weight"].codes)
    assert sorted_parts["embed.weight"] == rows["embed.weight"].codes[order].T.astype(np.int8).tobytes()
    assert order.astype("<u2").tobytes() in sorted_parts["rest"]


def test_codes_beyond_int8_come_back_from_two_planes():
    codes = np.array([[3, -128, 127, 128], [-129, 4000, -30000, 0]], np.int32)
    stream = streams({}, {"a": Rows(codes, np.ones(2, np.float16))})["a"]
    low, high = np.frombuffer(stream[:8], np.int8), np.frombuffer(stream[8:], "<i2")
    np.testing.assert_array_equal((low + 256 * high.astype(int)).reshape(4, 2).T, codes)


@pytest.mark.parametrize("name", ["zlib", "brotli", "lzma", "zstd", "zpaq", "lrzip"])
def test_archivers_give_back_what_they_got_and_come_near_the_entropy(name):
    if name not in coders():
        pytest.skip(f"{name} is not installed")
    data = np.random.default_rng(0).normal(0, 2, 60_000).round().astype(np.int8)
    counts = np.unique(data, return_counts=True)[1] / data.size
    entropy = -(counts * np.log2(counts)).sum() * data.size / 8
    coder = coders()[name]
    packed = coder.compress(data.tobytes())
    assert coder.decompress(packed) == data.tobytes()
    assert entropy < len(packed) < 1.25 * entropy


def test_a_stream_that_does_not_return_is_an_error():
    model = random_model()
    with pytest.raises(ValueError, match="lossy does not give back"):
        coded_size(Coder("lossy", lambda data: data[:9], lambda data: data), model, {})


@pytest.mark.skipif(not shutil.which("lrzip"), reason="lrzip is not installed")
def test_a_grouped_coder_counts_its_cliff():
    model = {"a.weight": torch.randn(64, 64, generator=torch.Generator().manual_seed(0))}
    rows = {"a.weight": int8_rows(model["a.weight"])}
    found = coded_size(coders()["lrzip"], model, rows)
    assert found["stored"] in (0, 1) and 0.7 * 4096 < found["bytes"] < 4096 + 700
