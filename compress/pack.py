"""RUN/ -> RUN/model.golf: quantise, code, minify, put together, decode in a fresh process, compare, rename into place.

Reads checkpoint.pt and statistics.pt of the run and nothing else: no data, so it can leak none. Two packs of a run on
one machine give the same bytes. Nothing appears under the final name unless every check passed.

Not covered: choosing a rate that fills the cap (the grids in compress/quantise.py are fixed).
"""

import time
from collections.abc import Callable
from pathlib import Path

from compress import container, tokenizer
from compress.checkpoint import load_checkpoint, load_statistics
from compress.encode import encode_weights
from compress.minify import blockers, minify
from compress.quantise import quantise
from compress.sizes import CAP_BYTES, size_report, tensor_rows
from compress.verify import compare, verify

DECODER = Path(__file__).with_name("decode.py")


class OverCap(ValueError):
    """The artifact does not fit under the cap of its track; nothing was written."""


def pack_run(
    run: str | Path,
    out: str | Path | None = None,
    track: str | None = None,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> dict:
    """Packs a run into `out` (default RUN/model.golf) and returns the report that `pack --json` prints.

    track: whose cap applies; default the checkpoint's own. progress(stage, done, total) is called as work goes on.
    Raises ValueError (RunError, OverCap, ...) with one line for the user; then nothing was written.
    """
    started, run = time.perf_counter(), Path(run)
    out = Path(out) if out else run / "model.golf"
    if run.is_dir() and not out.parent.is_dir():
        raise ValueError(f"{out.parent} is not a folder; make it first")
    checkpoint = load_checkpoint(run)
    track = track or checkpoint.track
    if track not in CAP_BYTES:
        raise ValueError(f"unknown track {track!r}; choose one of {', '.join(CAP_BYTES)}")
    statistics = load_statistics(run, checkpoint.model)
    warnings = []
    if statistics is None:
        warnings.append(
            f"no statistics.pt in {run}: weights are rounded to nearest, at a higher loss than GPTQ would give"
        )
    source = _minified(checkpoint.source)
    if found := blockers(source):
        warnings.append(f"train_gpt.py uses {', '.join(found)}: its local names cannot be shortened")

    tensors = quantise(checkpoint.model, statistics, lambda done, total: progress("quantising", done, total))
    sections = {
        "CODE": container.code_pack(source, minify(DECODER.read_text(encoding="utf-8"))),
        "CONF": container.config_pack(checkpoint.config),
        "TOKN": tokenizer.serialise(checkpoint.tokenizer),
        "WGTS": encode_weights(tensors, lambda done, total: progress("coding", done, total)),
    }
    report = {
        "artifact": str(out),
        **size_report(sections, track),
        "bits_per_weight": 8
        * len(sections["WGTS"])
        / max(1, sum(tensor.numel() for tensor in checkpoint.model.values())),
        "tensors": [
            row | {"method": tensors[row["name"]].method, "relative_error": tensors[row["name"]].error}
            for row in tensor_rows(sections["WGTS"])
        ],
        "warnings": warnings,
    }
    if report["headroom_bytes"] < 0:
        raise OverCap(over_cap_message(report))
    progress("checking", 0, 1)
    compare(verify(container.to_bytes(sections)), {name: tensor.decoded() for name, tensor in tensors.items()})
    container.write(out, sections)
    progress("checking", 1, 1)
    return report | {"seconds": time.perf_counter() - started}


def over_cap_message(report: dict) -> str:
    """What to tell a user whose file is too large: by how much, and how many weights that is."""
    over = -report["headroom_bytes"]
    weights = int(8 * over / report["bits_per_weight"]) if report["bits_per_weight"] else 0
    return (
        f"{report['artifact']} would be {report['artifact_bytes']:,} bytes, {over:,} over the cap of "
        f"{report['cap_bytes']:,} ({report['track']}): train a model with about {weights:,} weights fewer"
    )


def _minified(source: str) -> str:
    try:
        return minify(source)
    except SyntaxError as error:
        raise ValueError(f"the checkpoint's train_gpt.py is not Python: line {error.lineno}: {error.msg}") from None
