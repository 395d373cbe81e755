"""The network that an attack searches on: BatchNorm with fixed statistics is part of the convolution before it."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional
from torch.nn.modules.batchnorm import _NormBase

from .classifier import Classifier
from .trace import untouched

EXAMPLES = 4
"""Images on which both networks are compared."""
LOGITS, GRADIENTS = 1e-4, 0.1
"""Largest difference between the two, relative to the largest logit and to the norm of an image's gradient. Rounding
gives about 1e-6 of the first; a rectifier whose input is rounded to the other side of 0 changes the second by more, up
to 0.01 where all weights are random."""


@dataclass(frozen=True)
class Folding:
    """What was done to a network.

    Attributes:
        layers: BatchNorm layers that are part of a convolution or linear layer now; 0 where the network is as it was.
        difference: of the logits, relative to the largest of them.
    """

    layers: int = 0
    difference: float = 0.0


def fold(model: nn.Module, images: Tensor) -> tuple[nn.Module, Folding]:
    """The same function of images by fewer operations; the network itself where there is none to fold, or it changed.

    A network is traced by torch.fx. What that cannot see, such as parts without gradients or random numbers, makes
    logits or gradients differ on `images`, and the network is left as it is.

    Args:
        model: in evaluation mode; not changed.
        images: (N, C, H, W), float32 in [0, 1], on its device; the first few are looked at.
    """
    norms = _count(model)
    if norms == 0 or not isinstance(model, Classifier) or len(images) == 0:
        return model, Folding()
    try:
        found = copy.copy(model)
        found._modules = dict(model._modules)
        with untouched(model):
            found.net = fuse(model.net)
            difference = _difference(model, found, images[:EXAMPLES])
    except Exception:  # control flow that depends on values fails in as many ways as there are networks
        return model, Folding()
    layers = norms - _count(found)
    if layers == 0 or difference is None:
        return model, Folding()
    return found.requires_grad_(False).eval(), Folding(layers, difference)


def _count(model: nn.Module) -> int:
    return sum(isinstance(module, _NormBase) for module in model.modules())


def _difference(model: nn.Module, found: nn.Module, images: Tensor) -> float | None:
    """Of the logits; None where they or the gradients of a loss differ by more than rounding."""
    (first, gradient), (second, other) = (_answers(each, images) for each in (model, found))
    difference = float((first - second).abs().max() / first.abs().max())
    apart, norms = (each.flatten(1).norm(dim=1) for each in (gradient - other, gradient))
    same = difference <= LOGITS and bool((apart <= GRADIENTS * norms).all())  # NaN is not the same
    return difference if same else None


def _answers(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of the cross-entropy of the likeliest class to the images."""
    with torch.enable_grad():
        leaf = images.detach().clone().requires_grad_()
        logits = model(leaf)
        (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, logits.argmax(1), reduction="sum"), leaf)
    return logits.detach(), gradient
