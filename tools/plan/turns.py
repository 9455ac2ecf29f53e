"""Runs a training script that waits for its turn before each few steps. Standard library only: a box may run it alone.

    python tools/plan/turns.py SCRIPT --field=value ...

It speaks over its own standard input and output, a line of JSON each way; what the script prints goes to standard
error. The script runs as it always does, up to the end of its calibration; only Clock.start, Clock.tick, Clock.phase
and Optimizers.step are wrapped.

    question                     answer
    (none: it has compiled)      {"says": "ready", "shape": {field: value}, "steps": of the whole run, "tokens": of
                                 these}; both null where the run ends by a clock
    {"steps": N}                 {"says": "turn"} after N steps, or {"says": "trained"} where training ended before;
                                 with 0 steps, training goes on to its end
    {"profile": N}               {"says": "profile", "rows": [[operator, self microseconds, microseconds], ...]}
    {"calibrate": true}          {"says": "calibrated"}; only once it has said "trained"

Not covered: time. Whoever asks takes it, since the script could give any. A script may do as it likes between a
question and its answer, so that a step may be faster here than in a real run: the seconds of a real run show it.
"""

import ast
import contextlib
import json
import math
import sys
from pathlib import Path
from typing import Any

SHAPE = ("vocab_size", "seq_len", "num_layers", "model_dim", "num_heads", "num_kv_heads", "mlp_mult", "batch_tokens",
         "micro_batch_tokens")  # fmt: skip


def load(script: Path) -> dict:
    """The script's globals, as when it is run, without its last statement, which would start main(). Raises SystemExit
    with a line where the last statement does something else."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    if not tree.body or not isinstance(tree.body[-1], ast.If):
        raise SystemExit(f"{script.name}: does not end with `if __name__ == ...`: not a training script of this kit")
    tree.body.pop()
    names = {"__name__": "__main__", "__file__": str(script)}
    exec(compile(tree, str(script), "exec"), names)
    return names


def count_work(names: dict, config) -> tuple[int, int] | tuple[None, None]:
    """(steps, tokens) of a run that ends by max_steps or max_tokens; None where its batches are not known beforehand.

    Not simply what the limits say: a schedule may end before max_tokens, and steps may have fewer than batch_tokens."""
    stages = [(1.0, config.batch_tokens)]
    if "stages" in names:
        stages = [(stage.until, stage.tokens) for stage in names["stages"](config, 1)]
    most_tokens = getattr(config, "max_tokens", 0) or math.inf
    most_steps = config.max_steps or math.inf
    if most_tokens == most_steps == math.inf:
        return None, None

    steps = tokens = 0
    for until, batch in stages:
        while max(steps / most_steps, tokens / most_tokens) < until and tokens + batch <= most_tokens:
            steps += 1
            tokens += batch
    return steps, tokens


class Turns:
    """The state between questions: how many steps of the present turn are left, and what it is for."""

    def __init__(self, questions, answers):
        self.questions, self.answers = questions, answers
        self.left = 0
        self.profiler: Any = None
        self.started = False

    def say(self, **answer) -> None:
        """Sends an answer."""
        self.answers.write(json.dumps(answer) + "\n")
        self.answers.flush()

    def listen(self) -> None:
        """Waits for the next question. The run ends where whoever asks has gone."""
        line = self.questions.readline()
        if not line:
            raise SystemExit
        question = json.loads(line)
        self.left = question.get("steps") or question.get("profile") or 0
        if "profile" in question:
            from torch.profiler import ProfilerActivity, profile

            self.profiler = profile(activities=[ProfilerActivity.CPU])
            self.profiler.__enter__()

    def tick(self) -> None:
        """After each step: the turn may be over."""
        self.left -= 1
        if self.left:
            return
        if self.profiler is None:
            self.say(says="turn")
        else:
            self.tell_profile()
        self.listen()

    def tell_profile(self) -> None:
        """What the profiler saw of the turn."""
        self.profiler.__exit__(None, None, None)
        averages = self.profiler.key_averages()
        rows = [[row.key, row.self_cpu_time_total, row.cpu_time_total] for row in averages]
        self.profiler = None
        self.say(says="profile", rows=rows)


def hook(names: dict, turns: Turns, ready: dict) -> None:
    """Puts the turns into a script's Clock and Optimizers."""
    clock, optimizers = names["Clock"], names["Optimizers"]
    start, tick, phase, step = clock.start, clock.tick, clock.phase, optimizers.step

    def start_in_turn(self):
        if not turns.started:  # compiling and warming up are over; later the clock goes on after a pause
            turns.started = True
            turns.say(says="ready", **ready)
            turns.listen()
        return start(self)

    def tick_in_turn(self):
        tick(self)
        turns.tick()

    @contextlib.contextmanager
    def phase_in_turn(self, name):
        if name != "calibrate":
            with phase(self, name):
                yield
            return
        turns.say(says="trained")
        turns.listen()
        with phase(self, name):
            yield
        turns.say(says="calibrated")
        turns.listen()

    def step_with_a_name(self, *positional, **named):
        from torch.profiler import record_function

        with record_function("optimizer step"):
            return step(self, *positional, **named)

    clock.start, clock.tick, clock.phase = start_in_turn, tick_in_turn, phase_in_turn
    optimizers.step = step_with_a_name


def main(script: Path, arguments: list[str]) -> int:
    """Runs the script in turns; returns its exit status."""
    turns = Turns(sys.stdin, sys.stdout)
    sys.stdout = sys.stderr  # the script's own log
    sys.argv = [str(script), *arguments]
    names = load(script)
    missing = [name for name in ("Clock", "Optimizers", "parse_config", "main") if name not in names]
    if missing:
        raise SystemExit(f"{script.name}: has no {', '.join(missing)}: not a training script of this kit")
    config = names["parse_config"](arguments, {})
    shape = {name: getattr(config, name) for name in SHAPE}
    steps, tokens = count_work(names, config)
    hook(names, turns, {"shape": shape, "steps": steps, "tokens": tokens})
    return names["main"](arguments)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
