"""Geometry of the site's charts: axes with round ticks, and where points, steps and curves lie on them.

Coordinates are user units of an SVG of WIDTH x HEIGHT whose plot area is PLOT; tools/site/charts.html draws them.
Not covered: colours and sizes of text (tools/site/style.css); the PNG of a record (tools/runs/curves.py).
"""

import datetime
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

WIDTH, HEIGHT = 560, 330
PLOT = (64, 14, 542, 276)  # left, top, right, bottom


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic scale from [low, high] in data to [start, end] in user units; ticks: (value, text)."""

    label: str
    low: float
    high: float
    start: float
    end: float
    ticks: list[tuple[float, str]]
    log: bool = False

    def at(self, value: float) -> float:
        """Position of a value, rounded to a hundredth of a unit."""
        low, high, value = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 2)


def round_step(span: float, count: int) -> float:
    """The largest of 1, 2 and 5 times a power of ten that cuts `span` into at least `count` parts."""
    power = 10.0 ** math.floor(math.log10(span / count))
    return max(step for step in (power, 2 * power, 5 * power) if step <= span / count * (1 + 1e-9))


def linear_ticks(low: float, high: float, step: float) -> list[float]:
    """The multiples of `step` in [low, high]."""
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def padded(values: Iterable[float], part: float, least: float) -> tuple[float, float]:
    """(low, high) of the values with a margin of `part` of their span, at least `least`, on either side."""
    low, high = min(values), max(values)
    margin = max(part * (high - low), least)
    return low - margin, high + margin


def y_axis(label: str, low: float, high: float) -> Axis:
    """A vertical axis of bpb or nats; larger values are higher up."""
    step = round_step(high - low, 3)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return Axis(label, low, high, PLOT[3], PLOT[1], [(v, f"{v:.{digits}f}") for v in linear_ticks(low, high, step)])


def seconds_axis(high: float) -> Axis:
    """A horizontal axis of the training clock, from 0."""
    ticks = [(v, f"{v:g}") for v in linear_ticks(0, high, round_step(high, 5))]
    return Axis("training clock (seconds)", 0, high, PLOT[0], PLOT[2], ticks)


def bytes_axis(sizes: list[int], cap: int | None) -> Axis:
    """A horizontal axis of artifact bytes that shows the cap; logarithmic where sizes differ more than eightfold."""
    values = sizes + [cap] * (cap is not None)
    if max(values) > 8 * min(values):
        low, high = min(values) / 1.5, max(values) * 1.5
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [k * 10.0**power for power in decades for k in (1, 2, 5) if low <= k * 10**power <= high]
        if len(ticks) > 6:
            ticks = [tick for tick in ticks if f"{tick:e}".startswith("1")]
        return Axis("artifact (bytes)", low, high, PLOT[0], PLOT[2], [(v, short(v, 0)) for v in ticks], True)
    low, high = padded(values, 0.08, 0.002 * max(values))
    step = round_step(high - low, 3)
    return Axis(
        "artifact (bytes)", low, high, PLOT[0], PLOT[2], [(v, short(v, step)) for v in linear_ticks(low, high, step)]
    )


def short(value: float, step: float) -> str:
    """A number of bytes in thousands or millions, with the digits that a step of the axis needs."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            digits = max(0, -math.floor(math.log10(step / unit) + 1e-9)) if step else 0
            return f"{value / unit:.{digits}f}{name}" if step else f"{value / unit:g}{name}"
    return f"{value:g}"


def date_axis(days: list[int]) -> Axis:
    """A horizontal axis of dates, given as proleptic ordinals."""
    low, high = padded(days, 0.08, 1.25)
    step = max(1, round(round_step(high - low, 3)))
    form = "%b %Y" if step > 60 else "%d %b"
    ticks = [(day, datetime.date.fromordinal(int(day)).strftime(form)) for day in linear_ticks(low, high, step)]
    return Axis("date", low, high, PLOT[0], PLOT[2], ticks)


def labels(points: list[dict], text: Callable[[dict], str]) -> None:
    """Sets each point's "label" to (x, y, anchor, text) beside it, or to None where all four places are taken."""
    taken = [(p["x"] - 6, p["y"] - 6, p["x"] + 6, p["y"] + 6) for p in points]
    for point in points:
        width = 12 * len(text(point))
        point["label"] = None
        for dx, dy, anchor in ((10, 5, "start"), (-10, 5, "end"), (0, -11, "middle"), (0, 21, "middle")):
            x, y = point["x"] + dx, point["y"] + dy
            left = x - {"start": 0, "middle": width / 2, "end": width}[anchor]
            box = (left, y - 15, left + width, y + 4)
            inside = PLOT[0] < box[0] and box[2] < PLOT[2] and PLOT[1] < box[1] and box[3] < PLOT[3]
            if inside and not any(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in taken):
                point["label"] = (round(x, 2), round(y, 2), anchor, text(point))
                taken.append(box)
                break


def scatter(title: str, records: list[dict], x: Axis, value: Callable[[dict], float], **extra) -> dict:
    """A chart of one point per record, at value(record) and its mean bpb, with a bar of one standard deviation."""
    spreads = [(r["bpb_mean"], r["bpb_sd"] or 0.0) for r in records]
    low, high = padded([m + s for m, sd in spreads for s in (-sd, sd)], 0.12, 0.005)
    y = y_axis("bits per byte (lower is better)", low, high)
    points = [
        {"record": r, "x": x.at(value(r)), "y": y.at(mean), "top": y.at(mean + sd), "bottom": y.at(mean - sd)}
        for r, (mean, sd) in zip(records, spreads)
    ]
    labels(points, lambda point: point["record"]["number"])
    return {"title": title, "x": x, "y": y, "points": points} | extra


def by_bytes(track: str, records: list[dict], cap: int | None) -> dict:
    """Mean bpb against the bytes of the artifact; the cap is a line."""
    axis = bytes_axis([r["artifact"]["bytes"] for r in records], cap)
    return scatter(
        f"{track}: bpb against bytes",
        records,
        axis,
        lambda r: r["artifact"]["bytes"],
        cap=None if cap is None else {"x": axis.at(cap), "text": f"cap {cap:,}"},
    )


def by_date(track: str, records: list[dict]) -> dict:
    """Mean bpb against the date; a stepped line follows the best so far."""

    def day(record: dict) -> int:
        return datetime.date.fromisoformat(record["date"]).toordinal()

    chart = scatter(f"{track}: bpb against date", records, date_axis([day(r) for r in records]), day)
    best, path = math.inf, []
    for point in sorted(chart["points"], key=lambda p: (p["x"], p["record"]["number"])):
        if point["record"]["bpb_mean"] < best:
            best = point["record"]["bpb_mean"]
            path.append(f"M{point['x']} {point['y']}" if not path else f"H{point['x']}V{point['y']}")
    return chart | {"best": "".join(path) + f"H{PLOT[2]}"}


def curves(
    title: str,
    label: str,
    runs: list[tuple[str, list[tuple[float, float]], list[tuple[float, float]]]],
    ceiling: float | None = None,
) -> dict:
    """Curves over the training clock. runs: (name, thin line or [], line) with (seconds, value) points, per seed.

    Values above `ceiling` leave the plot at its top.
    """
    everything = [point for _, thin, line in runs for point in thin + line]
    low, high = min(v for _, v in everything), max(v for _, v in everything)
    low, high = padded([low, high if ceiling is None else min(high, ceiling)], 0.05, 0.005)
    x, y = seconds_axis(max(s for s, _ in everything) * 1.02), y_axis(label, low, high)
    place = [
        {
            "name": name,
            "last": line[-1][1],
            "thin": [(x.at(s), y.at(v)) for s, v in thin],
            "line": [(x.at(s), y.at(v)) for s, v in line],
        }
        for name, thin, line in runs
    ]
    return {"title": title, "x": x, "y": y, "runs": place}


def interval_bar(axis: tuple[float, float], value: float, interval: list[float] | None, width: int) -> dict:
    """Where a value and its interval lie on a bar `width` units wide that spans `axis`."""

    def at(v: float) -> float:
        return round((v - axis[0]) / (axis[1] - axis[0]) * width, 2)

    return {"at": at(value), "from": at(interval[0]) if interval else None, "to": at(interval[1]) if interval else None}
