"""How fast a script trains beside the baseline's on this machine: its speed ratio r, which decides how many tokens a
record of the pocket track may train on.

    golf par train_gpt.py
    golf par train_gpt.py --class avx512-bf16 --json > par.json     # for golf record make --par par.json

Both scripts run their bare preset in turns of two steps, each with its whole schedule shortened to `rounds` rounds, so
that every stage has its share, and then calibrate. With s the seconds a token and c those of calibration,

    r = (PAR s_baseline + c_baseline - c_script) / (PAR s_script)

is how many tokens the script trains in the time that the baseline needs for PAR tokens, over PAR. A record may use the
lower end of the 95% interval, which comes from the differences of neighbouring rounds: a stage or a slow drift of the
machine that changes the seconds of all later rounds does not widen it.

Other programs on the same cores do not hit both scripts alike: a step of more short parallel regions waits for them
more often. A round in which they took more than a tenth of a core is left out, and its seconds are taken from the
rounds around it; where too few rounds are left, there is no result.

What it counts: all wall time between the first step and the end of training, and calibration; neither compiling nor
warming up, nor estimates on dev. Not covered: a script that trains faster because it finds itself timed, or slower
after the tokens of a shortened run: the seconds of its real runs show that (RULES.md, What stays open); what it does
before its first step. GPUs keep a clock on the wall.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
from rich.console import Console

from golf import script as scripts
from golf import statistics
from golf.console import guarded
from golf.files import ROOT, Failure, read_bytes
from golf.foreign import terminal
from golf.processor import pinned, processor_class, processor_name
from golf.progress import Progress
from golf.tracks import POCKET
from tools.plan.trainers import Trainer, trainers

BASELINE = ROOT / "records/pocket/0001_baseline/train_gpt.py"
PRESET = POCKET.name
ROUNDS = 40
MIN_ROUNDS = 20
MIN_QUIET = 0.75  # of the rounds: a script that could make its slow rounds look disturbed gains little
MOST_OTHERS = 0.1  # processor seconds of other programs in a second of a quiet round
ROUNDS_HELP = f"at least {MIN_ROUNDS} (default: %(default)s, seven minutes on two quiet cores of an EPYC with bfloat16)"
CORES = 2  # of the track's machine
TURNS = 4  # of each script in a round
TURN_TOKENS = 8192  # of the baseline in a turn: two steps
BARE = {"max_seconds": 0, "checkpoint_every": 0, "dev_evals": 1}  # of a shortened run; estimates on dev are not timed


def limits(settings: dict, tokens: int) -> list[str]:
    """The arguments that end a run of a script, whose Config has these `settings`, after so many tokens."""
    fields = {key: value for key, value in BARE.items() if key in settings}
    if "max_tokens" in settings:
        fields |= {"max_tokens": tokens, "max_steps": 0}
    else:
        fields["max_steps"] = tokens // settings["batch_tokens"]
    return [f"--{key}={value}" for key, value in fields.items()]


def arguments_of(script: Path, preset: str, tokens: int) -> tuple[dict, list[str]]:
    """A script's settings under its preset, read and not run, and the arguments of a run of so many tokens."""
    source = read_bytes(script, scripts.MAX_BYTES)
    try:
        settings = scripts.read(source, preset)
    except Failure as error:
        raise Failure(f"{script}: {str(error).removeprefix('train_gpt.py: ')}") from None
    for field in ("data_dir", "batch_tokens", "max_steps"):
        if field not in settings:
            raise Failure(f"{script}: its Config has no {field}: not a training script of this kit")
    return settings, [f"--preset={preset}", *limits(settings, tokens)]


def split_steps(steps: int, turns: int) -> list[int]:
    """`steps` in so many parts that differ by one at most; parts of no step are left out."""
    ends = [steps * number // turns for number in range(turns + 1)]
    return [end - start for start, end in zip(ends, ends[1:]) if end > start]


def time_turns(baseline: Trainer, script: Trainer, turns: int, on_turn) -> tuple[np.ndarray, np.ndarray]:
    """(seconds, others), both float64 [turns, 2]: the seconds of each turn of the baseline and of the script, which
    take turns in going first, and the processor seconds that other programs took meanwhile.

    on_turn() is called after each. What the script trains after the steps that it said it would is added to its last
    turn."""
    plans = [split_steps(trainer.steps or 0, turns) for trainer in (baseline, script)]
    if any(len(plan) < turns for plan in plans):
        raise Failure(f"{script.name}: a step of so many tokens that {turns} turns have less than one each")
    seconds = np.zeros((turns, 2))
    others = np.zeros((turns, 2))
    for number in range(turns):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        for side in order:
            trainer = (baseline, script)[side]
            seconds[number, side] = trainer.turn(plans[side][number])
            others[number, side] = trainer.others
        on_turn()
    for side, trainer in enumerate((baseline, script)):
        seconds[-1, side] += trainer.turn(0)
        others[-1, side] += trainer.others
    return seconds, others


def quiet_rounds(seconds: np.ndarray, others: np.ndarray) -> np.ndarray:
    """bool [rounds]: where other programs took little of the cores; of [rounds, 2]. Failure if few are quiet."""
    quiet = others.sum(axis=1) <= MOST_OTHERS * seconds.sum(axis=1)
    rounds, count = len(quiet), int(quiet.sum())
    if count < max(MIN_ROUNDS, MIN_QUIET * rounds):
        raise Failure(
            f"other programs took more than {MOST_OTHERS:.0%} of a core in {rounds - count} of {rounds} rounds: "
            "end them, and measure again"
        )
    return quiet


def conclude(seconds: np.ndarray, quiet: np.ndarray, calibration: tuple[float, float], tokens: tuple[int, int]) -> dict:
    """{"ratio", "low", "high", "rounds"} from seconds [rounds, 2] of rounds of the baseline and the script, which of
    them are quiet, the tokens that each trained on in all, and the seconds of their calibrations."""
    par = POCKET.par_tokens
    numbers = np.arange(len(seconds))
    filled = np.stack([np.interp(numbers, numbers[quiet], side[quiet]) for side in seconds.T], axis=1)
    baseline, script = filled.sum(axis=0) / np.array(tokens)  # seconds a token
    time = par * baseline + calibration[0] - calibration[1]
    ratio = time / (par * script)

    # Each quiet round's part in the relative error of the ratio; their mean is 0
    parts = seconds[quiet] / seconds[quiet].mean(axis=0) - 1
    errors = parts[:, 0] * par * baseline / time - parts[:, 1]
    low, high = statistics.interval_in_order(errors)
    return {
        "ratio": float(ratio),
        "low": float(ratio * (1 + low)),
        "high": float(ratio * (1 + high)),
        "rounds": int(quiet.sum()),
    }


def trained(trainer: Trainer, most: int) -> int:
    """The tokens of a script's run, which may be fewer than the run was limited to: its schedule may end before."""
    if trainer.tokens is None or not 0 < trainer.tokens <= most:
        raise Failure(f"{trainer.name}: says that it trains on {trainer.tokens} tokens, of {most:,} that it may")
    return trainer.tokens


def data_set(stated: str, name: str) -> Path:
    """The data set that a script names. It is shown to the script, so it is one in data/ and no other folder."""
    path = Path(os.path.normpath(ROOT / stated))
    if path.parent != ROOT / "data":
        raise Failure(f"{terminal(stated, 200)}: {name} trains on a folder that is not a data set in data/ (golf data)")
    return path


def measure(script: Path, preset: str = PRESET, rounds: int = ROUNDS, trust: bool = False) -> dict:
    """The `par` of a record.json: {"ratio", "low", "high", "rounds" that were quiet, "processor_class", "processor"}.

    trust: whether scripts may run outside a box where the kernel grants none. Raises Failure if this machine is too
    busy, if a script cannot be read or does not run, or its data set is not here."""
    tokens = rounds * TURNS * TURN_TOKENS
    sides = [("the baseline", BASELINE, PRESET), (str(script), script, preset)]
    plans = []  # both are read before one starts: what is wrong with the second shows before the first compiles
    for name, path, preset_of_side in sides:
        settings, arguments = arguments_of(path, preset_of_side, tokens)
        data = data_set(settings["data_dir"], name)
        if not (data / "manifest.json").is_file():
            raise Failure(f"{settings['data_dir']}: no such data set here, and {name} trains on it (golf data)")
        plans.append((name, path, arguments, data))

    with pinned(CORES), trainers(trust) as start, Progress() as progress:
        progress.phase("compiling (20-60 s each)", total=2, unit="scripts")
        running = []
        for plan in plans:
            running.append(start(*plan))
            progress.advance()

        baseline, candidate = running
        progress.phase("training in turn", total=rounds * TURNS, unit="turns")
        seconds, others = time_turns(baseline, candidate, rounds * TURNS, progress.advance)
        progress.phase("calibrating", total=2, unit="scripts")
        calibration = baseline.calibrate(), candidate.calibrate()
        if baseline.others + candidate.others > MOST_OTHERS * sum(calibration):
            raise Failure("other programs took the cores during calibration: end them, and measure again")

    by_round = seconds.reshape(rounds, TURNS, 2).sum(axis=1)
    quiet = quiet_rounds(by_round, others.reshape(rounds, TURNS, 2).sum(axis=1))
    result = conclude(by_round, quiet, calibration, (trained(baseline, tokens), trained(candidate, tokens)))
    return result | {"processor_class": processor_class(), "processor": processor_name()}


def show(result: dict, console: Console) -> None:
    """Prints the result."""
    allowed = POCKET.allowed_tokens(result["low"])
    console.print(
        f"speed ratio r = {result['ratio']:.3f}, 95% interval {result['low']:.3f} to {result['high']:.3f} "
        f"({result['rounds']} quiet rounds, processor class {result['processor_class']})\n"
        f"a record of the {POCKET.name} track with this script may train on {allowed:,} tokens: "
        f"{POCKET.par_tokens:,} times the lower end",
        markup=False,
        highlight=False,
    )


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status, 0. Raises Failure if a script does not run."""
    parser = argparse.ArgumentParser(
        prog="golf par",
        description="How fast a script trains beside the baseline's on this machine: how many tokens it may use.",
    )
    parser.add_argument("script", type=Path, metavar="SCRIPT", help="a train_gpt.py; its bare preset is timed")
    parser.add_argument("--preset", default=PRESET, help="its preset (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=ROUNDS_HELP)
    parser.add_argument(
        "--trust", action="store_true", help="run the script without a box where the kernel grants none"
    )
    parser.add_argument("--json", action="store_true", help="end with one JSON object, the par of a record")
    options = parser.parse_args(argv)
    if options.rounds < MIN_ROUNDS:
        parser.error(f"--rounds must be at least {MIN_ROUNDS}: fewer say too little")
    result = measure(options.script, options.preset, options.rounds, options.trust)
    show(result, Console(stderr=options.json))
    if options.json:
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(guarded("golf par", main))
