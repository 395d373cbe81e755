"""Where a training phase stands, in memory and on disk."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from . import files
from .errors import RunFailed

INTERVAL = 300.0
"""Seconds after which a checkpoint is written inside an epoch: what a kill can cost, where writing takes about one."""

SHARE = 0.05
"""Of the time, this much may go into checkpoints after epochs: an epoch on a few images takes less than writing one."""


@dataclass(frozen=True)
class Kept:
    """What a phase ends with.

    Attributes:
        epoch: whose weights are kept, counted from 1; 0 when nothing was trained.
        score: its score, if any.
        shortages: where memory ran out; see `Checkpoint.shortages`.
    """

    epoch: int
    score: float | None
    shortages: list[dict[str, int]]


class Checkpoint:
    """Weights, optimiser and position of a phase.

    Attributes:
        epoch: finished epochs.
        done: steps taken in the epoch after these.
        loss, images: sums over these steps, for the mean loss of the epoch.
        parts: into how many a step is cut.
        shortages: {"step": s, "images": n}: memory ran out in step s of the phase, from 1, and from then on n images
            were in the network at once.
        stopped: somebody asked to end the phase.
        scores: of the finished epochs, where they have some.
        best: the weights with the highest score.
        kept: the position that is on disk; None where nothing is.
    """

    def __init__(self, phase: str, model: nn.Module, optimizer: torch.optim.Optimizer, path: Path, length: int):
        """
        Args:
            length: steps in an epoch.
        """
        self.phase, self.model, self.optimizer, self.path, self.length = phase, model, optimizer, path, length
        self.epoch = self.done = self.images = 0
        self.loss = 0.0
        self.parts = 1
        self.shortages: list[dict[str, int]] = []
        self.stopped = False
        self.scores: list[float] = []
        self.best: dict[str, Any] | None = None
        self.kept: str | None = None
        self._written = time.monotonic()  # not the time of day, which can jump
        self._cost = 0.0  # s, of the last one

    POSITION = ("epoch", "done", "loss", "images", "parts", "shortages", "stopped", "scores", "best")

    @property
    def position(self) -> str:
        """How far the phase has come, for a reader."""
        return f"epoch {self.epoch + bool(self.done)}, step {self.epoch * self.length + self.done}"

    @property
    def due(self) -> bool:
        """Whether one inside an epoch is worth its time."""
        return time.monotonic() - self._written > INTERVAL

    @property
    def due_after_epoch(self) -> bool:
        """Whether one between epochs is worth its time; the first is, since it tells how long one takes."""
        return SHARE * (time.monotonic() - self._written) >= self._cost

    def load(self) -> None:
        """Take up what is on disk, if anything is."""
        if not self.path.exists():
            return
        saved = torch.load(self.path, map_location="cpu", weights_only=True)
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        for name in self.POSITION:
            setattr(self, name, saved[name])
        self.kept = self.position

    def save(self) -> str:
        """Write everything, in one step; returns the position.

        Raises:
            RunFailed: a weight is NaN or infinite; what is on disk stays.
        """
        if broken := _broken(self.model, self.optimizer):
            raise self.failure(f"{broken} is NaN or infinite", self.position)
        begun = time.monotonic()
        saved = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        saved |= {name: getattr(self, name) for name in self.POSITION}
        files.write(self.path, lambda file: torch.save(saved, file))
        self._written = time.monotonic()
        self._cost = self._written - begun
        return self.position

    def failure(self, what: str, position: str) -> RunFailed:
        """What to say when the numbers have gone wrong."""
        kept = f"the last good checkpoint is {self.path}, {self.kept}" if self.kept else "there is no checkpoint yet"
        return RunFailed(
            f"{self.phase}: {what} at {position} (lr {self.optimizer.param_groups[0]['lr']:g}); {kept}.",
            "a smaller --lr, or a longer --warmup",
        )

    def finish_epoch(self, score: float | None) -> None:
        """Count an epoch, and remember its weights if its score is higher than all before."""
        self.epoch, self.done, self.loss, self.images = self.epoch + 1, 0, 0.0, 0
        if score is None:
            return
        if score > max(self.scores, default=-math.inf):  # the first of equals
            self.best = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        self.scores.append(score)

    def keep_best(self) -> Kept:
        """Go back to the best epoch, where epochs have scores."""
        if self.best is None:
            return Kept(self.epoch, None, self.shortages)
        self.model.load_state_dict(self.best)
        return Kept(self.scores.index(max(self.scores)) + 1, max(self.scores), self.shortages)


def _broken(model: nn.Module, optimizer: torch.optim.Optimizer) -> str | None:
    """The name of something that is to be finite and is not; buffers of a strategy's own may be NaN as they please."""
    tensors: dict[str, Any] = {f"'{name}'": value for name, value in model.named_parameters()}
    for name, module in model.named_modules():
        if isinstance(module, _NormBase):
            tensors |= {f"'{name}.{own}'": value for own, value in module.named_buffers(recurse=False)}
    for name, value in model.named_parameters():
        for key, moment in optimizer.state.get(value, {}).items():
            tensors[f"the optimiser's {key} of '{name}'"] = moment
    wrong = (name for name, value in tensors.items() if torch.is_tensor(value) and not bool(value.isfinite().all()))
    return next(wrong, None)
