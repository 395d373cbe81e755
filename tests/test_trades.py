"""TRADES and its attack; the ids are those of the properties B6 and T13 that follow from its equation."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rtk_plugins.full import Full, FullConfig
from rtk_plugins.trades import Trades, TradesConfig, divergence, trades_loss
from torch import Tensor, nn
from torch.nn import functional as F

from rtk import Refusal
from rtk.attacks import distance, trades_pgd
from rtk.backbones import Classifier, inspect, open_backbone
from rtk.data.split import ArrayPixels, Split
from rtk.errors import BadValue
from rtk.run import Run
from rtk.threat import Threat

from .small_run import changed, small_run, snapshot

SHORT = {"epochs": 1, "batch_size": 32, "attack_steps": 2, "select_steps": 0, "augment": "none"}
NAIVE = {"epochs": 1, "batch_size": 8, "lr": 0.1, "weight_decay": 0.01, "attack_steps": 3, "augment": "none"}
FORWARDS = ("clean-adv-clean", "clean-adv", "adv-clean")


class Tiny(nn.Module):
    """Two convolutions with unusual BatchNorms, in float64 whatever the images are."""

    def __init__(self, classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, stride=2)
        self.bn1 = nn.BatchNorm2d(4, eps=1e-3, momentum=0.3)
        self.conv2 = nn.Conv2d(4, 5, 3)
        self.bn2 = nn.BatchNorm2d(5, eps=1e-4, momentum=0.05)
        self.fc = nn.Linear(5, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x.double())).relu()
        return self.fc(self.bn2(self.conv2(x)).relu().mean((2, 3)))


def tiny(classes: int = 4, net: nn.Module | None = None) -> SimpleNamespace:
    """What `small_run` needs of a backbone, around a network with random weights and statistics."""
    torch.manual_seed(0)
    net = Tiny(classes).double() if net is None else net
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.affine and layer.running_mean is not None:
            layer.running_mean.normal_(0, 0.3)
            layer.running_var.uniform_(0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.2)
    model = Classifier(net).eval()
    return SimpleNamespace(model=model, structure=inspect(model, torch.rand(1, 3, 9, 12)), new_head=True)


def noise_run(backbone: SimpleNamespace, directory: Path, count: int = 22, classes: int = 4) -> Run:
    """A run on random images of 9 x 12 pixels; with batches of 8, the last one has `count` % 8."""
    generator = torch.Generator().manual_seed(1)
    pixels = ArrayPixels(torch.rand(count, 3, 9, 12, generator=generator))
    split = Split(pixels, torch.arange(count) % classes)
    return dataclasses.replace(small_run(backbone, directory), train=split, val=split, classes=classes)


# an independent TRADES, written down as plainly as possible


def naive_net(weights: dict[str, Tensor], x: Tensor, train: bool, buffers: dict[str, Tensor]) -> Tensor:
    """`Tiny` by hand; in train mode it moves `buffers`."""
    x = x.double()
    for number, eps, momentum, stride in ((1, 1e-3, 0.3, 2), (2, 1e-4, 0.05, 1)):
        bn = f"bn{number}"
        x = F.conv2d(x, weights[f"conv{number}.weight"], weights[f"conv{number}.bias"], stride=stride)
        mean, var = buffers[f"{bn}.running_mean"], buffers[f"{bn}.running_var"]
        if train:
            rows = x.transpose(0, 1).flatten(1)
            count = rows.shape[1]
            mean, var = rows.mean(1), ((rows - rows.mean(1, keepdim=True)) ** 2).mean(1)
            for name, value in (("running_mean", mean), ("running_var", var * count / (count - 1))):
                old = buffers[f"{bn}.{name}"]
                buffers[f"{bn}.{name}"] = (1 - momentum) * old + momentum * value.detach()
        scale = weights[f"{bn}.weight"] / (var + eps).sqrt()
        x = (x - mean[:, None, None]) * scale[:, None, None] + weights[f"{bn}.bias"][:, None, None]
        x = x * (x > 0)
    return x.mean((2, 3)) @ weights["fc.weight"].T + weights["fc.bias"]


def naive_kl(clean: Tensor, adversarial: Tensor) -> Tensor:
    p, q = clean.softmax(1), adversarial.softmax(1)
    return (p * (p.log() - q.log())).sum() / len(p)


def naive_attack(net, x: Tensor, y: Tensor, kind: str, seed: int, steps: int = 3, eps: float = 0.1) -> Tensor:
    """Attacks see float32 logits: beside the image, where the divergence starts, rounding decides some signs."""

    def logits(images: Tensor) -> Tensor:
        return net(images).float()

    torch.manual_seed(seed)
    noise = 0.001 * torch.randn_like(x) if kind == "kl" else torch.empty_like(x).uniform_(-eps, eps)
    moving = (x + noise).clamp(0, 1)
    for _ in range(steps):
        moving.requires_grad_()
        found = logits(moving)
        if kind == "kl":
            value = F.kl_div(found.log_softmax(1), logits(x).detach().softmax(1), reduction="sum")
        else:
            value = F.cross_entropy(found, y)
        (gradient,) = torch.autograd.grad(value, moving)
        moving = moving.detach() + eps / 4 * gradient.sign()
        moving = (x + (moving - x).clamp(-eps, eps)).clamp(0, 1)
    return moving


def naive_sgd(weights: dict[str, Tensor], loss: Tensor, memory: dict[str, Tensor]) -> None:
    """Momentum 0.9, weight decay 0.01, rate 0.1."""
    gradients = torch.autograd.grad(loss, list(weights.values()))
    with torch.no_grad():
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            memory[name] = 0.9 * memory.get(name, 0) + gradient + 0.01 * weight
            weight -= 0.1 * memory[name]


def batches(run: Run, epoch: int = 0, size: int = 8):
    """(images, labels, seed of the step) of one epoch of `run.fit`."""
    loader = run.loader(batch_size=size, shuffle=True, name="fine-tune")
    for position, batch in enumerate(loader.epoch(epoch)):
        yield batch.images, batch.labels, run.derive("fine-tune", epoch, position)


@pytest.mark.parametrize(
    "attack, forwards", [("kl", "clean-adv-clean"), ("ce", "adv-clean"), ("kl", "clean-adv"), ("ce", "clean-adv")]
)
def test_B6_training_equals_a_naive_one(tmp_path: Path, attack: str, forwards: str) -> None:
    """Three steps in float64, the last one on a smaller mini-batch: weights and statistics."""
    backbone = tiny()
    run = noise_run(backbone, tmp_path)
    tuned = Trades(TradesConfig(**NAIVE, attack=attack, forwards=forwards)).finetune(copy.deepcopy(backbone.model), run)
    state = snapshot(backbone.model)
    buffers = {name: state[name] for name in state if "running" in name}
    weights = {name: state[name].requires_grad_() for name in dict(backbone.model.net.named_parameters())}
    memory: dict[str, Tensor] = {}
    for x, y, seed in batches(run):
        moved = naive_attack(lambda each: naive_net(weights, each, False, buffers), x, y, attack, seed)
        out = {}
        for kind in forwards.split("-"):
            out[kind] = naive_net(weights, x if kind == "clean" else moved, True, buffers)
        naive_sgd(weights, F.cross_entropy(out["clean"], y) + 6 * naive_kl(out["clean"], out["adv"]), memory)
    found = snapshot(tuned)
    for name, expected in {**weights, **buffers}.items():
        assert (expected - found[name]).abs().max() < 1e-8, name
    assert int(found["bn1.num_batches_tracked"]) == 3 * len(forwards.split("-"))


def test_B6_without_the_divergence_the_weights_are_those_of_clean_training(source, tmp_path: Path) -> None:
    common = {"epochs": 1, "lr": 0.01, "batch_size": 32, "weight_decay": 1e-4, "milestones": (), "augment": "none"}
    config = TradesConfig(**common, beta=0, attack_steps=1, select_steps=0)
    robust = Trades(config).finetune(copy.deepcopy(source.model), small_run(source, tmp_path / "trades"))
    clean = Full(FullConfig(**common)).finetune(copy.deepcopy(source.model), small_run(source, tmp_path / "full"))
    moved = changed(snapshot(clean), snapshot(robust))
    assert moved and all(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in moved)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31 - 1), st.sampled_from([2, 3, 10]), st.floats(0, 50))
def test_B6_T13_the_divergence_is_a_mean_of_sums_and_never_negative(seed: int, classes: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    clean, adversarial = (scale * torch.randn(5, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    value = divergence(clean, adversarial)
    p, log_p, log_q = clean.softmax(1), clean.log_softmax(1), adversarial.log_softmax(1)
    assert torch.allclose(value, (p * (log_p - log_q)).sum() / 5, rtol=1e-9, atol=1e-12)
    assert value >= -1e-12
    assert divergence(clean, clean) == 0


def test_B6_the_gradient_flows_through_the_clean_prediction() -> None:
    torch.manual_seed(0)
    clean, adversarial = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(divergence, (clean, adversarial))
    gradient, _ = torch.autograd.grad(divergence(clean, adversarial), (clean, adversarial))
    assert gradient.abs().max() > 1e-3


def test_B6_predictions_that_underflow_give_no_nan() -> None:
    """The published formula has a NaN gradient here."""
    clean = torch.tensor([[2000.0, -2000.0, 0.0]], requires_grad=True)
    adversarial = torch.tensor([[-2000.0, 2000.0, 0.0]], requires_grad=True)
    published = F.kl_div(adversarial.log_softmax(1), clean.softmax(1), reduction="sum")
    assert torch.isnan(torch.autograd.grad(published, clean)[0]).any()
    value = divergence(clean, adversarial)
    assert value.item() == published.item() == 4000
    assert all(torch.isfinite(each).all() for each in torch.autograd.grad(value, (clean, adversarial)))


def test_T13_without_an_adversary_the_divergence_is_zero_in_train_mode(source, images) -> None:
    x, y = images[0][:32], images[1][:32]
    model = copy.deepcopy(source.model).train()
    unmoved = trades_pgd(Threat("Linf", 0.0))(model, x, y, seed=0)
    with_term, without = (trades_loss(model, x, unmoved, y, beta, "clean-adv-clean") for beta in (6.0, 0.0))
    assert (with_term - without).abs() < 1e-6


def test_the_epoch_is_chosen_by_robust_accuracy(tmp_path: Path) -> None:
    backbone, scores = tiny(), iter([0.2, 0.9, 0.4])
    run = noise_run(backbone, tmp_path)
    seen: list[dict[str, Tensor]] = []

    def judge(model: nn.Module, **_: object) -> SimpleNamespace:
        seen.append(snapshot(model))
        return SimpleNamespace(value=next(scores))

    run.robust_accuracy = judge
    tuned = Trades(TradesConfig(**{**NAIVE, "epochs": 3})).finetune(copy.deepcopy(backbone.model), run)
    assert changed(seen[1], snapshot(tuned)) == set() and changed(seen[2], snapshot(tuned))


@pytest.mark.parametrize("forwards", FORWARDS)
def test_the_forward_passes_come_in_their_order(source, images, forwards: str) -> None:
    x, y = images[0][:8], images[1][:8]
    moved = (x + 0.1).clamp(0, 1)
    model = copy.deepcopy(source.model).train()
    seen: list[str] = []
    model.register_forward_pre_hook(lambda _, args: seen.append("clean" if args[0] is x else "adv"))
    trades_loss(model, x, moved, y, 6.0, forwards)
    assert "-".join(seen) == forwards


def test_the_order_of_the_passes_moves_statistics_and_no_weight(tmp_path: Path) -> None:
    """One step: a later one is attacked in evaluation mode, where the statistics count."""
    backbone, tuned = tiny(), {}
    for forwards in FORWARDS:
        config = TradesConfig(**{**NAIVE, "batch_size": 22}, forwards=forwards)
        run = noise_run(backbone, tmp_path / forwards)
        tuned[forwards] = snapshot(Trades(config).finetune(copy.deepcopy(backbone.model), run))
    for forwards in FORWARDS[1:]:
        for name, value in tuned[forwards].items():
            same = torch.allclose(value.double(), tuned[FORWARDS[0]][name].double(), rtol=0, atol=1e-12)
            assert same == ("running" not in name and "num_batches" not in name), name


# the attack


def test_B7_the_attack_raises_the_divergence_and_leaves_no_trace(source, images, tmp_path: Path) -> None:
    x, y = images[0][:64], images[1][:64]
    model = copy.deepcopy(source.model).train()
    model.net.bn1.eval()
    before, modes = snapshot(model), [module.training for module in model.modules()]
    attack = small_run(source, tmp_path).attack(steps=5, loss="kl")
    moved = attack(model, x, y, seed=3)
    assert changed(before, snapshot(model)) == set() and modes == [module.training for module in model.modules()]
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not moved.requires_grad and moved.min() >= 0 and moved.max() <= 1
    assert 0.09 < float(distance(x, moved, "Linf").max()) <= 0.1 + 1e-6
    model.eval()
    with torch.no_grad():
        gained = divergence(model(x), model(moved))
        uniform = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) * 0.2 - 0.1
        assert gained > 3 * divergence(model(x), model((x + uniform).clamp(0, 1)))
    assert torch.equal(moved, attack(model, x, y, seed=3)) and not torch.equal(moved, attack(model, x, y, seed=4))
    assert torch.equal(moved, attack(model, x, (y + 1) % 10, seed=3)), "the labels must not enter"


def test_the_attack_equals_a_naive_one(tmp_path: Path) -> None:
    backbone = tiny()
    run = noise_run(backbone, tmp_path)
    x, y = run.train.images(torch.arange(6)), run.train.labels[:6]
    expected = naive_attack(backbone.model, x, y, "kl", 5)
    assert torch.equal(run.attack(steps=3, loss="kl")(backbone.model, x, y, seed=5), expected)


@pytest.mark.parametrize("threat, steps", [(Threat("Linf", 0.0), 5), (Threat("Linf", 0.1), 0)])
def test_no_ball_or_no_steps_give_the_images_themselves(source, images, threat: Threat, steps: int) -> None:
    x, y = images[0][:4], images[1][:4]
    assert torch.equal(trades_pgd(threat, steps=steps)(source.model, x, y, seed=0), x)


def test_what_the_attack_cannot_do_is_refused(source, tmp_path: Path) -> None:
    with pytest.raises(BadValue, match="Linf"):
        small_run(source, tmp_path, threat=Threat("L2", 1.0)).attack(loss="kl")
    with pytest.raises(Refusal, match="Linf") as refusal:
        Trades().finetune(source.model, small_run(source, tmp_path, threat=Threat("L2", 1.0)))
    assert refusal.value.hint == "--attack ce"
    with pytest.raises(BadValue, match="step size"):
        trades_pgd(Threat("Linf", 0.1), step_size=0.0)
    assert trades_pgd(Threat("Linf", 0.1), steps=7).settings["loss"] == "kl"


def test_other_balls_train_with_the_cross_entropy_attack(tmp_path: Path) -> None:
    backbone = tiny()
    run = dataclasses.replace(noise_run(backbone, tmp_path), threat=Threat("L2", 0.5))
    tuned = Trades(TradesConfig(**NAIVE, attack="ce")).finetune(copy.deepcopy(backbone.model), run)
    assert changed(snapshot(backbone.model), snapshot(tuned)) == set(snapshot(tuned))


# data and networks of other kinds


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_any_number_of_classes_and_a_batch_of_one_left_over(tmp_path: Path, classes: int) -> None:
    backbone = tiny(classes)
    run = noise_run(backbone, tmp_path, count=17, classes=classes)
    tuned = Trades(TradesConfig(**NAIVE)).finetune(copy.deepcopy(backbone.model), run)
    assert tuned(run.val.images([0, 1])).shape == (2, classes)
    assert all(torch.isfinite(value).all() for value in snapshot(tuned).values())


def test_layernorm_networks_train(tmp_path: Path) -> None:
    backbone = open_backbone("timm:test_vit", weights="random", classes=10)
    run = small_run(backbone, tmp_path, train=9, val=10)
    tuned = Trades(TradesConfig(**{**SHORT, "batch_size": 4})).finetune(copy.deepcopy(backbone.model), run)
    assert changed(snapshot(backbone.model), snapshot(tuned)) >= {"head.weight", "head.bias"}
    assert torch.isfinite(tuned(torch.rand(2, 3, 32, 32))).all()


def test_the_seed_decides_every_bit(tmp_path: Path) -> None:
    backbone, tuned = tiny(), {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run = dataclasses.replace(noise_run(backbone, tmp_path / name), seed=seed)
        tuned[name] = snapshot(Trades(TradesConfig(**NAIVE)).finetune(copy.deepcopy(backbone.model), run))
        torch.rand(7)  # whatever else draws numbers
    assert changed(tuned["a"], tuned["b"]) == set() and changed(tuned["a"], tuned["c"])


def test_the_network_gets_more_robust(source, tmp_path: Path) -> None:
    """From a classifier that was just replaced, on hand signs."""
    target = open_backbone("rtk:fashion-resnet", classes=10, new_head=True)
    run = small_run(target, tmp_path, dataset="signs", train=320, val=100, threat=Threat("Linf", 0.03))
    config = TradesConfig(**{**SHORT, "epochs": 8, "lr": 0.05, "select_steps": 3}, milestones=())
    before = run.robust_accuracy(target.model).value
    assert run.robust_accuracy(Trades(config).finetune(copy.deepcopy(target.model), run)).value > before + 0.1


def test_the_paper_and_the_departures_are_stated() -> None:
    assert Trades.paper is not None and Trades.paper.venue == "ICML 2019"
    assert len(Trades.departures) >= 4
