"""Attacks on a fixed set of images, with everything on the way recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..attacks import Attack, Logits
from ..seeds import derive
from .gradients import cross_entropy


@dataclass(frozen=True)
class Path:
    """What a network said to every iterate of an attack, from the start to the image that was returned.

    Attributes:
        correct: (steps + 1, N), bool; NaN or infinite logits are never correct.
        loss: (steps + 1, N), the cross-entropy.
        end: (N, C, H, W), what the attack returned.
    """

    correct: Tensor
    loss: Tensor
    end: Tensor


class _Recorder(nn.Module):
    """Keeps what the network says to the images that an attack shows it."""

    def __init__(self, network: nn.Module, labels: Tensor):
        super().__init__()
        self.network, self.labels = network, labels
        self.correct: list[Tensor] = []
        self.loss: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        with torch.no_grad():
            self.correct.append(is_correct(logits, self.labels))
            self.loss.append(cross_entropy(logits.detach(), self.labels))
        return logits


class Probe:
    """The images that a network, which must be frozen, classifies correctly; to be attacked again and again.

    Args:
        tick: called with the work done, in image-forwards.
        batch: at most so many images go through the network at once; None for all.

    Attributes:
        total: number of images given.
        images, labels: those that are classified correctly.
        network: gives float32 logits.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        seed: int,
        tick: Callable[[float], None] | None,
        batch: int | None,
    ):
        self.total = len(images)
        self.network = Logits(model, self._count, batch).eval()
        self.images, self.labels = images, labels
        self._seed, self._tick, self._left = seed, tick, 0.0
        with self.stage(1):
            kept = is_correct(self.logits(images), labels)
        self.images, self.labels = images[kept], labels[kept]

    @contextmanager
    def stage(self, cost: int) -> Iterator[None]:
        """A block that counts as `cost` image-forwards for each image given, however many of them it needs."""
        self._left = float(cost * self.total)
        yield
        self._report(self._left)

    def logits(self, images: Tensor) -> Tensor:
        """Float32 logits without a gradient."""
        with torch.no_grad():
            return self.network(images)

    def robust(self, attack: Attack, repeat: int = 0) -> Tensor:
        """(N,), bool: which images the attack leaves correct."""
        with self.stage(attack.cost):
            return is_correct(self.logits(self._attacked(self.network, attack, repeat)), self.labels)

    def path(self, attack: Attack, repeat: int = 0) -> Path:
        """As `robust`, with every iterate of an attack that makes one forward pass per step."""
        recorder = _Recorder(self.network, self.labels).eval()
        with self.stage(attack.cost):
            end = self._attacked(recorder, attack, repeat)
            with torch.no_grad():
                recorder(end)
        return Path(torch.stack(recorder.correct), torch.stack(recorder.loss), end)

    def generator(self, purpose: str) -> torch.Generator:
        """Random numbers of the CPU for `purpose`."""
        return torch.Generator().manual_seed(derive(self._seed, purpose))

    def _attacked(self, network: nn.Module, attack: Attack, repeat: int) -> Tensor:
        return attack(network, self.images, self.labels, seed=derive(self._seed, "masking", repeat))

    def _count(self, images: int) -> None:
        self._report(min(float(images), self._left))

    def _report(self, amount: float) -> None:
        self._left -= amount
        if self._tick is not None:
            self._tick(amount)


def is_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,), bool; NaN or infinite logits are never correct."""
    return (logits.argmax(1) == labels) & torch.isfinite(logits).all(1)
