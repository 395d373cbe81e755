"""From finished cells to tables: a row for each configuration, repetitions with other seeds joined.

Scores whose identities differ in anything but the weights (protocol, images, threat, attack settings, chunk size, data)
are never in one table.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .. import files
from ..config import show
from ..results import Change, Result, Row, Score
from ..verdicts import judged
from .cells import Cell

LEVEL = 0.05
"""A difference whose p is not below it is marked as not significant."""


@dataclass(frozen=True)
class Spread:
    """A number measured once for each seed.

    Attributes:
        mean: over seeds.
        deviation: sample standard deviation over seeds; None for one seed.
    """

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class Versus:
    """The difference to the source on the same images.

    Attributes:
        value: shares of images, over seeds.
        interval: 95 % interval; None for several seeds.
        p: of each seed.
    """

    value: Spread
    interval: tuple[float, float] | None
    p: tuple[float, ...]

    @property
    def open(self) -> int:
        """Seeds whose difference is not significant."""
        return sum(p >= LEVEL for p in self.p)


@dataclass(frozen=True)
class Entry:
    """One item of the suite in one row.

    Attributes:
        accuracy: share of images, over seeds.
        interval: 95 % interval; None for several seeds.
        versus: None where there is no source row.
    """

    accuracy: Spread
    interval: tuple[float, float] | None
    versus: Versus | None


@dataclass(frozen=True)
class Standing:
    """One row of a table.

    Attributes:
        name: of the strategy with the options that tell it apart, or "source" with the backbone.
        dataset: URI.
        seeds: of the runs in this row, ascending; empty for a source.
        entries: by item, e.g. "pgd20@Linf:8/255".
        seconds: wall time of fine-tuning, over seeds; of a resumed run, its last part; None for a source.
        changed: parameters that fine-tuning changed, over seeds; None for a source.
        share: of the parameters that fine-tuning changed; None for a source.
        warnings: of its checks, each a sentence.
    """

    name: str
    dataset: str
    seeds: tuple[int, ...]
    entries: dict[str, Entry]
    seconds: Spread | None
    changed: Spread | None
    share: float | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Rows that were judged in the same way.

    Attributes:
        items: by the keys of the scores, how they are called and on how many images.
        identity: by the keys of the scores, how they were judged.
    """

    items: dict[str, tuple[str, int]]
    identity: dict[str, Any]
    rows: list[Standing]


def tables(cells: Sequence[Cell], found: Iterable[tuple[Cell, Result]]) -> list[Table]:
    """The tables of a benchmark, in the order of its spec.

    Args:
        cells: all of them; they decide which options a row has to name.
        found: those that are done.
    """
    names = _names(cells)
    alike: dict[str, list[tuple[Cell, Result]]] = {}
    for cell, result in found:
        alike.setdefault(files.digest(_protocol(result.rows[-1])), []).append((cell, result))
    return [_table(group, names) for group in alike.values()]


def _protocol(row: Row) -> dict[str, Any]:
    """How a row was judged, by the keys of its scores."""
    return {key: judged(score) for key, score in row.scores.items()}


def _names(cells: Sequence[Cell]) -> dict[str, str]:
    """By configuration, the strategy with those of its options in which its cells differ."""
    found = {}
    for cell in cells:
        alike = [other for other in cells if other.request.strategy.name == cell.request.strategy.name]
        own = dict.fromkeys(key for other in alike for key in other.settings.all if key in other.settings.own)
        given = [key for key in own if key not in ("strategy", "dataset")]  # these have columns
        differ = [key for key in given if len({show(_value(other, key)) for other in alike}) > 1]
        options = [f"{key}={show(_value(cell, key))}" for key in differ]
        found[cell.configuration] = " ".join([cell.request.strategy.name, *options])
    return found


def _value(cell: Cell, option: str) -> Any:
    request = cell.request
    owner = request.config if option in type(request.config).model_fields else request.options
    return getattr(owner, option)


def _table(found: list[tuple[Cell, Result]], names: dict[str, str]) -> Table:
    first = found[0][1].rows[-1]
    several = len({result.backbone["uri"] for _, result in found}) > 1
    sources: dict[tuple[str, str], Standing] = {}
    repeated: dict[str, list[Result]] = {}
    for cell, result in found:
        row = result.rows[0]
        if len(result.rows) > 1:
            name = f"source {result.backbone['uri']}" if several else "source"
            sources.setdefault((result.backbone["uri"], row.weights), _source(name, result))
        repeated.setdefault(cell.configuration, []).append(result)
    return Table(
        {key: (score.label, score.n) for key, score in first.scores.items()},
        _protocol(first),
        [*sources.values(), *(_standing(names[key], results) for key, results in repeated.items())],
    )


def _source(name: str, result: Result) -> Standing:
    row = result.rows[0]
    entries = {key: _entry([score], []) for key, score in row.scores.items()}
    return Standing(name, result.dataset["uri"], (), entries, None, None, None, _warnings(row, ""))


def _standing(name: str, results: list[Result]) -> Standing:
    results = sorted(results, key=lambda result: result.seed)
    rows = [result.rows[-1] for result in results]
    changed = Spread.of([result.trained["changed_parameters"] for result in results])
    seeds = tuple(result.seed for result in results)
    marked = [_warnings(row, f"seed {seed}: " if len(seeds) > 1 else "") for row, seed in zip(rows, seeds, strict=True)]
    return Standing(
        name=name,
        dataset=results[0].dataset["uri"],
        seeds=seeds,
        entries={
            key: _entry(
                [row.scores[key] for row in rows], [result.changes[key] for result in results if key in result.changes]
            )
            for key in rows[0].scores
        },
        seconds=Spread.of([result.seconds["finetune"] for result in results]),
        changed=changed,
        share=changed.mean / results[0].backbone["parameters"],
        warnings=tuple(text for texts in marked for text in texts),
    )


def _entry(scores: list[Score], changes: list[Change]) -> Entry:
    versus = None
    if len(changes) == len(scores):
        alone = (changes[0].low, changes[0].high) if len(changes) == 1 else None
        versus = Versus(Spread.of([change.value for change in changes]), alone, tuple(change.p for change in changes))
    interval = (scores[0].low, scores[0].high) if len(scores) == 1 else None
    return Entry(Spread.of([score.accuracy for score in scores]), interval, versus)


def _warnings(row: Row, before: str) -> tuple[str, ...]:
    warnings = [check for check in row.checks if check.verdict == "warning"]
    return tuple(f"{before}{f'{check.item}: ' if check.item else ''}{check.text}" for check in warnings)
