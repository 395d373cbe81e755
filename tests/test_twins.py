"""TWINS against its paper; the ids are those of the properties T1 to T13 that follow from its structure."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rtk_plugins.twins import Twins, TwinsConfig, batchnorms, mixed, two_wings
from torch import Tensor, nn
from torch.nn import functional as F

from rtk import Refusal
from rtk.backbones import Classifier, NormAudit, open_backbone
from rtk.steps import Step
from rtk.threat import Threat

from .small_run import changed, small_run, snapshot
from .test_trades import NAIVE, Tiny, batches, naive_attack, naive_kl, naive_net, naive_sgd, noise_run, tiny

SHORT = {"epochs": 1, "lr": 0.05, "batch_size": 32, "attack_steps": 2, "select_steps": 0, "augment": "none"}
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def caught(config: TwinsConfig, model: nn.Module, run) -> tuple[nn.ModuleDict, object]:
    """The wings and the loss that the strategy gives to `run.fit`, without training."""
    found = {}
    run.fit = lambda wings, loss, **_: found.update(wings=wings, loss=loss)
    Twins(config).finetune(model, run)
    return found["wings"], found["loss"]


def tuned(config: TwinsConfig, model: nn.Module, run) -> tuple[nn.Module, nn.ModuleDict]:
    """The network that the strategy returns, and the wings as they are after training."""
    fit, found = run.fit, []
    run.fit = lambda wings, *args, **options: found.append(fit(wings, *args, **options))
    return Twins(config).finetune(copy.deepcopy(model), run), found[0]


def step_of(images: Tensor, labels: Tensor, seed: int = 0) -> Step:
    return Step(images, labels, torch.arange(len(labels)), 0, 0, seed)


def some(count: int = 8, classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(count, 3, 9, 12, generator=generator), torch.arange(count) % classes


def apart() -> nn.ModuleDict:
    """Wings of the tiny float64 network whose scales and shifts have moved apart, in train mode."""
    wings = two_wings(copy.deepcopy(tiny().model)).train()
    torch.manual_seed(5)
    for parameter in wings["frozen"].parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return wings


def at_terms(wings: nn.ModuleDict, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    frozen, adaptive = Twins().losses(wings, x, x, y)
    return frozen, adaptive


# structure


@pytest.mark.parametrize("loss", ["at", "trades"])
def test_T1_the_frozen_statistics_stay_bit_for_bit_and_everything_else_moves(source, tmp_path, loss: str) -> None:
    config = TwinsConfig(**SHORT, loss=loss)
    network, wings = tuned(config, source.model, small_run(source, tmp_path))
    before, after = snapshot(two_wings(copy.deepcopy(source.model))), snapshot(wings)
    still = set(before) - changed(before, after)
    assert still == {name for name in before if name.startswith("frozen.") and name.endswith(STATISTICS)}
    assert network is wings["adaptive"]


@pytest.mark.parametrize("training", [True, False])
def test_T1_the_frozen_wing_keeps_its_statistics_in_any_mode(source, images, training: bool) -> None:
    wings = two_wings(copy.deepcopy(source.model)).train(training)
    before = snapshot(wings["frozen"])
    for _ in range(3):
        mixed(wings, images[0][:32])
    assert changed(before, snapshot(wings["frozen"])) == set()


def test_T2_before_any_step_both_networks_are_the_source(source, images) -> None:
    wings = two_wings(copy.deepcopy(source.model)).eval()
    x = images[0][:64]
    with torch.no_grad():
        assert torch.equal(torch.cat(mixed(wings, x)), source.model(x))
        assert torch.equal(wings["adaptive"](x), source.model(x))


def test_the_wings_are_as_many_as_the_batchnorms_also_in_shortcuts(source) -> None:
    """Eight each way; scales and shifts are pairs of separate tensors, the rest is there once."""
    wings = two_wings(copy.deepcopy(source.model))
    assert len(wings["frozen"]) == source.structure.norms.batch == len(batchnorms(source.model))
    assert any("shortcut" in name for name in batchnorms(source.model))
    own, added = list(source.model.parameters()), 2 * len(wings["frozen"])
    assert len({parameter.data_ptr() for parameter in wings.parameters()}) == len(own) + added


def test_eps_and_momentum_are_those_of_the_source() -> None:
    layers = two_wings(copy.deepcopy(tiny().model))["frozen"]
    assert [(layer.eps, layer.momentum) for layer in layers] == [(1e-3, 0.3), (1e-4, 0.05)]


def test_T3_a_sample_of_the_frozen_wing_does_not_feel_the_others() -> None:
    wings, (x, _) = apart(), some()
    frozen, adaptive = mixed(wings, x)
    first, second = x.clone(), x.clone()
    first[1:4] = 0.5  # other images of the first half
    second[5:] = 0.5  # other images of the second half
    with_first, with_second = mixed(wings, first), mixed(wings, second)
    assert torch.equal(with_first[0][0], frozen[0]) and torch.equal(with_second[0], frozen)
    assert torch.equal(with_first[1], adaptive), "the adaptive half must not see the frozen half"
    assert (with_second[1][0] - adaptive[0]).abs().max() > 1e-3


# loss


@pytest.mark.parametrize("loss", ["at", "trades"])
def test_T4_the_loss_is_linear_in_lambda(tmp_path: Path, loss: str) -> None:
    x, y = some()
    values = []
    for factor in (0.0, 1.0, 0.25, 3.0):
        backbone = tiny()
        config = TwinsConfig(loss=loss, lambda_twins=factor, attack_steps=2)
        wings, objective = caught(config, backbone.model, noise_run(backbone, tmp_path / str(factor)))
        values.append(objective(wings.train(), step_of(x, y)).item())
    adaptive, frozen = values[0], values[1] - values[0]
    assert values[2:] == pytest.approx([adaptive + 0.25 * frozen, adaptive + 3 * frozen], rel=1e-12)


def test_T4_without_lambda_the_first_half_is_not_there(tmp_path: Path) -> None:
    """No gradient reaches its images, and every other gradient is that of plain AT on the second half."""
    wings, (x, y) = apart(), some()
    plain = copy.deepcopy(wings["adaptive"])
    x.requires_grad_()
    frozen, adaptive = at_terms(wings, x, y)
    (0 * frozen + adaptive).backward()
    assert (x.grad[:4] == 0).all() and (x.grad[4:] != 0).any()
    F.cross_entropy(plain(x[4:]), y[4:]).backward()
    for (name, expected), found in zip(plain.named_parameters(), wings["adaptive"].parameters(), strict=True):
        assert torch.allclose(expected.grad, found.grad, rtol=0, atol=1e-14), name


def test_T5_shared_weights_feel_both_terms_and_each_scale_its_own() -> None:
    wings, (x, y) = apart(), some()
    names, parameters = zip(*wings.named_parameters(), strict=True)

    def gradients(weight_frozen: float, weight_adaptive: float) -> dict[str, Tensor]:
        frozen, adaptive = at_terms(wings, x, y)
        found = torch.autograd.grad(weight_frozen * frozen + weight_adaptive * adaptive, parameters)
        return dict(zip(names, found, strict=True))

    both, frozen, adaptive = gradients(0.4, 1), gradients(1, 0), gradients(0, 1)
    for name in names:
        assert (both[name] - 0.4 * frozen[name] - adaptive[name]).abs().max() < 1e-14, name
        if "bn" in name or name.startswith("frozen."):
            other = adaptive if name.startswith("frozen.") else frozen
            assert (other[name] == 0).all() and (both[name] != 0).any(), name
        elif "conv" not in name or "weight" in name:
            assert (frozen[name] != 0).any() and (adaptive[name] != 0).any(), name


def test_T6_a_pass_moves_the_adaptive_statistics_once_by_the_second_half() -> None:
    wings, (x, _) = apart(), some()
    layer = wings["adaptive"].net.bn1
    old, seen = layer.running_mean.clone(), wings["adaptive"].net.conv1(x.double())[4:]
    mixed(wings, x)
    assert torch.allclose(layer.running_mean, 0.7 * old + 0.3 * seen.mean((0, 2, 3)), rtol=0, atol=1e-14)
    assert int(layer.num_batches_tracked) == 1


@pytest.mark.parametrize("loss, passes", [("at", 1), ("trades", 2)])
def test_T6_at_moves_them_once_per_step_and_trades_twice(tmp_path: Path, loss: str, passes: int) -> None:
    backbone = tiny()
    wings, objective = caught(TwinsConfig(loss=loss, attack_steps=2), backbone.model, noise_run(backbone, tmp_path))
    objective(wings.train(), step_of(*some()))
    assert [int(layer.num_batches_tracked) for layer in batchnorms(backbone.model).values()] == [passes] * 2
    assert [int(layer.num_batches_tracked) for layer in wings["frozen"]] == [0, 0]


def test_T7_order_within_a_half_is_nothing_and_the_halves_are_not_the_same() -> None:
    x, y = some()

    def total(order: list[int]) -> float:
        return sum(at_terms(apart(), x[order], y[order])).item()

    assert total([2, 0, 3, 1, 7, 5, 4, 6]) == pytest.approx(total(list(range(8))), abs=1e-13)
    assert abs(total([4, 5, 6, 7, 0, 1, 2, 3]) - total(list(range(8)))) > 1e-4


def test_T8_only_the_frozen_wing_feels_the_length_of_a_weight() -> None:
    """Batch statistics make the loss invariant to the scale of the convolution before: <w, gradient> = 0."""
    wings, (x, y) = apart(), some()
    for layer in [*batchnorms(wings["adaptive"]).values(), *wings["frozen"]]:
        layer.eps = 1e-14
    weight = wings["adaptive"].net.conv2.weight
    frozen, adaptive = at_terms(wings, x, y)
    cosines = []
    for term in (frozen, adaptive):
        (gradient,) = torch.autograd.grad(term, weight, retain_graph=True)
        cosines.append(((weight * gradient).sum() / weight.norm() / gradient.norm()).abs().item())
    assert cosines[0] > 1e-2 and cosines[1] < 1e-10


# attack


@pytest.mark.parametrize("loss", ["at", "trades"])
def test_T9_the_adaptive_network_is_attacked_in_evaluation_mode(tmp_path: Path, loss: str) -> None:
    """What the attack makes depends on no frozen scale, changes no buffer, and is PGD on the cross-entropy."""
    backbone, (x, y) = tiny(), some()
    run, made = noise_run(backbone, tmp_path), []
    make, options = run.attack, []

    def attack(**settings):
        options.append(settings)
        inner = make(**settings)

        def spy(model, images, labels, *, seed):
            before = snapshot(wings)
            made.append(inner(model, images, labels, seed=seed))
            assert model is wings["adaptive"] and changed(before, snapshot(wings)) == set()
            return made[-1]

        return spy

    run.attack = attack
    wings, objective = caught(TwinsConfig(loss=loss, attack_steps=3), copy.deepcopy(backbone.model), run)
    objective(wings.train(), step_of(x, y, seed=9))
    wings["adaptive"].load_state_dict(backbone.model.state_dict())
    nn.init.normal_(wings["frozen"][0].weight)
    objective(wings.train(), step_of(x, y, seed=9))
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], naive_attack(backbone.model.eval(), x, y, "ce", 9))
    assert all(each.get("loss", "ce") == "ce" for each in options)


# the network that is kept


def test_T10_the_adaptive_network_alone_comes_back(source, tmp_path: Path) -> None:
    network, wings = tuned(TwinsConfig(**SHORT), source.model, small_run(source, tmp_path))
    before, after = source.model.state_dict(), network.state_dict()
    assert list(after) == list(before)
    assert sum(map(torch.numel, network.parameters())) == sum(map(torch.numel, source.model.parameters()))
    assert all(not torch.equal(before[name], after[name]) for name in before if name.endswith(STATISTICS))
    fresh = copy.deepcopy(source.model)
    fresh.load_state_dict(after)
    x = torch.rand(8, 3, 28, 28)
    assert torch.equal(fresh.eval()(x), wings["adaptive"].eval()(x)) and not network.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_the_epoch_is_chosen_by_the_adaptive_network_alone(source, tmp_path: Path) -> None:
    run, judged = small_run(source, tmp_path), []
    judge = run.robust_accuracy
    run.robust_accuracy = lambda model, **options: judged.append(model) or judge(model, **options)
    network, _ = tuned(TwinsConfig(**{**SHORT, "epochs": 2}), source.model, run)
    assert len(judged) == 2 and all(model is network for model in judged)


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    backbone, ends = tiny(), []
    for directory, parts in (("whole", (3,)), ("parts", (1, 3))):
        for epochs in parts:
            run = noise_run(backbone, tmp_path / directory)
            _, wings = tuned(TwinsConfig(**{**NAIVE, "epochs": epochs}), backbone.model, run)
        ends.append(snapshot(wings))
    assert changed(*ends) == set()


# batches


@pytest.mark.parametrize("count", [5, 7])
def test_T11_of_an_odd_batch_the_last_image_is_left_out(tmp_path: Path, count: int) -> None:
    backbone, (x, y) = tiny(), some(count)
    values = []
    for name, images, labels in (("odd", x, y), ("even", x[:-1], y[:-1])):
        config, run = TwinsConfig(attack_steps=0), noise_run(backbone, tmp_path / name)
        wings, objective = caught(config, copy.deepcopy(backbone.model), run)
        values.append(objective(wings.train(), step_of(images, labels)))
    assert torch.equal(*values)


@pytest.mark.parametrize("left", [1, 2, 3])
def test_T11_a_left_over_batch_without_two_images_per_wing_moves_nothing(tmp_path: Path, left: int) -> None:
    """Neither the gradient, which is not there, nor momentum and weight decay."""
    backbone, ends = tiny(), []
    for name, count in (("with", 8 + left), ("without", 8)):
        run = noise_run(backbone, tmp_path / name, count=8 + left)
        loader = run.loader
        if count == 8:
            whole = loader(batch_size=8, shuffle=True, name="fine-tune")
            indices = next(iter(whole.epoch(0))).indices
            run.train = run.train.subset(indices)
            run.loader = lambda *args, loader=loader, **options: loader(*args, **{**options, "shuffle": False})
        _, wings = tuned(TwinsConfig(**{**NAIVE, "attack_steps": 0}), backbone.model, run)
        ends.append(snapshot(wings))
    assert changed(*ends) == set()


def test_T11_a_wing_of_one_value_per_channel_raises() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(324, 6), nn.BatchNorm1d(6), nn.Linear(6, 4))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        mixed(two_wings(Classifier(net)).train(), some(2)[0])


def test_T11_batches_too_small_for_two_wings_are_refused(tmp_path: Path) -> None:
    backbone = tiny()
    with pytest.raises(ValueError, match="greater than or equal to 4"):
        TwinsConfig(batch_size=3)
    with pytest.raises(Refusal, match="4 training images"):
        Twins(TwinsConfig(**NAIVE)).finetune(backbone.model, noise_run(backbone, tmp_path, count=3))


# other networks


class Normed(nn.Module):
    """One convolution, one norm layer of any kind, one classifier."""

    def __init__(self, *norms: nn.Module):
        super().__init__()
        self.conv, self.norms, self.fc = nn.Conv2d(3, 4, 3), nn.Sequential(*norms), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norms(self.conv(x)).mean((2, 3)))


class FrozenBatchNorm2d(nn.BatchNorm2d.__mro__[2]):  # torch's common base, which is no BatchNorm
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


class BatchNormOfAnother(nn.Module):
    """Keeps running statistics, but is not derived from torch's layer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return x - self.running_mean[:, None, None]


def without(norm: nn.Module) -> nn.Module:
    """Statistics that are there but were switched off later."""
    norm.track_running_stats = False
    return norm


BN = nn.BatchNorm2d


@pytest.mark.parametrize(
    "norms, sentence",
    [
        ((nn.GroupNorm(2, 4),), "found 0 BatchNorm, 1 GroupNorm in Normed"),
        ((nn.Identity(),), "found 0 BatchNorm, no normalisation layers in Normed"),
        ((BN(4, track_running_stats=False),), "0 BatchNorm, 1 BatchNorm without running statistics in Normed"),
        ((BN(4), BN(4, track_running_stats=False)), "1 BatchNorm, 1 BatchNorm without running statistics in Normed"),
        ((without(BN(4)),), "some have none to keep"),
        ((FrozenBatchNorm2d(4),), "found 0 BatchNorm, 1 FrozenBatchNorm in Normed"),
        ((nn.InstanceNorm2d(4, track_running_stats=True),), "found 0 BatchNorm, 1 InstanceNorm in Normed"),
        ((BN(4), nn.InstanceNorm2d(4, track_running_stats=True)), "InstanceNorm with running statistics"),
        ((BatchNormOfAnother(),), "not torch's"),
    ],
)
def test_T12_networks_without_two_wings_are_refused(tmp_path: Path, norms, sentence: str) -> None:
    backbone = tiny(net=Normed(*norms))
    with pytest.raises(Refusal, match=r"^TWINS needs normalisation layers with running statistics \(Batch") as refusal:
        Twins(TwinsConfig(**NAIVE)).finetune(backbone.model, noise_run(backbone, tmp_path))
    assert sentence in refusal.value.message and "--strategy" in refusal.value.hint
    assert not (tmp_path / "report.json").exists()


def test_T12_a_vision_transformer_is_refused_with_its_counts(tmp_path: Path) -> None:
    backbone = open_backbone("timm:test_vit", weights="random", classes=10)
    count = backbone.structure.norms.layer
    with pytest.raises(Refusal, match=f"found 0 BatchNorm, {count} LayerNorm in VisionTransformer"):
        Twins().finetune(backbone.model, small_run(backbone, tmp_path))


@pytest.mark.parametrize(
    "norms, audit",
    [
        ((BN(4), nn.GroupNorm(2, 4)), NormAudit(batch=1, group=1)),
        ((nn.SyncBatchNorm(4),), NormAudit(sync_batch=1)),
        ((BN(4), nn.InstanceNorm2d(4)), NormAudit(batch=1, instance=1)),
        ((BN(4, momentum=None), FrozenBatchNorm2d(4)), NormAudit(batch=1, frozen_batch=1)),
        ((BN(4, affine=False),), NormAudit(batch=1)),
    ],
)
def test_T12_where_there_are_others_the_batchnorms_get_two_wings(tmp_path: Path, norms, audit: NormAudit) -> None:
    backbone = tiny(net=Normed(*copy.deepcopy(norms)))
    network, wings = tuned(TwinsConfig(**NAIVE), backbone.model, noise_run(backbone, tmp_path))
    report = json.loads((tmp_path / "report.json").read_text())["two_wings"]
    assert report["layers"] == len(wings["frozen"]) == 1 and report["norms"] == str(audit)
    assert report["cumulative_average"] == (["net.norms.0"] if norms[0].momentum is None else [])
    assert "fc.weight" in changed(snapshot(backbone.model), snapshot(network))


def test_a_layer_with_its_activation_inside_is_one_wing(tmp_path: Path) -> None:
    """timm's BatchNormAct2d: the same network written in both ways trains to the same weights."""
    from timm.layers import BatchNormAct2d

    ends = []
    for norms in ((BatchNormAct2d(4, act_layer=nn.SiLU),), (BN(4), nn.SiLU())):
        torch.manual_seed(0)
        backbone = tiny(net=Doubled(Normed(*norms).double()))
        _, wings = tuned(TwinsConfig(**NAIVE), backbone.model, noise_run(backbone, tmp_path / str(len(ends))))
        ends.append([value.double() for value in snapshot(wings).values()])
    assert all(torch.allclose(*pair, rtol=0, atol=1e-12) for pair in zip(*ends, strict=True))


class Doubled(nn.Module):
    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.double())


def test_rows_that_are_not_images_are_refused() -> None:
    """Some networks fold patches into the batch before BatchNorm; their halves cannot be told apart."""

    class Folded(Normed):
        def forward(self, x: Tensor) -> Tensor:
            return (
                super().forward(x.unfold(2, 4, 4).movedim(2, 1).flatten(0, 1)[..., :4]).unflatten(0, (len(x), -1))[:, 0]
            )

    with pytest.raises(Refusal, match="16 rows for 8 images"):
        mixed(two_wings(Classifier(Folded(BN(4)))), some()[0])


def test_a_network_of_timm_trains(tmp_path: Path) -> None:
    backbone = open_backbone("timm:test_byobnet", weights="random", classes=10)
    run = small_run(backbone, tmp_path, train=9, val=10)
    network, wings = tuned(TwinsConfig(**{**SHORT, "batch_size": 4}), backbone.model, run)
    assert len(wings["frozen"]) >= 5 and torch.isfinite(network(torch.rand(2, 3, 32, 32))).all()


# TRADES


def test_T13_the_published_divergence_is_half_of_the_mean() -> None:
    torch.manual_seed(0)
    natural, perturbed = torch.randn(2, 8, 3, dtype=torch.float64)
    mean, code = (
        Twins(TwinsConfig(kl_reduction=kind, batch_size=16)).divergence(natural, perturbed)
        for kind in ("batchmean", "code")
    )
    assert code.item() == pytest.approx(mean.item() / 2, rel=1e-15)
    assert mean.item() == pytest.approx(naive_kl(natural, perturbed).item(), rel=1e-12) and mean > 0


def test_T13_without_an_adversary_trades_is_clean_training_in_both_wings() -> None:
    x, y = some()
    trades = Twins(TwinsConfig(loss="trades")).losses(apart(), x, x, y)
    plain = Twins(TwinsConfig(loss="at")).losses(apart(), x, x, y)
    for with_term, without_term in zip(trades, plain, strict=True):
        assert (with_term - without_term).abs() < 1e-12


def test_T13_the_clean_prediction_is_not_detached() -> None:
    natural, perturbed = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(Twins().divergence, (natural, perturbed))


# the whole


@pytest.mark.parametrize(
    "loss, reduction, count", [("at", "batchmean", 21), ("trades", "batchmean", 22), ("trades", "code", 22)]
)
def test_training_equals_two_naive_networks(tmp_path: Path, loss: str, reduction: str, count: int) -> None:
    """Three steps in float64, each wing by its own forward pass; the last mini-batch has 5 or 6 images."""
    backbone = tiny()
    run = noise_run(backbone, tmp_path, count=count)
    config = TwinsConfig(**NAIVE, loss=loss, lambda_twins=0.4, kl_reduction=reduction)
    network, wings = tuned(config, backbone.model, run)

    state = snapshot(backbone.model)
    stored = {name: state[name] for name in state if "running" in name}
    moving = dict(stored)
    names = [name for name, _ in backbone.model.net.named_parameters()]
    weights = {name: state[name].clone().requires_grad_() for name in names}
    weights |= {f"frozen {name}": state[name].clone().requires_grad_() for name in names if "bn" in name}
    memory: dict[str, Tensor] = {}
    for x, y, seed in batches(run):
        half = len(y) // 2
        x, y = x[: 2 * half], y[: 2 * half]
        moved = naive_attack(lambda each: naive_net(weights, each, False, moving), x, y, "ce", seed)
        other = {name: weights[f"frozen {name}" if "bn" in name else name] for name in names}

        def both(images: Tensor, half: int = half, other: dict[str, Tensor] = other) -> list[Tensor]:
            frozen = naive_net(other, images[:half], False, stored)
            return [frozen, naive_net(weights, images[half:], True, moving)]

        parts = []
        perturbed, natural = both(moved), both(x) if loss == "trades" else [None, None]
        for adv, nat, target in zip(perturbed, natural, (y[:half], y[half:]), strict=True):
            if nat is None:
                parts.append(F.cross_entropy(adv, target))
            else:
                share = 1 if reduction == "batchmean" else half / 8
                parts.append(F.cross_entropy(nat, target) + 6 * share * naive_kl(nat, adv))
        naive_sgd(weights, 0.4 * parts[0] + parts[1], memory)

    found = snapshot(network)
    for name, expected in {**{name: weights[name] for name in names}, **moving}.items():
        assert (expected - found[name]).abs().max() < 1e-8, name
    for number, layer in enumerate(wings["frozen"], 1):
        for kind, value in layer.named_parameters():
            assert (weights[f"frozen bn{number}.{kind}"] - value).abs().max() < 1e-8
    assert int(found["bn1.num_batches_tracked"]) == (3 if loss == "at" else 6)


@pytest.mark.parametrize("loss", ["at", "trades"])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_any_number_of_classes(tmp_path: Path, classes: int, loss: str) -> None:
    backbone = tiny(classes)
    run = noise_run(backbone, tmp_path, count=13, classes=classes)
    network, _ = tuned(TwinsConfig(**NAIVE, loss=loss), backbone.model, run)
    assert network(run.val.images([0, 1])).shape == (2, classes)
    assert all(torch.isfinite(value).all() for value in snapshot(network).values())


def test_the_seed_decides_every_bit(tmp_path: Path) -> None:
    backbone, ends = tiny(), {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run = dataclasses.replace(noise_run(backbone, tmp_path / name), seed=seed)
        ends[name] = snapshot(tuned(TwinsConfig(**NAIVE), backbone.model, run)[0])
        torch.rand(7)  # whatever else draws numbers
    assert changed(ends["a"], ends["b"]) == set() and changed(ends["a"], ends["c"])


def test_both_wings_learn_and_the_network_gets_more_robust(tmp_path: Path) -> None:
    """From a classifier that was just replaced, on hand signs."""
    target = open_backbone("rtk:fashion-resnet", classes=10, new_head=True)
    run = small_run(target, tmp_path, dataset="signs", train=320, val=100, threat=Threat("Linf", 0.03))
    config = TwinsConfig(**{**SHORT, "epochs": 14, "lr": 0.01, "batch_size": 16, "select_steps": 3})
    before = run.robust_accuracy(target.model).value
    network, wings = tuned(config, target.model, run)
    assert run.robust_accuracy(network).value > before + 0.1
    x, y = run.train.images(torch.arange(64)), run.train.labels[:64]
    frozen, start = mixed(wings.eval(), x)[0], target.model.eval()(x)[:32]
    assert F.cross_entropy(frozen, y[:32]) < F.cross_entropy(start, y[:32]) - 0.05


def test_the_tiny_network_is_what_the_naive_one_computes() -> None:
    backbone, (x, _) = tiny(), some()
    state = snapshot(backbone.model)
    assert isinstance(backbone, SimpleNamespace) and isinstance(backbone.model.net, Tiny)
    assert torch.allclose(naive_net(state, x, False, state), backbone.model(x), rtol=0, atol=1e-14)


def test_the_paper_and_the_departures_are_stated() -> None:
    assert Twins.paper is not None and Twins.paper.venue == "CVPR 2023"
    assert len(Twins.departures) >= 6
