"""The one progress display: what is being done, how far it is, and how long it will still take.

It appears on standard error, only if that is a terminal, and only for work that takes longer than a moment. It vanishes
when the work ends. A Progress that is opened inside another one adds its line below the other's.

Not covered: lines that should stay (print them: they appear above the display); several threads.
"""

import sys
from collections.abc import Collection, Iterator

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from golf.foreign import terminal

DELAY_SECONDS = 0.5  # before a line appears: short work should not flicker


class Count(ProgressColumn):
    """How much is done, and of how much, in the unit of the phase."""

    def render(self, task: Task) -> Text:
        unit = task.fields["unit"]
        if task.total is None and not task.completed:
            return Text("")
        numbers = [task.completed] if task.total is None else [task.completed, task.total]
        if unit == "bytes":
            return Text("/".join(decimal(int(number)) for number in numbers))
        return Text("/".join(f"{number:,.0f}" for number in numbers) + f" {unit}".rstrip())


class Eta(TimeRemainingColumn):
    """How long it will still take: as the caller says, else from the speed so far."""

    def render(self, task: Task) -> Text:
        seconds = task.fields["eta_seconds"]
        if seconds is None:
            return super().render(task)
        minutes = round(seconds) // 60
        return Text(f"{minutes // 60}:{minutes % 60:02}:{round(seconds) % 60:02}", style="progress.remaining")


class Display(Bars):
    """The lines of all that is open. Text in them is never markup, and made harmless: it may be a stranger's."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        super().__init__(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            Count(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            Eta(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=True,
            # What is printed meanwhile goes above the lines; but never to the terminal what was meant for a file.
            redirect_stdout=sys.stdout.isatty(),
            disable=not console.is_terminal,
        )

    def get_renderables(self):
        """What is drawn: a line for each phase that has taken longer than a moment."""
        yield self.make_tasks_table([task for task in self.tasks if (task.elapsed or 0) >= DELAY_SECONDS])


class Progress:
    """The progress of one piece of work, phase after phase; a context manager.

    with Progress() as progress:
        progress.phase("reading", total=len(files), unit="files")
        for file in files:
            ...
            progress.advance()
    """

    _display: Display | None = None  # a terminal has room for one: all that are open share it
    _open = 0

    def __init__(self) -> None:
        self._lines: dict[str, TaskID] = {}  # by title
        self._latest: TaskID | None = None

    def __enter__(self) -> "Progress":
        if Progress._display is None:
            Progress._display = Display()
            Progress._display.start()
        Progress._open += 1
        return self

    def __exit__(self, *_) -> None:
        self._remove_lines()
        Progress._open -= 1
        if Progress._open == 0:
            self._bars.stop()
            Progress._display = None

    @property
    def _bars(self) -> Display:
        if Progress._display is None:
            raise RuntimeError("a Progress is used outside its `with` block")
        return Progress._display

    def _remove_lines(self) -> None:
        for line in self._lines.values():
            self._bars.remove_task(line)
        self._lines = {}

    def phase(self, title: str, total: float | None = None, unit: str = "") -> None:
        """The next phase begins, and what stood here before vanishes. total: None if nobody knows; unit: of it."""
        self._remove_lines()
        self._latest = self._bars.add_task(terminal(title), total=total, unit=unit, note="", eta_seconds=None)
        self._lines[title] = self._latest

    def advance(self, steps: float = 1) -> None:
        """So many units more of the phase are done."""
        if self._latest is None:
            raise RuntimeError("advance() before phase()")
        self._bars.advance(self._latest, steps)

    def note(self, text: str, eta_seconds: float | None = None) -> None:
        """A word about the phase, at the end of its line; and the time left, if the caller knows it better."""
        if self._latest is None:
            raise RuntimeError("note() before phase()")
        self._bars.update(self._latest, note=terminal(text), eta_seconds=eta_seconds)

    def __call__(self, title: str, done: float, total: float) -> None:
        """`done` of `total` units of a stage are behind us. Stages may take turns: each keeps its line."""
        if title not in self._lines:
            self._lines[title] = self._bars.add_task(terminal(title), total=total, unit="", note="", eta_seconds=None)
        self._latest = self._lines[title]
        self._bars.update(self._latest, completed=done, total=total)


def track(items: Collection, title: str, unit: str = "") -> Iterator:
    """Yields the items in turn and shows how many are behind us."""
    with Progress() as progress:
        progress.phase(title, total=len(items), unit=unit)
        for item in items:
            yield item
            progress.advance()
