"""Adapters of torchvision's data sets, on small files in the real formats."""

from __future__ import annotations

import bz2
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from rtk.data import data_root, download, list_datasets, open_dataset
from rtk.data.catalogue import NO_SPLIT, find_info
from rtk.errors import BadData, BadValue, RunFailed, UnknownName

PER_CLASS = 3
RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def labels_for(classes: int) -> np.ndarray:
    return np.tile(np.arange(classes), PER_CLASS)


def picture(file: Path, width: int = 12, height: int = 9) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(height, width, 3)).save(file)


def cifar(root: Path, folder: str, batches: list[str], key: str, meta: tuple[str, str], classes: int) -> None:
    (root / folder).mkdir()
    for name in batches:
        labels = labels_for(classes)
        entry = {"data": noise(len(labels), 3072), key: labels.tolist()}
        (root / folder / name).write_bytes(pickle.dumps(entry))
    names = {meta[1]: [f"class {index}" for index in range(classes)]}
    (root / folder / meta[0]).write_bytes(pickle.dumps(names))


def cifar10(root: Path) -> None:
    batches = [*(f"data_batch_{index}" for index in range(1, 6)), "test_batch"]
    cifar(root, "cifar-10-batches-py", batches, "labels", ("batches.meta", "label_names"), 10)


def cifar100(root: Path) -> None:
    batches = ["train", "test"]
    cifar(root, "cifar-100-python", batches, "fine_labels", ("meta", "fine_label_names"), 100)


def svhn(root: Path) -> None:
    for which in ("train", "test"):
        (root / "svhn").mkdir(exist_ok=True)
        labels = labels_for(10) + 1  # the file calls the digit 0 "10"
        content = {"X": noise(32, 32, 3, len(labels)), "y": labels[:, None].astype(np.uint8)}
        scipy.io.savemat(root / "svhn" / f"{which}_32x32.mat", content)


def stl10(root: Path) -> None:
    (root / "stl10_binary").mkdir()
    for which in ("train", "test"):
        labels = labels_for(10)
        noise(len(labels), 3, 96, 96).tofile(root / "stl10_binary" / f"{which}_X.bin")
        (labels + 1).astype(np.uint8).tofile(root / "stl10_binary" / f"{which}_y.bin")
    (root / "stl10_binary" / "unlabeled_X.bin").write_bytes(b"")


def gtsrb(root: Path) -> None:
    base = root / "gtsrb"
    for label in range(43):
        for index in range(PER_CLASS):
            picture(base / "GTSRB" / "Training" / f"{label:05d}" / f"{index:05d}.ppm", 20, 40)
    rows = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for index in range(5):
        picture(base / "GTSRB" / "Final_Test" / "Images" / f"{index:05d}.ppm", 40, 20)
        rows.append(f"{index:05d}.ppm;40;20;0;0;1;1;{42 - index}")
    (base / "GT-final_test.csv").write_text("\n".join(rows) + "\n")


def flowers102(root: Path) -> None:
    base = root / "flowers-102"
    labels = np.concatenate([labels_for(102)[: 2 * 102], np.arange(102)])
    for index in range(len(labels)):
        picture(base / "jpg" / f"image_{index + 1:05d}.jpg")
    scipy.io.savemat(base / "imagelabels.mat", {"labels": labels[None] + 1})
    thirds = np.split(np.arange(1, len(labels) + 1), 3)
    scipy.io.savemat(base / "setid.mat", dict(zip(("trnid", "valid", "tstid"), (t[None] for t in thirds), strict=True)))


def pets(root: Path) -> None:
    base = root / "oxford-iiit-pet"
    (base / "annotations").mkdir(parents=True)
    for which in ("trainval", "test"):
        rows = []
        for label in range(37):
            for index in range(2):
                name = f"breed_{label:02d}_{which}{index}"
                picture(base / "images" / f"{name}.jpg")
                rows.append(f"{name} {label + 1} 1 1")
        (base / "annotations" / f"{which}.txt").write_text("\n".join(rows) + "\n")


def dtd(root: Path) -> None:
    base = root / "dtd" / "dtd"
    (base / "labels").mkdir(parents=True)
    for which in ("train", "val", "test"):
        names = [f"texture{label:02d}/{which}.jpg" for label in range(47)]
        for name in names:
            picture(base / "images" / name)
        (base / "labels" / f"{which}1.txt").write_text("\n".join(names) + "\n")


def food101(root: Path) -> None:
    base = root / "food-101"
    (base / "meta").mkdir(parents=True)
    for which in ("train", "test"):
        meta = {f"dish{label:03d}": [f"dish{label:03d}/{which}{index}" for index in range(2)] for label in range(101)}
        for names in meta.values():
            for name in names:
                picture(base / "images" / f"{name}.jpg")
        (base / "meta" / f"{which}.json").write_text(json.dumps(meta))


def aircraft(root: Path) -> None:
    base = root / "fgvc-aircraft-2013b" / "data"
    (base / "images").mkdir(parents=True)
    variants = [f"Type {index:03d}" for index in range(100)]
    (base / "variants.txt").write_text("\n".join(variants) + "\n")
    for which in ("train", "val", "test"):
        rows = []
        for index, variant in enumerate(variants):
            picture(base / "images" / f"{which}{index}.jpg")
            rows.append(f"{which}{index} {variant}")
        (base / f"images_variant_{which}.txt").write_text("\n".join(rows) + "\n")


def eurosat(root: Path) -> None:
    for label in range(10):
        for index in range(5):
            picture(root / "eurosat" / "2750" / f"Land{label}" / f"Land{label}_{index}.jpg", 64, 64)


def caltech101(root: Path) -> None:
    for category in ["BACKGROUND_Google", *(f"thing{label:03d}" for label in range(101))]:
        for index in range(PER_CLASS):
            picture(root / "caltech101" / "101_ObjectCategories" / category / f"image_{index + 1:04d}.jpg")


def caltech256(root: Path) -> None:
    for label in range(257):
        for index in range(PER_CLASS):
            folder = root / "caltech256" / "256_ObjectCategories" / f"{label + 1:03d}.thing"
            picture(folder / f"{label + 1:03d}_{index + 1:04d}.jpg")


def write_idx(file: Path, array: np.ndarray) -> None:
    """The idx format of MNIST: type and number of axes, lengths, then the values, all big-endian."""
    file.parent.mkdir(parents=True, exist_ok=True)
    kind = {1: 8, 4: 12}[array.dtype.itemsize]
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape)
    file.write_bytes(header + array.astype(array.dtype.newbyteorder(">")).tobytes())


def mnist(cls: str, classes: int = 10, train: str = "train", test: str = "t10k") -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        labels = labels_for(classes).astype(np.uint8)
        for stem in (train, test):
            write_idx(root / cls / "raw" / f"{stem}-images-idx3-ubyte", noise(len(labels), 28, 28))
            write_idx(root / cls / "raw" / f"{stem}-labels-idx1-ubyte", labels)

    return plant


def qmnist(root: Path) -> None:
    labels = np.zeros((10 * PER_CLASS, 8), np.int32)
    labels[:, 0], labels[:, 1] = labels_for(10), 77
    for stem in ("train", "test"):
        write_idx(root / "QMNIST" / "raw" / f"qmnist-{stem}-images-idx3-ubyte", noise(len(labels), 28, 28))
        write_idx(root / "QMNIST" / "raw" / f"qmnist-{stem}-labels-idx2-int", labels)


def usps(root: Path) -> None:
    (root / "usps").mkdir()
    for name in ("usps.bz2", "usps.t.bz2"):
        rows = [
            " ".join(
                [str(label + 1), *(f"{index + 1}:{value / 127.5 - 1:.6f}" for index, value in enumerate(noise(256)))]
            )
            for label in labels_for(10)
        ]
        (root / "usps" / name).write_bytes(bz2.compress("\n".join(rows).encode()))


PLANT: dict[str, Callable[[Path], None]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "svhn": svhn,
    "stl10": stl10,
    "gtsrb": gtsrb,
    "flowers102": flowers102,
    "oxford-iiit-pet": pets,
    "dtd": dtd,
    "food101": food101,
    "fgvc-aircraft": aircraft,
    "eurosat": eurosat,
    "caltech101": caltech101,
    "caltech256": caltech256,
    "mnist": mnist("MNIST"),
    "fashion-mnist": mnist("FashionMNIST"),
    "kmnist": mnist("KMNIST"),
    "emnist": mnist("EMNIST", 47, "emnist-balanced-train", "emnist-balanced-test"),
    "qmnist": qmnist,
    "usps": usps,
}


@pytest.fixture(autouse=True)
def no_checksums(monkeypatch):
    """torchvision compares checksums with the real files; here it is enough that a file is there."""
    for module in ("cifar", "svhn", "stl10", "flowers102", "utils"):
        monkeypatch.setattr(
            f"torchvision.datasets.{module}.check_integrity", lambda path, md5=None: Path(path).is_file()
        )


def test_every_name_is_planted():
    assert set(PLANT) == {info.name for info in list_datasets() if info.kind == "torchvision"}


@pytest.mark.parametrize("name", PLANT)
def test_adapter(tmp_path, name):
    PLANT[name](tmp_path)
    info = find_info(name)
    size = 16 if info.image_size == 224 else info.image_size  # decoded small, to be quick
    data = open_dataset(name, root=tmp_path, image_size=size, val_fraction=0.34)
    assert data.num_classes == info.classes and data.augment == info.augment and data.image_shape == (3, size, size)
    assert data.class_names is None or len(data.class_names) == info.classes
    for which in ("train", "val", "test"):
        split = data.split(which)
        images = split.images(slice(0, 3))
        assert images.shape == (3, 3, size, size) and images.dtype == torch.float32
        assert images.min() >= 0 and 0.5 < images.max() <= 1
        assert split.labels.dtype == torch.int64 and len(split.sha256) == 64
    assert len(data.split("train").labels.unique()) == info.classes
    assert len({data.split(which).sha256 for which in ("train", "val", "test")}) == 3


def test_cifar_pixels(tmp_path):
    cifar10(tmp_path)
    entry = pickle.loads((tmp_path / "cifar-10-batches-py" / "test_batch").read_bytes())
    test = open_dataset("cifar10", root=tmp_path).split("test")
    stored = torch.from_numpy(entry["data"]).view(-1, 3, 32, 32).float() / 255
    assert torch.equal(test.images(slice(None)), stored) and test.labels.tolist() == entry["labels"]
    assert open_dataset("cifar10", root=tmp_path).class_names[3] == "class 3"


def test_digits_are_padded_and_emnist_is_upright(tmp_path):
    for name in ("mnist", "emnist"):
        PLANT[name](tmp_path)
    raw = (tmp_path / "EMNIST" / "raw" / "emnist-balanced-test-images-idx3-ubyte").read_bytes()[16:]
    stored = torch.tensor(list(raw[: 28 * 28])).view(28, 28).float() / 255
    image = open_dataset("emnist", root=tmp_path).split("test").images([0])[0]
    assert torch.equal(image[1, 2:30, 2:30], stored.T)
    raw = (tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()[16:]
    stored = torch.tensor(list(raw[: 28 * 28])).view(28, 28).float() / 255
    image = open_dataset("mnist", root=tmp_path).split("test").images([0])[0]
    assert torch.equal(image[2, 2:30, 2:30], stored) and image[:, :2].sum() == image[:, :, 30:].sum() == 0


def test_test_labels_of_gtsrb_and_stretched_images(tmp_path):
    gtsrb(tmp_path)
    test = open_dataset("gtsrb", root=tmp_path).split("test")
    assert test.labels.tolist() == [42, 41, 40, 39, 38]
    stored = Image.open(tmp_path / "gtsrb" / "GTSRB" / "Final_Test" / "Images" / "00000.ppm")
    expected = np.array(stored.resize((32, 32), Image.Resampling.BILINEAR))
    assert torch.equal(test.images([0])[0], torch.from_numpy(expected).permute(2, 0, 1).float() / 255)


def test_data_without_a_split_is_cut_the_same_for_every_seed(tmp_path):
    eurosat(tmp_path)
    assert find_info("eurosat").splits == NO_SPLIT
    one, two = (open_dataset("eurosat", root=tmp_path, split_seed=seed, val_fraction=0.25) for seed in (0, 1))
    assert one.split("test").sha256 == two.split("test").sha256
    assert one.split("val").sha256 != two.split("val").sha256
    assert [len(one.split(which)) for which in ("train", "val", "test")] == [30, 10, 10]
    files = [one.split(which) for which in ("train", "val", "test")]
    rows = torch.cat([split._rows for split in files])
    assert sorted(rows.tolist()) == list(range(50))


def test_the_test_file_is_not_read_before_it_is_asked_for(tmp_path):
    mnist("MNIST")(tmp_path)
    (tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte").write_bytes(b"broken")
    data = open_dataset("mnist", root=tmp_path)
    data.split("train"), data.split("val")
    with pytest.raises(BadData, match=r"Data set 'mnist' in .* cannot be read \(") as caught:
        data.split("test")
    assert "\n" not in str(caught.value)


def test_absent_data_names_folder_and_command(tmp_path, monkeypatch):
    monkeypatch.setenv("RTK_DATA", str(tmp_path))
    with pytest.raises(BadData, match=r"needed: svhn/train_32x32\.mat, svhn/test_32x32\.mat") as caught:
        open_dataset("svhn")
    assert caught.value.hint == f"rtk datasets download svhn --data-root {tmp_path}"
    monkeypatch.delenv("RTK_DATA")
    assert data_root() == Path("~/.cache/rtk/data").expanduser() and data_root(tmp_path) == tmp_path


def test_damaged_and_incomplete_data(tmp_path):
    cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").unlink()
    with pytest.raises(BadData, match=r"\(Dataset not found or corrupted\)") as caught:
        open_dataset("cifar10", root=tmp_path)
    assert "rtk datasets download cifar10" in caught.value.hint and "\n" not in str(caught.value)
    picture(tmp_path / "eurosat" / "2750" / "Forest" / "1.jpg")
    with pytest.raises(BadData, match="has 1 classes"):
        open_dataset("eurosat", root=tmp_path)
    mnist("KMNIST", 9)(tmp_path)
    with pytest.raises(BadData, match="9 of 10 classes have training images"):
        open_dataset("kmnist", root=tmp_path).split("val")


def test_image_size_only_where_images_are_decoded(tmp_path):
    cifar10(tmp_path)
    with pytest.raises(BadValue, match="--image-size"):
        open_dataset("cifar10", root=tmp_path, image_size=224)
    eurosat(tmp_path)
    assert open_dataset("eurosat", root=tmp_path).image_shape == (3, 64, 64)


def test_download(tmp_path, monkeypatch):
    asked = []

    class Fake:
        def __init__(self, root, **arguments):
            asked.append((root, arguments))

    monkeypatch.setattr("torchvision.datasets.SVHN", Fake)
    assert download("svhn", tmp_path / "new") == tmp_path / "new"
    folder = str(tmp_path / "new" / "svhn")
    assert asked == [(folder, {"split": which, "download": True}) for which in ("train", "test")]

    def offline(root, **arguments):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.SVHN", offline)
    with pytest.raises(RunFailed, match=r"Download of 'svhn' to .* failed \(no route to host\)"):
        download("svhn", tmp_path)
    with pytest.raises(UnknownName, match="Did you mean 'svhn'"):
        download("svnh", tmp_path)
    with pytest.raises(BadValue, match="'fashion' needs no download"):
        download("fashion", tmp_path)


@pytest.mark.network
def test_real_download(tmp_path):
    download("usps", tmp_path)
    assert len(open_dataset("usps", root=tmp_path).split("test")) == 2007
