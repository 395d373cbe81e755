"""Results as tables in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..results import Change, Evaluation, Result, Row, Score

INTERVAL = "[..] 95 % interval: Wilson for an accuracy"


def print_result(result: Result, directory: Path) -> None:
    """Source, fine-tuned network and their difference, and where everything lies."""
    threat = result.threat
    title = (
        f"{result.strategy['name']} on {result.dataset['uri']} from {result.backbone['uri']},"
        f" {threat['norm']} eps {threat['eps']:.4g}, seed {result.seed}"
    )
    notes = [f"{INTERVAL}, paired (Bonett & Price) for a difference."]
    if result.changes:
        notes.append("+N -N: images that became right and wrong.")
    _print(title, result.rows, result.changes, [*notes, *_reported(result.report), f"Run directory: {directory}"])


def print_evaluation(found: Evaluation, directory: Path) -> None:
    """One network, and where everything lies."""
    title = f"{found.backbone['uri']} on {found.dataset['uri']}, weights {found.row.weights[:12]}"
    _print(title, [found.row], {}, [f"{INTERVAL}.", f"Evaluation: {directory}"])


def _print(title: str, rows: list[Row], changes: Mapping[str, Change], notes: list[str]) -> None:
    """A line for each item of the suite, a column for each network."""
    console = Console()
    # not rich's own title and caption: those are wrapped to the width of the table
    console.print(title, markup=False, highlight=False, soft_wrap=True)
    table = Table()
    for name in ("accuracy, %", "n"):
        table.add_column(name, justify="left" if name != "n" else "right")
    for row in rows:
        table.add_column("" if len(rows) == 1 else row.name, justify="right")
    if changes:
        table.add_column("difference", justify="right")
    for key, score in rows[0].scores.items():
        difference = [_change(changes[key])] if key in changes else []
        table.add_row(score.label, str(score.n), *[_score(row.scores[key]) for row in rows], *difference)
    console.print(table, markup=False, highlight=False)
    for line in [*(line for row in rows for line in _signs(row)), *notes]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _signs(row: Row) -> list[str]:
    """What may be wrong with the numbers of one network, and what happened to them."""
    signs = [f"{check.verdict}: {row.name}: {check.text}" for check in row.checks if check.verdict in _LOUD]
    small = [f"{score.label} with {score.least_batch}" for score in row.scores.values() if score.least_batch]
    if small:
        signs.append(f"{row.name}: memory ran out; fewer images at once, same verdicts: {', '.join(small)}.")
    return signs


_LOUD = ("warning", "error")


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
    return f"{100 * change.value:+.2f} {interval} +{change.gained} -{change.lost}"
