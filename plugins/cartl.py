"""CARTL: cooperative adversarially-robust transfer learning (Chen, Hu, Wang, Li, Wang, Shen, Li, ICML 2021).

Idea: robustness that a network inherits is lost where its last k blocks amplify what the early blocks let through. So
the source is trained to keep the features at that cut close for an image and its adversarial version, and the last k
blocks are then fine-tuned on clean images of the new data with weights whose spectral norm cannot grow.

    source   `fdm`    feature distance minimisation: adversarial training plus lambda ||r(x) - r(x')|| / sqrt(d)
    target   `cartl`  non-expansive fine-tuning (NEFT): every weight of the last k blocks is W* = beta W / sigma(W)

    rtk finetune --strategy fdm --k 3 --out runs/robust
    rtk finetune --strategy cartl --backbone run:runs/robust
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import rtk
from rtk.lazy import F, nn, torch

if TYPE_CHECKING:
    from torch import Tensor

    from rtk.backbones import Classifier
    from rtk.run import Origin

K = 3
PAPER = rtk.Paper(
    title="CARTL: Cooperative Adversarially-Robust Transfer Learning",
    authors="Chen, Hu, Wang, Li, Wang, Shen, Li",
    venue="ICML 2021",
    url="https://arxiv.org/abs/2106.06667",
)
SHARED_DEPARTURES = (
    "k is 3 here, since small backbones have few blocks; the paper studies 4, 6 and 8 of 17.",
    "Augmentation is the data set's own; the published code also rotates CIFAR images by up to 15 degrees.",
)


PUBLISHED = {
    "epochs": (100, "published code"),
    "lr": (0.1, "published code"),
    "weight_decay": (5e-4, "published code"),
    "milestones": ((40, 70, 90), "published code"),
    "gamma": (0.2, "published code"),
    "warmup": (1.0, "published code"),
}
"""How both stages are trained."""


class FdmConfig(rtk.ScheduledConfig, defaults=PUBLISHED):
    k: int = rtk.option(
        K,
        "Blocks that the target stage will fine-tune; features are compared where they begin.",
        origin="rtk; paper: 4, 6, 8 of 17",
        ge=1,
    )
    penalty: float = rtk.option(
        0.005, "Weight lambda of the distance between features.", origin="published scripts; paper: 0.01, 0.005", ge=0
    )
    reduction: Literal["sum", "mean"] = rtk.option(
        "sum",
        "Over the batch, the distance is summed, or averaged; lambda belongs to it.",
        origin="published code: sum",
    )
    attack_steps: int = rtk.option(7, "PGD steps of the training attack.", origin="published code", ge=0)
    step_size: float | None = rtk.option(
        None, "PGD step in pixels of [0, 1]; by default eps/4.", origin="published code: 2/255 at 8/255", gt=0
    )


class CartlConfig(
    rtk.LastBlocksConfig,
    defaults={
        **PUBLISHED,
        "reuse_statistics": (None, "paper, study of BatchNorm; script of NEFT: adapting"),
        "freeze_affine": (True, "published script"),
        "head_init": ("default", "rtk; published code: uniform"),
        "select": ("last", "published scripts"),
    },
):
    k: int | None = rtk.option(
        None,
        f"Blocks to fine-tune; by default as many as the fdm run that the backbone comes from was made for, else {K}.",
        origin="rtk; paper: 4, 6, 8 of 17",
        ge=1,
    )
    beta: float = rtk.option(
        0.4, "Spectral norm of every weight in the last k blocks.", origin="paper: 1, 0.6, 0.4", gt=0, le=1
    )


class Fdm(rtk.Strategy):
    name = "fdm"
    summary = "CARTL, source side: adversarial training that keeps features close where the last k blocks begin."
    setting = "source"
    paper = PAPER
    departures = (
        *SHARED_DEPARTURES,
        "The epoch is selected by PGD accuracy on a validation split; the published code keeps the best robust accuracy"
        " on training batches.",
        "Attacked images stay in [0, 1] from the start; in the published code the first gradient may be taken outside.",
    )
    config: FdmConfig

    def finetune(self, model, run):
        config = self.config
        cut = run.structure.last(config.k)[0].modules[0]
        run.report(k=config.k, cut=cut)
        attack = run.attack(steps=config.attack_steps, step_size=config.step_size)
        distances: dict[int, float] = run.saved("distances") or {}

        def loss(model, step):
            adversarial = attack(model, step.images, step.labels, seed=step.seed)
            with input_of(model, cut) as features:  # both forwards move BatchNorm's statistics, adversarial first
                logits = model(adversarial)
                model(step.images)
            apart = feature_distance(features[0], features[1], config.reduction)
            if step.epoch not in distances:
                distances[step.epoch] = float(feature_distance(features[0], features[1], "mean").detach())
                run.save("distances", distances)
            if config.reduction == "sum":
                apart = apart / step.share  # a sum over the whole step, of which this may be a part
            return F.cross_entropy(logits, step.labels) + config.penalty * apart

        tuned = run.fit(model, loss, **config.recipe())
        if distances:
            run.chart(
                "feature distance",
                kind="line",
                x=[epoch + 1 for epoch in sorted(distances)],
                y={"distance": [distances[epoch] for epoch in sorted(distances)]},
                x_label="epoch",
                y_label="distance per image and feature",
                text=f"How far features of an image and of its adversarial version are apart where the last {config.k}"
                " blocks begin: mean over the first mini-batch of each epoch.",
            )
        return tuned


class Cartl(rtk.Strategy):
    name = "cartl"
    summary = "CARTL, target side: fine-tune the last k blocks with bounded spectral norms on clean images."
    setting = "target"
    paper = PAPER
    departures = (
        *SHARED_DEPARTURES,
        "Every convolution and linear layer of the last k blocks is normalised; in the published code only direct"
        " children of a block are, which on a ResNet leaves the classifier alone.",
        "The norm of a grouped convolution is taken and set group by group; the published code reshapes the whole"
        " kernel, whose norm is not the one of the layer.",
        "The power iteration starts at the exact singular vectors, and the weights that are kept are divided by the"
        " exact norm; the published code starts at random and keeps the last estimate, so that norms exceed beta.",
        "The residual sum is left as it is; the published target networks halve branch and shortcut, which changes the"
        " function that was pre-trained.",
        "Statistics of the frozen blocks are kept; in the published script of NEFT they adapt (--reuse-statistics"
        " false).",
        "A new classifier has PyTorch's default initialisation; in the published code weight and bias are drawn from"
        " U[0, 1) (--head-init uniform).",
    )
    config: CartlConfig

    def finetune(self, model, run):
        config = self.config
        k = agreed_k(config.k, run.origin)
        tail = run.structure.tail(k, reuse_statistics=config.reuse_statistics, freeze_affine=config.freeze_affine)
        if config.head_init == "uniform":
            run.structure.draw_head(model, run.derive("head"))
        before = spectral_norms(model, tail.modules)
        names = attach(model, tail.modules, config.beta)
        run.report(k=k, blocks=tail.blocks, beta=config.beta, normalised=names)
        audit = run.structure.norms
        if audit.layer or audit.rms or audit.group or audit.instance:  # they divide by what they are given
            text = f"no Lipschitz guarantee: weights are bounded, but normalisation of one image is not ({audit})"
            run.progress.say(f"{self.name}: {text}.")
            run.report(lipschitz=text)

        def loss(model, step):
            return F.cross_entropy(model(step.images), step.labels)

        trainable = [name for name, _ in model.net.named_parameters() if plain(name) in tail.trainable]
        tuned = run.fit(model, loss, trainable=trainable, statistics=tail.statistics, **config.recipe())
        run.report(norm_residual=detach(tuned))
        after = spectral_norms(tuned, tail.modules)
        run.chart(
            "spectral norms",
            kind="bar",
            x=names,
            y={when: [found[name] for name in names] for when, found in (("before", before), ("after", after))},
            x_label="weight, from input to output",
            y_label="spectral norm of the kernel",
            text=f"Largest singular value of every weight in the last {k} blocks, before and after non-expansive"
            f" fine-tuning, which sets it to beta = {config.beta:g}.",
        )
        return tuned


# source: feature distance minimisation


@contextmanager
def input_of(model: Classifier, name: str) -> Iterator[list[Tensor]]:
    """Collects what module `name` of the network is given, one tensor per forward inside the block."""
    caught: list[Tensor] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught.append(next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)))

    hook = model.net.get_submodule(name).register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield caught
    finally:
        hook.remove()


def feature_distance(adversarial: Tensor, clean: Tensor, reduction: str) -> Tensor:
    """||r' - r|| / sqrt(d) per image, summed or averaged over the batch; gradients flow into both."""
    apart = (adversarial - clean).flatten(1)
    distances = apart.norm(dim=1) / math.sqrt(apart.shape[1])
    return distances.sum() if reduction == "sum" else distances.mean()


# target: what moves


def agreed_k(asked: int | None, origin: Origin | None) -> int:
    """The number of blocks to fine-tune; Refusal when the source was trained for another number."""
    made_for = origin.report.get("k") if origin is not None and origin.strategy == Fdm.name else None
    if asked is not None and made_for is not None and asked != made_for:
        raise rtk.Refusal(
            f"--k {asked}: the backbone was trained by {Fdm.name} for the last {made_for} blocks, and both stages of"
            " CARTL must cut the network at the same place.",
            f"leave out --k, or train the source again with --strategy {Fdm.name} --k {asked}",
        )
    return asked or made_for or K


def inside(name: str, modules: Sequence[str]) -> bool:
    """Whether `name` is, or lies in, one of `modules`."""
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


# target: non-expansive fine-tuning


def attach(model: nn.Module, modules: Sequence[str], beta: float) -> list[str]:
    """Replace every weight in `modules` by W* = beta W / sigma(W), in place; returns the names of these weights.

    Raises:
        Refusal: nothing to normalise, or a weight that cannot be: already parametrised, or standardised.
    """
    found = [entry for entry in linear_maps(model) if inside(entry[0], modules)]
    if not found:
        raise rtk.Refusal("Non-expansive fine-tuning found no convolution or linear layer to normalise.")
    for name, layer, tensor in found:
        if tensor not in layer._parameters:
            raise rtk.Refusal(f"'{name}' is parametrised already, so its norm cannot be set.", "--strategy last-k")
        if isinstance(layer, nn.Conv2d) and standardises(layer):
            raise rtk.Refusal(f"'{name}' is standardised, so its norm has no effect.", "--strategy last-k")
    model.eval()  # in training mode each registration would make one step of power iteration
    for _, layer, tensor in found:
        rule = spectral()(layer.get_parameter(tensor).detach(), getattr(layer, "groups", 1), beta)
        nn.utils.parametrize.register_parametrization(layer, tensor, rule)
    return [name for name, _, _ in found]


def linear_maps(model: nn.Module) -> list[tuple[str, nn.Module, str]]:
    """(name of the weight, layer, name of the tensor in it) of every convolution, linear layer and joint projection of
    queries, keys and values, however deep in the network."""
    kinds: dict[type[nn.Module], str] = {
        nn.Conv1d: "weight",
        nn.Conv2d: "weight",
        nn.Linear: "weight",
        nn.MultiheadAttention: "in_proj_weight",
    }
    return [
        (f"{name}.{tensor}".removeprefix("net."), layer, tensor)
        for name, layer in model.named_modules()
        for kind, tensor in kinds.items()
        if isinstance(layer, kind) and getattr(layer, tensor) is not None
    ]


def standardises(layer: nn.Conv2d) -> bool:
    """Whether a factor on the layer's weight changes nothing, because the layer divides it out."""
    reach = [(size - 1) * step + 1 for size, step in zip(layer.kernel_size, layer.dilation, strict=True)]
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(layer.weight.shape, generator=generator).to(layer.weight)
    given = torch.randn(1, layer.in_channels, *reach, generator=generator).to(layer.weight)
    with torch.no_grad():
        once, twice = (torch.func.functional_call(layer, {"weight": factor * weight}, given) for factor in (1, 2))
    return torch.allclose(once, twice, rtol=1e-2)


@functools.cache
def spectral() -> Any:
    """The parametrisation; a class made at its first use, since its base needs torch."""

    class Spectral(nn.Module):
        """W to beta W / sigma with sigma = u'Wv, group by group.

        u and v follow the first singular vectors, by one power iteration per training forward, and carry no gradient;
        W does, also through sigma.
        """

        u: Tensor
        v: Tensor

        def __init__(self, weight: Tensor, groups: int, beta: float):
            super().__init__()
            self.groups, self.beta = groups, beta
            left, _, right = torch.linalg.svd(matrices(weight, groups), full_matrices=False)
            self.register_buffer("u", left[:, :, 0].clone())
            self.register_buffer("v", right[:, 0].clone())

        def forward(self, weight: Tensor) -> Tensor:
            kernels = matrices(weight, self.groups)
            if self.training:
                with torch.no_grad():
                    self.v.copy_(F.normalize(torch.einsum("grc,gr->gc", kernels, self.u), dim=1))
                    self.u.copy_(F.normalize(torch.einsum("grc,gc->gr", kernels, self.v), dim=1))
            # copies: the next iteration writes into the buffers, while backward still needs these values
            sigma = torch.einsum("gr,grc,gc->g", self.u.clone(), kernels, self.v.clone())
            return (self.beta * kernels / divisor(sigma)).view_as(weight)

        def exact(self, weight: Tensor) -> Tensor:
            """The weight to keep, with norm beta in every group; a group of zeros stays as it is."""
            kernels = matrices(weight, self.groups).double()
            return (self.beta * kernels / divisor(norms(kernels))).to(weight.dtype).view_as(weight)

        def residual(self, weight: Tensor) -> float:
            """Largest relative distance of a group's norm from beta; groups of zeros do not count."""
            found = norms(matrices(weight, self.groups).double())
            return float(((found / self.beta - 1).abs() * (found > 0)).max())

    return Spectral


def matrices(weight: Tensor, groups: int) -> Tensor:
    """A kernel (out, in / groups, ...) as the matrices (groups, out / groups, rest) of its groups."""
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def norms(kernels: Tensor) -> Tensor:
    """Exact spectral norm of each matrix, (groups,)."""
    exact = kernels.double()  # squared, a norm has half as many digits
    small = exact @ exact.mT if exact.shape[1] <= exact.shape[2] else exact.mT @ exact
    return torch.linalg.eigvalsh(small)[:, -1].clamp(min=0).sqrt().to(kernels.dtype)


def divisor(sigma: Tensor) -> Tensor:
    """Norms as divisors of matrices (groups, rows, columns); 1 for a matrix of zeros, whose gradient would explode."""
    return torch.where(sigma.abs() > 1e-12, sigma, torch.ones_like(sigma))[:, None, None]


def detach(model: nn.Module) -> dict[str, float]:
    """Put plain weights with exact norms in place of the parametrised ones, under the names that they had.

    Returns:
        The largest relative distance of a norm from beta: as training left it, and in the weights that are kept.
    """
    trained, kept = [0.0], [0.0]
    for layer in list(model.modules()):
        for tensor, stack in list(getattr(layer, "parametrizations", {}).items()):
            if isinstance(rule := stack[0].eval(), spectral()):
                original = stack.original.detach()
                exact = rule.exact(original)
                trained.append(rule.residual(rule(original)))
                kept.append(rule.residual(exact))
                nn.utils.parametrize.remove_parametrizations(layer, tensor, leave_parametrized=False)
                layer.get_parameter(tensor).data.copy_(exact)
    return {"trained": max(trained), "kept": max(kept)}


def spectral_norms(model: nn.Module, modules: Sequence[str]) -> dict[str, float]:
    """Spectral norm of each convolution and linear layer in `modules`, by the name of its weight; of groups, the
    largest."""
    kernels = {
        name: matrices(getattr(layer, tensor).detach(), getattr(layer, "groups", 1))
        for name, layer, tensor in linear_maps(model)
        if inside(name, modules)
    }
    return {name: float(norms(found).max()) for name, found in kernels.items()}


def plain(name: str) -> str:
    """The name that a parameter had before `attach`."""
    return name.replace(".parametrizations.", ".").removesuffix(".original")


@rtk.hookimpl
def rtk_strategies():
    return [Fdm, Cartl]
