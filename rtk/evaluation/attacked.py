"""Accuracy without an attack, under PGD-20 and under AutoAttack."""

from __future__ import annotations

from dataclasses import asdict

from torch import Tensor, nn

from ..attacks import Attack, autoattack, label, pgd
from ..threat import Threat
from .cascade import cost, judge
from .measure import Judged, Measure, Tick
from .memory import Memory


class Cascade(Measure):
    """Attacks one after another; an image is robust when it withstands all of them."""

    def __init__(self, label: str, attacks: tuple[Attack, ...]):
        self.label = label
        self.attacks = attacks
        self.cost = cost(attacks)
        self.settings = {
            "threat": asdict(attacks[0].threat) if attacks else None,
            "attacks": [{"name": attack.name, **attack.settings} for attack in attacks],
        }

    def judge(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, seed: int, tick: Tick, memory: Memory
    ) -> Judged:
        return judge(model, images, labels, self.attacks, seed, tick, memory)


def clean(threat: None, classes: int) -> Measure:
    """No attack."""
    return Cascade("clean", ())


def pgd20(threat: Threat, classes: int) -> Measure:
    """PGD-20 with step eps/4 from a random start."""
    return Cascade(f"PGD-20, {threat.label}", (pgd(threat, steps=20),))


def standard(threat: Threat, classes: int) -> Measure:
    """AutoAttack standard; where the classes are too few for one of its attacks, the label says what ran instead."""
    attacks = autoattack(threat, classes)
    return Cascade(f"{label(attacks)}, {threat.label}", attacks)
