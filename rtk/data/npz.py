"""`npz:FILE`: arrays x_train, y_train, x_test, y_test, optionally x_val, y_val and classes, in one numpy archive."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import BadData
from . import arrays
from .arrays import Array
from .catalogue import DatasetInfo
from .dataset import Facts, SplitName
from .split import ArrayPixels, Split

REQUIRED = ("x_train", "y_train", "x_test", "y_test")
RANGE = "uint8 0..255, or float in [0, 1]; neither floats in 0..255 nor standardised values"


class NpzSource:
    """One npz file. Only the arrays of the splits that are asked for are decompressed.

    Images are (N, H, W, C), (N, C, H, W) or (N, H, W), C 1 or 3, uint8 or float in [0, 1]; labels are integers
    0..C-1. Nothing is unpickled, so an untrusted file cannot run code, and an array that unpacks to far more than the
    file has is refused before memory is taken for it; see arrays.py.

    Args:
        info: the named data set that the file is said to hold; its number of classes is checked.
    """

    def __init__(self, path: Path, info: DatasetInfo | None = None):
        self._path = path
        self._members = self._names()
        missing = [name for name in REQUIRED if name not in self._members]
        if missing:
            found = ", ".join(sorted(self._members)) or "nothing"
            raise self._bad(f"lacks {', '.join(missing)} (needed: {', '.join(REQUIRED)}; found: {found})")
        if ("x_val" in self._members) != ("y_val" in self._members):
            raise self._bad("holds only one of x_val and y_val (allowed: both or neither)")
        self.has_val = "x_val" in self._members
        names = self._class_names()
        labels = self._labels("y_train")
        classes = len(names) if names else int(labels.max()) + 1
        self._check_labels("y_train", labels, classes)
        present = np.unique(labels)
        if len(present) < 2:
            raise self._bad(f"y_train holds only class {present[0]} (allowed: two classes or more)")
        if names is None and len(present) < classes:  # e.g. labels 1..C
            absent = next(place for place, label in enumerate(present.tolist()) if label != place)
            raise self._bad(
                f"y_train holds labels up to {classes - 1} but no {absent} (allowed: each of 0..C-1 occurs)"
            )
        shape, _ = self._header("x_train")
        height, width = self._layout("x_train", shape)[1:]
        if info is not None and info.classes != classes:
            raise self._bad(f"holds {classes} classes (needed: the {info.classes} of {info.name})")
        self.facts = Facts(path.stem, classes, names, (3, height, width), info.augment if info else "crop")

    def read(self, which: SplitName) -> Split:
        x, y = f"x_{which}", f"y_{which}"
        shape, dtype = self._header(x)
        channels, height, width = self._layout(x, shape)
        if (3, height, width) != self.facts.image_shape:
            raise self._bad(f"{x} holds {height}x{width} images, x_train others (allowed: one size in all splits)")
        labels = self._labels(y)
        self._check_labels(y, labels, self.facts.num_classes)
        if len(labels) != shape[0]:
            raise self._bad(f"{x} holds {shape[0]} images but {y} {len(labels)} labels (allowed: as many)")
        if not (dtype == np.uint8 or np.issubdtype(dtype, np.floating)):
            raise self._bad(f"{x} is {dtype} (allowed: {RANGE})")
        images = self._check_images(x, self._load(x))
        if images.ndim == 3:
            images = images[:, None]
        elif images.shape[1:] != (channels, height, width):
            images = images.transpose(0, 3, 1, 2)
        pixels = torch.from_numpy(np.ascontiguousarray(images))
        return Split(ArrayPixels(pixels), torch.from_numpy(labels.astype(np.int64)))

    def _names(self) -> set[str]:
        with self._reading("the archive"):
            if not self._path.is_file():
                hint = "numpy.savez_compressed(FILE, x_train=..., y_train=...)"
                raise BadData(f"npz:{self._path}: no such file.", hint)
            return arrays.names(self._path)

    def _class_names(self) -> tuple[str, ...] | None:
        if "classes" not in self._members:
            return None
        classes = self._load("classes")
        if classes.ndim != 1 or classes.dtype.kind not in "USiu" or len(set(classes.tolist())) != len(classes):
            raise self._bad("classes is not a list of distinct names (allowed: a one-dimensional array of strings)")
        return tuple(item.decode() if isinstance(item, bytes) else str(item) for item in classes.tolist())

    def _labels(self, name: str) -> Array:
        labels = self._load(name)
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            given = f"{labels.dtype} of shape {labels.shape}"
            raise self._bad(f"{name} is {given} (allowed: one-dimensional integers 0..C-1)")
        if len(labels) == 0:
            raise self._bad(f"{name} is empty (allowed: one label or more)")
        return labels

    def _check_labels(self, name: str, labels: Array, classes: int) -> None:
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise self._bad(f"{name} holds labels {low}..{high} (allowed: 0..{classes - 1}, as in y_train and classes)")

    def _check_images(self, name: str, images: Array) -> Array:
        if images.dtype == np.uint8:
            if images.max() == 1:  # floats in [0, 1] that were cast to integers
                raise self._bad(f"{name} is uint8 but holds nothing above 1 (allowed: {RANGE})")
            return images
        images = images.astype(np.float32, copy=False)
        low, high = float(images.min()), float(images.max())  # NaN in any pixel makes both NaN
        if not (np.isfinite(low) and np.isfinite(high)):
            raise self._bad(f"{name} holds NaN or infinity (allowed: {RANGE})")
        if 0 < high <= 2 / 255:
            raise self._bad(f"{name} holds nothing above {high:.4g}: scaled to [0, 1] twice (allowed: {RANGE})")
        if low < 0 or high > 1:
            raise self._bad(f"{name} holds values from {low:.4g} to {high:.4g} (allowed: {RANGE})")
        return images

    def _layout(self, name: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """(C, H, W) of images stored as NHWC, NCHW or NHW; C is the axis of length 1 or 3."""
        if 0 in shape:
            raise self._bad(f"{name} is empty, shape {shape}")
        if len(shape) == 3:
            return 1, shape[1], shape[2]
        if len(shape) == 4:
            first, last = shape[1] in (1, 3), shape[3] in (1, 3)
            if last and not first:
                return shape[3], shape[1], shape[2]
            if first and not last:
                return shape[1], shape[2], shape[3]
        raise self._bad(f"{name} has shape {shape} (allowed: (N, H, W, C), (N, C, H, W) or (N, H, W) with C 1 or 3)")

    def _header(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and type of an array, without decompressing it."""
        with self._reading(name):
            found = arrays.header(self._path, name)
        return found.shape, found.dtype

    def _load(self, name: str) -> Array:
        with self._reading(name):
            return arrays.read(self._path, name)

    def _reading(self, what: str) -> AbstractContextManager[None]:
        return arrays.reading(self._bad, what, "an npz file")

    def _bad(self, reason: str) -> BadData:
        return BadData(f"npz:{self._path}: {reason}.")
