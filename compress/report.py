"""What the command line shows: tables of sections and tensors.

Not covered: the numbers themselves (compress/pack.py).
"""

import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from golf.foreign import terminal


def print_sections(report: dict) -> None:
    """Bytes and share of each section, the headroom, and the count by the public challenge's rule."""
    title = terminal(f"{report['artifact']}, track {report['track']}")
    table = Table(title=Text(title), title_justify="left")
    for column in ("section", "bytes", "of the file"):
        table.add_column(column, justify="left" if column == "section" else "right")
    total, cap, rule = report["artifact_bytes"], report["cap_bytes"], report["public_rule"]
    for tag, length in report["sections"].items():
        table.add_row(Text(terminal(tag)), f"{length:,}", f"{length / total:.1%}")
    table.add_section()
    table.add_row("file", f"{total:,}", "100.0%")
    table.add_row("cap", f"{cap:,}", "")
    table.add_row("headroom", f"{report['headroom_bytes']:,}", f"{report['headroom_bytes'] / cap:.1%} of the cap")
    console = _console()
    console.print(table)
    console.print(
        f"by the public challenge's rule: {rule['total_bytes']:,} bytes "
        f"(code {rule['code_bytes']:,} + weights {rule['weights_bytes']:,}; the tokenizer is not counted there, "
        "but the part of the script that only trains would be)"
    )


def print_pack(report: dict) -> None:
    """What `pack` did: tensors, sections, the loss by type as forecast, as K-FAC gives it and as measured."""
    columns = {"name": "", "shape": "", "bits_per_weight": ".3f", "code_bytes": ",.0f", "side_bytes": ",.0f"}
    print_rows(report["tensors"], columns | {"largest_code": "d"})
    measured = report.get("measured")
    types = [row | {"measured": measured and measured["group_kl"].get(row["type"])} for row in report["types"]]
    columns = {"type": "", "weights": ",", "forecast": ".2e", "actual": ".2e"}
    print_rows(types, columns | ({"measured": ".2e"} if measured else {}), "loss of packing, nats per token")
    print_sections(report)
    if measured:
        _console().print(
            f"dev, {measured['tokens']:,} tokens: {measured['bpb']:.4f} before, {measured['packed_bpb']:.4f} after; "
            f"KL {measured['kl']:.5f}, predicted {measured['predicted']:.5f} bits per byte"
        )
    elif report["predicted_rise"] is not None:
        print(f"predicted rise: {report['predicted_rise']:.5f} bits per byte")
    print(f"{report['bits_per_weight']:.3f} bits per weight, packed and checked in {report['seconds']:.1f} s")


def print_inspect(result: dict) -> None:
    """Tensors, sections, the distance from the bound, and how uneven the sensitivities are; each where it is known."""
    if "artifact" in result:
        columns = {"name": "", "shape": "", "code_bytes": ",.0f", "entropy_bytes": ",.0f", "entropy": ".3f"}
        columns |= {"distance": "+.1%", "side_bytes": ",.0f", "bits_per_weight": ".3f", "largest_code": "d"}
        print_rows(result["tensors"], columns)
        print_sections(result)
        bound = result["weights_bound"]
        if bound["distance"] is not None:
            _console().print(
                f"WGTS: {bound['bytes']:,} bytes, {bound['distance']:.1%} above the entropy of its symbols in their "
                f"contexts ({bound['bound_bytes']:,.0f})"
            )
    if spread := result.get("spread"):
        title = "0.5 log2 of arithmetic over geometric mean, bits per weight: 1 / U_jj^2 over columns, G_r over rows"
        losses = {row["name"]: row["loss"] for row in result.get("predicted_losses", [])}
        rows = [row | {"predicted_loss": losses.get(row["name"])} for row in spread["matrices"]]
        columns = {"name": "", "tap": "", "weights": ",", "columns": ".3f", "rows": ".3f"}
        print_rows(rows, columns | ({"predicted_loss": ".2e"} if losses else {}), title)
        total = spread["columns"] + spread["rows"] + spread["tensors"]
        _console().print(
            f"steps by loss gain at most {spread['columns']:.2f} (columns) + {spread['rows']:.2f} (rows) + "
            f"{spread['tensors']:.2f} (tensors) = {total:.2f} bits per weight, at high rate"
        )


def print_bench(result: dict) -> None:
    """Every point, then bytes at equal loss, then what each part of our coder is worth."""
    columns = {"coder": "", "bytes": ",", "bits_per_weight": ".3f", "kl": ".5f", "bpb": ".4f"}
    columns |= {"encode_seconds": ".1f", "decode_seconds": ".2f"}
    title = f"{result['run']}: {result['weights']:,} weights, {result['tokens']:,} tokens"
    print_rows(result["points"], columns, title)
    levels = list(next(iter(result["bytes_at"].values())))
    rows = []
    for name, sizes in result["bytes_at"].items():
        cells = {f"at {level}": sizes[level] for level in levels}
        less = result["savings"].get(name, {})
        rows.append({"coder": name} | cells | {f"saved {level}": less.get(level) for level in levels})
    columns = {"coder": ""} | {f"at {level}": ",.0f" for level in levels}
    columns |= {f"saved {level}": ".1%" for level in levels}
    print_rows(rows, columns, "bytes of the file at equal KL (bits per byte), and what ours saves")
    parts = [{"part": part, "bits_per_weight_lost": bits} for part, bits in result["parts"].items()]
    print_rows(parts, {"part": "", "bits_per_weight_lost": "+.3f"}, "our coder without a part, at KL 0.008")
    console = _console()
    if result["extrapolated"]:
        names = terminal(", ".join(result["extrapolated"]))
        console.print(Text(f"beyond the rates measured (extrapolated): {names}"))
    console.print(f"decoding: {result['decode_seconds_per_million']:.3f} s per million weights")


def print_rows(rows: list[dict], columns: dict[str, str], title: str | None = None) -> None:
    """A table of dicts. columns: key -> format specification of its numbers ("" for text)."""
    table = Table(title=Text(terminal(title)) if title else None, title_justify="left")
    for key, spec in columns.items():
        table.add_column(Text(key.replace("_", " ")), justify="right" if spec else "left", no_wrap=not spec)
    for row in rows:
        cells = ((row[key], spec) for key, spec in columns.items())
        table.add_row(*(Text("-" if value is None else _text(value, spec)) for value, spec in cells))
    _console().print(table)


def _text(value, spec: str) -> str:
    if isinstance(value, list):
        return terminal("x".join(map(str, value)) or "scalar")
    return format(value, spec) if spec else terminal(value)


def _console() -> Console:
    # Away from a terminal rich would cut tables at 80 columns.
    return Console() if sys.stdout.isatty() else Console(width=140)
