"""Corrupting images on the fly."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from ..errors import BadData, BadValue, RequestError, UnknownName
from ..seeds import derive
from .names import Scale, check_name
from .parameters import PARAMETERS

SMALLEST = 28
"""Pixels; the least height and width that every corruption can be made for."""
SMALL = 64
"""Pixels; images with a side no longer than this get the severities of CIFAR-10-C unless told otherwise."""


def scale_for(height: int, width: int) -> Scale:
    """Whose severities fit images of this size: "cifar" up to 64 pixels on the shorter side, else "imagenet"."""
    return "cifar" if min(height, width) <= SMALL else "imagenet"


def corrupt(
    images: Tensor,
    name: str,
    severity: int,
    *,
    seed: int,
    indices: Sequence[int] | Tensor | None = None,
    scale: Scale | None = None,
) -> Tensor:
    """Images with one of the 15 common corruptions of Hendrycks & Dietterich (ICLR 2019).

    The randomness of an image depends on the seed, its index, the corruption and the severity alone: neither on the
    other images of the batch nor on the global random state, which stays as it was.

    Images are rounded to 8 bits before they are corrupted and cut to 8 bits afterwards, as in the published benchmarks.
    A grey image is corrupted as a colour image of three equal channels, and the green one is kept: noise keeps its
    strength, and frost looks nearly as bright as in colour.

    The strengths are the published ones. Not the published files: their random numbers cannot be had again, motion blur
    and snow are blurred by imagecorruptions instead of ImageMagick, and scale "imagenet" is ImageNet-C as
    imagecorruptions extends it to any size, with an elastic transform of its own and frost that is not shrunk.
    To compare with published figures on CIFAR-10-C read its files, see CorruptedFolder.

    Args:
        images: float32 (N, C, H, W) in [0, 1]; C 1 or 3, H and W 28 or more.
        name: one of NAMES.
        severity: 1 to 5.
        seed: of all randomness.
        indices: N positions of the images in their data set; 0..N-1 when not given.
        scale: whose severities, "cifar" for CIFAR-10-C's or "imagenet" for ImageNet-C's; chosen by the size of the
            images when not given, see scale_for.

    Returns:
        float32 (N, C, H, W) in [0, 1], multiples of 1/255, on the images' device.

    Raises:
        UnknownName, BadValue: of the other arguments.
        BadData: of the images.
        RequestError: the extra `corruptions` is not installed.
    """
    check_name(name, severity)
    _check_images(images)
    count, channels, height, width = images.shape
    scale = scale_for(height, width) if scale is None else scale
    if scale not in PARAMETERS:
        raise UnknownName("scale", scale, PARAMETERS)
    places = list(range(count)) if indices is None else [int(index) for index in indices]
    if len(places) != count:
        raise BadValue(f"Got {len(places)} indices for {count} images (allowed: one index per image).")
    kind = _kinds().KINDS[name]
    strength = PARAMETERS[scale][name][severity - 1]

    pixels = (images * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()
    made = np.empty(pixels.shape, dtype=np.uint8)
    for row, index in enumerate(places):
        # RandomState, since its numbers are the same in every version of numpy
        rng = np.random.RandomState(np.random.MT19937(derive(seed, "corruption", name, severity, index)))
        made[row] = np.clip(kind(np.ascontiguousarray(pixels[row]), rng, *strength), 0, 255).astype(np.uint8)
    result = torch.from_numpy(made).permute(0, 3, 1, 2)
    kept = result if channels == 3 else result[:, 1:2]
    return kept.contiguous().to(images.device).float().div_(255)


def _check_images(images: Tensor) -> None:
    allowed = f"float32 (N, C, H, W), C 1 or 3, H and W {SMALLEST} or more"
    shape = tuple(images.shape)
    if images.dtype != torch.float32 or len(shape) != 4 or shape[1] not in (1, 3) or min(shape[2:]) < SMALLEST:
        given = f"{str(images.dtype).removeprefix('torch.')} of shape {shape}"
        raise BadData(f"Images to corrupt are {given} (allowed: {allowed}).")
    if images.numel() and not (images.min() >= 0 and images.max() <= 1):
        raise BadData(
            f"Images to corrupt hold values from {float(images.min()):.4g} to {float(images.max()):.4g}"
            " (allowed: [0, 1], and no NaN)."
        )


def _kinds() -> ModuleType:
    """The module that needs the extra."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside imagecorruptions; none is for the user to mend
            return importlib.import_module(".kinds", __package__)
    except ModuleNotFoundError as problem:
        raise RequestError(
            f"Making corruptions needs {problem.name}, which is not installed (reading CIFAR-10-C's files does not).",
            "pip install 'rtk[corruptions]'",
        ) from None
    except ImportError as problem:  # opencv-python loads libGL, which servers may lack; the headless build does not
        reason = str(problem).splitlines()[0][:160]
        raise RequestError(
            f"Making corruptions needs opencv, which cannot be imported ({reason}).",
            "pip uninstall -y opencv-python && pip install opencv-python-headless",
        ) from None
