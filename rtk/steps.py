"""Mini-batches as a training loss sees them: each with its own seed, whole or cut into parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor, nn

from .data import Loader
from .seeds import derive


@dataclass(frozen=True)
class Step:
    """One mini-batch.

    Attributes:
        images: (B, C, H, W), float32 in [0, 1], on the run's device, augmented.
        labels: (B,), int64.
        indices: (B,), positions in the training split.
        epoch: counted from 0.
        number: counted from 0 over the whole phase.
        seed: unique to this step; give it to attacks.
        share: of the step's images that are here; below 1 when gradients are accumulated, and where several processes
            have a part each. A loss is a mean over its images, and is weighted by this share; one that is a sum has to
            be divided by it.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    epoch: int
    number: int
    seed: int
    share: float = 1.0


Loss = Callable[[nn.Module, Step], Tensor]
"""Network and mini-batch to the scalar that is minimised."""


def steps(loader: Loader, epoch: int, seed: int, name: str, start: int = 0) -> Iterator[Step]:
    """The mini-batches of one epoch without the first `start`, each with its own seed."""
    for position, batch in enumerate(loader.epoch(epoch, start), start):
        yield Step(
            batch.images,
            batch.labels,
            batch.indices,
            epoch,
            epoch * len(loader) + position,
            derive(seed, name, epoch, position),
        )


def parts(step: Step, count: int) -> Iterator[Step]:
    """A mini-batch cut into `count` parts of nearly equal size, each with its own seed; the first has the step's."""
    cuts = (values.tensor_split(count) for values in (step.images, step.labels, step.indices))
    for number, (images, labels, indices) in enumerate(zip(*cuts, strict=True)):
        seed = derive(step.seed, "part", number) if number else step.seed
        share = len(labels) / len(step.labels)
        yield replace(step, images=images, labels=labels, indices=indices, seed=seed, share=share)
