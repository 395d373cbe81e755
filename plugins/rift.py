"""RiFT: robust critical fine-tuning (Zhu, Hu, Wang, Xie, Yang, ICCV 2023).

Idea: some modules of an adversarially trained network contribute little to its robustness. Fine-tuning the least
critical one on clean images of the same data, and interpolating the weights back towards the source, raises clean
accuracy without giving up robustness.

    step 1  criticality of every module: how much the loss on adversarial images can rise when that module's weights
            move within a ball of relative radius epsilon                                  (Definition 3.1, Algorithm 1)
    step 2  fine-tune the least critical module on clean images                            (Eq. 8)
    step 3  interpolate between source and fine-tuned weights; keep the best alpha that costs no robustness (Eq. 9)
"""

from __future__ import annotations

import copy
import functools
import math
from typing import TYPE_CHECKING, Literal

import rtk
from rtk.lazy import F, nn, torch

if TYPE_CHECKING:
    from torch import Tensor

    from rtk import Operations

    Batches = list[tuple[tuple[Tensor, ...], Tensor]]


class RiftConfig(
    rtk.ScheduledConfig,
    defaults={
        "epochs": (10, "paper, section 4.1"),
        "lr": (0.01, "rtk; paper: 0.001, to be tuned per network"),
        "momentum": (0.9, "paper, section 4.1"),
        "weight_decay": (5e-4, "published code"),
        "batch_size": (128, "published code"),
        "milestones": ((5,), "published code"),
        "select": ("clean", "published code, on the test split"),
    },
):
    epsilon: float = rtk.option(
        0.1,
        "Radius of the weight ball, relative to the norm of the module's weights.",
        origin="paper, section 4.1",
        ge=0,
        le=1,
    )
    ascent: Literal["relative", "code"] = rtk.option(
        "relative",
        "Weight ascent: steps relative to the norm of the weights; or SGD with rate 1 as published.",
        origin="rtk; published code: code",
    )
    ascent_steps: int = rtk.option(
        10, "Ascent steps T: full gradients, or passes of SGD.", origin="paper, section 4.1", ge=1
    )
    criticality_images: int = rtk.option(
        1000,
        "Training images whose adversarial examples measure criticality.",
        origin="rtk; published code: the whole test split",
        ge=1,
    )
    attack_steps: int = rtk.option(
        10, "PGD steps, for criticality and for choosing alpha; step size eps/4.", origin="paper, section 4.1", ge=0
    )
    module: str = rtk.option(
        "least",
        "Module to fine-tune: least, most, all, last, or names joined by commas.",
        origin="paper, Algorithm 1: least",
    )
    top: int = rtk.option(1, "How many modules to fine-tune, with least or most.", origin="paper, section 4.3", ge=1)
    buffers: Literal["frozen", "drift"] = rtk.option(
        "frozen",
        "BatchNorm statistics during fine-tuning: the source's, or adapting everywhere.",
        origin="paper's text: frozen; published code: drift",
    )
    alphas: int = rtk.option(
        10, "Steps of the interpolation grid: alpha = 0, 1/n, ..., 1.", origin="published code", ge=1
    )
    tolerance: float = rtk.option(
        0.1, "Robust validation accuracy that may be given up, in percentage points.", origin="paper, section 3.4", ge=0
    )


class Rift(rtk.Strategy):
    name = "rift"
    summary = "Fine-tune the module that robustness depends on least, then interpolate."
    setting = "source"
    paper = rtk.Paper(
        title="Improving Generalization of Adversarial Training via Robust Critical Fine-Tuning",
        authors="Zhu, Hu, Wang, Xie, Yang",
        venue="ICCV 2023",
        url="https://arxiv.org/abs/2308.02533",
    )
    departures = (
        "Criticality is measured on adversarial images of the training split; the published code uses the test split.",
        "The ascent is relative to the norm of the weights, so that rescaling a layer changes nothing; it keeps the"
        " best perturbation, including none; the paper stops at the first violation of the ball, and the published"
        " code uses SGD with rate 1 (--ascent code).",
        "BatchNorm statistics are frozen, as the paper's text says; in the published code they drift in every layer"
        " (--buffers drift).",
        "The module of smallest criticality is chosen, as in Algorithm 1; the published code leaves it to the user.",
        "Epoch and alpha are selected on a validation split; the published code selects both on the test split.",
        "The learning rate is 0.01 here and 0.001 in the paper, which says that it must be tuned per network.",
    )
    config: RiftConfig

    def finetune(self, model, run):
        if run.new_head:
            raise rtk.Refusal(
                "RiFT fine-tunes on the backbone's own data and classes; here the classifier is new.",
                "--strategy linear-probe, or another strategy for new data",
            )
        chosen = self.choose(model, run)
        tuned = self.fine_tune(copy.deepcopy(model), chosen, run)
        return self.interpolate(model, tuned, run)

    # step 1

    def choose(self, model: nn.Module, run: rtk.Run) -> list[str]:
        """Names of the weight tensors to fine-tune, by criticality unless they are named."""
        unused = run.structure.parameters_in(run.structure.unused)  # some networks carry layers that never run
        names = [name for name in modules(model) if name not in unused]
        wanted = self.config.module
        if wanted == "all":
            chosen = names
        elif wanted == "last":
            chosen = [f"{run.structure.head}.weight"]
        elif wanted in ("least", "most"):
            scores = self.criticality(model, names, run)
            ranked = sorted(names, key=lambda name: scores[name], reverse=wanted == "most")
            chosen = ranked[: self.config.top]
        else:
            chosen = [name if name.endswith("weight") else f"{name}.weight" for name in wanted.split(",")]
            for name in chosen:
                if name not in names:
                    raise rtk.UnknownName("module", name, names, "--module least")
        run.report(chosen=chosen)
        return chosen

    def criticality(self, model: nn.Module, names: list[str], run: rtk.Run) -> dict[str, float]:
        """Module robust criticality of each weight tensor, >= 0 (Definition 3.1, with the mean loss)."""
        config = self.config
        batches = adversarial_set(model, run, config.criticality_images, config.attack_steps)
        bar = run.progress.stage("criticality", len(names))
        losses = Losses(model, batches)
        operations = rtk.Operations.of(losses.model, batches[0][0][0][:5])
        scores = {}
        base, first = losses.gradients(names) if config.ascent == "relative" else (losses.mean({}), {})
        for name in names:

            def ascend(name: str = name) -> float:
                later = losses.beginning_at(name, operations)
                if config.ascent == "relative":
                    return relative_ascent(later, name, base, first[name], config.epsilon, config.ascent_steps)
                return code_ascent(later, name, base, config.epsilon, config.ascent_steps, run.derive("ascent", name))

            scores[name] = run.once(f"criticality {name}", ascend)
            bar.advance(1, name)
        run.report(criticality=scores)
        run.chart(
            "criticality",
            kind="bar",
            x=names,
            y={"criticality": [scores[name] for name in names]},
            x_label="module, from input to output",
            y_label="rise of the mean loss, nats",
            text=f"How much the loss on adversarial training images rises at most when one module's weights move by"
            f" {config.epsilon:g} of their norm. Robustness depends least on the lowest.",
        )
        return scores

    # step 2

    def fine_tune(self, model: nn.Module, chosen: list[str], run: rtk.Run) -> nn.Module:
        """Fine-tune the chosen modules, with their biases, on clean images; everything else stays bit for bit."""
        config = self.config
        biases = [name.removesuffix("weight") + "bias" for name in chosen]

        def loss(model, step):
            return F.cross_entropy(model(step.images), step.labels)

        return run.fit(
            model,
            loss,
            trainable=[name for name in run.structure.parameters if name in (*chosen, *biases)],
            statistics="keep" if config.buffers == "frozen" else "update",
            **config.recipe(),
        )

    # step 3

    def interpolate(self, model: nn.Module, tuned: nn.Module, run: rtk.Run) -> nn.Module:
        """The interpolated network with the best clean validation accuracy that keeps the source's robust accuracy."""
        source, target = copy.deepcopy(model.state_dict()), tuned.state_dict()
        attack = run.attack(steps=self.config.attack_steps, exact=True)
        grid = [step / self.config.alphas for step in range(self.config.alphas + 1)]
        bar = run.progress.stage("interpolate", len(grid))
        curve = []

        def judge(alpha: float) -> dict[str, float]:
            model.load_state_dict(mix(source, target, alpha))
            clean, robust = run.accuracy(model), run.robust_accuracy(model, attack=attack)
            return {"alpha": alpha, "clean": clean.value, "robust": robust.value}

        for alpha in grid:
            curve.append(run.once(f"alpha {alpha:g}", functools.partial(judge, alpha)))
            bar.advance(1, f"alpha {alpha:g}")
        best = select(curve, self.config.tolerance / 100)
        run.report(interpolation=curve, alpha=best, selected_on="validation split: clean and PGD accuracy")
        run.chart(
            "interpolation",
            kind="line",
            x=grid,
            y={kind: [100 * point[kind] for point in curve] for kind in ("clean", "robust")},
            x_label="alpha, from the source (0) to the fine-tuned weights (1)",
            y_label="validation accuracy, %",
            text=f"Accuracy between source and fine-tuned weights, clean and under PGD-{self.config.attack_steps}."
            f" Kept: alpha = {best:g}, the best clean accuracy that gives up no more than"
            f" {self.config.tolerance:g} points of robust accuracy.",
        )
        model.load_state_dict(mix(source, target, best))
        return model


KEPT_BYTES = 2 << 30
"""As much may be kept of what comes before a module."""


def modules(model: nn.Module) -> dict[str, Tensor]:
    """The weight tensors that act as linear maps, by name: convolutions, linear layers, attention projections.

    Norm layers, embeddings, biases, tokens and position tables are no modules in the paper's sense.
    """
    excluded = (nn.Embedding, nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
    found = {}
    for owner_name, owner in model.named_modules():
        if isinstance(owner, excluded):
            continue
        for name, weight in owner.named_parameters(recurse=False):
            if weight.ndim >= 2 and name.endswith("weight"):
                found[f"{owner_name}.{name}".removeprefix("net.")] = weight
    return found


def adversarial_set(model: nn.Module, run: rtk.Run, count: int, steps: int) -> Batches:
    """PGD examples of `count` training images against the source, made once (Algorithm 1, line 1)."""
    generator = torch.Generator().manual_seed(run.derive("criticality images"))
    chosen = torch.randperm(len(run.train), generator=generator)[:count]
    attack = run.attack(steps=steps, exact=True)
    batches: Batches = []
    for number, indices in enumerate(chosen.split(250)):
        images, labels = run.train.images(indices).to(run.device), run.train.labels[indices].to(run.device)
        adversarial = attack(model, images, labels, seed=run.derive("criticality attack", number))
        batches.append(((adversarial,), labels))
    return batches


class Losses:
    """Mean cross-entropy over the adversarial set, and its gradients, with some weights replaced.

    The network itself is never touched: replaced weights are passed in by `torch.func.functional_call`.
    """

    def __init__(self, model: nn.Module, batches: Batches):
        self.model: nn.Module = copy.deepcopy(model).eval().requires_grad_(False)
        self.weights = modules(self.model)
        self.batches = batches
        self.count = sum(len(labels) for _, labels in batches)

    def beginning_at(self, name: str, operations: Operations | None) -> Losses:
        """The same losses where only weight `name` is replaced; what comes before it is computed once, if it fits."""
        parts = operations.split_at(name) if operations else None
        if parts is None:
            return self
        before, after = parts
        found, values = copy.copy(self), before(*self.batches[0][0])
        if sum(value.nbytes for value in values) * len(self.batches) > KEPT_BYTES:
            return self
        found.model = after
        found.batches = [(before(*images), labels) for images, labels in self.batches]
        return found

    def batch_sum(self, weights: dict[str, Tensor], values: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """Summed loss of one batch; `values` are its images, or what was computed of them."""
        replaced = {f"net.{name}": weight for name, weight in weights.items()}
        return F.cross_entropy(torch.func.functional_call(self.model, replaced, values), labels, reduction="sum")

    def mean(self, weights: dict[str, Tensor]) -> float:
        """Mean loss over the adversarial set."""
        with torch.no_grad():
            return sum(float(self.batch_sum(weights, *batch)) for batch in self.batches) / self.count

    def gradients(self, names: list[str], weights: dict[str, Tensor] | None = None) -> tuple[float, dict[str, Tensor]]:
        """(mean loss, gradient of the mean loss for each name), at the source or at `weights`."""
        leaves = {name: (weights or self.weights)[name].detach().requires_grad_() for name in names}
        total, sums = 0.0, {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
        for values, labels in self.batches:
            with torch.enable_grad():
                loss = self.batch_sum(leaves, values, labels)
                found = torch.autograd.grad(loss, list(leaves.values()))
            total += float(loss.detach())
            for name, gradient in zip(names, found, strict=True):
                sums[name] += gradient
        return total / self.count, {name: value / self.count for name, value in sums.items()}


def relative_ascent(losses: Losses, name: str, base: float, first: Tensor, epsilon: float, steps: int) -> float:
    """Largest rise of the mean loss found within ||delta|| <= epsilon ||weight||, by normalised projected ascent.

    The first gradient is the same for all modules, and given. Not moving at all is feasible, so the rise is >= 0.
    """
    weight = losses.weights[name].detach()
    radius = epsilon * float(weight.norm())
    if radius == 0:
        return 0.0
    delta, gradient, best = torch.zeros_like(weight), first, 0.0
    for step in range(1, steps + 1):
        length = float(gradient.norm())
        if length == 0 or not math.isfinite(length):
            break
        delta = project(delta + 0.5 * radius * gradient / length, radius)
        if step == steps:  # no gradient is needed any more
            return max(best, losses.mean({name: weight + delta}) - base)
        loss, found = losses.gradients([name], {name: weight + delta})
        gradient = found[name]
        best = max(best, loss - base)
    return best


def code_ascent(losses: Losses, name: str, base: float, epsilon: float, steps: int, seed: int) -> float:
    """The published code's ascent: passes of SGD with rate 1 over mini-batches of 512, projected after each pass."""
    weight = losses.weights[name].detach()
    radius = epsilon * float(weight.norm())
    if radius == 0:
        return 0.0
    values = tuple(map(torch.cat, zip(*(values for values, _ in losses.batches), strict=True)))
    labels = torch.cat([labels for _, labels in losses.batches])
    generator = torch.Generator().manual_seed(seed)
    current, best = weight.clone(), 0.0
    for _ in range(steps):
        for indices in torch.randperm(len(labels), generator=generator).split(512):
            current = current.detach().requires_grad_()
            with torch.enable_grad():
                chosen = tuple(value[indices] for value in values)
                loss = losses.batch_sum({name: current}, chosen, labels[indices]) / len(indices)
                (gradient,) = torch.autograd.grad(loss, [current])
            current = current.detach() + gradient
        current = weight + project(current - weight, radius)
        best = max(best, losses.mean({name: current}) - base)
    return best


def project(delta: Tensor, radius: float) -> Tensor:
    """The nearest point of the ball of `radius` around 0 in the Frobenius norm."""
    length = float(delta.norm())
    return delta if length <= radius else delta * (radius / length)


def mix(source: dict[str, Tensor], target: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """(1 - alpha) source + alpha target, parameters and buffers; exact at both ends and where nothing moved (Eq. 9)."""
    if alpha in (0, 1):
        return dict(source if alpha == 0 else target)
    return {
        name: old if torch.equal(old, target[name]) else ((1 - alpha) * old + alpha * target[name]).to(old.dtype)
        for name, old in source.items()
    }


def select(curve: list[dict[str, float]], tolerance: float) -> float:
    """The alpha with the highest clean accuracy among those that keep the robust accuracy of alpha = 0 (section 3.4).

    Args:
        curve: {"alpha", "clean", "robust"}, accuracies in [0, 1], the first at alpha = 0.
        tolerance: in [0, 1]; 0.001 is a tenth of a percentage point.
    """
    kept = [point for point in curve if point["robust"] >= curve[0]["robust"] - tolerance - 1e-12]
    return max(kept, key=lambda point: (point["clean"], point["robust"], -point["alpha"]))["alpha"]


@rtk.hookimpl
def rtk_strategies() -> type[Rift]:
    return Rift
