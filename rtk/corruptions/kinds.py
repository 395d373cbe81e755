"""The 15 corruptions as functions of an image, a source of random numbers, and a strength.

`image` is uint8 (H, W, 3); what comes back is a float array (H, W, 3) on the scale 0..255, which may leave that range.
The strengths for each severity stand in parameters.py.

imagecorruptions provides the photographs of frost and the filters. Its corruptions themselves draw from numpy's global
random state, one from the operating system, two fail on current numpy and scikit-image, and all have ImageNet's
strengths built in. The functions here draw from the `rng` that they are given; with imagecorruptions' strengths they
give its numbers bit for bit, and a test says so.
"""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Callable
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import skimage.color
from imagecorruptions.corruptions import _motion_blur as blur_along
from imagecorruptions.corruptions import clipped_zoom, disk
from numpy.random import RandomState
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

from ..errors import BadData

Pixels = npt.NDArray[np.uint8]
Array = npt.NDArray[Any]

FROST = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
"""A sixth photograph comes with both benchmarks, but neither draws it."""


def _unit(image: Pixels, dtype: type[np.floating[Any]] = np.float64) -> Array:
    return (image / 255.0).astype(dtype, copy=False)


def gaussian_noise(image: Pixels, rng: RandomState, deviation: float) -> Array:
    """Noise of the given standard deviation, in [0, 1], on every value."""
    return (_unit(image) + rng.normal(size=image.shape, scale=deviation)) * 255


def shot_noise(image: Pixels, rng: RandomState, photons: float) -> Array:
    """`photons` are counted where the image is white."""
    return rng.poisson(_unit(image) * photons) / photons * 255


def impulse_noise(image: Pixels, rng: RandomState, share: float) -> Array:
    """A share of all values becomes black or white, either with probability 1/2."""
    struck, white = rng.random_sample(image.shape) <= share, rng.random_sample(image.shape) <= 0.5
    return np.where(struck, np.where(white, 255.0, 0.0), image)


def defocus_blur(image: Pixels, rng: RandomState, radius: float, antialias: float) -> Array:
    """A disc of `radius` pixels, softened by a Gaussian of `antialias` pixels."""
    return cv2.filter2D(_unit(image), -1, disk(radius=radius, alias_blur=antialias)) * 255


def glass_blur(image: Pixels, rng: RandomState, sigma: float, reach: int, rounds: int) -> Array:
    """Blurred, then every pixel replaced by one up to `reach` pixels before it, `rounds` times, and blurred again.

    The original means to swap two pixels, but its tuple assignment reads from the array that it writes to, so one of
    them is copied. Kept, since CIFAR-10-C and ImageNet-C were made so.
    """
    height, width = image.shape[:2]
    origin = list(range(height * width))
    for _ in range(rounds):
        rows, columns = np.arange(height - reach, reach, -1), np.arange(width - reach, reach, -1)
        shifts = rng.randint(-reach, reach, size=(len(rows), len(columns), 2))
        targets = rows[:, None] * width + columns
        sources = targets + shifts[..., 1] * width + shifts[..., 0]
        for target, source in zip(targets.ravel().tolist(), sources.ravel().tolist(), strict=True):
            origin[target] = origin[source]
    blurred = (_smooth(_unit(image), sigma) * 255).astype(np.uint8)
    shuffled = blurred.reshape(-1, 3)[origin].reshape(image.shape)
    return _smooth(_unit(shuffled), sigma) * 255


def _smooth(pixels: Array, sigma: float) -> Array:
    return gaussian_filter(pixels, (sigma, sigma, 0), mode="nearest")


def motion_blur(image: Pixels, rng: RandomState, radius: int, sigma: float) -> Array:
    """A streak of the given radius in pixels, in a random direction."""
    return blur_along(image, radius=radius, sigma=sigma, angle=rng.uniform(-45, 45))


def zoom_blur(image: Pixels, rng: RandomState, stop: float, step: float) -> Array:
    """The mean of the image and of the image enlarged by 1, 1 + step, ..., below `stop`."""
    height, width = image.shape[:2]
    pixels = _unit(image, np.float32)
    factors = np.arange(1, stop, step)
    enlarged: Array = sum(clipped_zoom(pixels, factor)[:height, :width] for factor in factors)
    return (pixels + enlarged) / (len(factors) + 1) * 255


def snow(
    image: Pixels,
    rng: RandomState,
    mean: float,
    deviation: float,
    size: float,
    threshold: float,
    radius: int,
    sigma: float,
    keep: float,
) -> Array:
    """Flakes from enlarged normal noise above a threshold, blurred as they fall, over a whitened image."""
    height, width = image.shape[:2]
    pixels = _unit(image, np.float32)
    flakes = clipped_zoom(rng.normal(size=(height, width, 1), loc=mean, scale=deviation), size)[..., 0]
    flakes = np.where(flakes < threshold, 0, np.clip(flakes, 0, 1))
    flakes = blur_along(flakes, radius=radius, sigma=sigma, angle=rng.uniform(-135, -45))
    flakes = (np.round(flakes * 255).astype(np.uint8) / 255.0)[:height, :width, None]
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]
    white = keep * pixels + (1 - keep) * np.maximum(pixels, grey * 1.5 + 0.5)
    return (white + flakes + np.rot90(flakes, k=2)) * 255


def frost(image: Pixels, rng: RandomState, keep: float, ice: float, size: float) -> Array:
    """keep x image + ice x a part of a photograph of frost, scaled by `size` or as much as it takes to cover."""
    height, width = image.shape[:2]
    photograph = _photograph(rng.randint(len(FROST)), size, height, width)
    top = rng.randint(0, photograph.shape[0] - height)
    left = rng.randint(0, photograph.shape[1] - width)
    return keep * image + ice * photograph[top : top + height, left : left + width]


@functools.lru_cache(maxsize=2 * len(FROST))
def _photograph(number: int, size: float, height: int, width: int) -> Array:
    """A photograph of frost, uint8 (h, w, 3), larger than height x width."""
    with importlib.resources.as_file(importlib.resources.files("imagecorruptions") / "frost" / FROST[number]) as file:
        stored = cv2.imread(str(file))
    if stored is None:
        raise BadData(
            f"imagecorruptions lacks its file {FROST[number]}.", "pip install --force-reinstall imagecorruptions"
        )
    full = cv2.cvtColor(stored, cv2.COLOR_BGR2RGB)
    factor = max(size, height / full.shape[0] * 1.1, width / full.shape[1] * 1.1)
    if factor < 1:
        return cv2.resize(full, None, fx=factor, fy=factor)
    rows, columns = (int(np.ceil(side * factor)) for side in full.shape[:2])
    return cv2.resize(full, (columns, rows), interpolation=cv2.INTER_CUBIC)


def fog(image: Pixels, rng: RandomState, density: float, decay: float) -> Array:
    """A random plasma of the given density, whose detail decays, over a picture with less contrast."""
    height, width = image.shape[:2]
    pixels = _unit(image)
    brightest = pixels.max()
    haze = plasma(1 << (max(height, width) - 1).bit_length(), decay, rng)[:height, :width, None]
    return (pixels + density * haze) * brightest / (brightest + density) * 255


def plasma(side: int, decay: float, rng: RandomState) -> Array:
    """A cloudy height map (side, side) in [0, 1], periodic, by the diamond-square algorithm; `side` is a power of two.

    The larger `decay`, the smoother.
    """
    heights = np.zeros((side, side))
    step, wobble = side, 100.0

    def displaced(sums: Array) -> Array:
        return sums / 4 + wobble * rng.uniform(-wobble, wobble, sums.shape)

    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        pairs = corners + np.roll(corners, -1, axis=0)
        heights[half::step, half::step] = displaced(pairs + np.roll(pairs, -1, axis=1))
        centres = heights[half::step, half::step]
        above, left = np.roll(centres, 1, axis=0), np.roll(centres, 1, axis=1)
        heights[::step, half::step] = displaced(centres + above + (corners + np.roll(corners, -1, axis=1)))
        heights[half::step, ::step] = displaced(centres + left + pairs)
        step = half
        wobble /= decay
    heights -= heights.min()
    return heights / heights.max()


def brightness(image: Pixels, rng: RandomState, added: float) -> Array:
    """Adds to the value of HSV."""
    hsv = skimage.color.rgb2hsv(_unit(image))
    hsv[..., 2] = np.clip(hsv[..., 2] + added, 0, 1)
    return skimage.color.hsv2rgb(hsv) * 255


def contrast(image: Pixels, rng: RandomState, kept: float) -> Array:
    """The share of each value's distance from the channel's mean that is kept."""
    pixels = _unit(image)
    means = pixels.mean(axis=(0, 1), keepdims=True)
    return ((pixels - means) * kept + means) * 255


def elastic_transform(image: Pixels, rng: RandomState, affine: float, shift: float, gain: float, sigma: float) -> Array:
    """Three points moved by up to `affine`, then every pixel by smoothed noise of up to `shift`, times `gain`.

    `affine` and `shift` are shares of the image's height, `sigma`, the smoothing, of either side.
    """
    height, width = image.shape[:2]
    pixels = _unit(image, np.float32)
    if affine:
        pixels = _moved(pixels, rng, affine * height)

    def displacement() -> Array:
        noise = rng.uniform(-shift * height, shift * height, size=(height, width))
        return (gaussian_filter(noise, (height * sigma, width * sigma), truncate=3) * gain).astype(np.float32)

    dx, dy = displacement(), displacement()
    rows, columns = np.indices((height, width))
    where = [rows + dy, columns + dx]
    return np.stack([map_coordinates(pixels[..., c], where, order=1, mode="reflect") for c in range(3)], axis=-1) * 255


def _moved(pixels: Array, rng: RandomState, reach: float) -> Array:
    """The affine map that moves three points around the centre, each coordinate by up to `reach` pixels."""
    sides = np.array(pixels.shape[:2])
    (a, b), arm = sides // 2, sides.min() // 3
    before = np.array([[a + arm, b + arm], [a + arm, b - arm], [a - arm, b - arm]], dtype=np.float32)
    after = before + rng.uniform(-reach, reach, size=before.shape).astype(np.float32)
    size = (pixels.shape[1], pixels.shape[0])
    return cv2.warpAffine(pixels, cv2.getAffineTransform(before, after), size, borderMode=cv2.BORDER_REFLECT_101)


def pixelate(image: Pixels, rng: RandomState, share: float, enlarging: str) -> Array:
    """Scaled down to a `share` of each side, and up again by the filter that `enlarging` names."""
    height, width = image.shape[:2]
    small = Image.fromarray(image).resize((int(width * share), int(height * share)), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling[enlarging]))


def jpeg_compression(image: Pixels, rng: RandomState, quality: int) -> Array:
    """What is left after JPEG with the given quality, 0 to 100."""
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


KINDS: dict[str, Callable[..., Array]] = {
    kind.__name__: kind
    for kind in (
        gaussian_noise,
        shot_noise,
        impulse_noise,
        defocus_blur,
        glass_blur,
        motion_blur,
        zoom_blur,
        snow,
        frost,
        fog,
        brightness,
        contrast,
        elastic_transform,
        pixelate,
        jpeg_compression,
    )
}
