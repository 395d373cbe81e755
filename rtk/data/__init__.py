"""Data sets as images in [0, 1] with a fixed train / val / test split.

    data = open_dataset("fashion")
    train = Loader(data.split("train"), 128, shuffle=True, augment=data.augment, seed=0)

Names are loaded on first use, so that `list_datasets` and usage errors import no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .catalogue import DatasetInfo, list_datasets

if TYPE_CHECKING:
    from .dataset import Dataset
    from .loader import Batch, Loader
    from .sources import data_root, download, open_dataset
    from .split import Split

_HOME = {
    "Dataset": "dataset",
    "Batch": "loader",
    "Loader": "loader",
    "data_root": "sources",
    "download": "sources",
    "open_dataset": "sources",
    "Split": "split",
}

__all__ = [
    "Batch",
    "Dataset",
    "DatasetInfo",
    "Loader",
    "Split",
    "data_root",
    "download",
    "list_datasets",
    "open_dataset",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
