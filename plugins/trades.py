"""TRADES: trade-off between accuracy and robustness (Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan, ICML 2019).

Idea: the robust error is the clean error plus how often the prediction changes inside the ball. So minimise the
cross-entropy on clean images plus beta times the divergence between the predictions for an image and for its worst
neighbour; the labels never enter the second term.

    inner    x' = argmax over the ball of KL(p(x) || p(x')), by projected gradient ascent from x + 0.001 N(0, 1)
    outer    L = CE(f(x), y) + beta * mean KL(p(x) || p(x'))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import rtk
from rtk.lazy import F

if TYPE_CHECKING:
    from torch import Tensor, nn

Forwards = Literal["clean-adv-clean", "clean-adv", "adv-clean"]


class TradesConfig(rtk.Config):
    beta: float = rtk.option(6.0, "Weight of the divergence; 1/lambda in the paper.", origin="paper, CIFAR-10", ge=0)
    attack: Literal["kl", "ce"] = rtk.option(
        "kl",
        "Loss that the training attack ascends: the divergence, from beside the image; or the cross-entropy, from a"
        " random start.",
        origin="paper, Algorithm 1; TWINS code: ce",
    )
    attack_steps: int = rtk.option(10, "Steps of the training attack.", origin="published code", ge=0)
    step_size: float | None = rtk.option(
        None,
        "Step of the training attack in pixels of [0, 1]; by default eps/4.",
        origin="TWINS code: 0.00784 at 0.0314; published code: 0.007 at 0.031",
        gt=0,
    )
    forwards: Forwards = rtk.option(
        "clean-adv-clean",
        "Forward passes of the training step in their order; each moves BatchNorm's statistics once.",
        origin="published code; RobustSSL: clean-adv; TWINS code: adv-clean",
    )
    epochs: int = rtk.option(60, "Epochs.", origin="TWINS code, its TRADES baseline", ge=0)
    lr: float = rtk.option(0.003, "Initial learning rate of SGD.", origin="TWINS code (CIFAR)", gt=0)
    momentum: float = rtk.option(0.9, "Momentum of SGD.", origin="published code", ge=0, lt=1)
    weight_decay: float = rtk.option(1e-5, "Weight decay.", origin="TWINS code (CIFAR)", ge=0)
    batch_size: int = rtk.option(128, "Images per step.", origin="published code", ge=1)
    schedule: Literal["step", "cosine"] = rtk.option(
        "step", "step: rate times 0.1 at the milestones; cosine: to zero.", origin="published code: step"
    )
    milestones: tuple[int, ...] = rtk.option(
        (30, 50), "Epochs at which the rate is multiplied by 0.1.", origin="TWINS code"
    )
    warmup: float = rtk.option(0.0, "Epochs of linear rise of the rate.", origin="published code: none", ge=0)
    select_steps: int = rtk.option(
        10, "PGD steps of the robust validation accuracy that selects the epoch.", origin="TWINS code", ge=0
    )
    augment: str = rtk.option("auto", "Augmentation.", origin="rtk", pattern="^(auto|none|crop|crop-flip)$")


class Trades(rtk.Strategy):
    name = "trades"
    summary = "Clean cross-entropy plus beta times the divergence of adversarial from clean predictions."
    setting = "target"
    paper = rtk.Paper(
        title="Theoretically Principled Trade-off between Robustness and Accuracy",
        authors="Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan",
        venue="ICML 2019",
        url="https://arxiv.org/abs/1901.08573",
    )
    departures = (
        "The recipe is that of fine-tuning in the TWINS code: 60 epochs, rate 0.003, weight decay 1e-5, milestones"
        " 30,50; the published code trains from nothing: 76 epochs, rate 0.1, weight decay 2e-4, milestone 75.",
        "The radius is the run's and the step eps/4; the published code has 0.031 and 0.007 on CIFAR-10.",
        "The epoch is selected by PGD accuracy on a validation split; the published code keeps the last epoch.",
        "The divergence is computed from log-probabilities, by F.kl_div with log_target=True; the published code"
        " differentiates through softmax, which gives NaN where a probability underflows. The values are the same.",
    )
    config: TradesConfig

    def finetune(self, model, run):
        config = self.config
        if config.attack == "kl" and run.threat.norm != "Linf":
            raise rtk.Refusal(f"The KL attack of TRADES is available for Linf; got {run.threat.norm}.", "--attack ce")
        attack = run.attack(steps=config.attack_steps, step_size=config.step_size, loss=config.attack)
        judge = run.attack(steps=config.select_steps)
        schedules = {
            "step": rtk.schedules.step_decay(config.milestones, warmup=config.warmup),
            "cosine": rtk.schedules.cosine(config.epochs, warmup=config.warmup),
        }

        def loss(model, step):
            adversarial = attack(model, step.images, step.labels, seed=step.seed)
            return trades_loss(model, step.images, adversarial, step.labels, config.beta, config.forwards)

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


def trades_loss(
    model: nn.Module, clean: Tensor, adversarial: Tensor, labels: Tensor, beta: float, forwards: Forwards
) -> Tensor:
    """CE(f(x), y) + beta * KL(p(x) || p(x')) over one mini-batch; the gradient flows through both p.

    Without dropout the passes that `forwards` names differ in nothing but BatchNorm's running statistics: three passes
    move them three times, twice towards clean images. With dropout, the first clean pass is that of the cross-entropy
    and the last that of the divergence, as published.
    """
    logits: dict[str, list[Tensor]] = {"clean": [], "adv": []}
    for kind in forwards.split("-"):
        logits[kind].append(model(clean if kind == "clean" else adversarial))
    return F.cross_entropy(logits["clean"][0], labels) + beta * divergence(logits["clean"][-1], logits["adv"][0])


def divergence(clean: Tensor, adversarial: Tensor) -> Tensor:
    """Mean over the mini-batch of KL(p(x) || p(x')), in nats, from logits (B, classes)."""
    return F.kl_div(F.log_softmax(adversarial, 1), F.log_softmax(clean, 1), reduction="batchmean", log_target=True)


@rtk.hookimpl
def rtk_strategies() -> type[Trades]:
    return Trades
