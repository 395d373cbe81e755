"""`rtk doctor`: what is installed, what works, and the command that mends what does not."""

from __future__ import annotations

import sys

import click
from rich.console import Console
from rich.table import Table


@click.command(name="doctor")
def command() -> None:
    """Check this installation and say how to mend it; exit code 1 when something is broken."""
    from ..doctor import checks

    console = Console()
    table = Table(box=None, pad_edge=False)
    for title in ("", "what", "found", "mend it with"):
        table.add_column(title, overflow="fold")
    broken = False
    for check in checks():
        mark = "[green]ok[/green]" if check.ok else ("[yellow]-[/yellow]" if check.optional else "[red]broken[/red]")
        table.add_row(mark, check.name, check.found, "" if check.ok else check.remedy)
        broken |= not check.ok and not check.optional
    console.print(table)
    sys.exit(1 if broken else 0)
