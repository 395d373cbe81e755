"""From verdicts to what a result says."""

from __future__ import annotations

from collections import Counter

from ..results import Change, Row, Score
from ..statistics import Difference, Estimate, paired
from ..suite import Item
from .chunks import Collected, identities, measure
from .curve import monotone
from .shares import difference, interval, shares
from .subject import Subject, load
from .trust import preconditions, require

Verdicts = dict[Item, Collected]


def row_of(name: str, subject: Subject, verdicts: Verdicts) -> Row:
    """One network of the table, from what `judge_all` returned for it.

    Raises:
        RunFailed: a check says that there is no number to report.
    """
    final = final_of(subject, verdicts)
    of_items = [
        check.model_copy(update={"item": str(item)})
        for item, found in verdicts.items()
        for check in measure(subject, item).checks(found.facts, found.verdicts)
    ]
    checks = [*preconditions(subject), *of_items, *monotone(final)]
    require(checks, subject)
    return Row(
        name=name,
        weights=subject.weights,
        scores={str(item): _score(subject, item, verdicts[item], values) for item, values in final.items()},
        checks=checks,
    )


def final_of(subject: Subject, verdicts: Verdicts) -> dict[Item, list[bool]]:
    """The verdicts that count, by item; without the items that give none."""
    found = {item: measure(subject, item).final(one.verdicts) for item, one in verdicts.items()}
    return {item: values for item, values in found.items() if values}


def changes_between(subject: Subject, before: Verdicts, after: Verdicts) -> dict[str, Change]:
    """Differences of two networks on the same images, by item.

    Args:
        subject: either of the two.
        before, after: what `judge_all` returned for them.
    """
    first, second = final_of(subject, before), final_of(subject, after)
    found = {item: _compared(first[item], second[item], len(before[item].labels)) for item in first}
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


def _compared(before: list[bool], after: list[bool], images: int) -> Difference:
    if len(before) == images:
        return paired(before, after)
    return difference(shares(before, images), shares(after, images))


def _score(subject: Subject, item: Item, found: Collected, final: list[bool]) -> Score:
    images, estimate = len(found.labels), Estimate(sum(final), len(final))
    copies = len(final) // images
    low, high = estimate.interval if copies == 1 else interval(shares(final, images), copies)
    right = Counter(label for label, value in zip(found.labels * copies, final, strict=True) if value)
    every = Counter(found.labels)
    classes = range(load(subject).data.num_classes)
    return Score(
        item=item.name,
        threat=str(item.threat) if item.threat else None,
        label=measure(subject, item).label,
        correct=estimate.correct,
        n=images,
        copies=copies,
        accuracy=estimate.value,
        low=low,
        high=high,
        class_correct=[right[label] for label in classes],
        class_n=[every[label] for label in classes],
        least_batch=found.least,
        identity=identities(subject)[item],
        **measure(subject, item).details(found.verdicts),
    )
