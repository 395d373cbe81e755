"""Strategies against plain re-implementations in float64, a few steps on a tiny network: weights agree to 1e-8.

Those of TRADES, TWINS, CARTL, LwF, last-k and AutoLoRa stand beside their other tests; here are the rest.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from rtk_plugins.at import AT, ATConfig
from rtk_plugins.full import Full, FullConfig
from rtk_plugins.linear_probe import LinearProbe, LinearProbeConfig
from rtk_plugins.rift import Rift, RiftConfig
from rtk_plugins.roli import Roli, RoliConfig
from torch import Tensor
from torch.nn import functional as F

from rtk.run import Run
from rtk.seeds import derive

from .small_run import snapshot
from .test_trades import naive_attack, naive_net, naive_sgd, noise_run, tiny

PLAIN = {"epochs": 1, "batch_size": 8, "lr": 0.1, "weight_decay": 0.01, "augment": "none", "select": "last"}
HEAD = ("fc.weight", "fc.bias")


class Naive:
    """The tiny network as a dictionary of numbers."""

    def __init__(self, state: dict[str, Tensor], moving: tuple[str, ...] | None = None):
        self.buffers = {name: value for name, value in state.items() if "running" in name}
        self.all = {name: value for name, value in state.items() if "running" not in name and "batches" not in name}
        self.weights = {name: self.all[name].requires_grad_() for name in moving or self.all}
        self.memory: dict[str, Tensor] = {}

    def logits(self, x: Tensor, train: bool = False) -> Tensor:
        return naive_net({**self.all, **self.weights}, x, train, self.buffers)

    def attacked(self, x: Tensor, y: Tensor, seed: int, steps: int) -> Tensor:
        return naive_attack(self.logits, x, y, "ce", seed, steps) if steps else x

    def step(self, x: Tensor, y: Tensor, train: bool) -> None:
        naive_sgd(self.weights, F.cross_entropy(self.logits(x, train), y), self.memory)

    def compare(self, tuned: torch.nn.Module) -> None:
        found = snapshot(tuned)
        for name, expected in {**self.all, **self.weights, **self.buffers}.items():
            assert (expected - found[name]).abs().max() < 1e-8, name


def steps(run: Run, phase: str):
    for position, batch in enumerate(run.loader(batch_size=8, shuffle=True, name=phase).epoch(0)):
        yield batch.images, batch.labels, run.derive(phase, 0, position)


@pytest.mark.parametrize(
    "strategy, config, attack_steps", [(Full, FullConfig, 0), (AT, ATConfig, 3)], ids=["full", "at"]
)
def test_training_of_everything(tmp_path: Path, strategy, config, attack_steps: int) -> None:
    backbone = tiny()
    run = noise_run(backbone, tmp_path)
    options = PLAIN | ({"attack_steps": attack_steps} if attack_steps else {})
    tuned = strategy(config(**options)).finetune(copy.deepcopy(backbone.model), run)
    naive = Naive(snapshot(backbone.model))
    for x, y, seed in steps(run, "fine-tune"):
        naive.step(naive.attacked(x, y, seed, attack_steps), y, train=True)
    naive.compare(tuned)


@pytest.mark.parametrize("adversarial", [False, True], ids=["clean", "adversarial"])
def test_linear_probe(tmp_path: Path, adversarial: bool) -> None:
    backbone = tiny()
    run = noise_run(backbone, tmp_path)
    config = LinearProbeConfig(**PLAIN, adversarial=adversarial, attack_steps=2)
    tuned = LinearProbe(config).finetune(copy.deepcopy(backbone.model), run)
    naive = Naive(snapshot(backbone.model), HEAD)
    for x, y, seed in steps(run, "fine-tune"):
        naive.step(naive.attacked(x, y, seed, 2 if adversarial else 0), y, train=False)
    naive.compare(tuned)


def test_roli(tmp_path: Path) -> None:
    """One step in each stage, at the full rate: there is no warm-up."""
    backbone = tiny()
    run = noise_run(backbone, tmp_path, count=8)
    config = RoliConfig(
        **{name: value for name, value in PLAIN.items() if name != "select"},
        optimizer="sgd",
        head_epochs=1,
        head_lr=0.1,
        head_weight_decay=0.01,
        warmup=0,
        attack_steps=2,
        select_steps=1,
    )
    tuned = Roli(config).finetune(copy.deepcopy(backbone.model), run)
    state = snapshot(backbone.model)
    for phase, moving in (("linear probe", HEAD), ("fine-tune", None)):
        naive = Naive({name: value.detach() for name, value in state.items()}, moving)
        for x, y, seed in steps(run, phase):
            naive.step(naive.attacked(x, y, seed, 2), y, train=moving is None)
        state = {**naive.all, **naive.weights, **naive.buffers}
    naive.compare(tuned)


def test_rift(tmp_path: Path) -> None:
    """Criticality of every module by two ascent steps, fine-tuning of the least, and the choice of alpha."""
    backbone = tiny()
    backbone.new_head = False
    run = noise_run(backbone, tmp_path)
    run.new_head = False
    config = RiftConfig(
        **{**PLAIN, "select": "last"}, ascent_steps=2, attack_steps=2, alphas=4, criticality_images=22, tolerance=100
    )
    tuned = Rift(config).finetune(copy.deepcopy(backbone.model), run)

    state = snapshot(backbone.model)
    source = Naive({name: value.clone() for name, value in state.items()})
    order = torch.randperm(22, generator=torch.Generator().manual_seed(run.derive("criticality images")))
    x, y = run.train.images(order), run.train.labels[order]
    x = source.attacked(x, y, run.derive("criticality attack", 0), 2)

    def loss(name: str, delta: Tensor) -> Tensor:
        return F.cross_entropy(naive_net({**source.all, name: state[name] + delta}, x, False, source.buffers), y)

    scores = {}
    for name in ("conv1.weight", "conv2.weight", "fc.weight"):
        delta, radius = torch.zeros_like(state[name]), 0.1 * state[name].norm()
        base, best = float(loss(name, delta).detach()), 0.0
        for _ in range(2):
            delta.requires_grad_()
            (gradient,) = torch.autograd.grad(loss(name, delta), delta)
            delta = delta.detach() + radius / 2 * gradient / gradient.norm()
            delta = delta * min(1.0, float(radius / delta.norm()))
            best = max(best, float(loss(name, delta).detach()) - base)
        scores[name] = best
    report = json_of(tmp_path)
    assert report["criticality"] == pytest.approx(scores, abs=1e-8)
    least = min(scores, key=lambda name: scores[name])
    assert report["chosen"] == [least]

    moved = Naive({name: value.clone() for name, value in state.items()}, (least, least.replace("weight", "bias")))
    for images, labels, _ in steps(run, "fine-tune"):
        moved.step(images, labels, train=False)
    again = noise_run(backbone, tmp_path / "step 2")
    moved.compare(Rift(config).fine_tune(copy.deepcopy(backbone.model), [least], again))
    curve = {}
    for alpha in (0, 0.25, 0.5, 0.75, 1):
        mixed = Naive({name: value.clone() for name, value in state.items()})
        for name, value in moved.weights.items():
            mixed.all[name] = mixed.weights[name] = ((1 - alpha) * state[name] + alpha * value).detach()
        images, labels = run.val.images(torch.arange(22)), run.val.labels
        right = mixed.logits(images).argmax(1) == labels
        attacked = mixed.attacked(images[right], labels[right], run_seed(run), 2)
        robust = (mixed.logits(attacked).argmax(1) == labels[right]).sum() / len(labels)
        curve[alpha] = (float(right.float().mean()), float(robust), -alpha)
    best_alpha = max(curve, key=lambda alpha: curve[alpha])
    assert report["alpha"] == best_alpha
    found = snapshot(tuned)
    for name, value in moved.weights.items():
        expected = (1 - best_alpha) * state[name] + best_alpha * value
        assert (expected - found[name]).abs().max() < 1e-8


def run_seed(run: Run) -> int:
    """Of the only batch of `run.robust_accuracy`."""
    return derive(run.derive("robust accuracy"), 0)


def json_of(directory: Path) -> dict:
    return json.loads((directory / "report.json").read_text())
