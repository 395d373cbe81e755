"""rtk: fine-tune adversarially pre-trained image classifiers without losing their robustness, and measure the result.

Everything public is named here and loaded at its first use, so that `import rtk` stays fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .config import Config, option
from .errors import Refusal, RtkError, UnknownName
from .hookspecs import hookimpl
from .recipe import LastBlocksConfig, ScheduledConfig, TrainingConfig
from .strategy import Paper, Strategy
from .threat import Threat

if TYPE_CHECKING:
    from .backbones.prefix import Operations
    from .library import evaluate, export, finetune, load
    from .observers import RunInfo
    from .run import Run
    from .steps import Step

__all__ = [
    "Config",
    "LastBlocksConfig",
    "Operations",
    "Paper",
    "Refusal",
    "RtkError",
    "Run",
    "RunInfo",
    "ScheduledConfig",
    "Step",
    "Strategy",
    "Threat",
    "TrainingConfig",
    "UnknownName",
    "evaluate",
    "export",
    "finetune",
    "hookimpl",
    "load",
    "option",
    "schedules",
]

_LATER = {
    **dict.fromkeys(("evaluate", "export", "finetune", "load"), "rtk.library"),
    "Operations": "rtk.backbones.prefix",
    "Run": "rtk.run",
    "RunInfo": "rtk.observers",
    "Step": "rtk.steps",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    if name == "schedules":
        return importlib.import_module("rtk.schedules")
    raise AttributeError(f"module 'rtk' has no attribute {name!r}")
