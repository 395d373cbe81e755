"""What no epoch of a phase changes is computed once: the activations before the first weight that moves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .backbones.prefix import After, Before, Operations
from .data import Loader, Split
from .memory import Memory

KEPT_BYTES = 2 << 30
"""As much memory may be taken; with more, every epoch computes everything."""


class Activations:
    """Rows of one tensor in place of the images of a split; see `rtk.data.split.Pixels`."""

    in_memory = True

    def __init__(self, values: Tensor):
        self._values = values
        self.image_shape: Any = tuple(values.shape[1:])  # of as many dimensions as there are

    def read(self, rows: Tensor) -> Tensor:
        return self._values[rows]

    def fingerprint(self, rows: Tensor) -> bytes:
        return hashlib.sha256(self._values[rows].contiguous().numpy().data).digest()


def cut(model: nn.Module, parameters: Iterable[str], loaders: Iterable[Loader]) -> tuple[After, list[Split]] | None:
    """The rest of `model` from the first of `parameters` on, and a split of what it is given for each loader.

    None where the operations of the network are not known, more than one tensor goes from one part to the other, or
    memory would not do.

    Args:
        model: in evaluation mode; the rest shares its parameters.
        loaders: of images in their order, on the network's device.
    """
    loaders = list(loaders)
    example = loaders[0].split.images(slice(0, 5)).to(loaders[0].device)
    operations = Operations.of(model, example)
    parts = operations.split_at(*parameters) if operations else None
    if parts is None or len(parts[1].between) != 1:
        return None
    before, after = parts
    (value,) = before(example)
    if value[0].nbytes * sum(len(loader.split) for loader in loaders) > KEPT_BYTES:
        return None

    memory = Memory(max(loader.batch_size for loader in loaders))

    def split_of(loader: Loader) -> Split:
        rows = torch.cat([memory.run(partial(_values, before, batch.images)) for batch in loader])
        return Split(Activations(rows), loader.split.labels)

    return after, [split_of(loader) for loader in loaders]


def _values(before: Before, images: Tensor, batch: int) -> Tensor:
    return torch.cat([before(part)[0].cpu() for part in images.split(batch)])
