"""The comparison of two benchmarks as text, Markdown, CSV and JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from .compare import LEVEL
from .difference import Comparison, Number, Pair
from .formats import ONE, OPEN, SEVERAL, Format, difference, grid, percent, to_csv, to_json

COLUMNS = "run data item n seeds before after difference low high p equal same_weights judged runs"
"""Of the CSV."""

LISTED = 20
"""Runs that only one of the two has, and that are named."""


def render(found: Comparison, form: Format) -> str:
    """A comparison as text in a format, with a line break at the end."""
    if form == "json":
        return to_json(asdict(found))
    if form == "csv":
        return to_csv(COLUMNS.split(), _lines(found))
    titles = ["run", "data", "item", "seeds", "A", "B", "B - A", "weights"]
    rows = [_row(pair, number) for pair in found.pairs for number in pair.numbers.values()]
    return grid(titles, rows, form, _notes(found))


def _row(pair: Pair, number: Number) -> list[str]:
    said = difference(number.versus) if number.versus else "other images"
    total = len(pair.seeds)
    same = "same" if pair.weights == total else f"same in {pair.weights} of {total}" if pair.weights else "other"
    return [
        pair.name,
        pair.dataset,
        f"{number.label}, n={number.n}" + " (!)" * bool(number.judged),
        str(total),
        percent(number.before),
        percent(number.after),
        "same verdicts" if number.equal else said,
        same,
    ]


def _notes(found: Comparison) -> Iterator[str]:
    yield f"A: {found.first}. B: {found.second}. Accuracies in %. {ONE}; {SEVERAL}; {OPEN}."
    numbers = [number for pair in found.pairs for number in pair.numbers.values()]
    equal = sum(number.equal for number in numbers)
    plain = sum(any(p < LEVEL for p in number.versus.p) for number in numbers if number.versus)
    yield (
        f"{len(numbers)} numbers are in both: of {equal} every verdict is the same; {plain} differ with p < {LEVEL} for"
        " at least one seed."
    )
    yield from dict.fromkeys(f"(!) {each.label}: {fact}" for each in numbers for fact in each.judged)
    for name, (one, other) in found.environment.items():
        yield f"changed: {name}: {one} in A, {other} in B"
    for side, missing in (("A", found.only_first), ("B", found.only_second)):
        yield from (f"only in {side}: {run}" for run in missing[:LISTED])
        if len(missing) > LISTED:
            yield f"only in {side}: {len(missing) - LISTED} more; --format json lists them"
    yield from (f"left out: {reason}" for reason in found.unreadable)


def _lines(found: Comparison) -> Iterator[list[Any]]:
    """A line for each item of each pair; shares, not per cent; nothing rounded."""
    for pair in found.pairs:
        for key, number in pair.numbers.items():
            versus = number.versus
            yield [
                pair.name,
                pair.dataset,
                key,
                number.n,
                " ".join(map(str, pair.seeds)),
                number.before.mean,
                number.after.mean,
                versus.value.mean if versus else None,
                *((versus.interval if versus else None) or (None, None)),
                " ".join(map(str, versus.p)) if versus else None,
                number.equal,
                pair.weights,
                "; ".join(number.judged),
                " ".join(folder for pair_of in pair.runs for folder in pair_of),
            ]
