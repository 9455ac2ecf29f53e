"""What the page of one run shows: its curves beside its parent's, speed, clock, bytes, steps of the quantiser, slices,
and what changed. What the run does not have is said, with the command that would make it.

Not covered: reading the run's files (tools/look/evidence.py), how the page looks (run.html beside this file, and
tools/records/site/), whether what the run says is true (golf check).
"""

import difflib
import shlex
from pathlib import Path

from compress import bounded
from golf.files import Failure
from golf.foreign import terminal
from golf.progress import Progress
from golf.script import Unreadable
from golf.tracks import TRACKS
from tools.claims import prove
from tools.look.evidence import Evidence
from tools.records import charts, rendering, sections
from tools.records.record import overrides
from tools.runs.ledger import DIFF_LINES
from tools.runs.watch import RUNNING

GENERATOR = "golf show"
TEMPLATES = Path(__file__).resolve().parent
NOT_CHANGES = ("seed", "run_dir")  # fields of the config in which runs of one experiment differ
BAR = 200  # user units
MOST_TENSORS = 300  # that are shown, the largest: a stranger's file may have thousands
NO_SCORES = "one of the two has none"


def state_in_words(found: Evidence) -> str:
    """How far the run came, as a sentence."""
    steps = f" after {found.run['steps']:,} steps" if found.run else ""
    ends = {"clock": "by its clock", "steps": "by its number of steps", "tokens": "by its number of tokens"}
    if found.is_record:
        return "Recorded"
    if found.state in RUNNING:
        return f"Still running: {found.state}"
    if found.state == "crashed":
        return "Crashed, or ended from outside: it left no run.json, and nothing has been written for a while"
    if found.state in ("sigint", "sigterm"):
        return f"Told to stop ({found.state.upper()}){steps}"
    if found.state in ends:
        return f"Training ended {ends[found.state]}{steps}"
    return f"Trained{steps}" if found.run else "Its training is not known"


def train_command(found: Evidence, run_dir: Path) -> str:
    """The command that would train such a run into `run_dir`."""
    ranks = found.run.get("world_size", 1)
    program = f"torchrun --standalone --nproc_per_node={ranks} train_gpt.py" if ranks > 1 else "python train_gpt.py"
    preset, seed = found.config.get("preset"), found.config.get("seed")
    flags = [f"--preset={preset}"] if isinstance(preset, str) else []
    if isinstance(preset, str) and found.script is not None:
        try:
            flags += overrides(found.script, {"preset": preset, "config": found.config})
        except (Failure, Unreadable):
            pass  # then the command is without the values that differ from the preset's
    flags += [] if seed is None else [f"--seed={seed}"]
    return f"{program} {shlex.join(map(terminal, [*flags, f'--run_dir={run_dir}']))}"


def missing(found: Evidence, parent: Evidence | None) -> list[dict]:
    """{"what", "command"} of all that the run lacks, in the order in which it would be made."""
    rows: list[dict] = []

    def add(what: str, command: str) -> None:
        rows.append({"what": what, "command": command})

    folder = str(found.folder)
    if found.state in RUNNING:
        add("The end of its training: it is still running.", f"golf watch {shlex.quote(str(found.folder.parent))}")
    elif found.state == "crashed":
        add("The end of its training. Its script is at the head of train.log.", train_command(found, found.folder))
    elif not found.run and "run.json" not in found.faults:
        add("Its training: there is no run.json, and no log.", train_command(found, found.folder))
    elif not found.is_trained and "run.json" not in found.faults:
        again = found.folder.with_name(f"{found.folder.name}_again")
        add("The end of its training, and the statistics that packing needs.", train_command(found, again))
    if found.artifact is None and (found.is_trained or found.has_checkpoint):
        add("The artifact: it is not packed.", f"golf pack {shlex.quote(folder)}")
    if found.artifact is not None and not found.score:
        data = found.run.get("data", {}).get("dir") or found.config.get("data_dir") or "DATA"
        file = shlex.quote(str(found.artifact))
        add("A score.", f"golf score {file} --data {shlex.quote(terminal(data))} --split dev")
    if parent is None:
        add("A parent to hold it against.", f"golf show {shlex.quote(folder)} --parent RUN_OR_RECORD")
    return rows


def tensor_rows(artifact: Path) -> list[dict]:
    """Bytes of every tensor, the largest first, and where its steps lie on an axis that all share. Failure if the
    weights cannot be read."""
    try:
        rows = bounded.call("compress.rates:artifact_rows", file=str(artifact.resolve()))
    except ValueError as error:
        raise Failure(str(error)) from None
    for row in rows:
        row["bytes"] = row["code_bytes"] + row["side_bytes"]
    rows = sorted(rows, key=lambda row: -row["bytes"])[:MOST_TENSORS]
    largest = max((row["bytes"] for row in rows), default=0) or 1
    ends = [octave for row in rows for octave in row["row_octaves"] or ()]
    low, high = charts.padded(ends, 0.03, 0.05) if ends else (0.0, 1.0)
    for row in rows:
        octaves = row["row_octaves"]
        row["bar"] = round(row["bytes"] / largest * BAR, 2)
        row["box"] = octaves and [round((octave - low) / (high - low) * BAR, 2) for octave in octaves]
        row["spread"] = row["column_octaves"] and row["column_octaves"][4] - row["column_octaves"][0]
    return rows


def comparison(found: Evidence, parent: Evidence) -> dict:
    """What golf prove says of the two sides' very weights; {"problem": why} where it says nothing."""
    if not found.score or not parent.score:
        return {"problem": NO_SCORES}
    try:
        new, old = (prove.read_arm(str(side.folder)) for side in (found, parent))
        return prove.compare_weights(new, old, prove.MARGIN)
    except Failure as error:
        return {"problem": terminal(str(error).split("\n")[0])}


def script_diff(found: Evidence, parent: Evidence) -> tuple[list[tuple[str, str]], str]:
    """(lines of the diff of the scripts by kind, why there is none)."""
    if found.script is None or parent.script is None:
        whose = "the run's" if found.script is None else "the parent's"
        return [], f"No script at the head of {whose} log."
    before, after = (script.decode(errors="replace").splitlines() for script in (parent.script, found.script))
    if max(len(before), len(after)) > DIFF_LINES:
        return [], f"A script of more than {DIFF_LINES:,} lines is not compared."
    lines = difflib.unified_diff(before, after, parent.name, found.name, lineterm="")
    return sections.diff_lines("\n".join(lines)), ""


def speed_rows(sides: list[Evidence]) -> list[dict]:
    """{"what", "values"} of size, length and speed of the training: a value for each side, "–" where none is known."""
    wanted = (
        ("tokens per second", "tokens_per_second", "{:,.0f}"),
        ("model FLOP utilisation", "mfu", "{:.1%}"),
        ("training clock, seconds", "training_seconds", "{:,.1f}"),
        ("steps", "steps", "{:,}"),
        ("tokens", "tokens", "{:,}"),
        ("parameters", "params", "{:,}"),
        ("FLOPs per token", "flops_per_token", "{:,.0f}"),
        ("ranks", "world_size", "{:,}"),
    )
    rows = []
    for what, key, form in wanted:
        values = [side.run.get(key) for side in sides]
        if any(value is not None for value in values):
            rows.append({"what": what, "values": ["–" if value is None else form.format(value) for value in values]})
    for what, key in (("device", "device"), ("threads", "threads"), ("compute", "compute"), ("compiled", "compiled")):
        values = [side.run.get("environment", {}).get(key) for side in sides]
        if any(value is not None for value in values):
            rows.append({"what": what, "values": ["–" if value is None else terminal(value, 60) for value in values]})
    return rows


def without(config: dict, keys: tuple[str, ...]) -> dict:
    """The config but for some fields."""
    return {key: value for key, value in config.items() if key not in keys}


def weights_of(found: Evidence) -> tuple[list[dict] | None, list[dict], str]:
    """(bytes by section or None, rows of the tensors, why some of it is not there) of the artifact."""
    if found.artifact is None:
        return None, [], ""
    by_section = None
    try:
        by_section = sections.section_rows(found.artifact)
        return by_section, tensor_rows(found.artifact), ""
    except (Failure, OSError) as error:
        return by_section, [], terminal(error)


def variables(found: Evidence, parent: Evidence | None) -> dict:
    """The variables of run.html."""
    sides = [found] if parent is None else [found, parent]
    names = ["this run"] if parent is None else ["this run", "parent"]
    metrics = {name: side.rows for name, side in zip(names, sides)}
    with Progress() as progress:
        progress.phase("reading the weights")
        by_section, tensors, problem = weights_of(found)
        progress.phase("comparing with the parent")
        claim = comparison(found, parent) if parent else None
    diff, no_diff = script_diff(found, parent) if parent else ([], "")
    before = found.config if parent is None else parent.config
    runs = dict(enumerate(side.run for side in sides))
    scores = dict(enumerate(side.score for side in sides))
    gains = claim if claim and "problem" not in claim else None
    cap = TRACKS[found.track].cap_bytes if found.track in TRACKS else None
    return {
        "name": found.name,
        "state": state_in_words(found),
        "found": found,
        "parent": parent,
        "names": names,
        "missing": missing(found, parent),
        "claim": claim,
        "gain": gains,
        "cap": cap,
        "curves": sections.curve_charts(metrics),
        "speed": sections.speed_charts(metrics),
        "speed_rows": speed_rows(sides),
        "clock": sections.clock_rows(runs, scores),
        "sections": by_section,
        "tensors": tensors,
        "tensor_problem": problem,
        "groups": sections.slice_groups({0: found.score}, 0, gains) if found.score else [],
        "diff": diff,
        "no_diff": no_diff,
        "added": sum(kind == "add" for kind, _ in diff),
        "removed": sum(kind == "remove" for kind, _ in diff),
        "config": sections.config_rows(without(found.config, NOT_CHANGES), without(before, NOT_CHANGES)),
    }


def render(shown: dict) -> str:
    """The page of variables()."""
    environment = rendering.environment(GENERATOR, TEMPLATES)
    return environment.get_template("run.html").render(**shown)


def summary(shown: dict) -> dict:
    """What --json says of variables()."""
    found, parent, gain = shown["found"], shown["parent"], shown["gain"]
    size = found.artifact.stat().st_size if found.artifact else None
    return {
        "format": 1,
        "run": found.name,
        "state": found.state,
        "parent": parent and parent.name,
        "bpb": found.score.get("bpb"),
        "dev_bpb": found.run.get("dev_bpb"),
        "train_loss": found.run.get("train_loss"),
        "artifact_bytes": size,
        "headroom_bytes": None if size is None or shown["cap"] is None else shown["cap"] - size,
        "gain": gain and gain["gain"],
        "gain_interval": gain and gain["interval"],
        "tokens_per_second": found.run.get("tokens_per_second"),
        "mfu": found.run.get("mfu"),
        "clock": found.run.get("clock"),
        "sections": {row["tag"]: row["bytes"] for row in shown["sections"] or []},
        "changed": {row["key"]: [row["was"], row["value"]] for row in shown["config"] if row["changed"]},
        "lines_added": shown["added"],
        "lines_removed": shown["removed"],
        "missing": shown["missing"],
        "faults": found.faults,
    }
