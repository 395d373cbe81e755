"""The attack adapter: what it returns, and that it leaves no trace."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rtk.attacks import Attack, autoattack, check_ball, check_images, distance, frozen, pgd
from rtk.errors import AttackError, BadValue
from rtk.threat import Threat

EPS = Threat("Linf", 0.1)


def small() -> nn.Module:
    """A network with dropout and BatchNorm, some of it in evaluation mode, some parameters frozen."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(256, 5)
    )
    net.train()
    net[1].eval()
    net[0].weight.requires_grad_(False)
    net[5].weight.grad = torch.ones_like(net[5].weight)
    return net


def trace(net: nn.Module) -> tuple:
    """Everything about a network that an attack must not change."""
    return (
        [module.training for module in net.modules()],
        [parameter.requires_grad for parameter in net.parameters()],
        [None if parameter.grad is None else parameter.grad.clone() for parameter in net.parameters()],
        copy.deepcopy(net.state_dict()),
        torch.get_rng_state(),
    )


def assert_same(before: tuple, after: tuple) -> None:
    assert before[0] == after[0], "training flags"
    assert before[1] == after[1], "requires_grad"
    for old, new in zip(before[2], after[2], strict=True):
        assert (old is None) == (new is None) and (old is None or torch.equal(old, new)), "gradients"
    assert all(torch.equal(before[3][name], after[3][name]) for name in before[3]), "parameters or buffers"
    assert torch.equal(before[4], after[4]), "global random state"


def batch(n: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 3, 8, 8, generator=generator), torch.arange(n) % 5


ATTACKS = [pgd(EPS, steps=3), pgd(Threat("L2", 0.5), steps=3), *autoattack(EPS, 5)[:2]]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.name}-{attack.threat.norm}")
def test_B7_leaves_no_trace_and_stays_in_the_ball(attack: Attack) -> None:
    net = small()
    images, labels = batch()
    before = trace(net)
    adversarial = attack(net, images, labels, seed=3)
    assert_same(before, trace(net))
    assert not adversarial.requires_grad and adversarial.dtype == torch.float32
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    limit = attack.threat.eps + 1e-6 if attack.threat.norm == "Linf" else attack.threat.eps * (1 + 1e-5)
    assert distance(images, adversarial, attack.threat.norm).max() <= limit
    assert torch.equal(images, batch()[0]), "the images themselves were changed"


class Breaks(nn.Module):
    """Raises at its third forward pass, as an out-of-memory error or Ctrl-C would."""

    def __init__(self, net: nn.Module, problem: BaseException):
        super().__init__()
        self.net, self.problem, self.calls = net, problem, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == 3:
            raise self.problem
        return self.net(x)


@pytest.mark.parametrize("problem", [RuntimeError("out of memory"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
@pytest.mark.parametrize("attack", ATTACKS[:3:2], ids=lambda attack: attack.name)
def test_an_exception_in_the_middle_leaves_no_trace(attack: Attack, problem: BaseException) -> None:
    net = small()
    before = trace(net)
    with pytest.raises(type(problem)):
        attack(Breaks(net, problem), *batch(), seed=3)
    assert_same(before, trace(net))


def test_a_network_that_changes_its_buffers_in_evaluation_mode_is_put_back() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(192, 5)
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.linear(x.flatten(1))

    net = Counts()
    pgd(EPS, steps=2)(net, *batch(), seed=0)
    assert float(net.calls) == 0


@settings(max_examples=25, deadline=None)
@given(eps=st.floats(0.001, 0.5), steps=st.integers(1, 4), seed=st.integers(0, 10**6), start=st.booleans())
def test_B7_pgd_never_leaves_the_ball(eps: float, steps: int, seed: int, start: bool) -> None:
    images, labels = batch(4)
    adversarial = pgd(Threat("Linf", eps), steps=steps, random_start=start)(small(), images, labels, seed=seed)
    assert distance(images, adversarial, "Linf").max() <= eps + 1e-6
    assert adversarial.min() >= 0 and adversarial.max() <= 1


def test_the_seed_decides_everything() -> None:
    net, attack = small(), pgd(EPS, steps=2)
    torch.manual_seed(5)
    first = attack(net, *batch(), seed=1)
    torch.manual_seed(6)
    assert torch.equal(first, attack(net, *batch(), seed=1))
    assert not torch.equal(first, attack(net, *batch(), seed=2))


@pytest.mark.parametrize("threat, steps", [(Threat("Linf", 0.0), 5), (EPS, 0)])
def test_B5_nothing_to_do_returns_the_images(threat: Threat, steps: int) -> None:
    images, labels = batch()
    assert torch.equal(pgd(threat, steps=steps)(small(), images, labels, seed=0), images)


def test_B8_pgd_raises_the_loss(source, images) -> None:
    x, y = images
    adversarial = pgd(EPS, steps=10)(source.model, x, y, seed=0)
    with torch.no_grad(), frozen(source.model):
        clean, attacked = (nn.functional.cross_entropy(source.model(each), y) for each in (x, adversarial))
    assert attacked > clean


def test_B9_pgd_without_random_start_judges_each_image_alone(source, images) -> None:
    x, y = images
    attack = pgd(EPS, steps=5, random_start=False)
    together = attack(source.model, x[:8], y[:8], seed=0)
    alone = torch.cat([attack(source.model, x[i : i + 1], y[i : i + 1], seed=0) for i in range(8)])
    # the rounding of a sum may differ, and with it the sign of a gradient that is almost zero
    assert ((together - alone).abs() > 1e-5).float().mean() < 0.01
    with torch.no_grad(), frozen(source.model):
        assert torch.equal(source.model(together).argmax(1), source.model(alone).argmax(1))


def test_works_with_inputs_in_channels_last(source, images) -> None:
    x, y = images
    for attack in autoattack(EPS, 10)[:1]:
        plain = attack(source.model, x[:4], y[:4], seed=0)
        assert torch.equal(plain, attack(source.model, x[:4].to(memory_format=torch.channels_last), y[:4], seed=0))


@pytest.mark.parametrize(
    "bad", [torch.full((1, 3, 4, 4), 2.0), torch.full((1, 3, 4, 4), -1.0), torch.full((1, 3, 4, 4), torch.nan)]
)
def test_images_outside_the_range_are_refused(bad: torch.Tensor) -> None:
    with pytest.raises(AttackError, match=r"must lie in \[0, 1\]"):
        check_images(bad)


def test_images_of_another_type_are_refused() -> None:
    with pytest.raises(AttackError, match="float32"):
        check_images(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))


def test_a_result_outside_the_ball_is_an_error() -> None:
    clean = torch.full((1, 3, 4, 4), 0.5)
    for far, message in ((clean + 0.2, "left the ball"), (clean * torch.nan, "NaN"), (clean + 0.6, r"left \[0, 1\]")):
        with pytest.raises(AttackError, match=message):
            check_ball(clean, far, EPS, "test")


@pytest.mark.parametrize("classes, norm", [(3, "Linf"), (10, "L2")])
def test_autoattack_refuses_what_it_cannot_do_as_the_reference_does(classes: int, norm: str) -> None:
    with pytest.raises(BadValue, match="AutoAttack"):
        autoattack(Threat(norm, 0.5), classes)


def test_settings_are_the_reference_ones() -> None:
    ce, targeted, fab, square = autoattack(EPS, 100)
    assert [attack.name for attack in (ce, targeted, fab, square)] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert ce.settings["steps"] == targeted.settings["steps"] == fab.settings["steps"] == 100
    assert targeted.settings["n_classes"] == fab.settings["n_classes"] == 10, "nine targets, however many classes"
    assert square.settings["n_queries"] == 5000 and square.settings["resc_schedule"] is False
