"""linear-probe, full and at; the ids are those of the properties B1 to B11."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from rtk_plugins.at import AT, ATConfig
from rtk_plugins.full import Full, FullConfig
from rtk_plugins.linear_probe import LinearProbe, LinearProbeConfig
from torch import nn
from torch.nn import functional as F

from rtk.backbones import open_backbone

from .small_run import changed, small_run, snapshot

SHORT = {"epochs": 2, "batch_size": 32, "augment": "none"}


@pytest.fixture(scope="module")
def target():
    """The embedded network with a new classifier, for hand signs."""
    return open_backbone("rtk:fashion-resnet", classes=10, new_head=True)


@pytest.mark.parametrize("adversarial", [False, True])
def test_B1_a_linear_probe_moves_the_classifier_and_nothing_else(target, tmp_path: Path, adversarial: bool) -> None:
    run = small_run(target, tmp_path, dataset="signs")
    before = snapshot(target.model)
    config = LinearProbeConfig(**SHORT, adversarial=adversarial, attack_steps=2)
    tuned = LinearProbe(config).finetune(copy.deepcopy(target.model), run)
    assert changed(before, snapshot(tuned)) == {"fc.weight", "fc.bias"}


def test_B1_a_linear_probe_equals_training_on_cached_features(target, tmp_path: Path) -> None:
    run = small_run(target, tmp_path, dataset="signs")
    config = LinearProbeConfig(**SHORT, milestones=())
    tuned = LinearProbe(config).finetune(copy.deepcopy(target.model), run)
    head = copy.deepcopy(target.model.net.fc)
    optimizer = torch.optim.SGD(head.parameters(), lr=config.lr, momentum=0.9, weight_decay=config.weight_decay)
    loader = run.loader(batch_size=32, shuffle=True, name="fine-tune")
    best, kept = -1.0, {}
    for epoch in range(2):
        for batch in loader.epoch(epoch):
            with torch.no_grad():
                _, features = target.structure.features(target.model, batch.images)
            optimizer.zero_grad()
            F.cross_entropy(head(features), batch.labels).backward()
            optimizer.step()
        probe = copy.deepcopy(target.model)
        probe.net.fc = head
        if (value := run.accuracy(probe).value) > best:
            best, kept = value, copy.deepcopy(head.state_dict())
    for name, value in kept.items():
        assert (value - tuned.net.fc.state_dict()[name]).abs().max() <= 1e-6


def test_B2_the_number_of_trained_parameters(target) -> None:
    structure = target.structure
    names = structure.parameters_in([structure.head])
    count = sum(value.numel() for name, value in target.model.net.named_parameters() if name in names)
    assert count == structure.feature_dim * 10 + 10


def test_a_linear_probe_can_adapt_statistics(target, tmp_path: Path) -> None:
    """Salman et al.: parameters stay, BatchNorm statistics move."""
    before = snapshot(target.model)
    config = LinearProbeConfig(**SHORT, adapt_statistics=True)
    tuned = LinearProbe(config).finetune(copy.deepcopy(target.model), small_run(target, tmp_path, dataset="signs"))
    moved = changed(before, snapshot(tuned))
    assert any(name.endswith("running_mean") for name in moved)
    assert {n for n in moved if not n.endswith(("running_mean", "running_var", "num_batches_tracked"))} == {
        "fc.weight",
        "fc.bias",
    }


@pytest.mark.parametrize("without", ["steps", "eps"])
def test_B5_adversarial_training_without_an_adversary_is_clean_training(source, tmp_path: Path, without: str) -> None:
    from rtk.threat import Threat

    threat = Threat("Linf", 0.0 if without == "eps" else 0.1)
    common = {"epochs": 2, "lr": 0.01, "batch_size": 32, "weight_decay": 1e-4, "milestones": (), "augment": "none"}
    at = AT(ATConfig(**common, attack_steps=0 if without == "steps" else 3, select_steps=0))
    adversarial = at.finetune(copy.deepcopy(source.model), small_run(source, tmp_path / "at", threat=threat))
    clean = Full(FullConfig(**common)).finetune(copy.deepcopy(source.model), small_run(source, tmp_path / "full"))
    assert changed(snapshot(clean), snapshot(adversarial)) == set()


def test_full_moves_every_parameter(source, tmp_path: Path) -> None:
    tuned = Full(FullConfig(**SHORT)).finetune(copy.deepcopy(source.model), small_run(source, tmp_path))
    moved = changed(snapshot(source.model), snapshot(tuned))
    assert moved >= {name for name, _ in source.model.net.named_parameters()}


def test_one_step_of_adversarial_training_equals_a_naive_one(source, tmp_path: Path) -> None:
    """PGD from its own start, cross-entropy on what it returns, SGD with momentum and weight decay."""
    run = small_run(source, tmp_path, train=32)
    config = ATConfig(epochs=1, batch_size=32, lr=0.1, weight_decay=0.01, attack_steps=3, milestones=(), augment="none")
    tuned = AT(config).finetune(copy.deepcopy(source.model), run)

    naive = copy.deepcopy(source.model)
    (batch,) = run.loader(batch_size=32, shuffle=True, name="fine-tune").epoch(0)
    x, y = batch.images, batch.labels
    torch.manual_seed(run.derive("fine-tune", 0, 0))
    adversarial = (x + torch.empty_like(x).uniform_(-0.1, 0.1)).clamp(0, 1)
    naive.eval()
    for _ in range(3):
        adversarial.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(naive(adversarial), y), adversarial)
        adversarial = adversarial.detach() + 0.025 * gradient.sign()
        adversarial = (x + (adversarial - x).clamp(-0.1, 0.1)).clamp(0, 1)
    naive.train()
    loss = F.cross_entropy(naive(adversarial), y)
    gradients = torch.autograd.grad(loss, list(naive.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(naive.parameters(), gradients, strict=True):
            parameter -= 0.1 * (gradient + 0.01 * parameter)
    for (name, expected), found in zip(naive.named_parameters(), tuned.parameters(), strict=True):
        assert (expected - found).abs().max() < 1e-6, name


def test_adversarial_training_makes_a_random_network_more_robust_than_clean_training(tmp_path: Path) -> None:
    fresh = open_backbone("rtk:fashion-resnet", weights="random", classes=10)
    robust = {}
    for name, steps in (("at", 3), ("clean", 0)):
        run = small_run(fresh, tmp_path / name, train=1500, val=150)
        config = ATConfig(epochs=4, lr=0.1, attack_steps=steps, select_steps=5, milestones=(), augment="none")
        tuned = AT(config).finetune(copy.deepcopy(fresh.model), run)
        robust[name] = run.robust_accuracy(tuned).value
    assert robust["at"] > robust["clean"] + 0.1


def test_networks_without_batchnorm_train_too(tmp_path: Path) -> None:
    """A LayerNorm network and a batch of one left over."""
    backbone = open_backbone("timm:test_vit", weights="random", classes=10)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.model.modules())
    run = small_run(backbone, tmp_path, train=9, val=10)
    for strategy in (LinearProbe(LinearProbeConfig(epochs=1, batch_size=4)), Full(FullConfig(epochs=1, batch_size=4))):
        tuned = strategy.finetune(copy.deepcopy(backbone.model), small_run(backbone, tmp_path / strategy.name, train=9))
        assert torch.isfinite(tuned(torch.rand(2, 3, 32, 32))).all()
    assert run.val is not None
