"""`folder:PATH`: one folder per class under PATH/train and PATH/test, optionally PATH/val."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from ..errors import BadData
from .catalogue import find_info
from .dataset import Facts, SplitName
from .files import FilePixels
from .split import Split

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
)
OTHERS = frozenset((".avif", ".heic", ".heif", ".jp2", ".jxl", ".svg", ".tga", ".dds", ".npy"))
"""Images that are not read; to leave them out without a word would make another data set."""
LAYOUT = "PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg, optionally PATH/val/CLASS/*.jpg"


class FolderSource:
    """Image files sorted into class folders; classes are numbered in the order of their names.

    Opening lists the class folders of every split, test included, because other classes there should stop a run
    before it trains; files of a split are listed when it is asked for and decoded when they are read.

    The folder may be a symbolic link. Links inside it are followed as long as they stay inside: what is elsewhere is no
    part of the data set, and a folder that somebody passes on could show images of the person who opens it.
    """

    def __init__(self, path: Path, image_size: int | None):
        self._path = path
        info = find_info("folder:PATH")
        assert info is not None and info.image_size is not None
        try:
            there = path.is_dir()
        except OSError as problem:  # a name too long
            raise BadData(f"folder:{path}: {problem.strerror}.") from None
        if not there:
            raise BadData(f"folder:{path}: no such folder (needed: {LAYOUT}).")
        self._classes = self._class_folders("train")
        if len(self._classes) < 2:
            raise BadData(
                f"{path / 'train'} holds {len(self._classes)} class folders (allowed: two or more; {LAYOUT})."
            )
        self.has_val = (path / "val").is_dir()
        for other in ("valid", "validation", "dev"):
            if not self.has_val and (path / other).is_dir():
                raise BadData(
                    f"folder:{path}: {path / other} would not be used (needed: {LAYOUT}).",
                    f"mv {path / other} {path / 'val'}, or out of {path}",
                )
        for which in ("val", "test") if self.has_val else ("test",):
            self._compare(which)
        self._size = image_size or info.image_size
        self.facts = Facts(
            path.resolve().name, len(self._classes), self._classes, (3, self._size, self._size), info.augment
        )

    def read(self, which: SplitName) -> Split:
        files: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(self._classes):
            found = [*self._images(self._own(self._path / which / name))]
            if not found:
                kinds = " ".join(sorted(SUFFIXES))
                raise BadData(f"Class folder {self._path / which / name} holds no images (allowed: {kinds}).")
            files += found
            labels += [label] * len(found)
        return Split(FilePixels(files, self._size, base=self._path), torch.tensor(labels))

    def _class_folders(self, which: str) -> tuple[str, ...]:
        folder = self._own(self._path / which)
        if not folder.is_dir():
            raise BadData(f"folder:{self._path}: no folder {which}/ in it (needed: {LAYOUT}).")
        return tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."))

    def _images(self, folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
        """Every image below a folder, in the order of the paths; what is hidden by a leading dot is none."""
        place = folder.resolve()
        if place in above:
            raise BadData(f"{folder} is a link to {place}, which it lies in (allowed: links that end).")
        for entry in sorted(folder.iterdir()):
            if entry.name[0] == ".":
                continue
            own = self._own(entry)
            if own.is_dir():
                yield from self._images(own, (*above, place))
            elif entry.suffix.lower() in SUFFIXES and own.is_file():
                yield own
            elif entry.suffix.lower() in OTHERS:
                raise BadData(f"{entry}: images of this kind are not read (allowed: {' '.join(sorted(SUFFIXES))}).")

    def _own(self, path: Path) -> Path:
        """`path`, unless it is a link that leads out of the data set."""
        if path.is_symlink() and not (target := path.resolve()).is_relative_to(self._path.resolve()):
            raise BadData(
                f"{path} is a link to {target}, outside of the data set (allowed: links within {self._path}).",
                f"cp -rL {self._path} COPY; --dataset folder:COPY",
            )
        return path

    def _compare(self, which: str) -> None:
        there = set(self._class_folders(which))
        known = set(self._classes)
        if there != known:
            lacks, extra = sorted(known - there), sorted(there - known)
            differences = [f"lacks {', '.join(lacks[:5])}"] * bool(lacks) + [f"adds {', '.join(extra[:5])}"] * bool(
                extra
            )
            raise BadData(f"{self._path / which}: {' and '.join(differences)} (allowed: the class folders of train/).")
