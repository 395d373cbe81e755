"""Accuracy against the radius of the threat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from ..checks import Check
from ..checks.check import at_most
from ..suite import Item


def curves(items: Sequence[Item]) -> list[list[Item]]:
    """The items that differ in the radius alone, two or more of them, each list from the smallest to the largest."""
    groups: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        if item.threat is not None:
            groups.setdefault((item.name, item.threat.norm), []).append(item)
    return [sorted(group, key=lambda item: item.threat.eps) for group in groups.values() if len(group) > 1]  # type: ignore[union-attr]


def monotone(final: Mapping[Item, Sequence[bool]]) -> list[Check]:
    """Whether robust accuracy falls, or stays, as the radius grows: the smaller ball lies inside the larger one.

    Args:
        final: verdicts by item, on the same samples in the same order.
    """
    return [_monotone(curve, [final[item] for item in curve]) for curve in curves(list(final))]


def _monotone(curve: list[Item], verdicts: list[Sequence[bool]]) -> Check:
    n = len(verdicts[0])
    rise = max(0, *(sum(larger) - sum(smaller) for smaller, larger in combinations(verdicts, 2)))
    columns = zip(*verdicts, strict=True)
    odd = sum(any(after and not before for before, after in combinations(column, 2)) for column in columns)
    first, last = curve[0].threat, curve[-1].threat
    assert first is not None and last is not None
    return at_most(
        "monotone-in-eps",
        rise / n,
        0.0,
        f"The largest rise of robust accuracy with the radius ({curve[0].name} at {len(curve)} radii from"
        f" {first.label} to {last.label}; {odd} of {n} samples are robust at a radius but broken at a smaller one)",
        "the attack misses in the larger ball what it found in the smaller one",
    )
