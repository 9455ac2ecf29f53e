"""The benchmark: its arithmetic against numbers made by hand, and a whole run on a model of a few thousand weights.

Not covered: that our coder wins (docs/coder.md has the measurements).
"""

import json
import math

import brotli
import numpy as np
import pytest

from compress import decode
from compress.__main__ import main
from compress.checkpoint import load_checkpoint
from compress.entropy import encode_weights, frequencies, symbols
from compress.lab import bench
from compress.lab.bench import STEPS_TRIED, Point, bytes_at, envelope, newest_run, summary
from compress.minify import DECODER, minify
from compress.quantise import make_plan, quantise
from tests.support.packed import load_run, measured_run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_boxes")]


@pytest.fixture(scope="module")
def run():
    return measured_run()


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
    plan = make_plan(*load_run(run))
    forecast = plan.forecast()
    for target, dial in zip((0.003, 0.03), bench.dials(plan, [0.003, 0.03]), strict=True):
        assert forecast(dial).nats == pytest.approx(target, rel=1e-3)


def test_streams_without_parts_have_the_size_of_their_entropy(run):
    encoded = encode_weights(quantise(make_plan(*load_run(run)), 0.05))
    lanes, size = encoded.layout.lanes, len(encoded.payload)
    coded = symbols(encoded.layout, encoded.model)
    found = 8 * bench.stream_size(coded, lanes)
    table = decode.rans_table(frequencies(coded)).reshape(-1, 4096)
    naive = sum(
        12 - math.log2(np.count_nonzero(table[c] >> 24 == t))
        for step, items in zip(coded.contexts, coded.tokens, strict=True)
        for c, t in zip(step, items, strict=True)
    )
    tables = 8 * len(brotli.compress(frequencies(coded), quality=11))
    assert naive - 16 * lanes <= found - tables <= naive + 16 * lanes
    codes = np.concatenate([matrix.codes.ravel() for matrix in encoded.layout.matrices.values()])
    change = 8 * (bench.without_contexts(encoded) - size) / codes.size
    assert -0.5 < change < 1 and change != 0
    assert abs(bench.without_side(encoded) - size) < 1500


@pytest.mark.slow
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
    checkpoint = load_checkpoint(run)
    difference = bench.other_bytes(checkpoint, minify(DECODER.read_text(encoding="utf-8"))) - bench.other_bytes(
        checkpoint
    )
    assert 1000 < difference < 3000
