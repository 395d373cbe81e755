"""Counts of correct verdicts, with the interval that they support."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache


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
        """95 % Wilson score interval in [0, 1] (Wilson 1927), as computed by scipy; all of it without samples."""
        if self.n == 0:
            return 0.0, 1.0
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
    gained = sum(new and not old for old, new in zip(before, after, strict=True))
    lost = sum(old and not new for old, new in zip(before, after, strict=True))
    return changed(gained, lost, len(before))


def changed(gained: int, lost: int, n: int) -> Difference:
    """The difference of two accuracies on `n` samples of which so many became right and wrong."""
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = 1.959964 * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    low, high = max(-1.0, up - down - half), min(1.0, up - down + half)
    value = (gained - lost) / n if n else float("nan")
    return Difference(value, (low, high), sign_test(gained, lost), gained, lost, n)


@lru_cache(maxsize=1 << 16)
def sign_test(gained: int, lost: int) -> float:
    """Two-sided p-value of the exact sign test, which is McNemar's for paired verdicts.

    Twice the smaller tail of the binomial distribution of `gained + lost` with probability 1/2; as scipy's binomtest,
    whose import takes a second.
    """
    if gained == lost:
        return 1.0
    n, k = gained + lost, min(gained, lost)
    term = total = 1.0
    for count in range(k, 0, -1):  # from the largest term of the tail down, each from the one before it
        term *= count / (n - count + 1)
        total += term
        if term < 1e-17 * total:
            break
    largest = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
    return min(1.0, 2 * total * math.exp(largest))
