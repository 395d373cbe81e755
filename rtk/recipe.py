"""Hyper-parameters that training phases have in common.

A strategy's options derive from one of these classes, and name only what its paper sets, with the origin:

    class ATConfig(rtk.ScheduledConfig, defaults={"epochs": (60, "TWINS code"), "lr": (0.003, "TWINS code (CIFAR)")}):
        attack_steps: int = rtk.option(10, "PGD steps of the training attack.", origin="TWINS code", ge=0)

and `run.fit(model, loss, **config.recipe())` trains with them. Nothing here imports torch.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import pydantic

from .config import Config, option
from .errors import BadValue
from .schedules import constant, cosine, step_decay

Augment = Literal["auto", "none", "crop", "crop-flip"]
Select = Literal["last", "clean", "robust"]


class TrainingConfig(Config):
    """Stochastic gradient descent over the training split."""

    epochs: int = option(10, "Epochs.", origin="rtk", ge=0)
    lr: float = option(0.01, "Initial learning rate.", origin="rtk", gt=0)
    momentum: float = option(0.9, "Momentum of SGD.", origin="usual", ge=0, lt=1)
    weight_decay: float = option(5e-4, "Weight decay.", origin="usual", ge=0)
    batch_size: int = option(128, "Images per step.", origin="usual", ge=1)
    accumulate: int = option(
        1,
        "Parts into which a step's images are cut, to save memory; gradients are summed. BatchNorm normalises each part"
        " by itself, which is another step.",
        origin="rtk",
        ge=1,
    )
    augment: Augment = option("auto", "Augmentation; auto is the data set's own.", origin="rtk")

    def recipe(self) -> dict[str, Any]:
        """These values as arguments of `run.fit`."""
        return {name: getattr(self, name) for name in TrainingConfig.model_fields}


class ScheduledConfig(TrainingConfig):
    """Training with a learning-rate schedule, after which one epoch is selected on the validation split."""

    schedule: Literal["constant", "step", "cosine"] = option(
        "step", "Rate: constant; times gamma at each milestone; or a cosine to zero.", origin="usual"
    )
    milestones: tuple[int, ...] = option((5, 8), "Epochs at which the rate is multiplied by gamma.", origin="rtk")
    gamma: float = option(0.1, "Factor on the rate at each milestone.", origin="usual", gt=0, le=1)
    warmup: float = option(0.0, "Epochs of linear rise of the rate, from 0.", origin="usual: none", ge=0)
    select: Select = option(
        "robust", "Epoch to keep: the last, or the best by clean or PGD accuracy on validation images.", origin="rtk"
    )
    select_steps: int = option(
        10, "PGD steps of the robust validation accuracy that selects the epoch.", origin="usual", ge=0
    )
    patience: int | None = option(
        None, "End when what selects the epoch has not risen for so many epochs; none trains all.", origin="rtk", ge=1
    )

    @pydantic.model_validator(mode="after")
    def _scored(self) -> Self:
        if self.patience is not None and self.select == "last":
            raise BadValue(
                "--patience: ends training by the score of epochs, and --select last gives them none.",
                "--select robust, or without --patience",
            )
        return self

    def recipe(self) -> dict[str, Any]:
        """These values as arguments of `run.fit`."""
        schedules = {
            "constant": constant(),
            "step": step_decay(self.milestones, gamma=self.gamma, warmup=self.warmup),
            "cosine": cosine(self.epochs, warmup=self.warmup),
        }
        return {
            **super().recipe(),
            "schedule": schedules[self.schedule],
            "select": self.select,
            "select_steps": self.select_steps,
            "patience": self.patience,
        }


class LastBlocksConfig(ScheduledConfig):
    """Training of the last k blocks alone; see `Structure.tail`."""

    k: int | None = option(3, "Blocks to fine-tune, counted from the end; 1 is the classifier.", origin="rtk", ge=1)
    reuse_statistics: bool | None = option(
        None,
        "BatchNorm statistics of the frozen blocks: true keeps the source's, false lets them adapt; by default they are"
        " kept where there are any.",
        origin="rtk",
    )
    freeze_affine: bool = option(True, "Keep weights and biases of the norm layers in the last k blocks.", origin="rtk")
    head_init: Literal["default", "uniform"] = option(
        "default",
        "Classifier before training: as it comes (a new one has PyTorch's initialisation), or U[0, 1).",
        origin="rtk",
    )
