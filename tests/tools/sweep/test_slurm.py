"""A sweep on a real Slurm of one node: a trial ends, one has its worker killed, one is requeued, and the sweep itself
is interrupted and started again. Skipped where Slurm is not installed, unless REQUIRE_SLURM is set, as .ci/run does.
"""

import os
import signal

import pytest

from tests.support import slurm_cluster, sweep_tree
from tests.support.sweep_tree import wait_for

pytestmark = pytest.mark.slurm


@pytest.fixture
def slurm():
    if absent := slurm_cluster.missing():
        text = f"no {', '.join(absent)} here: on Debian, apt-get install slurm-wlm munge"
        pytest.fail(text) if os.environ.get("REQUIRE_SLURM") else pytest.skip(text)
    with slurm_cluster.cluster() as folder:
        yield folder
        sweep_tree.stop_all()


def starts(folder) -> list[list[int]]:
    """[pid of the script, pid of its worker, how often Slurm restarted the job] of each start of a trial."""
    path = folder / "starts"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [list(map(int, line.split())) for line in lines if line.endswith("\n")]


def status_of(text: str, run: str) -> str:
    """What `squeue --format='%j %T'` says of a run's job; nothing if it has gone."""
    return dict(line.split() for line in text.splitlines()).get(run, "")


def queue() -> str:
    return slurm_cluster.ask("squeue", "--noheader", "--format=%j %T")


def test_a_killed_worker_a_requeued_job_and_a_sweep_that_was_interrupted(slurm, tmp_path):
    tree = sweep_tree.build(tmp_path / "tree")
    spec = dict(
        parallel=3,
        space={"lr": [0.04], "act": ["relu", "hold"]},
        seeds=[1, 2],
        slurm={"timeout_min": 30, "cpus_per_task": 1},
    )
    sweep = sweep_tree.start(tree, "--cluster", "slurm", **spec)
    holding = wait_for(
        lambda: [
            folder
            for folder in (tree / "runs").glob("test-*")
            if starts(folder) and '"act": "hold"' in (folder / "train.log").read_text()
        ],
        "a trial that holds",
    )
    requeued = holding[0]
    job = slurm_cluster.ask("squeue", "--noheader", f"--name={requeued.name}", "--format=%A").strip()
    slurm_cluster.ask("scontrol", "requeue", job)
    wait_for(lambda: status_of(queue(), requeued.name) == "PENDING", "the requeued job to wait")

    [killed] = wait_for(
        lambda: [
            folder
            for folder in (tree / "runs").glob("test-*")
            if folder != requeued and starts(folder) and '"act": "hold"' in (folder / "train.log").read_text()
        ],
        "the other trial that holds",
    )
    os.kill(starts(killed)[0][1], signal.SIGKILL)
    wait_for(
        lambda: (
            (tree / "runs/ledger.jsonl").exists()
            and killed.name in {row["run"] for row in sweep_tree.rows(tree, "crash")}
        ),
        "the crash on the log",
    )
    assert status_of(queue(), requeued.name) == "PENDING"  # the crash of one is nothing to the other

    sweep.send_signal(signal.SIGINT)
    left = sweep_tree.end(sweep, code=130)
    assert f"scancel --name={requeued.name}" in left["text"]
    assert status_of(queue(), requeued.name) == "PENDING"  # left where it is

    (tree / "go").touch()
    slurm_cluster.ask("scontrol", "update", f"jobid={job}", "StartTime=now")  # Slurm would wait for two minutes
    result = sweep_tree.end(sweep_tree.start(tree, "--cluster", "slurm", **spec))
    assert f"{requeued.name} is in the queue already" in result["text"]
    assert f"{requeued.name} started" not in result["text"] and f"{killed.name} started" in result["text"]
    assert {run["status"] for run in result["runs"].values()} == {"done"} and len(result["runs"]) == 4
    assert [restarts for _, _, restarts in starts(requeued)] == [0, 1]  # the same job, again
    assert [restarts for _, _, restarts in starts(killed)] == [0, 0]  # another job
    assert {
        len(starts(tree / "runs" / run))
        for run in result["runs"].values()
        for run in [run["run"]]
        if run not in (requeued.name, killed.name)
    } == {1}  # the others were not run again
    assert [row["run"] for row in sweep_tree.rows(tree, "crash")] == [killed.name]
    assert sorted(row["run"] for row in sweep_tree.rows(tree, "score")) == sorted(result["runs"])
