"""What is made of results, as far as it needs no extra; and rows of results for the other tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtk.errors import RequestError, UnknownName
from rtk.report import canvas
from rtk.report.folder import chosen
from rtk.results import Evaluation, Row, Score
from rtk.statistics import Estimate
from rtk.verdicts import pack

LABELS = {"clean": "clean", "pgd20": "PGD-20", "autoattack": "AutoAttack standard"}


def score(key: str, class_correct: Sequence[int], class_n: Sequence[int]) -> Score:
    """A score with these counts per class."""
    item, _, threat = key.partition("@")
    found = Estimate(sum(class_correct), sum(class_n))
    return Score(
        item=item,
        threat=threat or None,
        label=LABELS[item] + (f", {threat.replace(':', ' ')}" if threat else ""),
        correct=found.correct,
        n=found.n,
        accuracy=found.value,
        low=found.interval[0],
        high=found.interval[1],
        class_correct=list(class_correct),
        class_n=list(class_n),
        verdicts=pack([True] * found.correct + [False] * (found.n - found.correct)),
        identity={"id": "0" * 16},
    )


def row(name: str, counts: Mapping[str, tuple[int, int]]) -> Row:
    """A network of one class with these counts, right and all, by key."""
    return Row(name=name, weights="0" * 64, scores={key: score(key, [k], [n]) for key, (k, n) in counts.items()})


def evaluation(counts: Mapping[str, tuple[int, int]], **changes: Any) -> Evaluation:
    """An evaluation of a network trained at Linf 8/255 on a test set of 10,000 images."""
    values = {
        "rtk": "0.1.0",
        "created": "2026-01-01T00:00:00+00:00",
        "command": [],
        "backbone": {"uri": "timm:resnet18", "threat": {"norm": "Linf", "eps": 8 / 255}},
        "dataset": {"uri": "cifar10", "images": {"test": 10_000}},
        "row": row("timm:resnet18", counts),
        "seconds": 1.0,
        "environment": {},
    }
    return Evaluation(**{**values, **changes})


@pytest.mark.parametrize("module", ["rtk.report.folder", "rtk.report.robustbench", "rtk.cli.plot"])
def test_nothing_heavy_is_imported_before_it_is_needed(module: str) -> None:
    code = f"import sys, {module}; print([name for name in ('torch', 'matplotlib') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(RequestError, match="Pictures need matplotlib") as raised:
        canvas.figure(4, 3, "title")
    assert raised.value.hint == "pip install 'rtk[plots]'"


def test_the_attack_that_is_shown_is_at_the_networks_own_threat_and_on_most_images() -> None:
    counts = {"clean": (9, 10), "pgd20@Linf:4/255": (9, 10), "pgd20@Linf:8/255": (7, 10), "pgd20@L2:1": (5, 10)}
    assert chosen(evaluation(counts)) == "pgd20@Linf:8/255"
    assert chosen(evaluation({**counts, "autoattack@Linf:8/255": (3, 5)})) == "pgd20@Linf:8/255"
    assert chosen(evaluation({**counts, "autoattack@Linf:8/255": (6, 10)})) == "autoattack@Linf:8/255"
    assert chosen(evaluation({"clean": (9, 10), "pgd20@L2:1": (5, 10)})) == "pgd20@L2:1"
    assert chosen(evaluation(counts), "pgd20@L2:1") == "pgd20@L2:1"
    assert chosen(evaluation({"clean": (9, 10)})) is None


def test_an_attack_that_was_not_run_is_refused() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'pgd20@Linf:8/255'"):
        chosen(evaluation({"clean": (9, 10), "pgd20@Linf:8/255": (7, 10)}), "pgd20@Linf:8/25")
    with pytest.raises(UnknownName):
        chosen(evaluation({"clean": (9, 10), "pgd20@Linf:8/255": (7, 10)}), "clean")


@given(st.lists(st.integers(1, 10**6), min_size=1))
def test_counts_as_text_hold_the_smallest_and_the_largest(counts: list[int]) -> None:
    found = [int(part) for part in canvas.span(counts).split(" to ")]
    assert (found[0], found[-1]) == (min(counts), max(counts))
    assert len(found) == len({min(counts), max(counts)})
