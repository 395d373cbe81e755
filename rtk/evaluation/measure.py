"""What an item of the suite has to say and to do."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..checks import Check
from ..data import Dataset
from ..memory import Memory
from ..suite import Item

Tick = Callable[[float], None]
"""Called with the work done since the last call, in images times forward passes."""


@dataclass(frozen=True)
class Judged:
    """What a measure found for the N images of a chunk.

    Attributes:
        verdicts: by step, in the order in which they ran: whether each image is right after it, N values.
        examples: the strongest known adversarial image for each, float32 (N, C, H, W); None where nothing is attacked.
        facts: anything else, as JSON; kept with the chunk and handed to `Measure.checks`.
    """

    verdicts: dict[str, list[bool]]
    examples: Tensor | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class Measure(ABC):
    """One item of the suite, for one data set.

    Attributes:
        label: what was measured, for a reader: "PGD-20, Linf 8/255".
        cost: forward passes per image, about; for the order of the work and the estimate of the time left.
        settings: everything that can change a verdict, as JSON; part of the identity of the evaluation.
    """

    label: str
    cost: float
    settings: dict[str, Any]

    @abstractmethod
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
        """Judge one chunk; the result is a function of these arguments, `tick` and `memory` apart.

        Args:
            model: images to logits, in evaluation mode.
            images: float32 (N, C, H, W) in [0, 1], on the model's device.
            labels: int64 (N,), there too.
            indices: int64 (N,), on the CPU: which images of the test split they are, in the data set's own order.
            seed: of this chunk.
            memory: every forward pass goes through `memory.run`.
        """

    def final(self, verdicts: dict[str, list[bool]]) -> list[bool]:
        """The verdicts that count, from those of all chunks together; by default those after the last step.

        A measure without verdicts has no score. One that judges every image k times gives k times N values, in an
        order that is the same for every network.
        """
        return list(verdicts.values())[-1] if verdicts else []

    def details(self, verdicts: dict[str, list[bool]]) -> dict[str, Any]:
        """Fields of `Score` that only this measure can fill; by default how many are right after each step."""
        return {"after": {step: sum(values) for step, values in verdicts.items() if step != "clean"}}

    def checks(self, facts: list[dict[str, Any]], verdicts: dict[str, list[bool]]) -> list[Check]:
        """Whether the score can be believed.

        Args:
            facts: of all chunks.
            verdicts: of all chunks together.
        """
        return []


def measure_of(item: Item, data: Dataset) -> Measure:
    """The measure of an item on a data set.

    Raises:
        RequestError: it cannot be done with this threat, on images of this size, with so few classes, or as installed.
    """
    module, _, function = item.kind.home.partition(":")
    made: Measure = getattr(importlib.import_module(module), function)(item, data)
    return made
