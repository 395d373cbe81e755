"""Conformance kit: does a strategy keep the contract that the results of rtk rest on?

    from rtk.testing import check, conformance

    check("my-strategy").raise_for_failures()      # anywhere
    test_conformance = conformance("my-strategy")  # in a test file: one pytest test per check

Names are loaded on first use; pytest is imported by `conformance` alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .front import conformance
    from .report import NotConforming, Report, Row
    from .suite import Suite, check, find_strategy

__all__ = ["NotConforming", "Report", "Row", "Suite", "check", "conformance", "find_strategy"]

_HOME = {
    "NotConforming": "report",
    "Report": "report",
    "Row": "report",
    "Suite": "suite",
    "check": "suite",
    "conformance": "front",
    "find_strategy": "suite",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
