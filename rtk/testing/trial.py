"""A strategy on trial: small runs of it under every circumstance, each made once."""

from __future__ import annotations

import copy
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pydantic
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..backbones import Backbone, Classifier
from ..config import Config
from ..data import Split, open_dataset
from ..data.split import ArrayPixels
from ..errors import Refusal
from ..process_state import preserved
from ..progress import Silent
from ..run import Run
from ..strategy import Strategy
from ..threat import Threat
from .confined import Sighting
from .networks import backbone
from .report import Skip
from .watching import Interruption, seed_globally

QUICK: dict[str, Any] = {
    "epochs": 1,
    "head_epochs": 1,
    "batch_size": 8,
    "attack_steps": 1,
    "select_steps": 1,
    "warmup": 0.0,
    "criticality_images": 8,
    "ascent_steps": 1,
    "alphas": 2,
    "k": 2,
}
"""Values that options of these names are given, where there are such options and they allow it."""

LINF = Threat("Linf", 0.1)

SUMMED_UP = 200
"""Characters of an error that a sentence quotes."""


@dataclass(frozen=True)
class Setup:
    """The circumstances of one small run.

    Attributes:
        norm: kind of normalisation layer of the network; None for the first that the trial has.
        shape: (height, width) of the images.
        train, val: number of images.
        global_seed: of torch, numpy and random before the run.
        overflows: the network's logits are NaN.
        options: values of the strategy's options that this run needs, as (name, value).
    """

    norm: str | None = None
    classes: int = 10
    shape: tuple[int, int] = (16, 16)
    train: int = 16
    val: int = 8
    threat: Threat = LINF
    global_seed: int = 0
    overflows: bool = False
    options: tuple[tuple[str, Any], ...] = ()


@dataclass
class WatchedRun(Run):
    """A run that remembers what was declared in each call of `fit`: the network and the arguments."""

    phases: list[tuple[nn.Module, dict[str, Any]]] = field(default_factory=list)

    def fit(self, model: nn.Module, *given: Any, **settings: Any) -> nn.Module:
        self.phases.append((model, settings))
        return super().fit(model, *given, **settings)


@dataclass
class Attempt:
    """One run of the strategy and what came of it.

    Attributes:
        model: the network that the strategy was given, as it is now.
        before: its state dict as it was.
        tuned: what the strategy returned; None when it raised `error`.
        seconds: that it took.
    """

    backbone: Backbone
    run: WatchedRun
    model: Classifier
    before: dict[str, Tensor]
    tuned: Any = None
    error: BaseException | None = None
    seconds: float = 0.0

    @property
    def state(self) -> dict[str, Tensor]:
        """The state dict that came back; raises what the strategy raised."""
        if self.error is not None:
            raise self.error
        return dict(self.tuned.state_dict())

    def reloaded(self) -> Classifier:
        """The returned weights in the architecture that the run started from, as the host judges them."""
        fresh = copy.deepcopy(self.backbone.model)
        fresh.load_state_dict(self.state)
        return fresh.eval()

    def has_trained(self) -> bool:
        """Whether the network moved, or an epoch was finished."""
        log = self.run.directory / "log.jsonl"
        logged = [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.exists() else []
        stepped = any(line["event"] == "epoch" for line in logged)
        return stepped or bool(differing(self.before, dict(self.model.state_dict())))


class Trial:
    """Small runs of one strategy.

    Args:
        options: values of the strategy's options that make it quick, or that it requires.
        norms: kinds of normalisation layer to try; every other check uses the first.
        seconds: that the plain run may take.
    """

    def __init__(
        self, strategy: type[Strategy], options: Mapping[str, Any], norms: tuple[str, ...], seconds: float
    ) -> None:
        self.strategy = strategy
        self.options = dict(options)
        self.norms = norms
        self.seconds = seconds
        self.place = tempfile.TemporaryDirectory(prefix="rtk-testing-")
        self.hangs = False
        self.seen: Sighting | None = None
        self._known: dict[Setup, Attempt] = {}
        self._numbers = itertools.count()

    @cached_property
    def base(self) -> Attempt:
        """The plain run; Skip where it does not end, which is one check's to report."""
        if self.hangs or self.known(Setup()).error is not None:
            raise Skip("The plain run does not end: see runs-to-the-end.")
        return self.known(Setup())

    def require_end(self) -> None:
        """Skip where the plain run does not end."""
        _ = self.base

    def require_repeatable(self) -> None:
        """Skip where the same run again ends with other weights, which is one check's to report."""
        if not self.repeatable:
            raise Skip("The strategy is not repeatable: see same-seed-gives-the-same-weights.")

    @cached_property
    def repeatable(self) -> bool:
        """Whether the plain run again ends with the same bits."""
        return not differing(self.base.state, self.attempt(Setup()).state)

    def known(self, setup: Setup) -> Attempt:
        """The run under these circumstances; made when it is first asked for."""
        if setup not in self._known:
            self._known[setup] = self.attempt(setup)
        return self._known[setup]

    def attempt(
        self,
        setup: Setup,
        *,
        watch: AbstractContextManager[Any] | None = None,
        prepare: Callable[[Classifier], object] | None = None,
        directory: Path | None = None,
    ) -> Attempt:
        """Run the strategy now, as the host would; what it raises is kept.

        Args:
            watch: entered around `finetune` alone.
            prepare: does something to the network first.
            directory: of the run; a new one by default, an earlier one to go on from there.
        """
        chosen = self.network(setup)
        attempt = Attempt(chosen, self.run(setup, chosen, directory or self.folder()), copy.deepcopy(chosen.model), {})
        attempt.before = {name: value.detach().clone() for name, value in attempt.model.state_dict().items()}
        if prepare is not None:
            prepare(attempt.model)
        with preserved():
            seed_globally(setup.global_seed)
            begun = time.monotonic()
            try:
                strategy = self.strategy(self.config(setup))
                with watch or nullcontext():
                    attempt.tuned = strategy.finetune(attempt.model, attempt.run)
            except (Exception, SystemExit, Interruption) as problem:
                attempt.error = problem
            attempt.seconds = time.monotonic() - begun
        return attempt

    def config(self, setup: Setup) -> Config:
        """The strategy's options: quick ones, then the author's, then what the circumstances need."""
        kind = self.strategy.config_type
        given = {**self.options, **dict(setup.options)}
        for name, value in QUICK.items():
            if name in kind.model_fields and name not in given:
                try:
                    kind(**{**given, name: value})
                except pydantic.ValidationError:
                    continue
                given[name] = value
        return kind(**given)

    def network(self, setup: Setup) -> Backbone:
        new_head = self.strategy.setting == "target"
        norm = setup.norm or self.norms[0]
        return backbone(norm, setup.classes, setup.shape, new_head=new_head, overflows=setup.overflows)

    def run(self, setup: Setup, chosen: Backbone, directory: Path) -> WatchedRun:
        source = copy.deepcopy(chosen.model).eval().requires_grad_(False)
        return WatchedRun(
            source=source,
            structure=chosen.structure,
            train=images("train", setup.train, setup),
            val=images("val", setup.val, setup),
            augment="none",
            classes=setup.classes,
            new_head=chosen.new_head,
            threat=setup.threat,
            seed=0,
            device=torch.device("cpu"),
            directory=directory,
            progress=Silent(),
        )

    def folder(self) -> Path:
        """A new empty folder that goes away with the trial."""
        made = Path(self.place.name) / str(next(self._numbers))
        made.mkdir()
        return made

    def has(self, option: str) -> bool:
        return option in self.strategy.config_type.model_fields

    def longer(self) -> Setup:
        """The plain run with two epochs, where the strategy has such an option."""
        return Setup(options=(("epochs", 2),)) if self.has("epochs") else Setup()


def images(which: Any, count: int, setup: Setup) -> Split:
    """The first real images of a split, scaled to the wanted shape; where there are 10 classes, labels are real too."""
    scaled = functional.interpolate(_pixels(which)[:count], setup.shape, mode="area")
    labels = torch.arange(count) * max(setup.classes // count, 1) % setup.classes
    return Split(ArrayPixels(scaled.mul(255).round().to(torch.uint8)), labels)


@cache
def _pixels(which: Any) -> Tensor:
    return open_dataset("fashion").split(which).images(slice(64))


def differing(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that are not bit for bit the same in both, sorted."""
    return sorted(
        name for name in {*first, *second} if name not in first or name not in second or not _same(first, second, name)
    )


def _same(first: dict[str, Tensor], second: dict[str, Tensor], name: str) -> bool:
    return first[name].dtype == second[name].dtype and torch.equal(first[name], second[name])


def brief(problem: BaseException) -> str:
    """An error in a few words."""
    said = " ".join(str(problem).split()).rstrip(".")
    said = said if len(said) <= SUMMED_UP else said[: SUMMED_UP - 3] + "..."
    return f"{type(problem).__name__}: {said}" if said else type(problem).__name__


def refused(attempt: Attempt) -> str | None:
    """The sentence with which the strategy refused, if it did."""
    return f"Refused: {attempt.error.message}" if isinstance(attempt.error, Refusal) else None
