"""Live progress in the terminal, by rich."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import TaskID as Task

from ..progress import Bar


class Live:
    """Shows the stages of a run as bars, each with the time that it has taken and the time that it will take."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.bars = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            speed_estimate_period=60,
        )

    def __enter__(self) -> Live:
        self.bars.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self.bars.stop()

    def stage(self, name: str, total: float) -> Bar:
        return _Bar(self.bars, self.bars.add_task(name, total=max(total, 1e-9), note=""))

    def say(self, text: str) -> None:
        self.bars.console.print(text)


class _Bar:
    def __init__(self, bars: Progress, task: Task):
        self.bars, self.task = bars, task

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.bars.update(self.task, advance=amount, **({"note": note} if note else {}))
