"""Figures from accuracies under corruption: means, families, and the paper's mCE."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtk.corruptions import FAMILIES, NAMES, SEVERITIES, Baseline, summarise
from rtk.errors import BadValue, UnknownName

CELLS = [(name, severity) for name in NAMES for severity in SEVERITIES]
accuracies = st.lists(st.floats(0, 1), min_size=len(CELLS), max_size=len(CELLS)).map(
    lambda values: dict(zip(CELLS, values, strict=True))
)
imperfect = st.lists(st.floats(0, 0.99), min_size=len(CELLS), max_size=len(CELLS)).map(
    lambda values: dict(zip(CELLS, values, strict=True))
)
flat = dict.fromkeys(CELLS, 0.6)


@given(accuracies)
def test_all_means_agree(given_accuracies):
    found = summarise(given_accuracies)
    assert found.mean == pytest.approx(sum(given_accuracies.values()) / 75)
    assert found.mean == pytest.approx(sum(found.corruptions.values()) / 15)
    assert found.mean == pytest.approx(sum(found.families[f] * len(FAMILIES[f]) for f in FAMILIES) / 15)
    assert found.corruptions["fog"] == pytest.approx(sum(given_accuracies["fog", s] for s in SEVERITIES) / 5)
    assert list(found.corruptions) == list(NAMES) and found.severities == SEVERITIES
    assert (found.missing, found.mce, found.baseline) == ((), None, None)


@given(imperfect)
def test_a_network_has_mce_1_relative_to_itself(given_accuracies):
    found = summarise(given_accuracies, Baseline("itself", given_accuracies))
    assert found.mce == pytest.approx(1) and found.baseline == "itself"


@given(imperfect)
def test_half_the_errors_are_half_the_mce(expected):
    better = {cell: 1 - (1 - accuracy) / 2 for cell, accuracy in expected.items()}
    assert summarise(better, Baseline("AlexNet", expected)).mce == pytest.approx(0.5)


def test_mce_averages_ratios_of_sums():
    """Not a ratio of averages, nor an average of ratios per severity: only the paper's definition gives this value."""
    expected = dict.fromkeys(CELLS, 0.5) | {("fog", severity): 0.9 for severity in SEVERITIES} | {("fog", 1): 0.4}
    found = summarise(flat, Baseline("AlexNet", expected))
    assert found.mce == pytest.approx((14 * (5 * 0.4) / (5 * 0.5) + (5 * 0.4) / (0.6 + 4 * 0.1)) / 15)


def test_a_part_of_the_grid_says_what_it_lacks():
    found = summarise({("snow", 3): 0.5, ("fog", 3): 0.7, ("pixelate", 3): 0.9})
    assert found.mean == pytest.approx(0.7)
    assert found.families == pytest.approx({"weather": 0.6, "digital": 0.9})
    assert found.corruptions == {"snow": 0.5, "fog": 0.7, "pixelate": 0.9}
    assert found.severities == (3,) and len(found.missing) == 12 and "fog" not in found.missing


def without(name: str, severity: int) -> dict[tuple[str, int], float]:
    return {cell: accuracy for cell, accuracy in flat.items() if cell != (name, severity)}


REFUSED = {
    "nothing": (BadValue, {}, None, "No accuracies"),
    "uneven": (BadValue, without("fog", 2), None, "fog at severity 2 is missing .*the same severities"),
    "name": (UnknownName, {("frog", 1): 0.5}, None, "Did you mean 'fog'"),
    "severity": (BadValue, {("fog", 0): 0.5}, None, "Severity 0"),
    "percent": (BadValue, {("fog", 1): 50.0}, None, r"50 for fog at severity 1 \(allowed: 0 to 1"),
    "nan": (BadValue, {("fog", 1): float("nan")}, None, "nan for fog"),
    "mce of a part": (BadValue, {("fog", 1): 0.5}, flat, "For mCE gaussian_noise at severity 1 is missing"),
    "baseline of a part": (BadValue, flat, without("snow", 5), "relative to AlexNet snow at severity 5 is missing"),
    "perfect baseline": (BadValue, flat, dict.fromkeys(CELLS, 1.0), "AlexNet makes no errors under gaussian_noise"),
    "no baseline": (BadValue, flat, {}, "No accuracies of AlexNet"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    kind, given_accuracies, expected, words = REFUSED[case]
    baseline = None if expected is None else Baseline("AlexNet", expected)
    with pytest.raises(kind, match=words):
        summarise(given_accuracies, baseline)
