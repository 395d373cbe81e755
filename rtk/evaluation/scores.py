"""From verdicts to what a result says."""

from __future__ import annotations

from collections import Counter

from ..results import Change, Row, Score
from ..statistics import Estimate, paired
from ..suite import Item
from .chunks import Collected, identities, measure
from .curve import monotone
from .subject import Subject, load

Verdicts = dict[Item, Collected]


def row_of(name: str, subject: Subject, verdicts: Verdicts) -> Row:
    """One network of the table, from what `judge_all` returned for it."""
    final = final_of(subject, verdicts)
    checks = [check for item, found in verdicts.items() for check in measure(subject, item).checks(found.facts)]
    return Row(
        name=name,
        weights=subject.weights,
        scores={str(item): _score(subject, item, verdicts[item], values) for item, values in final.items()},
        checks=[*monotone(final), *checks],
    )


def final_of(subject: Subject, verdicts: Verdicts) -> dict[Item, list[bool]]:
    """The verdicts that count, by item; without the items that give none."""
    found = {item: measure(subject, item).final(one.verdicts) for item, one in verdicts.items()}
    return {item: values for item, values in found.items() if values}


def changes_between(before: dict[Item, list[bool]], after: dict[Item, list[bool]]) -> dict[str, Change]:
    """Differences on the same samples, from `final_of` of two networks."""
    found = {item: paired(before[item], after[item]) for item in before}
    return {
        str(item): Change(
            value=one.value,
            low=one.interval[0],
            high=one.interval[1],
            p=one.p,
            gained=one.gained,
            lost=one.lost,
            n=one.n,
        )
        for item, one in found.items()
    }


def _score(subject: Subject, item: Item, found: Collected, final: list[bool]) -> Score:
    estimate = Estimate(sum(final), len(final))
    low, high = estimate.interval
    labels = found.labels * (len(final) // len(found.labels))
    right = Counter(label for label, value in zip(labels, final, strict=True) if value)
    every = Counter(labels)
    classes = range(load(subject).data.num_classes)
    return Score(
        item=item.name,
        threat=str(item.threat) if item.threat else None,
        label=measure(subject, item).label,
        correct=estimate.correct,
        n=estimate.n,
        accuracy=estimate.value,
        low=low,
        high=high,
        class_correct=[right[label] for label in classes],
        class_n=[every[label] for label in classes],
        after={step: sum(values) for step, values in found.verdicts.items() if step != "clean"},
        least_batch=found.least,
        identity=identities(subject)[item],
    )
