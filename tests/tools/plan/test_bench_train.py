"""golf bench-train against scripts with a faked clock, so that rates are known; a profile against its total."""

import json
from pathlib import Path

import pytest

from golf.__main__ import main as golf
from golf.files import Failure
from tools.plan import bench_train

STUB = """
import time
from types import SimpleNamespace
now = [0.0]
time.perf_counter = lambda: now[0]
class Clock:
    def start(self): pass
    def tick(self): raise AssertionError("the benchmark did not take the place of the clock")
class Optimizers:
    def step(self): now[0] += SECONDS
def parse_config(argv, environment):
    fields = dict(a[2:].split("=") for a in argv)
    shape = dict(vocab_size=64, seq_len=8, num_layers=1, model_dim=4, num_heads=1, num_kv_heads=1, mlp_mult=2.0,
                 batch_tokens=DEFAULT_BATCH, micro_batch_tokens=16)
    return SimpleNamespace(**{k: type(v)(fields.get(k, v)) for k, v in shape.items()})
def main(argv):
    clock, optimizers = Clock(), Optimizers()
    clock.start()
    while True:
        optimizers.step()
        clock.tick()
if __name__ == "__main__":
    raise SystemExit("main was started by the file itself")
"""


def stub(path: Path, seconds: float, batch: int) -> Path:
    path.write_text(f"SECONDS, DEFAULT_BATCH = {seconds}, {batch}\n{STUB}")
    return path


def test_ratio_of_known_rates_at_the_baselines_shape(tmp_path):
    old, new = stub(tmp_path / "old.py", 0.5, 32), stub(tmp_path / "new.py", 0.2, 99)
    result = bench_train.measure(old, new, [], rounds=3, steps=2)
    assert result["shape"]["batch_tokens"] == 32
    assert result["ratios"] == pytest.approx([2.5] * 3) and result["ratio"] == pytest.approx(2.5)
    assert result["baseline_tokens_per_second"] == pytest.approx(64)
    assert result["current_tokens_per_second"] == pytest.approx(160)


def test_a_script_that_fails_is_one_line(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("raise ValueError('no such thing')\nif __name__ == '__main__':\n    pass\n")
    with pytest.raises(Failure, match="baseline script ended early: ValueError: no such thing"):
        bench_train.measure(bad, bad, [], rounds=1, steps=1)


def test_profile_accounts_for_all_the_time():
    import torch
    from torch.profiler import ProfilerActivity, profile, record_function

    x = torch.randn(64, 64)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        with record_function("optimizer step"):
            y = x @ x
        torch.nn.functional.scaled_dot_product_attention(*[y[None, None]] * 3)
    result = bench_train.summarise(seen, steps=1)
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
def test_bad_input_is_one_line(arguments, says, monkeypatch, capsys, tmp_path):
    """The second goes through the real train_gpt.py; the baseline is a stub, because only the other one matters."""
    baseline = stub(tmp_path / "old.py", 0.5, 32)
    monkeypatch.setattr(bench_train, "BASELINE", baseline)
    assert exit_status(["bench-train", *arguments]) != 0
    assert says in capsys.readouterr().err


def test_json_is_the_last_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_train, "BASELINE", stub(tmp_path / "old.py", 0.5, 32))
    monkeypatch.setattr(bench_train, "SCRIPT", stub(tmp_path / "new.py", 0.25, 32))
    assert golf(["bench-train", "--rounds=1", "--steps=1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["ratio"] == pytest.approx(2.0)
