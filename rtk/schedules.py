"""Learning-rate schedules as functions of the time in epochs; without state, so that a run can resume anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Schedule = Callable[[float], float]
"""Time in epochs, counted from 0, to the factor on the initial learning rate."""


def constant() -> Schedule:
    """The initial learning rate throughout."""
    return lambda epoch: 1.0


def step_decay(milestones: Sequence[float], gamma: float = 0.1, warmup: float = 0.0) -> Schedule:
    """Multiply by `gamma` at each milestone (epochs); rise linearly from 0 during the first `warmup` epochs."""

    def factor(epoch: float) -> float:
        rising = epoch / warmup if epoch < warmup else 1.0
        return rising * gamma ** sum(epoch >= milestone for milestone in milestones)

    return factor


def cosine(epochs: float, warmup: float = 0.0) -> Schedule:
    """Half a cosine from 1 to 0 over `epochs`, after a linear rise during the first `warmup` epochs."""

    def factor(epoch: float) -> float:
        if epoch < warmup:
            return epoch / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (epoch - warmup) / max(epochs - warmup, 1e-9))))

    return factor
