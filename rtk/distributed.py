"""Several processes that train one network, each on its part of every mini-batch, under torchrun.

All of them run the same program with the same seeds. What only one may do (writing, evaluating, printing) the first
does, and the others wait; what is decided, it decides. Gradients are exchanged by torch's DistributedDataParallel.
"""

from __future__ import annotations

import os
import pickle
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from . import environment
from .errors import RtkError, RunFailed
from .processes import Processes, Share, acting_as
from .whole_batch import WholeBatch

if TYPE_CHECKING:
    from .processes import Objective
    from .steps import Loss, Step

Value = TypeVar("Value")

TIMEOUT = timedelta(minutes=30)
"""How long processes wait for each other in the middle of training. Torchrun ends them sooner when one has ended."""

AGAIN = "the same command goes on from there"


class Group(Processes):
    """This process as one of several."""

    def __init__(self, device: torch.device):
        self.rank, self.size, self.device = dist.get_rank(), dist.get_world_size(), device
        restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self.store = dist.PrefixStore(f"rtk/{restarts}", dist.distributed_c10d._get_default_store())
        self.exchanges = 0

    @classmethod
    @contextmanager
    def formed(cls, asked: str) -> Iterator[Group]:
        """The group of the processes that torchrun has started; see `processes.joined`."""
        device = environment.device(asked)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        try:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
        except (RuntimeError, ValueError) as problem:
            raise RunFailed(f"The processes did not find each other ({problem}).") from problem
        group = cls(device)
        try:
            yield group
        except Exception as problem:
            raise group.blame(problem) or problem from problem
        dist.destroy_process_group()  # not after an error: others may wait for this process, and learn it by its end

    def shared(self, compute: Callable[[], Value]) -> Value:
        if self.first:
            with self._telling() as tell, acting_as(Processes()):
                value = tell(compute())
            return value
        found: Value = self._heard()
        return found

    def each(self, compute: Callable[[], Value]) -> Value:
        if not self.first:
            self._heard()
            return compute()
        with self._telling() as tell:
            value = compute()
            tell(None)
        return value

    @contextmanager
    def holding(self, claim: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
        if not self.first:
            self._heard()
            yield
            return
        with ExitStack() as held:
            with self._telling() as tell:
                held.enter_context(claim())
                tell(None)
            yield

    def sum(self, value: float) -> float:
        total = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return float(total)

    def wait(self) -> None:
        self.sum(0)

    def agree(self, what: str, compute: Callable[[], str]) -> None:
        value = compute()
        if (apart := self.size - int(self.sum(value == self.told(value)))) > 0:
            raise RunFailed(f"{what} differ in {apart} of the {self.size} processes.", "one process, without torchrun")

    def describe(self) -> dict[str, Any]:
        return {"processes": self.size, "backend": dist.get_backend()}

    def cut(self, step: Step, least: int, sections: int) -> Share:
        """Every process gets its part of every section. Steps that are too small for that are everybody's."""
        positions = shares(len(step.labels), sections, self.size)[self.rank]
        whole = len(step.labels) - len(step.labels) % sections
        if whole < least * self.size:
            return Share(step, step.share)
        share = step.share * len(positions) / whole
        images, labels, indices = step.images[positions], step.labels[positions], step.indices[positions]
        mine = replace(step, images=images, labels=labels, indices=indices, share=share)
        return Share(mine, share * self.size, positions, whole)  # gradients are averaged over the processes

    def objective(self, model: nn.Module, loss: Loss) -> Objective:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of the new name of broadcast_buffers
            parallel = DistributedDataParallel(
                _Module(model, loss),
                broadcast_buffers=False,  # they are equal: what changes them is common to all processes
                find_unused_parameters=True,  # a loss need not reach all that is trainable
            )

        def objective(share: Share, last: bool) -> Tensor:
            with nullcontext() if last else parallel.no_sync():
                value: Tensor = parallel(share)
                return value

        return objective

    def mean(self, value: float, share: Share) -> float:
        if share.positions is None:
            return value
        return self.sum(value * len(share.positions)) / share.whole

    def blame(self, problem: Exception) -> Exception | None:
        if isinstance(problem, dist.DistError) or "gloo" in str(problem) or "NCCL" in str(problem):
            return RunFailed(f"Another of the {self.size} processes has ended; what was finished is kept.", AGAIN)
        return None

    def failed(self) -> int:
        """How many processes have failed, this one included."""
        try:
            return self.store.add("failed", 1)
        except RuntimeError:  # whoever kept the count has ended
            return self.rank + 1

    @contextmanager
    def _telling(self) -> Iterator[Callable[[Value], Value]]:
        """Gives a function that tells the others a value; an error in the block is told instead."""

        def tell(value: Value) -> Value:
            self.store.set(key, pickle.dumps((value, None)))  # type: ignore[arg-type]  # bytes are documented
            return value

        key = self._key()
        try:
            yield tell
        except Exception as problem:
            said = problem if isinstance(problem, RtkError) else RunFailed(f"{type(problem).__name__}: {problem}")
            self.store.set(key, pickle.dumps((None, said)))  # type: ignore[arg-type]
            raise

    def _heard(self) -> Any:
        """What the first process tells; it may evaluate for hours before."""
        key = self._key()
        while not self.store.check([key]):
            time.sleep(0.02)  # not store.wait, which no signal interrupts
        value, problem = pickle.loads(self.store.get(key))
        if problem is not None:
            raise problem
        return value

    def _key(self) -> str:
        self.exchanges += 1
        return str(self.exchanges)


def shares(count: int, sections: int, processes: int) -> list[Tensor]:
    """Positions of each process's images among `count`; sorted, and disjoint.

    Each process has a run of every one of the `sections` equal parts, so that the first half of what it has lies in
    the first half of the whole, and so on. The last `count % sections` images are nobody's.
    """
    whole = torch.arange(count - count % sections)
    return [part.flatten() for part in whole.view(sections, -1).tensor_split(processes, dim=1)]


class _Module(nn.Module):
    """A network with the loss of a strategy, which may call any part of it, and call it often."""

    def __init__(self, model: nn.Module, loss: Loss):
        super().__init__()
        self.model, self.loss = model, loss
        # never used, since torch warns whoever has it look for unused parameters and has none
        self.unused = nn.Parameter(torch.zeros((), device=next(model.parameters()).device))

    def forward(self, share: Share) -> Tensor:
        if share.positions is None:
            return self.loss(self.model, share.step)
        with WholeBatch(share.positions, share.whole):
            return self.loss(self.model, share.step)
