"""Results as tables in the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import printable
from ..results import Change, Corrupted, Evaluation, Result, Row, Score

INTERVAL = "[..] 95 % interval: Wilson for an accuracy"
WIDE = 120
SHOWN = 3
"""Warnings of one network that stand beside its numbers."""


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
    notes += [*_resized(result.backbone, result.dataset), *_reported(result.report)]
    if not result.trained.get("changed", True):
        notes.append("warning: no weight differs from those that the run started from.")
    notes += [
        f"warning: observer '{each.get('name')}' failed {each['failed']}"
        for each in result.observers
        if "failed" in each
    ]
    notes.append(f"Run directory: {directory}")
    _print(title, result.rows, result.changes, notes, directory)


def print_evaluation(found: Evaluation, directory: Path) -> None:
    """One network, and where everything lies."""
    title = f"{found.backbone['uri']} on {found.dataset['uri']}, weights {found.row.weights[:12]}"
    notes = [f"{INTERVAL}.", *_resized(found.backbone, found.dataset), f"Evaluation: {directory}"]
    _print(title, [found.row], {}, notes, directory)


def print_checks(found: Result | Evaluation) -> None:
    """Every check; its sentence holds the value that was measured, and the limit."""
    console = _console()
    for row in found.rows if isinstance(found, Result) else [found.row]:
        for item, checks in groupby(row.checks, key=lambda check: check.item):
            console.print(f"{row.name}, {item or 'network'}", markup=False, highlight=False, soft_wrap=True)
            for check in checks:
                line = f"  {check.verdict:<8}{check.name}: {check.text}"
                console.print(line, markup=False, highlight=False, soft_wrap=True)


def _print(title: str, rows: list[Row], changes: Mapping[str, Change], notes: list[str], directory: Path) -> None:
    """A line for each item of the suite, a column for each network."""
    console = _console()
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
    if any(score.copies > 1 for score in rows[0].scores.values()):
        notes = ["n counts images, and intervals are over images, not over their corrupted copies.", *notes]
    if table.row_count:
        console.print(table, markup=False, highlight=False)
    for row in rows:
        for score in row.scores.values():
            if score.corrupted is not None:
                title = f"{row.name}: accuracy under corruption, %; {score.corrupted.origin}"
                console.print(title, markup=False, highlight=False, soft_wrap=True)
                console.print(_corrupted(score.corrupted), markup=False, highlight=False)
    for line in [*(line for row in rows for line in _signs(row, directory)), *notes]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


class Plain(Console):
    """A terminal for text that files bring along; what would move its cursor is shown, not done."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Every text that is printed comes by here, those in the cells of a table included."""
        return super().render_str(printable(text), **options)


def _console() -> Console:
    """The terminal at its width; a file or a pipe, which rich takes for 80 columns, at one that wraps nothing."""
    console = Plain()
    return console if console.is_terminal else Plain(width=WIDE)


def _corrupted(found: Corrupted) -> Table:
    """Accuracy for each corruption and severity, and the means of the families and of everything."""
    table = Table()
    severities = range(1, len(found.severities) + 1)
    for heading in ("severity", *map(str, severities), "mean"):
        table.add_column(heading, justify="left" if heading == "severity" else "right")
    for corruption, values in found.cells.items():
        table.add_row(corruption, *map(_percent, [*values, found.corruptions[corruption]]))
    table.add_section()
    for family, value in found.families.items():
        table.add_row(family, *[""] * len(severities), _percent(value))
    table.add_section()
    table.add_row("all", *map(_percent, [*found.severities, fmean(found.severities)]))
    if found.mce is not None:
        table.add_row(f"mCE, {found.baseline} = 100", *[""] * len(severities), _percent(found.mce))
    return table


def _signs(row: Row, directory: Path) -> list[str]:
    """What may be wrong with the numbers of one network, and what happened to them."""
    verdicts = Counter(check.verdict for check in row.checks)
    warnings = [check for check in row.checks if check.verdict == "warning"]
    counted = {"passed": verdicts["ok"], "skipped": verdicts["skipped"]}
    parts = [f"{count} {what}" for what, count in counted.items() if count or what == "passed"]
    parts.append(f"{len(warnings)} warning{'s' if len(warnings) > 1 else ''}" if warnings else "no warning")
    signs = [f"{row.name}: checks: {', '.join(parts)}."]
    for check in warnings[:SHOWN]:
        signs.append(f"warning: {row.name}: {f'{check.item}: ' if check.item else ''}{check.text}")
    if len(warnings) > SHOWN:
        signs.append(f"{len(warnings) - SHOWN} more: rtk show {directory} --checks")
    small = [f"{score.label} with {score.least_batch}" for score in row.scores.values() if score.least_batch]
    if small:
        signs.append(f"{row.name}: memory ran out; fewer images at once, same verdicts: {', '.join(small)}.")
    return signs


def _resized(backbone: Mapping[str, Any], dataset: Mapping[str, Any]) -> list[str]:
    """That the network is not given the images in their own size."""
    given, done = dataset.get("image_shape"), backbone.get("input")
    size = done.get("size") if isinstance(done, dict) else None
    if not (isinstance(given, list) and isinstance(size, list)) or given[1:] == size:
        return []
    sizes = ["x".join(map(str, each)) for each in (given[1:], size)]
    return [
        f"Images of {sizes[0]} pixels are resized to {sizes[1]} inside the network; threats are those of the images."
    ]


def _reported(report: dict[str, Any]) -> list[str]:
    """What a strategy says that it chose; its values can be of any kind."""
    facts = {
        "Module": report.get("chosen") if isinstance(report.get("chosen"), list) else None,
        "alpha": report.get("alpha"),
        "Training attack": report.get("training_attack"),
    }
    found = [f"{name}: {_text(value)}" for name, value in facts.items() if value is not None]
    return [*(["; ".join(found)] if found else []), *_shortages(report.get("memory"))]


def _shortages(memory: object) -> list[str]:
    """Where memory ran out before the evaluation, by phase."""
    if not isinstance(memory, dict):
        return []
    found = [
        f"{phase} {each.get('images')}" + (f" from step {each['step']}" if "step" in each else "")
        for phase, shortages in memory.items()
        for each in (shortages if isinstance(shortages, list) else [])
        if isinstance(each, dict)
    ]
    return [f"Memory ran out; images at once: {'; '.join(found)}."] if found else []


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _score(score: Score) -> str:
    return f"{100 * score.accuracy:.1f} [{100 * score.low:.1f}, {100 * score.high:.1f}]"


def _change(change: Change) -> str:
    interval = f"[{100 * change.low:+.1f}, {100 * change.high:+.1f}]"
    return f"{100 * change.value:+.2f} {interval} +{change.gained} -{change.lost}"
