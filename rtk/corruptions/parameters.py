"""What a severity means: the arguments of each function in kinds.py for severities 1 to 5.

"imagenet" is ImageNet-C as imagecorruptions 1.1.2 makes it. "cifar" is CIFAR-10-C as its authors' published generator
has it (create_c/make_cifar_c.py of github.com/hendrycks/robustness): milder, since ImageNet-C's leave little of a small
image.
"""

from __future__ import annotations

from typing import Any

from .names import Scale

Severities = tuple[tuple[Any, ...], ...]


def _each(*values: float) -> Severities:
    """Severities of a function with a single argument."""
    return tuple((value,) for value in values)


IMAGENET: dict[str, Severities] = {
    "gaussian_noise": _each(0.08, 0.12, 0.18, 0.26, 0.38),
    "shot_noise": _each(60, 25, 12, 5, 3),
    "impulse_noise": _each(0.03, 0.06, 0.09, 0.17, 0.27),
    "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    "zoom_blur": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    "snow": (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    "frost": ((1, 0.4, 1.1), (0.8, 0.6, 1.1), (0.7, 0.7, 1.1), (0.65, 0.7, 1.1), (0.6, 0.75, 1.1)),
    "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    "brightness": _each(0.1, 0.2, 0.3, 0.4, 0.5),
    "contrast": _each(0.4, 0.3, 0.2, 0.1, 0.05),
    "elastic_transform": (
        (0, 0.005, 250 * 0.05, 0.01),
        (0, 0.005, 250 * 0.065, 0.01),
        (0, 0.005, 250 * 0.085, 0.01),
        (0, 0.005, 250 * 0.1, 0.01),
        (0, 0.005, 250 * 0.12, 0.01),
    ),
    "pixelate": ((0.6, "NEAREST"), (0.5, "NEAREST"), (0.4, "NEAREST"), (0.3, "NEAREST"), (0.25, "NEAREST")),
    "jpeg_compression": _each(25, 18, 15, 10, 7),
}

CIFAR: dict[str, Severities] = {
    "gaussian_noise": _each(0.04, 0.06, 0.08, 0.09, 0.1),
    "shot_noise": _each(500, 250, 100, 75, 50),
    "impulse_noise": _each(0.01, 0.02, 0.03, 0.05, 0.07),
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "zoom_blur": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    "snow": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    "frost": ((1, 0.2, 0.2), (1, 0.3, 0.2), (0.9, 0.4, 0.2), (0.85, 0.4, 0.2), (0.75, 0.45, 0.2)),
    "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    "brightness": _each(0.05, 0.1, 0.15, 0.2, 0.3),
    "contrast": _each(0.75, 0.5, 0.4, 0.3, 0.15),
    "elastic_transform": (  # published per 32 pixels: displacements of up to 1 x (0, 1.6, 2.56, 3.2, 3.2)
        (0.08, 1 / 32, 32 * 0, 0),
        (0.07, 1 / 32, 32 * 0.05, 0.2),
        (0.06, 1 / 32, 32 * 0.08, 0.06),
        (0.05, 1 / 32, 32 * 0.1, 0.04),
        (0.03, 1 / 32, 32 * 0.1, 0.03),
    ),
    "pixelate": ((0.95, "BOX"), (0.9, "BOX"), (0.85, "BOX"), (0.75, "BOX"), (0.65, "BOX")),
    "jpeg_compression": _each(80, 65, 58, 50, 40),
}

PARAMETERS: dict[Scale, dict[str, Severities]] = {"cifar": CIFAR, "imagenet": IMAGENET}
