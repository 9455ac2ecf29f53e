"""Geometry of the site's charts: axes with round ticks, and where points, steps and curves lie on them.

Records of a track differ by less and less, fill the cap alike and come several a day. So the board shows bpb on
a log scale above a floor that the axis names, and records in their order, or by the bytes left under the cap.

Coordinates are user units of an SVG of WIDTH x HEIGHT whose plot area is PLOT; tools/records/site/charts.html draws
them. Not covered: colours and sizes of text (tools/records/site/style.css); the PNG of a record (tools/runs/curves.py).
"""

import dataclasses
import datetime
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

WIDTH, HEIGHT = 560, 330
PLOT = (64, 14, 542, 276)  # left, top, right, bottom
MOST_TICKS = 7  # of a log scale: more would touch on a phone
LEAST_SPAN = 0.05  # of an axis of bpb
LEAST_TICKS, TICK_HEIGHT = 4, 30  # of the axis of bpb; the latter in user units from tick to tick
TICK_WIDTH = 80  # user units of a date on a phone, with a gap
BYTE_MARGIN = 2.3  # of a log scale on either side: even one record's axis then has two ticks or more


@dataclass(frozen=True)
class Axis:
    """A scale from [low, high] in data to [start, end] in user units; ticks: (value, text).

    floor: None for a linear scale; otherwise it is logarithmic in how far a value lies above this.
    """

    label: str
    low: float
    high: float
    start: float
    end: float
    ticks: list[tuple[float, str]]
    floor: float | None = None

    def at(self, value: float) -> float:
        """Position of a value, rounded to a hundredth of a unit."""
        low, high = self.low, self.high
        if self.floor is not None:
            low, high, value = (math.log(x - self.floor) for x in (low, high, value))
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 2)


def round_step(span: float, count: int) -> float:
    """The largest of 1, 2 and 5 times a power of ten that cuts `span` into at least `count` parts."""
    power = 10.0 ** math.floor(math.log10(span / count))
    return max(step for step in (power, 2 * power, 5 * power) if step <= span / count * (1 + 1e-9))


def linear_ticks(low: float, high: float, step: float) -> list[float]:
    """The multiples of `step` in [low, high]."""
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round values in [low, high], 0 < low: 1, 2 and 5 times powers of ten; 3 and 7 times too where those would be
    fewer than three, and the powers alone where they would be more than MOST_TICKS."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)

    def multiples(factors: tuple[int, ...]) -> list[float]:
        return [k * 10.0**power for power in powers for k in factors if low <= k * 10.0**power <= high]

    found = multiples((1, 2, 5))
    if len(found) < 3:
        return multiples((1, 2, 3, 5, 7))
    return found if len(found) <= MOST_TICKS else multiples((1,))


def decimals(step: float) -> int:
    """Digits behind the point that a multiple of a round step needs."""
    return max(0, -math.floor(math.log10(step) + 1e-9))


def padded(values: Iterable[float], part: float, least: float) -> tuple[float, float]:
    """(low, high) of the values with a margin of `part` of their span, at least `least`, on either side."""
    low, high = min(values), max(values)
    margin = max(part * (high - low), least)
    return low - margin, high + margin


def y_axis(label: str, low: float, high: float) -> Axis:
    """A vertical axis of bpb or nats; larger values are higher up."""
    step = round_step(high - low, 3)
    ticks = [(v, f"{v:.{decimals(step)}f}") for v in linear_ticks(low, high, step)]
    return Axis(label, low, high, PLOT[3], PLOT[1], ticks)


def bpb_axis(low: float, high: float) -> Axis:
    """A vertical axis of bpb on a log scale above a floor: the small gains of good records show beside the large
    ones of the first. The floor is a round value that lies a fifth of the span, or a little more, below `low`."""
    if high - low < LEAST_SPAN:
        middle = (low + high) / 2
        low, high = middle - LEAST_SPAN / 2, middle + LEAST_SPAN / 2
    span = high - low
    step = round_step(span, 5)
    floor = step * math.floor((low - span / 5) / step)
    bottom, top = floor + (low - floor) / 1.25, floor + (high - floor) * 1.25
    label = f"bits per byte, log scale above {floor:.{decimals(step)}f} (lower is better)"
    axis = Axis(label, bottom, top, PLOT[3], PLOT[1], [], floor)

    # Ever finer round values, as far as there is room between those that are there
    values: list[float] = []
    step = round_step(top - bottom, 1)
    while len(values) < LEAST_TICKS:
        for value in linear_ticks(bottom, top, step):
            if all(abs(axis.at(value) - axis.at(other)) >= TICK_HEIGHT for other in values):
                values.append(value)
        digits, step = decimals(step), round_step(step, 2)
    return dataclasses.replace(axis, ticks=[(value, f"{value:.{digits}f}") for value in sorted(values)])


def seconds_axis(high: float) -> Axis:
    """A horizontal axis of the training clock, from 0."""
    ticks = [(v, f"{v:g}") for v in linear_ticks(0, high, round_step(high, 5))]
    return Axis("training clock (seconds)", 0, high, PLOT[0], PLOT[2], ticks)


def bytes_axis(sizes: list[int], cap: int | None) -> Axis:
    """A horizontal axis of artifact bytes that shows the cap; logarithmic where sizes differ more than eightfold."""
    values = sizes + [cap] * (cap is not None)
    if max(values) > 8 * min(values):
        low, high = min(values) / 1.5, max(values) * 1.5
        ticks = [(v, short(v, 0)) for v in log_ticks(low, high)]
        return Axis("artifact (bytes, log scale)", low, high, PLOT[0], PLOT[2], ticks, 0)
    low, high = padded(values, 0.08, 0.002 * max(values))
    step = round_step(high - low, 3)
    ticks = [(v, short(v, step)) for v in linear_ticks(low, high, step)]
    return Axis("artifact (bytes)", low, high, PLOT[0], PLOT[2], ticks)


def left_axis(left: list[int]) -> Axis:
    """A horizontal axis of the bytes left under a cap, on a log scale of one more than those: some leave none."""
    low, high = (min(left) + 1) / BYTE_MARGIN - 1, (max(left) + 1) * BYTE_MARGIN - 1
    ticks = [0.0] * (low <= 0) + log_ticks(max(low, 1), high)
    return Axis(
        "bytes left under the cap (log scale)", low, high, PLOT[0], PLOT[2], [(v, short(v, 0)) for v in ticks], -1
    )


def short(value: float, step: float) -> str:
    """A number of bytes in thousands or millions, with the digits that a step of the axis needs."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            digits = decimals(step / unit) if step else 0
            return f"{value / unit:.{digits}f}{name}" if step else f"{value / unit:g}{name}"
    return f"{value:g}"


def order_axis(days: list[datetime.date]) -> Axis:
    """A horizontal axis on which the records stand in their order, one step from 0 on for each. days: their dates,
    which mark the first record of a day; those that would touch the mark before are left out."""
    one_year = days[0].year == days[-1].year
    axis = Axis("", -0.5, len(days) - 0.5, PLOT[0], PLOT[2], [])
    ticks: list[tuple[float, str]] = []
    for place, day in enumerate(days):
        is_first = place == 0 or day != days[place - 1]
        if is_first and (not ticks or axis.at(place) - axis.at(ticks[-1][0]) >= TICK_WIDTH):
            ticks.append((place, day.strftime("%d %b" if one_year else "%b %Y")))
    label = f"records in order of date{f', {days[0].year}' if one_year else ''}"
    return dataclasses.replace(axis, label=label, ticks=ticks)


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
    y = bpb_axis(min(mean - sd for mean, sd in spreads), max(mean + sd for mean, sd in spreads))
    points = [
        {"record": r, "x": x.at(value(r)), "y": y.at(mean), "top": y.at(mean + sd), "bottom": y.at(mean - sd)}
        for r, (mean, sd) in zip(records, spreads)
    ]
    labels(points, lambda point: point["record"]["number"])
    return {"title": title, "x": x, "y": y, "points": points} | extra


def by_bytes(track: str, records: list[dict], cap: int | None) -> dict:
    """Mean bpb against the bytes that the artifact leaves under the cap.

    Without a cap, or with a record above it, against the bytes of the artifact; the cap is a line.
    """
    sizes = [r["artifact"]["bytes"] for r in records]
    if cap is not None and max(sizes) <= cap:
        title = f"{track}: bpb against bytes left"
        return scatter(
            title, records, left_axis([cap - size for size in sizes]), lambda r: cap - r["artifact"]["bytes"]
        )
    axis = bytes_axis(sizes, cap)
    return scatter(
        f"{track}: bpb against bytes",
        records,
        axis,
        lambda r: r["artifact"]["bytes"],
        cap=None if cap is None else {"x": axis.at(cap), "text": f"cap {cap:,}"},
    )


def in_order(track: str, records: list[dict]) -> dict:
    """Mean bpb of the records in the order of their dates and numbers; a stepped line follows the best so far."""
    ordered = sorted(records, key=lambda r: (r["date"], r["number"]))
    places = {r["name"]: place for place, r in enumerate(ordered)}
    axis = order_axis([datetime.date.fromisoformat(r["date"]) for r in ordered])
    chart = scatter(f"{track}: bpb, record by record", records, axis, lambda r: places[r["name"]])
    best, path = math.inf, []
    for point in sorted(chart["points"], key=lambda p: p["x"]):
        if point["record"]["bpb_mean"] < best:
            best = point["record"]["bpb_mean"]
            path.append(f"M{point['x']} {point['y']}" if not path else f"H{point['x']}V{point['y']}")
    return chart | {"best": "".join(path) + f"H{PLOT[2]}"}


def curves(
    title: str,
    label: str,
    runs: list[tuple[str, list[tuple[float, float]], list[tuple[float, float]]]],
    ceiling: float | None = None,
    dots: bool = True,
    digits: int = 4,
    names: list[str] | None = None,
) -> dict:
    """Curves over the training clock. runs: (name, thin line or [], line) with (seconds, value) points, per seed.

    Values above `ceiling` leave the plot at its top. dots: mark the points of lines that have no thin line below them.
    digits: behind the point, of the last values in the legend. names: of all runs, also those without a curve here: a
    name's place decides its colour.
    """
    everything = [point for _, thin, line in runs for point in thin + line]
    low, high = min(v for _, v in everything), max(v for _, v in everything)
    low, high = padded([low, high if ceiling is None else min(high, ceiling)], 0.05, 0.005)
    x, y = seconds_axis(max(s for s, _ in everything) * 1.02), y_axis(label, low, high)
    drawn = [
        {
            "name": name,
            "colour": names.index(name) if names else place,
            "last": f"{line[-1][1]:.{digits}f}",
            "thin": [(x.at(s), y.at(v)) for s, v in thin],
            "line": [(x.at(s), y.at(v)) for s, v in line],
        }
        for place, (name, thin, line) in enumerate(runs)
    ]
    return {"title": title, "x": x, "y": y, "runs": drawn, "dots": dots}


def interval_bar(axis: tuple[float, float], value: float, interval: list[float] | None, width: int) -> dict:
    """Where a value and its interval lie on a bar `width` units wide that spans `axis`."""

    def at(v: float) -> float:
        return round((v - axis[0]) / (axis[1] - axis[0]) * width, 2)

    return {"at": at(value), "from": at(interval[0]) if interval else None, "to": at(interval[1]) if interval else None}
