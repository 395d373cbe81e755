"""What may move during training: parameter flags plus a buffer policy, asserted before every step.

`requires_grad=False` does not stop BatchNorm's running statistics, and `model.train()` silently undoes a layer's
`.eval()`; an evaluation in the middle of training does both. So a strategy declares once what moves, and the training
loop asserts it again before every step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from .errors import BadValue

Statistics = Literal["update", "keep"]
Mode = Literal["train", "eval"]


class Freeze:
    """The moving parts of `model` during one training phase.

    Args:
        trainable: names of the parameters that move, as in the backbone itself, or "all".
        statistics: "update" lets normalisation layers normalise by the batch and move their running statistics;
            "keep" makes them use, and leave alone, the stored ones. Names of modules update what lies in those.
        mode: "train" or "eval" for every other module (dropout, stochastic depth).

    Attributes:
        moving: names of the layers that move running statistics.
        by_batch: whether images of a mini-batch feel each other, through statistics that are taken over it.

    Raises:
        BadValue: a name that is not a parameter or module of `model`, nothing to train, or another word.
    """

    def __init__(
        self,
        model: nn.Module,
        trainable: Iterable[str] | Literal["all"] = "all",
        statistics: Statistics | Iterable[str] = "update",
        mode: Mode = "train",
    ):
        self.model = model
        self.mode = mode
        if mode not in ("train", "eval"):
            raise BadValue(f"mode: got {mode!r} (allowed: train | eval).")
        if isinstance(statistics, str):
            if statistics not in ("update", "keep"):
                raise BadValue(f"statistics: got {statistics!r} (allowed: update | keep, or names of modules).")
        else:
            statistics = tuple(statistics)
            modules = {native(name) for name, _ in model.named_modules()}
            if missing := sorted(set(statistics) - modules):
                raise BadValue(f"statistics: there is no module named {missing[0]!r} in this network.")
        names = {native(name) for name, _ in model.named_parameters()}
        chosen = set(names) if trainable == "all" else set(trainable)
        if unknown := sorted(chosen - names):
            raise BadValue(f"No parameter named {unknown[0]!r} in this network.")
        if not chosen:
            raise BadValue("Nothing to train: no parameter was named.")
        self.trainable = chosen
        self.moving = {
            name
            for name, module in model.named_modules()
            if isinstance(module, _NormBase) and module.track_running_stats and _moves(native(name), statistics)
        }
        layers = (module for module in model.modules() if isinstance(module, _BatchNorm))
        self.by_batch = bool(self.moving) or any(not layer.track_running_stats for layer in layers)

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that move, in the network's order; only these belong into an optimiser."""
        return [parameter for name, parameter in self.model.named_parameters() if native(name) in self.trainable]

    def apply(self) -> None:
        """Assert flags and modes; called before every step."""
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(native(name) in self.trainable)
        for name, module in self.model.named_modules():
            if isinstance(module, _NormBase) and module.track_running_stats:
                module.training = name in self.moving
            else:
                module.training = self.mode == "train"


def native(name: str) -> str:
    """The backbone's own name of a parameter or module of a `Classifier`, which holds the backbone as `net`."""
    return name.removeprefix("net.")


def _moves(name: str, statistics: Statistics | Iterable[str]) -> bool:
    if statistics == "update":
        return True
    if statistics == "keep":
        return False
    return any(f"{name}.".startswith(f"{module}.") for module in statistics)
