"""Which evaluations are run, on how many images, with which seed."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import BadValue, UnknownName

ITEMS = ("clean", "pgd20", "autoattack")
"""clean accuracy; PGD-20 with step eps/4 from a random start; AutoAttack standard."""


@dataclass(frozen=True)
class Suite:
    """What is evaluated.

    Attributes:
        items: of ITEMS, in order.
        images: test images for clean accuracy and PGD; None for all.
        autoattack_images: test images for AutoAttack, a prefix of the same order; None for all.
        chunk_size: images attacked together; part of an evaluation's identity.
        seed: of the order of the test images and of every attack.
    """

    items: tuple[str, ...] = ITEMS
    images: int | None = None
    autoattack_images: int | None = 128
    chunk_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.items:
            raise BadValue("--suite: nothing to evaluate (allowed: clean, pgd20, autoattack).")
        for item in self.items:
            if item not in ITEMS:
                raise UnknownName("evaluation", item, ITEMS, "--suite clean,pgd20,autoattack")
        for name, value in (("--images", self.images), ("--autoattack-images", self.autoattack_images)):
            if value is not None and value < 1:
                raise BadValue(f"{name}: got {value} (allowed: 1 or more, or 'all').")
        if self.chunk_size < 1:
            raise BadValue(f"--chunk-size: got {self.chunk_size} (allowed: 1 or more).")

    def n(self, item: str) -> int | None:
        """Test images for an item; None for all."""
        return self.autoattack_images if item == "autoattack" else self.images
