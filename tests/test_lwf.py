"""LwF against its paper; the ids are those of the properties L1 to L9 that follow from its objective."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rtk_plugins import lwf
from rtk_plugins.lwf import LwF, LwFConfig, distance
from torch import Tensor, nn
from torch.nn import functional as F

from rtk import Refusal
from rtk.backbones import Backbone

from .small_run import changed, snapshot
from .test_last_k import STATISTICS, Naive, convnext, norms_in, resnet, run_of, vit

SHORT = {"head_epochs": 1, "epochs": 2, "batch_size": 8, "lr": 0.02}


def tune(backbone: Backbone, directory: Path, changes: dict | None = None, **config: object) -> dict[str, Tensor]:
    run = run_of(backbone, directory, **(changes or {}))
    return snapshot(LwF(LwFConfig(**{**SHORT, **config})).finetune(copy.deepcopy(backbone.model), run))


def apart(directory: Path) -> float:
    """The distance of features from the source's that the run reported."""
    return json.loads((directory / "report.json").read_text())["feature_distance"]


@pytest.mark.parametrize(
    "norm, normalize, statistics", [("l1", False, "keep"), ("l2", True, "keep"), ("l1", True, "update")]
)
def test_both_phases_equal_naive_ones_in_float64(tmp_path: Path, norm: str, normalize: bool, statistics: str) -> None:
    backbone = resnet(double=True)
    run = run_of(backbone, tmp_path)
    config = LwFConfig(**SHORT, distance=norm, normalize_dim=normalize, statistics=statistics, penalty=0.5)
    tuned = LwF(config).finetune(copy.deepcopy(backbone.model), run)

    everything = [name for name, _ in backbone.model.net.named_parameters()]
    teacher, naive = Naive(backbone), Naive(backbone)
    naive.batch_norms = norms_in(backbone, "bn1", "layer") if statistics == "update" else set()
    for phase, epochs, moving in (("head", 1, ["fc.weight", "fc.bias"]), ("all", 2, everything)):
        naive.trainable, naive.velocity = moving, {}
        loader = run.loader(batch_size=8, shuffle=True, name=phase)
        for batch in (batch for epoch in range(epochs) for batch in loader.epoch(epoch)):
            state = naive.leaves()
            seen, wanted = naive(batch.images, state), teacher(batch.images)["fc"]
            moved = seen["fc"] - wanted
            lengths = moved.abs().sum(1) if norm == "l1" else (moved.square().sum(1) + 1e-300).sqrt()
            scale = 1 if not normalize else 8 if norm == "l1" else 8**0.5
            penalty = lengths.sum() / len(batch.labels) / scale
            loss = F.cross_entropy(seen["logits"], batch.labels) + 0.5 * penalty
            naive.step(loss, state, 0.02, 0.9, 2e-4)
    assert naive.difference(tuned) < 1e-8


def test_L1_the_penalty_is_exactly_zero_at_the_start(tmp_path: Path) -> None:
    """So the first step is the same for every lambda; with BatchNorm in training mode it is not zero."""
    backbone = resnet()
    tune(backbone, tmp_path / "keep", epochs=0)
    assert apart(tmp_path / "keep") == 0
    single = {"head_epochs": 0, "epochs": 1, "batch_size": 21}
    weak, strong = (tune(backbone, tmp_path / f"{weight}", **single, penalty=weight) for weight in (0, 1000))
    assert changed(weak, strong) == set()
    drift = {**single, "statistics": "update"}
    weak, strong = (tune(backbone, tmp_path / f"drift{weight}", **drift, penalty=weight) for weight in (0, 1000))
    assert "conv1.weight" in changed(weak, strong)


def test_L2_the_first_phase_moves_the_classifier_alone(tmp_path: Path) -> None:
    backbone = resnet()
    assert changed(snapshot(backbone.model), tune(backbone, tmp_path, epochs=0)) == {"fc.weight", "fc.bias"}


def test_L3_the_teacher_stays_as_it_was(tmp_path: Path) -> None:
    backbone = resnet()
    run = run_of(backbone, tmp_path)
    before = snapshot(run.source)
    LwF(LwFConfig(**SHORT, statistics="update")).finetune(copy.deepcopy(backbone.model), run)
    assert changed(before, snapshot(run.source)) == set() and not run.source.training
    assert all(parameter.grad is None for parameter in run.source.parameters())


def test_L4_without_a_penalty_it_is_plain_fine_tuning(tmp_path: Path) -> None:
    backbone = resnet()
    found = tune(backbone, tmp_path / "lwf", penalty=0)
    run, model = run_of(backbone, tmp_path / "plain"), copy.deepcopy(backbone.model)
    common = {"lr": 0.02, "weight_decay": 2e-4, "batch_size": 8, "statistics": "keep", "mode": "eval"}
    for name, epochs, trainable in (("head", 1, ["fc.weight", "fc.bias"]), ("all", 2, "all")):
        run.fit(
            model,
            lambda model, step: F.cross_entropy(model(step.images), step.labels),
            epochs=epochs,
            trainable=trainable,
            name=name,
            **common,
        )
    assert changed(found, snapshot(model)) == set()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31 - 1), st.floats(0, 100))
def test_L5_what_the_distance_depends_on(n: int, d: int, seed: int, factor: float) -> None:
    a, b = torch.randn(2, n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for norm in ("l1", "l2"):
        for normalize in (False, True):
            once = float(distance(a, b, norm, normalize))
            assert float(distance(torch.cat([a, a]), torch.cat([b, b]), norm, normalize)) == pytest.approx(once)
            moved = b + factor * (a - b)
            assert float(distance(moved, b, norm, normalize)) == pytest.approx(factor * once, abs=1e-9)
        twice = distance(torch.cat([a, a], 1), torch.cat([b, b], 1), norm, True)
        assert float(twice) == pytest.approx(once), "normalised, the number of features does not matter"
    assert distance(a, b, "l1", False) >= distance(a, b, "l2", False) - 1e-12


def test_L6_features_computed_at_once_are_those_computed_in_batches(tmp_path: Path) -> None:
    """What the published code caches; tolerance of float32 sums in another order."""
    backbone = resnet()
    run = run_of(backbone, tmp_path)
    with torch.no_grad():
        _, cached = run.structure.features(run.source, run.train.images(slice(0, 21)))
        for batch in run.loader(batch_size=8, shuffle=True, name="all").epoch(0):
            _, live = run.structure.features(run.source, batch.images)
            assert (live - cached[batch.indices]).abs().max() <= 1e-6


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_L7_a_heavy_penalty_keeps_the_features(tmp_path: Path, norm: str) -> None:
    backbone = resnet()
    for weight in (0, 1):
        tune(backbone, tmp_path / f"{weight}", penalty=weight, distance=norm, epochs=5)
    assert 0 < apart(tmp_path / "1") < 0.5 * apart(tmp_path / "0")


def test_L8_the_classifier_has_no_gradient_from_the_penalty(tmp_path: Path) -> None:
    backbone = resnet()
    run, model = run_of(backbone, tmp_path), copy.deepcopy(backbone.model).train()
    _, features = run.structure.features(model, torch.rand(4, 3, 16, 16))
    value = distance(features, torch.zeros_like(features), "l1", False)
    gradients = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    names = [name for name, _ in model.net.named_parameters()]
    assert {name for name, one in zip(names, gradients, strict=True) if one is None} == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("statistics", ["keep", "update"])
def test_L9_running_statistics_never_move_unless_asked(tmp_path: Path, statistics: str) -> None:
    """Also when the epoch is selected by evaluations in between."""
    backbone = resnet()
    moved = changed(snapshot(backbone.model), tune(backbone, tmp_path, statistics=statistics, select="robust"))
    assert any(name.endswith(STATISTICS) for name in moved) == (statistics == "update")
    assert {name for name, _ in backbone.model.net.named_parameters()} <= moved


@pytest.mark.parametrize("build", [lambda: resnet("group"), convnext, vit])
def test_networks_without_batchnorm(tmp_path: Path, build) -> None:
    backbone = build()
    tuned = tune(backbone, tmp_path, {"n": 9, "shape": (32, 32)}, epochs=1)
    assert changed(snapshot(backbone.model), tuned) >= {name for name, _ in backbone.model.net.named_parameters()}
    assert apart(tmp_path) > 0


def test_dropout_does_not_move_the_features_at_the_start(tmp_path: Path) -> None:
    """With kept statistics the network is in evaluation mode, so the penalty is zero also for networks with dropout."""
    backbone = resnet()
    backbone.model.net.layer3 = nn.Sequential(backbone.model.net.layer3[0], nn.Dropout(0.5))
    single = {"head_epochs": 0, "epochs": 1, "batch_size": 21}
    weak, strong = (tune(backbone, tmp_path / f"{weight}", **single, penalty=weight) for weight in (0, 1000))
    assert changed(weak, strong) == set()


def test_features_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    backbone, other = resnet(), resnet()
    other.model.net.fc = nn.Linear(7, 10)
    with pytest.raises(Refusal, match="source has 7 of them and the network 8"):
        tune(backbone, tmp_path, {"source": other.model})


@pytest.mark.parametrize("classes, shape", [(2, (16, 24)), (3, (40, 16))])
def test_few_classes_oblong_images_an_odd_last_batch_and_the_same_bits_again(
    tmp_path: Path, classes: int, shape: tuple[int, int]
) -> None:
    backbone = resnet(classes=classes)
    found = [tune(backbone, tmp_path / f"{i}", {"n": 17, "shape": shape}) for i in range(2)]
    assert changed(*found) == set() and all(torch.isfinite(value).all() for value in found[0].values())


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    backbone = resnet()
    whole = tune(backbone, tmp_path / "whole", epochs=3)
    tune(backbone, tmp_path / "parts", epochs=1)
    assert changed(whole, tune(backbone, tmp_path / "parts", epochs=3)) == set()
    assert apart(tmp_path / "whole") == apart(tmp_path / "parts")


def test_the_paper_and_the_departures_are_stated() -> None:
    assert lwf.LwF.paper is not None and lwf.LwF.paper.venue == "ICLR 2020"
    assert len(LwF.departures) >= 6 and LwFConfig().augment == "none" and LwFConfig().statistics == "keep"
