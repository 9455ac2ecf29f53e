"""`compress inspect` of a run: losses and bounds against formulas written out."""

import json

import pytest
import torch

from compress.decode import decode_weights
from tests.support.packed import compress_cli, load_run, measured_run, weights_section

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def packed():
    return measured_run()


def test_inspect_of_a_run_adds_its_spread_and_losses(packed, tmp_path):
    picture = tmp_path / "steps.png"
    done = compress_cli("inspect", packed, "--json", "--plot", picture)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert picture.read_bytes()[:4] == b"\x89PNG"
    payload = weights_section(packed / "model.golf")
    model, statistics = load_run(packed)
    weights = decode_weights(payload)
    error = (model["up.weight"] - weights["up.weight"]).double()
    gradients = statistics.linear["up.weight"]["output_gradient"].double()
    loss = 0.5 * (gradients * torch.einsum("rc,cd,rd->r", error, statistics.taps["up"].double(), error)).sum().item()
    losses = {row["name"]: row["loss"] for row in result["predicted_losses"]}
    assert losses["up.weight"] == pytest.approx(loss, rel=1e-6) and set(losses) == {
        "embed.weight",
        "up.weight",
        "down.weight",
    }
    bound = result["weights_bound"]
    assert bound["bytes"] == len(payload) and 0 < bound["distance"] < 0.5
    assert "gain at most" in compress_cli("inspect", packed).stdout


def test_a_file_that_cannot_be_read_is_left_out(packed, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("checkpoint.pt", "statistics.pt"):
        (folder / name).write_bytes((packed / name).read_bytes())
    (folder / "model.golf").write_bytes(b"GOLF")
    done = compress_cli("inspect", folder, "--json")
    assert done.returncode == 0 and "is left out: file cut short" in done.stderr
    assert set(json.loads(done.stdout)) == {"spread"}
