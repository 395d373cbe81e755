"""What a strategy leaves as it was, and what it gives to a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...attacks import check_images
from ...backbones import Classifier
from ...data import Split
from ...errors import AttackError
from ...process_state import RANDOM, SETTINGS, Access
from ..report import Fault, Skip
from ..trial import Setup, Trial, differing
from ..watching import forwards, moved, state_of


def gives_images_in_range(trial: Trial) -> None:
    """Every image that a network is given is float32 in [0, 1], as the threat model counts it."""
    trial.require_end()
    said: list[str] = []

    def see(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if isinstance(module, Classifier) and arguments and isinstance(arguments[0], Tensor):
            try:
                check_images(arguments[0].detach())
            except AttackError as problem:
                said.append(problem.message)

    trial.attempt(Setup(), watch=forwards(see))
    if said:
        raise Fault(f"{said[0]} Clamp what you add to an image, and normalise nothing: the network does.")


def leaves_random_state_alone(trial: Trial) -> None:
    """Who runs a strategy finds the random states of torch, numpy and random as they were."""
    for name in _left(trial, RANDOM):
        raise Fault(f"The global random state of {name} moved; use a generator of your own from run.derive('purpose').")


def leaves_torch_settings_alone(trial: Trial) -> None:
    """Gradient mode, default dtype, threads and determinism are as they were, for whatever is run next."""
    for name in _left(trial, SETTINGS):
        raise Fault(f"{name} was changed and not set back; use it as a context, or not at all.")


def _left(trial: Trial, table: dict[str, Access]) -> list[str]:
    """What is otherwise after a run."""
    trial.require_end()
    found: list[str] = []

    @contextmanager
    def watch() -> Iterator[None]:
        before = state_of(table)
        yield
        found.extend(moved(before, table))

    trial.attempt(Setup(), watch=watch())
    return found


def keeps_the_source(trial: Trial) -> None:
    """`run.source` is what the run started from, to the end."""
    source = trial.base.run.source
    for name in differing(trial.base.before, dict(source.state_dict())):
        raise Fault(f"'{name}' of run.source was changed; work on `model`, or on copy.deepcopy(run.source).")
    if any(module.training for module in source.modules()):
        raise Fault("run.source was left in training mode; work on `model`, or on copy.deepcopy(run.source).")
    if any(parameter.requires_grad for parameter in source.parameters()):
        raise Fault("run.source was left with requires_grad; work on `model`, or on copy.deepcopy(run.source).")


def keeps_the_data(trial: Trial) -> None:
    """Images and labels of both splits are as they were: another strategy shares them."""
    run, fresh = trial.base.run, trial.run(Setup(), trial.base.backbone, trial.base.run.directory)
    pairs: dict[str, tuple[Split, Split]] = {"train": (run.train, fresh.train), "val": (run.val, fresh.val)}
    for name, (used, whole) in pairs.items():
        if len(used) != len(whole):
            raise Skip("The run has another split now: see keeps-the-run.")
        if not torch.equal(used.labels, whole.labels):
            raise Fault(f"The labels of run.{name} were changed; change a clone of a batch's labels instead.")
        if not torch.equal(used.images(slice(None)), whole.images(slice(None))):
            raise Fault(f"The images of run.{name} were changed; change a clone of a batch's images instead.")


def keeps_the_run(trial: Trial) -> None:
    """No field of `run` is set: seed, threat, splits and directory are what the result says they were."""
    run = trial.base.run
    fresh = trial.run(Setup(), trial.base.backbone, run.directory)
    for name in ("seed", "threat", "classes", "new_head", "augment", "device", "directory", "structure"):
        if getattr(run, name) != getattr(fresh, name):
            raise Fault(f"run.{name} was set; keep a value of your own in a variable.")
    for name in ("train", "val"):
        if len(getattr(run, name)) != len(getattr(fresh, name)):
            raise Fault(f"run.{name} was set; keep a split of your own in a variable.")
