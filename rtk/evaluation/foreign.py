"""Adversarial images that somebody else made."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor

from ..data import Split, arrays
from ..errors import BadData

HINT = ".npy, .npz or .safetensors with images (N, C, H, W) or (N, H, W, C), float32 in [0, 1] or uint8"


@dataclass(frozen=True)
class Foreign:
    """Images for test samples.

    Attributes:
        images: float32 (N, 3, H, W); not yet checked for ball and range.
        indices: int64 (N,), into the test split in the data set's own order; the first N where the file has none.
        named: whether the file has them.
    """

    images: Tensor
    indices: Tensor
    named: bool

    @classmethod
    def read(cls, path: Path, test: Split) -> Foreign:
        """Read a .npy with the images, or a .npz or .safetensors with `images` and, perhaps, `indices`.

        Raises:
            BadData: missing, damaged, pickled, of another size than the data, or not one image per index.
        """
        found = _arrays(path)
        images = _images(path, found, test)
        indices = found.get("indices", np.arange(len(images)))
        if indices.dtype.kind not in "iu" or indices.shape != (len(images),) or len(np.unique(indices)) != len(images):
            raise BadData(f"{path}: indices must be {len(images)} different whole numbers, one per image.")
        if indices.min() < 0 or indices.max() >= len(test):
            raise _other_samples(path, len(images), test)
        return cls(images, torch.from_numpy(indices.astype(np.int64)), "indices" in found)


def _arrays(path: Path) -> Mapping[str, np.ndarray]:
    """`images` and `indices`, of those that the file has; nothing else in it is read."""

    def bad(reason: str) -> BadData:
        return BadData(f"{path}: {reason.removeprefix('it ')}.", HINT)

    with arrays.reading(bad, "it", "an array file"):
        if path.suffix == ".safetensors":
            return load_file(path)
        if not zipfile.is_zipfile(path):
            return {"images": arrays.read_npy(path)}
        there = arrays.names(path)
        if "images" not in there:
            return dict.fromkeys(there, np.empty(0))
    found = {}
    for name in sorted(there & {"images", "indices"}):
        with arrays.reading(bad, f"'{name}'", "an array file"):
            found[name] = arrays.read(path, name)
    return found


def _images(path: Path, given: Mapping[str, np.ndarray], test: Split) -> Tensor:
    """float32 (N, 3, H, W), from either order of the axes; one channel is repeated, as the data set does."""
    if "images" not in given:
        names = ", ".join(name[:40] for name in sorted(given)[:8])
        raise BadData(f"{path}: holds {names or 'nothing'}, but no array 'images'.", HINT)
    found = given["images"]
    if found.dtype not in (np.dtype("float32"), np.dtype("uint8")):
        raise BadData(f"{path}: images are {found.dtype} (allowed: float32 in [0, 1], or uint8).", HINT)
    _, height, width = test.image_shape
    if found.ndim == 4 and found.shape[1:3] == (height, width) and found.shape[3] in (1, 3):
        found = found.transpose(0, 3, 1, 2)
    if found.ndim != 4 or found.shape[1] not in (1, 3) or found.shape[2:] != (height, width):
        raise BadData(f"{path}: images {found.shape} for data of {height}x{width} pixels.", HINT)
    if not 0 < len(found) <= len(test):  # before copies of all images are made
        raise _other_samples(path, len(found), test)
    images = torch.from_numpy(np.ascontiguousarray(found))
    images = images.float() / 255 if images.dtype == torch.uint8 else images
    return images.expand(-1, 3, -1, -1).contiguous()


def _other_samples(path: Path, count: int, test: Split) -> BadData:
    return BadData(f"{path}: {count} images; the test split has samples 0 to {len(test) - 1}.")
