"""Data sets of torchvision, by name; the only module of rtk that imports `torchvision.datasets`.

Nothing is downloaded unless `fetch` is called. Data sets lie under the root as torchvision stores them, so that files
that are already there are used.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import BadData, RtkError, RunFailed
from .catalogue import NO_SPLIT, OWN_VAL, DatasetInfo
from .dataset import Facts, SplitName
from .files import FilePixels, Fit
from .split import ArrayPixels, Split
from .stratify import stratified_split

TEST_SHARE = 0.2
TEST_SEED = 0
"""Data sets without an official split: which images are test, the same for everybody."""

Arguments = Mapping[str, Any]
TRAIN_FLAG: dict[str, Arguments] = {"train": {"train": True}, "test": {"train": False}}
TWO: dict[str, Arguments] = {"train": {"split": "train"}, "test": {"split": "test"}}
THREE: dict[str, Arguments] = {**TWO, "val": {"split": "val"}}
WHOLE: dict[str, Arguments] = {"train": {}}


@dataclass(frozen=True)
class Adapter:
    """How one class of torchvision.datasets is opened and where it keeps its images and labels."""

    cls: str
    needs: tuple[str, ...]
    """Paths under the root that exist when the data set is there, those of the test split included."""
    parts: dict[str, Arguments]
    """Arguments of the class for each split that it knows."""
    images: str = "data"
    """Attribute with an array of images, or with a list of files."""
    labels: str = "targets"
    fit: Fit = "crop"
    folder: str = ""
    """Own folder under the root, for classes that would put their files straight into it."""
    arguments: Arguments = field(default_factory=dict)


def _mnist(cls: str, **arguments: Any) -> Adapter:
    return Adapter(cls, (f"{cls}/raw",), TRAIN_FLAG, arguments=arguments)


def _files(cls: str, needs: tuple[str, ...], parts: dict[str, Arguments], **arguments: Any) -> Adapter:
    return Adapter(cls, needs, parts, images="_image_files", labels="_labels", arguments=arguments)


ADAPTERS: dict[str, Adapter] = {
    "cifar10": Adapter("CIFAR10", ("cifar-10-batches-py",), TRAIN_FLAG),
    "cifar100": Adapter("CIFAR100", ("cifar-100-python",), TRAIN_FLAG),
    "svhn": Adapter("SVHN", ("svhn/train_32x32.mat", "svhn/test_32x32.mat"), TWO, labels="labels", folder="svhn"),
    "stl10": Adapter("STL10", ("stl10_binary",), TWO, labels="labels"),
    "gtsrb": Adapter(
        "GTSRB", ("gtsrb/GTSRB/Training", "gtsrb/GTSRB/Final_Test", "gtsrb/GT-final_test.csv"), TWO, fit="stretch"
    ),
    "flowers102": _files("Flowers102", ("flowers-102/jpg", "flowers-102/setid.mat"), THREE),
    "oxford-iiit-pet": Adapter(
        "OxfordIIITPet",
        ("oxford-iiit-pet/images", "oxford-iiit-pet/annotations"),
        {"train": {"split": "trainval"}, "test": {"split": "test"}},
        images="_images",
        labels="_labels",
    ),
    "dtd": _files("DTD", ("dtd/dtd/images",), THREE, partition=1),
    "food101": _files("Food101", ("food-101/images", "food-101/meta"), TWO),
    "fgvc-aircraft": _files("FGVCAircraft", ("fgvc-aircraft-2013b/data",), THREE, annotation_level="variant"),
    "eurosat": Adapter("EuroSAT", ("eurosat/2750",), WHOLE),
    "caltech101": Adapter("Caltech101", ("caltech101/101_ObjectCategories",), WHOLE, labels="y"),
    "caltech256": Adapter("Caltech256", ("caltech256/256_ObjectCategories",), WHOLE, labels="y"),
    "mnist": _mnist("MNIST"),
    "fashion-mnist": _mnist("FashionMNIST"),
    "kmnist": _mnist("KMNIST"),
    "emnist": _mnist("EMNIST", split="balanced"),
    "qmnist": _mnist("QMNIST"),
    "usps": Adapter("USPS", ("usps/usps.bz2", "usps/usps.t.bz2"), TRAIN_FLAG, folder="usps"),
}


class VisionSource:
    """One torchvision data set under `root`.

    The classes of MNIST's kind are padded with black from 28x28 to 32x32, and grey images get three equal channels.
    Data sets of larger images are decoded from their files at `image_size`.
    """

    def __init__(self, info: DatasetInfo, root: Path, image_size: int | None):
        assert info.classes is not None and info.image_size is not None
        self._info = info
        self._root = root
        self._adapter = ADAPTERS[info.name]
        self._size = image_size or info.image_size
        missing = [path for path in self._adapter.needs if not (root / path).exists()]
        if missing:
            raise BadData(
                f"Data set '{info.name}' is not in {root} (needed: {', '.join(self._adapter.needs)}).",
                _download_command(info.name, root),
            )
        self._train: Any = self._construct("train")
        names = _class_names(self._train)
        if names is not None and len(names) != info.classes:
            raise self._bad(f"has {len(names)} classes (needed: {info.classes})")
        self.has_val = info.splits == OWN_VAL
        self.facts = Facts(info.name, info.classes, names, (3, self._size, self._size), info.augment)

    def read(self, which: SplitName) -> Split:
        if self._info.splits == NO_SPLIT:
            whole = self._split_of(self._construct("train"))
            kept, held = stratified_split(whole.labels.numpy(), TEST_SHARE, TEST_SEED)
            return whole.subset(torch.from_numpy(kept if which == "train" else held))
        if which != "train":
            return self._split_of(self._construct(which))
        opened, self._train = self._train, None  # the arrays live on in the split only
        train = self._split_of(self._construct("train") if opened is None else opened)
        present = len(train.labels.unique())
        if present != self._info.classes:
            raise self._bad(f"is incomplete: {present} of {self._info.classes} classes have training images")
        return train

    def _construct(self, which: str) -> Any:
        with self._reading():
            if self._info.name == "usps":  # a compressed file of any size, whose hash torchvision leaves unread
                _check_usps(self._root / self._adapter.folder, which)
            return _construct(self._adapter, self._root, self._adapter.parts[which])

    def _split_of(self, dataset: Any) -> Split:
        with self._reading():
            labels = torch.as_tensor(np.asarray(_labels(self._info.name, dataset, self._adapter)), dtype=torch.int64)
            files = _image_files(self._info.name, dataset, self._adapter)
            if files is not None:
                pixels: Any = FilePixels(files, self._size, self._adapter.fit, base=self._root)
            else:
                pixels = ArrayPixels(self._in_memory(dataset, len(labels)))
        assert self._info.classes is not None
        if len(labels) and (labels.min() < 0 or labels.max() >= self._info.classes):
            raise self._bad(
                f"holds labels {int(labels.min())}..{int(labels.max())} (allowed: 0..{self._info.classes - 1})"
            )
        return Split(pixels, labels)

    def _in_memory(self, dataset: Any, count: int) -> Tensor:
        """uint8 (N, C, size, size), `count` of them."""
        images = torch.as_tensor(getattr(dataset, self._adapter.images))
        if images.dtype != torch.uint8 or len(images) != count:
            raise self._bad(f"holds {len(images)} images of {images.dtype} for {count} labels")
        if images.ndim == 3:
            images = images[:, None]
        elif images.shape[3] == 3:
            images = images.permute(0, 3, 1, 2)
        if self._info.name == "emnist":
            images = images.transpose(2, 3)  # stored with rows and columns exchanged
        border = (self._size - images.shape[2]) // 2
        if border < 0 or images.shape[2] != images.shape[3]:
            raise self._bad(f"holds images {tuple(images.shape[1:])} (allowed: up to {self._size}x{self._size})")
        return F.pad(images, (border,) * 4).contiguous()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except RtkError:
            raise
        except Exception as problem:  # a foreign library on foreign files: any error means that they are damaged
            raise self._bad(f"cannot be read ({_reason(problem)})") from None

    def _bad(self, reason: str) -> BadData:
        name = self._info.name
        return BadData(f"Data set '{name}' in {self._root} {reason}.", _download_command(name, self._root))


def fetch(info: DatasetInfo, root: Path) -> Path:
    """Download every split into `root` and return it; RunFailed when that does not work. Does nothing twice."""
    adapter = ADAPTERS[info.name]
    root.mkdir(parents=True, exist_ok=True)
    for arguments in adapter.parts.values():
        try:
            with _kept_inside():
                _construct(adapter, root, {**arguments, "download": True})
        except Exception as problem:  # no network, no space, a moved or changed file: as many types as libraries
            message = f"Download of '{info.name}' to {root} failed ({_reason(problem)})."
            raise RunFailed(message, _download_command(info.name, root)) from None
    return root


def _construct(adapter: Adapter, root: Path, arguments: Arguments) -> Any:
    import torchvision.datasets

    return getattr(torchvision.datasets, adapter.cls)(str(root / adapter.folder), **adapter.arguments, **arguments)


@contextmanager
def _kept_inside() -> Iterator[None]:
    """Archives that are unpacked meanwhile put nothing outside of their folder, whatever torchvision asks for."""
    before = vars(tarfile.TarFile)["extraction_filter"]
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = before


def _class_names(dataset: Any) -> tuple[str, ...] | None:
    names = getattr(dataset, "classes", None) or getattr(dataset, "categories", None)
    return None if names is None else tuple(str(name) for name in names)


def _check_usps(folder: Path, which: str) -> None:
    from torchvision.datasets import USPS
    from torchvision.datasets.utils import check_integrity

    _, name, published = USPS.split_list[which]
    if not check_integrity(str(folder / name), published):
        raise ValueError(f"{name} is not the file that was published, MD5 {published}")


def _labels(name: str, dataset: Any, adapter: Adapter) -> Any:
    if name == "gtsrb":
        return [label for _, label in dataset._samples]
    labels = getattr(dataset, adapter.labels)
    return labels[:, 0] if name == "qmnist" else labels  # qmnist: the class, then where the digit comes from


def _image_files(name: str, dataset: Any, adapter: Adapter) -> list[Path] | None:
    """The files of the images, or None when they are in memory."""
    if name == "gtsrb":
        return [Path(file) for file, _ in dataset._samples]
    if name == "eurosat":
        return [Path(file) for file, _ in dataset.samples]
    if name in ("caltech101", "caltech256"):
        return [
            _caltech_file(name, dataset, label, index) for label, index in zip(dataset.y, dataset.index, strict=True)
        ]
    if adapter.images == "data":
        return None
    return [Path(file) for file in getattr(dataset, adapter.images)]


def _caltech_file(name: str, dataset: Any, label: int, index: int) -> Path:
    category = dataset.categories[label]
    if name == "caltech101":
        return Path(dataset.root, "101_ObjectCategories", category, f"image_{index:04d}.jpg")
    return Path(dataset.root, "256_ObjectCategories", category, f"{label + 1:03d}_{index:04d}.jpg")


def _reason(problem: Exception) -> str:
    """The first line of an error, without torchvision's advice on its own arguments."""
    text = str(problem).partition(" You can use")[0]
    return text.splitlines()[0].removesuffix(".") if text else type(problem).__name__


def _download_command(name: str, root: Path) -> str:
    return f"rtk datasets download {name} --data-root {root}"
