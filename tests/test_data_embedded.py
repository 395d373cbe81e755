"""The data that ships in the wheel."""

from __future__ import annotations

import importlib.resources
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import rtk.data.embedded as embedded
from rtk.data import list_datasets, open_dataset
from rtk.errors import BadData, BadValue, UnknownName

ASSETS = Path(str(importlib.resources.files("rtk"))) / "assets"


@pytest.mark.parametrize(
    ("name", "sizes", "augment"),
    [
        ("fashion", {"train": 8000, "val": 1500, "test": 2500}, "none"),
        ("signs", {"train": 1391, "val": 156, "test": 515}, "crop"),
    ],
)
def test_embedded_data_set(name, sizes, augment):
    data = open_dataset(name)
    assert (data.uri, data.name, data.num_classes, data.augment) == (name, name, 10, augment)
    assert data.image_shape == (3, 32, 32) and len(data.class_names) == 10
    hashes = set()
    for which, size in sizes.items():
        split = data.split(which)
        assert split is data.split(which) and len(split) == size and split.labels.dtype == torch.int64
        counts = split.labels.bincount(minlength=10)
        assert counts.max() - counts.min() <= 3
        images = split.images(slice(0, 100))
        assert images.shape == (100, 3, 32, 32) and images.min() >= 0 and 0.5 < images.max() <= 1
        hashes.add(split.sha256)
    assert len(hashes) == 3


def test_splits_share_no_image():
    for name in ("fashion", "signs"):
        seen: set[bytes] = set()
        total = 0
        for which in ("train", "val", "test"):
            split = open_dataset(name).split(which)
            images = (split.images(slice(None)) * 255).byte()
            seen |= {image.numpy().tobytes() for image in images}
            total += len(split)
        assert total == len(seen), name


def test_any_prefix_is_balanced_and_any_split_seed_repeats():
    train = open_dataset("fashion").split("train")
    assert train.labels[:10].tolist() == list(range(10))
    one, two = (open_dataset("signs", split_seed=seed, val_fraction=0.2).split("val") for seed in (0, 1))
    assert len(one) == len(two) and one.sha256 != two.sha256
    assert one.sha256 == open_dataset("signs", split_seed=0, val_fraction=0.2).split("val").sha256


def test_opening_is_fast():
    open_dataset("signs").split("train")  # imports
    start = time.perf_counter()
    open_dataset("fashion").split("train")
    assert time.perf_counter() - start < 1.5  # 0.15 s on an idle machine


def test_decoded_arrays_match_the_record():
    for name in ("fashion", "signs"):
        index = json.loads((ASSETS / f"{name}.json").read_text())
        for which in ("train", "val", "test"):
            if which in index:
                images, labels = embedded.read_split(name, which)
                assert embedded.arrays_sha256(images, labels) == index[which]["sha256"]
                assert np.bincount(labels).tolist() == index[which]["counts"]


@pytest.mark.parametrize("damage", ["missing", "truncated", "other"])
def test_damage_is_named(monkeypatch, damage):
    original = embedded._asset

    def damaged(file: str) -> bytes:
        content = original(file)
        if file != "signs-test.webp":
            return content
        if damage == "missing":
            raise embedded._broken(file, "No such file or directory")
        return content[:1000] if damage == "truncated" else original("signs-train.webp")

    monkeypatch.setattr(embedded, "_asset", damaged)
    data = open_dataset("signs")
    data.split("train"), data.split("val")
    with pytest.raises(BadData, match=r"rtk/assets/signs-test\.webp is damaged") as caught:
        data.split("test")
    assert caught.value.hint == "pip install --force-reinstall rtk" and "\n" not in str(caught.value)


def test_missing_asset_is_named():
    with pytest.raises(BadData, match=r"rtk/assets/nothing\.json is damaged: No such file"):
        embedded.read_index("nothing")


def load_script():
    """benchmarks/embedded_data.py as a module; it is a script and not part of a package."""
    script = Path(__file__).parent.parent / "benchmarks" / "embedded_data.py"
    spec = importlib.util.spec_from_file_location("embedded_data", script)
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    return make


def test_script_writes_what_is_read(tmp_path, monkeypatch):
    """Mosaics of another size than a whole number of rows, grey and colour, come back tile by tile."""
    make = load_script()
    rng = np.random.default_rng(0)
    labels = np.repeat(np.array([0, 1, 2], np.uint8), [40, 1, 20])
    for channels in (1, 3):
        images = rng.integers(0, 256, (61, 6, 4, channels), dtype=np.uint8)
        for folder in ("one", "two"):
            (tmp_path / folder).mkdir(exist_ok=True)
            make.write("noise", {"train": (images, labels)}, ("a", "b", "c"), tmp_path / folder)
        for file in (tmp_path / "one").iterdir():
            assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
        monkeypatch.setattr(embedded, "_asset", lambda file: (tmp_path / "one" / file).read_bytes())
        read, read_labels = embedded.read_split("noise", "train")
        assert read_labels[:7].tolist() == [0, 1, 2, 0, 2, 0, 2]
        order = np.argsort(read_labels, kind="stable")
        assert np.array_equal(read[order], images) and np.array_equal(read_labels[order], labels)


def test_script_chooses_disjoint_images_of_each_class():
    make = load_script()
    labels = np.tile(np.arange(10, dtype=np.uint8), 30)
    parts = [make.first_of_each_class(labels, start, stop) for start, stop in ((0, 8), (8, 20))]
    assert [np.bincount(labels[part]).tolist() for part in parts] == [[8] * 10, [12] * 10]
    assert not set(parts[0]) & set(parts[1])


def test_assets_stay_small_and_licensed():
    data = [file for file in ASSETS.rglob("*") if file.suffix in (".webp", ".json", ".md", ".txt")]
    assert sum(file.stat().st_size for file in data) < 7_600_000
    notice = (ASSETS / "NOTICE.md").read_text(encoding="utf-8")
    for name in ("MIT-Fashion-MNIST.txt", "Apache-2.0.txt"):
        assert name in notice and (ASSETS / "LICENSES" / name).stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"uri": "fahsion"}, UnknownName, "Did you mean 'fashion'"),
        ({"uri": "cifar-10"}, UnknownName, "Did you mean 'cifar10'"),
        ({"uri": ""}, UnknownName, "Unknown data set ''"),
        ({"uri": "npz"}, UnknownName, "Unknown data set 'npz'"),
        ({"uri": "hf:mnist"}, UnknownName, "Unknown data set scheme 'hf'.*folder, npz"),
        ({"uri": "folder:"}, BadValue, "nothing after the colon"),
        ({"uri": "mine.npz"}, UnknownName, "Try: npz:mine.npz"),
        ({"uri": "fashion", "image_size": 224}, BadValue, "--image-size: got 224, but .* 32 pixels"),
        ({"uri": "fashion", "image_size": 3}, BadValue, "allowed: 8 to"),
        ({"uri": "fashion", "val_fraction": 1.0}, BadValue, "--val-fraction: got 1.0"),
    ],
)
def test_bad_requests(arguments, error, words):
    with pytest.raises(error, match=words) as caught:
        open_dataset(arguments.pop("uri"), **arguments)
    assert "\n" not in str(caught.value)


def test_unknown_split():
    with pytest.raises(UnknownName, match=r"Unknown split 'tets'\. Did you mean 'test'"):
        open_dataset("signs").split("tets")


def test_listing_and_usage_errors_import_no_torch():
    code = """
import sys
from rtk.data import list_datasets, open_dataset
from rtk.errors import RtkError
assert len({info.name for info in list_datasets()}) == 23
for uri in ("fahsion", "npz:", "hf:x"):
    try:
        open_dataset(uri)
    except RtkError:
        pass
    else:
        raise AssertionError(uri)
assert not {"torch", "torchvision", "numpy", "PIL"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_catalogue_is_consistent():
    from rtk.data.augment import AUGMENTATIONS
    from rtk.data.vision import ADAPTERS

    rows = list_datasets()
    assert {row.name for row in rows if row.kind == "torchvision"} == set(ADAPTERS)
    assert all(row.augment in AUGMENTATIONS and row.origin and row.splits for row in rows)
