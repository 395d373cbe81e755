"""Last k blocks: clean fine-tuning of the end of a robust network, the "vanilla TL" baseline of CARTL (ICML 2021).

Idea: the early blocks of an adversarially trained network hold robust features that transfer, so they stay as they are,
and only the last k blocks, the classifier included, are trained on clean images of the new data. k = 1 is a linear
probe; the stem (first convolution, patch embedding) belongs to no block and never moves.
"""

from __future__ import annotations

from typing import Any, Literal

import rtk
from rtk.lazy import F, nn, torch


class LastKConfig(rtk.Config):
    k: int = rtk.option(
        3, "Blocks to fine-tune, counted from the end; 1 is the classifier.", origin="rtk; CARTL: 4, 6, 8 of 17", ge=1
    )
    reuse_statistics: bool | None = rtk.option(
        None,
        "BatchNorm statistics of the frozen blocks: true keeps the source's, false lets them adapt; by default they are"
        " kept where there are any.",
        origin="CARTL code, script of the baseline: kept",
    )
    freeze_affine: bool = rtk.option(
        True,
        "Keep weights and biases of the norm layers in the last k blocks.",
        origin="CARTL code, script of the baseline",
    )
    head_init: Literal["default", "uniform"] = rtk.option(
        "default",
        "Classifier before training: as it comes (a new one has PyTorch's initialisation), or U[0, 1).",
        origin="rtk; CARTL code: uniform",
    )
    epochs: int = rtk.option(100, "Epochs.", origin="CARTL code", ge=0)
    lr: float = rtk.option(0.1, "Initial learning rate of SGD.", origin="CARTL code", gt=0)
    momentum: float = rtk.option(0.9, "Momentum of SGD.", origin="CARTL code", ge=0, lt=1)
    weight_decay: float = rtk.option(5e-4, "Weight decay.", origin="CARTL code", ge=0)
    batch_size: int = rtk.option(128, "Images per step.", origin="CARTL code", ge=1)
    milestones: tuple[int, ...] = rtk.option(
        (40, 70, 90), "Epochs at which the rate is multiplied by 0.2.", origin="CARTL code"
    )
    warmup: float = rtk.option(1.0, "Epochs of linear rise of the rate, from 0.", origin="CARTL code", ge=0)
    select: Literal["last", "clean", "robust"] = rtk.option(
        "last",
        "Epoch to keep: the last, or the best by clean or PGD-10 validation accuracy.",
        origin="CARTL code: last",
    )
    augment: str = rtk.option("auto", "Augmentation.", origin="rtk", pattern="^(auto|none|crop|crop-flip)$")


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
        blocks = run.structure.last(config.k)
        modules = [module for block in blocks for module in block.modules]
        if config.head_init == "uniform":
            generator = torch.Generator(run.device).manual_seed(run.derive("head"))
            for parameter in run.structure.head_of(model).parameters():
                nn.init.uniform_(parameter, generator=generator)
        run.report(k=config.k, blocks=[block.name for block in blocks])
        judges = {"clean": run.accuracy, "robust": run.robust_accuracy}
        return run.fit(
            model,
            lambda model, step: F.cross_entropy(model(step.images), step.labels),
            epochs=config.epochs,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            batch_size=config.batch_size,
            schedule=rtk.schedules.step_decay(config.milestones, gamma=0.2, warmup=config.warmup),
            augment=config.augment,
            **moving(modules, run, config),
            select=None if config.select == "last" else lambda model: judges[config.select](model).value,
        )


def moving(modules: list[str], run: rtk.Run, config: LastKConfig) -> dict[str, Any]:
    """What moves of the last k blocks, as arguments of `run.fit`: parameters, and running statistics.

    Raises:
        Refusal: statistics are to be reused, but the network has none.
    """
    structure = run.structure
    if config.reuse_statistics and not structure.norms.running_statistics:
        raise rtk.Refusal(
            f"There are no running statistics to reuse in this backbone ({structure.norms}).",
            "leave out --reuse-statistics",
        )
    fixed = structure.parameters_in(structure.norm_layers) if config.freeze_affine else ()
    return {
        "trainable": [name for name in structure.parameters_in(modules) if name not in fixed],
        "statistics": "update" if config.reuse_statistics is False else modules,
    }


@rtk.hookimpl
def rtk_strategies():
    return LastK
