"""The training loop behind `run.fit`.

Order of images, augmentation, attack noise and dropout are keyed by (seed, phase, epoch, step), so an interrupted run
goes on from its last finished epoch with the bits that it would have had.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from . import files, processes
from .attacks import seeded
from .backbones import hash_state
from .data import Loader
from .errors import BadValue, RunFailed
from .freeze import Freeze, Mode, Statistics
from .observers import Observers
from .schedules import Schedule, constant
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


@dataclass(frozen=True)
class Recipe:
    """How a phase is optimised; see `Run.fit` for the meaning of each value."""

    epochs: int
    lr: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    optimizer: Literal["sgd", "adamw"] = "sgd"
    schedule: Schedule = field(default_factory=constant)
    accumulate: int = 1
    smallest: int | None = None
    sections: int = 1


@dataclass(frozen=True)
class Kept:
    """The epoch whose weights a phase ends with, counted from 1 (0: nothing was trained), and its score if any."""

    epoch: int
    score: float | None


def fit(
    model: nn.Module,
    loss: Loss,
    loader: Loader,
    recipe: Recipe,
    *,
    name: str,
    seed: int,
    checkpoint: Path,
    observers: Observers,
    trainable: Iterable[str] | Literal["all"] = "all",
    statistics: Statistics | Iterable[str] = "update",
    mode: Mode = "train",
    select: Callable[[nn.Module], float] | None = None,
) -> Kept:
    """Train `model` in place and leave it in evaluation mode; see `Run.fit`."""
    freeze = Freeze(model, trainable, statistics, mode)
    # batch statistics of one image are no statistics, and torch refuses them where maps are 1x1
    smallest = recipe.smallest or (2 if freeze.moving else 1)
    team = processes.current()
    least = max(recipe.smallest or 1, recipe.sections)  # in each process
    if min(loader.batch_size, len(loader.split)) < (needed := max(smallest, least * team.size)):
        among = f" for {team.size} processes" if team.size > 1 else ""
        raise BadValue(
            f"{name}: needs steps of {needed} images or more{among}"
            f" (got --batch-size {loader.batch_size} and {len(loader.split)} training images)."
        )
    optimizer = _optimizer(freeze.parameters(), recipe)
    state = _State(model, optimizer, checkpoint)
    state.load()
    team.agree(f"{name}: the checkpoints", lambda: str(state.epoch))
    freeze.apply()
    objective = team.objective(model, loss)
    bar = observers.stage(name, recipe.epochs * len(loader))
    bar.advance(state.epoch * len(loader))
    for epoch in range(state.epoch, recipe.epochs):
        if state.stopped:
            break
        total = count = 0.0
        for step in steps(loader, epoch, seed, name):
            if len(step.labels) < smallest:  # what is left over at the end of an epoch
                bar.advance(1)
                continue
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * recipe.schedule(step.number / len(loader))
            optimizer.zero_grad(set_to_none=True)
            cuts = min(recipe.accumulate, len(step.labels) // smallest)
            for position, part in enumerate(parts(step, cuts), 1):
                freeze.apply()
                mine = team.cut(part, least, recipe.sections)
                with seeded(derive(part.seed, "forward"), part.images.device):
                    value = objective(mine, position == cuts)
                if not math.isfinite(number := team.mean(float(value.detach()), mine)):
                    raise RunFailed(
                        f"{name}: the loss is {number} at epoch {epoch + 1}, step {step.number + 1}"
                        f" (lr {optimizer.param_groups[0]['lr']:g}).",
                        "a smaller --lr",
                    )
                (value * mine.weight).backward()
                total, count = total + number * len(part.labels), count + len(part.labels)
            optimizer.step()
            bar.advance(1, f"loss {total / count:.3f}")
        team.agree(f"{name}: the networks after epoch {epoch + 1}", lambda: hash_state(model.state_dict()))
        score = None if select is None else team.told(float(select(model)))
        loss_of_epoch = total / count
        observers.event("epoch", {"phase": name, "epoch": epoch + 1, "loss": loss_of_epoch, "score": score})
        state.add(score)
        state.stopped = team.told(observers.epoch_finished(name, epoch + 1, loss_of_epoch, state.scores))
        team.shared(state.save)
    kept = state.keep_best()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    model.eval()
    return kept


def steps(loader: Loader, epoch: int, seed: int, name: str) -> Iterator[Step]:
    """The mini-batches of one epoch, each with its own seed."""
    for position, batch in enumerate(loader.epoch(epoch)):
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


def _optimizer(parameters: list[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


class _State:
    """Weights, optimiser, scores and best epoch so far, on disk after every epoch."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, path: Path):
        self.model, self.optimizer, self.path = model, optimizer, path
        self.epoch = 0
        self.stopped = False
        self.scores: list[float] = []
        self.best: dict[str, Any] | None = None

    def load(self) -> None:
        """Take up the last finished epoch, if there is one."""
        if not self.path.exists():
            return
        saved = torch.load(self.path, map_location="cpu", weights_only=True)
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        for name in ("epoch", "stopped", "scores", "best"):
            setattr(self, name, saved[name])

    def add(self, score: float | None) -> None:
        """Count an epoch, and remember its weights if its score is higher than all before."""
        self.epoch += 1
        if score is None:
            return
        if score > max(self.scores, default=-math.inf):  # the first of equals
            self.best = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        self.scores.append(score)

    def save(self) -> None:
        """Write everything, in one step."""
        saved = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        saved |= {name: getattr(self, name) for name in ("epoch", "stopped", "scores", "best")}
        files.write(self.path, lambda file: torch.save(saved, file))

    def keep_best(self) -> Kept:
        """Go back to the best epoch, where epochs have scores."""
        if self.best is None:
            return Kept(self.epoch, None)
        self.model.load_state_dict(self.best)
        return Kept(self.scores.index(max(self.scores)) + 1, max(self.scores))
