"""Short trainings for test_distributed.py, in as many processes as this is started in:

torchrun --nproc-per-node 2 -m tests.distributed_cases FOLDER CASE ...

What each process ends with is written to FOLDER/CASE/RANK.pt.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from rtk import processes
from rtk.backbones import open_backbone
from rtk.errors import RtkError
from rtk.run import Run

from .small_run import small_run
from .test_every_strategy import configured

State = dict[str, Any]
Case = Callable[[Path], State]
QUICK = {"batch_size": 16, "lr": 0.02, "head_lr": 0.02, "attack_steps": 2, "select_steps": 1, "alphas": 2}


def opened(dtype: torch.dtype, norm: Callable[[int], nn.Module] | None = None):
    """The embedded network, with another kind of normalisation where one is given."""
    backbone = open_backbone("rtk:fashion-resnet")
    torch.manual_seed(0)
    for name, module in list(backbone.model.net.named_modules()):
        if norm is not None and isinstance(module, nn.BatchNorm2d):
            backbone.model.net.set_submodule(name, norm(module.num_features))
    backbone.model.to(dtype)
    return backbone


def strategy(name: str, train: int = 43, dtype: torch.dtype = torch.float64, norm=None, **options: Any) -> Case:
    """A strategy on 43 images in steps of 16, so that an odd step of 11 is left over."""

    def case(folder: Path) -> State:
        backbone = opened(dtype, norm)
        run = small_run(backbone, folder, train=train, val=24)
        tuned = configured(name, **{**QUICK, **options}).finetune(copy.deepcopy(backbone.model), run)
        return {key: value.clone() for key, value in tuned.state_dict().items()}

    return case


def fitted(loss: Callable[[nn.Module, Any], torch.Tensor], **options: Any) -> Case:
    """`run.fit` with a loss."""

    def case(folder: Path) -> State:
        model = opened(torch.float64).model
        run: Run = small_run(open_backbone("rtk:fashion-resnet"), folder, train=43, val=24)
        run.fit(model, loss, **{"epochs": 2, "lr": 0.02, "batch_size": 16, "momentum": 0.5, **options})
        return {key: value.clone() for key, value in model.state_dict().items()}

    return case


def noisy(model: nn.Module, step: Any) -> torch.Tensor:
    """Every way of drawing for images, in an order in which one wrong draw spoils those after it."""
    images = F.dropout(step.images, 0.1) + 0.05 * torch.randn_like(step.images)
    images = images + 0.05 * torch.rand(images.shape) + 0.05 * torch.rand(len(images), 1, 1, 1)
    images = F.dropout2d(images + torch.zeros_like(images).uniform_(0, 0.05) + 0.05 * torch.randn(2).mean(), 0.1)
    return F.cross_entropy(model(images.clamp(0, 1).double()), step.labels)


def part_of_the_network(model: nn.Module, step: Any) -> torch.Tensor:
    """Weights of which a half never reach the loss; they are not to decay."""
    features = model.net.layer1(model.net.conv1(step.images.double()))
    return features.square().mean() + 0.01 * features.sum() / step.share / 1e5


def seen(folder: Path) -> State:
    """Which images a process is given, and how much of the step they are."""
    rows = []

    def loss(model: nn.Module, step: Any) -> torch.Tensor:
        rows.append((step.epoch, step.number, step.seed, step.share, step.indices.tolist()))
        return F.cross_entropy(model(step.images.double()), step.labels)

    run = small_run(open_backbone("rtk:fashion-resnet"), folder, train=43, val=24)
    run.fit(opened(torch.float64).model, loss, epochs=1, lr=0.01, batch_size=16, accumulate=2)
    return {"rows": rows}


def too_small(folder: Path) -> State:
    """One image in a step cannot be shared by two."""
    try:
        strategy("last-k", batch_size=1, freeze_affine=False)(folder)
    except RtkError as problem:
        return {"said": problem.message}
    return {"said": ""}


def infinite(folder: Path) -> State:
    """A loss that is no number in one process alone, in the second step."""

    def loss(model: nn.Module, step: Any) -> torch.Tensor:
        value = F.cross_entropy(model(step.images.double()), step.labels)
        return value * (float("nan") if processes.current().rank == 1 and step.number == 1 else 1)

    try:
        fitted(loss)(folder)
    except RtkError as problem:
        return {"said": problem.message}
    return {"said": ""}


def resumed(folder: Path) -> State:
    """The case "noise", interrupted after its first epoch."""
    fitted(noisy, epochs=1)(folder)
    return fitted(noisy)(folder)


QUICKLY: dict[str, Case] = {
    "at": strategy("at"),
    "at in float32": strategy("at", epochs=2, dtype=torch.float32),
    "at in three parts": strategy("at", accumulate=3),
    "at with GroupNorm": strategy("at", norm=lambda width: nn.GroupNorm(4, width)),
    "last-k": strategy("last-k"),
    "lwf": strategy("lwf", train=33),  # the last step has one image
    "trades": strategy("trades"),
    "twins": strategy("twins"),
    "cartl": strategy("cartl"),
    "noise": fitted(noisy),
    "resumed": resumed,
    "unused weights": fitted(part_of_the_network, weight_decay=0.1),
}
SLOWLY: dict[str, Case] = {
    "at with InstanceNorm": strategy(
        "at", norm=lambda width: nn.InstanceNorm2d(width, affine=True, track_running_stats=True)
    ),
    "twins with trades": strategy("twins", loss="trades", kl_reduction="code", accumulate=2),
    "fdm": strategy("fdm", reduction="sum"),
    "autolora": strategy("autolora"),
    "roli": strategy("roli"),
    "rift": strategy("rift", tolerance=100.0, lr=0.1),
}
OTHERS: dict[str, Case] = {"seen": seen, "too small": too_small, "infinite": infinite}
CASES = {**QUICKLY, **SLOWLY, **OTHERS}


def main(folder: Path, names: list[str]) -> None:
    """Run some cases."""
    torch.set_num_threads(1)
    with processes.joined("cpu"):
        team = processes.current()
        for name in names:
            place = folder / name
            team.shared(lambda place=place: place.mkdir(parents=True))
            torch.save(CASES[name](place), place / f"{team.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
    os._exit(0)  # as rtk's command line does
