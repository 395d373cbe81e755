"""Networks and runs that the speed benchmarks share."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rtk.backbones import Backbone, Classifier, open_backbone
from rtk.data import open_dataset
from rtk.precision import choose
from rtk.progress import Silent
from rtk.registry import Registry
from rtk.run import Run
from rtk.threat import Threat

RESNET18 = "robustbench:cifar10/Linf/Sehwag2021Proxy_R18"
SMALL = "rtk:fashion-resnet"


def resnet18() -> Backbone:
    """The ResNet-18 for 32x32 images of the field, with random weights: its speed is that of any weights."""
    return open_backbone(RESNET18, weights="random", classes=10)


def images(count: int, which: str = "train", dataset: str = "fashion") -> tuple[Tensor, Tensor]:
    """The first images of a data set, by default the embedded one, (count, 3, 32, 32) and labels (count,)."""
    split = open_dataset(dataset).split(which)  # type: ignore[arg-type]
    return split.images(slice(0, count)), split.labels[:count]


def run_of(
    backbone: Backbone,
    *,
    train: int,
    val: int = 10,
    device: str = "cpu",
    eps: float = 8 / 255,
    dataset: str = "fashion",
) -> Run:
    """A run of rtk on the first images of a data set, in a temporary folder."""
    data, place = open_dataset(dataset), Path(tempfile.mkdtemp(prefix="rtk-speed-"))
    where = torch.device(device)
    return Run(
        source=copy.deepcopy(backbone.model).to(where),
        structure=backbone.structure,
        train=data.split("train").subset(torch.arange(train)),
        val=data.split("val").subset(torch.arange(val)),
        augment="none",
        classes=data.num_classes,
        new_head=False,
        threat=Threat("Linf", eps),
        seed=0,
        device=where,
        directory=place,
        progress=Silent(),
        precision=choose("auto", where),
    )


def tune(
    strategy: str, backbone: Backbone, count: int, *, device: str = "cpu", eps: float = 8 / 255, **options: Any
) -> Classifier:
    """A strategy of rtk on the first images, with rtk's data, checkpoints and checks, but without evaluation."""
    kind = Registry().strategy(strategy)
    wanted = {"schedule": "constant", "weight_decay": 0.0, "batch_size": 128, "select": "last", **options}
    model = copy.deepcopy(backbone.model).to(device)
    tuned = kind(kind.config_type(**wanted)).finetune(model, run_of(backbone, train=count, device=device, eps=eps))
    assert isinstance(tuned, Classifier)
    return tuned
