"""Losses of the attacks and their gradients with respect to the images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits (N, C) and labels (N,) to one value per image, (N,)."""

STEP = 1 / 255
"""Of the finite differences: the smallest change that an 8-bit image can carry, so that rounding to 8 bits is seen."""

DIRECTIONS = 4


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log softmax(logits)[label], per image."""
    return functional.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The largest logit of another class minus that of the label: positive where the image is misclassified."""
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.amax(1) - own[:, 0]


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """The difference of logits ratio (Croce & Hein, ICML 2020), blind to the scale of the logits; needs 3 classes."""
    top = logits.topk(3).values
    return margin(logits, labels) / (top[:, 0] - top[:, 2] + 1e-12)


def gradient(network: nn.Module, images: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    """Gradient of each image's own loss, shape of `images`; the parameters should be frozen.

    Raises:
        RuntimeError: the logits do not depend on the images in a way that autograd can follow.
    """
    with torch.enable_grad():
        variable = images.detach().clone().requires_grad_()
        return torch.autograd.grad(loss(network(variable), labels).sum(), variable)[0]


def finite_differences(network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> float:
    """How far the gradient of the margin is from finite differences along random directions of signs.

    Returns:
        |finite difference - gradient . direction| over the larger of both, as norms over all images and directions:
        0 where they agree, 1 where one of them is zero, up to 2 where they point in opposite directions.
    """
    slope = gradient(network, images, labels, margin)
    measured, predicted = [], []
    with torch.no_grad():
        for _ in range(DIRECTIONS):
            direction = signs(images, generator)
            ahead, behind = (margin(network(images + step * direction), labels) for step in (STEP, -STEP))
            measured.append((ahead - behind) / (2 * STEP))
            predicted.append((slope * direction).flatten(1).sum(1))
    difference, gradients = torch.cat(measured), torch.cat(predicted)
    largest = max(float(difference.norm()), float(gradients.norm()))
    return float((difference - gradients).norm()) / largest if largest else 0.0


def signs(images: Tensor, generator: torch.Generator) -> Tensor:
    """-1 or 1 at random for every pixel."""
    return torch.randint(0, 2, images.shape, generator=generator).to(images) * 2 - 1
