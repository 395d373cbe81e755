"""Signs of gradient masking, on a fixed class-balanced set of images; a warning beside the scores, no score itself."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..checks import Check, cost
from ..checks import masking as signs_of_masking
from ..checks.signatures import NAMES
from ..data import Dataset
from ..memory import Memory
from ..suite import Item
from .cascade import Meter
from .measure import Judged, Measure, Tick


class Masking(Measure):
    """What `rtk.checks.masking` says at one threat."""

    def __init__(self, item: Item, data: Dataset):
        assert item.threat is not None, "a suite gives every attack one"
        self.threat, self.classes = item.threat, data.num_classes
        self.label = f"signs of masking, {item.threat.label}"
        self.cost = cost(1)
        self.settings = {"threat": asdict(item.threat), "checks": list(NAMES)}

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
        meter = Meter(tick, cost(len(images)), ceiling=cost(len(images)))
        look = partial(signs_of_masking, model, images, labels, self.threat, self.classes, seed=seed, tick=meter.count)
        found = memory.run(lambda batch: look(batch=batch))
        meter.finish()
        return Judged({}, facts={"checks": [check.model_dump(mode="json") for check in found]})

    def checks(self, facts: list[dict[str, Any]], verdicts: dict[str, list[bool]]) -> list[Check]:
        return [Check(**check) for chunk in facts for check in chunk["checks"]]


masking = Masking
"""The kind of evaluation of this name."""
