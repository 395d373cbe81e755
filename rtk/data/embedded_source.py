"""The embedded data sets as a source of splits."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .catalogue import DatasetInfo
from .dataset import Facts, SplitName
from .embedded import read_index, read_split
from .split import ArrayPixels, Split


class EmbeddedSource:
    """`fashion` or `signs`: 32x32 pixels, three channels; smaller tiles are padded with black on all sides."""

    def __init__(self, info: DatasetInfo):
        index = read_index(info.name)
        assert info.image_size is not None
        self._size = info.image_size
        self.facts = Facts(
            name=info.name,
            num_classes=len(index["classes"]),
            class_names=tuple(index["classes"]),
            image_shape=(3, self._size, self._size),
            augment=info.augment,
        )
        self.has_val = "val" in index

    def read(self, which: SplitName) -> Split:
        images, labels = read_split(self.facts.name, which)
        border = (self._size - images.shape[1]) // 2
        pixels = F.pad(torch.from_numpy(images).permute(0, 3, 1, 2), (border,) * 4)
        return Split(ArrayPixels(pixels.contiguous()), torch.from_numpy(labels))
