"""A result as a table in the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..results import Change, Result, Score

TITLES = {"clean": "clean", "pgd20": "PGD-20", "autoattack": "AutoAttack"}


def print_result(result: Result, directory: Path) -> None:
    """Source row, strategy row, their difference, and where everything lies."""
    console = Console()
    table = Table(title=_title(result), title_justify="left", caption=_caption(), caption_justify="left")
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
    if "chosen" in result.report:
        console.print(f"Module: {', '.join(result.report['chosen'])}", highlight=False, end="")
        console.print(f"; alpha = {result.report['alpha']:g}" if "alpha" in result.report else "", highlight=False)
    console.print(f"Run directory: {directory}", highlight=False, soft_wrap=True)


def _title(result: Result) -> str:
    threat = result.threat
    return (
        f"{result.strategy['name']} on {result.dataset['uri']} from {result.backbone['uri']},"
        f" {threat['norm']} eps {threat['eps']:.4g}, seed {result.seed}"
    )


def _caption() -> str:
    return (
        "[..] 95 % interval: Wilson for an accuracy, paired (Bonett & Price) for a difference,\n"
        "with the images that became right (+) and wrong (-). AutoAttack is run on fewer images."
    )


def _score(score: Score) -> str:
    return f"{100 * score.accuracy:.1f} [{100 * score.low:.1f}, {100 * score.high:.1f}]"


def _change(change: Change) -> str:
    return f"{100 * change.value:+.2f} [{100 * change.low:+.1f}, {100 * change.high:+.1f}]\n+{change.gained} -{change.lost}"
