"""What goes into an attack and what comes out of it is checked here, by no code of the attack."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import AttackError
from ..threat import Threat

LINF_TOLERANCE = 1e-6  # float32 rounding of x + delta - x at |x| <= 1
L2_TOLERANCE = 1e-5  # relative: the rounding of a sum over all pixels


def check_images(images: Tensor) -> None:
    """Raise AttackError unless `images` are (N, C, H, W), float32, finite and in [0, 1]."""
    if images.ndim != 4 or images.dtype != torch.float32:
        raise AttackError(f"Images must be (N, C, H, W) float32, got {tuple(images.shape)} {images.dtype}.")
    if len(images) == 0:
        return
    low, high = float(images.min()), float(images.max())
    if not (low >= -LINF_TOLERANCE and high <= 1 + LINF_TOLERANCE):  # also false for NaN
        raise AttackError(
            f"Images must lie in [0, 1], got [{low:.4g}, {high:.4g}]: normalisation belongs inside the model."
        )


def check_ball(clean: Tensor, adversarial: Tensor, threat: Threat, name: str) -> None:
    """Raise AttackError unless `adversarial` is finite, in [0, 1] and within `threat` of `clean`."""
    if adversarial.shape != clean.shape or not torch.isfinite(adversarial).all():
        raise AttackError(f"{name} returned images of another shape or with NaN.")
    if float(adversarial.min()) < 0 or float(adversarial.max()) > 1:
        raise AttackError(f"{name} left [0, 1].")
    if distance(clean, adversarial, threat.norm).max() > _radius(threat):
        worst = float(distance(clean, adversarial, threat.norm).max())
        raise AttackError(f"{name} left the ball: {threat.norm} distance {worst:.8g} > {threat.eps:.8g}.")


def inside(clean: Tensor, adversarial: Tensor, threat: Threat) -> Tensor:
    """Whether each image is finite, in [0, 1] and within `threat` of its clean one, up to rounding; bool (N,)."""
    pixels = adversarial.flatten(1)
    in_range = (torch.isfinite(pixels) & (pixels >= 0) & (pixels <= 1)).all(1)
    return in_range & (distance(clean, adversarial, threat.norm) <= _radius(threat))


def distance(clean: Tensor, adversarial: Tensor, norm: str) -> Tensor:
    """Distance per sample, shape (N,)."""
    difference = (adversarial - clean).flatten(1)
    return difference.abs().amax(1) if norm == "Linf" else difference.norm(dim=1)


def _radius(threat: Threat) -> float:
    return threat.eps + LINF_TOLERANCE if threat.norm == "Linf" else threat.eps * (1 + L2_TOLERANCE) + LINF_TOLERANCE
