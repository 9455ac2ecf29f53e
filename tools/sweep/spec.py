"""What a sweep is: reads SPEC.toml, asks the training script what its fields are, and draws configurations.

    name = "mlp"                  # of the runs: runs/mlp-<8 hex of script, config and data>-s<seed>
    hypothesis = "A wider MLP is worth fewer steps."
    who = "agent"                 # person, agent or both
    search = "optuna"             # TPE (Bergstra et al. 2011); or random; or grid: all combinations of the lists
    trials = 30                   # how many configurations; not for a grid
    search_seed = 0               # not for a grid
    seeds = [1, 2]                # every configuration runs with each
    parallel = 1                  # trials at once; a timed run needs the machine for itself
    processes = 1                 # of one trial; more than one train through torchrun
    objective = "packed"          # bpb of the packed file on dev; or "dev_estimate": training's own, which is cheaper
    stop_margin = 0.05            # bpb, see golf sweep; inf never stops a trial

    [fixed]                       # fields of Config, for all trials; preset is required
    preset = "pocket"
    max_seconds = 120

    [space]                       # fields of Config: a list, or for random and optuna a range
    mlp_mult = [2.0, 3.0]
    matrix_lr = { low = 0.02, high = 0.08, log = true }

    [slurm]                       # for --cluster slurm: parameters of submitit's SlurmExecutor
    partition = "gpu"

The script runs in a process of its own that answers with `Config` and `parse_config`: tools never import it.
Not covered: conditional spaces. A combination that the script refuses is reported and counts as tried.
"""

import difflib
import hashlib
import itertools
import json
import math
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from golf.files import MAX_SETTINGS_BYTES, Failure, read_text, unusable
from golf.foreign import terminal

TYPES = {
    "name": str,
    "hypothesis": str,
    "who": str,
    "search": str,
    "trials": int,
    "search_seed": int,
    "seeds": list,
    "parallel": int,
    "processes": int,
    "objective": str,
    "stop_margin": float,
    "fixed": dict,
    "space": dict,
    "slurm": dict,
}
CHOICES = {
    "who": ("person", "agent", "both"),
    "search": ("grid", "random", "optuna"),
    "objective": ("packed", "dev_estimate"),
}
REQUIRED = ("name", "hypothesis", "who", "search", "seeds", "fixed", "space")
OWN = {"seed": "list them in `seeds`", "run_dir": "the sweep names the folders"}
SLURM_KEYS = {
    *("account", "constraint", "cpus_per_gpu", "cpus_per_task", "dependency", "exclude", "exclusive", "gpus_per_node"),
    *("gpus_per_task", "gres", "mem", "mem_per_cpu", "mem_per_gpu", "nodelist", "nodes", "ntasks_per_node"),
    *("num_gpus", "partition", "qos", "time", "timeout_min", "use_srun"),
}
SLURM_WORD = re.compile(r"[\w.,:=+@%\[\]&|*()-]{0,200}", re.ASCII)
MAX_TRIALS, MAX_PROCESSES = 100_000, 1000
STARTUP_TRIALS = 10  # TPE's random ones, optuna's default

ASK_SCRIPT = """
import dataclasses, importlib.util, json, os, sys
spec = importlib.util.spec_from_file_location("train_gpt", sys.argv[1])
script = sys.modules["train_gpt"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
print(json.dumps({f.name: f.default for f in dataclasses.fields(script.Config)}), flush=True)
for line in sys.stdin:
    try:
        answer = {"config": dataclasses.asdict(script.parse_config(json.loads(line), dict(os.environ)))}
    except script.RunError as error:
        answer = {"error": str(error)}
    except (Exception, SystemExit) as error:
        answer = {"error": f"parse_config: {type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    print(json.dumps(answer), flush=True)
"""


@dataclass(frozen=True)
class Spec:
    """A checked SPEC.toml; the module's docstring explains the fields."""

    path: Path
    name: str
    hypothesis: str
    who: str
    search: str
    seeds: list[int]
    fixed: dict
    space: dict
    trials: int = 0
    search_seed: int = 0
    parallel: int = 1
    processes: int = 1
    objective: str = "packed"
    stop_margin: float = 0.05
    slurm: dict = field(default_factory=dict)
    points: tuple[dict, ...] = ()  # a grid's configurations one by one, from golf methods: no file has them


def is_a(value, kind: type) -> bool:
    """Whether a TOML value is of `kind`: whole numbers are floats too, booleans are not numbers."""
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def shown(value: object) -> str:
    """A value of the file for a message."""
    return terminal(repr(value), 100)


def nearest(word: str, words) -> str:
    """': did you mean X?' for the nearest of `words`, or nothing."""
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f": did you mean {near[0]}?" if near else ""


def held_out(value) -> str | None:
    """The first string below `value` that names the gate or the final split, as a word or part of a path."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return next(filter(None, map(held_out, value)), None)
    return value if isinstance(value, str) and re.search(r"(?<![a-z])(gate|final)(?![a-z])", value.lower()) else None


def slurm_setting(key: str, value) -> bool:
    """Whether a setting of [slurm] asks for resources and no more. submitit writes it into a shell script."""
    if key == "additional_parameters" and isinstance(value, dict):
        return all(re.fullmatch("[a-z][a-z_-]*", name) and slurm_value(item) for name, item in value.items())
    return key in SLURM_KEYS and slurm_value(value)


def slurm_value(value) -> bool:
    """Whether it is a number, a truth value, or a word that a shell takes as it stands."""
    return isinstance(value, (bool, int, float)) or isinstance(value, str) and bool(SLURM_WORD.fullmatch(value))


def read_spec(path: Path) -> Spec:
    """Reads and checks what can be checked without the script. Failure says what is wrong, and where."""
    text = read_text(path, MAX_SETTINGS_BYTES).removeprefix("\ufeff")  # which some editors put in front

    def fail(text: str):
        raise Failure(f"{path}: {text}")

    try:
        values = tomllib.loads(text)
    except RecursionError:
        fail("not TOML that can be read: too many lists and tables inside each other")
    except ValueError as error:  # of 5,000 digits, too
        fail(f"not TOML: {terminal(str(error), 200)}")
    # stop_margin may be inf
    if reason := unusable({key: value for key, value in values.items() if key != "stop_margin"}):
        fail(reason)

    bad = held_out({key: value for key, value in values.items() if key not in ("name", "hypothesis")})
    if bad is not None or "split" in values:
        fail(f"{shown(bad or values['split'])}: a sweep scores on dev only; golf ladder answers about gate and final")
    for key, value in values.items():
        if key not in TYPES:
            fail(f"no key {shown(key)}{nearest(key, TYPES)}")
        if not is_a(value, TYPES[key]):
            fail(f"{key} = {shown(value)} is not a {TYPES[key].__name__}")
        if key in CHOICES and value not in CHOICES[key]:
            fail(f"{key} = {shown(value)}: choose one of {', '.join(CHOICES[key])}")
    missing = [key for key in REQUIRED if key not in values]
    if missing:
        fail(f"no {', '.join(missing)} (golf sweep --help shows a spec)")
    spec = Spec(path, **values)
    odd = sorted(terminal(key, 40) for key, value in spec.slurm.items() if not slurm_setting(key, value))
    whole = all(is_a(seed, int) and abs(seed) < 2**63 for seed in spec.seeds)  # SQLite holds no larger ones
    both = sorted(set(spec.fixed) & set(spec.space))
    grid = math.prod(len(entry) for entry in spec.space.values() if isinstance(entry, list))
    trials = grid if spec.search == "grid" else spec.trials
    seeds_good = spec.seeds and whole and len(set(spec.seeds)) == len(spec.seeds)
    for wrong, text in (
        (not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", spec.name), "name: up to 40 of a-z, 0-9, - and _"),
        (not spec.hypothesis.strip(), "hypothesis: one sentence, what should get better and why"),
        (not seeds_good, "seeds: a list of different whole numbers below 2^63"),
        (spec.search == "grid" and "trials" in values, "trials: a grid runs all of its configurations"),
        (spec.search != "grid" and spec.trials < 1, f"trials: how many configurations {spec.search} may try"),
        (
            trials * len(spec.seeds) > MAX_TRIALS,
            f"{trials:,} configurations and their seeds: at most {MAX_TRIALS:,} runs",
        ),
        (not 1 <= min(spec.parallel, spec.processes), "parallel and processes are at least 1"),
        (max(spec.parallel, spec.processes) > MAX_PROCESSES, f"parallel and processes are at most {MAX_PROCESSES:,}"),
        (not spec.stop_margin > 0, "stop_margin: a positive number of bpb, or inf"),
        (bool(odd), f"[slurm] {odd[:9]}: no setting of a sweep file may run a command or hold a line break"),
        (not spec.space, "[space] has no field to vary"),
        (not is_a(spec.fixed.get("preset"), str) and "preset" not in spec.space, "[fixed] needs a preset"),
        (bool(both), f"in [fixed] and in [space]: {terminal(', '.join(both), 100)}"),
    ):
        if wrong:
            fail(text)
    return spec


def check_fields(spec: Spec, defaults: dict) -> None:
    """Failure unless [fixed] and [space] are fields of Config with values of their types. defaults: field -> value."""
    for table, entries in (("fixed", spec.fixed), ("space", spec.space), *(("point", each) for each in spec.points)):
        for key, entry in entries.items():
            where = f"{spec.path}: [{table}] {key}"
            if key in OWN:
                raise Failure(f"{where}: {OWN[key]}")
            if key not in defaults:
                raise Failure(f"{spec.path}: [{table}] Config has no field {shown(key)}{nearest(key, defaults)}")
            kind = type(defaults[key])
            if table == "space" and isinstance(entry, dict):
                check_range(where, entry, kind, spec.search)
                continue
            if table == "space" and not (isinstance(entry, list) and entry):
                raise Failure(f"{where}: a list of values, or {{ low = ..., high = ... }}")
            for value in entry if table == "space" else [entry]:
                if not is_a(value, kind) or kind is float and not math.isfinite(value):
                    raise Failure(f"{where}: {shown(value)} is not a {kind.__name__}")
                if isinstance(value, str) and not value.isprintable():  # no command line can hold a zero byte
                    raise Failure(f"{where}: {shown(value)} has a character that cannot be shown")


def check_seeds(spec: Spec, script: "Script") -> None:
    """Failure for a seed that the script refuses: every configuration would fail with it."""
    for seed in spec.seeds:
        try:
            script.resolve({"seed": seed})
        except Failure as error:
            raise Failure(f"{spec.path}: seeds: {error}") from None


def check_range(where: str, entry: dict, kind: type, search: str) -> None:
    """Failure unless `entry` is {low, high, log, step} of `kind`."""
    if search == "grid":
        raise Failure(f"{where}: a grid needs a list of values")
    if set(entry) - {"low", "high", "log", "step"} or not {"low", "high"} <= set(entry) or kind not in (int, float):
        raise Failure(f"{where}: a range of numbers has low and high, and may have log or step")
    numbers = [entry[key] for key in ("low", "high", "step") if key in entry]
    if not all(is_a(number, kind) and math.isfinite(number) for number in numbers):
        raise Failure(f"{where}: low, high and step must be of type {kind.__name__}")
    if not entry["low"] < entry["high"] or entry.get("step", 1) <= 0 or not is_a(entry.get("log", False), bool):
        raise Failure(f"{where}: low < high, step > 0, log is true or false")
    if entry.get("log") and (entry["low"] <= 0 or "step" in entry):
        raise Failure(f"{where}: log needs low > 0 and no step")


class Script:
    """The training script in a process of its own, which knows its fields and resolves configurations."""

    def __init__(self, path: Path, cwd: Path):
        self.process = subprocess.Popen(
            [sys.executable, "-B", "-c", ASK_SCRIPT, str(path)],
            cwd=cwd,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.questions, self.answers, self.errors = self.process.stdin, self.process.stdout, self.process.stderr
        line = self.answers.readline()
        if not line:
            errors = self.process.communicate()[1].strip().splitlines()
            raise Failure(f"{path.name} does not import: {errors[-1] if errors else 'no output'}")
        self.defaults = json.loads(line)

    def resolve(self, values: dict) -> dict:
        """All fields of the Config that `--field=value` for each of `values` gives. Failure: what the script says."""
        self.questions.write(json.dumps(arguments(values)) + "\n")
        self.questions.flush()
        line = self.answers.readline()
        if not line:
            raise Failure(f"parse_config: {self.process.communicate()[1].strip().splitlines()[-1]}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failure(answer["error"])
        return answer["config"]

    def close(self) -> None:
        """Ends the process."""
        self.questions.close()
        self.process.wait()
        self.answers.close()
        self.errors.close()


def arguments(values: dict) -> list[str]:
    """`--field=value` for each."""
    return [f"--{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in values.items()]


class Grid:
    """All combinations, the last field of [space] fastest; or the spec's points."""

    def __init__(self, spec: Spec):
        self.points = spec.points or [dict(zip(spec.space, each)) for each in itertools.product(*spec.space.values())]

    def __len__(self) -> int:
        return len(self.points)

    def point(self, number: int) -> dict:
        """The configuration of this number, as values of the fields in [space]."""
        return self.points[number]

    def tell(self, number: int, outcome: str, value: float | None) -> None:
        """What came of it: outcome done (with its bpb), stopped or failed."""


class Study:
    """Random or TPE search by Optuna. Each draw has a seed of its own, so that an interrupted search goes on as if it
    had not been interrupted.

    defaults: field of Config -> value. storage: a file; None keeps the study in memory. identity: what else makes it
    another study.
    """

    def __init__(self, spec: Spec, defaults: dict, storage: Path | None, identity: list[str]):
        import optuna
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
        from optuna.storages.journal import JournalFileBackend, JournalStorage

        def distribution(name: str, entry):
            if isinstance(entry, list):
                return CategoricalDistribution(entry)
            return (IntDistribution if isinstance(defaults[name], int) else FloatDistribution)(**entry)

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.optuna, self.spec = optuna, spec
        self.space = {name: distribution(name, entry) for name, entry in spec.space.items()}
        told = [spec.search, spec.search_seed, spec.space, spec.fixed, spec.seeds, spec.objective, *identity]
        self.study = optuna.create_study(
            study_name=hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12],
            load_if_exists=True,
            storage=JournalStorage(JournalFileBackend(str(storage))) if storage else None,
        )

    def __len__(self) -> int:
        return self.spec.trials

    def point(self, number: int) -> dict:
        """The configuration of this number: drawn now, knowing what was told, unless it was drawn before."""
        trials = self.study.get_trials(deepcopy=False)
        if number < len(trials):
            return dict(trials[number].params)
        samplers, seed = self.optuna.samplers, self.spec.search_seed * 1_000_003 + number
        self.study.sampler = (
            samplers.RandomSampler(seed=seed)
            if self.spec.search == "random"
            else samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
        )
        return dict(self.study.ask(fixed_distributions=self.space).params)

    def tell(self, number: int, outcome: str, value: float | None) -> None:
        """What came of it: outcome done (with its bpb), stopped or failed. Told once; later calls change nothing."""
        state = {"done": "COMPLETE", "stopped": "PRUNED", "failed": "FAIL"}[outcome]
        self.study.tell(number, value, state=self.optuna.trial.TrialState[state], skip_if_finished=True)
