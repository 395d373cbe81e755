"""What becomes of verdicts: scores, curves, and kinds of evaluation that are added."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rtk.checks import Check
from rtk.data import Dataset
from rtk.evaluation import Judged, Measure, Subject, changes_between, judge, judge_all, measure_of, row_of
from rtk.evaluation.curve import curves, monotone
from rtk.progress import Silent
from rtk.suite import KINDS, Item, Kind, Suite
from rtk.threat import Threat

from .test_evaluate import CLEAN, EPS, PGD, subject  # noqa: F401 - a fixture

RADII = [Threat("Linf", eps) for eps in (0.02, 0.1, 0.3)]


def item(eps: float) -> Item:
    return Item("pgd20", Threat("Linf", eps))


def test_a_curve_falls_and_every_radius_has_its_own_score(subject: Subject) -> None:  # noqa: F811
    curve = replace(subject, suite=Suite(("clean", "pgd20"), (*RADII, Threat("L2", 0.5)), images=32, chunk_size=32))
    (verdicts,) = judge_all([curve], Silent(), workers=1)
    row = row_of("net", curve, verdicts)
    keys = ["clean", "pgd20@Linf:0.02", "pgd20@Linf:0.1", "pgd20@Linf:0.3", "pgd20@L2:0.5"]
    assert list(row.scores) == keys
    values = [row.scores[key].correct for key in keys[:4]]
    assert values == sorted(values, reverse=True) and values[0] > values[-1]
    assert [row.scores[key].label for key in keys] == [
        "clean",
        "PGD-20, Linf 0.02",
        "PGD-20, Linf 0.1",
        "PGD-20, Linf 0.3",
        "PGD-20, L2 0.5",
    ]
    assert len({score.identity["id"] for score in row.scores.values()}) == 5
    (check,) = (check for check in row.checks if check.name == "monotone-in-eps")
    assert (check.verdict, check.value) == ("ok", 0.0)


def test_counts_per_class_add_up(subject: Subject) -> None:  # noqa: F811
    (verdicts,) = judge_all([subject], Silent(), workers=1)
    score = row_of("net", subject, verdicts).scores[str(PGD)]
    assert sum(score.class_correct) == score.correct and sum(score.class_n) == score.n == 48
    labels, final = torch.tensor(verdicts[PGD].labels), torch.tensor(verdicts[PGD].verdicts["pgd20"])
    assert score.class_n == labels.bincount(minlength=10).tolist()
    assert score.class_correct == labels[final].bincount(minlength=10).tolist()
    assert score.after == {"pgd20": score.correct}


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_a_rise_of_robust_accuracy_is_found(columns: list[tuple[bool, bool, bool]]) -> None:
    """Against a count by hand; the order in which the radii were asked for does not matter."""
    rows = [[column[i] for column in columns] for i in range(3)]
    final = {item(eps): row for eps, row in zip((0.1, 0.2, 0.3), rows, strict=True)}
    (check,) = monotone({key: final[key] for key in (item(0.3), item(0.1), item(0.2))})
    rises = [sum(b) - sum(a) for a, b in combinations(rows, 2)]
    assert check.value == max(0, *rises) / len(columns)
    assert check.verdict == ("warning" if max(rises) > 0 else "ok")
    odd = sum((not a and (b or c)) or (not b and c) for a, b, c in columns)
    assert f"{odd} of {len(columns)} samples" in check.text


def test_norms_and_attacks_are_curves_of_their_own() -> None:
    l2 = [Item("pgd20", Threat("L2", eps)) for eps in (1.0, 0.5)]
    given_items = [CLEAN, item(0.2), *l2, item(0.1), Item("autoattack", EPS)]
    assert curves(given_items) == [[item(0.1), item(0.2)], [l2[1], l2[0]]]


@pytest.mark.parametrize(
    ("classes", "begins"), [(10, "AutoAttack standard, Linf 0.1"), (4, "AutoAttack standard"), (3, "APGD-CE + ")]
)
def test_what_did_not_run_is_not_claimed(classes: int, begins: str) -> None:
    few = SimpleNamespace(num_classes=classes)
    assert measure_of(Item("autoattack", EPS), few).label.startswith(begins)  # type: ignore[arg-type]


def test_the_example_of_an_image_is_the_one_that_broke_it(source, images) -> None:
    from rtk.attacks import apgd, distance, pgd

    x, y = images[0][:60], images[1][:60]
    attacks = (pgd(EPS, steps=2), apgd(EPS, steps=10))
    found = judge(source.model, x, y, attacks, seed=3)
    assert found.examples is not None and distance(x, found.examples, "Linf").max() <= EPS.eps + 1e-6
    clean, first, last = (torch.tensor(row) for row in found.verdicts.values())
    assert clean.sum() > first.sum() > last.sum() > 0, "the test needs images of every kind"
    with torch.no_grad():
        assert torch.equal(source.model(found.examples).argmax(1) == y, last)
    assert torch.equal(found.examples[~clean], x[~clean]), "what is wrong by itself needs no attack"
    alone = judge(source.model, x, y, attacks[:1], seed=3)
    assert alone.examples is not None
    assert torch.equal(found.examples[clean & ~first], alone.examples[clean & ~first])


class Mirrored(Measure):
    """Accuracy on the image and on its mirror image; a kind of evaluation that rtk does not have."""

    label, cost, settings = "mirrored", 2, {"axis": 3}

    def judge(self, model: nn.Module, images: Tensor, labels: Tensor, *, indices, seed, tick, memory) -> Judged:
        with torch.no_grad():
            rows = {name: model(x).argmax(1) == labels for name, x in (("as-is", images), ("mirror", images.flip(3)))}
        agree = int((rows["as-is"] == rows["mirror"]).sum())
        return Judged({name: row.tolist() for name, row in rows.items()}, facts={"agree": agree})

    def final(self, verdicts: dict[str, list[bool]]) -> list[bool]:
        return [*verdicts["as-is"], *verdicts["mirror"]]

    def checks(self, facts: list[dict[str, int]], verdicts: dict[str, list[bool]]) -> list[Check]:
        agree = sum(each["agree"] for each in facts)
        return [Check(name="mirror", verdict="ok", value=agree, text="How many agree.")]


def mirrored(item: Item, data: Dataset) -> Measure:
    return Mirrored()


def test_a_new_kind_of_evaluation_is_a_module_and_a_line(
    subject: Subject,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(KINDS, "mirrored", Kind(f"{__name__}:mirrored", attacked=False))
    other = replace(subject, suite=Suite(("clean", "mirrored"), (), images=40, chunk_size=16))
    (verdicts,) = judge_all([other], Silent(), workers=1)
    row = row_of("net", other, verdicts)
    score = row.scores["mirrored"]
    assert (score.n, score.copies, score.label, sum(score.class_n)) == (40, 2, "mirrored", 40)
    assert score.after["as-is"] == row.scores["clean"].correct and score.correct == sum(score.after.values())
    assert score.accuracy == score.correct / 80 and score.identity["axis"] == 3
    (check,) = (check for check in row.checks if check.item == "mirrored")
    assert check.value is not None and 0 < check.value <= 40
    assert changes_between(row, row)["mirrored"].n == 40
