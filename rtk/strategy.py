"""The contract between rtk and a fine-tuning strategy.

class Rift(rtk.Strategy):
    name = "rift"
    summary = "Fine-tune the module that robustness depends on least, then interpolate."
    setting = "source"
    paper = rtk.Paper(title="...", authors="...", venue="ICCV 2023", url="...")
    config: RiftConfig

    def finetune(self, model, run):
        ...
        return model
"""

from __future__ import annotations

import inspect
import sys
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from .config import Config

if TYPE_CHECKING:
    from torch import nn

    from .run import Run


@dataclass(frozen=True)
class Paper:
    """What a strategy implements: the publication that a reader can check it against."""

    title: str
    authors: str
    venue: str
    url: str


class Strategy:
    """Base class of every fine-tuning strategy, built-in or third-party.

    Class attributes:
        name: what `--strategy` takes; lower case, words joined by hyphens.
        summary: one sentence for listings.
        setting: "source" when the strategy works on the data that the backbone was trained on, "target" when it works
            on new data; decides the default data set.
        paper: where it comes from, or None.
        departures: what differs from the paper or its published code, one sentence each, with both values.
        config: annotate with a `Config` subclass; the resolved instance is `self.config`.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    setting: ClassVar[Literal["source", "target"]] = "target"
    paper: ClassVar[Paper | None] = None
    departures: ClassVar[tuple[str, ...]] = ()
    config: Config
    config_type: ClassVar[type[Config]] = Config

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        cls.config_type = _config_type(cls)

    def __init__(self, config: Config | None = None):
        self.config = self.config_type() if config is None else config

    def finetune(self, model: nn.Module, run: Run) -> nn.Module:
        """Fine-tune `model` and return the network to keep.

        Args:
            model: maps images (N, C, H, W), float32 in [0, 1], to logits (N, classes); normalisation and resizing are
                inside, and a new head is already there when the classes differ from the backbone's.
            run: everything else a strategy may touch: data, threat, attack, training loop, log.

        Returns:
            A module whose state dict loads into the architecture of `model`. It may be `model` itself.

        Raises:
            Refusal: the strategy does not apply to this backbone or data set; say what to use instead.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define finetune(model, run)")


def _config_type(cls: type[Strategy]) -> type[Config]:
    """The class that `config` is annotated with; other annotations may name what is imported for type checkers only."""
    owner = next(base for base in cls.__mro__ if "config" in inspect.get_annotations(base))
    shell = type("shell", (), {"__annotations__": {"config": inspect.get_annotations(owner)["config"]}})
    found: type[Config] = typing.get_type_hints(shell, vars(sys.modules[owner.__module__]), dict(vars(owner)))["config"]
    if not (isinstance(found, type) and issubclass(found, Config)):
        raise TypeError(f"{cls.__name__}.config must be annotated with a subclass of rtk.Config, not {found!r}")
    return found
