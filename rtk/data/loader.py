"""Batches of a split, in an order that depends only on a seed and the number of the epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import BadValue, UnknownName
from .augment import AUGMENTATIONS, augment, draw
from .split import Split


class Batch(NamedTuple):
    """What a loader yields; unpacks as `images, labels, indices`."""

    images: Tensor
    """float32 (B, 3, H, W) in [0, 1], on the loader's device."""
    labels: Tensor
    """int64 (B,), on the loader's device."""
    indices: Tensor
    """int64 (B,), positions in the split, on the CPU."""


class Loader:
    """Iterates over a split in batches.

    `epoch(e)` is a function of (seed, e) alone: order and augmentation neither read nor change torch's global random
    state, so a run that resumes at epoch e sees what it would have seen. Iterating over the loader itself gives epoch
    0, then 1, and so on.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        shuffle: bool,
        augment: str = "none",
        seed: int = 0,
        device: torch.device | str = "cpu",
        drop_last: bool = False,
    ):
        """Raises BadValue for a batch size below 1 or, with drop_last, above the number of images."""
        if batch_size < 1:
            raise BadValue(f"--batch-size: got {batch_size} (allowed: 1 or more).")
        if drop_last and batch_size > len(split):
            raise BadValue(f"--batch-size: got {batch_size} (allowed: up to the {len(split)} images, none is left).")
        if augment not in AUGMENTATIONS:
            raise UnknownName("augmentation", augment, AUGMENTATIONS)
        self.split = split
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.augment = augment
        self.seed = seed
        self.device = torch.device(device)
        self.drop_last = drop_last
        self._next_epoch = 0

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        whole, rest = divmod(len(self.split), self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def __iter__(self) -> Iterator[Batch]:
        epoch = self._next_epoch
        self._next_epoch += 1
        return self.epoch(epoch)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of epoch `number` (from 0), always the same for the same seed; without the first `start`."""
        order = torch.arange(len(self.split))
        if self.shuffle:
            order = torch.randperm(len(self.split), generator=_generator(self.seed, number, "order"))
        indices = order.split(self.batch_size)[: len(self)]
        generator = _generator(self.seed, number, "augment")
        for index in indices[:start] if self.augment != "none" else ():
            draw(len(index), self.split.image_shape[1:], self.augment, generator)
        for index, images in self._read_ahead(indices[start:]):
            moved = augment(images.to(self.device), self.augment, generator)
            yield Batch(moved, self.split.labels[index].to(self.device), index)

    def _read_ahead(self, indices: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, Tensor]]:
        """(indices, images) of each batch; files are decoded in a thread while the caller works on the batch before."""
        if self.split.in_memory or not indices:
            for index in indices:
                yield index, self.split.images(index)
            return
        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(self.split.images, indices[0])
            for here, index in enumerate(indices):
                images = coming.result()
                if here + 1 < len(indices):
                    coming = reader.submit(self.split.images, indices[here + 1])
                yield index, images


def _generator(seed: int, epoch: int, purpose: str) -> torch.Generator:
    """A CPU generator for one purpose in one epoch; hashed, so that neighbouring seeds and epochs share nothing."""
    digest = hashlib.blake2b(f"{seed}:{epoch}:{purpose}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
