"""Verdicts as text, and two networks compared by their verdicts on the same images."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import clustered
from .clustered import shares
from .errors import BadData
from .statistics import Difference, changed

if TYPE_CHECKING:
    from .results import Score

OF_NETWORK = ("weights", "network", "id")
"""What an identity says about the network, not about how it was judged."""


def pack(verdicts: Sequence[bool]) -> str:
    """Base64 of the verdicts as bits, the first one highest, the last byte filled up with zeros."""
    bits = "".join("1" if right else "0" for right in verdicts)
    size = -(-len(bits) // 8)
    return base64.b64encode(int(bits.ljust(8 * size, "0") or "0", 2).to_bytes(size, "big")).decode()


def unpack(text: str, count: int) -> list[bool]:
    """The `count` verdicts that `pack` made text of.

    Raises:
        BadData: these are not so many.
    """
    packed = _bytes(text, count)
    bits = f"{int.from_bytes(packed, 'big'):0{8 * len(packed)}b}" if packed else ""
    return [bit == "1" for bit in bits[:count]]


def _bytes(text: str, count: int) -> bytes:
    try:
        packed = base64.b64decode(text, validate=True)
    except ValueError:
        raise BadData("Verdicts are not base64.") from None
    if len(packed) != -(-count // 8):
        raise BadData(f"{len(packed)} bytes cannot hold the verdicts on {count} images.")
    return packed


def judged(score: Score) -> dict[str, object]:
    """How a score was made, without the network that it is of; equal for scores that may be compared."""
    return {name: value for name, value in score.identity.items() if name not in OF_NETWORK}


def compare(before: Score, after: Score) -> Difference:
    """Two networks on the same images.

    Raises:
        BadData: they were not judged in the same way.
    """
    if judged(before) != judged(after):
        raise BadData(f"{before.label}: these two were not judged in the same way, so they cannot be compared.")
    return difference(before.verdicts, after.verdicts, after.n, after.copies)


def difference(before: str, after: str, n: int, copies: int = 1) -> Difference:
    """Packed verdicts on the same `n` images, compared.

    Raises:
        BadData: one of them holds more or fewer.
    """
    if copies == 1:
        return changed(*flips(before, after, n), n)
    first, second = (shares(unpack(text, n * copies), n) for text in (before, after))
    return clustered.difference(first, second)


def flips(before: str, after: str, n: int) -> tuple[int, int]:
    """How many of `n` packed verdicts became right, and how many wrong.

    Raises:
        BadData: one of them holds more or fewer.
    """
    old, new = (int.from_bytes(_bytes(text, n), "big") >> -n % 8 for text in (before, after))
    return (new & ~old).bit_count(), (old & ~new).bit_count()
