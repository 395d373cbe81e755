"""The training loop behind `run.fit`.

Order of images, augmentation, attack noise and dropout are keyed by (seed, phase, epoch, step), so an interrupted run
goes on from the last step that was kept with the bits that it would have had.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from . import processes
from .attacks import frozen, seeded
from .backbones import hash_state
from .checkpoint import Checkpoint, Kept
from .data import Loader
from .errors import AttackError, BadValue, RunFailed
from .freeze import Freeze, Mode, Statistics
from .memory import attempt, ran_out
from .observers import Observers
from .processes import Objective, Share
from .schedules import Schedule, constant
from .seeds import derive
from .signals import Held
from .steps import Loss, Step, parts, steps


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
    optimizer = _optimizer(freeze.parameters(), recipe)
    state = Checkpoint(name, model, optimizer, checkpoint, len(loader))
    state.parts = recipe.accumulate
    state.load()
    team, signals = processes.current(), Held()
    team.agree(f"{name}: the checkpoints", lambda: state.position)
    freeze.apply()  # before the objective, which exchanges the gradients of what moves now
    stepper = _Stepper(state, freeze, team.objective(model, loss), recipe, observers)
    stepper.check(loader)
    bar = observers.stage(name, recipe.epochs * len(loader))
    bar.advance(state.epoch * len(loader) + state.done)

    def keep() -> None:
        state.kept = team.shared(state.save)

    def score() -> float | None:
        if select is None:
            return None
        if team.alone and state.due_after_epoch:  # a signal need not wait for the score, which can take long
            keep()
        with signals.open():
            found = team.told(float(select(model)))
        if not math.isfinite(found):
            raise state.failure(f"the score is {found}", state.position)
        return found

    with signals.hold() if team.alone else nullcontext():
        while state.epoch < recipe.epochs and not state.stopped:
            for step in steps(loader, state.epoch, seed, name, state.done):
                stepper.take(step)
                bar.advance(1, f"loss {state.loss / state.images:.3f}")
                if team.alone and (signals.waiting or state.due):
                    keep()
                _let_through(signals, state)
            epoch, mean = state.epoch + 1, state.loss / state.images
            team.agree(f"{name}: the networks after epoch {epoch}", lambda: hash_state(model.state_dict()))
            state.finish_epoch(found := score())
            observers.event("epoch", {"phase": name, "epoch": epoch, "loss": mean, "score": found})
            state.stopped = team.told(observers.epoch_finished(name, epoch, mean, state.scores))
            last = state.stopped or epoch == recipe.epochs
            if last or not team.alone or signals.waiting or state.due_after_epoch:
                keep()
    kept = state.keep_best()
    optimizer.zero_grad(set_to_none=True)  # a resumed run would have none
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    model.eval()
    return kept


def _let_through(signals: Held, state: Checkpoint) -> None:
    """End here if somebody asked for it, and say where."""
    try:
        signals.let_through()
    except KeyboardInterrupt as stop:
        stop.args = (f"{state.phase}, {state.position}",)
        raise


@dataclass
class _Stepper:
    """Takes steps; where memory runs out, in more parts than before, if that leaves the mathematics as it is."""

    state: Checkpoint
    freeze: Freeze
    objective: Objective
    recipe: Recipe
    observers: Observers

    def __post_init__(self) -> None:
        # batch statistics of one image are no statistics, and torch refuses them where maps are 1x1
        self.smallest = self.recipe.smallest or (2 if self.freeze.moving else 1)
        self.least = max(self.recipe.smallest or 1, self.recipe.sections)  # in each process

    def check(self, loader: Loader) -> None:
        """BadValue where every step would be too small; says what cutting steps changes."""
        team = processes.current()
        if self.recipe.accumulate > 1 and self.freeze.by_batch:
            self.observers.say(
                f"{self.state.phase}: --accumulate {self.recipe.accumulate} is another step than one of --batch-size:"
                " BatchNorm normalises each part by itself"
            )
        if min(loader.batch_size, len(loader.split)) < (needed := max(self.smallest, self.least * team.size)):
            among = "" if team.alone else f" for {team.size} processes"
            raise BadValue(
                f"{self.state.phase}: needs steps of {needed} images or more{among}"
                f" (got --batch-size {loader.batch_size} and {len(loader.split)} training images)."
            )

    def take(self, step: Step) -> None:
        """One step of the optimiser; what is left over at the end of an epoch may be too small for one."""
        self.state.done += 1
        if len(step.labels) < self.smallest:
            return
        for group in self.state.optimizer.param_groups:
            group["lr"] = self.recipe.lr * self.recipe.schedule(step.number / self.state.length)
        buffers = [(buffer, buffer.clone()) for buffer in self._restless()]
        while (total := attempt(partial(self.gradient, step, self._cuts(step)))) is None:
            self._cut_again(step)
            for buffer, value in buffers:
                buffer.copy_(value)
        self._move(step)
        self.state.loss += total
        self.state.images += len(step.labels)

    def _move(self, step: Step) -> None:
        try:
            self.state.optimizer.step()
        except Exception as problem:  # it may have moved some weights, so that there is no second attempt
            if not ran_out(problem):
                raise
            where = f"epoch {step.epoch + 1}, step {step.number + 1}"
            raise RunFailed(
                f"{self.state.phase}: memory ran out at {where}, when the optimiser moved the weights.",
                "free memory, a smaller --batch-size, or --device with more of it",
            ) from problem

    def gradient(self, step: Step, cuts: int) -> float:
        """Have the gradient of a step, in `cuts` parts; the sum of the loss over the images."""
        team, total = processes.current(), 0.0
        self.state.optimizer.zero_grad(set_to_none=True)
        for position, part in enumerate(parts(step, cuts), 1):
            self.freeze.apply()
            mine = team.cut(part, self.least, self.recipe.sections)
            with seeded(derive(part.seed, "forward"), part.images.device):
                value = self._loss(mine, position == cuts)
            if not math.isfinite(number := team.mean(float(value.detach()), mine)):
                at = f"epoch {step.epoch + 1}, step {step.number + 1}"
                raise self.state.failure(f"the loss is {number}", at)
            (value * mine.weight).backward()
            total += number * len(part.labels)
        return total

    def _loss(self, mine: Share, last: bool) -> Tensor:
        try:
            return self.objective(mine, last)
        except AttackError:
            # NaN gradients make NaN images; what they come from is what there is to say
            step, finite = mine.step, True
            # of whatever a strategy trains, which need not be one network
            with suppress(Exception), frozen(self.freeze.model), torch.no_grad():
                finite = bool(torch.isfinite(self.freeze.model(step.images)).all())
            if finite:
                raise
            at = f"epoch {step.epoch + 1}, step {step.number + 1}"
            raise self.state.failure("the network's answers are NaN or infinite", at) from None

    def _cuts(self, step: Step) -> int:
        """Into how many parts a step is cut."""
        return min(self.state.parts, len(step.labels) // self.smallest)

    def _at_once(self, step: Step) -> int:
        """Images in the network at once, at the most."""
        return -(-len(step.labels) // self._cuts(step))

    def _restless(self) -> list[Tensor]:
        """Buffers that a forward pass may change, and a second attempt at a step is to find as they were."""
        if self.freeze.by_batch:  # there is none
            return []
        modules = (module for module in self.freeze.model.modules() if not isinstance(module, _NormBase))
        return [buffer for module in modules for buffer in module.buffers(recurse=False)]

    def _cut_again(self, step: Step) -> None:
        """Cut steps into twice as many parts from now on.

        Raises:
            RunFailed: they cannot be cut; says how many images fit.
        """
        self.state.optimizer.zero_grad(set_to_none=True)
        at_once, number = self._at_once(step), step.number + 1
        where = f"{self.state.phase}: memory ran out at epoch {step.epoch + 1}, step {number}, with {at_once} images"
        more = "free memory, or --device with more of it"
        if not processes.current().alone:
            raise RunFailed(f"{where} or fewer in one of the processes.", "a smaller --batch-size, or more processes")
        if self.freeze.by_batch and (fitting := self._fitting(step)):
            raise RunFailed(
                f"{where} at once; {fitting} fit. BatchNorm normalises by the batch, so that a step in parts would be"
                " another step.",
                f"--batch-size {fitting * self._cuts(step)}, or {more}",
            )
        if self.freeze.by_batch or self._cuts(step) == len(step.labels) // self.smallest:
            raise RunFailed(f"{where} at once, and fewer do not fit either.", more)
        self.state.parts *= 2
        images = self._at_once(step)
        earlier = [shortage for shortage in self.state.shortages if shortage["step"] != number]
        self.state.shortages = [*earlier, {"step": number, "images": images}]
        self.observers.say(f"{where} at once; from here on gradients are accumulated over parts of {images}")
        self.observers.event("memory", {"phase": self.state.phase, "step": number, "images": images})

    def _fitting(self, step: Step) -> int:
        """How many images of a step fit at once: the first of a half, a quarter, ... that does; 0 where none does."""
        images = self._at_once(step)
        while (images := images // 2) >= self.smallest:
            first = replace(
                step, images=step.images[:images], labels=step.labels[:images], indices=step.indices[:images]
            )
            if attempt(partial(self.gradient, first, 1)) is not None:
                return images
        return 0


def _optimizer(parameters: list[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer not in ("sgd", "adamw"):
        raise BadValue(f"optimizer: got {recipe.optimizer!r} (allowed: sgd | adamw).")
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
