"""numpy's arrays in files that nobody vouches for: nothing is unpickled, and no memory is taken before it is known that
the file has the bytes for it.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ..errors import BadData, RtkError

Array = npt.NDArray[Any]
ALLOWED = 1 << 30
"""Bytes that an array in an archive may have however small the file is."""
RATIO = 100
"""How many times the file's own size it may have beyond that; images do not compress as well."""


class Refused(ValueError):
    """Why an array is not read, as the end of a sentence that begins with its name."""


@dataclass(frozen=True)
class Header:
    """What an array says about itself.

    Attributes:
        shape: (N, ...).
        dtype: of plain values.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """Bytes of all values."""
        return math.prod(self.shape) * self.dtype.itemsize


def names(path: Path) -> set[str]:
    """The arrays of an npz archive."""
    with zipfile.ZipFile(path) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist()}


def header(path: Path, name: str) -> Header:
    """The header of an array in an npz archive, without decompressing the array. Raises Refused, or whatever zipfile
    and numpy do; see `reading`.
    """
    with zipfile.ZipFile(path) as archive:
        return _checked(path, archive, name)


def read(path: Path, name: str) -> Array:
    """An array of an npz archive. Raises as `header` does."""
    with zipfile.ZipFile(path) as archive:
        _checked(path, archive, name)
        with archive.open(f"{name}.npy") as file:  # numpy's own loader of archives would read it without the check
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def read_npy(path: Path, *, mapped: bool = False) -> Array:
    """The array of a .npy file; `mapped` leaves its values on disk. Raises as `header` does."""
    with path.open("rb") as file:
        found = _header(file)
        held = path.stat().st_size - file.tell()
    if found.size > held:
        raise ValueError(_claims(found, held))
    return np.asanyarray(np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False))


@contextmanager
def reading(bad: Callable[[str], BadData], what: str, kind: str) -> Iterator[None]:
    """Turn whatever reading foreign bytes raises into BadData.

    Args:
        bad: makes the error of a reason.
        what: is read, as in "x_train".
        kind: of file, as in "an npz file".
    """
    try:
        yield
    except RtkError:
        raise
    except Refused as problem:
        raise bad(f"{what} {problem}") from None
    except Exception as problem:
        reason = getattr(problem, "strerror", None) or (str(problem).splitlines() or [type(problem).__name__])[0][:200]
        raise bad(f"{what} cannot be read, truncated or not {kind} ({reason})") from None


def _checked(path: Path, archive: zipfile.ZipFile, name: str) -> Header:
    """The header of an array, once it is known to be no more than the archive can hold."""
    entry = archive.getinfo(f"{name}.npy")
    with archive.open(entry) as file:
        found = _header(file)
        held = entry.file_size - file.tell()
    if found.size != held:
        raise ValueError(_claims(found, held))
    limit = max(ALLOWED, RATIO * (own := path.stat().st_size))
    if found.size > limit:
        raise Refused(
            f"has {found.size:,} bytes in an archive of {own:,}, a zip bomb (allowed: {limit:,}, the larger of"
            f" {ALLOWED:,} and {RATIO} times the archive; numpy.savez does not compress)"
        )
    return found


def _header(file: IO[bytes]) -> Header:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise Refused("is an array of Python objects, e.g. of images of different sizes (allowed: plain arrays)")
    if any(side < 0 for side in shape):
        raise Refused(f"has the shape {shape} (allowed: no side below 0)")
    return Header(shape, dtype)


def _claims(found: Header, held: int) -> str:
    return f"claims {found.size:,} bytes, {found.dtype} of shape {found.shape}, of which the file holds {held:,}"
