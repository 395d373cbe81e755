"""A real `Run` on a few real images, for tests of strategies."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from rtk.backbones import Backbone
from rtk.data import open_dataset
from rtk.progress import Silent
from rtk.run import Run
from rtk.threat import Threat


def small_run(
    backbone: Backbone, directory: Path, *, dataset: str = "fashion", train: int = 96, val: int = 48, **changes: object
) -> Run:
    """A run of `backbone` on the first images of a data set, which are class-balanced."""
    data = open_dataset(dataset)
    directory.mkdir(parents=True, exist_ok=True)
    values = {
        "source": copy.deepcopy(backbone.model).eval(),
        "structure": backbone.structure,
        "train": data.split("train").subset(torch.arange(train)),
        "val": data.split("val").subset(torch.arange(val)),
        "augment": data.augment,
        "classes": data.num_classes,
        "new_head": backbone.new_head,
        "threat": Threat("Linf", 0.1),
        "seed": 0,
        "device": torch.device("cpu"),
        "directory": directory,
        "progress": Silent(),
    }
    return Run(**{**values, **changes})  # type: ignore[arg-type]


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Names of the tensors that are not bit for bit the same."""
    assert set(before) == set(after)
    return {name for name in before if not torch.equal(before[name], after[name])}


def snapshot(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the state dict with the backbone's own names."""
    return {name.removeprefix("net."): value.detach().clone() for name, value in model.state_dict().items()}
