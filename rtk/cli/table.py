"""A result as a table in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..results import Change, Result, Score

TITLES = {"clean": "clean", "pgd20": "PGD-20", "autoattack": "AutoAttack"}


def print_result(result: Result, directory: Path) -> None:
    """Source row, strategy row, their difference, and where everything lies."""
    console = Console()
    # not rich's own title and caption: those are wrapped to the width of the table
    console.print(_title(result), markup=False, highlight=False, soft_wrap=True)
    table = Table()
    table.add_column("accuracy, %")
    items = list(result.rows[0].scores)
    for item in items:
        table.add_column(f"{TITLES.get(item, item)}\nn = {result.rows[0].scores[item].n}", justify="right")
    for row in result.rows:
        table.add_row(row.name, *[_score(row.scores[item]) for item in items])
    if result.changes:
        table.add_section()
        table.add_row("difference", *[_change(result.changes[item]) for item in items])
    console.print(table)
    for line in (*_notes(result), *_reported(result.report), f"Run directory: {directory}"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _title(result: Result) -> str:
    threat = result.threat
    return (
        f"{result.strategy['name']} on {result.dataset['uri']} from {result.backbone['uri']},"
        f" {threat['norm']} eps {threat['eps']:.4g}, seed {result.seed}"
    )


def _notes(result: Result) -> list[str]:
    """What the numbers of this table mean."""
    notes = ["[..] 95 % interval: Wilson for an accuracy, paired (Bonett & Price) for a difference."]
    if result.changes:
        notes.append("+N -N: images that became right and wrong.")
    if len({score.n for row in result.rows for score in row.scores.values()}) > 1:
        notes.append("AutoAttack is run on fewer images.")
    return notes


def _reported(report: dict[str, Any]) -> list[str]:
    """What a strategy says that it chose; its values can be of any kind."""
    facts = {"Module": report.get("chosen"), "alpha": report.get("alpha")}
    found = [f"{name}: {_text(value)}" for name, value in facts.items() if value is not None]
    return ["; ".join(found)] if found else []


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _score(score: Score) -> str:
    return f"{100 * score.accuracy:.1f} [{100 * score.low:.1f}, {100 * score.high:.1f}]"


def _change(change: Change) -> str:
    interval = f"[{100 * change.low:+.1f}, {100 * change.high:+.1f}]"
    return f"{100 * change.value:+.2f} {interval}\n+{change.gained} -{change.lost}"
