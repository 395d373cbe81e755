"""Accuracy where an image has several verdicts: the copies of one image are not independent, the images are.

With one verdict per image the functions give what rtk/statistics.py gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, pvariance, variance

from .statistics import Difference, sign_test

Z = 1.959964
"""97.5 % quantile of the normal distribution."""


def shares(verdicts: Sequence[bool], images: int) -> list[float]:
    """The share of right verdicts of each image.

    Args:
        verdicts: of all images, then of all images again, and so on.
    """
    copies = len(verdicts) // images
    return [sum(verdicts[image::images]) / copies for image in range(images)]


def interval(found: Sequence[float], copies: int) -> tuple[float, float]:
    """95 % Wilson interval of the mean share, in [0, 1], with the effective sample size in the place of n.

    That is the number of independent verdicts whose mean would vary as much as that of the images, less what few images
    leave open about how they vary (Student's t in the place of z, Korn & Graubard 1998): between one for each image
    and one for each copy.
    """
    images, p = len(found), fmean(found)
    n = float(images)
    if copies > 1 and images > 1 and 0 < p < 1:
        from scipy.stats import t  # takes a second to import

        spread = variance(found) / images
        effective = p * (1 - p) / spread if spread else images * copies
        n = max(n, min(images * copies, effective * (Z / t.ppf(0.975, images - 1)) ** 2))
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def difference(before: Sequence[float], after: Sequence[float]) -> Difference:
    """Compare the shares of the same images.

    Bonett & Price's interval for proportions is that of the mean after an image that was gained and one that was lost
    were added. Here they are added with the largest change that an image had, 1 where there is none: whole images would
    drown changes of a few copies each. The p-value is that of the exact sign test.
    """
    changes = [new - old for old, new in zip(before, after, strict=True)]
    gained, lost = sum(change > 0 for change in changes), sum(change < 0 for change in changes)
    largest = max(map(abs, changes)) or 1.0
    padded = [*changes, largest, -largest]
    middle, half = fmean(padded), Z * math.sqrt(pvariance(padded) / len(padded))
    reach = max(-1.0, middle - half), min(1.0, middle + half)
    return Difference(fmean(changes), reach, sign_test(gained, lost), gained, lost, len(changes))
