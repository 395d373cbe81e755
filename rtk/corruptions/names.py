"""The corruptions by name, in the paper's order."""

from __future__ import annotations

from typing import Literal

from ..errors import BadValue, UnknownName

Scale = Literal["cifar", "imagenet"]
"""Whose severities: CIFAR-10-C's, chosen for 32x32 images, or ImageNet-C's, chosen for 224x224."""

FAMILIES: dict[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
NAMES: tuple[str, ...] = tuple(name for family in FAMILIES.values() for name in family)
SEVERITIES: tuple[int, ...] = (1, 2, 3, 4, 5)


def check_name(name: str, severity: int) -> None:
    """Raises UnknownName or BadValue."""
    if name not in NAMES:
        raise UnknownName("corruption", name, NAMES)
    if severity not in SEVERITIES:
        raise BadValue(f"Severity {severity} of {name} (allowed: 1, 2, 3, 4 or 5).")
