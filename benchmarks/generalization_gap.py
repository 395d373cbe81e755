"""Accuracy of adversarially trained networks on images that they were trained on, and on those that they were not.

python benchmarks/generalization_gap.py rtk:cifar10-at=cifar10 rtk:cifar100-at=cifar100 rtk:fashion-resnet=fashion
python benchmarks/generalization_gap.py rtk:cifar10-at=cifar10 --weights FILE --train-fraction 0.1
"""

from __future__ import annotations

import argparse

import torch

from rtk.accuracy import estimate
from rtk.attacks import pgd
from rtk.backbones import open_backbone
from rtk.data import Loader, open_dataset
from rtk.host import training_images
from rtk.memory import Memory
from rtk.statistics import Estimate
from rtk.threat import Threat

COUNT = 1000


def main() -> None:
    """Clean and PGD-10 accuracy on as many images of the training and of the validation split."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("networks", nargs="+", metavar="BACKBONE=DATASET")
    options.add_argument("--weights", help="a file, instead of the published weights")
    options.add_argument("--train-fraction", type=float, default=1.0, help="share of the images that it was trained on")
    options.add_argument("--seed", type=int, default=0, help="of the run that trained it")
    asked = options.parse_args()
    for each in asked.networks:
        name, _, dataset = each.partition("=")
        data = open_dataset(dataset)
        backbone = open_backbone(name, weights=asked.weights)
        model, threat = backbone.model.eval(), backbone.threat or Threat()
        seen = training_images(data, asked.train_fraction, asked.seed)
        for which, split in {"train": seen, "val": data.split("val")}.items():
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
