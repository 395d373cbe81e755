"""Fewer images in the network at once when memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from ..errors import RunFailed
from ..memory import ran_out

T = TypeVar("T")


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
        """`compute(batch)`, again with half of the images at once until it fits.

        `compute` must give the same whatever `batch` is, and leave nothing behind when it raises.

        Raises:
            RunFailed: not even one image fits.
        """
        while True:
            try:
                result = compute(self.batch)
            except (MemoryError, RuntimeError) as problem:
                if not ran_out(problem):
                    raise
            else:
                self.fitted = max(self.fitted, self.batch)
                return result
            self._halve()  # out of the except clause, so that the tensors in the frames of the error are gone

    def _halve(self) -> None:
        if self.batch <= 1:
            fits = f"the largest batch that fits is {self.fitted}" if self.fitted else "no batch fits"
            raise RunFailed(
                f"Out of memory with one image in the network at once; in this chunk {fits}, for its cheaper steps.",
                "free memory, --workers 1, a smaller --chunk-size, or --device with more memory",
            )
        self.batch = (self.batch + 1) // 2
        self.halved += 1
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
