"""What a person sees of a score: progress on standard error, tables on standard output.

NOT covered: eval.json, which holds more than the tables (score.py makes it).
"""

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

PHASES = {"read": "reading artifact and documents", "tokenise": "tokenising",
          "lossless": "checking that tokens give back the text", "start": "starting the box",
          "decode": "decoding the weights", "build": "building the model", "score": "scoring (tokens)",
          "interval": "bootstrap over documents", "again": "audits: documents again",
          "blind": "audits: blind positions", "audits": "audits", "total": "total"}


class ProgressBar:
    """Progress on standard error: one line per phase, a bar with the time left while documents are scored."""

    def __init__(self):
        console = Console(stderr=True)
        # Without a terminal rich would print one empty line, and an error must be the only line.
        self._bar = Progress(SpinnerColumn(finished_text=" "), TextColumn("{task.description}"),
                             BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn(),
                             TextColumn("eta"), TimeRemainingColumn(),
                             console=console, transient=True, disable=not console.is_terminal)
        self._task = None

    def __enter__(self):
        self._bar.start()
        return self

    def __exit__(self, *_):
        self._bar.stop()

    def phase(self, name, total):
        """A new phase begins; `total` symbols if it counts them."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(PHASES[name], total=total)

    def tokens(self, count):
        """`count` more symbols were scored."""
        self._bar.advance(self._task, count)


def _by_kind(table, slices):
    """The items of slices; every kind ends in a section of the table."""
    names = list(slices)
    for name, following in zip(names, [*names[1:], ""]):
        yield name, slices[name]
        if name.split()[0] != following.partition(" ")[0]:
            table.add_section()


def _score_row(name, part):
    interval = part["bpb_interval"]
    return [escape(name), f"{part['bpb']:.4f}", f"{interval[0]:.4f} .. {interval[1]:.4f}" if interval else "-",
            f"{part['raw_bytes']:,}", f"{part['documents']:,}"]


def print_report(result, path):
    """Print the tables of an eval.json object, and at the end the two lines that other tools look for."""
    console = Console()
    table = Table(title=escape(f"{result['artifact']['name']} on {result['data']['split']}"), title_justify="left")
    for heading in ("slice", "bpb", "95% interval", "raw bytes", "documents"):
        table.add_column(heading, justify="left" if heading == "slice" else "right", no_wrap=True)
    for name, part in _by_kind(table, result["slices"]):
        table.add_row(*_score_row(name, part))
    table.add_row(*_score_row("all", result), style="bold")
    table.caption = "intervals: over documents; length, position: in bytes; non-ascii: share of the characters"
    console.print(table)

    table = Table(title="clock", title_justify="left")
    table.add_column("phase")
    table.add_column("seconds", justify="right")
    for phase, seconds in result["clock"].items():
        table.add_row(PHASES[phase], f"{seconds:.2f}")
    console.print(table)

    table = Table(title="sandbox", title_justify="left")
    for heading in ("layer", "", "what it is, or what its absence leaves open"):
        table.add_column(heading)
    for row in result["sandbox"]:
        table.add_row(row["layer"], "active" if row["active"] else "[bold]missing[/bold]", escape(row["note"]))
    console.print(table)

    table = Table(title="audits", title_justify="left")
    for heading in ("audit", "verdict", "n", "what", "missed with 1%"):
        table.add_column(heading, justify="right" if heading == "n" else "left")
    for row in result["audits"]:
        missed = row.get("misses")
        table.add_row(row["audit"], row["verdict"], f"{row['n']:,}" if "n" in row else "", escape(row["detail"]),
                      f"up to {missed['share']:.2%} of {missed['of']} ({missed['bpb']:.4f} bpb)" if missed else "")
    console.print(table)

    opened = ", ".join(result["files_opened"]) or "none"
    console.print(escape(f"files opened outside libraries and box, or tried (the box's own word): {opened}"),
                  highlight=False)
    console.print(f"scope {result['scope']}, {result['processes']} box(es) on {result['device']}, "
                  f"{result['tokens']:,} tokens at {result['tokens_per_second']:,.0f} per second. "
                  + ("Causality inside a chunk was promised by the artifact, not audited: see --audit."
                     if result["audit"] == "none" else "Causality inside a chunk was sampled: see audits."),
                  highlight=False)
    if result["probabilities"] == "audited":
        console.print("Probabilities were claimed by the artifact and audited, not constructed from its logits.")
    if result["scope"] == "stream":
        console.print("The artifact adapts over the whole stream: its documents are not independent, "
                      "the interval is too narrow.")
    console.print(escape(f"wrote {path}"), highlight=False, soft_wrap=True)
    print(f"val_bpb: {result['bpb']:.4f}")
    print(f"artifact_bytes: {result['artifact']['bytes']}")
