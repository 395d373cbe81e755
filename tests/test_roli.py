"""RoLI: an adversarial linear probe, and adversarial fine-tuning from its classifier."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rtk_plugins.roli import RATES, Roli, RoliConfig
from torch import nn
from torch.nn import functional as F

from rtk.backbones import Classifier, inspect, open_backbone
from rtk.data.split import ArrayPixels, Split
from rtk.observers import Observers

from .small_run import changed, small_run, snapshot

QUICK = {"head_epochs": 1, "epochs": 1, "batch_size": 32, "attack_steps": 1, "select_steps": 1, "augment": "none"}
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.fixture(scope="module")
def target():
    """The embedded network with a new classifier, for hand signs."""
    return open_backbone("rtk:fashion-resnet", classes=10, new_head=True)


def tune(backbone, directory: Path, data: dict | None = None, **config: object) -> nn.Module:
    run = small_run(backbone, directory, **(data or {"dataset": "signs"}))
    return Roli(RoliConfig(**{**QUICK, **config})).finetune(copy.deepcopy(backbone.model), run)


def test_stage_1_moves_the_classifier_alone_bit_for_bit(target, tmp_path: Path) -> None:
    """Statistics included, although weight decay is large."""
    tuned = tune(target, tmp_path, epochs=0, head_weight_decay=0.1, head_lr=1.0)
    assert changed(snapshot(target.model), snapshot(tuned)) == {"fc.weight", "fc.bias"}


def test_stage_1_runs_without_dropout(tmp_path: Path) -> None:
    """With dropout or without, the probe is the same."""
    found = []
    for probability in (0.0, 0.9):
        torch.manual_seed(0)
        net = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Dropout(probability), nn.Linear(48, 10))
        model = Classifier(net).eval()
        backbone = SimpleNamespace(model=model, structure=inspect(model, torch.rand(1, 3, 32, 32)), new_head=True)
        found.append(snapshot(tune(backbone, tmp_path / str(probability), {"train": 40, "val": 10}, epochs=0)))
    assert changed(*found) == set()


def test_stage_2_moves_every_parameter_and_the_statistics(target, tmp_path: Path) -> None:
    tuned = tune(target, tmp_path, lr=1e-3)
    moved = changed(snapshot(target.model), snapshot(tuned))
    assert moved >= {name for name, _ in target.model.net.named_parameters()}
    assert any(name.endswith(STATISTICS) for name in moved)


def test_stage_2_starts_from_the_classifier_of_stage_1(target, tmp_path: Path) -> None:
    probed = tune(target, tmp_path / "probe", epochs=0, head_epochs=2)
    whole = tune(target, tmp_path / "whole", epochs=1, head_epochs=2, lr=1e-12, weight_decay=0.0)
    for name in ("fc.weight", "fc.bias"):
        assert (snapshot(probed)[name] - snapshot(whole)[name]).abs().max() < 1e-9
        assert (snapshot(target.model)[name] - snapshot(whole)[name]).abs().max() > 1e-4


def test_without_stage_1_the_classifier_is_the_random_one(target, tmp_path: Path) -> None:
    tuned = tune(target, tmp_path, head_epochs=0, epochs=0)
    assert changed(snapshot(target.model), snapshot(tuned)) == set()


def test_both_stages_keep_the_epoch_of_best_robust_accuracy(target, tmp_path: Path) -> None:
    """The best, the first of equals, measured as the log says; stage 2 begins where stage 1 is kept."""
    run = small_run(target, tmp_path, dataset="signs")
    scores: dict[str, list[float]] = {}
    tuned = Roli(RoliConfig(**{**QUICK, "head_epochs": 3, "epochs": 2, "lr": 1e-3})).finetune(
        copy.deepcopy(target.model), run
    )
    for line in (tmp_path / "log.jsonl").read_text().splitlines():
        entry = json.loads(line)
        scores.setdefault(entry["phase"], []).append(entry["score"])
    assert {phase: len(found) for phase, found in scores.items()} == {"linear probe": 3, "fine-tune": 2}
    assert run.robust_accuracy(tuned, attack=run.attack(steps=1)).value == max(scores["fine-tune"])


def pgd(model: nn.Module, x: torch.Tensor, y: torch.Tensor, seed: int, steps: int) -> torch.Tensor:
    """PGD in the ball of 0.1 from a uniform start, in steps of a quarter."""
    torch.manual_seed(seed)
    adversarial = (x + torch.empty_like(x).uniform_(-0.1, 0.1)).clamp(0, 1)
    for _ in range(steps):
        adversarial.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model.eval()(adversarial), y), adversarial)
        adversarial = adversarial.detach() + 0.025 * gradient.sign()
        adversarial = (x + (adversarial - x).clamp(-0.1, 0.1)).clamp(0, 1)
    return adversarial


def naive_adamw(parameters: list, gradients: list, memory: dict, lr: float, decay: float) -> None:
    """Adam with bias correction and decoupled weight decay, as its paper writes it."""
    memory["t"] = memory.get("t", 0) + 1
    for number, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        m, v = memory.get(number, (torch.zeros_like(gradient), torch.zeros_like(gradient)))
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        memory[number] = m, v
        parameter.data *= 1 - lr * decay
        corrected = (v / (1 - 0.999 ** memory["t"])).sqrt() + 1e-8
        parameter.data -= lr * (m / (1 - 0.9 ** memory["t"])) / corrected


def naive_sgd(parameters: list, gradients: list, memory: dict, lr: float, decay: float) -> None:
    """Heavy ball of 0.9 on the gradient with weight decay."""
    for number, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        memory[number] = 0.9 * memory.get(number, 0) + gradient + decay * parameter.data
        parameter.data -= lr * memory[number]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_both_stages_equal_a_naive_loop(target, tmp_path: Path, optimizer: str) -> None:
    """Three steps in each stage, the last mini-batch odd, warm-up of half an epoch.

    In float32, as images and attacks are; the tolerance is rounding that passes through three steps. AdamW divides by
    the root of tiny second moments, which amplifies rounding to a share of the rate itself.
    """
    lr = 1e-2 if optimizer == "sgd" else 1e-4
    config = {"optimizer": optimizer, "lr": lr, "weight_decay": 0.01, "attack_steps": 2, "batch_size": 16}
    data = {"dataset": "signs", "train": 41, "val": 10}
    tuned = tune(target, tmp_path, data, **config)
    run, naive = small_run(target, tmp_path / "naive", **data), copy.deepcopy(target.model)  # type: ignore[arg-type]
    for stage, rate, decay in (("linear probe", 0.025, 0.001), ("fine-tune", lr, 0.01)):
        probe = stage == "linear probe"
        parameters = list((naive.net.fc if probe else naive).parameters())
        update = naive_sgd if probe or optimizer == "sgd" else naive_adamw
        memory: dict = {}
        for number, batch in enumerate(run.loader(batch_size=16, shuffle=True, name=stage).epoch(0)):
            adversarial = pgd(naive, batch.images, batch.labels, run.derive(stage, 0, number), 2)
            naive.train(not probe)
            gradients = torch.autograd.grad(F.cross_entropy(naive(adversarial), batch.labels), parameters)
            time, warmup = number / 3, 0.5
            rise = time / warmup if time < warmup else 0.5 * (1 + math.cos(math.pi * (time - warmup) / (1 - warmup)))
            update(parameters, list(gradients), memory, rate * rise, decay)
    tolerance = 1e-6 if optimizer == "sgd" else 0.1 * lr
    for (name, expected), found in zip(naive.named_parameters(), tuned.parameters(), strict=True):
        assert (expected - found).abs().max() < tolerance, name
        assert (expected - found).abs().mean() < 0.02 * lr, name


def test_the_defaults_are_the_rates_that_the_published_code_reaches() -> None:
    """It multiplies its configured rates by 64/256, and AdamW's weight decay is fixed."""
    assert RoliConfig().head_lr == pytest.approx(0.1 * 64 / 256)
    assert RATES["adamw"] == (pytest.approx(1e-4 * 64 / 256), 0.01)
    assert RoliConfig().optimizer == "adamw" and RoliConfig().attack_steps == 7 and RoliConfig().select_steps == 10


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(target, tmp_path: Path) -> None:
    data = {"dataset": "signs", "train": 33, "val": 10}
    one, two = (snapshot(tune(target, tmp_path / name, data, lr=1e-3)) for name in ("one", "two"))
    other = snapshot(tune(target, tmp_path / "other", {**data, "seed": 1}, lr=1e-3))
    assert changed(one, two) == set() and changed(one, other)


def test_a_run_that_was_killed_in_stage_2_ends_with_the_same_bits(target, tmp_path: Path, monkeypatch) -> None:
    data, config = {"dataset": "signs", "train": 33, "val": 10}, {"epochs": 2, "lr": 1e-3}
    expected = snapshot(tune(target, tmp_path / "whole", data, **config))
    log, count = Observers.event, []

    def dies(self: Observers, event: str, values: dict) -> None:
        count.append(event)
        if len(count) == 3:  # the end of the second epoch of stage 2, before its checkpoint
            raise KeyboardInterrupt
        log(self, event, values)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Observers, "event", dies)
        tune(target, tmp_path / "broken", data, **config)
    torch.manual_seed(99)
    assert changed(expected, snapshot(tune(target, tmp_path / "broken", data, **config))) == set()


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_images_that_are_not_square_and_one_left_over(tmp_path: Path, classes: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = Classifier(nn.Sequential(*net, nn.Linear(6, classes))).eval()
    split = Split(ArrayPixels(torch.rand(9, 3, 10, 7)), torch.arange(9) % classes)
    backbone = SimpleNamespace(model=model, structure=inspect(model, torch.rand(1, 3, 10, 7)), new_head=True)
    run = small_run(backbone, tmp_path, classes=classes)  # type: ignore[arg-type]
    run.train = run.val = split
    before = snapshot(model)
    tuned = Roli(RoliConfig(**{**QUICK, "batch_size": 4, "head_epochs": 2})).finetune(copy.deepcopy(model), run)
    assert tuned(torch.rand(2, 3, 10, 7)).shape == (2, classes)
    assert set(snapshot(tuned)) == set(before) and changed(before, snapshot(tuned))


def test_a_transformer_is_probed_and_then_trained(tmp_path: Path) -> None:
    """LayerNorm has no statistics; the first stage leaves its affine values alone, the second moves them."""
    backbone = open_backbone("timm:test_vit", weights="random", classes=10, new_head=True)
    data = {"dataset": "signs", "train": 5, "val": 5}
    probed = tune(backbone, tmp_path / "probe", data, batch_size=4, epochs=0)
    assert changed(snapshot(backbone.model), snapshot(probed)) == {"head.weight", "head.bias"}
    tuned = tune(backbone, tmp_path / "tune", data, batch_size=4, lr=1e-3)
    assert "norm.weight" in changed(snapshot(probed), snapshot(tuned))


def test_the_paper_and_the_departures_are_stated() -> None:
    assert Roli.paper is not None and Roli.paper.venue == "CVPR 2024" and len(Roli.departures) >= 6
