"""Common corruptions: the 15 types x 5 severities of Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to
Common Corruptions and Perturbations", ICLR 2019.

    images = corrupt(images, "fog", 3, seed=0)                  # made on the fly; needs rtk[corruptions]
    images = CorruptedFolder("CIFAR-10-C").images("fog", 3)     # or read as published
    summarise({("fog", 3): 0.71, ...}).mean

Names are loaded on first use, so that listings and usage errors import no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .names import FAMILIES, NAMES, SEVERITIES, Scale
from .summary import Baseline, Summary, summarise

if TYPE_CHECKING:
    from .folder import CorruptedFolder
    from .making import corrupt, scale_for

_HOME = {"CorruptedFolder": "folder", "corrupt": "making", "scale_for": "making"}

__all__ = [
    "FAMILIES",
    "NAMES",
    "SEVERITIES",
    "Baseline",
    "CorruptedFolder",
    "Scale",
    "Summary",
    "corrupt",
    "scale_for",
    "summarise",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
