"""The split that decides what a strategy may see: exhaustive, disjoint, stratified, and independent of everything."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rtk.data.split import ArrayPixels, Split
from rtk.data.stratify import seeded_order, stratified_split
from rtk.errors import BadValue

SEEDED = [3, 7, 5, 4, 2, 6, 0, 1]
HELD = [3, 7, 8, 18]


@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=200),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**40),
)
@settings(max_examples=200, deadline=None)
def test_split_is_exhaustive_disjoint_and_stratified(labels, fraction, seed):
    kept, held = stratified_split(labels, fraction, seed)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert list(kept) == sorted(kept) and list(held) == sorted(held)
    classes = np.array(labels)
    for label in set(labels):
        count = int((classes == label).sum())
        in_held = int((classes[held] == label).sum())
        assert in_held == (0 if count == 1 else min(max(round(count * fraction), 1), count - 1))


def test_split_is_the_same_everywhere():
    """Recorded once: another result means that earlier runs saw today's validation images."""
    assert seeded_order(8, 0).tolist() == SEEDED
    _, held = stratified_split([0, 1] * 10, 0.2, 0)
    assert held.tolist() == HELD
    assert stratified_split([0, 1] * 10, 0.2, 1)[1].tolist() != HELD


def test_split_ignores_and_keeps_global_random_state():
    labels = [0, 1, 2] * 30
    first = stratified_split(labels, 0.1, 3)[1]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    assert np.array_equal(stratified_split(labels, 0.1, 3)[1], first)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1]) and before[2] == random.getstate()


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 2, float("nan")])
def test_fraction_outside_is_refused(fraction):
    with pytest.raises(BadValue, match="allowed: above 0 and below 1"):
        stratified_split([0, 1], fraction, 0)


def small_split(dtype=torch.uint8, channels=3) -> Split:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (10, channels, 8, 8), generator=generator, dtype=torch.uint8)
    pixels = images if dtype == torch.uint8 else images.float() / 255
    return Split(ArrayPixels(pixels), torch.arange(10) % 3)


def test_images_are_floats_in_range_whatever_the_index():
    split = small_split()
    by_slice = split.images(slice(2, 5))
    assert by_slice.dtype == torch.float32 and by_slice.shape == (3, 3, 8, 8)
    assert by_slice.min() >= 0 and by_slice.max() <= 1
    assert torch.equal(by_slice, split.images(torch.tensor([2, 3, 4])))
    assert torch.equal(by_slice, split.images([2, 3, 4]))
    assert split.images(slice(0, 0)).shape == (0, 3, 8, 8)
    with pytest.raises(IndexError):
        split.images([10])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_changing_what_was_read_does_not_change_the_split(dtype):
    split = small_split(dtype)
    before = split.images(slice(None)).clone()
    split.images(slice(None)).zero_()
    assert torch.equal(split.images(slice(None)), before)


def test_grey_images_get_three_equal_channels():
    images = small_split(channels=1).images(slice(None))
    assert images.shape == (10, 3, 8, 8)
    assert torch.equal(images[:, 0], images[:, 2])


def test_subset_of_a_subset():
    split = small_split()
    part = split.subset([1, 3, 5, 7]).subset(torch.tensor([3, 0]))
    assert len(part) == 2 and part.labels.tolist() == [7 % 3, 1]
    assert torch.equal(part.images(slice(None)), split.images([7, 1]))


def test_hash_names_content_and_order():
    split = small_split()
    assert split.sha256 == small_split().sha256 and len(split.sha256) == 64
    assert split.subset(slice(None)).sha256 == split.sha256
    assert split.subset([1, 0]).sha256 != split.subset([0, 1]).sha256
    relabelled = Split(split._pixels, split.labels.flip(0))
    assert relabelled.sha256 != split.sha256
    assert small_split(torch.float32).sha256 != split.sha256


def test_images_that_two_splits_share_are_counted():
    noise = torch.randint(0, 256, (20, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole = Split(ArrayPixels(noise), torch.arange(20))
    first, second = whole.subset(slice(0, 12)), whole.subset([11, 3, 15])
    assert second.shared_with(first) == 2 and first.shared_with(second) == 2
    assert whole.subset([19]).shared_with(first) == 0
    first_in_files = whole.subset(slice(0, 12))
    first_in_files.in_memory = False
    assert second.shared_with(first_in_files) is None
