"""Images in files, decoded when they are read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..errors import BadData, RtkError

Fit = Literal["crop", "stretch"]
CACHE_LIMIT = 1 << 30
"""Bytes. A split that fits is kept once decoded, so that only the first epoch decodes."""
ENDS = 16 * 1024
"""Bytes at either end of a file that the split's hash covers."""
THREADS = min(8, os.cpu_count() or 1)
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
"""What Pillow may take a file for, whatever it is called; for EPS it would start Ghostscript."""
LARGEST = 89_478_485
"""Pixels of an image, as it is and once it is scaled: a quarter of a gigabyte of colour. Pillow warns from here on."""


class FilePixels:
    """Image files brought to size x size pixels, RGB.

    "crop" scales the short side to `size` (bilinear with antialiasing) and cuts the centre; "stretch" scales both
    sides to `size`. Orientation tags are ignored, as in torchvision.
    """

    in_memory = False

    def __init__(self, files: Sequence[Path], size: int, fit: Fit = "crop", *, base: Path):
        """`base` is the folder that file names are relative to in the hash."""
        self._files = list(files)
        self._base = base
        self._size = size
        self._fit: Fit = fit
        self.image_shape = (3, size, size)
        keep = len(self._files) * 3 * size * size <= CACHE_LIMIT
        self._cache = torch.empty((len(self._files), *self.image_shape), dtype=torch.uint8) if keep else None
        self._cached = torch.zeros(len(self._files), dtype=torch.bool)

    def read(self, rows: Tensor) -> Tensor:
        """uint8 (B, 3, size, size). Raises BadData that names the first unreadable file."""
        if self._cache is None:
            return self._decode(rows)
        missing = rows[~self._cached[rows]].unique()
        if len(missing):
            self._cache[missing] = self._decode(missing)
            self._cached[missing] = True
        return self._cache[rows]

    def fingerprint(self, rows: Tensor) -> bytes:
        digest = hashlib.sha256(f"{self._size} {self._fit}".encode())
        for row in rows.tolist():
            file = self._files[row]
            digest.update(file.relative_to(self._base).as_posix().encode() + b"\0")
            digest.update(_ends(file))
        return digest.digest()

    def _decode(self, rows: Tensor) -> Tensor:
        files = [self._files[row] for row in rows.tolist()]
        out = torch.empty((len(files), *self.image_shape), dtype=torch.uint8)
        with ThreadPoolExecutor(THREADS) as pool:  # pillow decodes and scales without holding the interpreter's lock
            for place, image in enumerate(pool.map(self._decode_one, files)):
                out[place] = image
        return out

    def _decode_one(self, file: Path) -> Tensor:
        try:
            with Image.open(file, formats=FORMATS) as image:
                _check_size(file, image.size, image.size)
                if image.mode.startswith("I") or image.mode == "F":
                    raise BadData(f"Image {file} has more than 8 bits per pixel (allowed: 8-bit grey or colour).")
                if self._fit == "crop":
                    _check_size(file, _scaled(image.size, self._size), image.size)
                fitted = _fit(image.convert("RGB"), self._size, self._fit)
        except RtkError:
            raise
        except Exception as problem:  # decoders of seven formats on foreign bytes
            raise BadData(f"Image {file} cannot be read ({_reason(problem)}).") from None
        return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)


def _fit(image: Image.Image, size: int, fit: Fit) -> Image.Image:
    """The image at size x size; see FilePixels."""
    width, height = image.size
    if fit == "stretch":
        return image if (width, height) == (size, size) else image.resize((size, size), Image.Resampling.BILINEAR)
    scaled = _scaled((width, height), size)
    if scaled != (width, height):
        image = image.resize(scaled, Image.Resampling.BILINEAR)
    left, top = (scaled[0] - size) // 2, (scaled[1] - size) // 2
    return image.crop((left, top, left + size, top + size))


def _scaled(size: tuple[int, int], short: int) -> tuple[int, int]:
    """Width and height once the shorter of them is `short`."""
    width, height = size
    factor = short / min(size)
    return max(short, round(width * factor)), max(short, round(height * factor))


def _check_size(file: Path, size: tuple[int, int], own: tuple[int, int]) -> None:
    if size[0] * size[1] > LARGEST:
        scaled = "" if size == own else f", scaled to {size[0]}x{size[1]},"
        raise BadData(f"Image {file}, {own[0]}x{own[1]}{scaled} has too many pixels (allowed: {LARGEST:,}).")


def _ends(file: Path) -> bytes:
    """Length of a file, and its first and last bytes."""
    try:
        with file.open("rb") as handle:
            length = os.fstat(handle.fileno()).st_size
            head = handle.read(ENDS)
            handle.seek(max(length - ENDS, 0))
            return str(length).encode() + b"\0" + head + handle.read(ENDS)
    except OSError as problem:
        raise BadData(f"Image {file} cannot be read ({_reason(problem)}).") from None


def _reason(problem: Exception) -> str:
    if isinstance(problem, UnidentifiedImageError):
        return "not an image, or cut off"
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    return str(problem).splitlines()[0] if str(problem) else type(problem).__name__
