"""npz files: layouts, laziness, and every refusal."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from rtk.data import open_dataset
from rtk.errors import BadData, BadValue


def arrays(count: int = 24, size: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8),
        "y_train": np.arange(count) % 3,
        "x_test": rng.integers(0, 256, (9, size, size, 3), dtype=np.uint8),
        "y_test": np.arange(9) % 3,
    }


def save(tmp_path: Path, **changes: object) -> str:
    """Save valid arrays with some replaced; None leaves one out."""
    content = {key: value for key, value in {**arrays(), **changes}.items() if value is not None}
    np.savez_compressed(tmp_path / "mine.npz", **content)
    return f"npz:{tmp_path / 'mine.npz'}"


def test_values_and_split(tmp_path):
    uri = save(tmp_path)
    data = open_dataset(uri, val_fraction=0.25)
    assert (data.uri, data.name, data.num_classes, data.class_names) == (uri, "mine", 3, None)
    assert data.image_shape == (3, 8, 8) and data.augment == "crop"
    train, val, test = (data.split(which) for which in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (18, 6, 9)
    assert val.labels.bincount().tolist() == [2, 2, 2]
    expected = torch.from_numpy(arrays()["x_test"]).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(test.images(slice(None)), expected)


def test_all_layouts_are_the_same_images(tmp_path):
    original = arrays()
    expected = open_dataset(save(tmp_path)).split("train").images(slice(None))

    def opened(change) -> torch.Tensor:
        uri = save(tmp_path, x_train=change(original["x_train"]), x_test=change(original["x_test"]))
        return open_dataset(uri).split("train").images(slice(None))

    assert torch.equal(opened(lambda x: x.transpose(0, 3, 1, 2)), expected)
    assert torch.equal(opened(lambda x: (x / 255).astype(np.float32)), expected)
    assert torch.allclose(opened(lambda x: (x / 255).astype(np.float64)), expected)
    assert opened(lambda x: (x / 255).astype(np.float16)).dtype == torch.float32
    grey = opened(lambda x: x[..., 0])
    assert torch.equal(grey, expected[:, :1].expand(-1, 3, -1, -1))
    assert torch.equal(opened(lambda x: x[..., :1]), grey)
    assert torch.equal(opened(lambda x: x[:, None, :, :, 0]), grey)


def test_own_val_split_and_class_names(tmp_path):
    original = arrays()
    uri = save(
        tmp_path, x_val=original["x_test"][:4], y_val=np.array([0, 1, 1, 2]), classes=np.array(["a", "b", "c", "d"])
    )
    data = open_dataset(uri)
    assert data.class_names == ("a", "b", "c", "d") and data.num_classes == 4
    assert len(data.split("train")) == 24 and len(data.split("val")) == 4


def test_test_arrays_are_not_read_before_they_are_asked_for(tmp_path):
    uri = save(tmp_path)
    path = Path(uri.removeprefix("npz:"))
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("x_test.npy").header_offset
    content = bytearray(path.read_bytes())
    content[start + 200 : start + 900] = bytes(700)
    path.write_bytes(content)
    data = open_dataset(uri)
    assert len(data.split("train")) + len(data.split("val")) == 24
    with pytest.raises(BadData, match=r"x_test cannot be read"):
        data.split("test")


def test_image_size_must_agree(tmp_path):
    uri = save(tmp_path)
    assert open_dataset(uri, image_size=8).image_shape == (3, 8, 8)
    with pytest.raises(BadValue, match="--image-size: got 32, but the images"):
        open_dataset(uri, image_size=32)


def ragged() -> np.ndarray:
    images = np.empty(24, dtype=object)
    images[:] = [np.zeros((8, 8 + index % 2, 3), np.uint8) for index in range(24)]
    return images


def nan_images() -> np.ndarray:
    images = arrays()["x_train"] / 255
    images[3, 2, 1, 0] = np.nan
    return images


X, Y = arrays()["x_train"], arrays()["y_train"]
REFUSED = {
    "missing array": ({"y_test": None}, "lacks y_test .*found: x_test, x_train, y_train"),
    "raw floats": ({"x_train": X.astype(np.float32)}, r"values from 0 to 255 .*neither floats in 0\.\.255"),
    "standardised": ({"x_train": X / 127.5 - 1}, "values from -1 to 1 .*nor standardised"),
    "nan": ({"x_train": nan_images()}, "NaN or infinity"),
    "infinity": ({"x_train": np.where(X.max() == X, np.inf, X / 255)}, "NaN or infinity"),
    "integers": ({"x_train": X.astype(np.int64)}, "x_train is int64 "),
    "cast to 0 and 1": ({"x_train": (X > 99).astype(np.uint8)}, "nothing above 1"),
    "negative label": ({"y_train": Y - 1}, "labels -1..1"),
    "labels from one": ({"y_train": Y + 1}, "up to 3 but no 0"),
    "label above names": ({"classes": np.array(["a", "b"])}, r"labels 0\.\.2 \(allowed: 0\.\.1"),
    "float labels": ({"y_train": Y / 1}, "y_train is float64"),
    "one-hot labels": ({"y_train": np.eye(3, dtype=int)[Y]}, r"shape \(24, 3\)"),
    "lengths": ({"y_train": Y[:-1]}, "24 images but y_train 23"),
    "no images": ({"x_train": X[:0], "y_train": Y[:0]}, "y_train is empty"),
    "no pixels": ({"x_train": X[:, :0]}, "x_train is empty"),
    "one class": ({"y_train": Y * 0}, "only class 0"),
    "ragged": ({"x_train": ragged()}, "Python objects"),
    "object labels": ({"y_train": Y.astype(object)}, "Python objects"),
    "flat": ({"x_train": X.reshape(24, -1)}, r"shape \(24, 192\)"),
    "four channels": ({"x_train": np.concatenate([X, X[..., :1]], -1)}, r"shape \(24, 8, 8, 4\)"),
    "ambiguous": ({"x_train": X[:, :3]}, r"shape \(24, 3, 8, 3\)"),
    "val without labels": ({"x_val": X}, "only one of x_val and y_val"),
    "same name twice": ({"classes": np.array(["a", "a", "b"])}, "distinct names"),
    "object names": ({"classes": np.array(["a", "b", None], dtype=object)}, "Python objects"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path, case):
    changes, words = REFUSED[case]
    uri = save(tmp_path, **changes)
    with pytest.raises(BadData, match=words) as caught:
        open_dataset(uri).split("train")
    message = str(caught.value)
    assert "\n" not in message and str(tmp_path / "mine.npz") in message


TEST_REFUSED = {
    "other size": ({"x_test": X[:9, :4, :4]}, "x_test holds 4x4 images"),
    "label": ({"y_test": np.arange(9)}, r"y_test holds labels 0\.\.8 \(allowed: 0\.\.2"),
    "empty": ({"x_test": X[:0], "y_test": Y[:0]}, "x_test is empty|y_test is empty"),
    "range": ({"x_test": X[:9] / 1}, "x_test holds values"),
}


@pytest.mark.parametrize("case", TEST_REFUSED)
def test_refused_when_test_is_opened(tmp_path, case):
    changes, words = TEST_REFUSED[case]
    data = open_dataset(save(tmp_path, **changes))
    data.split("train"), data.split("val")
    with pytest.raises(BadData, match=words):
        data.split("test")


@pytest.mark.parametrize("keep", [0, 10, 500, -40])
def test_truncated_file(tmp_path, keep):
    path = Path(save(tmp_path).removeprefix("npz:"))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BadData, match="truncated or not an npz file") as caught:
        open_dataset(f"npz:{path}")
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(BadData, match="no such file"):
        open_dataset(f"npz:{tmp_path / 'none.npz'}")
    with pytest.raises(BadData, match="no such file"):
        open_dataset(f"npz:{tmp_path}")


def test_nothing_to_cut_val_from(tmp_path):
    uri = save(tmp_path, x_train=X[:3], y_train=np.arange(3))
    with pytest.raises(BadData, match="no class has two training images"):
        open_dataset(uri).split("train")


def test_a_named_data_set_may_lie_in_the_data_root_as_an_npz(tmp_path):
    rng = np.random.default_rng(0)
    content = {}
    for part, count in (("train", 40), ("test", 20)):
        content[f"x_{part}"] = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        content[f"y_{part}"] = np.arange(count) % 10
    np.savez(tmp_path / "cifar10.npz", **content)
    data = open_dataset("cifar10", root=tmp_path)
    assert (data.name, data.num_classes, data.augment) == ("cifar10", 10, "crop-flip")
    assert len(data.split("train")) + len(data.split("val")) == 40
    np.savez(tmp_path / "cifar100.npz", **content)
    with pytest.raises(BadData, match="holds 10 classes"):
        open_dataset("cifar100", root=tmp_path)
