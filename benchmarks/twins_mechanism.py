"""What TWINS does to weights and gradients, beside adversarial training: figures by epoch, and a picture of them.

    python benchmarks/twins_mechanism.py --out benchmarks/evidence/twins-mechanism

The paper explains TWINS by the gradient, which it keeps large beside the weights, and by less robust overfitting. After
every epoch, of the network that is kept (with TWINS the adaptive one), on the same images each time:

    weights     Euclidean norm of all convolutional and linear weights
    gradient    of the strategy's own training loss by them, at one mini-batch of 512 training images in training mode
    train, val  PGD-10 accuracy on as many training images as there are validation images, and on these
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rtk import files
from rtk.accuracy import estimate
from rtk.data import Loader
from rtk.host import Host
from rtk.memory import Memory
from rtk.progress import Silent
from rtk.request import build
from rtk.run import Run
from rtk.steps import Loss, Step

IMAGES = 512
STRATEGIES = ("at", "twins")


class Watched(Run):
    """A run that looks at the network after every epoch, and keeps that of the best PGD-10 accuracy, as by default."""

    def fit(self, model: nn.Module, loss: Loss, **options: Any) -> nn.Module:
        judged: Callable[[nn.Module], nn.Module] = options.get("judged") or (lambda each: each)
        generator = torch.Generator().manual_seed(self.derive("watched images"))
        some = torch.randperm(len(self.train), generator=generator)[: max(IMAGES, len(self.val))]
        attack = self.attack(steps=10, exact=True)

        def watch(network: nn.Module) -> float:
            robust = {
                name: estimate(network, loader, Memory(256), attack, self.derive("robust accuracy")).value
                for name, loader in (
                    ("train", Loader(self.train.subset(some[: len(self.val)]), 256, shuffle=False)),
                    ("val", self.loader("val", batch_size=256)),
                )
            }
            step = self._step(some[:IMAGES])
            self.log("watched", **robust, **norms(copy.deepcopy(model), loss, step, judged))
            return robust["val"]

        return super().fit(model, loss, **{**options, "select": watch, "selected_by": "PGD-10 accuracy"})

    def _step(self, indices: torch.Tensor) -> Step:
        labels = self.train.labels[indices]
        return Step(self.train.images(indices), labels, indices, 0, 0, self.derive("watched step"))


def norms(model: nn.Module, loss: Loss, step: Step, judged: Callable[[nn.Module], nn.Module]) -> dict[str, float]:
    """Of weights and of their gradient."""
    model.train().requires_grad_(True)
    weights = [weight for weight in judged(model).parameters() if weight.ndim > 1]
    gradients = torch.autograd.grad(loss(model, step), weights)
    found = {"weights": weights, "gradient": gradients}
    return {name: math.hypot(*(float(each.detach().norm()) for each in tensors)) for name, tensors in found.items()}


class WatchingHost(Host):
    """Gives strategies a `Watched` run."""

    def _open_run(self, source: Any) -> Run:
        run = super()._open_run(source)
        return Watched(**{each.name: getattr(run, each.name) for each in dataclasses.fields(run)})


def watched(strategy: str, out: Path, options: dict[str, Any]) -> list[dict[str, float]]:
    """Train, unless that was done, and read what was seen of every epoch."""
    if not (out / "result.json").exists():
        WatchingHost(build(strategy, {**options, "out": out}), Silent()).finetune(False, [])
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == "watched"]


def draw(found: dict[str, list[dict[str, float]]], title: str, path: Path) -> None:
    """Weights, gradient, their ratio, and robust accuracy."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(11, 7), layout="constrained")
    picture.suptitle(title)
    panels: dict[str, Callable[[dict[str, float]], float]] = {
        "norm of the weights": lambda line: line["weights"],
        "norm of the gradient of the training loss": lambda line: line["gradient"],
        "gradient / weights": lambda line: line["gradient"] / line["weights"],
        "PGD-10 accuracy, %: training images (dashed), validation": lambda line: 100 * line["val"],
    }
    for axes, (label, value) in zip(picture.subplots(2, 2).flat, panels.items(), strict=True):
        for colour, (name, lines) in zip(("#0072b2", "#d55e00"), found.items(), strict=True):
            epochs = range(1, len(lines) + 1)
            axes.plot(epochs, [value(line) for line in lines], color=colour, marker=".", label=name)
            if "accuracy" in label:
                axes.plot(epochs, [100 * line["train"] for line in lines], color=colour, linestyle="--")
        axes.set(xlabel="epoch", title=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    picture.savefig(path, dpi=120)


def main() -> None:
    """Train both, and write what was seen as JSON and as a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="rtk:cifar10-at")
    parser.add_argument("--dataset", default="gtsrb")
    parser.add_argument("--train-fraction", type=float, default=0.3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--attack-steps", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the runs are, or will be")
    parser.add_argument("--out", type=Path, required=True, help="without an ending")
    asked = parser.parse_args()
    options = {
        "backbone": asked.backbone,
        "dataset": asked.dataset,
        "eps": "8/255",
        "train_fraction": asked.train_fraction,
        "epochs": asked.epochs,
        "lr": asked.lr,
        "milestones": [round(asked.epochs / 2), round(asked.epochs * 5 / 6)],
        "attack_steps": asked.attack_steps,
        "suite": "clean,pgd20",
        "images": 2000,
    }
    found = {name: watched(name, asked.runs / f"mechanism-{name}", options) for name in STRATEGIES}
    share = f"{100 * asked.train_fraction:g} % of {asked.dataset}"
    title = f"{asked.backbone} to {share}, {asked.epochs} epochs at rate {asked.lr:g}, PGD-{asked.attack_steps}"
    files.write_json(asked.out.with_suffix(".json"), {"options": options, **found})
    draw(found, title, asked.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
