"""Pictures of the benchmark and of a packed model, as PNG.

Not covered: the numbers (compress/lab/bench.py, compress/rates.py).
"""

import io
from pathlib import Path

import numpy as np

from golf.files import write_atomic
from golf.foreign import terminal

WIDEST_LOSS = 0.2  # KL in bits per byte: coders that break down would squeeze the rest


def plot_curves(result: dict, path: Path) -> None:
    """KL against bytes of every coder in a result of compress.lab.bench; ours with a part off in the second panel."""
    figure, (coders, parts) = _figure(1, 2, (13, 5.5), sharey=True)
    names = list(dict.fromkeys(point["coder"] for point in result["points"]))
    _curves(coders, result["points"], [name for name in names if not name.startswith("ours, no ")])
    _curves(parts, result["points"], [name for name in names if name.startswith("ours")])
    coders.set(ylabel="KL from the unquantised model, bits per byte")
    coders.set_title(terminal(Path(result["run"]).name), parse_math=False)
    parts.set(title="our coder, a part off at a time")
    widest = max(point["bytes"] / 1000 for point in result["points"] if point["coder"].startswith("gptq"))
    for axis in (coders, parts):
        axis.set_xlim(right=1.05 * widest)
        axis.set_ylim(top=min(axis.get_ylim()[1], WIDEST_LOSS))
    _save(figure, path)


def _curves(axis, points: list[dict], names: list[str]) -> None:
    for name in names:
        curve = sorted((point for point in points if point["coder"] == name), key=lambda point: point["bytes"])
        sizes = [point["bytes"] / 1000 for point in curve]
        losses = [point["kl"] for point in curve]
        style = {"color": "black", "linewidth": 2.5} if name == "ours" else {"linewidth": 1.3}
        axis.plot(sizes, losses, marker="o", markersize=3.5, label=name, **style)
    axis.axhline(0.008, color="gray", linewidth=0.8, linestyle=":")
    axis.set(yscale="log", xlabel="bytes of the whole file, thousands")
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8)


def plot_steps(tensors: list[dict], losses: list[dict] | None, path: Path) -> None:
    """Where the steps lie (octaves; rows, and columns relative to them) and, if given, where the predicted loss sits.

    tensors: {"name", "row_octaves", "column_octaves"} each; losses: {"name", "loss"} in nats per token.
    """
    panels = 3 if losses else 2
    figure, axes = _figure(1, panels, (5 * panels, 1.5 + 0.28 * len(tensors)), sharey=True)
    _quartiles(axes[0], [row["row_octaves"] for row in tensors], "steps of rows")
    _quartiles(axes[1], [row["column_octaves"] for row in tensors], "factors of columns")
    places = np.arange(len(tensors))
    axes[0].set_yticks(places, [terminal(row["name"]) for row in tensors], fontsize=8, parse_math=False)
    axes[0].invert_yaxis()
    if losses:
        found = {row["name"]: row["loss"] for row in losses}
        axes[2].barh(places, [found.get(row["name"], 0.0) for row in tensors], height=0.6, color="gray")
        axes[2].set(xlabel="predicted loss, nats per token")
        axes[2].locator_params(axis="x", nbins=4)
        axes[2].grid(alpha=0.25, axis="x")
    _save(figure, path)


def _quartiles(axis, rows: list[list[float]], title: str) -> None:
    for place, values in enumerate(rows):
        low, first, median, third, high = np.percentile(values, (0, 25, 50, 75, 100))
        axis.plot((low, high), (place, place), color="gray", linewidth=1)
        axis.plot((first, third), (place, place), color="black", linewidth=5)
        axis.plot(median, place, "|", color="red", markersize=10)
    axis.set(xlabel=f"{title}, log2: quartiles and extremes")
    axis.grid(alpha=0.25, axis="x")


def _figure(rows: int, columns: int, size: tuple[float, float], **options):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(rows, columns, figsize=size, **options)


def _save(figure, path: Path) -> None:
    import matplotlib.pyplot as plt

    picture = io.BytesIO()
    try:
        figure.tight_layout()
        figure.savefig(picture, format="png", dpi=110)
    finally:
        plt.close(figure)
    write_atomic(path, picture.getvalue())
