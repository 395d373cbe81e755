"""From a name or uri to a data set: `fashion`, `cifar10`, `npz:FILE`, `folder:PATH`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from .. import files
from ..errors import BadValue, UnknownName
from .catalogue import DatasetInfo, find_info, list_datasets

if TYPE_CHECKING:  # torch is loaded only once the request is known to make sense
    from .dataset import Dataset, Source

MAX_IMAGE_SIZE = 1024


def data_root(root: Path | None = None) -> Path:
    """Where data sets that have to be downloaded are kept: `root`, else $RTK_DATA, else ~/.cache/rtk/data."""
    return files.home(root if root is not None else os.environ.get("RTK_DATA") or "~/.cache/rtk/data")


def open_dataset(
    uri: str,
    *,
    root: Path | None = None,
    image_size: int | None = None,
    val_fraction: float = 0.1,
    split_seed: int = 0,
) -> Dataset:
    """Open a data set.

    Args:
        uri: a name of `list_datasets()`, `npz:FILE` or `folder:PATH`.
        root: folder of the data sets that have to be downloaded; default $RTK_DATA or ~/.cache/rtk/data. A data set
            NAME lies there as torchvision stores it, or as NAME.npz with the arrays of `npz:FILE`.
        image_size: height and width in pixels; only for data sets that are decoded from image files.
        val_fraction: share of the training split that becomes `val`, above 0 and below 1. Not used by data sets that
            have a validation split of their own.
        split_seed: which share; the same for every run that is to be compared.

    Raises UnknownName, BadValue or BadData. Reads nothing of the test split.
    """
    if not 0 < val_fraction < 1:
        raise BadValue(f"--val-fraction: got {val_fraction} (allowed: above 0 and below 1, e.g. 0.1).")
    if image_size is not None and not 8 <= image_size <= MAX_IMAGE_SIZE:
        raise BadValue(f"--image-size: got {image_size} (allowed: 8 to {MAX_IMAGE_SIZE}).")
    source = _source(uri, data_root(root), image_size)
    from .dataset import Dataset

    return Dataset(source, uri, val_fraction=val_fraction, split_seed=split_seed)


def download(name: str, root: Path | None = None) -> Path:
    """Fetch a torchvision data set into `root` (default as in open_dataset) and return that folder."""
    info = find_info(name)
    names = [known.name for known in list_datasets() if known.kind == "torchvision"]
    if info is None or info.kind == "file":
        raise UnknownName("data set to download", name, names, "rtk datasets")
    if info.kind == "embedded":
        raise BadValue(f"'{name}' needs no download: it is part of rtk (downloadable: {', '.join(names)}).")
    from .vision import fetch

    return fetch(info, data_root(root))


def _source(uri: str, root: Path, image_size: int | None) -> Source:
    scheme, colon, rest = uri.partition(":")
    if colon:
        return _from_file(scheme, rest, image_size)
    info = find_info(uri)
    if info is None or info.kind == "file":
        names = [known.name for known in list_datasets()]
        raise UnknownName("data set", uri, names, _scheme_hint(uri) or "rtk datasets")
    if image_size is not None and not info.resizable and image_size != info.image_size:
        raise _fixed_size(uri, info.image_size, image_size)
    return _by_name(info, root, image_size)


def _by_name(info: DatasetInfo, root: Path, image_size: int | None) -> Source:
    if info.kind == "embedded":
        from .embedded_source import EmbeddedSource

        return EmbeddedSource(info)
    archive = root / f"{info.name}.npz"
    if archive.is_file():
        from .npz import NpzSource

        return NpzSource(archive, info)
    from .vision import VisionSource

    return VisionSource(info, root, image_size)


def _from_file(scheme: str, rest: str, image_size: int | None) -> Source:
    if scheme not in ("npz", "folder"):
        raise UnknownName("data set scheme", scheme, ("npz", "folder"), "rtk datasets")
    if not rest:
        what = "FILE" if scheme == "npz" else "PATH"
        raise BadValue(f"{scheme}: got nothing after the colon (allowed: {scheme}:{what}).")
    path = files.home(rest)
    if scheme == "folder":
        from .folder import FolderSource

        return FolderSource(path, image_size)
    from .npz import NpzSource

    source = NpzSource(path)
    if image_size is not None and source.facts.image_shape[1:] != (image_size, image_size):
        raise _fixed_size(f"npz:{rest}", source.facts.image_shape[1], image_size)
    return source


def _fixed_size(uri: str, size: int | None, given: int) -> BadValue:
    return BadValue(
        f"--image-size: got {given}, but the images of '{uri}' are {size} pixels wide and are used as they are; "
        "a backbone that needs another size resizes inside.",
        "the same command without --image-size",
    )


def _scheme_hint(uri: str) -> str | None:
    """What to type when a path was given without its scheme."""
    if uri.endswith(".npz"):
        return f"npz:{uri}"
    try:
        return f"folder:{uri}" if Path(uri).is_dir() else None
    except OSError:  # a name too long
        return None
