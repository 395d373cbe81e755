"""The network on which training attacks search: the one that trains, or the same function of images sooner computed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import files
from .backbones.folded import Twin
from .errors import BadValue
from .precision import Precision

Compile = Literal["auto", "inductor", "none"]
"""auto: BatchNorm is folded into the convolutions before it, where that is the same function; inductor: what that gives
is compiled by torch.compile, too; none: the network as it is."""


class Searched:
    """What an attack is given in place of a network that trains, whose weights it follows from call to call.

    It depends on the network alone, not on what was attacked before, so that a resumed run computes the same bits.

    Args:
        asked: see `Compile`.
        precision: what the attack computes in.
        once: keeps an answer, by its name, for a resumed run; see `Run.once`.
        report: told what was chosen, in words.
    """

    def __init__(
        self,
        asked: Compile,
        precision: Precision,
        once: Callable[[str, Callable[[], bool]], bool],
        report: Callable[[str], None],
    ):
        self.asked, self.precision, self.once, self.report = asked, precision, once, report
        self.known: MutableMapping[nn.Module, tuple[Twin | None, nn.Module | None]] = weakref.WeakKeyDictionary()

    def __call__(self, model: nn.Module, images: Tensor) -> nn.Module:
        """The network for an attack on these images (N, C, H, W); `model` is in evaluation mode, its weights frozen.

        Raises:
            BadValue: it was to be compiled, and cannot be.
        """
        twin, network = self.known.get(model, (None, None))
        if model not in self.known or not (twin is None or twin.fits(model)):
            twin, network = self.known[model] = self._begin(model, images)
        if twin is not None:
            twin.follow()
        return model if network is None else network

    def _begin(self, model: nn.Module, images: Tensor) -> tuple[Twin | None, nn.Module | None]:
        """Its folded twin, and what is searched instead of it; None where there is none."""
        said = []
        twin = None if self.asked == "none" else Twin.of(model)
        # by rounding the answer might be another one at another state of the weights
        hooked = [name for name, part in model.named_modules() if part._forward_pre_hooks or part._forward_hooks]
        name = f"folding changes nothing in {files.digest([str(model), hooked])[:12]}"
        if twin is not None and not self.once(name, partial(twin.agrees, model, images)):
            twin = None
        network: nn.Module | None = None
        if twin is not None:
            network = twin.network
            said.append(f"{twin.layers} BatchNorm layers folded into what comes before")
        if self.asked == "inductor":
            network = self._compiled(network or model, images)
            said.append("compiled by torch.compile")
        self.report("; ".join(said) or "the network as it is")
        return twin, network

    def _compiled(self, network: nn.Module, images: Tensor) -> nn.Module:
        found = Padded(torch.compile(network, dynamic=False), len(images))
        try:
            with torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
                found(images)
        except Exception as problem:  # for want of a C++ compiler, or of what torch.compile understands
            said = f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"
            raise BadValue(f"--compile inductor: torch.compile failed here ({said}).", "--compile auto") from problem
        return found


class Padded(nn.Module):
    """A compiled network that is only ever given as many images at once, since it is compiled anew for each number."""

    def __init__(self, net: Callable[[Tensor], Tensor], size: int):
        super().__init__()
        self.net, self.size = net, size

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, classes), for any N."""
        missing = -len(images) % self.size
        padded = functional.pad(images, (0, 0, 0, 0, 0, 0, 0, missing))
        return torch.cat([self.net(part) for part in padded.split(self.size)])[: len(images)]
