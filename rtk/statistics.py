"""Counts of correct verdicts, with the interval that they support."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """An accuracy measured on `n` samples of which `correct` were right."""

    correct: int
    n: int

    @property
    def value(self) -> float:
        """Share in [0, 1]; NaN without samples."""
        return self.correct / self.n if self.n else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson score interval in [0, 1] (Wilson 1927), as computed by scipy."""
        from scipy.stats import binomtest  # here, because importing scipy.stats takes a second

        found = binomtest(self.correct, self.n).proportion_ci(confidence_level=0.95, method="wilson")
        return float(found.low), float(found.high)


@dataclass(frozen=True)
class Difference:
    """Difference of two accuracies measured on the same samples.

    Attributes:
        value: after - before, in [-1, 1].
        interval: 95 % interval of Bonett & Price (2012) for paired proportions; honest also when no verdict changed.
        p: McNemar's exact two-sided p-value.
        gained, lost: samples that became right, and that became wrong.
        n: samples compared.
    """

    value: float
    interval: tuple[float, float]
    p: float
    gained: int
    lost: int
    n: int


def paired(before: Sequence[bool], after: Sequence[bool]) -> Difference:
    """Compare verdicts on the same samples, in the same order."""
    from scipy.stats import binomtest

    n = len(before)
    gained = sum(new and not old for old, new in zip(before, after, strict=True))
    lost = sum(old and not new for old, new in zip(before, after, strict=True))
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = 1.959964 * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    p = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    low, high = max(-1.0, up - down - half), min(1.0, up - down + half)
    return Difference((gained - lost) / n, (low, high), p, gained, lost, n)
