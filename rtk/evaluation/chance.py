"""Whether a network has learned anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..checks import Check
from ..checks.check import at_least, percent, skipped

LEVEL = 0.01
"""At most so often is a network that always gives the same answer taken for a better one."""


def above_chance(labels: Sequence[int], verdicts: Sequence[bool]) -> Check:
    """Exact one-sided binomial test of the accuracy against that of answering always with the most frequent class.

    Args:
        labels: of the n images.
        verdicts: whether each is classified correctly.
    """
    from scipy.stats import binom  # here, because importing scipy.stats takes a second

    n = len(labels)
    constant = max(Counter(labels).values()) / n
    least = int(binom.isf(LEVEL, n, constant)) + 1
    if least > n:
        return skipped("above-chance", f"{n} images are too few to tell an accuracy from {percent(constant)}.")
    return at_least(
        "above-chance",
        sum(verdicts) / n,
        least / n,
        f"The accuracy on {n} clean images",
        f"it is not above the {percent(constant)} of answering always with the most frequent class (exact binomial"
        f" test, level {percent(LEVEL)}): training has diverged, or nothing was learned",
    )
