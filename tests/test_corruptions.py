"""Corruptions on the fly: equal to imagecorruptions, deterministic per image, of the published strength."""

from __future__ import annotations

import functools
import importlib
import random
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from rtk.corruptions import FAMILIES, NAMES, SEVERITIES, Scale, corrupt, scale_for
from rtk.corruptions.parameters import PARAMETERS
from rtk.data import open_dataset
from rtk.errors import BadData, BadValue, RequestError, UnknownName

pytest.importorskip("imagecorruptions")

UNRANDOM = ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
SIZES = [(32, 32), (28, 28), (33, 47), (72, 60)]


@functools.cache
def signs(height: int = 32, width: int = 32, count: int = 4) -> Tensor:
    """Photographs, float32 (count, 3, height, width) in [0, 1], multiples of 1/255."""
    images = open_dataset("signs").split("train").images(slice(count))
    scaled = torch.nn.functional.interpolate(images, (height, width), mode="bilinear", antialias=True)
    return scaled.mul(255).round().div(255)


@pytest.fixture
def library(monkeypatch) -> ModuleType:
    """imagecorruptions on the interfaces that it was written for, with every draw from numpy's global state."""
    module = importlib.import_module("imagecorruptions.corruptions")
    gaussian, noise = module.gaussian, module.sk.util.random_noise

    def old_gaussian(image, sigma=1, multichannel=False, **others):
        return gaussian(image, sigma, channel_axis=-1 if multichannel else None, **others)

    def old_noise(image, **others):
        return noise(image, rng=np.random.Generator(np.random.mtrand._rand._bit_generator), **others)

    monkeypatch.setattr(np, "float_", np.float64, raising=False)
    monkeypatch.setattr(module, "gaussian", old_gaussian)
    monkeypatch.setattr(module.sk.util, "random_noise", old_noise)
    return module


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_equals_imagecorruptions_bit_by_bit(library, name, size):
    kind = importlib.import_module("rtk.corruptions.kinds").KINDS[name]
    image = np.ascontiguousarray(signs(*size)[0].permute(1, 2, 0).mul(255).round().to(torch.uint8).numpy())
    before = np.random.get_state()
    for severity in SEVERITIES:
        np.random.seed(severity)
        wanted = np.uint8(getattr(library, name)(Image.fromarray(image), severity))
        made = kind(image, np.random.RandomState(severity), *PARAMETERS["imagenet"][name][severity - 1])
        assert np.array_equal(np.clip(made, 0, 255).astype(np.uint8), wanted), severity
    np.random.set_state(before)


def test_the_names_are_imagecorruptions_in_its_order():
    library = importlib.import_module("imagecorruptions")
    assert list(NAMES) == library.get_corruption_names("common")
    assert all(list(names) == library.get_corruption_names(family) for family, names in FAMILIES.items())
    assert all(PARAMETERS[scale].keys() == set(NAMES) for scale in PARAMETERS)


cells = {"name": st.sampled_from(NAMES), "severity": st.sampled_from(SEVERITIES)}
scales = st.sampled_from(list(PARAMETERS))


@settings(max_examples=40, deadline=None)
@given(**cells, scale=scales, seed=st.integers(0, 2**40), rows=st.lists(st.integers(0, 3), min_size=1, max_size=3))
def test_an_image_is_corrupted_alike_in_any_batch(name, severity, scale, seed, rows):
    images = signs()
    whole = corrupt(images, name, severity, seed=seed, scale=scale)
    assert torch.equal(corrupt(images[rows], name, severity, seed=seed, indices=rows, scale=scale), whole[rows])


@settings(max_examples=40, deadline=None)
@given(**cells, scale=scales, other=st.integers(0, 2**32 - 1))
def test_the_global_random_state_is_neither_used_nor_changed(name, severity, scale, other):
    once = corrupt(signs(), name, severity, seed=0, scale=scale)
    np.random.seed(other)
    torch.manual_seed(other)
    random.seed(other)
    states = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate()
    assert torch.equal(corrupt(signs(), name, severity, seed=0, scale=scale), once)
    assert (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate()) == states


@pytest.mark.parametrize("name", [name for name in NAMES if name not in UNRANDOM])
def test_every_image_and_every_seed_has_noise_of_its_own(name):
    images = signs(count=1).expand(2, -1, -1, -1)
    made = corrupt(images, name, 3, seed=0, scale="imagenet")
    assert not torch.equal(made[0], made[1])
    assert not torch.equal(made, corrupt(images, name, 3, seed=1, scale="imagenet"))


@settings(max_examples=60, deadline=None)
@given(
    **cells,
    scale=st.none() | scales,
    height=st.integers(28, 96),
    width=st.integers(28, 96),
    channels=st.sampled_from([1, 3]),
    level=st.sampled_from([0.0, 0.2, 1.0, None]),
)
def test_images_of_every_size_stay_images(name, severity, scale, height, width, channels, level):
    """Also black and white ones."""
    images = signs(height, width, 1)[:, :channels] if level is None else torch.full((1, channels, height, width), level)
    original = images.clone()
    made = corrupt(images, name, severity, seed=0, scale=scale)
    assert made.shape == images.shape and made.dtype == torch.float32 and made.is_contiguous()
    assert made.min() >= 0 and made.max() <= 1
    assert torch.equal(made, made.mul(255).round().div(255))
    assert torch.equal(images, original)


@pytest.mark.parametrize("name", NAMES)
def test_a_grey_image_is_a_colour_image_of_equal_channels(name):
    grey = signs()[:, :1]
    colour = corrupt(grey.expand(-1, 3, -1, -1), name, 3, seed=0)
    assert torch.equal(corrupt(grey, name, 3, seed=0), colour[:, 1:2])


def distance(name: str, severity: int, scale: Scale) -> float:
    images = signs(count=16)
    return float((corrupt(images, name, severity, seed=0, scale=scale) - images).abs().mean())


@pytest.mark.parametrize("scale", PARAMETERS)
@pytest.mark.parametrize("name", sorted(set(NAMES) - {"frost", "elastic_transform"}))
def test_severity_5_changes_more_than_1(name, scale):
    """Not so, as published: frost darkens the image while it whitens it, CIFAR-10-C's elastic moves points less."""
    assert distance(name, 1, scale) < distance(name, 5, scale)


@pytest.mark.parametrize("name", NAMES)
def test_imagenet_changes_more_than_cifar(name):
    assert distance(name, 5, "cifar") < distance(name, 5, "imagenet")


def test_the_noise_is_as_strong_as_published_for_cifar():
    grey = torch.full((8, 3, 64, 64), 128 / 255)
    for severity, deviation in enumerate((0.04, 0.06, 0.08, 0.09, 0.1), start=1):
        noise = corrupt(grey, "gaussian_noise", severity, seed=0) - grey
        assert float(noise.std()) == pytest.approx(deviation, rel=0.02)
    for severity, photons in enumerate((500, 250, 100, 75, 50), start=1):
        noise = corrupt(grey, "shot_noise", severity, seed=0) - grey
        assert float(noise.std()) == pytest.approx((128 / 255 / photons) ** 0.5, rel=0.03)
    for severity, share in enumerate((0.01, 0.02, 0.03, 0.05, 0.07), start=1):
        made = corrupt(grey, "impulse_noise", severity, seed=0)
        assert float((made == 0).float().mean()) == pytest.approx(share / 2, rel=0.1)
        assert float((made == 1).float().mean()) == pytest.approx(share / 2, rel=0.1)
    for severity, added in enumerate((0.05, 0.1, 0.15, 0.2, 0.3), start=1):
        made = corrupt(grey, "brightness", severity, seed=0)
        assert torch.allclose(made, grey + added, atol=1 / 255)


def test_small_images_get_the_severities_of_cifar():
    assert (scale_for(32, 32), scale_for(64, 100), scale_for(65, 65), scale_for(224, 224)) == (
        "cifar",
        "cifar",
        "imagenet",
        "imagenet",
    )
    small, large = signs(), signs(96, 96)
    assert torch.equal(corrupt(small, "fog", 3, seed=0), corrupt(small, "fog", 3, seed=0, scale="cifar"))
    assert torch.equal(corrupt(large, "fog", 3, seed=0), corrupt(large, "fog", 3, seed=0, scale="imagenet"))


def with_nan() -> Tensor:
    images = signs().clone()
    images[1, 2, 3, 4] = float("nan")
    return images


REFUSED = {
    "name": (UnknownName, {"name": "gausian_noise"}, "Did you mean 'gaussian_noise'"),
    "severity": (BadValue, {"severity": 6}, "Severity 6 of fog .*1, 2, 3, 4 or 5"),
    "scale": (UnknownName, {"scale": "cifar10"}, "Did you mean 'cifar'"),
    "indices": (BadValue, {"indices": [1, 2]}, "2 indices for 4 images"),
    "type": (BadData, {"images": signs().double()}, r"float64 of shape \(4, 3, 32, 32\)"),
    "shape": (BadData, {"images": signs()[0]}, r"shape \(3, 32, 32\)"),
    "channels": (BadData, {"images": signs()[:, :2]}, r"shape \(4, 2, 32, 32\) .*C 1 or 3"),
    "size": (BadData, {"images": signs()[..., :27]}, r"shape \(4, 3, 32, 27\) .*28 or more"),
    "range": (BadData, {"images": signs() * 255}, r"values from .* to 2\d\d "),
    "nan": (BadData, {"images": with_nan()}, "no NaN"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    kind, changes, words = REFUSED[case]
    arguments = {"images": signs(), "name": "fog", "severity": 3, "seed": 0, **changes}
    with pytest.raises(kind, match=words) as caught:
        corrupt(**arguments)
    assert "\n" not in str(caught.value)


def test_no_images_are_no_images():
    assert corrupt(signs()[:0], "snow", 1, seed=0).shape == (0, 3, 32, 32)


def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "rtk.corruptions.kinds", raising=False)
    monkeypatch.setitem(sys.modules, "imagecorruptions.corruptions", None)
    with pytest.raises(RequestError, match="needs imagecorruptions") as caught:
        corrupt(signs(), "fog", 3, seed=0)
    assert caught.value.hint == "pip install 'rtk[corruptions]'"


def test_where_opencv_cannot_be_loaded_the_error_names_the_build_that_can(monkeypatch, tmp_path):
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv2")
    monkeypatch.delitem(sys.modules, "rtk.corruptions.kinds", raising=False)
    with pytest.raises(RequestError, match=r"opencv, which cannot be imported .*libGL") as caught:
        corrupt(signs(), "fog", 3, seed=0)
    assert "opencv-python-headless" in caught.value.hint
