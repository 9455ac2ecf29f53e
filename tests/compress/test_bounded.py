"""Reading a stranger's artifact: whatever its weights claim, `inspect` ends with a result or one line, in bounds."""

import json
import random
import sys

import brotli
import numpy as np
import pytest

from compress import bounded
from compress.codes import Vector
from golf import container
from tests.redteam.fuzz.weights import fuzz
from tests.support.odd_artifacts import odd_artifact
from tests.support.packed import compress_cli, encoded, one_line, packed_toy

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_boxes")]


@pytest.fixture(scope="module")
def packed():
    return packed_toy()[0] / "model.golf"


def zeros(file, count, lanes):
    """An artifact whose one vector holds `count` zeros, which cost nothing: only the reader's limits end it."""
    payload = encoded({"v": Vector((64,), np.zeros(64, np.int32), 0, 0)}, [0, 0], 512).payload
    start = 4 + int.from_bytes(payload[1:4], "little")
    text, _, tables = brotli.decompress(payload[4:start]).partition(b"\0")
    head = json.loads(text)
    head[0] = lanes
    head[6] = [["v", 0, 0, count]]
    packed = brotli.compress(json.dumps(head).encode() + b"\0" + tables)
    states = np.full(lanes, 1 << 16, "<u4").tobytes()
    payload = payload[:1] + len(packed).to_bytes(3, "little") + packed + states
    return container.to_bytes(container.read(file.read_bytes()) | {"WGTS": payload})


def test_zeros_that_fit_are_read(packed, tmp_path):
    (tmp_path / "zeros.golf").write_bytes(zeros(packed, 100_000, 1024))
    done = compress_cli("inspect", tmp_path / "zeros.golf", "--json")
    assert [row["shape"] for row in json.loads(done.stdout)["tensors"]] == [[100_000]]


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA holds private memory on Linux only")
def test_a_small_file_that_asks_for_gigabytes_is_refused(packed, tmp_path):
    """2^28 zeros: 2 GiB of tokens alone."""
    file = tmp_path / "bomb.golf"
    file.write_bytes(zeros(packed, 1 << 28, 1 << 16))
    assert file.stat().st_size < 300_000
    one_line(compress_cli("inspect", file), "bomb.golf", bounded.MEMORY_TEXT)


def test_odd_weights_are_one_line_each(packed):
    """A sample; `python -m tests.redteam.fuzz.weights` takes hundreds."""
    found = fuzz(packed, 25, seed=7)
    assert found.faults == [] and found.read + sum(found.messages.values()) == 25
    assert len(found.messages) > 3 and found.most_memory_bytes < bounded.MEMORY_BYTES


def test_odd_weights_from_the_command_line(packed, tmp_path):
    rng = random.Random(3)
    sections = container.read(packed.read_bytes())
    file = tmp_path / "odd.golf"
    file.write_bytes(odd_artifact(rng, sections))
    one_line(compress_cli("inspect", file), "odd.golf: WGTS: ")


def busy(**_):
    while True:
        pass


def failing(kind, text):
    raise {"ValueError": ValueError, "KeyError": KeyError, "RuntimeError": RuntimeError, "MemoryError": MemoryError}[
        kind
    ](text)


@pytest.mark.parametrize(
    "kind, text, expected",
    [
        ("ValueError", "no\nway", "no\\nway"),
        ("KeyError", "x", "cannot be read: KeyError: 'x'"),
        ("RuntimeError", "[enforce fail] DefaultCPUAllocator: can't allocate memory", bounded.MEMORY_TEXT),
        ("MemoryError", "", bounded.MEMORY_TEXT),
    ],
)
def test_whatever_is_raised_is_one_line(kind, text, expected):
    output = bounded.answer("tests.compress.test_bounded:failing", {"kind": kind, "text": text})
    with pytest.raises(ValueError) as caught:
        bounded.result_of(0, output.encode())
    assert str(caught.value) == expected and str(caught.value).isprintable()


def test_a_child_that_is_killed_is_explained():
    for status, text in ((-24, bounded.TIME_TEXT), (-9, bounded.MEMORY_TEXT), (3, "ended with status 3")):
        with pytest.raises(ValueError, match=text):
            bounded.result_of(status, b"")


def test_the_limit_on_time_ends_a_busy_child(monkeypatch):
    """One second in the place of sixty."""
    code = (
        "import compress.bounded as b; b.CPU_SECONDS = 1; b.limit();"
        "print(b.answer('tests.compress.test_bounded:busy', {}))"
    )
    run = bounded.subprocess.run
    monkeypatch.setattr(
        bounded.subprocess, "run", lambda command, **options: run([sys.executable, "-c", code], **options)
    )
    with pytest.raises(ValueError, match="more than 60 s"):
        bounded.call("ignored")


def test_results_come_back():
    assert bounded.call("golf.foreign:terminal", value="a\x1b[2J") == "a\\x1b[2J"
