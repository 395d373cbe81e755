"""The processes that train one network together: this one alone, or those that torchrun has started.

What the training loop, a run and its host have to say to other processes goes through `current()`. `Processes` is one
process on its own, whose answers are its own; rtk/distributed.py has those of several. Nothing here imports torch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .steps import Loss, Step

Value = TypeVar("Value")


@dataclass(frozen=True)
class Share:
    """What one process computes of a mini-batch.

    Attributes:
        step: with the images of this process.
        weight: of its loss in the gradient that the processes find together.
        positions: of its images among those that are shared out, int64 (B,), on the CPU; None when the process has all.
        whole: how many are shared out.
    """

    step: Step
    weight: float
    positions: Tensor | None = None
    whole: int = 0


Objective = Callable[[Share, bool], "Tensor"]
"""The strategy's loss on a share; the second argument says that its backward pass completes the gradient of a step."""


class Processes:
    """One process on its own."""

    rank = 0
    size = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes, evaluates and prints."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there are no others."""
        return self.size == 1

    def shared(self, compute: Callable[[], Value]) -> Value:
        """What `compute` returns, or raises, in the first process; the others wait for it."""
        return compute()

    def told(self, value: Value) -> Value:
        """The value that the first process has."""
        return self.shared(lambda: value)

    def each(self, compute: Callable[[], Value]) -> Value:
        """Compute in the first process, and then in all others; for what is downloaded or built once."""
        return compute()

    def holding(self, claim: Callable[[], AbstractContextManager[None]]) -> AbstractContextManager[None]:
        """A context that the first process enters for all of them; an error in entering it is everybody's."""
        return claim()

    def sum(self, value: float) -> float:
        """The sum over the processes; exact for integers below 2 ** 53."""
        return value

    def wait(self) -> None:
        """Return when all processes have come here."""

    def agree(self, what: str, compute: Callable[[], str]) -> None:
        """RunFailed, in all processes, unless `compute` gives the same in all of them."""

    def describe(self) -> dict[str, Any]:
        """What a result says about them, as JSON."""
        return {}

    def cut(self, step: Step, least: int, sections: int) -> Share:
        """The part of a mini-batch that is this process's.

        Args:
            least: images that the loss needs in each process.
            sections: into how many equal sections the loss divides a mini-batch, one after another; what is left over
                at the end it ignores.
        """
        return Share(step, step.share)

    def objective(self, model: nn.Module, loss: Loss) -> Objective:
        """A strategy's loss, with whatever exchanges its gradients."""
        return lambda share, last: loss(model, share.step)

    def mean(self, value: float, share: Share) -> float:
        """The loss of a mini-batch, from that of a share."""
        return value

    def blame(self, problem: Exception) -> Exception | None:
        """What to say when `problem` only tells that another process has ended; else None."""
        return None


PATIENCE = 2.0
"""Seconds that a process is given to say why it failed."""

_current = Processes()
_failed: Callable[[], int] | None = None
"""Counts the processes that have failed, this one included."""


def current() -> Processes:
    """The processes that work on the run of this one."""
    return _current


@contextmanager
def acting_as(processes: Processes) -> Iterator[None]:
    """Have `current` return `processes` for a while."""
    global _current
    before, _current = _current, processes
    try:
        yield
    finally:
        _current = before


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Work together with the other processes that torchrun has started, if it has.

    Args:
        device: as in --device.

    Raises:
        BadValue: there is no such device for every process.
        RunFailed: the processes do not find each other.
    """
    global _failed
    if not launched():
        yield
        return
    from .distributed import Group

    with Group.formed(device) as group:
        _failed = group.failed
        with acting_as(group):
            yield


def launched() -> bool:
    """Whether this is one of several processes that torchrun has started."""
    found = os.environ
    return int(found.get("WORLD_SIZE") or 1) > 1 and {"RANK", "LOCAL_RANK", "MASTER_ADDR"} <= found.keys()


def leads() -> bool:
    """Whether this process prints what a command finds."""
    return not launched() or os.environ["RANK"] == "0"


def complains() -> bool:
    """Whether this process says why a command failed: the first to fail, since others fail because of it.

    The others wait a moment before they answer: torchrun ends all processes as soon as one has ended.
    """
    first = leads() if _failed is None else _failed() == 1
    if not first:
        with suppress(KeyboardInterrupt):
            time.sleep(PATIENCE)
    return first
