"""Folders in the layout of CIFAR-10-C, and every refusal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rtk.corruptions import NAMES, CorruptedFolder
from rtk.data import open_dataset
from rtk.errors import BadData, BadValue, UnknownName

COUNT = 6
LABELS = open_dataset("signs").split("train").labels[:COUNT].numpy()


def corrupted() -> np.ndarray:
    """uint8 (5 COUNT, 32, 32, 3): real images, darker with severity."""
    images = open_dataset("signs").split("train").images(slice(COUNT)).permute(0, 2, 3, 1).numpy()
    return np.concatenate([(images * 255 / severity).astype(np.uint8) for severity in (1, 2, 3, 4, 5)])


IMAGES = corrupted()


def save(path: Path, **changes: np.ndarray | None) -> Path:
    """Save a valid folder of two corruptions with some arrays replaced; None leaves one out."""
    content = {"fog": IMAGES, "snow": IMAGES[:, ::-1], "labels": np.tile(LABELS, 5), **changes}
    for name, array in content.items():
        if array is not None:
            np.save(path / f"{name}.npy", array)
    return path


@given(severity=st.integers(1, 5), indices=st.lists(st.integers(0, COUNT - 1)))
def test_severity_s_is_block_s(tmp_path_factory, severity, indices):
    folder = CorruptedFolder(save(tmp_path_factory.getbasetemp()))
    wanted = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float()[(severity - 1) * COUNT : severity * COUNT] / 255
    assert torch.equal(folder.images("fog", severity), wanted)
    assert torch.equal(folder.images("fog", severity, indices), wanted[indices])
    assert torch.equal(folder.images("fog", severity, torch.tensor(indices, dtype=torch.int64)), wanted[indices])
    assert torch.equal(folder.images("snow", severity, slice(1, 3)), wanted[1:3].flip(2))


@pytest.mark.parametrize("repeats", [1, 5])
def test_labels_may_be_given_once_or_for_every_severity(tmp_path, repeats):
    folder = CorruptedFolder(save(tmp_path, labels=np.tile(LABELS.astype(np.uint8), repeats)))
    assert folder.labels.dtype == torch.int64 and folder.labels.tolist() == LABELS.tolist()
    assert len(folder) == COUNT and folder.image_shape == (3, 32, 32)


def test_a_partial_folder_says_what_it_lacks(tmp_path):
    folder = CorruptedFolder(save(tmp_path, speckle_noise=IMAGES[:1]))
    assert folder.names == ("snow", "fog")
    assert set(folder.missing) == set(NAMES) - {"snow", "fog"}
    with pytest.raises(BadData, match=r"lacks frost.npy \(found: snow, fog\)"):
        folder.images("frost", 1)


def test_grey_images_have_one_channel(tmp_path):
    folder = CorruptedFolder(save(tmp_path, fog=IMAGES[..., :1], snow=None))
    assert folder.image_shape == (1, 32, 32) and folder.images("fog", 2).shape == (COUNT, 1, 32, 32)


def test_images_are_read_when_they_are_asked_for(tmp_path):
    """And are the caller's own: changing them changes nothing on disk."""
    folder = CorruptedFolder(save(tmp_path))
    stored = np.load(tmp_path / "fog.npy", mmap_mode="r+")
    stored[0] = 7
    stored.flush()
    read = folder.images("fog", 1)
    assert read[0].mul(255).round().unique().tolist() == [7]
    read.zero_()
    assert folder.images("fog", 1)[0].max() > 0


@pytest.mark.parametrize("index", [COUNT, -COUNT - 1])
def test_indices_do_not_reach_another_severity(tmp_path, index):
    with pytest.raises(IndexError):
        CorruptedFolder(save(tmp_path)).images("fog", 2, [index])


def test_unknown_corruptions_and_severities(tmp_path):
    folder = CorruptedFolder(save(tmp_path))
    with pytest.raises(UnknownName, match="Did you mean 'fog'"):
        folder.images("frog", 1)
    with pytest.raises(BadValue, match="Severity 0 of fog"):
        folder.images("fog", 0)


REFUSED = {
    "no labels": ({"labels": None}, "lacks labels.npy"),
    "no images": ({"fog": None, "snow": None}, "holds no corrupted images"),
    "float images": ({"fog": IMAGES / 255}, "fog.npy: is float64 .*uint8"),
    "ragged length": ({"fog": IMAGES[:-1]}, "fog.npy: holds 29 images .*five severities"),
    "empty": ({"fog": IMAGES[:0]}, r"fog.npy: has shape \(0, 32, 32, 3\)"),
    "channels first": ({"fog": IMAGES.transpose(0, 3, 1, 2)}, r"fog.npy: has shape \(30, 3, 32, 32\)"),
    "no channels": ({"fog": IMAGES[..., 0]}, r"fog.npy: has shape \(30, 32, 32\)"),
    "other length": ({"snow": IMAGES[:-5]}, r"fog.npy: has shape \(30, .* snow.npy \(25, "),
    "other size": ({"snow": IMAGES[:, :16]}, "one shape for all"),
    "objects": ({"fog": IMAGES.astype(object)}, "fog.npy: is an array of Python objects"),
    "object labels": ({"labels": LABELS.astype(object)}, "labels.npy: is an array of Python objects"),
    "float labels": ({"labels": LABELS / 1}, "labels.npy: is float64"),
    "one-hot labels": ({"labels": np.eye(10, dtype=int)[LABELS]}, r"labels.npy: is int64 of shape \(6, 10\)"),
    "label count": ({"labels": LABELS[:-1]}, "labels.npy: holds 5 labels .*6, or 30"),
    "negative label": ({"labels": -1 - LABELS}, "labels.npy: holds -"),
    "labels differ": ({"labels": np.arange(5 * COUNT)}, "differs between severities"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path, case):
    changes, words = REFUSED[case]
    with pytest.raises(BadData, match=words) as caught:
        CorruptedFolder(save(tmp_path, **changes))
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_no_folder_and_a_truncated_file(tmp_path):
    with pytest.raises(BadData, match="no such folder"):
        CorruptedFolder(tmp_path / "absent")
    file = save(tmp_path) / "fog.npy"
    for length in (0, 50, 4000):
        file.write_bytes(file.read_bytes()[:length])
        with pytest.raises(BadData, match=r"fog.npy: cannot be read, truncated"):
            CorruptedFolder(tmp_path)
        save(tmp_path)


def test_reading_and_summing_up_need_no_extra(tmp_path):
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('imagecorruptions', 'skimage', 'cv2')))\n"
        "from rtk.corruptions import CorruptedFolder, summarise\n"
        "print(CorruptedFolder(sys.argv[1]).images('fog', 1).shape[0], summarise({('fog', 1): 0.5}).mean)"
    )
    found = subprocess.run([sys.executable, "-c", code, save(tmp_path)], capture_output=True, text=True)
    assert (found.stdout, found.stderr) == (f"{COUNT} 0.5\n", "")
