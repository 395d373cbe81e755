"""Image folders: decoding, the hash, laziness, and every refusal."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rtk.data import Loader, open_dataset
from rtk.errors import BadData


def plant(folder: Path, splits=("train", "test"), classes=("cat", "dog"), count=4, size=(20, 12)) -> Path:
    """PNG files of noise; `size` is (width, height)."""
    rng = np.random.default_rng(0)
    for split in splits:
        for name in classes:
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{index}.png")
    return folder


def test_images_labels_and_names(tmp_path):
    plant(tmp_path / "pets", size=(16, 16))
    data = open_dataset(f"folder:{tmp_path / 'pets'}", image_size=16, val_fraction=0.25)
    assert data.name == "pets" and data.class_names == ("cat", "dog") and data.augment == "crop-flip"
    assert data.image_shape == (3, 16, 16)
    assert len(data.split("train")) == 6 and data.split("val").labels.tolist() == [0, 1]
    test = data.split("test")
    assert test.labels.tolist() == [0] * 4 + [1] * 4 and not test.in_memory
    stored = np.array(Image.open(tmp_path / "pets" / "test" / "dog" / "1.png"))
    assert torch.equal(test.images([5])[0], torch.from_numpy(stored).permute(2, 0, 1).float() / 255)
    assert open_dataset(f"folder:{tmp_path / 'pets'}").image_shape == (3, 224, 224)


def test_short_side_then_centre(tmp_path):
    """A wide image of three vertical stripes keeps only the middle one."""
    plant(tmp_path)
    stripes = np.zeros((10, 30, 3), np.uint8)
    stripes[:, 10:20] = 200
    Image.fromarray(stripes).save(tmp_path / "test" / "cat" / "0.png")
    Image.fromarray(stripes.transpose(1, 0, 2)).save(tmp_path / "test" / "cat" / "1.png")
    images = open_dataset(f"folder:{tmp_path}", image_size=10).split("test").images([0, 1])
    assert torch.equal(images, torch.full((2, 3, 10, 10), 200 / 255))
    small = open_dataset(f"folder:{tmp_path}", image_size=64).split("test").images(slice(None))
    assert small.shape == (8, 3, 64, 64) and small.min() >= 0 and small.max() <= 1


def test_grey_palette_and_transparent_images(tmp_path):
    plant(tmp_path)
    for index, mode in enumerate(("L", "P", "RGBA", "1")):
        Image.new("RGB", (20, 12), (255, 255, 255)).convert(mode).save(tmp_path / "train" / "cat" / f"{index}.png")
    data = open_dataset(f"folder:{tmp_path}", image_size=8, val_fraction=0.25)
    for which in ("train", "val"):
        split = data.split(which)
        assert split.images(torch.nonzero(split.labels == 0)[:, 0]).min() == 1


def test_own_val(tmp_path):
    data = open_dataset(f"folder:{plant(tmp_path, ('train', 'val', 'test'))}", image_size=8)
    assert [len(data.split(which)) for which in ("train", "val", "test")] == [8, 8, 8]


def test_cached_and_uncached_reads_agree(tmp_path, monkeypatch):
    uri = f"folder:{plant(tmp_path)}"
    cached = open_dataset(uri, image_size=8).split("test")
    first = cached.images([3, 1, 1])
    assert torch.equal(cached.images([3, 1, 1]), first)
    monkeypatch.setattr("rtk.data.files.CACHE_LIMIT", 0)
    assert torch.equal(open_dataset(uri, image_size=8).split("test").images([3, 1, 1]), first)


def test_loader_reads_ahead_in_order(tmp_path):
    train = open_dataset(f"folder:{plant(tmp_path)}", image_size=8).split("train")
    loader = Loader(train, 4, shuffle=True, augment="none", seed=1)
    batches = list(loader)
    assert [len(batch.labels) for batch in batches] == [4, len(train) - 4]
    for batch in batches:
        assert torch.equal(batch.images, train.images(batch.indices))
    (tmp_path / "train" / "cat" / "0.png").write_bytes(b"broken")
    fresh = open_dataset(f"folder:{tmp_path}", image_size=8, val_fraction=0.25).split("train")
    (tmp_path / "train" / "dog" / "0.png").write_bytes(b"broken")
    with pytest.raises(BadData, match="cannot be read"):
        list(Loader(fresh, 2, shuffle=True, seed=1))
    next(loader.epoch(0))  # an abandoned epoch must not hang


def test_hash_follows_content_and_place_is_free(tmp_path):
    plant(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    one, two = (open_dataset(f"folder:{tmp_path / name}", image_size=8).split("test") for name in ("one", "two"))
    assert one.sha256 == two.sha256
    one.images(slice(None))
    assert one.subset(slice(None)).sha256 == two.sha256
    other_size = open_dataset(f"folder:{tmp_path / 'two'}", image_size=16).split("test")
    assert other_size.sha256 != one.sha256
    Image.new("RGB", (20, 12)).save(tmp_path / "two" / "test" / "dog" / "3.png")
    assert open_dataset(f"folder:{tmp_path / 'two'}", image_size=8).split("test").sha256 != one.sha256


def test_unreadable_images_are_named_and_test_is_not_read(tmp_path):
    plant(tmp_path)
    good = (tmp_path / "test" / "cat" / "0.png").read_bytes()
    (tmp_path / "test" / "cat" / "2.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "test" / "dog" / "0.png").write_bytes(b"no image")
    data = open_dataset(f"folder:{tmp_path}", image_size=8)
    data.split("train").images(slice(None))
    test = data.split("test")
    for index, file in ((2, "2.png"), (4, "0.png")):
        with pytest.raises(BadData, match=rf"{file} cannot be read \(") as caught:
            test.images([index])
        assert "\n" not in str(caught.value)
    (tmp_path / "test" / "dog" / "1.png").unlink()
    with pytest.raises(BadData, match=r"1\.png cannot be read \(No such file"):
        test.images([5])
    with pytest.raises(BadData, match=r"1\.png cannot be read \(No such file"):
        _ = test.sha256


def test_sixteen_bits_are_refused(tmp_path):
    plant(tmp_path)
    Image.fromarray(np.full((12, 20), 40000, np.uint16)).save(tmp_path / "test" / "cat" / "0.png")
    with pytest.raises(BadData, match=r"0\.png has more than 8 bits"):
        open_dataset(f"folder:{tmp_path}", image_size=8).split("test").images([0])


def remove(*parts: str):
    return lambda folder: shutil.rmtree(folder.joinpath(*parts))


def empty(*parts: str):
    return lambda folder: [file.unlink() for file in folder.joinpath(*parts).iterdir()]


REFUSED_AT_OPENING = {
    "nothing": (lambda folder: shutil.rmtree(folder), "no such folder"),
    "no train": (remove("train"), "no folder train/ in it"),
    "no test": (remove("test"), "no folder test/ in it"),
    "one class": (lambda folder: [remove(s, "dog")(folder) for s in ("train", "test")], "holds 1 class folders"),
    "class missing in test": (remove("test", "dog"), "test: lacks dog "),
    "class added in test": (lambda folder: (folder / "test" / "cow").mkdir(), "test: adds cow "),
    "other classes in val": (
        lambda folder: (folder / "val" / "cow").mkdir(parents=True),
        "val: lacks cat, dog and adds",
    ),
}


@pytest.mark.parametrize("case", REFUSED_AT_OPENING)
def test_refused_at_opening(tmp_path, case):
    folder = plant(tmp_path / "pets")
    spoil, words = REFUSED_AT_OPENING[case]
    spoil(folder)
    with pytest.raises(BadData, match=words) as caught:
        open_dataset(f"folder:{folder}")
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_empty_class_folders(tmp_path):
    plant(tmp_path)
    empty("test", "dog")(tmp_path)
    data = open_dataset(f"folder:{tmp_path}", image_size=8)
    data.split("train")
    with pytest.raises(BadData, match="test/dog holds no images"):
        data.split("test")
    (tmp_path / "train" / ".hidden").mkdir()
    empty("train", "cat")(tmp_path)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("none")
    with pytest.raises(BadData, match="train/cat holds no images"):
        open_dataset(f"folder:{tmp_path}").split("val")


def test_linked_folders_are_read_and_hidden_ones_are_not(tmp_path):
    plant(tmp_path / "pets")
    more = tmp_path / "pets" / "more"
    shutil.copytree(tmp_path / "pets" / "train" / "cat", more)
    (tmp_path / "pets" / "train" / "cat" / "linked").symlink_to(more, target_is_directory=True)
    hidden = tmp_path / "pets" / "train" / "cat" / ".ipynb_checkpoints"
    shutil.copytree(more, hidden)
    data = open_dataset(f"folder:{tmp_path / 'pets'}", image_size=8, val_fraction=0.25)
    labels = torch.cat([data.split("train").labels, data.split("val").labels])
    assert labels.bincount().tolist() == [8, 4]


def test_a_link_that_never_ends_is_refused(tmp_path):
    plant(tmp_path)
    (tmp_path / "train" / "cat" / "again").symlink_to(tmp_path / "train", target_is_directory=True)
    with pytest.raises(BadData, match="links that end"):
        open_dataset(f"folder:{tmp_path}", image_size=8).split("train")


def test_what_would_be_left_out_without_a_word_is_refused(tmp_path):
    plant(tmp_path)
    (tmp_path / "train" / "dog" / "a.heic").write_bytes(b"x")
    with pytest.raises(BadData, match=r"a\.heic: images of this kind are not read"):
        open_dataset(f"folder:{tmp_path}", image_size=8).split("train")
    (tmp_path / "train" / "dog" / "a.heic").rename(tmp_path / "train" / "dog" / "notes.txt")
    Image.new("RGB", (9, 9)).save(tmp_path / "train" / "dog" / "b.gif")
    Image.new("RGB", (9, 9)).save(tmp_path / "train" / "dog" / "c.jfif", format="JPEG")
    data = open_dataset(f"folder:{tmp_path}", image_size=8, val_fraction=0.25)
    assert len(data.split("train")) + len(data.split("val")) == 10
    shutil.copytree(tmp_path / "test", tmp_path / "validation")
    with pytest.raises(BadData, match="validation would not be used") as refused:
        open_dataset(f"folder:{tmp_path}", image_size=8)
    assert refused.value.hint.startswith("mv ")
