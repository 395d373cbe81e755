"""The threat model: which perturbations an adversary may add to an image in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from .errors import BadValue

Norm = Literal["Linf", "L2"]
EXAMPLE = "--threats Linf:8/255 or --threats Linf:4/255,8/255,L2:0.5"


@dataclass(frozen=True)
class Threat:
    """A ball of radius `eps` in `norm` around each image, in the data set's own pixels scaled to [0, 1].

    `str(threat)` is what a user types, e.g. "Linf:8/255", and `Threat.parse` reads it back without loss.
    """

    norm: Norm = "Linf"
    eps: float = 8 / 255

    def __post_init__(self) -> None:
        if self.norm not in ("Linf", "L2"):
            raise BadValue(f"--norm: got {self.norm!r} (allowed: Linf | L2).")
        limit = 1.0 if self.norm == "Linf" else 1000.0
        if not 0 <= self.eps <= limit:
            raise BadValue(f"--eps: got {self.eps} (allowed: 0 to {limit:g} for {self.norm}, e.g. 8/255).")

    def __str__(self) -> str:
        return f"{self.norm}:{self._radius}"

    @property
    def label(self) -> str:
        """For a reader: "Linf 8/255"."""
        return f"{self.norm} {self._radius}"

    @property
    def _radius(self) -> str:
        """The shortest text that `Threat.parse` turns into exactly this radius."""
        fraction = f"{round(self.eps * 255)}/255"
        found = [text for text in (f"{self.eps:g}", fraction, repr(self.eps)) if _number(text) == self.eps]
        return min(found, key=len)

    @classmethod
    def parse(cls, text: str) -> Threat:
        """Read NORM:EPS, e.g. "Linf:8/255" or "L2:0.5".

        Raises:
            BadValue: another form, norm or radius.
        """
        norm, colon, eps = text.strip().partition(":")
        known: dict[str, Norm] = {"linf": "Linf", "l2": "L2"}
        if not colon or norm.casefold() not in known:
            raise BadValue(f"--threats: got '{text}' (allowed: NORM:EPS with the norms Linf | L2).", EXAMPLE)
        radius = _number(eps)
        if radius is None:
            raise BadValue(f"--threats: the radius of '{text}' is no number (allowed: e.g. 8/255 or 0.5).", EXAMPLE)
        try:
            return cls(known[norm.casefold()], radius)
        except BadValue as problem:
            raise BadValue(problem.message.replace("--eps:", f"--threats {text}:"), EXAMPLE) from None


def parse_threats(text: str | Iterable[str]) -> tuple[Threat, ...]:
    """Read several threats, joined by commas; the norm carries on until another is named, as in Linf:4/255,8/255,L2:1.

    A threat that is named twice counts once.

    Raises:
        BadValue: none at all, or one that cannot be read.
    """
    found: dict[Threat, None] = {}
    norm = ""
    for part in text.split(",") if isinstance(text, str) else text:
        named, colon, _ = part.strip().partition(":")
        norm = named if colon else norm
        found[Threat.parse(part if colon or not norm else f"{norm}:{part.strip()}")] = None
    if not found:
        raise BadValue("--threats: got nothing (allowed: NORM:EPS, joined by commas).", EXAMPLE)
    return tuple(found)


def _number(text: str) -> float | None:
    """A finite float from "0.5" or "8/255"; None for any other text."""
    above, slash, below = text.strip().partition("/")
    try:
        value = float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
    return value if math.isfinite(value) else None
