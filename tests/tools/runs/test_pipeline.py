"""golf run in a small tree whose stages are stubs: order, arguments, reuse, failures, table and last lines.

The stages are programs of their own; the command is one where a test is about its process. Not covered: the stages
themselves (tests/train/test_tiny.py runs the real ones).
"""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from golf.__main__ import main
from tests.support import HALF_WRITTEN, ROOT
from tools.runs import pipeline

COMMON = """
import json, os, sys
from pathlib import Path
def call():
    with open("calls.jsonl", "a") as file:
        file.write(json.dumps([Path(sys.argv[0]).name, *sys.argv[1:]]) + "\\n")
    if os.environ.get("BREAK") == Path(sys.argv[0]).name:
        sys.exit(3)
"""
TRAIN = """
call()
flags = dict(argument[2:].split("=", 1) for argument in sys.argv[1:])
run = Path(flags["run_dir"])
assert not (run / "run.json").exists()  # as the real script does
run.mkdir(parents=True, exist_ok=True)
for name in ("train.log", "checkpoint.pt", "statistics.pt"):
    (run / name).write_text(name)
rows = [{"step": i, "elapsed": i, "loss": 5 - i / 50} for i in range(99)]
(run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
if os.environ.get("WAIT"):
    import signal, time
    def interrupted(*_):
        time.sleep(0.5)  # long enough for a caller that does not wait to be gone
        (run / "saved").touch()
        sys.exit(130)
    signal.signal(signal.SIGINT, interrupted)
    Path("waiting").touch()
    time.sleep(60)
(run / "run.json").write_text(json.dumps({
    "seed": 1337, "clock": {"compile": 7.25, "train": 18.5},
    "steps": 1200, "tokens": 9830400, "tokens_per_second": 81920,
    "mfu": None if os.environ.get("NO_MFU") else 0.287, "stopped": os.environ.get("STOPPED", "clock")}))
"""
PACK = """
if sys.argv[1] == "size":
    print("a table for people")
    print(json.dumps({"sections": {"CODE": 1000, "WGTS": 2000}}))
elif sys.argv[1] == "code":
    if os.environ.get("NO_CODE"):
        sys.exit("golf code: the training script cannot be minified: line 7: too deep")
    print(json.dumps({"code_bytes": 1000}))
else:
    call()
    (Path(sys.argv[2]) / "model.golf").write_bytes(bytes(3000))
"""
SCORE = """
call()
Path(sys.argv[1]).with_name("eval.json").write_text(json.dumps({
    "bpb": 1.87654, "bpb_interval": [1.85, 1.91], "documents": 1234, "raw_bytes": 1000000, "scope": "document",
    "clock": {"decode": 0.5, "score": 21.5}}))
"""
DATA = """
def main(argv):
    sys.argv = ["data", *argv]
    call()
    folder = Path("data/embedded_sp2048_case")
    folder.mkdir(parents=True)
    with open(folder / "dev_docs.jsonl", "w") as file:
        for i in range(300):
            text = f"Number {i * i * 7919} is \\u00e9 not {i}.\\n"
            file.write(json.dumps({"id": str(i), "source": "s", "text": text}) + "\\n")
    (folder / "manifest.json").write_text("{}")
    return 0
"""


@pytest.fixture
def tree(tmp_path) -> Path:
    """A copy of golf run and what it imports, with stubs for the five stages. Byte code goes along, for speed."""
    for package in ("golf", "tools"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=HALF_WRITTEN)
    (tmp_path / "compress").mkdir()
    (tmp_path / "compress/__init__.py").touch()
    stubs = {
        "tools/data/cli.py": DATA,
        "train_gpt.py": TRAIN,
        "compress/__main__.py": PACK,
        "eval_heldout.py": SCORE,
    }
    for name, text in stubs.items():
        (tmp_path / name).write_text(COMMON + text)
    return tmp_path


def run(tree: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """What `golf run` in this process ends with. What the stages print is not in it."""
    printed, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "ROOT", tree)
        patch.chdir(tree)
        for name, value in ({"COLUMNS": "160"} | environment).items():
            patch.setenv(name, value)
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
            try:
                code = main(["run", "--budget", "20", *arguments])
            except SystemExit as stop:  # argparse
                code = stop.code
    return subprocess.CompletedProcess(arguments, code, printed.getvalue(), errors.getvalue())


def as_program(tree: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "golf", "run", "--budget", "20", *arguments],
        cwd=tree,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "160"},
    )


def calls(tree: Path) -> list[list[str]]:
    """What the stubs were called with since the last look."""
    path = tree / "calls.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return [json.loads(line) for line in lines]


def run_folder(tree: Path) -> Path:
    [folder] = (tree / "runs").glob("pocket-*")
    return folder


def test_stages_in_order_then_table_and_last_lines(tree):
    done = as_program(tree, "--json")
    assert done.returncode == 0, done.stderr
    folder = run_folder(tree)
    assert re.fullmatch(r"pocket-20s-[0-9a-f]{8}", folder.name)
    name, data = f"runs/{folder.name}", "data/embedded_sp2048_case"
    assert calls(tree) == [
        ["data", "embedded", "--variant", "sp2048_case"],
        ["train_gpt.py", "--preset=pocket", "--max_seconds=20", f"--data_dir={data}", f"--run_dir={name}"],
        ["__main__.py", "pack", name],
        ["eval_heldout.py", f"{name}/model.golf", "--data", data, "--split", "dev"],
    ]
    *table, bpb, size, last = done.stdout.splitlines()
    assert (bpb, size) == ("val_bpb: 1.8765", "artifact_bytes: 3000")

    text = b"".join(json.loads(line)["text"].encode() for line in (tree / data / "dev_docs.jsonl").open())
    xz = 8 * len(subprocess.check_output(["xz", "-9e"], input=text)) / len(text) if shutil.which("xz") else None
    summary = json.loads(last)
    if xz:
        assert summary["xz_bits_per_byte"] == pytest.approx(xz, rel=0.01)
    wall = summary["clock"].pop("stages")
    assert list(wall) == ["data", "train", "pack", "score"] and all(seconds > 0 for seconds in wall.values())
    files = [
        "checkpoint.pt",
        "eval.json",
        "loss.png",
        "metrics.jsonl",
        "model.golf",
        "run.json",
        "statistics.pt",
        "train.log",
    ]
    assert summary == {
        "format": 1,
        "run_dir": name,
        "seed": 1337,
        "split": "dev",
        "val_bpb": 1.87654,
        "bpb_interval": [1.85, 1.91],
        "documents": 1234,
        "raw_bytes": 1000000,
        "scope": "document",
        "xz_bits_per_byte": summary["xz_bits_per_byte"],
        "artifact_bytes": 3000,
        "headroom_bytes": 247_000,
        "sections": {"CODE": 1000, "WGTS": 2000},
        "steps": 1200,
        "tokens": 9830400,
        "tokens_per_second": 81920,
        "mfu": 0.287,
        "clock": {"train": {"compile": 7.25, "train": 18.5}, "score": {"decode": 0.5, "score": 21.5}},
        "files": [f"{name}/{file}" for file in files],
    }
    shown = "\n".join(table)
    for piece in (
        "1.8765",
        "95% interval 1.8500 to 1.9100 over 1,234 documents",
        "3,000 B",
        "247,000 under the cap",
        "CODE",
        "1,000 B",
        "81,920 tokens/s",
        "28.7%",
        "compile",
        "7.2 s",
        "21.5 s",
        f"{summary['xz_bits_per_byte']:.4f}",
        f"{name}/",
        *files,
    ):
        assert piece in shown, piece


def test_second_run_reuses_and_stale_results_are_made_again(tree):
    first = run(tree)
    calls(tree)
    second = run(tree)
    assert second.returncode == 0 and calls(tree) == []
    assert [line.split(":")[0] for line in second.stdout.splitlines() if "reusing" in line] == [
        "== data",
        "== train",
        "== pack",
        "== score",
    ]
    assert second.stdout.splitlines()[-2:] == first.stdout.splitlines()[-2:]
    name, pack, score = f"runs/{run_folder(tree).name}", "__main__.py", "eval_heldout.py"
    for changed, made_again in (
        (f"{name}/checkpoint.pt", [pack, score]),
        (f"{name}/statistics.pt", [pack, score]),
        (f"{name}/model.golf", [score]),
        ("data/embedded_sp2048_case/dev_docs.jsonl", [score]),
        ("compress/__init__.py", [pack, score]),
        ("golf/container.py", [pack, score]),
        ("golf/box/worker.py", [pack, score]),
        (f"{name}/loss.png", []),
    ):
        for path in tree.rglob("*.*"):
            os.utime(path, (1e9, 1e9))
        os.utime(tree / changed, (1e9 + 1, 1e9 + 1))
        run(tree)
        assert [call[0] for call in calls(tree)] == made_again, changed


@pytest.mark.parametrize("path", ["train_gpt.py", "data/embedded_sp2048_case/manifest.json"])
def test_other_script_or_data_is_another_run(tree, path):
    run(tree)
    calls(tree)
    with open(tree / path, "a") as file:
        file.write(" \n")
    run(tree)
    assert len(list((tree / "runs").glob("pocket-*"))) == 2
    assert [call[0] for call in calls(tree)] == ["train_gpt.py", "__main__.py", "eval_heldout.py"]


def test_stopped_run_is_trained_again(tree):
    run(tree, STOPPED="sigterm")
    assert [call[0] for call in calls(tree)] == ["data", "train_gpt.py", "__main__.py", "eval_heldout.py"]
    assert run(tree).returncode == 0
    assert [call[0] for call in calls(tree)] == ["train_gpt.py", "__main__.py", "eval_heldout.py"]
    assert len(list((tree / "runs").glob("pocket-*"))) == 1


@pytest.mark.parametrize(
    "script, stage",
    [("data", "data"), ("train_gpt.py", "train"), ("__main__.py", "pack"), ("eval_heldout.py", "score")],
)
def test_failing_stage_is_named_and_later_ones_do_not_run(tree, script, stage):
    done = run(tree, BREAK=script)
    assert done.returncode == 1
    assert done.stderr == f"golf run: the {stage} stage failed with exit code 3 (see its output above)\n"
    assert calls(tree)[-1][0] == script and "val_bpb" not in done.stdout


def test_a_script_that_cannot_be_packed_is_not_trained(tree):
    command = [sys.executable, "-m", "golf", "run"]  # a program: the packer's is found from the root of its sources
    done = subprocess.run(command, cwd=tree, env=os.environ | {"NO_CODE": "1"}, text=True, capture_output=True)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].endswith("cannot be minified: line 7: too deep")
    assert [call[0] for call in calls(tree)] == ["data"] and "Traceback" not in done.stderr


def test_interrupt_waits_for_the_stage_and_is_one_line(tree):
    process = subprocess.Popen(
        [sys.executable, "-m", "golf", "run"],
        cwd=tree,
        env=os.environ | {"WAIT": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    while not (tree / "waiting").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C does
    process.wait()
    assert (run_folder(tree) / "saved").exists()
    error = process.stderr.read()
    assert process.returncode == 130 and error.startswith("golf run: interrupted") and error.count("\n") == 1


def test_a_run_goes_on_when_its_reader_has_gone(tree):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "golf", "run", "--budget", "20"]
    done = subprocess.run(command, cwd=tree, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 0 and "Traceback" not in done.stderr and "Broken pipe" not in done.stderr
    assert [call[0] for call in calls(tree)] == ["data", "train_gpt.py", "__main__.py", "eval_heldout.py"]


def test_sigterm_to_golf_run_alone_ends_its_stage_too(tree):
    command = [sys.executable, "-m", "golf", "run", "--budget", "20"]
    process = subprocess.Popen(command, cwd=tree, env=os.environ | {"WAIT": "1"}, stderr=subprocess.PIPE, text=True)
    while not (tree / "waiting").exists():
        assert process.poll() is None
        time.sleep(0.05)
    [child] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.terminate()
    assert process.communicate()[1].startswith("golf run: interrupted") and process.returncode == 130
    assert not Path("/proc", child).exists()


def test_a_stage_ends_with_the_golf_run_that_was_killed(tree):
    command = [sys.executable, "-m", "golf", "run", "--budget", "20"]
    process = subprocess.Popen(command, cwd=tree, env=os.environ | {"WAIT": "1"}, stdout=subprocess.DEVNULL)
    while not (tree / "waiting").exists():
        assert process.poll() is None
        time.sleep(0.05)
    [child] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    while Path("/proc", child).exists() and "(zombie)" not in Path("/proc", child, "status").read_text():
        time.sleep(0.05)
    assert not (run_folder(tree) / "saved").exists()
    assert run(tree).returncode == 0 and not list((tree / "runs").glob(".*"))


def test_two_at_once_make_the_run_once(tree):
    assert run(tree).returncode == 0
    shutil.rmtree(tree / "runs")
    calls(tree)
    command = [sys.executable, "-m", "golf", "run", "--budget", "20"]
    both = [
        subprocess.Popen(command, cwd=tree, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)
    ]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted(name for name, *_ in calls(tree)) == [
        "__main__.py",
        "eval_heldout.py",
        "train_gpt.py",
    ]
    assert not list((tree / "runs").glob(".*"))


def test_unknown_peak_rate_is_said_so(tree):
    done = run(tree, NO_MFU="1")
    assert done.returncode == 0 and re.search(r"model flop utilisation\s+.\s+unknown", done.stdout)


@pytest.mark.parametrize("budget", ["0", "-1", "nan", "inf", "soon"])
def test_bad_budget_is_usage(tree, budget):
    done = run(tree, "--budget", budget)
    assert done.returncode == 2 and "not a positive number of seconds" in done.stderr and calls(tree) == []
