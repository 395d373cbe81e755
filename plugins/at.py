"""Adversarial training with PGD (Madry et al., ICLR 2018): every parameter moves, on adversarial images only.

Idea: minimise the cross-entropy on the worst case that PGD finds inside the ball. As fine-tuning it is the baseline of
the TWINS paper; with `--weights random` it trains a robust source network from nothing.
"""

from __future__ import annotations

import rtk
from rtk.lazy import F


class ATConfig(
    rtk.ScheduledConfig,
    defaults={
        "epochs": (60, "TWINS code, its adversarial-training baseline"),
        "lr": (0.003, "TWINS code (CIFAR)"),
        "weight_decay": (1e-5, "TWINS code (CIFAR)"),
        "milestones": ((30, 50), "TWINS code"),
    },
):
    attack_steps: int = rtk.option(
        10, "PGD steps of the training attack; 0 trains on clean images.", origin="TWINS code", ge=0
    )
    step_size: float | None = rtk.option(
        None, "PGD step in pixels of [0, 1]; by default eps/4.", origin="TWINS code: 0.00784 at 0.0314", gt=0
    )


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
        attack = run.attack(steps=self.config.attack_steps, step_size=self.config.step_size)

        def loss(model, step):
            adversarial = attack(model, step.images, step.labels, seed=step.seed)
            return F.cross_entropy(model(adversarial), step.labels)

        return run.fit(model, loss, **self.config.recipe())


@rtk.hookimpl
def rtk_strategies():
    return AT
