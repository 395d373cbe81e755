"""The attack adapter: what it returns, and that it leaves no trace."""

from __future__ import annotations

import copy
from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rtk.attacks import (
    Attack,
    apgd,
    apgd_t,
    autoattack,
    check_ball,
    check_images,
    distance,
    fab_t,
    frozen,
    label,
    pgd,
    square,
    trades_pgd,
)
from rtk.errors import AttackError, BadValue
from rtk.threat import Threat

EPS = Threat("Linf", 0.1)
BALLS = [EPS, Threat("L2", 1.0)]


def small(classes: int = 5) -> nn.Module:
    """A network with dropout and BatchNorm, some of it in evaluation mode, some parameters frozen."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Dropout(0.5), nn.Flatten(), nn.Linear(256, classes)),
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


def brief(threat: Threat, classes: int) -> tuple[Attack, ...]:
    """The attacks of AutoAttack with so few steps and queries that they take no time."""
    return (
        apgd(threat, steps=4),
        apgd_t(threat, classes, steps=4),
        fab_t(threat, classes, steps=3),
        square(threat, queries=20),
    )


ATTACKS = [
    attack
    for threat in BALLS
    for attack in (pgd(threat, steps=3), apgd(threat, loss="dlr", steps=4), *brief(threat, 5))
] + [trades_pgd(EPS, steps=3)]


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
@pytest.mark.parametrize("attack", [*ATTACKS[:3], trades_pgd(EPS, steps=3)], ids=lambda attack: attack.name)
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


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.name}-{attack.threat.norm}")
def test_works_with_images_and_networks_in_channels_last(source, images, attack: Attack) -> None:
    x, y = images[0][:6], images[1][:6]
    plain = attack(source.model, x, y, seed=0)
    assert torch.equal(plain, attack(source.model, x.to(memory_format=torch.channels_last), y, seed=0))
    turned = copy.deepcopy(source.model).to(memory_format=torch.channels_last)
    adversarial = attack(turned, x, y, seed=0)
    with torch.no_grad(), frozen(source.model):
        assert torch.equal(source.model(plain).argmax(1), source.model(adversarial).argmax(1))


@pytest.mark.parametrize("threat", BALLS, ids=lambda threat: threat.norm)
def test_a_smaller_batch_changes_no_verdict(source, images, threat: Threat) -> None:
    model, (x, y) = copy.deepcopy(source.model).eval(), (each[:8] for each in images)
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    for attack in (pgd(threat, steps=3), *brief(threat, 4)):
        whole = attack(model, x, y, seed=0)
        for batch_size in (1, 3, 7):
            sizes.clear()
            parts = attack(model, x, y, seed=0, batch=batch_size)
            assert max(sizes) == batch_size, attack.name
            with torch.no_grad():
                assert torch.equal(model(whole).argmax(1), model(parts).argmax(1)), (attack.name, batch_size)


@pytest.mark.parametrize("attack", [pgd(EPS, steps=2), *brief(EPS, 4)[:3]], ids=lambda attack: attack.name)
def test_a_smaller_batch_needs_less_memory(attack: Attack) -> None:
    """The highest sum of allocated bytes, with a network whose activations are much larger than the images."""
    wide = nn.Sequential(
        *(nn.Conv2d(3, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 128, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 4)),
    )
    x, y = torch.rand(32, 3, 16, 16), torch.arange(32) % 4

    def peak(batch_size: int | None) -> int:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as found:
            attack(wide, x, y, seed=0, batch=batch_size)
        events = [each for each in found.profiler.kineto_results.events() if each.name() == "[memory]"]
        return max(accumulate(each.nbytes() for each in sorted(events, key=lambda each: each.start_ns())))

    peak(None)  # the first run also allocates what the libraries keep
    assert peak(4) < peak(None) / 4


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(BadValue, match="got 0"):
        pgd(EPS, steps=1)(small(), *batch(), seed=0, batch=0)


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


@pytest.mark.parametrize("threat", BALLS, ids=lambda threat: threat.norm)
@pytest.mark.parametrize("classes", [2, 3, 4, 5, 9, 10, 100])
def test_every_number_of_classes(classes: int, threat: Threat) -> None:
    net, (x, _) = small(classes), batch()
    with torch.no_grad(), frozen(net):
        y = net(x).argmax(1)  # every image is right, so every attack has all of them to break
    for attack, standard in zip(brief(threat, classes), autoattack(threat, classes), strict=True):
        assert {**attack.settings, "steps": 0, "n_queries": 0} == {**standard.settings, "steps": 0, "n_queries": 0}
        adversarial = attack(net, x, y, seed=0)
        with torch.no_grad(), frozen(net):
            assert (net(adversarial).argmax(1) != y).any(), f"{attack.name} breaks nothing"
    targeted = autoattack(threat, classes)[1:3]
    assert [attack.settings["n_classes"] for attack in targeted] == [min(10, classes)] * 2, "at most nine targets"


def test_a_name_says_what_ran() -> None:
    for classes in (4, 5, 10, 1000):
        assert label(autoattack(EPS, classes)) == "AutoAttack standard"
    assert label(autoattack(EPS, 3)) == "APGD-CE + APGD-T (CE) + FAB-T + Square"
    assert label(autoattack(EPS, 10)[:2]) == "APGD-CE + APGD-T"
    assert label(brief(EPS, 10)) == "APGD-CE (4) + APGD-T (4) + FAB-T (3) + Square (20)"
    assert label([pgd(EPS, steps=20)]) == "pgd20"
    ce, targeted, _, black = autoattack(EPS, 10)
    assert "standard" not in label([ce, targeted, fab_t(EPS, 5), black]), "other targets"
    assert "standard" not in label([ce, targeted, *autoattack(Threat("L2", 0.1), 10)[2:]]), "two threats"


@pytest.mark.parametrize("classes", [1, 0])
def test_one_class_cannot_be_attacked(classes: int) -> None:
    with pytest.raises(BadValue, match="2 classes"):
        autoattack(EPS, classes)


def test_the_dlr_loss_says_that_it_needs_three_classes() -> None:
    with pytest.raises(BadValue, match="3 classes"):
        apgd(EPS, loss="dlr", steps=2)(small(2), batch()[0], batch()[1] % 2, seed=0)


def test_an_attack_of_no_steps_or_an_unknown_loss_is_refused() -> None:
    for ask in (lambda: apgd(EPS, steps=0), lambda: square(EPS, queries=0), lambda: apgd(EPS, loss="mse")):  # type: ignore[arg-type]
        with pytest.raises(BadValue, match="got"):
            ask()


@settings(max_examples=20, deadline=None)
@given(height=st.integers(2, 20), width=st.integers(2, 20), norm=st.sampled_from(["Linf", "L2"]))
def test_square_takes_images_of_every_shape(height: int, width: int, norm: str) -> None:
    """`Attack` itself checks that they stay in the ball."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * height * width, 4))
    x = torch.rand(3, 3, height, width)
    with torch.no_grad():
        y = net(x).argmax(1)
    adversarial = square(Threat(norm, 0.01), queries=15)(net, x, y, seed=0)
    assert adversarial.shape == x.shape


def test_settings_are_the_reference_ones() -> None:
    ce, targeted, fab, square = autoattack(EPS, 100)
    assert [attack.name for attack in (ce, targeted, fab, square)] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert ce.settings["steps"] == targeted.settings["steps"] == fab.settings["steps"] == 100
    assert targeted.settings["n_classes"] == fab.settings["n_classes"] == 10, "nine targets, however many classes"
    assert square.settings["n_queries"] == 5000 and square.settings["resc_schedule"] is False


class MovesBuffers(nn.Module):
    """BatchNorm in training mode whatever the mode, and a buffer that is another tensor after each forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.register_buffer("last", torch.zeros(3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.norm.train()
        self.last = images.mean((0, 2, 3))
        return self.norm(images).mean((2, 3))


def test_buffers_are_put_back_by_value_and_identity() -> None:
    net = nn.Sequential(MovesBuffers(), nn.Linear(3, 5))
    buffers = dict(net.named_buffers())
    values = {name: value.clone() for name, value in buffers.items()}
    with frozen(net), torch.no_grad():
        net(torch.rand(4, 3, 8, 8))
        assert not torch.equal(net[0].norm.running_mean, values["0.norm.running_mean"])
        assert net[0].last is not buffers["0.last"]
    for name, value in net.named_buffers():
        assert value is buffers[name] and torch.equal(value, values[name]), name


def test_a_graph_through_a_buffer_survives_an_attack_in_between() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 5)).eval()
    x, y = batch()
    loss = nn.functional.cross_entropy(net(x), y)
    pgd(EPS, steps=2)(net, x, y, seed=0)
    loss.backward()
    assert net[2].weight.grad is not None
