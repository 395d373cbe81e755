"""Linear probe: only the classifier moves, on clean images (SLF) or on adversarial ones (ALF).

Idea: the robust features are kept bit for bit, and a new linear classifier is put on them. The network stays in
evaluation mode, so that BatchNorm keeps the source's statistics (RobustSSL's reading); Salman et al. let them adapt.
"""

from __future__ import annotations

from typing import Literal

import rtk
from rtk.lazy import F


class LinearProbeConfig(
    rtk.ScheduledConfig,
    defaults={
        "epochs": (25, "RobustSSL benchmark code"),
        "lr": (0.1, "RobustSSL benchmark code, 0.01 to 0.1"),
        "weight_decay": (2e-4, "RobustSSL benchmark code"),
        "batch_size": (128, "rtk; 512 in the RobustSSL benchmark"),
        "milestones": ((15, 20), "RobustSSL benchmark code"),
    },
):
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
    select: Literal["last", "clean", "robust"] | None = rtk.option(  # type: ignore[assignment]  # None: as trained
        None,
        "Epoch to keep: the last, or the best by clean or PGD accuracy on validation images; by default by what it is"
        " trained on.",
        origin="published code, on the test split",
    )


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
        attack = run.attack(steps=config.attack_steps) if config.adversarial else None

        def loss(model, step):
            images = attack(model, step.images, step.labels, seed=step.seed) if attack else step.images
            return F.cross_entropy(model(images), step.labels)

        recipe = config.recipe()
        recipe["select"] = config.select or ("robust" if config.adversarial else "clean")
        return run.fit(
            model,
            loss,
            trainable=run.structure.parameters_in([run.structure.head]),
            statistics="update" if config.adapt_statistics else "keep",
            mode="eval",
            once=not config.adversarial and recipe["select"] != "robust",  # the features are those of every epoch
            **recipe,
        )


@rtk.hookimpl
def rtk_strategies():
    return LinearProbe
