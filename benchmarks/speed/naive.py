"""What one would write without rtk: plain loops in torch and torchattacks. The peers of the speed benchmarks.

Nothing here is tuned, and nothing here is to be tuned: it is what rtk's figures are relative to.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
import torchattacks
from torch import Tensor, nn
from torch.nn import functional as F

from rtk.backbones import Classifier


def as_published(model: Classifier) -> Classifier:
    """A copy that computes in the memory layout that its library gives it."""
    found = copy.deepcopy(model)
    found.channels_last = False
    return found


def batches(images: Tensor, labels: Tensor, size: int, seed: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Mini-batches in a random order; in their own without a seed."""
    order = torch.arange(len(labels))
    if seed is not None:
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    for indices in order.split(size):
        yield images[indices], labels[indices]


def adversarial_training(
    model: nn.Module, images: Tensor, labels: Tensor, *, eps: float, steps: int, epochs: int, size: int, lr: float
) -> nn.Module:
    """Madry et al.'s loop around torchattacks.PGD; SGD with momentum 0.9."""
    attack = torchattacks.PGD(model, eps=eps, alpha=eps / 4, steps=steps)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    for epoch in range(epochs):
        for x, y in batches(images, labels, size, epoch):
            adversarial = attack(x, y)
            model.train()
            optimizer.zero_grad()
            F.cross_entropy(model(adversarial), y).backward()
            optimizer.step()
    return model.eval()


def pgd_accuracy(model: nn.Module, images: Tensor, labels: Tensor, *, eps: float, steps: int, size: int) -> Tensor:
    """Which images stay correct under torchattacks.PGD, bool (N,)."""
    attack = torchattacks.PGD(model, eps=eps, alpha=eps / 4, steps=steps)
    found = []
    for x, y in batches(images, labels, size, None):
        adversarial = attack(x, y)
        with torch.no_grad():
            found.append(model(adversarial).argmax(1) == y)
    return torch.cat(found)


def criticality(
    model: Classifier,
    names: list[str],
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    passes: int,
    seeds: dict[str, int],
    size: int = 512,
) -> dict[str, float]:
    """RiFT's published procedure on adversarial images: for each weight a copy of the network, passes of SGD with rate
    1 through all of it, each projected, and each followed by an evaluation of all images."""
    scores = {}
    for name in names:
        perturbed = copy.deepcopy(model).eval()
        weight = perturbed.net.get_parameter(name)
        origin = weight.detach().clone()
        radius, best, base = epsilon * origin.norm(), 0.0, mean_loss(model, images, labels, size)
        optimizer = torch.optim.SGD([weight], lr=1.0, maximize=True)
        generator = torch.Generator().manual_seed(seeds[name])
        for _ in range(passes):
            for indices in torch.randperm(len(labels), generator=generator).split(size):
                perturbed.zero_grad()
                F.cross_entropy(perturbed(images[indices]), labels[indices]).backward()
                optimizer.step()
            with torch.no_grad():
                moved = weight - origin
                weight.copy_(origin + moved * min(1.0, float(radius / moved.norm())))
            best = max(best, mean_loss(perturbed, images, labels, size) - base)
        scores[name] = best
    return scores


def mean_loss(model: nn.Module, images: Tensor, labels: Tensor, size: int) -> float:
    """Mean cross-entropy."""
    with torch.no_grad():
        total = sum(
            float(F.cross_entropy(model(x), y, reduction="sum")) for x, y in batches(images, labels, size, None)
        )
    return total / len(labels)


def train_parameters(
    model: nn.Module,
    parameters: list[nn.Parameter],
    orders: list[list[Tensor]],
    images: Tensor,
    labels: Tensor,
    *,
    lr: float,
    weight_decay: float = 0.0,
) -> nn.Module:
    """Epochs of full forward and backward passes over the images; all but `parameters` stays, by not being stepped."""
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=weight_decay)
    for epoch in orders:
        for indices in epoch:
            model.zero_grad()
            F.cross_entropy(model(images[indices]), labels[indices]).backward()
            optimizer.step()
    return model
