"""Folders in the layout of CIFAR-10-C: one array of corrupted images per corruption, and the labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..data import arrays
from ..errors import BadData
from .names import NAMES, SEVERITIES, check_name

LAYOUT = "NAME.npy for one or more of the 15 corruptions, and labels.npy"
HINT = f"a folder like CIFAR-10-C (doi.org/10.5281/zenodo.2535967), unpacked: {LAYOUT}"


class CorruptedFolder:
    """A folder as CIFAR-10-C and CIFAR-100-C are published: <corruption>.npy and labels.npy.

    An array is uint8 (5 N, H, W, C), C 1 or 3, with severity s in rows (s - 1) N to s N. Labels are integers, N of
    them, or 5 N with the same N for every severity. Files of other names are not read. A folder may lack corruptions.

    Arrays stay on disk and are read by the row (memory-mapped); nothing is unpickled, so an untrusted folder cannot run
    code.

    Attributes:
        names: the corruptions that are there, in the order of NAMES.
        missing: those that are not.
        labels: int64 (N,), 0 or more.
        image_shape: (C, H, W).

    Raises BadData when the folder cannot be used.
    """

    def __init__(self, path: str | Path):
        self._path = Path(path)
        if not self._path.is_dir():
            raise BadData(f"{path}: no such folder.", HINT)
        self.names = tuple(name for name in NAMES if (self._path / f"{name}.npy").is_file())
        self.missing = tuple(name for name in NAMES if name not in self.names)
        if not self.names:
            raise BadData(f"{path}: holds no corrupted images (allowed: {LAYOUT}).", HINT)
        self._arrays = {name: self._images(name) for name in self.names}
        shapes = {name: array.shape for name, array in self._arrays.items()}
        first = self.names[0]
        for name, shape in shapes.items():
            if shape != shapes[first]:
                raise self._bad(name, f"has shape {shape}, {first}.npy {shapes[first]} (allowed: one shape for all)")
        rows, height, width, channels = shapes[first]
        self.image_shape = (channels, height, width)
        self.labels = self._labels(rows // len(SEVERITIES))

    def __len__(self) -> int:
        """N, the number of images at each severity."""
        return len(self.labels)

    def images(self, name: str, severity: int, indices: Sequence[int] | Tensor | slice = slice(None)) -> Tensor:
        """float32 (B, C, H, W) in [0, 1]: the images at `indices` of 0..N-1, all when not given.

        Raises UnknownName or BadValue for the corruption, BadData when the folder lacks it, IndexError outside 0..N-1.
        """
        check_name(name, severity)
        if name not in self._arrays:
            raise BadData(f"{self._path}: lacks {name}.npy (found: {', '.join(self.names)}).")
        count = len(self)
        rows = self._arrays[name][(severity - 1) * count : severity * count]
        index = indices if isinstance(indices, slice) else np.asarray(indices, dtype=np.int64)
        images = torch.from_numpy(np.array(rows[index]))
        return images.permute(0, 3, 1, 2).contiguous().float().div_(255)

    def _images(self, name: str) -> npt.NDArray[np.uint8]:
        array = self._open(name)
        if array.dtype != np.uint8:
            raise self._bad(name, f"is {array.dtype} (allowed: uint8, 0..255)")
        if array.ndim != 4 or array.shape[3] not in (1, 3) or 0 in array.shape:
            raise self._bad(name, f"has shape {array.shape} (allowed: (5 N, H, W, C) with C 1 or 3, none empty)")
        if len(array) % len(SEVERITIES):
            raise self._bad(name, f"holds {len(array)} images (allowed: five severities of N images each)")
        return array

    def _labels(self, count: int) -> Tensor:
        labels = self._open("labels")
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise self._bad("labels", f"is {labels.dtype} of shape {labels.shape} (allowed: one-dimensional integers)")
        repeated = len(SEVERITIES) * count
        if len(labels) not in (count, repeated):
            raise self._bad("labels", f"holds {len(labels)} labels (allowed: {count}, or {repeated} as in CIFAR-10-C)")
        labels = np.array(labels, dtype=np.int64)
        if (labels.reshape(-1, count) != labels[:count]).any():
            raise self._bad("labels", "differs between severities (allowed: the same images at all five)")
        if labels.min() < 0:
            raise self._bad("labels", f"holds {labels.min()} (allowed: 0 or more)")
        return torch.from_numpy(labels[:count])

    def _open(self, name: str) -> npt.NDArray[Any]:
        file = self._path / f"{name}.npy"
        if not file.is_file():
            raise BadData(f"{self._path}: lacks {file.name} (allowed: {LAYOUT}).", HINT)
        with arrays.reading(lambda reason: self._bad(name, reason), "it", "an array of numbers"):
            return arrays.read_npy(file, mapped=True)

    def _bad(self, name: str, reason: str) -> BadData:
        return BadData(f"{self._path / f'{name}.npy'}: {reason.removeprefix('it ')}.")
