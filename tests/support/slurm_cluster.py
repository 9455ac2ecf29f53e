"""A real Slurm of one node on this machine, for as long as a test needs it: munged, slurmctld and slurmd from Debian's
packages slurm-wlm and munge, with their own configuration and ports, as any user, without systemd and cgroups.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=5
SlurmctldTimeout=600
SlurmdTimeout=600
MessageTimeout=60
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """Programs of Slurm and munge that are not installed."""
    os.environ["PATH"] += os.pathsep + "/usr/sbin"  # where Debian puts daemons, not always in a user's PATH
    return [name for name in PROGRAMS if shutil.which(name) is None]


def user() -> str:
    """Name of the user who runs this."""
    return pwd.getpwuid(os.getuid()).pw_name


def free_ports(count: int) -> list[int]:
    """TCP ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def ask(*command: str) -> str:
    """Standard output of a command of Slurm; an assertion shows what it has to say if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


@contextlib.contextmanager
def cluster():
    """Starts the daemons, points SLURM_CONF at them, yields the folder of their logs; stops all of it and its jobs."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a short path: munge's socket needs one
    daemons: list[subprocess.Popen] = []
    before = os.environ.get("SLURM_CONF")
    try:
        ctld_port, slurmd_port = free_ports(2)
        (folder / "state").mkdir()
        (folder / "spool").mkdir()
        (folder / "key").write_bytes(os.urandom(128))
        (folder / "key").chmod(0o600)
        (folder / "slurm.conf").write_text(
            CONFIG.format(
                host=socket.gethostname().split(".")[0],
                user=user(),
                folder=folder,
                ctld_port=ctld_port,
                slurmd_port=slurmd_port,
            )
        )
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        munged = [
            "munged",
            "--foreground",
            "--force",
            f"--socket={folder}/munge.socket",
            f"--key-file={folder}/key",
            f"--log-file={folder}/munged.log",
            f"--pid-file={folder}/munged.pid",
            f"--seed-file={folder}/munged.seed",
        ]
        for command in (munged, ["slurmctld", "-D"], ["slurmd", "-D"]):
            with open(folder / f"{command[0]}.out", "wb") as out:
                daemons.append(
                    subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True)
                )
            if command is munged:
                wait_until(lambda: (folder / "munge.socket").exists(), daemons, folder)
        wait_until(
            lambda: (
                "idle" in subprocess.run(["sinfo", "--noheader", "--format=%T"], capture_output=True, text=True).stdout
            ),
            daemons,
            folder,
        )
        yield folder
    finally:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(["scancel", "--full", "--signal=KILL", f"--user={user()}"], timeout=20, capture_output=True)
            wait_for_jobs()
        for daemon in reversed(daemons):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGTERM)
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(daemon.pid, signal.SIGKILL)
                daemon.wait()
        os.environ.pop("SLURM_CONF")
        if before is not None:
            os.environ["SLURM_CONF"] = before
        shutil.rmtree(folder, ignore_errors=True)


def wait_until(ready, daemons: list[subprocess.Popen], folder: Path) -> None:
    """Waits for ready(); an assertion shows the logs if a daemon ends or nothing comes of it."""
    end = time.monotonic() + 120
    while not ready():
        alive = all(daemon.poll() is None for daemon in daemons)
        logs = [path.read_text(errors="replace")[-1500:] for path in (*folder.glob("*.log"), *folder.glob("*.out"))]
        assert alive and time.monotonic() < end, "Slurm does not start:\n" + "\n".join(logs)
        time.sleep(0.1)


def wait_for_jobs() -> None:
    """Waits until no job is left, for a while."""
    end = time.monotonic() + 20
    while time.monotonic() < end and subprocess.run(["squeue", "--noheader"], capture_output=True, timeout=20).stdout:
        subprocess.run(["scancel", f"--user={user()}"], timeout=20, capture_output=True)
        time.sleep(0.3)
