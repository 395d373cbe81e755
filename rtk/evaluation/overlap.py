"""Whether a network is judged on images that it was trained on."""

from __future__ import annotations

from ..checks import Check
from ..checks.check import at_most
from ..data import Dataset, Split

LIMIT = 0.005
"""Share of the test images; public data sets hold a few of their own training images."""


def train_test_overlap(train: Split, data: Dataset) -> list[Check]:
    """The check of that name; none where images are in files, which would all have to be decoded."""
    test = data.split("test")
    count = test.shared_with(train)
    if count is None:
        return []
    subject = "The share of test images that are training images, pixel for pixel,"
    meaning = "accuracies are of what was learned by heart"
    return [at_most("train-test-overlap", count / len(test), LIMIT, subject, meaning)]
