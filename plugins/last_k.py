"""Last k blocks: clean fine-tuning of the end of a robust network, the "vanilla TL" baseline of CARTL (ICML 2021).

Idea: the early blocks of an adversarially trained network hold robust features that transfer, so they stay as they are,
and only the last k blocks, the classifier included, are trained on clean images of the new data. k = 1 is a linear
probe; the stem (first convolution, patch embedding) belongs to no block and never moves.
"""

from __future__ import annotations

import rtk
from rtk.lazy import F


class LastKConfig(
    rtk.LastBlocksConfig,
    defaults={
        "k": (3, "rtk; CARTL: 4, 6, 8 of 17"),
        "reuse_statistics": (None, "CARTL code, script of the baseline: kept"),
        "freeze_affine": (True, "CARTL code, script of the baseline"),
        "head_init": ("default", "rtk; CARTL code: uniform"),
        "epochs": (100, "CARTL code"),
        "lr": (0.1, "CARTL code"),
        "weight_decay": (5e-4, "CARTL code"),
        "milestones": ((40, 70, 90), "CARTL code"),
        "gamma": (0.2, "CARTL code"),
        "warmup": (1.0, "CARTL code"),
        "select": ("last", "CARTL code"),
    },
):
    pass


class LastK(rtk.Strategy):
    name = "last-k"
    summary = "Fine-tune the last k blocks on clean images; the robust rest stays (baseline)."
    setting = "target"
    paper = rtk.Paper(
        title="CARTL: Cooperative Adversarially-Robust Transfer Learning",
        authors="Chen, Hu, Wang, Li, Wang, Shen, Li",
        venue="ICML 2021",
        url="https://arxiv.org/abs/2106.06667",
    )
    departures = (
        "A new classifier has PyTorch's default initialisation; in the published code weight and bias are drawn from"
        " U[0, 1) (--head-init uniform).",
        "k is 3 here, since small backbones have few blocks; the paper studies 4, 6 and 8 of 17.",
        "The switch for norm layers covers LayerNorm and GroupNorm too; the published code knows BatchNorm only.",
        "Augmentation is the data set's own; the published code also rotates CIFAR images by up to 15 degrees.",
    )
    config: LastKConfig

    def finetune(self, model, run):
        config = self.config
        tail = run.structure.tail(
            config.k, reuse_statistics=config.reuse_statistics, freeze_affine=config.freeze_affine
        )
        if config.head_init == "uniform":
            run.structure.draw_head(model, run.derive("head"))
        run.report(k=config.k, blocks=tail.blocks)

        def loss(model, step):
            return F.cross_entropy(model(step.images), step.labels)

        return run.fit(model, loss, trainable=tail.trainable, statistics=tail.statistics, **config.recipe())


@rtk.hookimpl
def rtk_strategies():
    return LastK
