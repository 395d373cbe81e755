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


class TradesConfig(
    rtk.ScheduledConfig,
    defaults={
        "epochs": (60, "TWINS code, its TRADES baseline"),
        "lr": (0.003, "TWINS code (CIFAR)"),
        "weight_decay": (1e-5, "TWINS code (CIFAR)"),
        "milestones": ((30, 50), "TWINS code"),
    },
):
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

        def loss(model, step):
            adversarial = attack(model, step.images, step.labels, seed=step.seed)
            return trades_loss(model, step.images, adversarial, step.labels, config.beta, config.forwards)

        return run.fit(model, loss, **config.recipe())


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
