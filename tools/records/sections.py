"""What the sections of a record's page show: curves, slices, audits, layers of the box, bytes, config, diff, clock.

Not covered: how it looks (tools/records/site/); what others found (tools/records/standing.py).
"""

import math
import statistics
from pathlib import Path
from typing import Any

from golf import container
from golf.files import Failure, read_bytes
from tools.records import charts, lineage
from tools.runs import curves

MAX_POINTS = 1000  # of a curve: more do not show, and a stranger's log has millions
SECTIONS = {
    "CODE": "training script and decoder",
    "CONF": "configuration",
    "TOKN": "tokenizer",
    "WGTS": "weights",
    "overhead": "container: header, section table, checksum",
}


def per_seed(record: lineage.Record, pattern: str, read) -> dict[int, Any]:
    """{seed: what `read` makes of its file}, in the record's order; seeds without the file are left out."""
    paths = {row["seed"]: record.folder / pattern.format(row["seed"]) for row in record.data["seeds"]}
    return {seed: read(path) for seed, path in paths.items() if path.is_file()}


def series(rows: list[dict], key: str, scale: float = 1.0) -> list[tuple[float, float]]:
    """(seconds, value times `scale`) of the rows of a metrics.jsonl that have a finite value of this name; of very many
    rows MAX_POINTS at most, evenly taken, the last one among them."""
    found = [
        (row["elapsed"], row[key] * scale)
        for row in rows
        if row.get(key) is not None and math.isfinite(row[key]) and row["elapsed"] >= 0
    ]
    stride = -(-len(found) // MAX_POINTS) or 1
    return found[::-stride][::-1]


def with_width(runs: list[tuple]) -> bool:
    """Whether any point of the runs lies after the start of the clock, so that there is an axis to draw."""
    return any(seconds > 0 for _, thin, line in runs for seconds, _ in thin + line)


def curve_charts(metrics: dict[str, list[dict]]) -> list[dict]:
    """Charts of train loss and of the script's estimate of dev bpb, as far as the logs have them. metrics: {name of a
    run: its rows of metrics.jsonl}."""
    losses: list[tuple] = []
    estimates: list[tuple] = []
    starts: list[float] = []
    for name, rows in metrics.items():
        points = series(rows, "loss")
        if points:
            means = curves.smooth([loss for _, loss in points])
            starts.append(means[len(means) // 20])
            losses.append((name, points, [(s, mean) for (s, _), mean in zip(points, means)]))
        points = series(rows, "dev_bpb")
        if points:
            estimates.append((name, [], points))
    names, found = list(metrics), []
    if with_width(losses):  # the first steps would squeeze the rest of the curve into a flat line
        found.append(
            charts.curves("Training loss and its running mean", "nats per token", losses, max(starts), names=names)
        )
    if with_width(estimates):
        found.append(charts.curves("Dev estimate of the training script", "bits per byte", estimates, names=names))
    return found


def speed_charts(metrics: dict[str, list[dict]]) -> list[dict]:
    """Charts of tokens per second and of model FLOP utilisation, as far as the logs have them."""
    found = []
    for key, scale, title, label in (
        ("tokens_per_second", 1e-3, "Speed of training", "thousand tokens per second"),
        ("mfu", 100.0, "Model FLOP utilisation", "% of the matrix peak"),
    ):
        lines = {name: series(rows, key, scale) for name, rows in metrics.items()}
        runs: list[tuple] = [(name, [], line) for name, line in lines.items() if line]
        if with_width(runs):
            found.append(charts.curves(title, label, runs, dots=False, digits=1, names=list(metrics)))
    return found


def slice_groups(scores: dict[int, dict], shown: int, claim: dict | None) -> list[dict]:
    """Tables of bpb by slice, one for each kind: mean over seeds, interval of the `shown` seed, gain of `claim`.

    The names of slices are "KIND NAME", but in files of format 1, where each is a source.
    """

    def split(name: str) -> tuple[str, str]:
        kind, space, rest = name.partition(" ")
        return (kind, rest) if space and scores[shown].get("format", 1) > 1 else ("source", name)

    def mean(name: str) -> float:
        return statistics.mean(
            score["slices"][name]["bpb"] for score in scores.values() if name in score.get("slices", {})
        )

    gains = claim["slices"] if claim else {}
    groups: dict[str, list[dict]] = {}
    for name, row in scores[shown].get("slices", {}).items():
        kind, short = split(name)
        groups.setdefault(kind, []).append(
            {
                "name": short,
                "bpb": mean(name),
                "interval": row.get("bpb_interval"),
                "documents": row.get("documents"),
                "raw_bytes": row.get("raw_bytes"),
                "shown": row["bpb"],
                "gain": gains.get(name) or gains.get(f"{kind} {short}"),
            }
        )
    found = []
    for kind, rows in groups.items():
        ends = [value for row in rows for value in (row["shown"], *(row["interval"] or ()))]
        axis = charts.padded([*ends, scores[shown]["bpb"]], 0.03, 1e-6)
        for row in rows:
            row["bar"] = charts.interval_bar(axis, row["shown"], row["interval"], 200)
        found.append(
            {
                "kind": kind,
                "rows": rows,
                "gains": any(row["gain"] for row in rows),
                "whole": charts.interval_bar(axis, scores[shown]["bpb"], None, 200)["at"],
            }
        )
    return found


def rows_of(scores: dict[int, dict], shown: int, key: str, name: str) -> list[dict]:
    """The rows that any score has under `key`, one for each value of `name`; the `shown` seed's where it has one."""
    found: dict[str, dict] = {}
    for score in (scores[shown], *scores.values()):
        for row in score.get(key, []):
            found.setdefault(row[name], row)
    return list(found.values())


def audit_rows(scores: dict[int, dict], shown: int) -> list[dict]:
    """One row per audit, with the verdict of each seed: "" where it was not made."""
    verdicts = [{row["audit"]: row["verdict"] for row in score.get("audits", [])} for score in scores.values()]
    return [
        row | {"verdicts": [of_seed.get(row["audit"], "") for of_seed in verdicts]}
        for row in rows_of(scores, shown, "audits", "audit")
    ]


def sandbox_rows(scores: dict[int, dict], shown: int) -> list[dict]:
    """One row per layer of the box, with the number of scores in which it was active."""
    active = [{row["layer"] for row in score.get("sandbox", []) if row["active"]} for score in scores.values()]
    return [
        row | {"count": sum(row["layer"] in layers for layers in active)}
        for row in rows_of(scores, shown, "sandbox", "layer")
    ]


def section_rows(file: Path) -> list[dict]:
    """Bytes of an artifact by section. Failure if it is none."""
    data = read_bytes(file)
    try:
        sections = {tag: len(payload) for tag, payload in container.read(data).items()}
    except container.FormatError as error:
        raise Failure(f"{file}: {error}") from None
    sections["overhead"] = container.OVERHEAD_BYTES
    return [
        {"tag": tag, "what": SECTIONS[tag], "bytes": size, "share": size / len(data)} for tag, size in sections.items()
    ]


def config_rows(now: dict, before: dict) -> list[dict]:
    """Fields of a resolved config, those that differ from the parent's first; "was" is the parent's value."""
    rows = [
        {"key": key, "value": now.get(key, "not there"), "was": before.get(key, "not there")}
        for key in dict.fromkeys([*now, *before])
    ]
    return sorted((row | {"changed": row["was"] != row["value"]} for row in rows), key=lambda row: not row["changed"])


def diff_lines(text: str) -> list[tuple[str, str]]:
    """(kind, line) of a unified diff; kinds: file, hunk, add, remove, same."""
    kinds = {"+++": "file", "---": "file", "@@ ": "hunk"}
    return [
        (kinds.get(line[:3]) or {"+": "add", "-": "remove"}.get(line[:1], "same"), line) for line in text.splitlines()
    ]


def clock_rows(runs: dict[int, dict], scores: dict[int, dict]) -> list[dict]:
    """Seconds by phase and seed: of training (run.json), then of scoring (eval.json)."""
    rows = []
    for stage, files in (("training", runs), ("scoring", scores)):
        clocks = [file.get("clock", {}) for file in files.values()]
        rows += [
            {"stage": stage, "phase": phase, "seconds": [clock.get(phase) for clock in clocks]}
            for phase in dict.fromkeys(phase for clock in clocks for phase in clock)
        ]
    return rows
