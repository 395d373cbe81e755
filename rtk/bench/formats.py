"""Tables of a benchmark as text, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Literal

from .compare import LEVEL, Spread, Versus
from .reported import ReportedTable
from .standings import Entry, Standing, Table
from .store import Missing

Format = Literal["text", "markdown", "csv", "json"]

ONE = "[..] 95 % interval: Wilson for an accuracy, paired (Bonett & Price) for a difference"
SEVERAL = "± sample standard deviation over seeds"
OPEN = f"n.s.: p >= {LEVEL}, exact sign test on the same images for each seed, not corrected for the number of rows"
BEST = (
    f"*: not significantly worse than the highest mean of the column (p >= {LEVEL}; exact sign test on the images and,"
    " over several seeds, also Welch's t; Bonferroni over the other rows)"
)
COST = (
    "changed: parameters that fine-tuning changed, and their share of all; training: wall time; CPU: of all cores,"
    " evaluation included; memory: most of one process in training"
)

REPORTED = "Reported elsewhere, not measured by rtk"

COLUMNS = (
    "table strategy data item n seeds planned mean deviation low high best pareto"
    " difference difference_deviation difference_low difference_high p"
    " baseline baseline_seeds baseline_difference baseline_deviation baseline_low baseline_high baseline_p"
    " minutes cpu_minutes host_bytes device_bytes changed_parameters changed_share warnings runs"
)
"""Of the CSV."""


def render(
    tables: list[Table], form: Format, reported: Sequence[ReportedTable] = (), missing: Sequence[Missing] = ()
) -> str:
    """Tables as text in a format, with a line break at the end unless there is nothing to show.

    Args:
        reported: shown after them, each under its own heading; in JSON they are objects with "reported" in the place
            of the measured tables' keys, and in CSV, where a line is a measurement, they are left out.
        missing: cells without a result, said in the same places; in text those that have failed alone.
    """
    if form == "json":
        others: list[Any] = [{"reported": table.model_dump()} for table in reported]
        others += [{"missing": [*map(asdict, missing)]}] if missing else []
        return to_json([*map(asdict, tables), *others])
    if form == "csv":
        return _csv(tables)
    parts = [grid(_titles(table), _cells(table), form, _notes(table)) for table in tables]
    failed = [f"failed: {each.cell}: {each.reason}\n" for each in missing if each.state == "failed"]
    parts += ["".join(f"* {line}" for line in failed) if form == "markdown" else "".join(failed)] if failed else []
    return "\n".join([*parts, *(_reported(table, form) for table in reported)])


def to_json(value: Any) -> str:
    """JSON for a reader and for programs."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """CSV with a line of titles."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(titles)
    writer.writerows(rows)
    return out.getvalue()


def grid(titles: list[str], rows: list[list[str]], form: Format, notes: Iterable[str]) -> str:
    """Columns as text or Markdown, the first two for words, and the notes below them."""
    between = "\n\n" if form == "markdown" else "\n"  # lines of one paragraph run together in Markdown
    columns = _markdown(titles, rows) + "\n" if form == "markdown" else _text(titles, rows)
    return columns + between.join(notes) + "\n"


def _titles(table: Table) -> list[str]:
    found = ["strategy", "data", "seeds"]
    for key, (label, n) in table.items.items():
        found.append(f"{label}, n={n}")
        if _compared(table, key):
            found.append("difference")
        if _based(table, key):
            found.append(f"to {table.baseline}")
    found += ["front"] * _fronted(table) + ["changed", "training, min", "CPU, min", "memory, MiB"]
    return found + ["GPU memory, MiB"] * _on_gpu(table)


def _compared(table: Table, key: str) -> bool:
    return any(row.entries[key].versus for row in table.rows)


def _based(table: Table, key: str) -> bool:
    return any(row.entries[key].baseline for row in table.rows)


def _fronted(table: Table) -> bool:
    return table.axes is not None and len(table.rows) > 1


def _on_gpu(table: Table) -> bool:
    return any(row.device_bytes for row in table.rows)


def _cells(table: Table) -> list[list[str]]:
    marks = iter(range(1, len(table.rows) + 1))
    several, fronted, on_gpu = len(table.rows) > 1, _fronted(table), _on_gpu(table)
    columns = [(key, _compared(table, key), _based(table, key)) for key in table.items]
    rows = []
    for row in table.rows:
        name = f"{row.name} (!{next(marks)})" if row.warnings else row.name
        cells = [name, row.dataset, row.counted]
        for key, compared, based in columns:
            entry = row.entries[key]
            cells.append(_accuracy(entry) + " *" * (several and entry.best))
            if compared:
                cells.append(_versus(row, entry.versus))
            if based:
                cells.append(_versus(row, entry.baseline))
        cells += ["yes" if row.pareto else ""] * fronted
        rows.append([*cells, _changed(row), *_spent(row), *[_mebibytes(row.device_bytes)] * on_gpu])
    return rows


def _notes(table: Table) -> Iterator[str]:
    """What all rows have in common, and what the signs of a table mean."""
    starts = {row.start for row in table.rows}
    if len(starts) == 1:
        yield f"All rows start from {starts.pop()}."
    several = any(len(row.seeds) > 1 for row in table.rows)
    single = any(len(row.seeds) < 2 for row in table.rows)
    compared = any(_compared(table, key) or _based(table, key) for key in table.items)
    legend = [ONE] * single + [SEVERAL] * several + [OPEN] * compared + [BEST] * (len(table.rows) > 1)
    if table.axes and _fronted(table):
        clean, robust = (table.items[key][0] for key in table.axes)
        legend.append(f"front: the Pareto front of {clean} against {robust}, by point estimates")
    yield f"Accuracies in %. {'; '.join(legend)}. {COST}."
    for fact, values in table.mixed.items():
        yield f"Not all runs were made alike: {fact}: {', '.join(values)}."
    marked = [row for row in table.rows if row.warnings]
    for number, row in enumerate(marked, 1):
        for text in row.warnings:
            yield f"(!{number}) warning: {row.name}: {text}"


def _reported(table: ReportedTable, form: Format) -> str:
    """What others report, under a heading that says so."""
    heading = f"{REPORTED}: {table.title}"
    titles = ["method", "data", "network", "trained on", *(f"{column}, %" for column in table.columns)]
    rows = [
        [row.method, row.data or "", row.network or "not stated", row.source or "not stated"]
        + ["" if figure is None else f"{figure:.2f}" for figure in row.figures]
        for row in table.rows
    ]
    notes = [f"Source: {table.url or table.name}", f"How it was measured: {table.protocol}"]
    notes += [f"Not as in rtk: {difference}" for difference in table.differences]
    notes += [f"Note: {table.note}"] * bool(table.note)
    above = f"**{heading}**\n\n" if form == "markdown" else f"{heading}\n{'=' * len(heading)}\n"
    return above + grid(titles, rows, form, notes)


def _text(titles: list[str], rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    turned: list[Callable[[str, int], str]] = [str.ljust, str.ljust, *[str.rjust] * (len(titles) - 2)]
    lines = [titles, ["-" * width for width in widths], *rows]
    return "".join(
        "  ".join(turn(text, width) for turn, text, width in zip(turned, line, widths, strict=True)).rstrip() + "\n"
        for line in lines
    )


def _markdown(titles: list[str], rows: list[list[str]]) -> str:
    rule = ["---", "---", *["---:"] * (len(titles) - 2)]
    escaped = [[cell.replace("|", "\\|").replace(" *", " \\*") for cell in row] for row in [titles, rule, *rows]]
    return "".join(f"| {' | '.join(row)} |\n" for row in escaped)


def _csv(tables: list[Table]) -> str:
    """A line for each item of each row; shares, not per cent; nothing rounded."""
    return to_csv(COLUMNS.split(), (line for number, table in enumerate(tables, 1) for line in _lines(number, table)))


def _lines(number: int, table: Table) -> Iterator[list[Any]]:
    for row in table.rows:
        for key, (_, n) in table.items.items():
            entry = row.entries[key]
            yield [
                number,
                row.name,
                row.dataset,
                key,
                n,
                " ".join(map(str, row.seeds)),
                row.planned or None,
                entry.accuracy.mean,
                entry.accuracy.deviation,
                *(entry.interval or (None, None)),
                entry.best,
                row.pareto,
                *_compared_values(entry.versus),
                entry.baseline.to if entry.baseline else None,
                " ".join(map(str, entry.baseline.seeds)) if entry.baseline else None,
                *_compared_values(entry.baseline),
                *(None if spread is None else spread.mean for spread in (row.minutes, row.cpu_minutes)),
                row.host_bytes,
                row.device_bytes,
                row.changed.mean if row.changed else None,
                row.share,
                "; ".join(row.warnings),
                " ".join(row.runs),
            ]


def _compared_values(versus: Versus | None) -> list[Any]:
    """Difference, its deviation, its interval and p, as CSV has them."""
    if versus is None:
        return [None] * 5
    p = " ".join(map(str, versus.p))
    return [versus.value.mean, versus.value.deviation, *(versus.interval or (None, None)), p]


def _number(spread: Spread, form: str) -> str:
    around = "" if spread.deviation is None else f" ± {form.replace('+', '').format(spread.deviation)}"
    return form.format(spread.mean) + around


def percent(spread: Spread, form: str = "{:.1f}") -> str:
    """A share in per cent, with its deviation over seeds."""
    return _number(Spread(100 * spread.mean, None if spread.deviation is None else 100 * spread.deviation), form)


def _accuracy(entry: Entry) -> str:
    text = percent(entry.accuracy)
    return text if entry.interval is None else f"{text} [{100 * entry.interval[0]:.1f}, {100 * entry.interval[1]:.1f}]"


def difference(versus: Versus | None) -> str:
    """A difference in per cent, with its interval or deviation, and whether it is significant."""
    if versus is None:
        return ""
    text = percent(versus.value, "{:+.2f}")
    if versus.interval is not None:
        return f"{text} [{100 * versus.interval[0]:+.1f}, {100 * versus.interval[1]:+.1f}]{' n.s.' * versus.open}"
    return text + (f", n.s. in {versus.open} of {len(versus.p)}" if versus.open else "")


def _versus(row: Standing, versus: Versus | None) -> str:
    return " in ".join(filter(None, [difference(versus), row.compared(versus)]))


def _changed(row: Standing) -> str:
    if row.changed is None or row.share is None:
        return ""
    return f"{_number(row.changed, '{:.0f}')} ({100 * row.share:.1f} %)"


def _spent(row: Standing) -> list[str]:
    """Wall and CPU time, and memory."""
    minutes = ["" if spread is None else _number(spread, "{:.2f}") for spread in (row.minutes, row.cpu_minutes)]
    return [*minutes, _mebibytes(row.host_bytes)]


def _mebibytes(count: int | None) -> str:
    return "" if count is None else f"{count / 2**20:.0f}"
