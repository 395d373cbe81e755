"""Rows compared: the laws of the front, of the marks and of the tests, and the same p-values as scipy's."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_ind

from rtk.bench.compare import LEVEL, Spread, behind, front, paired, welch
from rtk.bench.records import Tally
from rtk.statistics import sign_test
from rtk.verdicts import pack

N = 30
BITS = st.lists(st.booleans(), min_size=N, max_size=N)
SEEDS = st.lists(BITS, min_size=1, max_size=3)
SHARE = st.integers(0, 5).map(lambda value: value / 5)


def tally(bits: Sequence[bool], copies: int = 1) -> Tally:
    return Tally(sum(bits) / len(bits), 0.0, 1.0, len(bits) // copies, copies, pack(bits))


def rows(found: list[list[list[bool]]]) -> list[list[Tally]]:
    return [[tally(bits) for bits in row] for row in found]


@given(st.integers(0, 400), st.integers(0, 400))
def test_the_sign_test_is_scipys(gained: int, lost: int) -> None:
    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert sign_test(gained, lost) == pytest.approx(expected, rel=1e-9)


def test_the_sign_test_of_many_images_is_scipys() -> None:
    for gained, lost in ((4900, 5100), (0, 10_000), (1, 900), (4999, 5001), (20_000, 20_400)):
        assert sign_test(gained, lost) == pytest.approx(binomtest(gained, gained + lost).pvalue, rel=1e-7, abs=1e-300)


@pytest.mark.filterwarnings("ignore:Precision loss")
@given(st.lists(SHARE, min_size=2, max_size=5), st.lists(SHARE, min_size=2, max_size=5))
def test_welchs_test_is_scipys(first: list[float], second: list[float]) -> None:
    if Spread.of(first).deviation == Spread.of(second).deviation == 0:
        assert welch(first, second) == (first[0] == second[0])
    else:
        expected = float(ttest_ind(first, second, equal_var=False).pvalue)
        assert welch(first, second) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@given(st.lists(st.tuples(SHARE, SHARE), max_size=12))
def test_the_front_is_what_nothing_dominates(points: list[tuple[float, float]]) -> None:
    def dominated(point: tuple[float, float]) -> bool:
        return any(other != point and other[0] >= point[0] and other[1] >= point[1] for other in points)

    assert front(points) == [not dominated(point) for point in points]
    assert not points or any(front(points))


@given(BITS, BITS)
def test_a_difference_is_that_of_the_verdicts(before: list[bool], after: list[bool]) -> None:
    value, low, high, p = paired(tally(before), tally(after))
    gained = sum(new > old for old, new in zip(before, after, strict=True))
    lost = sum(new < old for old, new in zip(before, after, strict=True))
    assert value == pytest.approx((sum(after) - sum(before)) / N)
    assert low <= high and p == pytest.approx(binomtest(gained, gained + lost).pvalue if gained + lost else 1.0)


@given(BITS, st.sampled_from((1, 2, 3)))
def test_nothing_differs_from_itself(bits: list[bool], copies: int) -> None:
    value, low, high, p = paired(tally(bits, copies), tally(bits, copies))
    assert (value, p) == (0, 1) and low <= 0 <= high


@given(st.lists(SEEDS, min_size=1, max_size=5))
def test_the_highest_mean_is_among_the_best(found: list[list[list[bool]]]) -> None:
    made = rows(found)
    p = behind(made)
    means = [sum(each.accuracy for each in row) / len(row) for row in made]
    assert p[means.index(max(means))] == 1
    assert all(0 <= each <= 1 for each in p)
    doubled = behind([*made, made[means.index(max(means))]])
    assert doubled[-1] == 1, "as good as the best"


@given(st.lists(BITS, min_size=2, max_size=4))
def test_with_one_seed_it_is_mcnemars_test_times_the_other_rows(found: list[list[bool]]) -> None:
    made = rows([[bits] for bits in found])
    sums = [sum(bits) for bits in found]
    best = found[sums.index(max(sums))]
    for bits, p in zip(found, behind(made), strict=True):
        gained = sum(new > old for old, new in zip(best, bits, strict=True))
        lost = sum(new < old for old, new in zip(best, bits, strict=True))
        expected = binomtest(gained, gained + lost).pvalue * (len(found) - 1) if lost > gained else 1
        assert p == pytest.approx(min(1, expected))


def test_over_seeds_images_and_seeds_must_agree() -> None:
    """20 images lost in every seed: plain. The same mean lost, but by one seed of three: that seed may be bad luck."""
    best = [[True] * 100] * 3
    worse = [[False] * 20 + [True] * 80] * 3
    moody = [[True] * 100, [True] * 100, [False] * 60 + [True] * 40]
    level, unlucky = behind(rows([best, worse])), behind(rows([best, moody]))
    assert level[1] < LEVEL <= unlucky[1]


def test_what_is_as_good_as_any_is_seldom_left_out() -> None:
    """Five networks of the same accuracy: the first one is called worse in at most 5 % of 400 benchmarks."""
    chance = random.Random(0)
    missed = 0
    for _ in range(400):
        made = rows([[[chance.random() < 0.7 for _ in range(200)]] for _ in range(5)])
        missed += behind(made)[0] < LEVEL
    assert missed <= 20
