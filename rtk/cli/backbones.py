"""`rtk backbones`: what can be named with --backbone."""

from __future__ import annotations

from itertools import groupby

import click

from ..backbones.catalogue import Listing, list_backbones
from .listing import in_terminal, print_rows, print_text


@click.command(name="backbones")
@click.argument("contains", default="")
def command(contains: str) -> None:
    """List the backbones whose id contains CONTAINS, e.g. `rtk backbones cifar100`.

    Into a pipe: id, classes, threat and note, separated by tabs.
    """
    rows = [row for row in list_backbones() if contains.casefold() in row.uri.casefold()]
    if not in_terminal():
        print_rows((row.uri, str(row.classes or ""), row.threat.label if row.threat else "", row.note) for row in rows)
        return
    for group, members in groupby(rows, key=_group):
        _print_group(group, list(members))
    print_text(f"{len(rows)} listed. Use one with: rtk finetune --strategy NAME --backbone ID")


def _group(row: Listing) -> str:
    """Backbones of one source, and in RobustBench of one leaderboard, are listed together."""
    source, _, name = row.uri.partition(":")
    if source == "robustbench":
        return "RobustBench, " + name.rpartition("/")[0]
    return "In this package" if source == "rtk" else "Elsewhere"


def _print_group(group: str, rows: list[Listing]) -> None:
    facts = {f": {row.classes} classes, trained for {row.threat.label}" for row in rows if row.classes and row.threat}
    click.echo(group + (facts.pop() if len(facts) == 1 else ""))
    width = max(len(row.uri) for row in rows if row.note) if any(row.note for row in rows) else 0
    for row in rows:
        print_text(row.note, first=f"  {row.uri:<{width}}  ", rest=" " * (width + 4))
    click.echo()
