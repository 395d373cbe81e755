"""Lists that are read in a terminal, or cut and searched by other programs."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence

import click


def in_terminal() -> bool:
    """Whether somebody reads along; otherwise another program does."""
    return sys.stdout.isatty()


def print_rows(rows: Iterable[Sequence[str]]) -> None:
    """For other programs: one line per row, columns separated by tabs, nothing broken or cut."""
    for row in rows:
        click.echo("\t".join(row).rstrip("\t"))


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """For a reader: columns, of which only the last one is wrapped."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, no_wrap=title != titles[-1])
    for row in rows:
        table.add_row(*row)
    Console().print(table, markup=False, highlight=False)


def print_text(text: str, first: str = "", rest: str | None = None) -> None:
    """One paragraph after `first`, wrapped at words below `rest` (by default `first`); one line into a pipe."""
    text = " ".join(text.split())
    if not text or not in_terminal():
        click.echo((first + text).rstrip())
        return
    width = min(shutil.get_terminal_size().columns, 100)
    indent = first if rest is None else rest
    click.echo(click.wrap_text(text, width=width, initial_indent=first, subsequent_indent=indent))
