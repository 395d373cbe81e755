"""What happens when memory runs out: fewer images go through the network at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from .errors import RunFailed

T = TypeVar("T")

SIGN = re.compile(
    r"out of memory|can(not|'t) allocate memory|alloc_failed|could not create a primitive$", re.IGNORECASE
)
"""In messages of CUDA, cuBLAS, cuDNN, of the CPU allocator and of oneDNN, which says no more."""


def ran_out(problem: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or on the CPU."""
    if isinstance(problem, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(problem, RuntimeError) and bool(SIGN.search(str(problem)))


def attempt(compute: Callable[[], T]) -> T | None:
    """What `compute` returns, or None when memory runs out; what is cached on a GPU is free then."""
    try:
        return compute()
    except (MemoryError, RuntimeError) as problem:
        if not ran_out(problem):
            raise
    # out of the except clause, so that the tensors in the frames of the error are gone
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


@dataclass
class Memory:
    """How many images go through the network at once.

    Attributes:
        batch: now; halved whenever memory runs out.
        fitted: the most with which anything was computed since then, 0 before.
        halved: how often memory ran out.
    """

    batch: int
    fitted: int = 0
    halved: int = 0

    def run(self, compute: Callable[[int], T]) -> T:
        """`compute(batch)`, which is not None, again with half of the images at once until it fits.

        `compute` must give the same whatever `batch` is, and leave nothing behind when it raises.

        Raises:
            RunFailed: not even one image fits.
        """
        while (result := attempt(partial(compute, self.batch))) is None:
            self._halve()
        self.fitted = max(self.fitted, self.batch)
        return result

    def _halve(self) -> None:
        if self.batch <= 1:
            fits = f"the largest batch that fits is {self.fitted}" if self.fitted else "no batch fits"
            raise RunFailed(
                f"Out of memory with one image in the network at once; {fits}, for cheaper steps.",
                "free memory, --device with more memory; of an evaluation --workers 1 or a smaller --chunk-size",
            )
        self.batch = (self.batch + 1) // 2
        self.halved += 1
