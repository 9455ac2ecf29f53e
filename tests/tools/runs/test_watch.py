"""golf watch on hand-made folders that grow, break and go away while it looks; its curve against a plain one."""

import fcntl
import io
import json
import os
import shutil
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tools.runs import watch
from tools.runs.folder import QUIET_SECONDS

CONFIG = {"max_seconds": 100.0, "max_steps": 0, "seed": 1}


def begin(runs, name, config=CONFIG):
    folder = runs / name
    folder.mkdir(parents=True)
    (folder / "train.log").write_text(f'config = "of the script"\n# source_sha256 0\nconfig {json.dumps(config)}\nstep')
    return folder


def log(folder, *rows, end="\n"):
    with open(folder / "metrics.jsonl", "a") as file:
        file.write("\n".join(json.dumps(row) for row in rows) + end)


def row(step, **more):
    return {"step": step, "elapsed": step * 10.0, "loss": 5 - step / 10, "tokens_per_second": 1234, "mfu": 0.25} | more


def look(runs, capsys):
    """What --json shows: (running, ended) by name."""
    assert watch.main([str(runs), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    return [{run["run"]: run for run in result[key]} for key in ("running", "ended")]


def picture(watcher, width=100, height=60):
    out = io.StringIO()
    Console(file=out, width=width).print(watch.frame(watcher, width, height))
    return out.getvalue()


def test_a_run_from_its_first_line_to_its_score(tmp_path, capsys):
    runs = tmp_path / "runs"
    folder = begin(runs, "a")
    watcher = watch.Watch(runs)
    assert look(runs, capsys)[0]["a"]["state"] == "starting" and "starting" in picture(watcher)
    log(folder, row(1), row(2))
    log(folder, row(3, dev_bpb=2.5), row(4))
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "elapsed": 50.0, "lo')  # being written
    run = look(runs, capsys)[0]["a"]
    assert (run["state"], run["step"], run["loss"], run["dev_bpb"]) == ("training", 4, 4.6, 2.5)
    assert run["fraction"] == pytest.approx(0.4) and run["eta_seconds"] == pytest.approx(60)
    assert run["tokens_per_second"] == 1234 and run["clock"] == {"train": 40.0}
    shown = picture(watcher)
    assert "40%" in shown and "eta 1:00" in shown and "25.0%" in shown and "2.5000 at 0:30" in shown
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('ss": 4.5}\n')  # the rest of the line
    watcher.look()
    assert [r["step"] for r in watcher.runs["a"].rows] == [1, 2, 3, 4, 5]
    log(folder, {"step": 9, "elapsed": 95.0, "loss": 4.1, "dev_bpb": 2.1})
    (folder / "run.json").write_text(
        json.dumps(
            {
                "stopped": "clock",
                "config": CONFIG,
                "clock": {"compile": 5.0, "train": 95.0},
                "tokens_per_second": 1300,
                "mfu": 0.5,
            }
        )
    )
    ended = look(runs, capsys)[1]["a"]
    assert (ended["state"], ended["dev_bpb"], ended["bpb"]) == ("clock", 2.1, None)
    assert "nothing is running" in picture(watcher)
    (folder / "eval.json").write_text(json.dumps({"bpb": 1.75, "clock": {"total": 12.0}}))
    assert look(runs, capsys)[1]["a"]["clock"] == {"compile": 5.0, "train": 95.0, "score": 12.0}
    line = next(line for line in picture(watcher).splitlines() if line.startswith("a "))
    assert line.split() == ["a", "clock", "1.7500", "2.1000", "1,300", "50.0%", "5", "95", "-", "12"]


def test_steps_instead_of_a_clock(tmp_path, capsys):
    log(begin(tmp_path, "a", {"max_seconds": 0.0, "max_steps": 8}), row(2))
    run = look(tmp_path, capsys)[0]["a"]
    assert run["fraction"] == 0.25 and run["eta_seconds"] == pytest.approx(60)


def test_a_quiet_run_whose_log_is_locked_still_runs(tmp_path, capsys):
    """It compiles, or its machine is slow."""
    folder = begin(tmp_path, "a")
    log(folder, row(1))
    old = time.time() - QUIET_SECONDS - 5
    for path in folder.iterdir():
        os.utime(path, (old, old))
    with open(folder / "train.log", "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert look(tmp_path, capsys)[0]["a"]["state"] == "training"
    assert look(tmp_path, capsys)[1]["a"]["state"] == "crashed"


def test_a_quiet_run_is_crashed_until_it_writes_again(tmp_path, capsys):
    folder = begin(tmp_path, "a")
    log(folder, row(1))
    watcher = watch.Watch(tmp_path)
    assert len(watcher.look()[0]) == 1
    old = time.time() - QUIET_SECONDS - 5
    for path in folder.iterdir():
        os.utime(path, (old, old))
    assert look(tmp_path, capsys)[1]["a"]["state"] == "crashed"
    assert len(watcher.look()[0]) == 0 and "crashed after: config {" in picture(watcher)
    log(folder, row(2))
    assert [run.latest("step") for run in watcher.look()[0]] == [2]


def test_restarted_deleted_and_broken_folders(tmp_path):
    folder = begin(tmp_path, "a")
    log(folder, row(1), row(2), row(3))
    watcher = watch.Watch(tmp_path)
    watcher.look()
    (folder / "metrics.jsonl").unlink()
    log(folder, row(1, loss=9.0))  # trained again in the same folder
    watcher.look()
    assert [r["loss"] for r in watcher.runs["a"].rows] == [9.0]
    broken = begin(tmp_path, "b")
    (broken / "metrics.jsonl").write_bytes(b'\xff\xfe\n[1]\n{"step": "x", "elapsed": 1}\n')
    log(broken, row(7))
    (broken / "eval.json").write_text("[")
    (broken / "run.json").mkdir()
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "ledger.jsonl").touch()
    assert {run.name for run in watcher.look()[0]} == {"a", "b"} and watcher.runs["b"].latest("step") == 7
    picture(watcher, width=30)
    shutil.rmtree(folder)
    assert [run.name for run in watcher.look()[0]] == ["b"]
    shutil.rmtree(tmp_path)
    with pytest.raises(watch.Failure):
        watcher.look()


def test_of_thousands_only_new_ones_are_read(tmp_path, monkeypatch):
    for i in range(2000):
        folder = tmp_path / f"r{i}"
        folder.mkdir()
        (folder / "run.json").write_text('{"stopped": "clock", "config": {}}')
    running = begin(tmp_path, "new")
    watcher = watch.Watch(tmp_path)
    assert [len(part) for part in watcher.look()[:2]] == [1, watch.RECENT] and watcher.look()[2] == 2000
    read, read_object = [], watch.read_object
    monkeypatch.setattr(watch, "read_object", lambda path, limit: read.append(path) or read_object(path, limit))
    log(running, row(1))
    (tmp_path / "r7" / "eval.json").write_text('{"bpb": 1.5}')
    [found], _, _ = watcher.look()
    assert found.latest("step") == 1 and {path.parent.name for path in read} == {"r7"}
    assert watcher.runs["r7"].score == {"bpb": 1.5}
    for i in range(40):
        log(begin(tmp_path, f"also{i}"), row(1))
    assert "are running" in picture(watcher, height=40) and picture(watcher, height=40).count("\n") <= 44


def test_no_folder_is_one_line(tmp_path, capsys):
    assert watch.main([str(tmp_path / "none"), "--once"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@given(
    st.lists(st.tuples(st.floats(0, 600), st.floats(1, 9)), min_size=1, max_size=60),
    st.integers(1, 40),
    st.integers(1, 6),
)
def test_the_curve_has_its_points_where_a_plain_plot_has_them(points, width, height):
    top = max(y for _, y in points[len(points) // 20 :])
    clipped = [(x, min(y, top)) for x, y in points]
    xs, ys = zip(*clipped)
    grid = set()
    for x, y in clipped:  # column from the left, row from the top, in dots
        grid.add(
            (
                round((x - min(xs)) / ((max(xs) - min(xs)) or 1) * (2 * width - 1)),
                round((max(ys) - y) / ((max(ys) - min(ys)) or 1) * (4 * height - 1)),
            )
        )
    bits = {0: (0, 0), 1: (0, 1), 2: (0, 2), 6: (0, 3), 3: (1, 0), 4: (1, 1), 5: (1, 2), 7: (1, 3)}  # Unicode: dots 1-8
    lines = watch.braille(points, width, height)
    assert [len(line) for line in lines] == [width] * height
    assert grid == {
        (2 * column + bits[bit][0], 4 * row + bits[bit][1])
        for row, line in enumerate(lines)
        for column, letter in enumerate(line)
        for bit in bits
        if (ord(letter) - 0x2800) >> bit & 1
    }
