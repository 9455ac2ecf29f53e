"""Reading a stranger's artifact: whatever its weights claim, `inspect` ends with a result or one line, in bounds."""

import json
import random
import sys

import brotli
import pytest

from compress import bounded
from golf import container
from tests.redteam.fuzz_inspect import fuzz
from tests.support.odd_artifacts import odd_artifact
from tests.support.packed import compress_cli, one_line, packed_toy


@pytest.fixture(scope="module")
def packed():
    return packed_toy()[0] / "model.golf"


def with_head(file, change):
    """The artifact with its head of WGTS changed."""
    sections = container.read(file.read_bytes())
    payload = sections["WGTS"]
    start = 4 + int.from_bytes(payload[1:4], "little")
    text, _, tables = brotli.decompress(payload[4:start]).partition(b"\0")
    head = json.loads(text)
    change(head)
    packed = brotli.compress(json.dumps(head).encode() + b"\0" + tables, quality=5)
    odd = payload[:1] + len(packed).to_bytes(3, "little") + packed + payload[start:]
    return container.to_bytes(sections | {"WGTS": odd})


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA holds private memory on Linux only")
def test_a_small_file_that_asks_for_gigabytes_is_refused(packed, tmp_path):
    """2^28 numbers of one vector: 2 GiB of tokens alone, from a file of 80 kB."""
    file = tmp_path / "bomb.golf"
    file.write_bytes(with_head(packed, lambda head: head.__setitem__(slice(5, 7), [[], [["v", 0, 0, 1 << 28]]])))
    assert file.stat().st_size < 100_000
    one_line(compress_cli("inspect", file), "bomb.golf", "more than 2,147,483,648 bytes of memory")


def test_odd_weights_are_one_line_each(packed):
    """A sample; `python -m tests.redteam.fuzz_inspect` takes hundreds."""
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
