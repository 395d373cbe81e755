"""From verdicts to what a result says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..checks import Check
from ..clustered import interval, shares
from ..results import Change, Row, Score
from ..statistics import Estimate
from ..suite import Item
from ..verdicts import pack
from .chance import above_chance
from .chunks import Collected, identities, measure
from .curve import monotone
from .subject import Subject, load
from .trust import preconditions, require

Verdicts = dict[Item, Collected]


def row_of(name: str, subject: Subject, verdicts: Verdicts, more: Sequence[Check] = ()) -> Row:
    """One network of the table, from what `judge_all` returned for it.

    Args:
        more: checks of what only the caller knows, such as what it was trained on.

    Raises:
        RunFailed: a check says that there is no number to report.
    """
    final = final_of(subject, verdicts)
    of_items = [
        check.model_copy(update={"item": str(item)})
        for item, found in verdicts.items()
        for check in measure(subject, item).checks(found.facts, found.verdicts)
    ]
    plain = [
        above_chance(verdicts[item].labels, values).model_copy(update={"item": str(item)})
        for item, values in final.items()
        if item.name == "clean"
    ]
    checks = [*preconditions(subject), *plain, *of_items, *monotone(final), *more]
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


def changes_between(before: Row, after: Row) -> dict[str, Change]:
    """Differences of two networks on the same images, by item."""
    return {key: Change.between(score, after.scores[key]) for key, score in before.scores.items()}


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
        verdicts=pack(final),
        least_batch=found.least,
        identity=identities(subject)[item],
        **measure(subject, item).details(found.verdicts),
    )
