"""golf bench-train against scripts of known speed; a profile against its total."""

import contextlib
import json
from pathlib import Path

import pytest

from golf.__main__ import main as golf
from golf.files import Failure
from tests.support import timed_script
from tools.plan import bench_train

SHAPE = {"vocab_size": 64, "seq_len": 8, "num_layers": 1, "model_dim": 4, "batch_tokens": 32}


class FakeTrainer:
    """A script whose step takes a known time."""

    def __init__(self, seconds: float, arguments: list[str]):
        self.seconds, self.arguments = seconds, arguments
        self.shape = SHAPE

    def turn(self, steps: int) -> float:
        return steps * self.seconds

    def profile(self, steps: int) -> list[tuple[str, float, float]]:
        return [("aten::mm", 1e6 * self.seconds * steps, 1e6 * self.seconds * steps)]


@pytest.fixture
def started(monkeypatch):
    """Scripts are made up: {name: FakeTrainer} of those that were started; a step takes 0.5 s, then 0.2 s."""
    running: dict[str, FakeTrainer] = {}

    @contextlib.contextmanager
    def trainers(trust):
        def start(name, script, arguments, data):
            running[name] = FakeTrainer(0.2 if running else 0.5, arguments)
            return running[name]

        yield start

    monkeypatch.setattr(bench_train, "trainers", trainers)
    return running


@pytest.fixture(autouse=True)
def data_set(tmp_path, monkeypatch):
    """A stand-in for the baseline's data set, which a fresh clone has not built; returns its folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    monkeypatch.setattr(bench_train, "DATA", folder)
    return folder


def test_ratio_of_known_rates_at_the_baselines_shape(started):
    result = bench_train.measure(Path("old.py"), Path("new.py"), ["--xsa=true"], rounds=3, steps=2)
    assert result["ratios"] == pytest.approx([2.5] * 3) and result["ratio"] == pytest.approx(2.5)
    assert result["baseline_tokens_per_second"] == pytest.approx(64)
    assert result["current_tokens_per_second"] == pytest.approx(160)
    current = started["the current script"].arguments
    assert {f"--{key}={value}" for key, value in SHAPE.items()} <= set(current)
    assert current.index("--xsa=False") < current.index("--xsa=true")  # the user's fields have the last word
    assert result["profile"]["current"]["operators"]["matrix products"] == pytest.approx(200)


def test_a_script_that_fails_is_one_line(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("raise ValueError('no such thing')\nif __name__ == '__main__':\n    pass\n")
    with pytest.raises(Failure, match="the baseline's script ended early: ValueError: no such thing"):
        bench_train.measure(bad, bad, [], rounds=1, steps=1)


def test_profile_accounts_for_all_the_time():
    import torch
    from torch.profiler import ProfilerActivity, profile, record_function

    x = torch.randn(64, 64)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        with record_function("optimizer step"):
            y = x @ x
        torch.nn.functional.scaled_dot_product_attention(*[y[None, None]] * 3)
    rows = [(row.key, row.self_cpu_time_total, row.cpu_time_total) for row in seen.key_averages()]
    result = bench_train.summarise(rows, steps=1)
    total = sum(row.self_cpu_time_total for row in seen.key_averages()) / 1e3
    assert sum(result["parts"].values()) == pytest.approx(total)
    assert sum(result["operators"].values()) == pytest.approx(total)
    products = sum(row.self_cpu_time_total for row in seen.key_averages() if row.key == "aten::mm") / 1e3
    assert result["operators"]["matrix products"] >= products > 0 and result["operators"]["attention"] > 0


def exit_status(arguments: list[str]) -> int:
    """Of `golf ARGUMENTS`, also where argparse ends it."""
    try:
        return golf(arguments)
    except SystemExit as stop:
        return stop.code


@pytest.mark.parametrize("arguments, says", [
    (["--rounds=0"], "--rounds and --steps must be at least 1"),
    (["--rounds=1", "--steps=1", "--nonsense=3"], "unknown argument '--nonsense=3'"),
])  # fmt: skip
def test_bad_input_is_one_line(arguments, says, monkeypatch, capsys, data_set, tmp_path):
    """The second goes through the real train_gpt.py; the baseline is a stand-in, because only the other one matters."""
    monkeypatch.setattr(bench_train, "BASELINE", timed_script.write(tmp_path / "old.py", data_set))
    assert exit_status(["bench-train", *arguments]) != 0
    assert says in capsys.readouterr().err


def test_without_the_data_set_it_says_what_to_do(data_set):
    (data_set / "manifest.json").unlink()
    with pytest.raises(Failure, match="no such data set here.*golf data embedded"):
        bench_train.measure(Path("old.py"), Path("new.py"), [], rounds=1, steps=1)


def test_json_is_the_last_line(started, capsys):
    assert golf(["bench-train", "--rounds=1", "--steps=1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["ratio"] == pytest.approx(2.5)
