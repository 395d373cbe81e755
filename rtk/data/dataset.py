"""A data set: what it is, and its three splits, each opened when it is first asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from ..errors import BadData, UnknownName
from .catalogue import Augmentation
from .split import Split
from .stratify import stratified_split

SplitName = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Facts:
    """What is known about a data set before an image of it is read."""

    name: str
    num_classes: int
    class_names: tuple[str, ...] | None
    image_shape: tuple[int, int, int]
    augment: Augmentation


class Source(Protocol):
    """Reads the splits that exist on disk; one implementation per storage format."""

    facts: Facts
    has_val: bool

    def read(self, which: SplitName) -> Split:
        """Open one stored split; "val" only when has_val. Raises BadData."""
        ...


class Dataset:
    """Images (3, H, W) in [0, 1] with labels 0..num_classes-1; the threat model lives in these pixels.

    `val` is the data set's own where it has one; otherwise a class-stratified share of the training split, fixed by
    `split_seed`. Nothing of the test split is read before `split("test")`.

    Attributes:
        uri: what was opened; the same uri gives the same data set.
        name: short name for tables.
        num_classes: number of classes C.
        class_names: C names, or None when they are not known.
        image_shape: (3, H, W).
        augment: default augmentation of training images that keeps the label: "none", "crop" or "crop-flip".
    """

    def __init__(self, source: Source, uri: str, *, val_fraction: float, split_seed: int):
        facts = source.facts
        self.uri = uri
        self.name = facts.name
        self.num_classes = facts.num_classes
        self.class_names = facts.class_names
        self.image_shape = facts.image_shape
        self.augment: Augmentation = facts.augment
        self._source = source
        self._val_fraction = val_fraction
        self._split_seed = split_seed
        self._opened: dict[str, Split] = {}

    def split(self, which: SplitName) -> Split:
        """The split "train", "val" or "test"; BadData when it cannot be used. Opened once, then shared."""
        if which not in ("train", "val", "test"):
            raise UnknownName("split", which, ("train", "val", "test"))
        if which not in self._opened:
            if which != "test" and not self._source.has_val:
                self._cut_val()
            else:
                self._opened[which] = self._read(which)
        return self._opened[which]

    def _cut_val(self) -> None:
        whole = self._read("train")
        kept, held = stratified_split(whole.labels.numpy(), self._val_fraction, self._split_seed)
        if len(held) == 0:
            raise BadData(f"{self.uri}: no class has two training images, so no validation split can be cut.")
        self._opened["train"] = whole.subset(torch.from_numpy(kept))
        self._opened["val"] = whole.subset(torch.from_numpy(held))

    def _read(self, which: SplitName) -> Split:
        split = self._source.read(which)
        if len(split) == 0:
            raise BadData(f"{self.uri}: the {which} split holds no images.")
        return split
