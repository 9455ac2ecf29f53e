"""What a person sees of a score: the names of its phases, tables on standard output.

NOT covered: eval.json, which holds more than the tables (score.py makes it).
"""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from golf.foreign import terminal

PHASES = {
    "read": "reading artifact and documents",
    "tokenise": "tokenising",
    "lossless": "checking that tokens give back the text",
    "start": "starting the box",
    "decode": "decoding the weights",
    "build": "building the model",
    "score": "scoring",
    "interval": "bootstrap over documents",
    "blind": "audits: the text again, with blind positions",
    "again": "audits: documents in another order",
    "sweep": "audits: sweep of claims",
    "audits": "audits",
    "total": "total",
}


def _by_kind(table, slices):
    """The items of slices; every kind ends in a section of the table."""
    names = list(slices)
    for name, following in zip(names, [*names[1:], ""]):
        yield name, slices[name]
        if name.split()[0] != following.partition(" ")[0]:
            table.add_section()


def _add_score(table, name, part, style=None):
    """A row of the table of slices."""
    interval = part["bpb_interval"]
    table.add_row(
        Text(terminal(name)),
        f"{part['bpb']:.4f}",
        f"{interval[0]:.4f} .. {interval[1]:.4f}" if interval else "-",
        f"{part['raw_bytes']:,}",
        f"{part['documents']:,}",
        style=style,
    )


def print_report(result, path):
    """Print the tables of an eval.json object, and at the end the two lines that other tools look for."""
    console = Console()
    title = terminal(f"{result['artifact']['name']} on {result['data']['split']}")
    table = Table(title=Text(title), title_justify="left")
    for heading in ("slice", "bpb", "95% interval", "raw bytes", "documents"):
        table.add_column(heading, justify="left" if heading == "slice" else "right", no_wrap=True)
    for name, part in _by_kind(table, result["slices"]):
        _add_score(table, name, part)
    _add_score(table, "all", result, style="bold")
    table.caption = "intervals: over documents; length, position: in bytes; non-ascii: share of the characters"
    console.print(table)

    table = Table(title="clock", title_justify="left")
    table.add_column("phase")
    table.add_column("seconds", justify="right")
    for phase, seconds in result["clock"].items():
        table.add_row(Text(PHASES[phase]), f"{seconds:.2f}")
    console.print(table)

    table = Table(title="sandbox", title_justify="left")
    for heading in ("layer", "", "what it is, or what its absence leaves open"):
        table.add_column(heading)
    for row in result["sandbox"]:
        table.add_row(
            Text(terminal(row["layer"])),
            "active" if row["active"] else "[bold]missing[/bold]",
            Text(terminal(row["note"])),
        )
    console.print(table)

    table = Table(title="audits", title_justify="left")
    for heading in ("audit", "verdict", "n", "what", "missed with 1%"):
        table.add_column(heading, justify="right" if heading == "n" else "left")
    for row in result["audits"]:
        missed = row.get("misses")
        blind = f"up to {missed['share']:.2%} of {missed['of']} ({missed['bpb']:.4f} bpb)" if missed else ""
        table.add_row(
            Text(terminal(row["audit"])),
            Text(terminal(row["verdict"])),
            f"{row['n']:,}" if "n" in row else "",
            Text(terminal(row["detail"])),
            Text(blind),
        )
    console.print(table)

    opened = ", ".join(terminal(name) for name in result["files_opened"]) or "none"
    console.print(Text(f"files opened outside libraries and box, or tried (the box's own word): {opened}"))
    console.print(
        Text(
            f"scope {terminal(result['scope'])}, {result['processes']} box(es) on {terminal(result['device'])}, "
            f"{result['tokens']:,} tokens at {result['tokens_per_second']:,.0f} per second. "
            + (
                "Causality inside a chunk was promised by the artifact, not audited: see --audit."
                if result["audit"] == "none"
                else "Causality inside a chunk was sampled: see audits."
            )
        )
    )
    if result["probabilities"] == "audited":
        console.print("Probabilities were claimed by the artifact and audited, not constructed from its logits.")
    if result["scope"] == "stream":
        console.print(
            "The artifact adapts over the whole stream: its documents are not independent, the interval is too narrow."
        )
    console.print(Text(f"wrote {terminal(str(path), 10_000)}"), soft_wrap=True)
    print(f"val_bpb: {result['bpb']:.4f}")
    print(f"artifact_bytes: {result['artifact']['bytes']}")
