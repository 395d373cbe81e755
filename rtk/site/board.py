"""Tables of a benchmark as a page shows them: columns that can be sorted, cells in words, flags for warnings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from ..bench.compare import LEVEL, Spread, Versus
from ..bench.standings import Entry, Standing, Table
from ..config import show
from .numbers import memory, minutes, percent, points, signed

Order = Literal["ascending", "descending"]


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        group: heading over it and its neighbours, or "".
        title: its own heading.
        first: the order in which the first click sorts.
        text: whether it holds words.
    """

    group: str
    title: str
    first: Order = "descending"
    text: bool = False

    @property
    def name(self) -> str:
        """For a screen reader."""
        return f"{self.group}: {self.title}" if self.group else self.title


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        value: what it is sorted by; None is sorted last.
        text: what is read first.
        below: what stands in small letters under it.
        span: low end, value and high end in percent, drawn as a line; None without.
        best: not significantly worse than the best of its column.
    """

    value: float | str | None
    text: str
    below: str = ""
    span: tuple[float, float, float] | None = None
    best: bool = False


@dataclass(frozen=True)
class Line:
    """One row.

    Attributes:
        id: unique in the page.
        runs: what their links say, and the folders that they lead to.
        notes: id and text of each warning.
        behind: whether its robust accuracy is significantly worse than the best of the table.
    """

    id: str
    standing: Standing
    cells: list[Cell]
    runs: list[tuple[str, str]]
    notes: list[tuple[str, str]]
    behind: bool

    @property
    def flags(self) -> str:
        """Those that the filter knows, separated by spaces."""
        found = {"front": self.standing.pareto, "calm": not self.notes, "level": not self.behind}
        return " ".join(name for name, true in found.items() if true)

    @property
    def text(self) -> str:
        """What the filter searches, in small letters."""
        standing = self.standing
        return " ".join([standing.name, standing.dataset, standing.start, *standing.warnings]).lower()


class Board:
    """A table with everything that a page says about it.

    Attributes:
        number: counted from 1.
        table: what it shows.
    """

    def __init__(self, number: int, table: Table):
        self.number, self.table = number, table
        self.starts = list(dict.fromkeys(row.start for row in table.rows))
        self.data = list(dict.fromkeys(row.dataset for row in table.rows))
        self.single = any(not _several(row) for row in table.rows)
        self.several = any(_several(row) for row in table.rows)
        self.partial = any(len(row.seeds) < row.planned for row in table.rows)
        self.device = any(row.device_bytes for row in table.rows)

    @property
    def title(self) -> str:
        """Data and threats."""
        radii: dict[str, list[str]] = {}
        for threat in dict.fromkeys(key.partition("@")[2] for key in self.table.items if "@" in key):
            norm, _, radius = threat.partition(":")
            radii.setdefault(norm, []).append(radius)
        return ", ".join([" and ".join(self.data), *(f"{norm} {', '.join(found)}" for norm, found in radii.items())])

    @property
    def images(self) -> str:
        """On how many test images each item was measured."""
        counts = {n for _, n in self.table.items.values()}
        if len(counts) == 1:
            return f"Everything on {counts.pop():,} test images."
        return f"Test images: {', '.join(f'{n:,} for {label}' for label, n in self.table.items.values())}."

    @property
    def axes(self) -> tuple[str, str] | None:
        """What the axes of the Pareto front are called."""
        axes = self.table.axes
        return None if axes is None else (self.table.items[axes[0]][0], self.table.items[axes[1]][0])

    @cached_property
    def columns(self) -> list[Column]:
        """From left to right, without the first, which holds the names."""
        found = [Column("", "flags")]
        found += [Column("", "backbone", "ascending", True)] if len(self.starts) > 1 else []
        found += [Column("", "data", "ascending", True)] if len(self.data) > 1 else []
        for key, (label, n) in self.table.items.items():
            group = f"{label}, n = {n:,}"
            found.append(Column(group, "accuracy, %"))
            found += [Column(group, f"minus {other}") for other in ("source", "baseline") if self._compared(key, other)]
        cost = [Column("cost", title, "ascending") for title in ("changed", "training, min", "CPU, min", "memory")]
        found += cost + ([Column("cost", "GPU memory", "ascending")] if self.device else [])
        return [*found, Column("", "seeds")] if self.several or self.partial else found

    @cached_property
    def groups(self) -> list[tuple[str, int]]:
        """The headings over the columns, and how many columns each has."""
        found: list[tuple[str, int]] = []
        for column in self.columns:
            if found and column.group and found[-1][0] == column.group:
                found[-1] = column.group, found[-1][1] + 1
            else:
                found.append((column.group, 1))
        return found

    @cached_property
    def lines(self) -> list[Line]:
        """The rows, in the order of the spec."""
        return [self._line(f"{self.number}-{place}", row) for place, row in enumerate(self.table.rows, 1)]

    @property
    def legend(self) -> str:
        """What the signs of the table mean, in a line."""
        parts = ["[..] 95 % interval"] * self.single + ["± standard deviation over seeds"] * self.several
        if any(entry.versus or entry.baseline for row in self.table.rows for entry in row.entries.values()):
            parts.append("n.s. not significant (p ≥ 0.05)")
        parts.append("* not significantly worse than the best of the column")
        return f"{'; '.join(parts)}. Lines below accuracies run from 0 to 100 %."

    @property
    def protocol(self) -> list[list[str]]:
        """Item, setting and value: everything that the rows of the table share."""
        return [
            [self.table.items[key][0], name, value]
            for key, identity in self.table.identity.items()
            for name, value in _flat(identity)
        ]

    def _compared(self, key: str, other: str) -> bool:
        return any(_versus(row.entries[key], other) for row in self.table.rows)

    def _line(self, id: str, row: Standing) -> Line:
        notes = [(f"note-{id}-{place}", text) for place, text in enumerate(row.warnings, 1)]
        labels = [str(seed) for seed in row.seeds] if len(row.runs) > 1 else ["run"]
        axes = self.table.axes
        behind = axes is not None and not row.entries[axes[1]].best
        return Line(id, row, [*self._cells(row)], [*zip(labels, row.runs, strict=False)], notes, behind)

    def _cells(self, row: Standing) -> Iterator[Cell]:
        yield Cell(len(row.warnings), "")
        if len(self.starts) > 1:
            yield Cell(row.start, row.start)
        if len(self.data) > 1:
            yield Cell(row.dataset, row.dataset)
        for key in self.table.items:
            entry = row.entries[key]
            yield _accuracy(entry)
            for other in ("source", "baseline"):
                if self._compared(key, other):
                    yield _difference(row, _versus(entry, other))
        yield _changed(row)
        yield _minutes(row.minutes)
        yield _minutes(row.cpu_minutes)
        yield Cell(row.host_bytes, "" if row.host_bytes is None else memory(row.host_bytes))
        if self.device:
            yield Cell(row.device_bytes, "" if row.device_bytes is None else memory(row.device_bytes))
        if self.several or self.partial:
            yield Cell(len(row.seeds) or None, row.counted)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of what is nested."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name} {key}".strip())
    elif isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        for number, inner in enumerate(value, 1):
            yield from _flat(inner, f"{name} {number}")
    else:
        yield name, show(value)


def _several(row: Standing) -> bool:
    return len(row.seeds) > 1


def _versus(entry: Entry, other: str) -> Versus | None:
    return entry.versus if other == "source" else entry.baseline


def ends(entry: Entry) -> tuple[float, float]:
    """Low and high end of what is drawn around an accuracy: its interval, or a standard deviation to either side."""
    if entry.interval is not None:
        return entry.interval
    mean, around = entry.accuracy.mean, entry.accuracy.deviation or 0.0
    return max(0.0, mean - around), min(1.0, mean + around)


def _accuracy(entry: Entry) -> Cell:
    mean, deviation = entry.accuracy.mean, entry.accuracy.deviation
    low, high = ends(entry)
    below = f"± {100 * (deviation or 0.0):.1f}" if entry.interval is None else f"[{percent(low)}, {percent(high)}]"
    return Cell(mean, percent(mean), below, (100 * low, 100 * mean, 100 * high), entry.best)


def _difference(row: Standing, found: Versus | None) -> Cell:
    if found is None:
        return Cell(None, "")
    value, below = found.value, ""
    if found.interval is not None:
        below = f"[{signed(found.interval[0])}, {signed(found.interval[1])}]{' n.s.' * (found.p[0] >= LEVEL)}"
    else:
        below = f"± {points(value.deviation or 0.0)}"
        below += f", n.s. in {found.open} of {len(found.p)}" if found.open else ""
    return Cell(value.mean, signed(value.mean), ", ".join(filter(None, [below, row.compared(found)])))


def _changed(row: Standing) -> Cell:
    if row.changed is None or row.share is None:
        return Cell(None, "")
    return Cell(row.share, f"{percent(row.share)} %", f"{row.changed.mean:,.0f} parameters")


def _minutes(found: Spread | None) -> Cell:
    if found is None:
        return Cell(None, "")
    return Cell(found.mean, minutes(found.mean), "" if found.deviation is None else f"± {minutes(found.deviation)}")
