"""Accuracy of adversarially trained networks on images that they were trained on, and on those that they were not.

python benchmarks/generalization_gap.py rtk:cifar10-at=cifar10 rtk:cifar100-at=cifar100 rtk:fashion-resnet=fashion
"""

from __future__ import annotations

import sys

import torch

from rtk.accuracy import estimate
from rtk.attacks import pgd
from rtk.backbones import open_backbone
from rtk.data import Loader, open_dataset
from rtk.memory import Memory
from rtk.statistics import Estimate
from rtk.threat import Threat

COUNT = 1000


def main() -> None:
    """Clean and PGD-10 accuracy on as many images of the training and of the validation split."""
    for asked in sys.argv[1:]:
        name, _, dataset = asked.partition("=")
        backbone, data = open_backbone(name), open_dataset(dataset)
        model, threat = backbone.model.eval(), backbone.threat or Threat()
        for which in ("train", "val"):
            split = data.split(which)
            some = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:COUNT]
            loader = Loader(split.subset(some), 250, shuffle=False)
            found = estimate(model, loader, Memory(250)), estimate(model, loader, Memory(250), pgd(threat, steps=10))
            print(f"{name}, {which}, n = {len(some)}: clean {said(found[0])}, PGD-10 {said(found[1])}", flush=True)


def said(found: Estimate) -> str:
    """In %, with its 95 % interval."""
    low, high = (100 * each for each in found.interval)
    return f"{100 * found.value:.1f} [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    main()
