"""TWINS: two-wing normalisation (Liu, Xu, Ji, Chan, CVPR 2023).

Idea: adversarial fine-tuning on a small data set forgets what robust pre-training learned, and BatchNorm's statistics
are part of it. So train two networks that share every weight except those of BatchNorm: the adaptive one normalises by
the mini-batch, the frozen one by the statistics of pre-training. Only the adaptive network is kept.

    wings    every BatchNorm is there twice, with its own scale and shift; both start from the pre-trained layer
    attack   the adaptive network, in evaluation mode, is attacked by PGD on the cross-entropy
    step     one forward of the adversarial images, cut in two at every BatchNorm: the first half of the mini-batch is
             normalised by the frozen wing, the second half by the adaptive wing
    loss     L = lambda * L_frozen(first half) + L_adaptive(second half), with AT's or TRADES' loss for each half
"""

from __future__ import annotations

import copy
import math
import operator
from typing import TYPE_CHECKING, Literal

import rtk
from rtk.lazy import F, nn, torch

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_BATCH = 4  # two images for each wing: batch statistics need two values per channel


class TwinsConfig(
    rtk.ScheduledConfig,
    defaults={
        "epochs": (60, "published code"),
        "lr": (0.003, "published code (CIFAR, Caltech-256); its default: 0.1"),
        "weight_decay": (1e-5, "published code (CIFAR); Caltech-256: 1e-3; its default: 2e-4"),
        "milestones": ((30, 50), "published code"),
    },
):
    loss: Literal["at", "trades"] = rtk.option(
        "at", "Loss of each wing: cross-entropy on adversarial images, or TRADES.", origin="paper: both"
    )
    lambda_twins: float = rtk.option(
        1.0,
        "Weight lambda of the frozen wing's loss.",
        origin="published code (CIFAR); Caltech-256: 0.4; its default: 0.3",
        ge=0,
    )
    beta: float = rtk.option(6.0, "Weight of the divergence, with trades.", origin="published code", ge=0)
    kl_reduction: Literal["batchmean", "code"] = rtk.option(
        "batchmean",
        "Divergence of a wing: the mean over its half, or divided by the whole batch size.",
        origin="rtk; published code: code",
    )
    attack_steps: int = rtk.option(10, "PGD steps of the training attack.", origin="published code", ge=0)
    step_size: float | None = rtk.option(
        None, "PGD step in pixels of [0, 1]; by default eps/4.", origin="published code: 0.00784 at 0.0314", gt=0
    )
    batch_size: int = rtk.option(
        128, "Images per step, half of them for each wing.", origin="published code", ge=SMALLEST_BATCH
    )


class Twins(rtk.Strategy):
    name = "twins"
    summary = "Adversarial training of two networks that share all but BatchNorm; one keeps its statistics."
    setting = "target"
    paper = rtk.Paper(
        title="TWINS: A Fine-Tuning Framework for Improved Transferability of Adversarial Robustness and"
        " Generalization",
        authors="Liu, Xu, Ji, Chan",
        venue="CVPR 2023",
        url="https://arxiv.org/abs/2303.11135",
    )
    departures = (
        "With trades, the divergence of a wing is the mean over its half of the mini-batch; the published code divides"
        " by the whole batch size, which halves beta from 6 to 3 (--kl-reduction code).",
        "Both wings take eps and momentum from the pre-trained layer; the published code sets 1e-5 and 0.1.",
        "Of a batch of odd size the last image is left out, and a batch of fewer than 4 images is skipped; the"
        " published code stops with an error at an odd one.",
        "The epoch is selected by PGD accuracy of the adaptive network on a validation split; the published code tracks"
        " the test split.",
        "Selection attacks start at random; the published evaluation starts at the image itself.",
        "The radius is the run's and the step eps/4; the published code has 0.0314 and 0.00784.",
    )
    config: TwinsConfig

    def finetune(self, model, run):
        config = self.config
        check(model, run)
        wings = two_wings(model)
        attack = run.attack(steps=config.attack_steps, step_size=config.step_size)
        norms: dict[int, dict[str, float]] = run.saved("norms") or {}

        def loss(wings, step):
            half = len(step.labels) // 2
            images, labels = step.images[: 2 * half], step.labels[: 2 * half]
            adversarial = attack(wings["adaptive"], images, labels, seed=step.seed)
            frozen, adaptive = self.losses(wings, images, adversarial, labels, step.share)
            if step.epoch not in norms:
                norms[step.epoch] = norms_of(wings, frozen, adaptive)
                run.save("norms", norms)
            return config.lambda_twins * frozen + adaptive

        adaptive = operator.itemgetter("adaptive")
        run.fit(wings, loss, smallest=SMALLEST_BATCH, sections=2, judged=adaptive, **config.recipe())
        draw(run, norms)
        return model  # the adaptive network: trained in place, and still of the architecture that it came in

    def losses(
        self, wings: nn.ModuleDict, clean: Tensor, adversarial: Tensor, labels: Tensor, share: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """(loss of the frozen wing on the first half, loss of the adaptive wing on the second half), for even B.

        `share` is the part of a step that these images are, when gradients are accumulated.
        """
        targets = labels.chunk(2)
        perturbed = mixed(wings, adversarial)
        if self.config.loss == "at":
            frozen, adaptive = (F.cross_entropy(p, y) for p, y in zip(perturbed, targets, strict=True))
            return frozen, adaptive
        natural = mixed(wings, clean)
        frozen, adaptive = (
            F.cross_entropy(n, y) + self.config.beta * self.divergence(n, p, share)
            for n, p, y in zip(natural, perturbed, targets, strict=True)
        )
        return frozen, adaptive

    def divergence(self, natural: Tensor, perturbed: Tensor, share: float = 1.0) -> Tensor:
        """KL(p(x) || p(x')) of one wing, in nats, from logits (B/2, classes); the gradient flows through both."""
        target, found = F.log_softmax(natural, 1), F.log_softmax(perturbed, 1)
        size = len(natural) if self.config.kl_reduction == "batchmean" else self.config.batch_size * share
        total = F.kl_div(found, target, reduction="sum", log_target=True)
        return total / size


def batchnorms(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that both wings have, by name: BatchNorm of any dimension with running statistics, also SyncBatchNorm.

    A layer with more inside, as timm's BatchNormAct2d with its activation, is one layer.
    """
    kind = nn.modules.batchnorm._BatchNorm
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, kind) and module.track_running_stats and module.running_mean is not None
    }


def two_wings(model: nn.Module) -> nn.ModuleDict:
    """{"adaptive": `model` itself, "frozen": a copy of each of its BatchNorm layers, in their order}."""
    frozen = [copy.deepcopy(layer) for layer in batchnorms(model).values()]
    return nn.ModuleDict({"adaptive": model, "frozen": nn.ModuleList(frozen)})


def mixed(wings: nn.ModuleDict, images: Tensor) -> tuple[Tensor, Tensor]:
    """One forward pass of both networks; images (B, C, H, W), B even.

    Every BatchNorm is cut along the batch: the first half is normalised by the stored statistics of the frozen wing, in
    any mode, the second half by the adaptive wing, which sees nothing else. All other layers see the whole batch.

    Returns:
        Logits (B/2, classes) of the first half through the frozen, and of the second half through the adaptive network.
    """
    model, batch = wings["adaptive"], len(images)
    layers = batchnorms(model)
    twin = dict(zip(layers.values(), wings["frozen"].children(), strict=True))
    first: dict[nn.Module, Tensor] = {}

    def cut(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if len(inputs[0]) != batch:
            raise rtk.Refusal(
                f"TWINS cannot tell the halves of a mini-batch apart in this backbone: a BatchNorm layer sees"
                f" {len(inputs[0])} rows for {batch} images.",
                "--strategy trades",
            )
        first[layer], second = inputs[0].chunk(2)
        return (second,)

    def join(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        frozen = twin[layer]
        frozen.training = False  # the layer alone: what it holds besides, such as an activation, keeps its mode
        return torch.cat([frozen(first.pop(layer)), output])

    hooks = [layer.register_forward_pre_hook(cut) for layer in twin]
    hooks += [layer.register_forward_hook(join) for layer in twin]
    try:
        frozen_logits, adaptive_logits = model(images).chunk(2)
    finally:
        for hook in hooks:
            hook.remove()
    return frozen_logits, adaptive_logits


GRADIENTS = ("frozen wing's loss", "adaptive wing's loss")
WEIGHTS = ("shared weights", "frozen wing's BatchNorm", "adaptive wing's BatchNorm")


def norms_of(wings: nn.ModuleDict, frozen: Tensor, adaptive: Tensor) -> dict[str, float]:
    """Euclidean norms of the weights, and of each wing's gradient with respect to those that both share."""
    model = wings["adaptive"]
    own = [weight for layer in batchnorms(model).values() for weight in layer.parameters()]
    shared = [weight for weight in model.parameters() if not any(weight is each for each in own)]
    moving = [weight for weight in shared if weight.requires_grad]
    gradients = (
        torch.autograd.grad(loss, moving, retain_graph=True, materialize_grads=True) for loss in (frozen, adaptive)
    )
    parts = zip((*GRADIENTS, *WEIGHTS), (*gradients, shared, list(wings["frozen"].parameters()), own), strict=True)
    return {name: math.hypot(*(float(each.detach().norm()) for each in tensors)) for name, tensors in parts}


def draw(run: rtk.Run, norms: dict[int, dict[str, float]]) -> None:
    """What each wing asks of the shared weights: the paper explains TWINS by the size of gradients and weights."""
    epochs = sorted(epoch for epoch, found in norms.items() if all(map(math.isfinite, found.values())))
    titles = {
        "gradient norms": (GRADIENTS, "norm of the gradient", "Gradient of each wing's loss by the shared weights"),
        "weight norms": (WEIGHTS, "norm of the weights", "Weights"),
    }
    for name, (series, label, text) in titles.items() if epochs else ():
        run.chart(
            name,
            kind="line",
            x=[epoch + 1 for epoch in epochs],
            y={each: [norms[epoch][each] for epoch in epochs] for each in series},
            x_label="epoch",
            y_label=label,
            text=f"{text}: Euclidean norm at the first step of each epoch.",
        )


def check(model: nn.Module, run: rtk.Run) -> None:
    """Refuse networks in which two wings would coincide or touch, and report how many layers have them."""
    norms, layers, network = run.structure.norms, batchnorms(model), type(getattr(model, "net", model)).__name__
    tracked = [each for each in model.modules() if getattr(each, "track_running_stats", False)]
    untracked = [each for each in model.modules() if getattr(each, "track_running_stats", None) is False]
    problem = ""
    if not norms.running_statistics:
        problem = f"found 0 BatchNorm, {norms}"
    elif norms.batch_without_stats or any(isinstance(each, nn.modules.batchnorm._BatchNorm) for each in untracked):
        problem = f"some have none to keep, and would mix the wings; found {norms}"
    elif any(isinstance(each, nn.modules.instancenorm._InstanceNorm) for each in tracked):
        problem = f"InstanceNorm with running statistics is not covered; found {norms}"
    elif len(layers) < norms.running_statistics:
        problem = f"some are not torch's and cannot be cut in two; found {norms}"
    if problem:
        raise rtk.Refusal(
            f"TWINS needs normalisation layers with running statistics (BatchNorm); {problem} in {network}.",
            "--strategy at, trades, roli or lwf; or rift on the backbone's own data",
        )
    if len(run.train) < SMALLEST_BATCH:
        raise rtk.Refusal(f"TWINS needs {SMALLEST_BATCH} training images or more, two per wing; got {len(run.train)}.")
    cumulative = [name for name, layer in layers.items() if layer.momentum is None]
    run.report(two_wings={"layers": len(layers), "norms": str(norms), "cumulative_average": cumulative})


@rtk.hookimpl
def rtk_strategies() -> type[Twins]:
    return Twins
