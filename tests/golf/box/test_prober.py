"""What one box can leave for the next, or for one beside it: nothing that prober.py finds. And that the prober is able
to: with a layer taken out, its channels carry a bit.

Not covered: timing (docs/audits.md states its rate); other kernels than the one the tests run on; GPUs.
"""

import functools
import json
import mmap
import os
import platform
import sys
from pathlib import Path

import pytest

from golf.box import box, calls, packages
from scoring import passes
from scoring import score as scoring_score
from tests.support import box_prober as prober
from tests.support import light_box, sample, warm
from tests.support.box_walls import take_out

pytestmark = [
    pytest.mark.skipif(
        sys.platform != "linux" or platform.machine() != "x86_64", reason="the calls of other systems are not recorded"
    ),
    pytest.mark.slow,
]

MAIN = """
print("PROBE " + json.dumps(run({role!r}, {names!r}, {targets!r}, {allowed!r})), flush=True)
"""
AFTER = [kind.__name__ for kind in prober.AFTER]
BESIDE = [kind.__name__ for kind in prober.BESIDE]
MOVED = {kind.__name__: kind.moved for kind in prober.BESIDE}


class Lab:
    """Boxes that all see one more package: a file for each channel."""

    def __init__(self, folder, monkeypatch):
        self.targets = {}
        for name in BESIDE:
            path = folder / "probed" / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            with open(path, "wb") as file:
                file.write(b"#" * (1 << 20))
                file.flush()
                os.fsync(file.fileno())  # a page that waits to be written cannot be thrown out of memory
            os.utime(path, (1, 2))  # an old time of the last access, which reading moves
            self.targets[name] = [str(path)]
        listed = packages.importable()
        changed = {**listed, "packages": [*listed["packages"], str(folder / "probed")]}
        monkeypatch.setattr(packages, "importable", lambda: changed)
        monkeypatch.setattr(box, "TAIL_BYTES", 1 << 20)

    def start(self, role, names):
        """A running box that has done its part."""
        allowed = [*calls.ALLOWED.values(), *(number for number, _ in calls.CHECKED.values())]
        script = Path(prober.__file__).read_text() + MAIN.format(
            role=role, names=names, targets=self.targets, allowed=allowed
        )
        script += light_box.SCRIPT
        self.settle()
        boxes = passes.Boxes(box.Submission(script, light_box.DECODE, {}, b"", 300), 1, 300)
        return boxes.__enter__()

    def evict(self):
        """Take the files of `Faults` out of memory, as if nobody had read them for long."""
        for path in self.targets["Faults"]:
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def settle(self):
        """Each core takes numbers for pipes and shared memory in portions of 1,024. Make each begin a new one: else an
        old portion on one core, beside a new one on another, looks as if a box had used up many."""
        cores = os.sched_getaffinity(0)
        for core in cores:
            os.sched_setaffinity(0, {core})
            for _ in range(1100):
                mmap.mmap(-1, mmap.PAGESIZE).close()
                for descriptor in os.pipe():
                    os.close(descriptor)
        os.sched_setaffinity(0, cores)

    def said(self, boxes):
        """What a box printed; it is gone then."""
        boxes.__exit__()
        lines = b"".join(boxes.boxes[0]._tail).decode().splitlines()
        (line,) = [line for line in lines if line.startswith("PROBE ")]
        return json.loads(line.removeprefix("PROBE "))

    def do(self, role, names):
        return self.said(self.start(role, names))

    def carried(self, names, beside=False):
        """The channels through which a box tells another one bit."""
        self.evict()
        left = self.start("leave", names)
        if beside:
            after = self.do("find", names)
            before = self.said(left)
        else:
            before = self.said(left)
            after = self.do("find", names)
        return [name for name in names if MOVED[name](before[name], after[name])]


@pytest.fixture
def light_boxes():
    with light_box.without_torch():
        yield


@pytest.fixture
def lab(light_boxes, tmp_path, monkeypatch):
    """In this order: what a test takes out with monkeypatch is put back first."""
    prober.remove_objects()
    yield Lab(tmp_path, monkeypatch)
    prober.remove_objects()


@functools.cache
def missing_layers():
    """Layers that this machine does not grant."""
    submission = box.Submission(light_box.SCRIPT, light_box.DECODE, {}, b"", 300)
    with passes.Boxes(submission, 1, 300) as running:
        return [row["layer"] for row in running.boxes[0].layers if not row["active"]]


def needs_all_layers():
    if missing_layers():
        pytest.skip(f"this machine does not grant: {', '.join(missing_layers())}")


def test_nothing_is_left_for_the_next_box(lab):
    needs_all_layers()
    assert lab.carried(AFTER) == []


def test_nothing_reaches_a_box_beside(lab):
    needs_all_layers()
    assert lab.carried(BESIDE, beside=True) == []


def test_no_call_passes_and_no_path_changes(lab, monkeypatch):
    """Every system call by its number but those that are allowed; every path that can be seen, by fifteen calls:
    without Landlock, so that all of the box's root is walked."""
    needs_all_layers()
    take_out(monkeypatch, "Landlock")
    first = lab.do("all", [])
    assert first["calls"] == []
    # Null keeps nothing; what is written to the others (Landlock closes them) only stirs random numbers.
    assert {path for _, path in first["paths"]} <= {"/dev/null", "/dev/random", "/dev/urandom"}
    assert first["states"][0] > 5_000
    assert lab.do("all", [])["states"] == first["states"]


# Layers taken out -> channels that carry a bit then, to the next box and to one beside.
WITHOUT = [
    (["own root"], ["Counters"], []),
    (["own root", "reading beforehand"], ["LastAccess"], []),
    (["own root", "Landlock"], ["Contents", "Names"], []),
    (["own root", "known calls"], ["Modes", "Times"], ["FreeSpace"]),
    (["own root", "refused calls"], ["Attributes"], []),
    (["known calls"], ["PipeNumbers", "SharedMemoryNumbers"], ["Locks", "Futexes"]),
    (["refused calls", "reading beforehand"], ["Residency"], []),
    (["refused calls", "own System V objects"], ["SystemV"], []),
    (["refused calls", "own System V objects", "Landlock"], ["MessageQueue"], []),
    (["refused calls", "own users"], ["Keyring"], []),
    (["reading beforehand"], ["Faults"], []),
    (["refused calls", "own network"], [], ["AbstractSocket"]),
    (["queued signals"], [], ["QueuedSignals"]),
]


@pytest.mark.parametrize("layers, after, beside", sample(WITHOUT, 4), ids=["+".join(row[0]) for row in WITHOUT])
def test_without_a_layer_its_channels_carry_a_bit(lab, monkeypatch, layers, after, beside):
    needs_all_layers()
    if "own users" in layers and os.getuid() != 0:
        pytest.skip("without a user namespace the others are root's alone")
    if "reading beforehand" in layers:
        monkeypatch.setattr(packages, "read_beforehand", lambda: 0)
    take_out(monkeypatch, *(layer for layer in layers if layer != "reading beforehand"))
    if after:
        assert set(lab.carried(after)) == set(after)
    if beside:
        assert set(lab.carried(beside, beside=True)) == set(beside)


def test_boxes_of_an_audit_never_run_beside_those_of_the_pass(world, monkeypatch):
    """Seen at the start of each part of a score, and at each start of a box."""
    alive, most = set(), []

    class Counted(box.Box):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            alive.add(self)
            most.append(len(alive))

        def close(self):
            super().close()
            alive.discard(self)

    parts = {}
    monkeypatch.setattr(passes, "Box", Counted)
    with warm.boxes():
        scoring_score.score(
            world.artifact(),
            str(world.data),
            "dev",
            processes=2,
            audit="quick",
            on_phase=lambda name, total: parts.update({name: len(alive)}),
        )
    assert parts["score"] == 2 and parts["interval"] == parts["again"] == parts["blind"] == 0
    assert most == [1, 2, 1, 1]
    assert not alive
