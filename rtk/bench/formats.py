"""Tables of a benchmark as text, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Literal

from .standings import Entry, Spread, Standing, Table, Versus

Format = Literal["text", "markdown", "csv", "json"]

ONE = "[..] 95 % interval: Wilson for an accuracy, paired (Bonett & Price) for a difference to the source"
SEVERAL = "± sample standard deviation over seeds"
OPEN = "n.s.: p >= 0.05, exact sign test on the same images"
COST = "changed: parameters that fine-tuning changed, and their share of all"


COLUMNS = (
    "table strategy data item n seeds mean deviation low high difference difference_deviation difference_low"
    " difference_high p seconds changed_parameters changed_share warnings"
)
"""Of the CSV."""


def render(tables: list[Table], form: Format) -> str:
    """Tables as text in a format, with a line break at the end unless there is nothing to show."""
    if form == "json":
        return json.dumps([asdict(table) for table in tables], indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if form == "csv":
        return _csv(tables)
    grid = _markdown if form == "markdown" else _text
    return "\n".join(_whole(table, grid(_titles(table), _cells(table)), form) for table in tables)


def _titles(table: Table) -> list[str]:
    found = ["strategy", "data", "seeds"]
    for key, (label, n) in table.items.items():
        found.append(f"{label}, n={n}")
        if _compared(table, key):
            found.append("difference")
    return [*found, "changed", "training, s"]


def _compared(table: Table, key: str) -> bool:
    return any(row.entries[key].versus for row in table.rows)


def _cells(table: Table) -> list[list[str]]:
    marks = iter(range(1, len(table.rows) + 1))
    rows = []
    for row in table.rows:
        name = f"{row.name} (!{next(marks)})" if row.warnings else row.name
        cells = [name, row.dataset, str(len(row.seeds) or "")]
        for key in table.items:
            entry = row.entries[key]
            cells.append(_accuracy(entry))
            if _compared(table, key):
                cells.append(_versus(entry.versus))
        rows.append([*cells, _changed(row), "" if row.seconds is None else _number(row.seconds, "{:.1f}")])
    return rows


def _notes(table: Table) -> Iterator[str]:
    """What the signs of a table mean."""
    several = any(len(row.seeds) > 1 for row in table.rows)
    single = any(len(row.seeds) < 2 for row in table.rows)
    compared = any(_compared(table, key) for key in table.items)
    legend = [ONE] * single + [SEVERAL] * several + [OPEN] * compared
    yield f"Accuracies in %. {'; '.join(legend)}. {COST}."
    marked = [row for row in table.rows if row.warnings]
    for number, row in enumerate(marked, 1):
        for text in row.warnings:
            yield f"(!{number}) warning: {row.name}: {text}"


def _whole(table: Table, grid: str, form: Format) -> str:
    between = "\n\n" if form == "markdown" else "\n"  # lines of one paragraph run together in Markdown
    return grid + ("\n" if form == "markdown" else "") + between.join(_notes(table)) + "\n"


def _text(titles: list[str], rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    lines = [titles, ["-" * width for width in widths], *rows]
    return "".join("  ".join(map(_padded, line, widths, range(len(line)))).rstrip() + "\n" for line in lines)


def _padded(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column < 2 else text.rjust(width)


def _markdown(titles: list[str], rows: list[list[str]]) -> str:
    rule = ["---", "---", *["---:"] * (len(titles) - 2)]
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in [titles, rule, *rows]]
    return "".join(f"| {' | '.join(row)} |\n" for row in escaped)


def _csv(tables: list[Table]) -> str:
    """A line for each item of each row; shares, not per cent; nothing rounded."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS.split())
    for number, table in enumerate(tables, 1):
        for row in table.rows:
            for key, (_, n) in table.items.items():
                seeds = " ".join(map(str, row.seeds))
                writer.writerow(
                    [number, row.name, row.dataset, key, n, seeds, *_values(row.entries[key]), *_costs(row)]
                )
    return out.getvalue()


def _values(entry: Entry) -> list[float | str | None]:
    found = [entry.accuracy.mean, entry.accuracy.deviation, *(entry.interval or (None, None))]
    if entry.versus is None:
        return [*found, *[None] * 5]
    versus = entry.versus
    p = " ".join(map(str, versus.p))
    return [*found, versus.value.mean, versus.value.deviation, *(versus.interval or (None, None)), p]


def _costs(row: Standing) -> list[float | str | None]:
    seconds, changed = (None if spread is None else spread.mean for spread in (row.seconds, row.changed))
    return [seconds, changed, row.share, "; ".join(row.warnings)]


def _number(spread: Spread, form: str) -> str:
    around = "" if spread.deviation is None else f" ± {form.replace('+', '').format(spread.deviation)}"
    return form.format(spread.mean) + around


def _percent(spread: Spread) -> Spread:
    return Spread(100 * spread.mean, None if spread.deviation is None else 100 * spread.deviation)


def _accuracy(entry: Entry) -> str:
    text = _number(_percent(entry.accuracy), "{:.1f}")
    return text if entry.interval is None else f"{text} [{100 * entry.interval[0]:.1f}, {100 * entry.interval[1]:.1f}]"


def _versus(versus: Versus | None) -> str:
    if versus is None:
        return ""
    text = _number(_percent(versus.value), "{:+.2f}")
    if versus.interval is not None:
        return f"{text} [{100 * versus.interval[0]:+.1f}, {100 * versus.interval[1]:+.1f}]{' n.s.' * versus.open}"
    return text + (f", n.s. in {versus.open} of {len(versus.p)}" if versus.open else "")


def _changed(row: Standing) -> str:
    if row.changed is None or row.share is None:
        return ""
    return f"{_number(row.changed, '{:.0f}')} ({100 * row.share:.1f} %)"
