"""Verdicts as text, and networks compared by them."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtk.clustered import difference, shares
from rtk.errors import BadData
from rtk.results import Score
from rtk.statistics import paired
from rtk.verdicts import compare, judged, pack, unpack

VERDICTS = st.lists(st.booleans(), min_size=1, max_size=200)


def score(verdicts: list[bool], images: int, **identity: object) -> Score:
    right = sum(verdicts)
    return Score(
        item="clean",
        threat=None,
        label="clean",
        correct=right,
        n=images,
        copies=len(verdicts) // images,
        accuracy=right / len(verdicts),
        low=0,
        high=1,
        class_correct=[right],
        class_n=[images],
        verdicts=pack(verdicts),
        identity={"data": "abc", "seed": 0, "weights": str(verdicts), "id": str(verdicts), **identity},
    )


@given(VERDICTS)
def test_packing_is_undone(verdicts: list[bool]) -> None:
    assert unpack(pack(verdicts), len(verdicts)) == verdicts


@given(VERDICTS)
def test_the_bits_are_those_of_numpy(verdicts: list[bool]) -> None:
    assert base64.b64decode(pack(verdicts)) == np.packbits(verdicts).tobytes()


@pytest.mark.parametrize("text", ["", "AAAA", "!", "A", "Ä"])
def test_text_that_cannot_hold_them_is_refused(text: str) -> None:
    with pytest.raises(BadData):
        unpack(text, 9)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_scores_are_compared_by_their_images(pairs: list[tuple[bool, bool]]) -> None:
    before, after = ([pair[side] for pair in pairs] for side in (0, 1))
    assert compare(score(before, len(pairs)), score(after, len(pairs))) == paired(before, after)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=6, max_size=6))
def test_copies_of_an_image_are_compared_as_one(pairs: list[tuple[bool, bool]]) -> None:
    before, after = ([pair[side] for pair in pairs] for side in (0, 1))
    assert compare(score(before, 3), score(after, 3)) == difference(shares(before, 3), shares(after, 3))


def test_scores_that_were_judged_differently_are_not_compared() -> None:
    with pytest.raises(BadData, match="same way"):
        compare(score([True], 1), score([True], 1, seed=1))


def test_the_network_is_not_part_of_how_it_was_judged() -> None:
    assert judged(score([True], 1)) == judged(score([False], 1)) == {"data": "abc", "seed": 0}
