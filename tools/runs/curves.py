"""Loss curves of one run or of several seeds as a PNG. Not covered: live views; it draws rows that were read before."""

from io import BytesIO
from pathlib import Path

from golf.files import write_atomic


def smooth(values: list[float]) -> list[float]:
    """Centred mean over 2% of the values on either side, cut off at the ends: no lag where the loss falls fast."""
    half = len(values) // 50
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def draw(path: Path, title: str, runs: list[tuple[str, list[dict]]]) -> None:
    """Writes a PNG: train loss (nats per token) above, dev bpb below when any row has it, against elapsed seconds.

    runs: (label, rows of metrics.jsonl) pairs; one colour per run.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with_dev = any("dev_bpb" in row for _, rows in runs for row in rows)
    figure = Figure(figsize=(8, 6 if with_dev else 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2 if with_dev else 1, 1, sharex=True, squeeze=False)[:, 0]
    axes[0].set_title(title, loc="left")
    axes[0].set_ylabel("train loss (nats per token)")
    lowest, starts = [], []
    for index, (label, rows) in enumerate(runs):
        colour = f"C{index}"
        by_step: dict[int, dict] = {}
        for row in rows:  # a step may have two rows: what training logged, and the dev estimate after it
            by_step[row["step"]] = by_step.get(row["step"], {}) | row
        rows = list(by_step.values())
        rows_loss = [row for row in rows if row.get("loss") is not None]
        seconds, losses = [row["elapsed"] for row in rows_loss], [row["loss"] for row in rows_loss]
        if losses:
            means = smooth(losses)
            axes[0].plot(seconds, losses, color=colour, alpha=0.25, linewidth=0.8)
            axes[0].plot(seconds, means, color=colour, linewidth=1.6, label=f"{label}: {means[-1]:.4f} at the end")
            lowest.append(min(losses))
            starts.append(means[len(means) // 20])
        rows_dev = [row for row in rows if row.get("dev_bpb") is not None]
        if rows_dev:
            values = [row["dev_bpb"] for row in rows_dev]
            axes[1].plot(
                [row["elapsed"] for row in rows_dev],
                values,
                color=colour,
                marker="o",
                markersize=3,
                linewidth=1.6,
                label=f"{label}: {values[-1]:.4f} at the end",
            )
    if lowest and max(starts) > min(lowest):  # the first steps would squeeze the rest of the curve into a flat line
        margin = 0.05 * (max(starts) - min(lowest))
        axes[0].set_ylim(min(lowest) - margin, max(starts) + margin)
    if with_dev:
        axes[1].set_ylabel("dev bpb (training script's estimate)")
    axes[-1].set_xlabel("training clock (seconds)")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[1]:
            axis.legend(frameon=False)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomic(path, buffer.getvalue())
