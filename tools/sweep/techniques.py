"""The table of techniques: docs/techniques.toml says what they are, docs/techniques.jsonl has pairs of runs with and
without them, and docs/techniques.md gets the table. golf methods has the commands, and makes the pairs.

Not covered: whether two runs are a pair (golf methods).
"""

import json
import statistics
import tomllib
import typing
from dataclasses import dataclass, field
from pathlib import Path

from golf.files import Failure, write_atomic
from golf.statistics import mean_interval
from tools.sweep.spec import is_a, nearest

BEGIN, END = "<!-- techniques -->", "<!-- /techniques -->"
PRESETS = ("16mb", "pocket")  # that the table shows
BITS = 3.4  # a weight takes so many in the pocket records' artifacts
NUMBERS = (6, 7)  # columns of the table: time, bytes
NEEDED = (
    "technique",
    "seed",
    "base",
    "fields",
    "code",
    "steps",
    "machine",
    "on",
    "off",
)  # in a line of techniques.jsonl


@dataclass(frozen=True)
class Technique:
    """An entry of docs/techniques.toml, whose head explains the fields."""

    name: str
    what: str
    source: str
    public: str
    off: dict = field(default_factory=dict)
    on: dict = field(default_factory=dict)
    score: bool = False
    dropped: str = ""

    def is_on(self, config: dict) -> bool:
        """Whether a Config (field -> value) has it on."""
        return any(config[key] != value for key, value in self.off.items())

    def missing(self, config: dict) -> list[str]:
        """The technique's fields that a Config lacks."""
        return [key for key in self.on if key not in config]


def read_techniques(path: Path) -> list[Technique]:
    """The techniques in `path`. Failure says which entry is wrong."""
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8")).get("technique", [])
    except OSError as error:
        raise Failure(f"{path}: cannot read it: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Failure(f"{path}: not TOML: {error}") from None
    if not isinstance(entries, list):
        raise Failure(f"{path}: each technique begins with [[technique]]")
    kinds = typing.get_type_hints(Technique)
    result: list[Technique] = []
    for number, entry in enumerate(entries, start=1):
        where = f"{path}: technique {number} ({entry.get('name', 'no name')})"
        for key, value in entry.items():
            if key not in kinds:
                raise Failure(f"{where}: no key {key!r}{nearest(key, kinds)}")
            if not is_a(value, kinds[key]):
                raise Failure(f"{where}: {key} = {value!r} is not a {kinds[key].__name__}")
        missing = [key for key in ("name", "what", "source", "public") if not entry.get(key)]
        if missing:
            raise Failure(f"{where}: no {', '.join(missing)}")
        each = Technique(**entry)
        if each.name in [other.name for other in result]:
            raise Failure(f"{where}: this name is there twice")
        if not each.dropped and not (each.off and set(each.off) <= set(each.on) and each.is_on(each.on)):
            raise Failure(f"{where}: `off` names fields of Config, `on` these with other values; or it was `dropped`")
        result.append(each)
    return result


def read_pairs(path: Path, techniques: list[Technique]) -> list[dict]:
    """The lines of docs/techniques.jsonl, in order of the techniques and seeds; none if the file is not there."""
    pairs, names = [], [each.name for each in techniques]
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else [], start=1):
        try:
            pair = json.loads(line)
            good = set(NEEDED) <= set(pair) and all(isinstance(pair[side]["bpb"], float) for side in ("on", "off"))
        except (ValueError, KeyError, TypeError):
            good = False
        if not good:
            raise Failure(f"{path}:{number}: not a pair of runs: {line[:60]!r}")
        if pair["technique"] not in names:
            raise Failure(f"{path}:{number}: {pair['technique']!r} is not in techniques.toml: rename it in both")
        pairs.append(pair)
    return sorted(pairs, key=lambda pair: (names.index(pair["technique"]), pair["seed"]))


def write_pairs(path: Path, new: list[dict], techniques: list[Technique]) -> None:
    """Puts pairs into docs/techniques.jsonl, in place of those that it has of these techniques."""
    replaced = {pair["technique"] for pair in new}
    pairs = [pair for pair in read_pairs(path, techniques) if pair["technique"] not in replaced] + new
    write_atomic(path, "".join(json.dumps(pair) + "\n" for pair in pairs).encode())


def interval(differences: list[float]) -> tuple[float, float | None]:
    """(mean, half of its 95% interval by Student's t); None for one difference."""
    if len(differences) < 2:
        return differences[0], None
    low, high = mean_interval(differences)
    return statistics.fmean(differences), (high - low) / 2


def effects(techniques: list[Technique], pairs: list[dict], presets: dict[str, dict]) -> list[dict]:
    """A dict per technique: what the table shows; differences are on minus off. presets: name -> Config's fields."""
    rows = []
    for each in techniques:
        mine = [pair for pair in pairs if pair["technique"] == each.name]
        mean, half = interval([pair["on"]["bpb"] - pair["off"]["bpb"] for pair in mine]) if mine else (None, None)
        times = [pair["on"]["seconds"] / pair["off"]["seconds"] for pair in mine]
        rows.append(
            {
                **{key: getattr(each, key) for key in ("name", "what", "source", "public", "dropped")},
                "fields": mine[0]["fields"]
                if mine
                else {key: [value, each.on[key]] for key, value in each.off.items()},
                "bpb": mean,
                "half": half,
                "seeds": [pair["seed"] for pair in mine],
                "time": statistics.median(times) if mine else None,
                "bytes": (mine[0]["on"]["params"] - mine[0]["off"]["params"]) * BITS / 8 if mine else None,
                "presets": {name: setting(each, config) for name, config in presets.items()},
            }
        )
    return rows


def setting(technique: Technique, config: dict) -> str:
    """How a preset has a technique: off, on, or the value of its first field; - if the script does not have it."""
    if technique.dropped or technique.missing(config):
        return "-"
    value = config[next(iter(technique.off))]
    return "on" if value is True else str(value) if value else "off"


def cells(row: dict) -> list[str]:
    """The cells of a line, from the measured change on, as text."""
    measured = row["dropped"] or "not measured"
    if row["seeds"]:
        spread = "" if row["half"] is None else f" ± {row['half']:.4f}"
        measured = f"{row['bpb']:+.4f}{spread} ({len(row['seeds'])})" + f"; {row['dropped']}" * bool(row["dropped"])
    return [
        measured,
        "" if row["time"] is None else f"{row['time']:.2f}",
        "" if row["bytes"] is None else f"{row['bytes']:+,.0f}",
        *row["presets"].values(),
    ]


def markdown(rows: list[dict], pairs: list[dict]) -> str:
    """The lines between the markers."""
    lines = [
        [
            "technique",
            "what it is",
            "source",
            "public change of bpb",
            "field: off, on",
            "measured change of bpb",
            "time",
            "bytes",
            *PRESETS,
        ]
    ]
    for row in rows:
        switch = ", ".join(f"`{key}` {json.dumps(off)}, {json.dumps(on)}" for key, (off, on) in row["fields"].items())
        line = [row["name"], row["what"], row["source"], row["public"], switch.replace('"', ""), *cells(row)]
        lines.append([" ".join(cell.split()).replace("|", "\\|") for cell in line])
    widths = [max(map(len, column)) for column in zip(*lines)]
    lines.insert(1, ["-" * (width - 1) + "-:"[place in NUMBERS] for place, width in enumerate(widths)])
    text = "".join(
        "| "
        + " | ".join(
            cell.rjust(width) if place in NUMBERS else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths))
        )
        + " |\n"
        for line in lines
    )
    groups: dict[tuple, list[dict]] = {}
    for pair in pairs:
        key = (pair["code"][:12], pair["steps"], pair["machine"]["threads"], pair["machine"]["compute"])
        groups.setdefault(key, []).append(pair)
    for (code, steps, threads, compute), mine in groups.items():
        names = ", ".join(dict.fromkeys(pair["technique"] for pair in mine)) if len(groups) > 1 else "all"
        seeds = ", ".join(map(str, sorted({pair["seed"] for pair in mine})))
        text += (
            f"\nMeasured with the script of sha256 {code}..., {steps:,} steps, seeds {seeds}, {compute}, threads: "
            f"{threads}: {names}.\n"
        )
    return text


def rewrite(page: str, text: str) -> str:
    """The page with `text` between the markers; Failure if they are not there exactly once, in order."""
    begin, end = page.find(BEGIN), page.find(END)
    if page.count(BEGIN) != 1 or page.count(END) != 1 or begin > end:
        raise Failure(f"docs/techniques.md: expected one {BEGIN} and after it one {END}")
    return f"{page[:begin]}{BEGIN}\n{text}{page[end:]}"
