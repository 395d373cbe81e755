"""The threat model: which perturbations an adversary may add to an image in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .errors import BadValue

Norm = Literal["Linf", "L2"]


@dataclass(frozen=True)
class Threat:
    """A ball of radius `eps` in `norm` around each image, in the data set's own pixels scaled to [0, 1]."""

    norm: Norm = "Linf"
    eps: float = 8 / 255

    def __post_init__(self) -> None:
        if self.norm not in ("Linf", "L2"):
            raise BadValue(f"--norm: got {self.norm!r} (allowed: Linf | L2).")
        limit = 1.0 if self.norm == "Linf" else 1000.0
        if not 0 <= self.eps <= limit:
            raise BadValue(f"--eps: got {self.eps} (allowed: 0 to {limit:g} for {self.norm}, e.g. 8/255).")

    def __str__(self) -> str:
        in_255 = self.eps * 255
        return f"{self.norm} {in_255:.0f}/255" if abs(in_255 - round(in_255)) < 1e-9 else f"{self.norm} {self.eps:g}"
