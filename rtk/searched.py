"""The network on which training attacks search: the one that trains, or the same function of images sooner computed."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from .backbones.folded import Twin
from .errors import BadValue
from .precision import Precision

Compile = Literal["auto", "inductor", "none"]
"""auto: BatchNorm is folded into the convolutions before it, where that is the same function; inductor: what that gives
is compiled by torch.compile, too; none: the network as it is."""


class Searched:
    """What an attack is given in place of the network that trains. The first one is followed; any other is itself.

    Args:
        asked: see `Compile`.
        precision: what the attack computes in.
        once: keeps an answer for a resumed run, which then computes the same bits; see `Run.once`.
        report: told what was chosen, in words.
    """

    def __init__(
        self,
        asked: Compile,
        precision: Precision,
        once: Callable[[Callable[[], bool]], bool],
        report: Callable[[str], None],
    ):
        self.asked, self.precision, self.once, self.report = asked, precision, once, report
        self.followed: Callable[[], nn.Module | None] | None = None
        self.twin: Twin | None = None
        self.network: nn.Module | None = None

    def __call__(self, model: nn.Module, images: Tensor) -> nn.Module:
        """The network for an attack on these images (N, C, H, W); `model` is in evaluation mode, its weights frozen.

        Raises:
            BadValue: it was to be compiled, and cannot be.
        """
        if self.followed is None:
            self.followed = weakref.ref(model)
            self._begin(model, images)
        if self.network is None or self.followed() is not model:
            return model
        if self.twin is not None:
            self.twin.follow()
        return self.network

    def _begin(self, model: nn.Module, images: Tensor) -> None:
        said = []
        twin = None if self.asked == "none" else Twin.of(model)
        if twin is not None and self.once(lambda: twin.agrees(model, images)):
            self.twin, self.network = twin, twin.network
            said.append(f"{twin.layers} BatchNorm layers folded into what comes before")
        if self.asked == "inductor":
            self.network = self._compiled(self.network or model, images)
            said.append("compiled by torch.compile")
        self.report("; ".join(said) or "the network as it is")

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
