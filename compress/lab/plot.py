"""Pictures of the benchmark and of a packed model, as PNG.

Not covered: the numbers (compress/lab/bench.py, compress/sizes.py).
"""

import io
from pathlib import Path

import numpy as np

from golf.files import write_atomic

PARTS_STYLE = "ours, no "


def plot_curves(result: dict, path: Path) -> None:
    """KL against bytes of every coder in a result of compress.bench.bench; ours with a part off in the second panel."""
    figure, axes = _figure(1, 2, (13, 5.5), sharey=True)
    names = list(dict.fromkeys(point["coder"] for point in result["points"]))
    for axis, shown in zip(axes, ([n for n in names if PARTS_STYLE not in n], [n for n in names if n[:4] == "ours"])):
        for name in shown:
            points = sorted((p for p in result["points"] if p["coder"] == name), key=lambda point: point["bytes"])
            size, loss = [point["bytes"] / 1000 for point in points], [point["kl"] for point in points]
            style = {"color": "black", "linewidth": 2.5} if name == "ours" else {"linewidth": 1.3}
            axis.plot(size, loss, marker="o", markersize=3.5, label=name, **style)
        axis.axhline(0.008, color="gray", linewidth=0.8, linestyle=":")
        axis.set(yscale="log", xlabel="bytes of the whole file, thousands")
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8)
    axes[0].set(ylabel="KL from the unquantised model, bits per byte", title=Path(result["run"]).name)
    axes[1].set(title="our coder, a part off at a time")
    widest = max(point["bytes"] / 1000 for point in result["points"] if point["coder"].startswith("gptq"))
    for axis in axes:
        axis.set_xlim(right=1.05 * widest)  # and coders that break down would squeeze the rest
        axis.set_ylim(top=min(axis.get_ylim()[1], 0.2))
    _save(figure, path)


def plot_steps(tensors: list[dict], losses: list[dict] | None, path: Path) -> None:
    """Where the steps lie (octaves; rows, and columns relative to them) and, if given, where the predicted loss sits.

    tensors: {"name", "row_octaves", "column_octaves"} each; losses: {"name", "loss"} in nats per token.
    """
    figure, axes = _figure(1, 3 if losses else 2, (15 if losses else 11, 1.5 + 0.28 * len(tensors)), sharey=True)
    places = np.arange(len(tensors))
    for axis, key, title in zip(axes, ("row_octaves", "column_octaves"), ("steps of rows", "factors of columns")):
        for place, row in zip(places, tensors):
            low, first, median, third, high = np.percentile(row[key], (0, 25, 50, 75, 100))
            axis.plot((low, high), (place, place), color="gray", linewidth=1)
            axis.plot((first, third), (place, place), color="black", linewidth=5)
            axis.plot(median, place, "|", color="red", markersize=10)
        axis.set(xlabel=f"{title}, log2: quartiles and extremes")
        axis.grid(alpha=0.25, axis="x")
    axes[0].set_yticks(places, [row["name"] for row in tensors], fontsize=8)
    axes[0].invert_yaxis()
    if losses:
        found = {row["name"]: row["loss"] for row in losses}
        axes[2].barh(places, [found.get(row["name"], 0.0) for row in tensors], height=0.6, color="gray")
        axes[2].set(xlabel="predicted loss, nats per token")
        axes[2].locator_params(axis="x", nbins=4)
        axes[2].grid(alpha=0.25, axis="x")
    _save(figure, path)


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
