"""One split of a data set: labels in memory, images on demand, and a hash that says which images these are."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

HASH_CHUNK = 1024


class Pixels(Protocol):
    """Where the images of a split come from. `rows` is an int64 tensor of positions."""

    image_shape: tuple[int, int, int]
    in_memory: bool
    """False when reading decodes files, so that it pays to read ahead in a thread."""

    def read(self, rows: Tensor) -> Tensor:
        """uint8 (B, C, H, W), or float32 (B, C, H, W) already in [0, 1]."""
        ...

    def fingerprint(self, rows: Tensor) -> bytes:
        """What the split's hash covers of these images; must not depend on what was read before."""
        ...


class ArrayPixels:
    """Images in memory: uint8 or float32 in [0, 1], (N, C, H, W), C 1 or 3; one channel is repeated to three."""

    in_memory = True

    def __init__(self, images: Tensor):
        # An expanded view: the repeated channels take no memory until a batch is read.
        self._images = images.expand(-1, 3, -1, -1)
        self.image_shape = (3, int(images.shape[2]), int(images.shape[3]))

    def read(self, rows: Tensor) -> Tensor:
        return self._images[rows]

    def fingerprint(self, rows: Tensor) -> bytes:
        digest = hashlib.sha256(str(self._images.dtype).encode())
        for chunk in rows.split(HASH_CHUNK):
            digest.update(self.read(chunk).contiguous().numpy().data)
        return digest.digest()


class Split:
    """Images with labels, in a fixed order.

    Attributes:
        labels: int64 (N,), classes 0..C-1.
        image_shape: (3, H, W).
        in_memory: whether reading images is a copy, and not the decoding of files.
    """

    def __init__(self, pixels: Pixels, labels: Tensor, rows: Tensor | None = None):
        """Image i of the split is row `rows[i]` of `pixels`, with label `labels[i]`; rows None means 0..N-1."""
        self._pixels = pixels
        self._rows = torch.arange(len(labels)) if rows is None else rows
        self.labels = labels
        self.image_shape = pixels.image_shape
        self.in_memory = pixels.in_memory

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Tensor | Sequence[int] | slice) -> Tensor:
        """float32 (B, 3, H, W) in [0, 1], on the CPU. Raises IndexError outside the split, BadData on a broken file."""
        images = self._pixels.read(self._rows[_as_index(indices, len(self))])
        return images.float().div_(255) if images.dtype == torch.uint8 else images

    @functools.cached_property
    def sha256(self) -> str:
        """Identity of this split: its image size, and the labels and images in their order.

        Images in memory are covered pixel by pixel. Images in files are covered by relative path, size in bytes and
        the first and last 16 KiB of each file, without being decoded; an edit in the middle of a file that keeps its
        length is not seen.
        """
        digest = hashlib.sha256(repr((len(self), self.image_shape)).encode())
        digest.update(self.labels.contiguous().numpy().data)
        digest.update(self._pixels.fingerprint(self._rows))
        return digest.hexdigest()

    def shared_with(self, other: Split) -> int | None:
        """How many of these images are in `other` as well, pixel for pixel; None where they are not in memory."""
        if not (self.in_memory and other.in_memory):
            return None
        known = set(other._digests())
        return sum(digest in known for digest in self._digests())

    def _digests(self) -> Iterator[bytes]:
        for chunk in self._rows.split(HASH_CHUNK):
            for image in self._pixels.read(chunk).contiguous().numpy():
                yield hashlib.blake2b(image.data, digest_size=16).digest()

    def subset(self, indices: Tensor | Sequence[int] | slice) -> Split:
        """The split with only these images, in this order; shares memory with this one."""
        index = _as_index(indices, len(self))
        return Split(self._pixels, self.labels[index], self._rows[index])


def _as_index(indices: Tensor | Sequence[int] | slice, length: int) -> Tensor:
    if isinstance(indices, slice):
        return torch.arange(length)[indices]
    return torch.as_tensor(indices, dtype=torch.int64)
