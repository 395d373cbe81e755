"""Adversarial training with PGD (Madry et al., ICLR 2018): every parameter moves, on adversarial images only.

Idea: minimise the cross-entropy on the worst case that PGD finds inside the ball. As fine-tuning it is the baseline of
the TWINS paper; with `--weights random` it trains a robust source network from nothing.
"""

from __future__ import annotations

from typing import Literal

import rtk
from rtk.lazy import F


class ATConfig(rtk.Config):
    epochs: int = rtk.option(60, "Epochs.", origin="TWINS code, its adversarial-training baseline", ge=0)
    lr: float = rtk.option(0.003, "Initial learning rate of SGD.", origin="TWINS code (CIFAR)", gt=0)
    momentum: float = rtk.option(0.9, "Momentum of SGD.", origin="TWINS code", ge=0, lt=1)
    weight_decay: float = rtk.option(1e-5, "Weight decay.", origin="TWINS code (CIFAR)", ge=0)
    batch_size: int = rtk.option(128, "Images per step.", origin="TWINS code", ge=1)
    schedule: Literal["step", "cosine"] = rtk.option(
        "step", "step: rate times 0.1 at the milestones; cosine: to zero.", origin="TWINS code: step"
    )
    milestones: tuple[int, ...] = rtk.option(
        (30, 50), "Epochs at which the rate is multiplied by 0.1.", origin="TWINS code"
    )
    warmup: float = rtk.option(0.0, "Epochs of linear rise of the rate.", origin="TWINS code: none", ge=0)
    attack_steps: int = rtk.option(
        10, "PGD steps of the training attack; 0 trains on clean images.", origin="TWINS code", ge=0
    )
    step_size: float | None = rtk.option(
        None, "PGD step in pixels of [0, 1]; by default eps/4.", origin="TWINS code: 0.00784 at 0.0314", gt=0
    )
    select_steps: int = rtk.option(
        10, "PGD steps of the robust validation accuracy that selects the epoch.", origin="TWINS code", ge=0
    )
    augment: str = rtk.option("auto", "Augmentation.", origin="rtk", pattern="^(auto|none|crop|crop-flip)$")


class AT(rtk.Strategy):
    name = "at"
    summary = "PGD adversarial training of everything; with --weights random, from nothing."
    setting = "target"
    paper = rtk.Paper(
        title="Towards Deep Learning Models Resistant to Adversarial Attacks",
        authors="Madry, Makelov, Schmidt, Tsipras, Vladu",
        venue="ICLR 2018",
        url="https://arxiv.org/abs/1706.06083",
    )
    departures = (
        "The epoch is selected by PGD accuracy on a validation split; the TWINS baseline tracks the test split.",
        "Selection attacks start at random; the TWINS evaluation starts at the image itself.",
    )
    config: ATConfig

    def finetune(self, model, run):
        config = self.config
        attack = run.attack(steps=config.attack_steps, step_size=config.step_size)
        judge = run.attack(steps=config.select_steps)
        schedules = {
            "step": rtk.schedules.step_decay(config.milestones, warmup=config.warmup),
            "cosine": rtk.schedules.cosine(config.epochs, warmup=config.warmup),
        }

        def loss(model, step):
            adversarial = attack(model, step.images, step.labels, seed=step.seed)
            return F.cross_entropy(model(adversarial), step.labels)

        return run.fit(
            model,
            loss,
            epochs=config.epochs,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            batch_size=config.batch_size,
            schedule=schedules[config.schedule],
            augment=config.augment,
            select=lambda model: run.robust_accuracy(model, attack=judge).value,
        )


@rtk.hookimpl
def rtk_strategies():
    return AT
