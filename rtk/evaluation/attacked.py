"""Accuracy without an attack, under PGD and under AutoAttack."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from ..attacks import Attack, autoattack, label, pgd
from ..backbones.folded import LOGITS, Folding
from ..checks import Check, Counts, conclude, nested
from ..data import Dataset
from ..memory import Memory
from ..suite import Item
from ..threat import Threat
from .cascade import cost, judge
from .measure import Judged, Measure, Tick


class Cascade(Measure):
    """Attacks one after another; an image is robust when it withstands all of them.

    Args:
        announced: see `judge`.
    """

    def __init__(self, label: str, attacks: tuple[Attack, ...], *, announced: bool = False):
        self.label = label
        self.attacks = attacks
        self.announced = announced
        self.cost = cost(attacks)
        self.settings = {
            "threat": asdict(attacks[0].threat) if attacks else None,
            "attacks": [{"name": attack.name, **attack.settings} for attack in attacks],
        }

    def judge(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        indices: Tensor,
        seed: int,
        tick: Tick,
        memory: Memory,
    ) -> Judged:
        return judge(model, images, labels, self.attacks, seed, tick, memory, announced=self.announced)

    def checks(self, facts: list[dict[str, Any]], verdicts: dict[str, list[bool]]) -> list[Check]:
        if not self.attacks:
            return []
        counts = sum((Counts(**chunk["counts"]) for chunk in facts), Counts())
        return [*conclude(counts), nested(verdicts), _searched([Folding(**chunk["folding"]) for chunk in facts])]


def clean(item: Item, data: Dataset) -> Measure:
    """No attack."""
    return Cascade("clean", ())


def pgd10(item: Item, data: Dataset) -> Measure:
    """PGD-10 with step eps/4 from a random start, by which RiFT and TWINS are judged in their papers."""
    return _pgd(item, 10)


def pgd20(item: Item, data: Dataset) -> Measure:
    """PGD-20 with step eps/4 from a random start."""
    return _pgd(item, 20)


def pgd100(item: Item, data: Dataset) -> Measure:
    """PGD-100 with step eps/4 from a random start, by which CARTL is judged in its paper."""
    return _pgd(item, 100)


def standard(item: Item, data: Dataset) -> Measure:
    """AutoAttack standard; where the classes are too few for one of its attacks, the label says what ran instead."""
    threat = _threat(item)
    attacks = autoattack(threat, data.num_classes)
    return Cascade(f"{label(attacks)}, {threat.label}", attacks, announced=True)


def _pgd(item: Item, steps: int) -> Measure:
    threat = _threat(item)
    return Cascade(f"PGD-{steps}, {threat.label}", (pgd(threat, steps=steps),))


def _searched(foldings: list[Folding]) -> Check:
    """On which network the attacks searched; never more than a note, since it was compared with the judged one."""
    layers = {folding.layers for folding in foldings}
    if layers <= {0}:
        return Check(name="searched-network", verdict="ok", text="Attacks searched on the network as it is.")
    text = (
        f"Attacks searched on the network with {max(layers)} BatchNorm layers as parts of the convolutions before them"
        + (" (where that changed nothing but rounding)" if len(layers) > 1 else "")
        + "; the network as it is judged what they found. Relative to the largest logit, the two differ by up to"
    )
    largest = max(folding.difference for folding in foldings)
    return Check(name="searched-network", verdict="ok", value=largest, limit=LOGITS, text=f"{text} {largest:.1e}.")


def _threat(item: Item) -> Threat:
    assert item.threat is not None, "a suite gives every attack one"
    return item.threat
