"""The box's layers, each attacked from inside by an artifact: where the table says "active" the attack must fail, and
the scorer's side stays clean. Also the allow-list of imports, the list of files, stale directories, --certify.

Not covered: other kernels than the one the tests run on, arm64, and GPUs; the filter for arm64 is only interpreted.
"""

import json
import os
import platform
import re
import shutil
import struct
import subprocess
import sys

import pytest

from golf.box import box, calls, mounts, packages, visible
from golf.children import PR_SET_PDEATHSIG
from golf.files import Failure
from scoring import passes
from scoring import score as scoring_score
from tests.redteam.world import take_out_landlock
from tests.support import light_box
from tests.support.box_walls import take_out
from tests.support.scoring_world import SCRIPT

PRELUDE = """
import ctypes, os, platform
libc = ctypes.CDLL(None, use_errno=True)
def refused(layer, action, errors=(OSError,)):
    try:
        action()
    except errors:
        return
    print("ESCAPED", layer)
    raise RuntimeError("ESCAPED " + layer)
def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0 and ctypes.get_errno() in (1, 13):
        raise PermissionError
"""

# Layer -> what must be refused where it is active. {data}: a held-out file; {outside}: a folder that may be written by
# the user who scores; {pid}: the scorer.
ATTACKS = {
    "Landlock: files": """
refused("reads the held-out text", lambda: open({data!r}).read())
refused("reads the account file", lambda: open("/etc/passwd").read())
refused("reads a package off the list", lambda: open({package!r}).read())
refused("lists a folder", lambda: os.listdir({outside!r}))
refused("writes", lambda: open({outside!r} + "/x", "w"))
refused("removes", lambda: os.remove({outside!r} + "/victim"))
refused("writes its own worker", lambda: open("../worker.py", "w"))
refused("removes the lock", lambda: os.remove("../lock"))
refused("reads the scorer's memory", lambda: open("/proc/{pid}/mem", "rb"))
refused("reads the scorer's environment", lambda: open("/proc/{pid}/environ").read())
open("mine", "w").write("the box's own directory stays usable")
""",
    "own root, read-only": """
import errno, sys
def fill():
    for number in range(3):
        with open("large-" + str(number), "wb") as file:
            for _ in range(100): file.write(bytes(1 << 20))
refused("fills the work folder", fill)
for number in range(3):
    if os.path.exists("large-" + str(number)): os.remove("large-" + str(number))
def many():
    for number in range(20000): open("small-" + str(number), "w").close()
refused("makes files without end", many)
for name in os.listdir("."):
    if name.startswith("small-"): os.remove(name)
for path in (sys.executable, os.__file__, "/dev/null"):
    refused("changes times", lambda: os.utime(path))
    refused("changes modes", lambda: os.chmod(path, 0o755))
    refused("sets attributes", lambda: os.setxattr(path, "user.golf", b"1"))
for path in ("/etc/passwd", "/proc/self", "/sys/kernel", "/usr/bin", "/dev/shm", {outside!r}):
    if os.path.exists(path): raise RuntimeError("ESCAPED sees " + path)
for path in ("/proc/meminfo", "/proc/stat", "/proc/loadavg", "/proc/cpuinfo"):
    if "MHz" in open(path).read(): raise RuntimeError("ESCAPED sees the clock rate")
try: load = os.getloadavg()
except OSError: load = (0.0, 0.0, 0.0)
if load != (0.0, 0.0, 0.0): raise RuntimeError("ESCAPED sees the load")
""",
    "limit on cores": """
import threading
refused("takes another core", lambda: os.sched_setaffinity(0, range(os.cpu_count())))
if len(os.sched_getaffinity(0)) > 2: raise RuntimeError("ESCAPED has more cores than two")
""",
    "own /proc": """
names = [name for name in map(str, range(2, 70000)) if os.path.exists("/proc/" + name)
         and not os.path.exists("/proc/self/task/" + name)]
if names: raise RuntimeError("ESCAPED sees processes " + str(names))
""",
    "seccomp: system calls": "".join(
        f"""
refused({name!r}, lambda: call({numbers[calls.MACHINES.get(platform.machine(), (0,))[0]]}, 0, 0, 0, 0, 0))
"""
        for name, numbers in calls.DENIED.items()
    )
    + """
import socket
refused("socket", lambda: socket.socket(socket.AF_UNIX))
refused("namespace by clone", lambda: call({clone}, 0x10000000 | 17, 0, 0, 0, 0))
""",
    "ends with the scorer": """
refused("outlives the scorer", lambda: call({prctl}, 1, 0, 0, 0, 0))
""",
    "no new processes": """
import subprocess, threading
refused("fork", os.fork)
refused("spawn", lambda: os.posix_spawn("/bin/true", ["true"], dict()))
refused("subprocess", lambda: subprocess.run(["/bin/true"]))
ran = []
thread = threading.Thread(target=lambda: ran.append(1)); thread.start(); thread.join()
if not ran: raise RuntimeError("threads must run")
""",
    "limit on memory": """
refused("memory", lambda: bytearray({memory}), (MemoryError,))
""",
}


def attack(world, name, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "victim").write_text("still here")
    column = calls.MACHINES[platform.machine()][0]
    import scipy

    code = ATTACKS[name].format(
        data=str(world.data / "dev_docs.jsonl"),
        outside=str(outside),
        pid=os.getpid(),
        package=scipy.__file__,
        clone=calls.CLONE[column],
        prctl=calls.PRCTL[column],
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )
    return PRELUDE + code, outside


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() not in calls.MACHINES, reason="Linux only")
def test_every_active_layer_stops_its_attacks(world, tmp_path):
    """All attacks in one artifact. A layer that the kernel does not grant here is left out, and --certify refuses."""
    plain = world.score(world.artifact())
    active = {row["layer"]: row["active"] for row in plain["sandbox"]}
    assert set(ATTACKS) <= set(active)
    codes = [attack(world, name, tmp_path) for name in ATTACKS if active[name]]
    if not codes:
        pytest.skip("no layer is active here")
    script = SCRIPT + "".join(code for code, _ in codes)
    result = world.score(world.artifact(script, name="attack.golf"))
    assert result["bpb"] == plain["bpb"]
    assert os.listdir(codes[0][1]) == ["victim"]
    assert str(world.data / "dev_docs.jsonl") in result["files_opened"] and "/etc/passwd" in result["files_opened"]
    assert plain["files_opened"] == []


def test_without_its_layers_the_box_is_as_open_as_the_table_says(world, monkeypatch, tmp_path):
    """The attacks are real: with a layer taken out, the attack on it succeeds, and the table says missing."""
    code, _ = attack(world, "Landlock: files", tmp_path)
    bad = world.artifact(light_box.SCRIPT + code, light_box.DECODE, name="attack.golf")
    good = world.artifact(light_box.SCRIPT, light_box.DECODE, name="light.golf")
    with light_box.without_torch():
        running = box.Box(scoring_score.read_artifact(good)[0], threads=1, time_limit=120)
        try:
            running.load()
            if not {row["layer"]: row["active"] for row in running.layers}["Landlock: files"]:
                pytest.skip("Landlock is not active here")
        finally:
            running.close()

    take_out_landlock(monkeypatch)
    code, _ = attack(world, "Landlock: files", tmp_path)
    with light_box.without_torch():
        with pytest.raises(box.BoxFailure, match="ESCAPED reads the held-out text"):
            world.score(bad)
        with pytest.raises(Failure, match="not certified: .*own root, read-only.*Landlock: files"):
            world.score(good, certify=True)


CAPABILITIES = """
import ctypes, struct
held = ctypes.create_string_buffer(24)
if ctypes.CDLL(None).capget(struct.pack("<Ii", 0x20080522, 0), held): raise RuntimeError("cannot ask")
if any(held.raw): raise RuntimeError("ESCAPED holds capabilities")
"""


def test_the_box_holds_no_capabilities(world, monkeypatch):
    """Asked without the filter of calls, which would refuse the question; with the layer taken out it holds some."""
    artifact = world.artifact(SCRIPT + CAPABILITIES, name="capabilities.golf")
    with monkeypatch.context() as patch:
        take_out(patch, "refused calls")
        layers = {row["layer"]: row["active"] for row in world.score(artifact)["sandbox"]}
    if not layers["no capabilities"] or not layers["process namespace"]:
        pytest.skip("no namespaces here")
    take_out(monkeypatch, "refused calls", "capabilities")
    with pytest.raises(box.BoxFailure, match="ESCAPED holds capabilities"):
        world.score(artifact)


def test_a_box_that_may_start_processes_has_a_compiler_and_still_a_root_of_its_own(world):
    """As on a GPU, where Triton calls one."""
    if shutil.which("cc") is None:
        pytest.skip("no compiler")
    script = (
        SCRIPT
        + """
import ctypes, os, subprocess
with open("a.c", "w") as file: file.write("int answer(void) { return 42; }")
subprocess.run(["cc", "-shared", "-fPIC", "-o", "a.so", "a.c"], check=True)
assert ctypes.CDLL("./a.so").answer() == 42
try: open("/usr/bin/golf", "w")
except OSError as error: assert error.errno == 30, error
else: raise RuntimeError("ESCAPED writes")
"""
    )
    submission = scoring_score.read_artifact(world.artifact(script, name="compiles.golf"))[0]
    running = box.Box(submission, threads=1, time_limit=120, gpu="")
    try:
        running.load()
        layers = {row["layer"]: row["active"] for row in running.layers}
        assert not layers["seccomp: known calls only"]
        if not layers["own root, read-only"]:
            pytest.skip("no root of its own here")
    finally:
        running.close()


def test_boxes_of_a_score_share_two_cores_and_the_memory(monkeypatch):
    """On a machine of 64 cores too."""
    monkeypatch.setattr(passes.versions, "torch_has_gpu_code", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8, 72)))
    assert passes.core_numbers() == [8, 9] and passes.cores() == 2
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for count in (1, 2):
        whole = passes.memory_share(count) + 4 * box.CAPACITY_LOGITS + mounts.MAX_WORK_BYTES
        assert count * whole <= total or passes.memory_share(count) == passes.MIN_MEMORY_BYTES
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert passes.core_numbers() is None and passes.cores() == 64


def test_a_box_sees_files_of_code_alone_and_every_library_that_they_load():
    """The libraries against what the system's own loader finds for them."""
    paths = packages.visible_files(False).paths
    names = {os.path.basename(path) for path in paths if ".so" not in path and not path.endswith((".py", ".pyc"))}
    assert names <= {"ld.so.cache", "torch_shm_manager", os.path.basename(os.path.realpath(sys.executable))}
    assert any(path.endswith("/libtorch_cpu.so") for path in paths)
    if sys.platform != "linux" or shutil.which("ldd") is None:
        pytest.skip("no loader to ask")
    not_for_models = ("_tkinter.", "readline.", "_curses", "_gdbm.", "_dbm.", "nis.")  # terminals, data bases, windows
    libraries = [path for path in paths if ".so" in os.path.basename(path) and "/triton/" not in path]
    files = [path for path in libraries if not os.path.basename(path).startswith(not_for_models)]
    answer = subprocess.run(["ldd", *files], capture_output=True, text=True).stdout
    needed = {os.path.realpath(path) for path in re.findall(r"=> (/\S+)", answer)}
    assert len(needed) > 10 and needed - paths == set()


def test_a_tree_keeps_the_links_on_the_way(tmp_path):
    """Every path leads to the same file as outside, by os.path.realpath."""
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "real" / "deep" / "file").write_text("text")
    (tmp_path / "first").symlink_to("second")
    (tmp_path / "second").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "up").symlink_to("../real/deep")
    (tmp_path / "real" / "deep" / "again").symlink_to("file")
    wanted = [tmp_path / "first" / "up" / "again", tmp_path / "second" / "deep" / "file", tmp_path / "real" / "up"]
    tree = visible.Tree()
    for path in wanted:
        tree.add(str(path))
    assert tree.paths == {os.path.realpath(path) for path in wanted}
    links = {
        str(tmp_path / name): os.readlink(tmp_path / name) for name in ("first", "second", "real/up", "real/deep/again")
    }
    assert tree.links == links


def test_only_packages_on_the_list_can_be_imported(world):
    listed = packages.importable()
    assert {"torch", "numpy", "brotli", "sympy"} <= set(listed["names"])
    assert not {"scipy", "pytest", "rich", "hypothesis"} & set(listed["names"])
    own = "open('helper.py', 'w').write('VALUE = 3')\nimport helper\nassert helper.VALUE == 3\n"
    free = "import numpy, brotli, zstandard, sentencepiece, decimal\n"
    script = f"{light_box.SCRIPT}\n{own}{free}import scipy\n"
    with light_box.without_torch(), pytest.raises(box.BoxFailure, match="No module named 'scipy'"):
        world.score(world.artifact(script, light_box.DECODE, name="imports.golf"))


def run_filter(program, arch, number, arguments=()):
    """What the seccomp filter answers, by an interpreter of the few classic BPF instructions it uses."""
    instructions = [struct.unpack("<HBBI", program[i : i + 8]) for i in range(0, len(program), 8)]
    data = {0: number, 4: arch, **{16 + 8 * place: 0 for place in range(6)}}
    data.update({16 + 8 * place: value for place, value in enumerate(arguments)})
    at, accumulator = 0, 0
    while True:
        code, yes, no, value = instructions[at]
        at += 1
        if code == 0x20:
            accumulator = data[value]
        elif code == 0x54:
            accumulator &= value
        elif code == 0x06:
            return value
        else:
            holds = {0x15: accumulator == value, 0x45: accumulator & value != 0, 0x35: accumulator >= value}[code]
            at += yes if holds else no


ALLOW, REFUSE, MISSING, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000


@pytest.mark.parametrize("machine, processes", [("x86_64", True), ("aarch64", False), ("aarch64", True)])
def test_filter_that_refuses_by_name(machine, processes):
    """For every number up to 500: refused exactly if it is on the list; clone and prctl by their argument."""
    column, arch = calls.MACHINES[machine]
    program = calls.filter_program(machine, processes)
    denied = {numbers[column] for numbers in calls.DENIED.values()}
    forks = {numbers[column] for numbers in calls.FORKS} - {None}
    for number in range(500):
        expected = REFUSE if number in denied or number in forks and not processes else ALLOW
        if number == calls.CLONE3[column]:
            expected = MISSING
        argument = 0x10000 | 0x100 if number == calls.CLONE[column] else 15
        assert run_filter(program, arch, number, [argument]) == expected, number
    assert run_filter(program, arch ^ 1, 0) == KILL
    clone, prctl = calls.CLONE[column], calls.PRCTL[column]
    assert run_filter(program, arch, clone, [17]) == (ALLOW if processes else REFUSE)
    assert run_filter(program, arch, clone, [0x10000 | calls.CLONE_NEWUSER]) == REFUSE
    assert run_filter(program, arch, prctl, [PR_SET_PDEATHSIG]) == REFUSE
    if machine == "x86_64":
        assert run_filter(program, arch, 0x40000000 + 1) == REFUSE


def test_filter_that_knows_its_calls():
    """For every number up to 1,000: what the lists say, and ENOSYS for what they do not name."""
    own = 3
    program, arch = calls.filter_program("x86_64", False, own), calls.MACHINES["x86_64"][1]
    allowed, refused = set(calls.ALLOWED.values()), set(calls.REFUSED.values())
    refused |= {numbers[0] for numbers in calls.DENIED.values()}
    checked = {number for number, _ in calls.CHECKED.values()} | {calls.CLONE[0]}
    assert not allowed & refused and not allowed & checked and not refused & checked
    for number in set(range(1000)) - checked:
        expected = ALLOW if number in allowed else REFUSE if number in refused else MISSING
        assert run_filter(program, arch, number, [2**32 - 1] * 6) == expected, number
    assert run_filter(program, arch ^ 1, 0) == KILL and run_filter(program, arch, 0x40000000) == REFUSE


# Call -> arguments that must pass, arguments that must not; the flags by their names in the headers' order.
ARGUMENTS = {
    "futex": ([[0, 128], [0, 129], [0, 0x189]], []),
    "clone": (
        [[0x3D0F00], [0x7D0F00]],
        [[17], [0x3D0F00 | 0x1000], [0x3D0F00 | calls.CLONE_NEWUSER], [calls.CLONE_THREAD | calls.CLONE_NEWNET]],
    ),
    "open": ([[0, os.O_RDONLY], [0, os.O_CREAT | os.O_WRONLY]], [[0, 0o40000]]),
    "openat": ([[0, 0, os.O_RDONLY], [0, 0, os.O_CREAT | os.O_WRONLY]], [[0, 0, 0o40000]]),
    "mmap": (
        [[0, 0, 0, 0x22], [0, 0, 0, 0x01], [0, 0, 0, 0x02]],  # private anonymous, shared file, private file
        [[0, 0, 0, 0x21], [0, 0, 0, 0x23], [0, 0, 0, 0x40022], [0, 0, 0, 0x2022]],
    ),
    "madvise": ([[0, 0, 4], [0, 0, 8]], [[0, 0, advice] for advice in (0, 3, 9, 12, 14, 20, 21, 22, 23, 25, 100)]),
    "ioctl": ([[0, 0x5401]], [[0, 0x5402], [0, 0x5412], [0, 0x541B], [0, 0x40086602]]),
    "fcntl": (
        [[0, command] for command in (0, 1, 2, 3, 4, 1030)],
        [[0, command] for command in (5, 6, 7, 8, 10, 36, 37, 38, 1024, 1025, 1026, 1031, 1033, 1036, 1038)],
    ),
    "prctl": ([[15], [16]], [[1], [4], [22], [23], [35], [67]]),
    "arch_prctl": ([[0x1022], [0x1023]], [[0x1001], [0x1012], [0x4001]]),
    "prlimit64": ([[0], [3]], [[1], [2]]),
    "sched_getaffinity": ([[0], [3]], [[1], [2]]),
    "kill": ([[3]], [[0], [1], [2**32 - 1]]),
    "tgkill": ([[3]], [[1]]),
}


def test_filter_checks_arguments():
    program, arch = calls.filter_program("x86_64", False, 3), calls.MACHINES["x86_64"][1]
    numbers = {"clone": calls.CLONE[0], **{name: number for name, (number, _) in calls.CHECKED.items()}}
    assert set(numbers) == set(ARGUMENTS)
    for name, (good, bad) in ARGUMENTS.items():
        assert [run_filter(program, arch, numbers[name], arguments) for arguments in good] == [ALLOW] * len(good), name
        assert [run_filter(program, arch, numbers[name], arguments) for arguments in bad] == [REFUSE] * len(bad), name
    shared = [[0, operation] for operation in (0, 1, 9, 265, 4, 5)]
    assert {run_filter(program, arch, numbers["futex"], arguments) for arguments in shared} == {calls.EAGAIN}


def test_filter_numbers_are_this_machines():
    """The numbers against the C library's own headers, where they are installed and as far as they go."""
    headers = ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm-generic/unistd.h")
    if platform.machine() != "x86_64" or not all(map(os.path.exists, headers)):
        pytest.skip("no header of system call numbers")
    known = []
    for header in headers:
        with open(header) as file:
            rows = re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)", file.read(), re.MULTILINE)
        known.append({name: int(number) for name, number in rows})
    x86 = {
        **calls.ALLOWED,
        **calls.REFUSED,
        **{name: number for name, (number, _) in calls.CHECKED.items()},
        **{name: numbers[0] for name, numbers in calls.DENIED.items()},
    }
    arm = {name: numbers[1] for name, numbers in calls.DENIED.items()}
    for ours, theirs in ((x86, known[0]), (arm, known[1])):
        assert ours == {name: theirs.get(name, number) for name, number in ours.items()}
        assert len(set(ours) & set(theirs)) > 80


def test_options_fit_one_argument():
    """Linux takes at most 128 KiB in one argument of a command line."""
    assert len(json.dumps(packages.importable())) < 65536
