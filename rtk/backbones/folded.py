"""The network that an attack searches on: BatchNorm with fixed statistics is part of the convolution before it."""

from __future__ import annotations

import copy
import operator
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import Tracer
from torch.fx.experimental.optimization import fuse
from torch.nn import functional
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

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
    found = _fused(model) if len(images) else None
    difference = None if found is None else _difference(model, found, images[:EXAMPLES])
    if found is None or difference is None:
        return model, Folding()
    return found, Folding(_count(model) - _count(found), difference)


class Twin:
    """The folded network of one that is being trained: the same function of images, whenever its weights follow.

    Attributes:
        network: in evaluation mode; its weights are those of the last `follow`.
        layers: BatchNorm layers that are part of a convolution or linear layer.
        parts: modules and tensors of the network that it follows.
    """

    def __init__(self, model: Classifier, network: Classifier):
        self.network, self.layers, self.parts = network, _count(model) - _count(network), parts_of(model)
        own, folded = dict(model.net.named_modules()), dict(network.net.named_modules())
        before = ((node.args[0], node.target) for node in Tracer().trace(model.net).nodes if node.target in own)
        pairs = [(linear.target, norm) for linear, norm in before if norm not in folded]
        self.pairs = [(folded[linear], own[linear], own[norm]) for linear, norm in pairs]
        made = {f"{linear}.{kind}" for linear, _ in pairs for kind in ("weight", "bias")}
        given = model.net.state_dict(keep_vars=True)
        kept = network.net.state_dict(keep_vars=True).items()
        self.rest = [(value, given[name]) for name, value in kept if name not in made]

    @classmethod
    def of(cls, model: nn.Module) -> Twin | None:
        """Of a network in evaluation mode; None where there is nothing to fold, or weights cannot be followed."""
        network = _fused(model)
        if network is None or not isinstance(model, Classifier):
            return None
        folded = {name: value.clone() for name, value in network.net.state_dict().items()}
        with untouched(model), suppress(Exception):  # networks can be built in as many ways as there are networks
            found = cls(model, network)
            found.follow()
            if all(torch.equal(value, folded[name]) for name, value in network.net.state_dict().items()):
                return found
        return None

    @torch.no_grad()
    def follow(self) -> None:
        """Take the weights and statistics that the network has now."""
        for folded, linear, norm in self.pairs:
            fuse_weights = fuse_linear_bn_weights if isinstance(linear, nn.Linear) else fuse_conv_bn_weights
            statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            weight, bias = fuse_weights(linear.weight, linear.bias, *statistics)
            folded.weight.copy_(weight)
            folded.bias.copy_(bias)
        for mine, given in self.rest:
            mine.copy_(given)

    def fits(self, model: nn.Module) -> bool:
        """Whether the network still has the modules and tensors that it had."""
        parts = parts_of(model)
        return len(parts) == len(self.parts) and all(map(operator.is_, parts, self.parts))

    def agrees(self, model: nn.Module, images: Tensor) -> bool:
        """Whether it is the same function of these images; see `fold`."""
        return _difference(model, self.network, images[:EXAMPLES]) is not None


def parts_of(model: nn.Module) -> list[object]:
    """What is in it: modules, hooks, parameters and buffers, in order."""
    found: list[object] = []
    for module in model.modules():
        found += [] if module is model else [module]  # which is to be forgotten when nobody else knows it
        found += [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        found += [*module._parameters.values(), *module._buffers.values()]
    return found


def _fused(model: nn.Module) -> Classifier | None:
    """With BatchNorm as part of what comes before; None where there is none, or tracing fails."""
    if not isinstance(model, Classifier) or _count(model) == 0:
        return None
    try:
        found = copy.copy(model)
        found._modules = dict(model._modules)
        with untouched(model):
            found.net = fuse(model.net)
    except Exception:  # control flow that depends on values fails in as many ways as there are networks
        return None
    return found.requires_grad_(False).eval() if _count(found) < _count(model) else None


def _count(model: nn.Module) -> int:
    return sum(isinstance(module, _NormBase) for module in model.modules())


def _difference(model: nn.Module, found: nn.Module, images: Tensor) -> float | None:
    """Of the logits; None where they or the gradients of a loss differ by more than rounding, or it fails."""
    try:
        with untouched(model):
            (first, gradient), (second, other) = (_answers(each, images) for each in (model, found))
    except Exception:
        return None
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
