"""train_gpt.py: a run has a folder of its own, rank 0 names it, and nobody else trains into it meanwhile.

Not covered: file systems without locks; runs that are really killed (tests/reliability).
"""

import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

import train_gpt as t
from tests.support import ROOT
from tests.support.durable import recorded
from tests.support.small_runs import ENVIRONMENT, MAIN, arguments, make_tokens, two_ranks, write_shard


@pytest.fixture(scope="module")
def config():
    return t.parse_config(["--preset=tiny", "--seed=7"], {})


def test_runs_of_one_second_have_folders_of_their_own(monkeypatch, tmp_path, config):
    monkeypatch.chdir(tmp_path)
    moment = time.gmtime(0)
    monkeypatch.setattr(time, "gmtime", lambda *_: moment)
    opened = [t.open_folder(config, 1) for _ in range(3)]
    names = [folder.name for folder, _, _ in opened]
    assert names == ["tiny-19700101-000000-s7", "tiny-19700101-000000-s7-2", "tiny-19700101-000000-s7-3"]


def test_a_folder_is_one_runs_alone_while_it_trains(tmp_path, config):
    config = replace(config, run_dir=str(tmp_path / "run"))
    folder, _, log = t.open_folder(config, 1)
    (folder / "metrics.jsonl").write_text("mine")
    with pytest.raises(t.RunError, match="another run is training into it"):
        t.open_folder(config, 1)
    assert (folder / "metrics.jsonl").read_text() == "mine"
    log.close()
    t.open_folder(config, 1)[2].close()  # that run was cut off
    assert not (folder / "metrics.jsonl").exists() and (folder / "train.log").read_text() == ""
    (folder / "train.log").write_text("all of it")
    (folder / "run.json").touch()
    with pytest.raises(t.RunError, match="already holds a finished run"):
        t.open_folder(config, 1)
    assert (folder / "train.log").read_text() == "all of it"


def test_a_folder_that_cannot_be_made_is_named(tmp_path, config):
    (tmp_path / "file").touch()
    with pytest.raises(t.RunError, match=f"cannot write {tmp_path}/file/run: Not a directory"):
        t.open_folder(replace(config, run_dir=str(tmp_path / "file/run")), 1)


def test_a_resumed_run_takes_the_newest_state_that_all_ranks_have(tmp_path, config):
    config = replace(config, run_dir=str(tmp_path))
    assert t.open_folder(config, 2)[:2] == (tmp_path, "")
    for name in "90_0of2 90_1of2 100_0of2 100_1of2 110_0of2".split():
        (tmp_path / f"resume_{name}.pt").touch()
    assert t.open_folder(config, 2)[:2] == (tmp_path, "100")
    with pytest.raises(t.RunError, match="another number of ranks"):
        t.open_folder(config, 3)


def test_what_a_resumed_run_writes_again_is_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    t.cut_back(path, 20)
    assert not path.exists()
    rows = ['{"step": 10, "loss": 2.0}\n', '{"step": 20, "loss": 1.9}\n', '{"step": 30, "loss": 1.8}\n', '{"step": 3']
    path.write_text("".join(rows))
    t.cut_back(path, 20)
    assert path.read_text() == "".join(rows[:2]) and [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_row_that_is_none_is_named(tmp_path):
    for row in (b"[]", b"{}", b'{"step": "x"}', b"\xff", b"[" * 100_000):
        (tmp_path / "metrics.jsonl").write_bytes(row + b"\n")
        with pytest.raises(t.RunError, match="metrics.jsonl has a row that is none: remove it"):
            t.cut_back(tmp_path / "metrics.jsonl", 20)


def test_a_file_that_is_no_step_is_passed_by(tmp_path, config):
    for name in "10_0of1 x_0of1 -3_0of1".split():
        (tmp_path / f"resume_{name}.pt").touch()
    folder, newest, log = t.open_folder(replace(config, run_dir=str(tmp_path)), 1)
    log.close()
    assert newest == "10"


IDENTITY = {"seed": 7, "lr": 0.5}


@pytest.mark.parametrize(
    "saved, why",
    [
        (b"PK", "cannot be read"),
        ([IDENTITY], "cannot be read"),
        ({"identity": 3}, "cannot be read"),
        ({"identity": {"seed": torch.ones(2), "lr": 0.5}}, "has another seed"),
        ({"identity": {"seed": 7.0, "lr": 0.5}}, "has another seed"),
        ({"identity": {"lr": 0.25}}, "has another seed, lr"),
    ],
)
def test_a_state_of_no_run_or_another_is_one_line(tmp_path, saved, why):
    path = tmp_path / "resume_1_0of1.pt"
    path.write_bytes(saved) if isinstance(saved, bytes) else torch.save(saved, path)
    with pytest.raises(t.RunError, match=f"resume_1_0of1.pt {why}: remove it to train from the start"):
        t.read_state(path, IDENTITY, torch.device("cpu"))
    torch.save({"identity": IDENTITY, "used": 1.0}, path)
    assert t.read_state(path, IDENTITY, torch.device("cpu"))["used"] == 1.0


@pytest.mark.parametrize(
    "value",
    [
        {"a": [torch.ones(2), 3]},
        {"a": [torch.ones(2, dtype=torch.float64), 3], "b": 0.5},
        {"a": [torch.ones(1, 2), 3], "b": 0.5},
        {"a": [torch.ones(2, device="meta"), 3], "b": 0.5},
        {"a": [torch.ones(2).to_sparse(), 3], "b": 0.5},
        {"a": [[1.0, 1.0], 3], "b": 0.5},
        {"a": [torch.ones(2), True], "b": 0.5},
        {"a": (torch.ones(2), 3), "b": 0.5},
        {"a": [torch.ones(2), 3, 3], "b": 0.5},
        {"a": [torch.ones(2), 3], "b": 1},
        [],
        None,
    ],
)
def test_a_state_has_the_types_keys_and_shapes_of_the_runs_own(value):
    own = {"a": [torch.zeros(2), 4], "b": 0.25}
    assert t.like({"a": [torch.ones(2), 3], "b": 0.5}, own) and not t.like(value, own)


def test_what_is_saved_is_on_the_disk_before_it_has_its_name(monkeypatch, tmp_path):
    done = recorded(monkeypatch)
    t.write_whole(tmp_path / "resume_10_0of1.pt", b"state")
    assert done == [("fsync", "resume_10_0of1.pt.part"), ("replace", "resume_10_0of1.pt.part")]


@pytest.mark.skipif(sys.platform != "linux", reason="no signal for a dead parent")
def test_a_rank_ends_with_the_torchrun_that_was_killed():
    rank = "import time, train_gpt as t; t.train = lambda *_: (print('up', flush=True), time.sleep(600)); t.main([])"
    torchrun = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {rank!r}])"
    variables = ENVIRONMENT | {"TORCHELASTIC_RUN_ID": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", torchrun], env=variables, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    process.kill()
    assert process.stdout.read() == ""  # comes to its end only when nobody can write any more


def test_rank_0_names_the_folder_for_all(tmp_path):
    """The clock of rank 1 shows another second, and both save their state in the folder that rank 0 made. A folder
    that is taken is one line of each rank."""
    data = tmp_path / "data"
    data.mkdir()
    write_shard(data / "train_000000.bin", make_tokens(20_000, 1))
    write_shard(data / "dev_000000.bin", make_tokens(4_000, 2))
    (data / "tokenizer.model").write_bytes(b"t")
    (data / "manifest.json").write_text('{"splits": {"dev": {"raw_bytes": 10000, "tokens": 4000}}}')
    code = (
        "import os, sys, time\nos.chdir(sys.argv.pop(1))\nreal = time.gmtime\n"
        "if os.environ['RANK'] == '1': time.gmtime = lambda *a: real(*(a or (time.time() + 1,)))\n"
    ) + MAIN
    more = ("--max_seconds=0", "--max_steps=6", "--checkpoint_every=3")
    results = two_ranks(code, tmp_path, *arguments(data, "", *more))
    assert [result.returncode for result in results] == [0, 0], results
    [folder] = (tmp_path / "runs").iterdir()
    assert (folder / "run.json").exists() and not list(folder.glob("resume_*"))

    results = two_ranks(code, tmp_path, *arguments(data, folder, *more))
    assert [result.returncode for result in results] == [1, 1]
    for result in results:
        assert "already holds a finished run" in result.stderr and "Traceback" not in result.stderr
