"""The benchmark: its arithmetic against numbers made by hand, and a whole run on a model of a few thousand weights.

Not covered: that our coder wins (docs/coder.md has the measurements).
"""

import hashlib
import json
import math
import shutil

import brotli
import numpy as np
import pytest
import torch

from compress import decode
from compress.__main__ import main
from compress.allocate import Sensitivity
from compress.entropy import encode_weights, layout, symbols
from compress.lab import bench
from compress.lab.bench import STEPS_TRIED, Point, bytes_at, envelope, newest_run, summary
from compress.lab.plot import plot_steps
from compress.lab.spread import am_gm_bits, predicted_losses, row_bits, spread
from compress.minify import minify
from compress.pack import DECODER
from compress.quantise import make_plan, quantise, scales_of
from compress.sizes import step_rows, tensor_rows, weights_bound
from compress.trellis import RESTART
from golf import container, tokenizer_section

SOURCE = '''
from dataclasses import dataclass
import torch
@dataclass
class Config:
    seq_len: int = 32
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(300, 24)
        self.up = torch.nn.Linear(24, 32, bias=False)
        self.down = torch.nn.Linear(32, 24, bias=False)
        self.gain = torch.nn.Parameter(torch.ones(24))
    def forward(self, tokens):
        x = self.embed(tokens)
        x = x + self.down(self.up(x).relu()) * self.gain
        return x @ self.embed.weight.T
def build_model(config):
    return Model()
'''
TOKENIZER = tokenizer_section.rebuild(brotli.compress(b"th\nthe\n an"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of an untrained model with real second moments, and a dev split of random tokens beside it."""
    folder = tmp_path_factory.mktemp("bench")
    run, data = folder / "runs" / "one", folder / "data"
    run.mkdir(parents=True)
    data.mkdir()
    space = {}
    exec(SOURCE, space)
    torch.manual_seed(0)
    model = space["build_model"](None)
    with torch.no_grad():
        model.embed.weight.mul_(0.3 * torch.exp(0.5 * torch.randn(24)))  # uneven columns
        model.gain.normal_()
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 300, (64, 32), generator=generator)
    moments, taps, linear = {}, {}, {}
    for name, layer in (("up", model.up), ("down", model.down)):
        layer.register_forward_hook(lambda _, args, out, name=name: moments.update({name: (args[0], out)}) or None)
    x = model.embed(tokens)
    x.retain_grad()
    h = x + model.down(model.up(x).relu()) * model.gain
    logits = h @ model.embed.weight.T
    logits.retain_grad()
    for _, out in moments.values():
        out.retain_grad()
    labels = torch.distributions.Categorical(logits=logits).sample()
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").backward()
    moments["embed"] = (h, logits)
    for name, (inner, out) in moments.items():
        inner = inner.detach().flatten(0, 1)
        taps[name] = inner.T @ inner / len(inner)
        gradient = out.grad.flatten(0, 1).square().mean(0)
        linear[f"{name}.weight"] = {"tap": name, "output_gradient": gradient}
    g = x.grad.flatten(0, 1)
    rows = torch.zeros(300).index_add_(0, tokens.flatten(), g.square().sum(1)) / len(g)
    embedding = {"embed.weight": {"gradient_second_moment": g.T @ g / len(g), "row_gradient": rows}}
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    torch.save({"format": 1, "track": "pocket", "config": {}, "source": SOURCE,
                "source_sha256": hashlib.sha256(SOURCE.encode()).hexdigest(),
                "tokenizer": torch.tensor(list(TOKENIZER), dtype=torch.uint8), "model": weights, "step": 1,
                "loader": {}}, run / "checkpoint.pt")
    torch.save({"format": 1, "tokens": 2048, "linear": linear, "taps": taps, "embedding": embedding},
               run / "statistics.pt")
    (run / "run.json").write_text("{}")
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, 2049
    shard = np.random.default_rng(2).integers(0, 300, 2049).astype("<u2")
    (data / "dev_000000.bin").write_bytes(header.tobytes() + shard.tobytes())
    split = {"raw_bytes": 2049 * 2, "tokens": 2049, "files": [{"name": "dev_000000.bin"}]}
    (data / "manifest.json").write_text(json.dumps({"splits": {"dev": split}}))
    return run


def load(run):
    from compress.checkpoint import load_checkpoint, load_statistics

    model = load_checkpoint(run).model
    return model, load_statistics(run, model)


def test_bytes_at_equal_loss_are_those_of_the_line_through_two_points():
    curve = [Point("a", size, 0.0, 0.0, 0.0, kl=0.1 * 2.0 ** (-size / 1000)) for size in (5000, 1000, 3000)]
    for kl, inside in ((0.1 * 2**-2, True), (0.1 * 2**-4.5, True), (0.1 * 2**-0.5, False), (0.1 * 2**-7, False)):
        size, within = bytes_at(curve, kl)
        assert size == pytest.approx(-1000 * math.log2(kl / 0.1)) and within is inside


def test_summary_compares_at_equal_loss():
    def curve(name, offset):
        sizes = range(1000, 9000, 2000)
        return [Point(name, n + offset, 0.0, 0.0, 0.5, kl=0.1 * 2.0 ** (-n / 1000)) for n in sizes]

    points = [*curve("ours", 0), *curve("ours, no trellis", 100), *curve("gptq+brotli", 500)]
    result = summary(points, 4000)
    ours = 1000 * math.log2(0.1 / 0.008)
    assert result["saving_vs_gptq_brotli"] == pytest.approx(500 / (ours + 500))
    assert result["saving_vs_gptq_lrzip"] is None
    assert result["parts"] == {"trellis": pytest.approx(8 * 100 / 4000)}
    assert result["decode_seconds_per_million"] == pytest.approx(125)
    assert result["extrapolated"] == []


def test_the_envelope_is_no_worse_than_any_step_for_all():
    octaves = np.log2(STEPS_TRIED)
    sensitivity = np.array([1e-3, 1e-1, 5.0])[:, None]
    counts = np.array([100, 1000, 300])[:, None]
    loss, sizes = sensitivity * 4.0**octaves, counts * (4 - octaves)
    for target in (0.01, 0.02):
        chosen = np.log2(envelope(loss, sizes, [target])[0])
        assert (sensitivity[:, 0] * 4.0**chosen).sum() == pytest.approx(target, rel=0.15)
        # Best of these curves in closed form: loss in proportion to the count.
        best = 0.5 * np.log2(target * counts / counts.sum() / sensitivity)[:, 0]
        size, ideal = ((counts[:, 0] * (4 - steps)).sum() for steps in (chosen, best))
        assert size <= ideal + 0.1 * counts.sum()
        np.testing.assert_allclose(chosen, best, atol=0.15)


def test_the_newest_finished_run_is_taken(run, tmp_path):
    assert newest_run(run.parent) == run
    with pytest.raises(ValueError, match="no finished run.*train_gpt.py"):
        newest_run(tmp_path)


def test_dials_meet_the_forecast(run):
    from compress.allocate import Forecast, profile

    plan = make_plan(*load(run))
    whole = sum(profile(plan.weight(name), steps) for name, steps in plan.matrices.items())
    for target, dial in zip((0.003, 0.03), bench.dials(plan, [0.003, 0.03]), strict=True):
        assert Forecast(plan.trellis)(whole, dial)[1] == pytest.approx(target, rel=1e-3)


def test_streams_without_parts_have_the_size_of_their_entropy(run):
    plan = make_plan(*load(run))
    tensors = quantise(plan, 0.05)
    payload = encode_weights(tensors, plan.trellis, scales_of(0.05).tolist(), RESTART)
    lanes, matrices, vectors = layout(tensors)
    contexts, tokens, _ = symbols(matrices, vectors, lanes, plan.trellis, RESTART)
    found = 8 * bench.stream_size(contexts, tokens, lanes)
    table = decode.rans_table(bench.frequencies(contexts, tokens)).reshape(-1, 4096)
    naive = sum(12 - math.log2(np.count_nonzero(table[c] >> 24 == t))
                for step, items in zip(contexts, tokens, strict=True) for c, t in zip(step, items, strict=True))
    tables = 8 * len(brotli.compress(bench.frequencies(contexts, tokens), quality=11))
    assert naive - 16 * lanes <= found - tables <= naive + 16 * lanes
    codes = np.concatenate([matrix.codes.ravel() for _, matrix in matrices])
    change = 8 * (bench.without_contexts(tensors, plan.trellis, len(payload)) - len(payload)) / codes.size
    assert -0.5 < change < 1 and change != 0
    assert abs(bench.without_side(tensors, plan.trellis, payload) - len(payload)) < 1500


def test_bench_from_the_command_line(run, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(bench, "TOKENS", 512)
    monkeypatch.setattr(bench, "TUNING_TOKENS", 256)
    monkeypatch.setattr(bench, "RATES", (0.004, 0.02))
    monkeypatch.setattr(bench, "STEPS_TRIED", tuple(2.0**n for n in range(-6, 1, 2)))
    few = {name: coder for name, coder in bench.coders().items() if name in ("zlib", "brotli")}
    monkeypatch.setattr(bench, "coders", lambda: few)
    picture = tmp_path / "curve.png"
    arguments = ["bench", "--run", str(run), "--data", str(run.parent.parent / "data"), "--plot", str(picture)]
    assert main([*arguments, "--json"]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert set(result["parts"]) == {"tensor", "row", "column", "trellis", "contexts", "side"}
    assert result["saving_vs_gptq_lrzip"] is None and result["decode_seconds_per_million"] > 0
    names = {point["coder"] for point in result["points"]}
    assert {"ours", "int8+zlib", "gptq+brotli"} <= names
    for name in ("ours", "gptq+brotli"):  # finer is larger, and loses less
        curve = sorted((point["kl"], -point["bytes"]) for point in result["points"] if point["coder"] == name)
        assert [size for _, size in curve] == sorted(size for _, size in curve) and curve[0][0] > 0
    own = [point for point in result["points"] if point["coder"] == "ours"]
    for point, target in zip(own, (0.004, 0.02), strict=True):
        assert target / 3 < point["kl"] < 3 * target  # the forecast aims
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_bench_measures_what_the_model_itself_gives(run):
    """KL of one set against a model built here."""
    from compress.checkpoint import load_checkpoint
    from compress.lab.measure import measure_sets

    checkpoint, data = load_checkpoint(run), run.parent.parent / "data"
    changed = {"up.weight": torch.zeros_like(checkpoint.model["up.weight"])}
    zero, other = measure_sets(checkpoint, [{}, changed], data, 320)
    space = {}
    exec(SOURCE, space)
    model, logs = space["build_model"](None), []
    tokens = torch.from_numpy(np.fromfile(data / "dev_000000.bin", "<u2", 321, offset=1024).astype(np.int64))
    for weights in (checkpoint.model, {**checkpoint.model, **changed}):
        model.load_state_dict(weights)
        with torch.no_grad():
            logs.append(model(tokens[:-1].view(-1, 32)).double().log_softmax(-1))
    kl = (logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean().item() / 2 / math.log(2)
    loss = [-log.gather(-1, tokens[1:].view(-1, 32, 1)).mean().item() / 2 / math.log(2) for log in logs]
    assert zero == {"kl": 0.0, "bpb": pytest.approx(loss[0])}
    assert other == {"kl": pytest.approx(kl), "bpb": pytest.approx(loss[1])}

    same, another = (run.parent.parent / name for name in ("same", "another"))  # data with a tokenizer beside it
    for folder, pieces in ((same, b"th\nthe\n an"), (another, b"th\nthe\n on")):
        shutil.copytree(data, folder)
        (folder / "tokenizer.model").write_bytes(tokenizer_section.rebuild(brotli.compress(pieces)))
    assert measure_sets(checkpoint, [{}], same, 320) == [zero]
    with pytest.raises(ValueError, match="another tokenizer than the model"):
        measure_sets(checkpoint, [{}], another, 320)


def test_am_gm_of_equal_and_of_two_costs():
    assert am_gm_bits([3.0, 3.0, 3.0]) == pytest.approx(0, abs=1e-12)
    assert am_gm_bits([1.0, 16.0]) == pytest.approx(0.5 * math.log2(8.5 / 4))
    assert am_gm_bits([1.0, 16.0], [3, 1]) == pytest.approx(0.5 * math.log2(4.75 / 2))


def test_am_gm_predicts_the_bits_that_steps_by_loss_save():
    """A fine uniform quantiser on Gaussian columns: equal steps and steps in proportion to U at one loss."""
    generator = np.random.default_rng(0)
    inner = np.exp(generator.normal(0, 1, 40))
    weight = generator.normal(0, 1, (4000, 40))

    def rate_and_loss(steps):
        codes = np.round(weight / steps)
        counts = (np.unique(column, return_counts=True)[1] / len(column) for column in codes.T)
        rate = np.mean([-(share * np.log2(share)).sum() for share in counts])
        return rate, (((weight - codes * steps) / inner) ** 2).mean()

    equal, loss = rate_and_loss(np.full(40, 0.1))
    allocated, other = rate_and_loss(inner * np.sqrt(12 * loss))
    assert other == pytest.approx(loss, rel=0.02)
    # The columns with the largest U have steps near the size of their weights: a little less is gained.
    assert equal - allocated == pytest.approx(am_gm_bits(1 / inner**2), rel=0.1)


def test_row_bits_are_those_of_the_rule():
    known = Sensitivity(torch.eye(2), torch.tensor([1.0, 1.0, 1.0]))
    assert row_bits(known) == pytest.approx(0, abs=1e-6)
    gradients = np.array([1.0, 100.0])
    cost = (gradients + 1e-4 * gradients.mean()) ** 0.7
    loss = 0.5 * np.log2(gradients.mean() / (gradients / cost).mean())  # lower steps of the same total rate
    assert row_bits(Sensitivity(torch.eye(2), torch.tensor(gradients))) == pytest.approx(
        loss - 0.25 * np.log2(cost).sum())
    assert row_bits(Sensitivity(torch.eye(2), torch.tensor(gradients))) <= am_gm_bits(gradients)


def test_spread_has_every_matrix_and_means_over_weights(run):
    model, statistics = load(run)
    found = spread(model, statistics)
    assert [row["name"] for row in found["matrices"]] == ["embed.weight", "up.weight", "down.weight"]
    weights = [row["weights"] for row in found["matrices"]]
    for key in ("columns", "rows"):
        values = [row[key] for row in found["matrices"]]
        assert found[key] == pytest.approx(np.average(values, weights=weights)) and min(values) >= 0
    hessian = statistics.taps["up"].double()
    hessian = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(24)
    order = hessian.diagonal().argsort(descending=True)
    lower = torch.linalg.cholesky(torch.linalg.inv(hessian[order][:, order]))
    assert found["matrices"][1]["columns"] == pytest.approx(am_gm_bits(lower.diagonal().numpy() ** -2), rel=1e-3)


@pytest.fixture(scope="module")
def packed(run):
    assert main(["pack", str(run), "--json"]) == 0
    return run


def test_inspect_of_a_run_adds_its_spread_and_losses(packed, tmp_path, capfd):
    picture = tmp_path / "steps.png"
    assert main(["inspect", str(packed), "--json", "--plot", str(picture)]) == 0
    result = json.loads(capfd.readouterr().out)
    assert picture.read_bytes()[:4] == b"\x89PNG"
    payload = container.read((packed / "model.golf").read_bytes())["WGTS"]
    model, statistics = load(packed)
    weights = decode.decode_weights(payload)
    error = (model["up.weight"] - weights["up.weight"]).double()
    gradients = statistics.linear["up.weight"]["output_gradient"].double()
    loss = 0.5 * (gradients * torch.einsum("rc,cd,rd->r", error, statistics.taps["up"].double(), error)).sum().item()
    losses = {row["name"]: row["loss"] for row in result["predicted_losses"]}
    assert losses["up.weight"] == pytest.approx(loss, rel=1e-6) and set(losses) == {
        "embed.weight", "up.weight", "down.weight"}
    bound = result["weights_bound"]
    assert bound["bytes"] == len(payload) and 0 < bound["distance"] < 0.5
    assert main(["inspect", str(packed)]) == 0 and "gain at most" in capfd.readouterr().out


def test_bound_and_distance_are_entropies(packed):
    payload = container.read((packed / "model.golf").read_bytes())["WGTS"]
    head_bytes = int.from_bytes(payload[1:4], "little")
    assert weights_bound(payload)["bound_bytes"] < len(payload) - head_bytes
    row = tensor_rows(payload)[0]
    codes = decode.read_codes(payload)[row["name"]][1]
    shares = np.unique(codes, return_counts=True)[1] / codes.size
    entropy = -(shares * np.log2(shares)).sum()
    assert row["distance"] == pytest.approx(8 * row["code_bytes"] / codes.size / entropy - 1)


def test_step_rows_are_the_steps_of_the_decoder(packed):
    payload = container.read((packed / "model.golf").read_bytes())["WGTS"]
    for row in step_rows(payload):
        _, codes, bits, _, _, values = decode.read_codes(payload)[row["name"]]
        integers = 2 * codes - bits * np.sign(codes)
        steps = 2 ** np.add.outer(row["row_octaves"], row["column_octaves"])
        np.testing.assert_allclose(values, integers * steps, rtol=1e-5)


def test_statistics_of_another_run_are_refused(packed):
    payload = container.read((packed / "model.golf").read_bytes())["WGTS"]
    model, statistics = load(packed)
    with pytest.raises(ValueError, match="up.weight is not in the artifact"):
        predicted_losses(payload, model | {"up.weight": torch.zeros(40, 24)}, statistics)


def test_a_picture_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(OSError):
        plot_steps([{"name": "a", "row_octaves": [1.0], "column_octaves": [0.0]}], None, tmp_path / "no" / "x.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["bench", "--run", "RUN", "--data", "none"], ["inspect", "RUN"]])
def test_bad_input_is_one_line(command, run, tmp_path, capfd):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "checkpoint.pt").write_bytes((run / "checkpoint.pt").read_bytes())
    assert main([str(folder) if word == "RUN" else word for word in command]) == 1
    found = capfd.readouterr()
    assert found.err.count("\n") == 1 and "statistics.pt" in found.err and not found.out


def test_a_folder_for_the_picture_that_is_not_there_is_found_first(run, tmp_path, capfd):
    assert main(["bench", "--run", str(run), "--data", str(tmp_path), "--plot", str(tmp_path / "no" / "x.png")]) == 1
    assert "is not a folder; make it first" in capfd.readouterr().err


def test_the_decoder_counts_only_for_us(run):
    from compress.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(run)
    difference = bench.other_bytes(checkpoint, minify(DECODER.read_text(encoding="utf-8"))) - bench.other_bytes(
        checkpoint)
    assert 1000 < difference < 3000
