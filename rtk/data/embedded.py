"""The two data sets that ship inside the wheel, `fashion` and `signs`; made by benchmarks/embedded_data.py.

A split is a lossless mosaic whose tiles are sorted by class (sorted tiles compress better), read back in rounds: the
first image of every class, then the second, and so on. Any prefix of a split is therefore class-balanced.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import BadData

REINSTALL = "pip install --force-reinstall rtk"


def by_rounds(counts: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The order that turns tiles sorted by class into rounds of one image per class; counts[c] tiles of class c."""
    labels = np.repeat(np.arange(len(counts)), counts)
    rank = np.concatenate([np.arange(count) for count in counts])
    return np.lexsort((labels, rank)).astype(np.int64)


def arrays_sha256(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.integer[Any]]) -> str:
    """SHA-256 of images (N, H, W, C) followed by their labels, one byte each."""
    digest = hashlib.sha256(np.ascontiguousarray(images).data)
    digest.update(labels.astype(np.uint8).tobytes())
    return digest.hexdigest()


def read_index(name: str) -> dict[str, Any]:
    """The json beside the mosaics: classes, tile (H, W, C), columns, and per split file, counts and sha256."""
    return json.loads(_asset(f"{name}.json"))


def read_split(name: str, which: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images (N, H, W, C) and labels (N,) of one split, checked against the recorded hash."""
    index = read_index(name)
    part = index[which]
    height, width, channels = index["tile"]
    columns = index["columns"]
    try:
        mosaic = np.asarray(Image.open(io.BytesIO(_asset(part["file"]))).convert("RGB"))[..., :channels]
        grid = mosaic.reshape(-1, height, columns, width, channels).transpose(0, 2, 1, 3, 4)
    except (OSError, ValueError) as problem:
        raise _broken(part["file"], str(problem)) from None
    order = by_rounds(part["counts"])
    images = grid.reshape(-1, height, width, channels)[order]
    labels = np.repeat(np.arange(len(part["counts"])), part["counts"])[order]
    if arrays_sha256(images, labels) != part["sha256"]:
        raise _broken(part["file"], "its content does not match the recorded SHA-256")
    return images, labels


def _asset(file: str) -> bytes:
    try:
        return (importlib.resources.files("rtk") / "assets" / file).read_bytes()
    except OSError as problem:
        raise _broken(file, problem.strerror or str(problem)) from None


def _broken(file: str, reason: str) -> BadData:
    return BadData(f"The embedded data file rtk/assets/{file} is damaged: {reason}.", REINSTALL)
