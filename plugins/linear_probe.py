"""Linear probe: only the classifier moves, on clean images (SLF) or on adversarial ones (ALF).

Idea: the robust features are kept bit for bit, and a new linear classifier is put on them. The network stays in
evaluation mode, so that BatchNorm keeps the source's statistics (RobustSSL's reading); Salman et al. let them adapt.
"""

from __future__ import annotations

import rtk
from rtk.lazy import F


class LinearProbeConfig(rtk.Config):
    epochs: int = rtk.option(25, "Epochs.", origin="RobustSSL benchmark code", ge=0)
    lr: float = rtk.option(0.1, "Initial learning rate of SGD.", origin="RobustSSL benchmark code, 0.01 to 0.1", gt=0)
    momentum: float = rtk.option(0.9, "Momentum of SGD.", origin="RobustSSL benchmark code", ge=0, lt=1)
    weight_decay: float = rtk.option(2e-4, "Weight decay.", origin="RobustSSL benchmark code", ge=0)
    batch_size: int = rtk.option(128, "Images per step.", origin="rtk; 512 in the RobustSSL benchmark", ge=1)
    milestones: tuple[int, ...] = rtk.option(
        (15, 20), "Epochs at which the rate is multiplied by 0.1.", origin="RobustSSL benchmark code"
    )
    adversarial: bool = rtk.option(
        False,
        "Train the classifier on PGD examples (ALF) instead of clean images (SLF).",
        origin="RobustSSL benchmark: both",
    )
    attack_steps: int = rtk.option(
        10, "PGD steps, where adversarial; the step size is eps/4.", origin="RobustSSL benchmark code", ge=0
    )
    adapt_statistics: bool = rtk.option(
        False, "Let BatchNorm adapt to the new data, as Salman et al. do.", origin="RobustSSL benchmark code"
    )
    augment: str = rtk.option("auto", "Augmentation.", origin="rtk", pattern="^(auto|none|crop|crop-flip)$")


class LinearProbe(rtk.Strategy):
    name = "linear-probe"
    summary = "Train a new linear classifier on the frozen robust features."
    setting = "target"
    paper = rtk.Paper(
        title="Do Adversarially Robust ImageNet Models Transfer Better?",
        authors="Salman, Ilyas, Engstrom, Kapoor, Madry",
        venue="NeurIPS 2020",
        url="https://arxiv.org/abs/2007.08489",
    )
    departures = (
        "BatchNorm keeps the source's statistics; in Salman et al. they adapt (--adapt-statistics does that).",
        "The new classifier has PyTorch's default initialisation; the RobustSSL benchmark starts from zeros.",
        "Batch size: 128 here, 512 in the RobustSSL benchmark, since small data sets give too few steps otherwise.",
        "The epoch is selected on a validation split; the published code selects on the test split.",
    )
    config: LinearProbeConfig

    def finetune(self, model, run):
        config = self.config
        attack = run.attack(steps=config.attack_steps)

        def loss(model, step):
            images = step.images
            if config.adversarial:
                images = attack(model, images, step.labels, seed=step.seed)
            return F.cross_entropy(model(images), step.labels)

        def score(model):
            measure = run.robust_accuracy if config.adversarial else run.accuracy
            return measure(model).value

        return run.fit(
            model,
            loss,
            epochs=config.epochs,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            batch_size=config.batch_size,
            schedule=rtk.schedules.step_decay(config.milestones),
            trainable=run.structure.parameters_in([run.structure.head]),
            statistics="update" if config.adapt_statistics else "keep",
            mode="eval",
            augment=config.augment,
            select=score,
        )


@rtk.hookimpl
def rtk_strategies():
    return LinearProbe
