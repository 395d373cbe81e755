"""Fixed, class-stratified choices of images that depend on nothing but a seed and the labels.

The order comes from a cryptographic hash of (seed, index) rather than from a library's random generator: numpy and
torch may change their streams between versions, and a split that moves would let validation images leak into training.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from ..errors import BadValue

Indices = npt.NDArray[np.int64]


def seeded_order(count: int, seed: int) -> Indices:
    """A fixed permutation of 0..count-1, the same on every machine and for every library version."""
    digests = b"".join(hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest() for index in range(count))
    return np.argsort(np.frombuffer(digests, dtype=">u8"), kind="stable").astype(np.int64)


def stratified_split(labels: npt.ArrayLike, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Cut the images into (kept, held), both ascending; together they hold every index exactly once.

    Args:
        labels: (N,) integer class of each image.
        fraction: share of each class that is held, above 0 and below 1.
        seed: which of the possible cuts.

    A class of n >= 2 images has at least one image on each side and round(n * fraction) held where that allows it; a
    class of one image is kept whole. Raises BadValue when the fraction is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise BadValue(f"--val-fraction: got {fraction} (allowed: above 0 and below 1, e.g. 0.1).")
    classes = np.asarray(labels)
    held = np.zeros(len(classes), dtype=bool)
    order = seeded_order(len(classes), seed)
    for label in np.unique(classes):
        members = order[classes[order] == label]
        count = min(max(round(len(members) * fraction), 1), len(members) - 1)
        held[members[:count]] = True
    everything = np.arange(len(classes), dtype=np.int64)
    return everything[~held], everything[held]
