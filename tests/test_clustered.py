"""Intervals where an image has several verdicts: the image is the unit."""

from __future__ import annotations

import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rtk.clustered import difference, interval, shares
from rtk.statistics import Estimate, paired

unhurried = settings(deadline=None)
"""scipy.stats takes a second to import."""
VERDICTS = st.lists(st.booleans(), min_size=1, max_size=60)


@unhurried
@given(VERDICTS)
def test_one_verdict_per_image_gives_wilsons_interval(verdicts: list[bool]) -> None:
    found = interval(shares(verdicts, len(verdicts)), 1)
    assert found == pytest.approx(Estimate(sum(verdicts), len(verdicts)).interval, abs=1e-6)


@unhurried
@given(VERDICTS, st.integers(1, 20))
def test_repeating_every_verdict_adds_nothing(verdicts: list[bool], copies: int) -> None:
    """75 copies that agree are one verdict, not 75."""
    found = shares(verdicts * copies, len(verdicts))
    assert found == [float(verdict) for verdict in verdicts]
    assert interval(found, copies) == pytest.approx(interval(found, 1), abs=1e-9)
    other = list(reversed(verdicts))
    again = shares(other * copies, len(other))
    assert difference(found, again) == difference(list(map(float, verdicts)), list(map(float, other)))


@unhurried
@given(st.integers(1, 40), st.integers(1, 8), st.data())
def test_the_interval_lies_between_that_of_the_images_and_that_of_all_verdicts(
    images: int, copies: int, data: st.DataObject
) -> None:
    count = images * copies
    verdicts = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    low, high = interval(shares(verdicts, images), copies)
    right = sum(verdicts) / count
    assert 0 <= low <= right + 1e-9 and right - 1e-9 <= high <= 1
    fewest, most = Estimate(sum(verdicts), count), high - low
    assert most >= fewest.interval[1] - fewest.interval[0] - 1e-6
    assume(copies > 1 and 0 < right < 1)
    assert most <= interval([right] * images, 1)[1] - interval([right] * images, 1)[0] + 1e-6


@unhurried
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_one_verdict_per_image_gives_the_interval_for_paired_proportions(pairs: list[tuple[bool, bool]]) -> None:
    before, after = ([pair[i] for pair in pairs] for i in range(2))
    found, wanted = difference(list(map(float, before)), list(map(float, after))), paired(before, after)
    assert found.interval == pytest.approx(wanted.interval, abs=1e-9) and found.value == pytest.approx(wanted.value)
    assert (found.p, found.gained, found.lost, found.n) == (wanted.p, wanted.gained, wanted.lost, wanted.n)


def test_changes_of_single_copies_are_not_drowned_by_whole_images() -> None:
    """20 of 200 images gain one of 75 copies each, none loses: the interval says so, as the sign test does."""
    before, after = [0.5] * 200, [0.5 + 1 / 75] * 20 + [0.5] * 180
    found = difference(before, after)
    assert found.p < 0.001 and found.interval[0] > 0
    assert difference(after, before).interval == pytest.approx([-each for each in reversed(found.interval)])


@pytest.mark.parametrize("images", [2, 5, 20])
def test_the_interval_of_few_images_covers_the_truth(images: int) -> None:
    """Images differ in how many of their copies are right: nineteen of twenty intervals hold the true share."""
    chance = random.Random(0)
    held, trials, copies = 0, 1000, 75
    for _ in range(trials):
        found = [sum(chance.random() < share for _ in range(copies)) / copies for share in _drawn(chance, images)]
        low, high = interval(found, copies)
        held += low <= 0.6 <= high
    assert held / trials > 0.93


def _drawn(chance: random.Random, images: int) -> list[float]:
    return [chance.betavariate(1.8, 1.2) for _ in range(images)]


def test_one_image_is_one_image() -> None:
    """However many copies of it agree with each other, they say nothing about other images."""
    low, high = interval([40 / 75], 75)
    assert high - low > 0.8


def test_the_interval_of_a_difference_covers_the_truth() -> None:
    """Images whose copies flip together now and then: nineteen of twenty intervals hold the true change."""
    chance = random.Random(0)
    mean, held, trials, images, copies = 0.1 * (0.6 * 0.2 - 0.4 * 0.2), 0, 1000, 200, 75
    for _ in range(trials):
        changes = []
        for _ in range(images):
            moved = round(copies * chance.uniform(0, 0.4)) / copies if chance.random() < 0.1 else 0.0
            changes.append(moved if chance.random() < 0.6 else -moved)
        low, high = difference([0.5] * images, [0.5 + change for change in changes]).interval
        held += low <= mean <= high
    assert 0.93 < held / trials < 0.995


def test_shares_belong_to_their_image() -> None:
    assert shares([True, False, True, True, False, False], 2) == [2 / 3, 1 / 3]
