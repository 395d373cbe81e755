"""Which data sets can be opened by name; imports nothing heavy, so that a listing is instant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Augmentation = Literal["none", "crop", "crop-flip"]
Kind = Literal["embedded", "torchvision", "file"]

VAL_CUT = "val is cut from train"
OWN_VAL = "own val split"
NO_SPLIT = "no official split: a fixed class-stratified 80/20 train/test cut; val is cut from train"


@dataclass(frozen=True)
class DatasetInfo:
    """One row of `rtk datasets`."""

    name: str
    kind: Kind
    classes: int | None
    """None where the files decide."""
    image_size: int | None
    """Height and width in pixels by default; None where the files decide."""
    augment: Augmentation
    """The default augmentation of training images that keeps the label."""
    origin: str
    splits: str

    @property
    def resizable(self) -> bool:
        """Whether images are decoded from files, so that another image size can be asked for."""
        return self.name in RESIZABLE


RESIZABLE = frozenset(
    (
        *("folder:PATH", "gtsrb", "eurosat", "flowers102", "oxford-iiit-pet", "dtd", "food101", "fgvc-aircraft"),
        *("caltech101", "caltech256"),
    )
)


def _tv(name: str, classes: int, size: int, augment: Augmentation, origin: str, splits: str = VAL_CUT) -> DatasetInfo:
    return DatasetInfo(name, "torchvision", classes, size, augment, origin, splits)


# Digits, letters and traffic signs change their meaning in a mirror, so they are cropped but not flipped. `fashion` is
# not augmented: its images are centred, the embedded backbone was trained without, and moving them is a shift for it.
CATALOGUE: tuple[DatasetInfo, ...] = (
    DatasetInfo("fashion", "embedded", 10, 32, "none", "in the wheel: 12,000 images of Fashion-MNIST (MIT)", OWN_VAL),
    DatasetInfo(
        "signs", "embedded", 10, 32, "crop", "in the wheel: Sign-Language-Digits, Mavi 2020 (Apache-2.0)", VAL_CUT
    ),
    _tv("cifar10", 10, 32, "crop-flip", "Krizhevsky 2009"),
    _tv("cifar100", 100, 32, "crop-flip", "Krizhevsky 2009"),
    _tv("svhn", 10, 32, "crop", "Netzer et al. 2011"),
    _tv("stl10", 10, 96, "crop-flip", "Coates et al. 2011"),
    _tv("gtsrb", 43, 32, "crop", "Stallkamp et al. 2012, whole image resized to a square"),
    _tv("flowers102", 102, 224, "crop-flip", "Nilsback and Zisserman 2008", OWN_VAL),
    _tv("oxford-iiit-pet", 37, 224, "crop-flip", "Parkhi et al. 2012"),
    _tv("dtd", 47, 224, "crop-flip", "Cimpoi et al. 2014, partition 1", OWN_VAL),
    _tv("food101", 101, 224, "crop-flip", "Bossard et al. 2014"),
    _tv("fgvc-aircraft", 100, 224, "crop-flip", "Maji et al. 2013, variants", OWN_VAL),
    _tv("eurosat", 10, 64, "crop-flip", "Helber et al. 2019", NO_SPLIT),
    _tv("caltech101", 101, 224, "crop-flip", "Fei-Fei et al. 2004, without the background class", NO_SPLIT),
    _tv("caltech256", 257, 224, "crop-flip", "Griffin et al. 2007, with the clutter class", NO_SPLIT),
    _tv("mnist", 10, 32, "crop", "LeCun et al. 1998, padded from 28x28"),
    _tv("fashion-mnist", 10, 32, "crop-flip", "Xiao et al. 2017, padded from 28x28"),
    _tv("kmnist", 10, 32, "crop", "Clanuwat et al. 2018, padded from 28x28"),
    _tv("emnist", 47, 32, "crop", "Cohen et al. 2017, 'balanced', upright, padded from 28x28"),
    _tv("qmnist", 10, 32, "crop", "Yadav and Bottou 2019, 60,000 test digits, padded from 28x28"),
    _tv("usps", 10, 16, "crop", "Hull 1994"),
    DatasetInfo("npz:FILE", "file", None, None, "crop", "arrays x_train, y_train, x_test, y_test", VAL_CUT),
    DatasetInfo("folder:PATH", "file", None, 224, "crop-flip", "PATH/train/CLASS/*.jpg, also test/, val/", VAL_CUT),
)


def list_datasets() -> list[DatasetInfo]:
    """Every data set that can be opened, in the order in which it is listed; `npz:FILE` and `folder:PATH` come last."""
    return list(CATALOGUE)


def find_info(name: str) -> DatasetInfo | None:
    """The catalogue's row of this name, or None."""
    return next((info for info in CATALOGUE if info.name == name), None)
