"""RoLI: robust linear initialisation (Hua, Gu, Xue, Carlini, Wong, Qin, CVPR 2024).

Idea: adversarial fine-tuning from a random classifier sends large gradients through a robust backbone and destroys what
it was pre-trained for. So the classifier is trained first, on adversarial images of the frozen backbone, and then
everything is trained adversarially from there.

    stage 1  adversarial linear probe: the backbone is frozen bit for bit, BatchNorm statistics included
    stage 2  adversarial training of every parameter, from the best classifier of stage 1
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import rtk
from rtk.lazy import F

if TYPE_CHECKING:
    from torch import nn

RATES = {"adamw": (2.5e-5, 0.01), "sgd": (0.003, 1e-5)}
"""Learning rate and weight decay of stage 2, where none are given."""


class RoliConfig(
    rtk.TrainingConfig,
    defaults={
        "epochs": (20, "published code (CIFAR); 40 to 60 elsewhere"),
        "batch_size": (64, "published code"),
    },
):
    head_epochs: int = rtk.option(
        20,
        "Epochs of stage 1, the adversarial linear probe; --epochs counts stage 2.",
        origin="published code (CIFAR); 40 to 60 elsewhere",
        ge=0,
    )
    head_lr: float = rtk.option(
        0.025,
        "Initial learning rate of SGD in stage 1.",
        origin="published code (CIFAR-100): 0.1 per 256 images, at 64; 0.05 to 1 per 256 on other data",
        gt=0,
    )
    head_weight_decay: float = rtk.option(
        0.001, "Weight decay of stage 1.", origin="published code (CIFAR-100); 0.001 to 0.01", ge=0
    )
    optimizer: Literal["adamw", "sgd"] = rtk.option(
        "adamw", "Optimiser of stage 2.", origin="published code (ViT, Swin): adamw"
    )
    lr: float | None = rtk.option(  # type: ignore[assignment]  # None: depends on the optimiser
        None,
        "Initial learning rate of stage 2; by default 2.5e-5 with adamw and 0.003 with sgd.",
        origin="published code: 1e-4 per 256 images, at 64; sgd: TWINS code (CIFAR)",
        gt=0,
    )
    weight_decay: float | None = rtk.option(  # type: ignore[assignment]  # as for lr
        None,
        "Weight decay of stage 2; by default 0.01 with adamw and 1e-5 with sgd.",
        origin="published code, whatever its configuration says; sgd: TWINS code (CIFAR)",
        ge=0,
    )
    warmup: float = rtk.option(
        10.0, "Epochs of linear rise in each stage; at most half of the stage.", origin="published code: 10", ge=0
    )
    attack_steps: int = rtk.option(7, "PGD steps of the training attack.", origin="published code", ge=0)
    step_size: float | None = rtk.option(
        None, "PGD step in pixels of [0, 1]; by default eps/4.", origin="published code: 2/255 at 8/255", gt=0
    )
    select_steps: int = rtk.option(
        10, "PGD steps of the robust validation accuracy that selects epochs.", origin="published code", ge=0
    )


class Roli(rtk.Strategy):
    name = "roli"
    summary = "Adversarial linear probe, then adversarial fine-tuning from its classifier."
    setting = "target"
    paper = rtk.Paper(
        title="Initialization Matters for Adversarial Transfer Learning",
        authors="Hua, Gu, Xue, Carlini, Wong, Qin",
        venue="CVPR 2024",
        url="https://arxiv.org/abs/2312.05716",
    )
    departures = (
        "PGD returns its last iterate; in the published code it returns the one of largest loss.",
        "The rate rises and falls with every step; in the published code once per epoch, so that its first epoch has"
        " rate 0 and trains nothing.",
        "The warm-up is at most half of a stage, so that short runs reach the full rate; the published runs have 10"
        " epochs of 20 to 60.",
        "Weight decay applies to every parameter that moves; the published code spares biases in stage 2 and the bias"
        " of the classifier in stage 1.",
        "AdamW is PyTorch's, with epsilon 1e-8; the published code has its own with 1e-6.",
        "The new classifier has PyTorch's default initialisation; the published code starts from Kaiming normal weights"
        " and biases of -4.6.",
        "Every parameter moves in stage 2; the paper also fine-tunes with adapters, LoRA, biases alone and prompts.",
        "BatchNorm is not in the paper's networks; here it keeps its statistics in stage 1 and adapts in stage 2.",
    )
    config: RoliConfig

    def finetune(self, model, run):
        config = self.config
        probed = self.train(
            model,
            run,
            "linear probe",
            epochs=config.head_epochs,
            lr=config.head_lr,
            weight_decay=config.head_weight_decay,
            trainable=run.structure.parameters_in([run.structure.head]),
            statistics="keep",
            mode="eval",
        )
        lr, weight_decay = RATES[config.optimizer]
        return self.train(
            probed,
            run,
            "fine-tune",
            lr=lr if config.lr is None else config.lr,
            weight_decay=weight_decay if config.weight_decay is None else config.weight_decay,
            optimizer=config.optimizer,
        )

    def train(self, model: nn.Module, run: rtk.Run, stage: str, **changes) -> nn.Module:
        """One stage of adversarial training; ends with the epoch of best robust validation accuracy."""
        config = self.config
        attack = run.attack(steps=config.attack_steps, step_size=config.step_size)

        def loss(model: nn.Module, step: rtk.Step):
            adversarial = attack(model, step.images, step.labels, seed=step.seed)
            return F.cross_entropy(model(adversarial), step.labels)

        recipe = {**config.recipe(), **changes}
        warmup = min(config.warmup, recipe["epochs"] / 2)
        return run.fit(
            model,
            loss,
            schedule=rtk.schedules.cosine(recipe["epochs"], warmup=warmup),
            select="robust",
            select_steps=config.select_steps,
            name=stage,
            **recipe,
        )


@rtk.hookimpl
def rtk_strategies():
    return Roli
