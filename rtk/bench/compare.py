"""Rows of a benchmark compared: seed by seed on the same images, with the best of them, and on two axes at once."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from ..statistics import sign_test
from ..verdicts import difference, flips
from .records import Tally

if TYPE_CHECKING:
    import numpy as np

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
        if len(values) == 1:
            return cls(float(values[0]), None)
        mean = math.fsum(values) / len(values)
        return cls(mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)))


@dataclass(frozen=True)
class Versus:
    """The difference to another row on the same images, seed by seed.

    Attributes:
        to: name of the other row.
        value: shares of images, over seeds.
        interval: 95 % interval for paired proportions (Bonett & Price 2012); None for several seeds.
        p: of each seed, from McNemar's exact test; not corrected for the number of rows.
        seeds: those that were compared.
    """

    to: str
    value: Spread
    interval: tuple[float, float] | None
    p: tuple[float, ...]
    seeds: tuple[int, ...]

    @property
    def open(self) -> int:
        """Seeds whose difference is not significant."""
        return sum(p >= LEVEL for p in self.p)

    @classmethod
    def of(cls, to: str, found: Sequence[tuple[float, float, float, float]], seeds: Sequence[int]) -> Versus | None:
        """Of the difference, its interval and its p for each seed; None for no seed."""
        if not found:
            return None
        interval = found[0][1:3] if len(found) == 1 else None
        value = Spread.of([each[0] for each in found])
        return cls(to, value, interval, tuple(each[3] for each in found), tuple(seeds))


def paired(before: Tally, after: Tally) -> tuple[float, float, float, float]:
    """Difference, its 95 % interval and its p, of two networks on the same images.

    Raises:
        BadData: these are not as many images.
    """
    found = difference(before.verdicts, after.verdicts, after.n, after.copies)
    return found.value, *found.interval, found.p


def behind(rows: Sequence[Sequence[Tally]]) -> list[float]:
    """How sure it is that each row is worse than the one with the highest mean: p-values.

    A row is worse where the images say so and, when both rows have several seeds, the seeds say so too, so the larger
    of two p counts (Berger 1982): that of the exact sign test on how many seeds have each image right, and Welch's t
    over seeds. Both are multiplied by the number of the other rows: a row that truly is the best then falls below 0.05
    with a probability of at most 0.05, although which row has the highest mean is chosen by the same verdicts (Gupta
    1965). Sign tests on more than one seed take an image, not a verdict, as the unit.

    Args:
        rows: the verdicts of each, of at least one seed; all on the same images.

    Returns:
        p of each row, at most 1; that of the row with the highest mean is 1.
    """
    if len(rows) < 2:
        return [1.0] * len(rows)
    means = [math.fsum(tally.accuracy for tally in row) / len(row) for row in rows]
    top = rows[means.index(max(means))]
    others = len(rows) - 1
    return [1.0 if row is top else min(1.0, others * _worse(row, top)) for row in rows]


def _worse(row: Sequence[Tally], top: Sequence[Tally]) -> float:
    """p of a row's being worse than another."""
    if len(row) == len(top) == 1 == row[0].copies:
        gained, lost = flips(top[0].verdicts, row[0].verdicts, row[0].n)
    else:
        gap = _rights(row) * len(top) - _rights(top) * len(row)
        gained, lost = int((gap > 0).sum()), int((gap < 0).sum())
    p = sign_test(gained, lost) if lost > gained else 1.0
    if p < LEVEL and min(len(row), len(top)) > 1:
        p = max(p, welch([tally.accuracy for tally in row], [tally.accuracy for tally in top]))
    return p


def _rights(row: Sequence[Tally]) -> np.ndarray:
    """How often each image was right, over seeds and copies, int (n,)."""
    import numpy as np  # here, because most tables have one seed and need none

    n, copies = row[0].n, row[0].copies
    packed = np.frombuffer(b"".join(base64.b64decode(tally.verdicts) for tally in row), np.uint8)
    bits = np.unpackbits(packed.reshape(len(row), -1), axis=1, count=n * copies)
    return bits.reshape(-1, n).sum(0, dtype=np.int64)


def welch(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided p-value of Welch's t-test for equal means; each has two values or more."""
    from scipy.special import stdtr

    one, other = Spread.of(first), Spread.of(second)
    assert one.deviation is not None and other.deviation is not None
    a, b = one.deviation**2 / len(first), other.deviation**2 / len(second)
    if a + b == 0:
        return float(one.mean == other.mean)
    freedom = (a + b) ** 2 / (a**2 / (len(first) - 1) + b**2 / (len(second) - 1))
    return 2 * float(stdtr(freedom, -abs(one.mean - other.mean) / math.sqrt(a + b)))


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which points no other one dominates, being at least as high on both axes and higher on one."""
    found, highest = [False] * len(points), -math.inf
    ordered = sorted(range(len(points)), key=lambda index: points[index], reverse=True)
    for _, same in groupby(ordered, key=lambda index: points[index][0]):
        tied = list(same)
        top = points[tied[0]][1]
        for index in tied:
            found[index] = points[index][1] == top > highest
        highest = max(highest, top)
    return found
