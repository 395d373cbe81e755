"""Augmentation of a batch of images that keeps the label: random crop and mirror, exact copies of pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UnknownName
from .catalogue import Augmentation

AUGMENTATIONS: tuple[Augmentation, ...] = ("none", "crop", "crop-flip")


def augment(images: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Shift every image by up to an eighth of its size, and mirror half of them if asked for.

    Args:
        images: float (B, C, H, W) on any device.
        kind: "none", "crop" (reflect-pad by size // 8 on all sides, then cut H x W at a random place) or "crop-flip"
            (the same, then mirrored left to right with probability 1/2).
        generator: a CPU generator, so that every device gets the same augmentation; nothing is drawn for "none".

    Returns a new tensor of the same shape, or `images` itself for "none". Pixels are copied, never mixed, so the range
    stays what it was.
    """
    if kind not in AUGMENTATIONS:
        raise UnknownName("augmentation", kind, AUGMENTATIONS)
    if kind == "none":
        return images
    batch, channels, height, width = images.shape
    rows, columns = draw(batch, (height, width), kind, generator)
    # One gather: output pixel (y, x) of image b is input pixel (rows[b, y], columns[b, x]).
    index = (rows[:, :, None] * width + columns[:, None, :]).reshape(batch, 1, height * width)
    index = index.to(images.device).expand(-1, channels, -1)
    return images.reshape(batch, channels, height * width).gather(2, index).reshape(images.shape)


def draw(batch: int, size: tuple[int, int], kind: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which input row and column each output row and column shows, int64 (B, H) and (B, W); for "crop", "crop-flip"."""
    rows, columns = (_shifted(batch, length, generator) for length in size)
    if kind == "crop-flip":
        mirrored = torch.rand(batch, generator=generator) < 0.5
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    return rows, columns


def _shifted(batch: int, size: int, generator: torch.Generator) -> Tensor:
    """(B, size) int64: for every image, which input row (or column) each output row shows."""
    pad = size // 8
    shift = torch.randint(-pad, pad + 1, (batch, 1), generator=generator)
    wanted = (torch.arange(size) + shift).abs()  # reflection at the first row
    return torch.where(wanted < size, wanted, 2 * (size - 1) - wanted)  # and at the last
