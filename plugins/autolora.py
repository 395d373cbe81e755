"""AutoLoRa: automated robust fine-tuning through a low-rank branch (Xu, Zhang, Kankanhalli, ICLR 2024).

Idea: natural and adversarial objectives pull a feature extractor into different directions. Natural images go through
a low-rank branch beside the frozen extractor, adversarial ones through the extractor alone; the natural predictions
are soft labels for the adversarial ones. Learning rate and loss weights follow accuracies measured during training.

    weights   f(x~; W) for adversarial images, f(x; W + BA/r) for natural ones, with the same classifier and norm layers
    loss      lambda1 CE(f(x; W + BA/r), y) + (1 - lambda1) CE(f(x~; W), y) + lambda2 KL(f(x; W + BA/r) || f(x~; W))
    scalars   lambda1 = 1 - SA, lambda2 = 6 SA, with SA the accuracy of the branch on the training split
    rate      halved, and the best weights restored, at checkpoints where the robust validation accuracy stagnates
    result    W; the branch is left behind

Classifier and norm layers are shared. The classifier is trained by both passes, the affine values of the norm layers by
the adversarial one alone, and BatchNorm's statistics are moved by both, natural first, as in the published code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import rtk
from rtk.lazy import F, nn, torch

if TYPE_CHECKING:
    from torch import Tensor


class AutoLoraConfig(
    rtk.TrainingConfig,
    defaults={
        "epochs": (60, "published code"),
        "lr": (0.01, "published code; it is then halved"),
        "weight_decay": (1e-4, "published code"),
    },
):
    rank: int = rtk.option(
        8, "Rank r of the branch; r times the kernel width in convolutions.", origin="published code", ge=1
    )
    check_every: int = rtk.option(
        4, "Epochs between two checkpoints of the learning rate.", origin="published code", ge=1
    )
    rises: float = rtk.option(
        0.75, "Share of epochs that must raise robust accuracy to keep the rate.", origin="published code", ge=0, le=1
    )
    kl_weight: float = rtk.option(6.0, "Largest weight of the soft labels.", origin="published code", ge=0)
    attack_steps: int = rtk.option(10, "PGD steps of the training attack.", origin="published code", ge=0)
    step_size: float | None = rtk.option(
        None, "PGD step in pixels of [0, 1]; by default eps/4.", origin="published code: 0.00784 at 0.0314", gt=0
    )
    select_steps: int = rtk.option(10, "PGD steps of the robust validation accuracy.", origin="published code", ge=0)


class AutoLora(rtk.Strategy):
    name = "autolora"
    summary = (
        "Natural images through a low-rank branch, adversarial ones through the network; rate and weights automatic."
    )
    setting = "target"
    paper = rtk.Paper(
        title="AutoLoRa: An Automated Robust Fine-Tuning Framework",
        authors="Xu, Zhang, Kankanhalli",
        venue="ICLR 2024",
        url="https://openreview.net/forum?id=09xFexjhqE",
    )
    departures = (
        "The epoch is selected on the validation split; the published code also reports the best epoch of the test"
        " split, and takes that for validation where it cuts no split of its own.",
        "The rate stays when it was halved at the checkpoint before, however little was gained since, as in AutoPGD"
        " where the rule comes from; the published code compares a list entry with its own copy, so that this half of"
        " its second condition is always true, except at the first checkpoint where it is never.",
        "All epochs are trained; the published code stops once the rate is below 1e-5.",
        "Accuracy on the training split is measured on plain images; in the published code on augmented ones.",
        "The radius is the run's and the step eps/4; the published code has 0.0314 and 0.00784.",
        "Augmentation is the data set's own; the published code pads CIFAR with zeros before it crops.",
        "Validation attacks start at random, with the same noise every time; in the published code at the image.",
        "Shortcut convolutions have a branch that is used; in the published code for ImageNet networks it exists and is"
        " skipped, in that for CIFAR networks it is used.",
        "The divergence is averaged over the images of a mini-batch; the published code for ImageNet networks divides"
        " its sum by 128 also in the smaller last one.",
        "Linear layers and attention projections have a branch as well; the published networks are ResNets.",
        "Depthwise convolutions have no branch: a low-rank form of them is larger than themselves.",
    )
    config: AutoLoraConfig

    def finetune(self, model, run):
        config = self.config
        places, left_out = find_places(model, run.structure, config.rank)
        if not places:
            raise rtk.Refusal(
                "AutoLoRa needs convolutions or linear layers before the classifier; this backbone has none.",
                "--strategy at, or another strategy",
            )
        run.report(branches=list(places), without_branch=left_out)
        branch = low_rank_branch(model, run.structure.head, places, run.derive("low-rank branch"))
        start = run.once("natural accuracy", lambda: run.accuracy(branch, "train").value)
        automatic = Automatic(branch, config, start)
        attack = run.attack(steps=config.attack_steps, step_size=config.step_size)
        judge = run.attack(steps=config.select_steps, exact=True)

        def loss(_: nn.Module, step: rtk.Step) -> Tensor:
            adversarial = attack(model, step.images, step.labels, seed=step.seed)
            natural = branch(step.images)  # moves BatchNorm's statistics first, as in the published code
            return objective(natural, model(adversarial), step.labels, *automatic.weights(step.epoch))

        def select(_: nn.Module) -> float:
            robust = run.robust_accuracy(model, attack=judge).value
            automatic.finish_epoch(robust, run.accuracy(branch, "train").value)
            run.report(schedule=automatic.report())
            return robust

        run.fit(
            automatic.module,
            loss,
            schedule=automatic.factor,
            select=select,
            selected_by=f"PGD-{config.select_steps} accuracy",
            **config.recipe(),
        )
        return model


# the branch


class Place(NamedTuple):
    """A weight with a low-rank branch: BA/r has the weight's number of elements, and is reshaped to it."""

    rows: int
    inner: int
    columns: int
    rank: int


def find_places(model: nn.Module, structure, rank: int) -> tuple[dict[str, Place], list[str]]:
    """The weights that get a branch, by the names of `model.net`, and the convolutions that do not.

    Stem and classifier have none, as in the published code. A convolution of `out` filters (in/groups, h, w) is taken
    as a matrix (out/groups h, in w), so that the rank is r times the kernel's width.
    """
    without = set(structure.parameters_in([*structure.stem, *structure.unused, structure.head]))
    found, left_out = {}, []
    for owner_name, owner in model.net.named_modules():  # type: ignore[union-attr]
        if not isinstance(owner, (nn.Conv2d, nn.Linear, nn.MultiheadAttention)):
            continue
        for own_name, weight in owner.named_parameters(recurse=False):
            name = f"{owner_name}.{own_name}".lstrip(".")
            if not own_name.endswith("weight") or name in without:
                continue
            if not isinstance(owner, nn.Conv2d):
                found[name] = Place(weight.shape[0], rank, weight.shape[1], rank)
            elif owner.groups > 1 and weight.shape[1] == 1:
                left_out.append(name)
            else:
                height, width = weight.shape[2:]
                rows, columns = weight.shape[0] // owner.groups * height, owner.in_channels * width
                found[name] = Place(rows, rank * min(height, width), columns, rank)
    return found, left_out


def low_rank_branch(model: nn.Module, head: str, places: dict[str, Place], seed: int):
    """A module that maps images to the natural logits f(x; W + BA/r) of `model`, which it holds as `net`.

    Gradients reach A, B and the classifier alone. A is random and B zero, so that both passes agree at the start.
    """
    generator = torch.Generator().manual_seed(seed)

    class LowRankBranch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model
            self.a, self.b = nn.ParameterDict(), nn.ParameterDict()
            for name, place in places.items():
                weight = model.get_parameter(f"net.{name}")
                self.a[key(name)] = nn.Parameter(initial(place, weight.ndim, generator).to(weight))
                self.b[key(name)] = nn.Parameter(weight.new_zeros(place.rows, place.inner))

        def forward(self, images: Tensor) -> Tensor:
            return torch.func.functional_call(self.net, self.weights(), (images,))

        def weights(self) -> dict[str, Tensor]:
            """Every parameter of `net` as natural images see it."""
            trained = f"net.{head}."
            seen: dict[str, Tensor] = {
                name: weight if name.startswith(trained) else weight.detach()
                for name, weight in self.net.named_parameters()
            }
            for name, place in places.items():
                weight = seen[f"net.{name}"]
                product = self.b[key(name)] @ self.a[key(name)]
                seen[f"net.{name}"] = weight + product.view(weight.shape) / place.rank
            return seen

    return LowRankBranch()


def initial(place: Place, ndim: int, generator: torch.Generator) -> Tensor:
    """A at the start: standard normal for convolutions, Kaiming uniform for matrices, as in the published code."""
    values = torch.empty(place.inner, place.columns)
    if ndim > 2:
        return values.normal_(generator=generator)
    bound = math.sqrt(6 / place.columns)
    return values.uniform_(-bound, bound, generator=generator)


def key(name: str) -> str:
    """`name` as PyTorch allows it for a member of a module."""
    return name.replace(".", "/")


# the objective and its automation


def objective(natural: Tensor, adversarial: Tensor, labels: Tensor, lambda1: float, lambda2: float) -> Tensor:
    """The loss of one mini-batch, from logits (B, classes); gradients flow through the soft labels as well."""
    known, hard = F.log_softmax(natural, 1), F.log_softmax(adversarial, 1)
    soft = F.kl_div(hard, known, reduction="batchmean", log_target=True)
    return lambda1 * F.nll_loss(known, labels) + (1 - lambda1) * F.nll_loss(hard, labels) + lambda2 * soft


def reductions(robust: Sequence[float], every: int, share: float) -> list[int]:
    """The epochs (from 0) after which the rate is halved, given the robust accuracy after each epoch.

    At every checkpoint e = every, 2 every, ... it is halved if accuracy rose in less than `share` of the epochs since
    the checkpoint before; or if that one left the rate alone, and the best accuracy is still the same.
    """
    found: list[int] = []
    for now in range(every, len(robust), every):
        before = now - every
        rose = sum(robust[epoch + 1] > robust[epoch] for epoch in range(before, now))
        stagnant = before not in found and max(robust[: now + 1]) == max(robust[: before + 1])
        if rose < share * every or stagnant:
            found.append(now)
    return found


class Automatic:
    """Loss weights and learning rate from what was measured so far.

    Everything that was measured, and the best weights so far, are buffers of `module`, so that they are stored with
    every checkpoint and a resumed run goes on with the same bits.
    """

    def __init__(self, branch: nn.Module, config: AutoLoraConfig, start: float):
        self.branch, self.config = branch, config
        self.measured, self.best = nn.Module(), nn.Module()
        unknown = torch.full((config.epochs,), math.nan, dtype=torch.float64)
        self.measured.register_buffer("robust", unknown)
        self.measured.register_buffer("natural", torch.cat([unknown.new_tensor([start]), unknown]))
        for name, value in branch.state_dict().items():
            self.best.register_buffer(key(name), value.clone())
        self.module = nn.ModuleDict({"branch": branch, "measured": self.measured, "best": self.best})

    def robust(self) -> list[float]:
        """Robust validation accuracy after each finished epoch."""
        values = self.measured.get_buffer("robust")
        return values[~values.isnan()].tolist()

    def weights(self, epoch: int) -> tuple[float, float]:
        """(lambda1, lambda2) during `epoch`, from the natural accuracy at its start."""
        accuracy = float(self.measured.get_buffer("natural")[epoch])
        return 1 - accuracy, self.config.kl_weight * accuracy

    def factor(self, time: float) -> float:
        """Factor on the initial rate at `time` in epochs."""
        return 0.5 ** len(reductions(self.robust()[: int(time)], self.config.check_every, self.config.rises))

    def finish_epoch(self, robust: float, natural: float) -> None:
        """Take up the accuracies after an epoch; keep its weights if they are the best, or return to the best ones."""
        known = self.robust()
        epoch = len(known)
        self.measured.get_buffer("robust")[epoch] = robust
        self.measured.get_buffer("natural")[epoch + 1] = natural
        state = self.branch.state_dict()
        if robust > max(known, default=-1.0):
            for name, value in state.items():
                self.best.get_buffer(key(name)).copy_(value.detach())
        if epoch in reductions([*known, robust], self.config.check_every, self.config.rises):
            self.branch.load_state_dict({name: self.best.get_buffer(key(name)) for name in state})

    def report(self) -> list[dict[str, float]]:
        """What was used and measured, epoch by epoch."""
        rows = []
        for epoch, robust in enumerate(self.robust()):
            lambda1, lambda2 = self.weights(epoch)
            lr = self.config.lr * self.factor(epoch)
            rows.append({"epoch": epoch + 1, "lr": lr, "lambda1": lambda1, "lambda2": lambda2, "robust": robust})
        return rows


@rtk.hookimpl
def rtk_strategies():
    return AutoLora
