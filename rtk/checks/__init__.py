"""Whether a robust accuracy can be believed: checks before and after the attacks, and signs of gradient masking.

    before(model, images, labels, classes, seed=0)              # an "error" means: there is no number to report
    counts += after(model, clean, adversarial, labels, threat, robust)      # per attack and chunk
    conclude(counts)                                            # the summed counts as checks
    masking(model, images, labels, threat, classes, seed=0)     # on a fixed subset of about 64 images

Names are imported on first use, so that `Check`, which results hold, needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from .check import Check

if TYPE_CHECKING:
    from .preconditions import before
    from .signatures import cost, masking
    from .verification import Counts, after, conclude, nested

__all__ = ["Check", "Counts", "after", "before", "conclude", "cost", "masking", "nested"]

_HOME = {
    "Counts": ".verification",
    "after": ".verification",
    "before": ".preconditions",
    "conclude": ".verification",
    "cost": ".signatures",
    "masking": ".signatures",
    "nested": ".verification",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name], __name__), name)
    globals()[name] = value
    return value
