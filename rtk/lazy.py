"""torch for strategy files, imported at its first use.

`from rtk.lazy import F, nn, torch` at the top of a plugin keeps listings, `--help` and refused requests fast: they
import every strategy file, but never torch. Type checkers see the real modules.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch as torch
    import torch.nn as nn
    import torch.nn.functional as F
else:

    class _Lazy(ModuleType):
        """Stands for a module; every attribute is looked up in the real one. Never enters sys.modules."""

        def __getattr__(self, name: str) -> Any:
            return getattr(importlib.import_module(self.__name__), name)

    torch = _Lazy("torch")
    nn = _Lazy("torch.nn")
    F = _Lazy("torch.nn.functional")
