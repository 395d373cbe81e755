"""The one shape in which every backbone is used: images in [0, 1] in, logits out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .naming import check_fit


class Classifier(nn.Module):
    """A network with its normalisation and its native image size.

    Resizing and normalising happen inside, so that a perturbation is measured in the pixels of the data set. Both are
    differentiable. Neither is part of the state dict: `native_state` holds the weights under the names that the
    original network gives them, and any tool that knows that network can read them.

    Args:
        net: maps normalised images (N, C, H, W) to logits (N, classes).
        mean, std: per channel, subtracted and divided; None when the network normalises by itself.
        size: (height, width) that the network was made for; images of another size are resized. None takes any size.

    Attributes:
        channels_last: whether images go into the network with their channels innermost in memory, where that is faster:
            on a CPU, and in bfloat16 on a GPU. For networks that take views of their activations it has to be False.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self,
        net: nn.Module,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        size: Sequence[int] | None = None,
    ):
        super().__init__()
        self.net = net
        self.size = None if size is None else (int(size[0]), int(size[1]))
        self.channels_last = True
        self.register_buffer("mean", _per_channel(mean), persistent=False)
        self.register_buffer("std", _per_channel(std), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images float32 (N, C, H, W) in [0, 1] to logits (N, classes)."""
        output = self.net(self.prepared(images))
        # Inception-like networks return (logits, auxiliary logits) while they train.
        return output if isinstance(output, Tensor) else output.logits

    def prepared(self, images: Tensor) -> Tensor:
        """What `net` is given: resized, normalised, in the layout that is fastest."""
        if self.size is not None and tuple(images.shape[-2:]) != self.size:
            images = functional.interpolate(images, self.size, mode="bilinear", align_corners=False, antialias=False)
        if self.mean is not None and self.std is not None:
            images = (images - self.mean) / self.std
        if self.channels_last and (images.device.type == "cpu" or torch.is_autocast_enabled(images.device.type)):
            images = images.contiguous(memory_format=torch.channels_last)
        return images

    def describe_input(self) -> dict[str, Any]:
        """What is done to images, as JSON: size (height, width) or null, mean and std per channel or null."""
        mean, std = (None if each is None else each.flatten().tolist() for each in (self.mean, self.std))
        return {"size": None if self.size is None else [*self.size], "mean": mean, "std": std}

    def native_state(self) -> dict[str, Tensor]:
        """The state dict of `net` under its own names; the tensors are those of the network, not copies."""
        return dict(self.net.state_dict())

    def load_native(self, state: Mapping[str, Tensor]) -> None:
        """Load a state dict with native names.

        Raises:
            BadBackbone: a name is missing or unexpected, or a shape differs: a checkpoint of another architecture.
        """
        check_fit(state, self.net.state_dict(), "The state dict", type(self.net).__name__)
        self.net.load_state_dict(dict(state))


def _per_channel(values: Sequence[float] | None) -> Tensor | None:
    return None if values is None else torch.tensor(list(values), dtype=torch.float32).view(1, -1, 1, 1)
