"""Full fine-tuning on clean images: every parameter moves. The baseline that shows how robustness is lost.

Idea: the usual transfer recipe, as in Salman et al. (NeurIPS 2020, freeze level -1), which also is the row "all
layers" of RiFT's Table 3 when it is run on the source's own data.
"""

from __future__ import annotations

import rtk
from rtk.lazy import F


class FullConfig(rtk.Config):
    epochs: int = rtk.option(10, "Epochs.", origin="rtk; the published recipe has 150", ge=0)
    lr: float = rtk.option(0.01, "Initial learning rate of SGD.", origin="published code, 0.001 to 0.01", gt=0)
    momentum: float = rtk.option(0.9, "Momentum of SGD.", origin="published code", ge=0, lt=1)
    weight_decay: float = rtk.option(5e-4, "Weight decay.", origin="published code", ge=0)
    batch_size: int = rtk.option(64, "Images per step.", origin="published code", ge=1)
    milestones: tuple[int, ...] = rtk.option(
        (5, 8),
        "Epochs at which the rate is multiplied by 0.1.",
        origin="rtk; every third of training in the published code",
    )
    augment: str = rtk.option("auto", "Augmentation.", origin="rtk", pattern="^(auto|none|crop|crop-flip)$")


class Full(rtk.Strategy):
    name = "full"
    summary = "Fine-tune everything on clean images; loses robustness (baseline)."
    setting = "target"
    paper = rtk.Paper(
        title="Do Adversarially Robust ImageNet Models Transfer Better?",
        authors="Salman, Ilyas, Engstrom, Kapoor, Madry",
        venue="NeurIPS 2020",
        url="https://arxiv.org/abs/2007.08489",
    )
    departures = (
        "Epochs: 10 here, 150 in the published code, with the decay moved accordingly.",
        "The epoch is selected by clean accuracy on a validation split; the published code selects on the test split.",
    )
    config: FullConfig

    def finetune(self, model, run):
        config = self.config
        return run.fit(
            model,
            lambda model, step: F.cross_entropy(model(step.images), step.labels),
            epochs=config.epochs,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            batch_size=config.batch_size,
            schedule=rtk.schedules.step_decay(config.milestones),
            augment=config.augment,
            select=lambda model: run.accuracy(model).value,
        )


@rtk.hookimpl
def rtk_strategies():
    return Full
