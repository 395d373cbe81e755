"""Backbones: pre-trained classifiers from RobustBench, timm, torchvision, earlier runs and the package itself.

    backbone = open_backbone("robustbench:cifar10/Linf/Addepalli2022Efficient_RN18", classes=43)
    logits = backbone.model(images)                      # images float32 (N, C, H, W) in [0, 1]
    backbone.structure.last(2)                           # the last two blocks, classifier included

Names are imported on first use, so that `catalogue` (listings, did-you-mean) works without importing torch; timm,
robustbench and torchvision are imported only by their own adapter when a backbone of theirs is opened.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from .catalogue import Listing, list_backbones

if TYPE_CHECKING:
    from .classifier import Classifier
    from .norms import NormAudit
    from .opening import Backbone, describe, hash_spec, open_backbone, rebuild
    from .resnet import SmallResNet
    from .structure import Block, Structure, inspect
    from .weights import hash_state, read_state, write_state
    from .zoo import load_robustbench

__all__ = [
    "Backbone",
    "Block",
    "Classifier",
    "Listing",
    "NormAudit",
    "SmallResNet",
    "Structure",
    "describe",
    "hash_spec",
    "hash_state",
    "inspect",
    "list_backbones",
    "load_robustbench",
    "open_backbone",
    "read_state",
    "rebuild",
    "write_state",
]

_HOME = {
    "Backbone": "opening",
    "Block": "structure",
    "Classifier": "classifier",
    "NormAudit": "norms",
    "SmallResNet": "resnet",
    "Structure": "structure",
    "describe": "opening",
    "hash_spec": "opening",
    "hash_state": "weights",
    "inspect": "structure",
    "load_robustbench": "zoo",
    "open_backbone": "opening",
    "read_state": "weights",
    "rebuild": "opening",
    "write_state": "weights",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value
