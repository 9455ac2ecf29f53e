"""How long a training step takes on H100s, and how much memory it needs: two small models fitted on public logs.

tools/plan/public_runs.csv holds the facts: one row per distinct log of the public challenge
(github.com/openai/parameter-golf), with record, PR and file name as the source. `layers_*` and `ms_*` are layer
applications and milliseconds a step, before and after depth recurrence came on; `attention` is the kernel, by the
record's title and README (SDPA until PR #265). Left out: logs on H200s; other architectures (state space, H-Net, JEPA,
random maps, differential attention); PR #1412, whose log does not separate the two steps in which its recurrence came
on; second copies.

Time of a step on one GPU, coefficients positive and below what the data sheet allows:

    ms = matrix FLOPs / rate + attention FLOPs / rate of the kernel + elementwise bytes / bandwidth + constant

Other GPUs take a fixed share of that time: see GPUS.

Not covered: more than one node, fp8, what a kernel of ours gains or loses against the
public scripts'. At one width matrix FLOPs and bytes are almost proportional, and all but one of the records are 512
wide: trust sums, not single terms.
"""

import csv
import math
import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

RUNS = Path(__file__).with_name("public_runs.csv")
TERMS = ("matrices", "sdpa", "fa3", "elementwise", "constant")
PEAK_TFLOPS, PEAK_TB = 989.5, 3.35  # H100 SXM, dense bf16 and memory, data sheet
REACHABLE = 0.8  # of the matrix peak, in long products; without it the fit would run into the peak
COVERAGE = 0.8


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU. speed: how many times as fast as an H100 its steps are; basis: why."""

    memory_bytes: float
    speed: float
    basis: str


# Memory is the data sheet's. The logs of 8 H200s: 2026-03-18_LowerLR, 41.6 ms, and 2026-03-19_10L_MixedPrecision,
# 45.8 ms, which the fit puts at 44.5 and 49.0 ms on H100s: their faster memory (4.8 for 3.35 TB/s) helps that little.
GPUS = {
    "H100": Gpu(80e9, 1.0, "public logs"),
    "H200": Gpu(141e9, 1.07, "two public logs"),
    "B200": Gpu(180e9, 2.27, "data sheets alone: 2,250 for 989.5 TFLOP/s"),
}
# Elementwise kernels read and write, for a token and a layer, 16 + 2m vectors of the model's width forward (two norms,
# QK norm and RoPE, two residual sums, the mix with x0; m: MLP multiple, its activation) and 26 + 3m backward, in bf16.
WIDTHS, WIDTHS_PER_MULTIPLE = 42, 5
LOGIT_BYTES = 8  # per token and vocabulary entry: cross-entropy reads bf16 logits three times and writes them once
# Packed documents, cut at the context: a token attends as in a row of this share of it (documents of 811 tokens on
# average at 8,192 pieces, log-normal, cut at 2,048: 1,290).
DOCUMENT_SHARE = 0.63


@dataclass(frozen=True)
class Step:
    """What decides the time of a step on one GPU. `tokens`: of a step, on this GPU. `micro_tokens`: of one forward."""

    tokens: float
    micro_tokens: float
    layers: int  # applications: a layer that loops counts each time
    model_dim: int
    kv_share: float  # key/value heads / query heads
    mlp_mult: float
    vocab_size: int
    embed_dim: int
    seq_len: int
    attention: str  # sdpa, fa3, sdpa_varlen or fa3_varlen


@dataclass(frozen=True)
class Point:
    """One measured phase of a record: the median over its logs."""

    record: str
    pr: str
    shape: tuple  # equal for records that differ neither in model nor in context nor in attention
    step: Step
    ms: float
    peak_mib: float | None  # None where the log does not say, and before the layers loop


def matrix_flops(step: Step) -> float:
    """Training FLOPs of a token in the matrices: 6 per weight and application, the output head included."""
    layer = step.model_dim**2 * (2 + 2 * step.kv_share + 2 * step.mlp_mult)
    return 6 * (step.layers * layer + step.vocab_size * step.embed_dim)


def features(step: Step) -> np.ndarray:
    """TFLOP in matrices, in attention by SDPA, in attention by FA3; TB moved by elementwise kernels; 1."""
    varlen = step.attention.endswith("_varlen")
    attended = step.seq_len * (DOCUMENT_SHARE if varlen else 1.0)
    attention = 6 * step.layers * attended * step.model_dim  # the causal half of 12 T D
    vectors = step.layers * step.model_dim * (WIDTHS + WIDTHS_PER_MULTIPLE * step.mlp_mult)
    moved = 2 * vectors + LOGIT_BYTES * step.vocab_size
    fa3 = step.attention.startswith("fa3")
    tera = step.tokens / 1e12
    attention *= tera
    return np.array([matrix_flops(step) * tera, attention * (not fa3), attention * fa3, moved * tera, 1.0])


LOWEST = np.array([1e3 / (REACHABLE * PEAK_TFLOPS), 1e3 / PEAK_TFLOPS, 1e3 / PEAK_TFLOPS, 1e3 / PEAK_TB, 0.0])


def read_points(path: Path = RUNS) -> list[Point]:
    """The facts, one Point per record, number of GPUs, context and phase."""
    groups = defaultdict(list)
    for row in csv.DictReader(open(path, encoding="utf-8", newline="")):
        groups[row["record"], row["gpus"], row["seq_len"]].append(row)
    points = []
    for (record, gpus, _), rows in groups.items():
        row = rows[0]
        tokens = int(row["batch_tokens"])
        shape = tuple(row[key] for key in ("num_layers", "model_dim", "mlp_mult", "vocab_size", "seq_len", "attention"))
        for phase in ("before", "after"):
            times = [float(r[f"ms_{phase}"]) for r in rows if r[f"ms_{phase}"]]
            if not times:
                continue
            last = phase == "after" or not row["ms_after"]
            peaks = [float(r["peak_mib"]) for r in rows if r["peak_mib"] and last]
            step = Step(
                tokens=tokens / int(gpus),
                micro_tokens=tokens / 8,
                layers=int(row[f"layers_{phase}"]),
                model_dim=int(row["model_dim"]),
                kv_share=int(row["num_kv_heads"]) / int(row["num_heads"]),
                mlp_mult=float(row["mlp_mult"]),
                vocab_size=int(row["vocab_size"]),
                embed_dim=int(row["embed_dim"]),
                seq_len=int(row["seq_len"]),
                attention=row["attention"],
            )
            peak_mib = statistics.median(peaks) if peaks else None
            points.append(Point(record, row["pr"], shape, step, statistics.median(times), peak_mib))
    return points


def fit(points: list[Point]) -> np.ndarray:
    """Milliseconds per unit of each feature. Robust least squares on log time; a shape that many records share counts
    with the root of their number."""
    from scipy.optimize import least_squares

    matrix = np.stack([features(p.step) for p in points])
    target = np.log([p.ms for p in points])
    shapes = Counter(p.shape for p in points)
    weight = np.array([shapes[p.shape] ** -0.25 for p in points])
    start = 1.5 * LOWEST + (LOWEST == 0)

    def residuals(coefficients):
        return weight * (np.log(matrix @ coefficients) - target)

    def jacobian(coefficients):
        return (weight / (matrix @ coefficients))[:, None] * matrix

    return least_squares(
        residuals,
        start,
        jacobian,
        bounds=(LOWEST, np.inf),
        x_scale=start,
        loss="soft_l1",
        f_scale=0.03,
        xtol=1e-12,
        ftol=1e-12,
        gtol=1e-12,
    ).x


def predict(coefficients: np.ndarray, step: Step) -> float:
    """Milliseconds of a step."""
    return float(features(step) @ coefficients)


def memory_features(step: Step) -> np.ndarray:
    """MiB, by what grows with width, with the MLP and with the logits, each per token of a forward."""
    mib = step.micro_tokens / 2**20
    width = 2 * step.layers * step.model_dim
    return mib * np.array([width, width * step.mlp_mult, step.vocab_size])


def fit_memory(points: list[Point]) -> np.ndarray:
    """Coefficients of memory_features; non-negative least squares on relative error."""
    from scipy.optimize import nnls

    known = [p for p in points if p.peak_mib]
    matrix = np.stack([memory_features(p.step) / p.peak_mib for p in known])
    return nnls(matrix, np.ones(len(known)))[0]


def held_out(points: list[Point], key) -> list[float]:
    """For each point: its milliseconds as predicted by a fit on the points whose key(point) is another."""
    fits = {value: fit([p for p in points if key(p) != value]) for value in {key(p) for p in points}}
    return [predict(fits[key(p)], p.step) for p in points]


def spread(ratios: list[float]) -> float:
    """The factor f such that a new case like these lies within prediction / f and prediction * f in COVERAGE of cases.

    ratios: actual / predicted of cases that were held out. An order statistic of |log|, as in split conformal
    prediction (Vovk et al. 2005); with too few cases for it, the largest.
    """
    sizes = sorted(abs(math.log(ratio)) for ratio in ratios)
    rank = math.ceil(COVERAGE * (len(sizes) + 1))
    return math.exp(sizes[min(rank, len(sizes)) - 1])


def validate(points: list[Point]) -> dict:
    """Leaves out whole records, then whole shapes (all records of one model, context and attention).

    rows: a point each, with its two held-out predictions. coefficients: of a fit on all points, ms per TFLOP, per TB
    and per step. median_error: over records, of a record's mean relative error;
    median_error_new_shape: likewise over shapes. spread: of a new shape, see spread(); spread_covers: the share of
    shapes within the spread that the other shapes give.
    """
    by_record, by_shape = held_out(points, lambda p: p.record), held_out(points, lambda p: p.shape)
    rows, errors, ratios = [], defaultdict(list), defaultdict(list)
    for point, ms, ms_new in zip(points, by_record, by_shape):
        errors[point.record].append(abs(ms / point.ms - 1))
        ratios[point.shape].append(point.ms / ms_new)
        rows.append(
            {
                "record": point.record,
                "pr": point.pr,
                "layers": point.step.layers,
                "seq_len": point.step.seq_len,
                "ms": round(point.ms, 2),
                "predicted_ms": round(ms, 2),
                "error": round(ms / point.ms - 1, 4),
                "error_new_shape": round(ms_new / point.ms - 1, 4),
            }
        )
    shapes = {shape: statistics.median(values) for shape, values in ratios.items()}
    covered = [
        max(ratio, 1 / ratio) <= spread([r for other, r in shapes.items() if other != shape])
        for shape, ratio in shapes.items()
    ]
    return {
        "rows": rows,
        "coefficients": dict(zip(TERMS, fit(points).round(4).tolist())),
        "records": len(errors),
        "shapes": len(shapes),
        "median_error": round(statistics.median(statistics.fmean(values) for values in errors.values()), 4),
        "median_error_new_shape": round(statistics.median(abs(1 / ratio - 1) for ratio in shapes.values()), 4),
        "coverage": COVERAGE,
        "spread": round(spread(list(shapes.values())), 3),
        "spread_covers": round(statistics.fmean(covered), 3),
    }


def memory_spread(points: list[Point]) -> float:
    """spread() of the memory model, shapes left out."""
    known = [p for p in points if p.peak_mib]
    ratios = []
    for shape in {p.shape for p in known}:
        coefficients = fit_memory([p for p in known if p.shape != shape])
        predicted = [(p.peak_mib, float(memory_features(p.step) @ coefficients)) for p in known if p.shape == shape]
        ratios.append(statistics.median(mib / expected for mib, expected in predicted if mib is not None))
    return spread(ratios)
