"""Live progress: bars in a terminal, now and then a line in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.progress import TaskID as Task

from ..progress import Bar, Progress, Silent

SECONDS = 30.0
"""Between two lines of a log."""


@contextmanager
def live(quiet: bool = False) -> Iterator[Progress]:
    """The display that suits where stderr goes."""
    console = Console(stderr=True)
    if quiet:
        yield Silent()
    elif not console.is_terminal:
        yield Log(console)
    else:
        shown = Live(console)
        with shown.bars:
            yield shown


class Live:
    """Shows the stages of a run as bars, each with the time that it has taken and the time that it will take."""

    def __init__(self, console: Console) -> None:
        self.bars = Bars(
            TextColumn("{task.description:<12}", markup=False),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            speed_estimate_period=60,
        )

    def stage(self, name: str, total: float) -> Bar:
        return _Bar(self.bars, self.bars.add_task(name, total=max(total, 1e-9), note=""))

    def say(self, text: str) -> None:
        self.bars.console.print(text, markup=False, highlight=False)


class _Bar:
    def __init__(self, bars: Bars, task: Task):
        self.bars, self.task = bars, task

    def advance(self, amount: float = 1, note: str = "") -> None:
        if note:
            self.bars.update(self.task, note=note)
        self.bars.update(self.task, advance=amount)


class Log:
    """Writes a line every half minute, so that a log tells that the run is alive without being filled by it."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.last = time.monotonic()

    def stage(self, name: str, total: float) -> Bar:
        return _Line(self, name, total)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        self.last = time.monotonic()


class _Line:
    def __init__(self, log: Log, name: str, total: float):
        self.log, self.name, self.total = log, name, max(total, 1e-9)
        self.done = 0.0

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.done += amount
        if time.monotonic() - self.log.last >= SECONDS:
            self.log.say(f"{self.name}: {100 * self.done / self.total:.0f} % {note}".rstrip())
