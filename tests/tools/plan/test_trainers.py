"""Scripts in turns: what they are asked and answer, that a waiting one stands still, and what one can do wrong."""

import subprocess
import sys
import time

import pytest

from golf import processor
from golf.files import Failure
from tests.support import timed_script
from tools.plan import trainers, turns

LIMIT = 16 * 4096
FIELDS = ["--preset=pocket", f"--max_tokens={LIMIT}"]


@pytest.fixture
def start(tmp_path):
    """start(**script): a Trainer of a stand-in script."""
    data = tmp_path / "data"
    with trainers.trainers(trust=True) as begin:
        yield lambda **text: begin("the script", timed_script.write(tmp_path / "script.py", data, **text), FIELDS, data)


def test_steps_are_those_of_the_schedule(start):
    """Half of the tokens in steps of one batch, half in steps of two."""
    trainer = start()
    assert trainer.steps == 8 + 4 and trainer.shape["batch_tokens"] == 4096
    taken = [trainer.turn(steps) for steps in (5, 7)]
    assert all(seconds > 0 for seconds in taken)
    trainer.turn(0)
    [told] = trainer.folder.glob("*.steps")
    assert told.read_text() == f"12 {LIMIT}"
    assert trainer.calibrate() > 0


def test_what_is_left_is_trained_at_the_end(start):
    trainer = start()
    trainer.turn(3)
    assert trainer.turn(0) > 0 and trainer.calibrate() > 0


def test_a_run_that_ends_within_a_turn_says_so(start):
    trainer = start()
    trainer.turn(1000)
    assert trainer.calibrate() > 0


def test_a_waiting_script_stands_still(start):
    """Its thread counts in a file; while it waits, nothing is added."""
    count = "threading.Thread(target=lambda: [open('beat', 'a').write('x') or time.sleep(0.001) for _ in iter(int, 1)],"
    trainer = start(begin=f"{count} daemon=True).start(); time.sleep(0.2)")
    trainer.turn(2)
    beat = trainer.folder / "beat"
    time.sleep(0.2)  # a thread on another core stops a moment later
    before = beat.read_text()
    time.sleep(0.2)
    assert before and beat.read_text() == before
    trainer.turn(1)
    trainer.turn(0)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_what_other_programs_take_is_counted_and_what_the_script_takes_is_not(start):
    """The script computes for half a second a turn; then a process does so beside it, on the same core."""
    work = "end = time.process_time() + 0.5; [None for _ in iter(lambda: time.process_time() < end, False)]"
    with processor.pinned(1):
        trainer = start(sleep=work)
        before = trainers.busy_seconds()
        trainer.turn(1)
        taken = trainers.busy_seconds() - before
        assert trainer.others < taken - 0.4  # all but what the script took; other tests may have used this core too

        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            time.sleep(0.3)
            before = trainers.processor_seconds([busy.pid])
            trainer.turn(1)
            taken = trainers.processor_seconds([busy.pid]) - before
            assert taken > 0.1 and trainer.others > 0.8 * taken - 0.05
        finally:
            busy.kill()
            busy.wait()


@pytest.mark.parametrize(
    "text, says",
    [
        ({"begin": "raise ValueError('no such thing')"}, "the script ended early: ValueError: no such thing"),
        ({"begin": 'sys.__stdout__.write(\'{"says": "turn"}\\n\'); sys.__stdout__.flush()'}, "answered"),
        ({"begin": "sys.__stdout__.write('[' * 99 + '\\n'); sys.__stdout__.flush()"}, "answered"),
        ({"begin": "sys.__stdout__.write('x' * (1 << 23)); sys.__stdout__.flush()"}, "answered more than"),
    ],
)
def test_a_script_that_misbehaves_is_one_line(start, text, says):
    with pytest.raises(Failure, match=says) as failure:
        start(**text)
    assert "\n" not in str(failure.value)


def test_a_script_that_dies_in_its_turn_is_one_line(start):
    trainer = start(sleep="raise SystemExit('out of memory')")
    with pytest.raises(Failure, match="the script ended early: out of memory"):
        trainer.turn(1)


def test_a_file_that_is_no_training_script(tmp_path):
    for text, says in (
        ("import os\n", "does not end with"),
        ("if __name__ == '__main__':\n    pass\n", "has no Clock"),
    ):
        script = tmp_path / "odd.py"
        script.write_text(text)
        with trainers.trainers(trust=True) as begin, pytest.raises(Failure, match=says):
            begin("the script", script, [], tmp_path)


ANSWERS = 'sys.__stdout__.write(\'{"says": "turn"}\\n\' * 3); sys.__stdout__.flush()'


def test_an_answer_before_the_question_is_refused(start):
    """A script that answers three turns at once would have two of them for nothing."""
    trainer = start(sleep=ANSWERS)
    trainer.turn(1)
    with pytest.raises(Failure, match="answered before it was asked"):
        trainer.turn(1)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_a_script_that_starts_processes_while_it_is_stopped_stands_still_too(tmp_path):
    """Each process starts the next one and goes on for a moment: whichever runs adds to a file. In a box, since only
    there a process whose parent has ended is still the script's."""
    count = "open('beat', 'a').write('x')"
    chain = f"import os, time\nwhile True:\n if os.fork():\n  time.sleep(0.01); os._exit(0)\n {count}"
    begin = f"import subprocess; subprocess.Popen([sys.executable, '-c', {chain!r}]); {until('beat')}"
    data = tmp_path / "data"
    script = timed_script.write(tmp_path / "script.py", data, begin=begin)
    with trainers.trainers(trust=False) as start_one:
        trainer = start_one("the script", script, FIELDS, data)
        beat = trainer.folder / "beat"
        for _ in range(5):
            time.sleep(0.1)
            before = beat.read_text()
            time.sleep(0.2)
            assert before and beat.read_text() == before
            trainer.turn(1)


def until(name: str) -> str:
    """Waits for a file in the run's folder."""
    return f"import os; [time.sleep(0.05) for _ in iter(lambda: os.path.exists({name!r}), True)]"


WAKER = """
import ctypes, signal, struct
signal.signal(signal.SIGCONT, lambda *_: None)  # of a signal that is ignored, a timer stops
event = ctypes.create_string_buffer(struct.pack("<QiI48x", 0, 18, 0))
libc = ctypes.CDLL(None)
for number in range(1, 50):
    timer = ctypes.c_void_p()
    libc.timer_create(1, event, ctypes.byref(timer))
    libc.timer_settime(timer, 0, struct.pack("<qqqq", 5, 0, number // 10, number % 10 * 10**8), None)
open("ready", "w").close()
while True:
    pass
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_a_script_that_wakes_itself_while_another_is_timed_is_found_out(tmp_path):
    """Timers send SIGCONT to their own process, one each 0.1 s: one that was due when it was stopped is lost."""
    begin = f"import subprocess; subprocess.Popen([sys.executable, '-c', {WAKER!r}]); {until('ready')}"
    data = tmp_path / "data"
    script = timed_script.write(tmp_path / "script.py", data, begin=begin)
    with trainers.trainers(trust=False) as start_one:
        trainer = start_one("the script", script, FIELDS, data)
        with pytest.raises(Failure, match="the script: worked .* while another script was timed"):
            for _ in range(10):
                time.sleep(1)
                trainer.turn(1)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_a_link_in_place_of_the_output_is_not_read(tmp_path):
    """What it leads to would stand in the message, for whoever reads the log of a check."""
    (tmp_path / "secret").write_text("a secret")
    begin = f"[(os.remove(name), os.symlink({str(tmp_path / 'secret')!r}, name)) for name in os.listdir('.')]; 1 / 0"
    for trust in (True, False):
        data = tmp_path / "data"
        script = timed_script.write(tmp_path / "script.py", data, begin=f"import os; {begin}")
        with trainers.trainers(trust=trust) as start_one:
            with pytest.raises(Failure, match="the script ended early: ZeroDivisionError"):
                start_one("the script", script, FIELDS, data)


def test_steps_of_scripts_without_stages_or_with_a_clock_only(tmp_path):
    names: dict = {}
    script = timed_script.write(tmp_path / "script.py", tmp_path / "data")
    names |= turns.load(script)
    config = names["parse_config"](["--max_steps=7"], {})
    assert turns.count_work(names, config) == (7, 4 * 4096 + 3 * 8192)
    assert turns.count_work(names, names["parse_config"]([], {})) == (None, None)
    del names["stages"]
    assert turns.count_work(names, names["parse_config"](["--max_tokens=40000"], {})) == (9, 9 * 4096)
