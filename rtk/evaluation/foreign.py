"""Adversarial images that somebody else made."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor

from ..data import Split
from ..errors import BadData

HINT = ".npy, .npz or .safetensors with images (N, C, H, W) or (N, H, W, C), float32 in [0, 1] or uint8"


@dataclass(frozen=True)
class Foreign:
    """Images for test samples.

    Attributes:
        images: float32 (N, 3, H, W); not yet checked for ball and range.
        indices: int64 (N,), into the test split in the data set's own order; the first N where the file has none.
    """

    images: Tensor
    indices: Tensor

    @classmethod
    def read(cls, path: Path, test: Split) -> Foreign:
        """Read a .npy with the images, or a .npz or .safetensors with `images` and, perhaps, `indices`.

        Raises:
            BadData: missing, damaged, pickled, of another size than the data, or not one image per index.
        """
        arrays = _arrays(path)
        images = _images(path, arrays, test.image_shape)
        indices = arrays.get("indices", np.arange(len(images)))
        if indices.dtype.kind not in "iu" or indices.shape != (len(images),) or len(np.unique(indices)) != len(images):
            raise BadData(f"{path}: indices must be {len(images)} different whole numbers, one per image.")
        if len(images) == 0 or len(images) > len(test) or indices.min() < 0 or indices.max() >= len(test):
            raise BadData(f"{path}: {len(images)} images; the test split has samples 0 to {len(test) - 1}.")
        return cls(images, torch.from_numpy(indices.astype(np.int64)))


def _arrays(path: Path) -> Mapping[str, np.ndarray]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"images": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except OSError as problem:
        raise BadData(f"{path}: {problem.strerror or 'not an array file'}.", HINT) from None
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, SafetensorError) as problem:
        raise BadData(f"{path}: not an array file, or one with pickled objects ({problem}).", HINT) from None


def _images(path: Path, arrays: Mapping[str, np.ndarray], shape: tuple[int, int, int]) -> Tensor:
    """float32 (N, 3, H, W), from either order of the axes; one channel is repeated, as the data set does."""
    if "images" not in arrays:
        raise BadData(f"{path}: holds {', '.join(arrays) or 'nothing'}, but no array 'images'.", HINT)
    found = arrays["images"]
    if found.dtype not in (np.dtype("float32"), np.dtype("uint8")):
        raise BadData(f"{path}: images are {found.dtype} (allowed: float32 in [0, 1], or uint8).", HINT)
    _, height, width = shape
    if found.ndim == 4 and found.shape[1:3] == (height, width) and found.shape[3] in (1, 3):
        found = found.transpose(0, 3, 1, 2)
    if found.ndim != 4 or found.shape[1] not in (1, 3) or found.shape[2:] != (height, width):
        raise BadData(f"{path}: images {found.shape} for data of {height}x{width} pixels.", HINT)
    images = torch.from_numpy(np.ascontiguousarray(found))
    images = images.float() / 255 if images.dtype == torch.uint8 else images
    return images.expand(-1, 3, -1, -1).contiguous()
