"""AutoLoRa against its equations: the branch, the objective, and what is automatic."""

from __future__ import annotations

import copy
import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rtk_plugins import autolora
from rtk_plugins.autolora import (
    AutoLora,
    AutoLoraConfig,
    Automatic,
    find_places,
    initial,
    key,
    low_rank_branch,
    objective,
    reductions,
)
from torch import nn
from torch.nn import functional as F

from rtk import Refusal
from rtk.backbones import Classifier, inspect, open_backbone
from rtk.data.split import ArrayPixels, Split
from rtk.observers import Observers

from .small_run import changed, small_run, snapshot

QUICK = {"epochs": 2, "batch_size": 32, "attack_steps": 1, "select_steps": 1, "augment": "none", "rank": 2}
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
SMALL: dict[str, Any] = {"dataset": "signs", "train": 41, "val": 20}


@pytest.fixture(scope="module")
def target():
    """The embedded network with a new classifier, for hand signs."""
    return open_backbone("rtk:fashion-resnet", classes=10, new_head=True)


@pytest.fixture(scope="module")
def transformer():
    """A LayerNorm network, with attention and a class token."""
    return open_backbone("timm:test_vit", weights="random", classes=10, new_head=True)


def own(classes: int = 3) -> SimpleNamespace:
    """A GroupNorm network of any image size, with an ordinary, a grouped and a depthwise convolution."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, (3, 1), groups=2), nn.ReLU()]
    layers += [nn.Conv2d(8, 8, 3, groups=8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)]
    model = Classifier(nn.Sequential(*layers)).eval()
    return SimpleNamespace(model=model, structure=inspect(model, torch.rand(1, 3, 10, 7)), new_head=True)


def branch_of(backbone, rank: int = 2, filled: bool = False, double: bool = False, seed: int = 0):
    """A copy of the network inside its branch; `filled` gives B values, as after training."""
    model = copy.deepcopy(backbone.model)
    places, _ = find_places(model, backbone.structure, rank)
    branch = low_rank_branch(model.double() if double else model, backbone.structure.head, places, seed)
    if filled:
        torch.manual_seed(1)
        for factor in branch.b.values():
            nn.init.normal_(factor, std=0.05)
    return branch, places


def tune(backbone, directory: Path, data: dict | None = None, **config: Any) -> nn.Module:
    run = small_run(backbone, directory, **(data or SMALL))
    return AutoLora(AutoLoraConfig(**{**QUICK, **config})).finetune(copy.deepcopy(backbone.model), run)


# the branch


@pytest.mark.parametrize("which", ["target", "transformer", "own"])
@pytest.mark.parametrize("training", [False, True])
def test_at_the_start_both_passes_agree_bit_for_bit(request, which: str, training: bool) -> None:
    backbone = own() if which == "own" else request.getfixturevalue(which)
    branch, _ = branch_of(backbone)
    images = torch.rand(3, 3, 32, 24)
    branch.train(training)
    torch.manual_seed(0)
    natural = branch(images)
    torch.manual_seed(0)
    assert torch.equal(natural, branch.net(images))


@pytest.mark.parametrize("which", ["target", "transformer"])
def test_natural_images_train_the_branch_and_the_classifier_alone(request, which: str) -> None:
    backbone = request.getfixturevalue(which)
    branch, _ = branch_of(backbone, filled=True)
    F.cross_entropy(branch(torch.rand(4, 3, 32, 32)), torch.arange(4)).backward()
    moved = {name for name, value in branch.named_parameters() if value.grad is not None and value.grad.abs().sum()}
    factors = {name for name, _ in branch.named_parameters() if name.startswith(("a.", "b."))}
    head = backbone.structure.head
    assert moved == factors | {f"net.net.{head}.weight", f"net.net.{head}.bias"}


def test_adversarial_images_train_everything_but_the_branch(target) -> None:
    branch, _ = branch_of(target, filled=True)
    F.cross_entropy(branch.net(torch.rand(4, 3, 32, 32)), torch.arange(4)).backward()
    moved = {name for name, value in branch.named_parameters() if value.grad is not None}
    assert moved == {f"net.{name}" for name, _ in target.model.named_parameters()}


def test_a_alone_learns_nothing_at_first(target) -> None:
    """dL/dA = B^T dL/dW / r, and B is zero at the start."""
    branch, _ = branch_of(target)
    F.cross_entropy(branch(torch.rand(4, 3, 32, 32)), torch.arange(4)).backward()
    assert all(not factor.grad.any() for factor in branch.a.values())
    assert all(factor.grad.any() for factor in branch.b.values())


@pytest.mark.parametrize("which", ["target", "transformer"])
def test_the_change_has_the_rank_that_was_asked_for(request, which: str) -> None:
    """r in a matrix, r times the kernel's width in a convolution, when taken as a matrix (out h, in w)."""
    branch, places = branch_of(request.getfixturevalue(which), filled=True)
    seen = branch.weights()
    for name, place in places.items():
        weight = branch.net.get_parameter(f"net.{name}")
        change = (seen[f"net.{name}"] - weight).detach().double()
        width = weight.shape[-1] if weight.ndim == 4 else 1
        expected = min(2 * width, place.rows, place.columns)
        assert torch.linalg.matrix_rank(change.reshape(place.rows, -1), rtol=1e-4) == expected, name


def test_stem_and_classifier_have_no_branch(target, transformer) -> None:
    convolutions = {name for name, value in target.model.net.named_parameters() if value.ndim == 4}
    assert set(branch_of(target)[1]) == convolutions - {"conv1.weight"}
    kinds = {".".join(name.split(".")[2:]) for name in branch_of(transformer)[1]}
    assert kinds == {"attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight"}


def test_depthwise_convolutions_are_left_out_and_grouped_ones_are_not() -> None:
    backbone = own()
    places, left_out = find_places(backbone.model, backbone.structure, 2)
    assert left_out == ["4.weight"] and set(places) == {"0.weight", "2.weight"}
    grouped = places["2.weight"]
    assert grouped.rows * grouped.columns == backbone.model.net[2].weight.numel()


def test_attention_projections_of_pytorch_have_a_branch() -> None:
    """in_proj_weight and out_proj of nn.MultiheadAttention are used without a call of a linear layer."""
    backbone = open_backbone("torchvision:vit_b_16", weights="random", classes=10)
    places, _ = find_places(backbone.model, backbone.structure, 8)
    assert len(places) == 4 * 12
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    images = torch.rand(1, 5, 8)
    other = {"in_proj_weight": attention.in_proj_weight + 0.1, "out_proj.weight": attention.out_proj.weight + 0.1}
    changed_ = torch.func.functional_call(attention, other, (images, images, images))[0]
    assert not torch.allclose(changed_, attention(images, images, images)[0])


def test_the_first_factor_is_drawn_as_published() -> None:
    """Standard normal for convolutions; U(-sqrt(6/d), sqrt(6/d)) for matrices of d columns."""
    place = autolora.Place(10, 100, 600, 100)
    normal, uniform = (initial(place, ndim, torch.Generator().manual_seed(0)) for ndim in (4, 2))
    assert abs(float(normal.std()) - 1) < 0.02 and float(normal.abs().max()) > 3
    assert 0.0999 < float(uniform.abs().max()) <= 0.1
    assert abs(float(uniform.std()) - 0.1 / math.sqrt(3)) < 1e-3


# the objective


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_objective_equals_its_formula(classes: int) -> None:
    torch.manual_seed(0)
    natural, adversarial = torch.randn(2, 5, classes, dtype=torch.float64) * 3
    labels = torch.arange(5) % classes
    p, q = natural.softmax(1), adversarial.softmax(1)
    expected = 0.0
    for image in range(5):
        expected -= 0.3 * math.log(p[image, labels[image]]) + 0.7 * math.log(q[image, labels[image]])
        expected += 4.2 * sum(float(a) * math.log(a / b) for a, b in zip(p[image], q[image], strict=True))
    assert float(objective(natural, adversarial, labels, 0.3, 4.2)) == pytest.approx(expected / 5, abs=1e-12)


def test_equal_predictions_leave_plain_cross_entropy() -> None:
    logits, labels = torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 4
    expected = F.cross_entropy(logits, labels)
    assert float(objective(logits, logits, labels, 0.4, 6.0) - expected) == pytest.approx(0, abs=1e-12)


def test_soft_labels_are_not_detached() -> None:
    natural = torch.randn(4, 3, requires_grad=True)
    objective(natural, torch.randn(4, 3), torch.zeros(4, dtype=torch.int64), 0.0, 1.0).backward()
    assert natural.grad is not None and natural.grad.abs().sum() > 0


def test_certain_predictions_give_finite_gradients() -> None:
    """Probabilities that are zero in float32."""
    natural, adversarial = torch.tensor([[500.0, 0.0]]), torch.tensor([[0.0, 500.0]])
    leaves = [natural.requires_grad_(), adversarial.requires_grad_()]
    gradients = torch.autograd.grad(objective(natural, adversarial, torch.tensor([0]), 0.1, 5.4), leaves)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


# what is automatic


def automatic(robust: list[float], natural: list[float], epochs: int = 8, **config: object) -> Automatic:
    found = Automatic(nn.Linear(1, 1), AutoLoraConfig(epochs=epochs, **config), natural[0])
    for pair in zip(robust, natural[1:], strict=True):
        found.finish_epoch(*pair)
    return found


@given(st.floats(0, 1))
def test_lambda_1_is_the_natural_error_and_lambda_2_six_times_the_accuracy(accuracy: float) -> None:
    assert automatic([], [accuracy]).weights(0) == (1 - accuracy, 6.0 * accuracy)


def test_the_weights_of_an_epoch_follow_from_the_accuracy_at_its_start() -> None:
    found = automatic([0.1, 0.2], [0.0, 0.5, 0.75], kl_weight=2.0)
    assert [found.weights(epoch) for epoch in range(3)] == [(1.0, 0.0), (0.5, 1.0), (0.25, 1.5)]


@settings(max_examples=100)
@given(st.lists(st.integers(0, 6), max_size=30), st.integers(1, 5), st.sampled_from([0.0, 0.5, 0.75, 1.0]))
def test_the_rate_follows_autopgds_rule(robust: list[int], every: int, share: float) -> None:
    """Against a loop with a rate, as the paper of AutoPGD writes it: both conditions at checkpoints w_1, w_2, ..."""
    checkpoints = range(0, len(robust), every)
    rate = {0: 1.0}  # rate that is used up to each checkpoint
    current, expected = 1.0, []
    for before, now in itertools.pairwise(checkpoints):
        rate[now] = current
        first = sum(robust[i + 1] > robust[i] for i in range(before, now)) < share * (now - before)
        # the rate at w_(j-1) is the one before its own decision
        second = rate[before] == rate[now] and max(robust[: before + 1]) == max(robust[: now + 1])
        if first or second:
            current /= 2
            expected.append(now)
    assert reductions(robust, every, share) == expected


@pytest.mark.parametrize(
    "robust, expected",
    [
        ([0, 1, 2, 3, 4, 5, 6, 7, 8], []),
        ([0, 1, 2, 3, 3, 4, 5, 6, 6], []),  # three rises of four are enough
        ([0, 1, 2, 2, 2, 3, 4, 5, 6], [4]),
        ([9, 1, 2, 3, 4, 5, 6, 7, 8], [4]),  # three rises, but the best is the old one; halved a moment ago at 8
        ([0, 1, 2, 3, 4], []),
        ([5, 5, 5, 5], []),  # no checkpoint yet
        ([], []),
    ],
)
def test_examples_of_the_rule(robust: list[int], expected: list[int]) -> None:
    assert reductions(robust, 4, 0.75) == expected


def test_the_rate_is_halved_from_the_epoch_after_the_checkpoint() -> None:
    found = automatic([0.5, 0.4, 0.3, 0.2, 0.1], [0.5] * 6)
    assert [found.factor(time) for time in (0, 1.5, 4, 4.99, 5, 7.9)] == [1, 1, 1, 1, 0.5, 0.5]


def test_a_halved_rate_goes_on_from_the_best_weights() -> None:
    linear = nn.Linear(1, 1)
    found = Automatic(linear, AutoLoraConfig(epochs=8), 0.5)
    for epoch, robust in enumerate([0.1, 0.4, 0.3, 0.4, 0.2, 0.1]):
        nn.init.constant_(linear.weight, epoch)
        found.finish_epoch(robust, 0.5)
        assert float(linear.weight.detach()) == (1 if epoch == 4 else epoch)  # the first of equals
    assert float(found.best.get_buffer("weight")) == 1


def test_what_was_measured_travels_in_the_state_dict() -> None:
    found = automatic([0.5, 0.4, 0.3, 0.2, 0.1], [0.5, 0.1, 0.2, 0.3, 0.4, 0.6])
    other = automatic([], [0.9])
    other.module.load_state_dict(found.module.state_dict())
    assert other.robust() == found.robust() and other.factor(6) == 0.5 and other.report() == found.report()


# the method


def test_a_step_equals_a_naive_one_in_double_precision(target) -> None:
    """Two separate networks, gradients of the factors by the chain rule, statistics natural first."""
    branch, places = branch_of(target, filled=True, double=True)
    before: Any = copy.deepcopy(branch)
    natural, plain = copy.deepcopy(before.net), copy.deepcopy(before.net)
    torch.manual_seed(2)
    images, adversarial, labels = torch.rand(7, 3, 32, 32).double(), torch.rand(7, 3, 20, 31).double(), torch.arange(7)
    optimizer = torch.optim.SGD(branch.parameters(), lr=0.1, weight_decay=0.01)
    branch.train()
    objective(branch(images), branch.net(adversarial), labels, 0.3, 4.2).backward()
    optimizer.step()

    with torch.no_grad():
        for name, place in places.items():
            weight = natural.get_parameter(f"net.{name}")
            weight += (before.b[key(name)] @ before.a[key(name)]).reshape(weight.shape) / place.rank
    z = natural.train()(images)
    plain.load_state_dict(
        {**plain.state_dict(), **{n: b for n, b in natural.named_buffers() if n.endswith(STATISTICS)}}
    )
    v = plain.train()(adversarial)
    p, q = z.softmax(1), v.softmax(1)
    rows = torch.arange(7)
    loss = -0.3 * p[rows, labels].log().mean() - 0.7 * q[rows, labels].log().mean()
    loss = loss + 4.2 * (p * (p / q).log()).sum() / 7
    loss.backward()
    for name, old in before.net.named_parameters():
        gradient = plain.get_parameter(name).grad
        if name.startswith("net.fc"):
            gradient = gradient + natural.get_parameter(name).grad
        expected = old - 0.1 * (gradient + 0.01 * old)
        assert (expected - branch.net.get_parameter(name)).abs().max() < 1e-8, name
    for name, place in places.items():
        a, b = before.a[key(name)], before.b[key(name)]
        gradient = natural.get_parameter(f"net.{name}").grad.reshape(place.rows, place.columns) / place.rank
        assert (a - 0.1 * (b.T @ gradient + 0.01 * a) - branch.a[key(name)]).abs().max() < 1e-8, name
        assert (b - 0.1 * (gradient @ a.T + 0.01 * b) - branch.b[key(name)]).abs().max() < 1e-8, name
    for name, expected in plain.named_buffers():
        assert (expected - branch.net.get_buffer(name)).abs().max() < 1e-8, name


def test_an_epoch_equals_a_naive_loop(target, tmp_path: Path) -> None:
    """Three steps of the whole strategy, the last of 9 images, with its own attack and momentum.

    In float32, as images and attacks are; the tolerance is rounding that passes through three steps.
    """
    tuned = tune(target, tmp_path, epochs=1, attack_steps=2, batch_size=16)
    run = small_run(target, tmp_path / "naive", **SMALL)
    branch, _ = branch_of(target, seed=run.derive("low-rank branch"))
    accuracy = float((branch.eval()(run.train.images(slice(None))).argmax(1) == run.train.labels).float().mean())
    velocity: dict[str, torch.Tensor] = {}
    for number, batch in enumerate(run.loader(batch_size=16, shuffle=True, name="fine-tune").epoch(0)):
        x, y = batch.images, batch.labels
        branch.net.eval()
        torch.manual_seed(run.derive("fine-tune", 0, number))
        adversarial = (x + torch.empty_like(x).uniform_(-0.1, 0.1)).clamp(0, 1)
        for _ in range(2):
            adversarial.requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(branch.net(adversarial), y), adversarial)
            adversarial = adversarial.detach() + 0.025 * gradient.sign()
            adversarial = (x + (adversarial - x).clamp(-0.1, 0.1)).clamp(0, 1)
        branch.train()
        z, v = branch(x), branch.net(adversarial)
        p = z.softmax(1)
        loss = (1 - accuracy) * F.cross_entropy(z, y) + accuracy * F.cross_entropy(v, y)
        loss = loss + 6 * accuracy * (p * (p.log() - v.log_softmax(1))).sum() / len(y)
        named = dict(branch.named_parameters())
        gradients = torch.autograd.grad(loss, list(named.values()))
        with torch.no_grad():
            for (name, parameter), gradient in zip(named.items(), gradients, strict=True):
                velocity[name] = 0.9 * velocity.get(name, 0) + gradient + 1e-4 * parameter
                parameter -= 0.01 * velocity[name]
    assert 0 < accuracy < 1
    for (name, expected), found in zip(branch.net.state_dict().items(), tuned.state_dict().values(), strict=True):
        assert (expected - found).abs().max() < 2e-5, name


@pytest.mark.parametrize("which", ["target", "transformer"])
def test_the_result_is_the_plain_network_in_its_own_architecture(request, tmp_path: Path, which: str) -> None:
    backbone = request.getfixturevalue(which)
    data = {"dataset": "signs", "train": 9, "val": 6}  # one image is left over
    tuned = tune(backbone, tmp_path, data, batch_size=4)
    before, after = snapshot(backbone.model), snapshot(tuned)
    assert {name: value.shape for name, value in before.items()} == {name: v.shape for name, v in after.items()}
    assert type(tuned) is type(backbone.model) and not tuned.training
    assert changed(before, after) >= set(backbone.structure.parameters)
    copy.deepcopy(backbone.model).load_state_dict(tuned.state_dict())


def test_the_report_says_what_was_automatic(target, tmp_path: Path) -> None:
    tune(target, tmp_path, epochs=3, check_every=1, rises=1.0, lr=1e-9)
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["branches"]) == 8 and report["without_branch"] == []
    rows = report["schedule"]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["lr"] for row in rows] == [1e-9, 1e-9, 5e-10]  # nothing moves, so robust accuracy does not rise
    assert all(row["lambda2"] == pytest.approx(6 * (1 - row["lambda1"])) for row in rows)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(target, tmp_path: Path) -> None:
    one, two = (snapshot(tune(target, tmp_path / name)) for name in ("one", "two"))
    other = snapshot(tune(target, tmp_path / "other", {**SMALL, "seed": 1}))
    assert changed(one, two) == set() and changed(one, other)


def test_a_run_that_was_killed_ends_with_the_same_bits_and_the_same_report(target, tmp_path: Path, monkeypatch) -> None:
    """The best weights are those of the first epoch, and the resumed part returns to them: they must be stored."""
    config: dict[str, Any] = {"epochs": 4, "check_every": 1, "rises": 1.0, "lr": 1.0, "augment": "crop-flip"}
    data = {**SMALL, "seed": 2}
    expected = snapshot(tune(target, tmp_path / "whole", data, **config))
    log, count = Observers.event, []

    def dies(self: Observers, event: str, values: dict) -> None:
        count.append(event)
        if len(count) == 3:  # the end of the third epoch, before its checkpoint
            raise KeyboardInterrupt
        log(self, event, values)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Observers, "event", dies)
        tune(target, tmp_path / "broken", data, **config)
    torch.manual_seed(99)
    assert changed(expected, snapshot(tune(target, tmp_path / "broken", data, **config))) == set()
    whole, broken = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("whole", "broken"))
    assert whole == broken
    robust = [row["robust"] for row in whole["schedule"]]
    assert robust[0] >= max(robust[1:]) and whole["schedule"][-1]["lr"] < 1.0
    ends = [torch.load(tmp_path / name / "work" / "fine-tune.pt", weights_only=True) for name in ("whole", "broken")]
    last = [{name: value.nan_to_num(-1.0) for name, value in end["model"].items()} for end in ends]
    assert changed(*last) == set()


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_and_images_that_are_not_square(tmp_path: Path, classes: int) -> None:
    backbone = own(classes)
    run = small_run(backbone, tmp_path, classes=classes)  # type: ignore[arg-type]
    run.train = run.val = Split(ArrayPixels(torch.rand(9, 3, 10, 7)), torch.arange(9) % classes)
    tuned = AutoLora(AutoLoraConfig(**{**QUICK, "batch_size": 4})).finetune(copy.deepcopy(backbone.model), run)
    assert tuned(torch.rand(2, 3, 10, 7)).shape == (2, classes)
    assert set(snapshot(tuned)) == set(snapshot(backbone.model))
    assert json.loads((tmp_path / "report.json").read_text())["without_branch"] == ["4.weight"]


def test_zero_epochs_return_the_start(target, tmp_path: Path) -> None:
    assert changed(snapshot(target.model), snapshot(tune(target, tmp_path, epochs=0))) == set()


def test_a_network_without_a_place_for_a_branch_is_refused(tmp_path: Path) -> None:
    model = Classifier(nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 10))).eval()
    backbone = SimpleNamespace(model=model, structure=inspect(model, torch.rand(1, 3, 32, 32)), new_head=True)
    with pytest.raises(Refusal, match="before the classifier"):
        tune(backbone, tmp_path)


def test_the_paper_and_the_departures_are_stated() -> None:
    assert AutoLora.paper is not None and AutoLora.paper.venue == "ICLR 2024" and len(AutoLora.departures) >= 8
