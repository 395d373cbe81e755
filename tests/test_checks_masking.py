"""Signs of gradient masking: raised by every masked network, and by no healthy one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rtk.attacks import frozen, pgd
from rtk.checks import Check, before, cost, masking
from rtk.checks.signatures import NAMES
from rtk.threat import Threat

from . import masked_networks as networks

Images = tuple[Tensor, Tensor]
LARGE = Threat("Linf", 0.1)
SMALL = Threat("Linf", 0.05)


@pytest.fixture(scope="module")
def natural() -> nn.Module:
    """A naturally trained network: nearly nothing of it is left at Linf 0.1."""
    return networks.train(networks.plain_cnn, None, images=4000, epochs=6, lr=2e-3)


@pytest.fixture(scope="module")
def hardened() -> nn.Module:
    """The same network, trained on adversarial examples of Linf 0.05."""
    return networks.train(networks.plain_cnn, SMALL, images=3000, epochs=5, lr=2e-3)


def first(images: Images, count: int) -> Images:
    return images[0][:count], images[1][:count]


def raised(checks: list[Check]) -> dict[str, float | None]:
    return {check.name: check.value for check in checks if check.verdict in ("warning", "error")}


def accuracy(net: nn.Module, images: Images, steps: int) -> float:
    adversarial = pgd(LARGE, steps=steps)(net, *images, seed=0)
    with torch.no_grad(), frozen(net):
        return float((net(adversarial).argmax(1) == images[1]).float().mean())


def test_the_networks_are_what_they_are_called(source, natural, hardened, images) -> None:
    assert accuracy(natural, images, 0) > 0.75 and accuracy(natural, images, 20) < 0.2
    assert accuracy(hardened, images, 0) > 0.7 and accuracy(hardened, images, 20) > accuracy(natural, images, 20) + 0.2
    for mask in (networks.LargeLogits, networks.QuantisedInput):
        assert accuracy(mask(natural), images, 20) > 0.4, "PGD does not see through the mask"


@pytest.mark.parametrize(
    ("name", "threat"),
    [
        ("source", LARGE),
        ("natural", SMALL),
        ("hardened", Threat("L2", 1.0)),
    ],
    ids=lambda value: str(value).replace(" ", "-"),
)
def test_a_network_that_masks_nothing_raises_nothing(name: str, threat: Threat, images, request) -> None:
    net = request.getfixturevalue(name)
    net = net if isinstance(net, nn.Module) else net.model
    few = first(images, 32)
    found = [*before(net, *few, 10, seed=0), *masking(net, *few, threat, 10, seed=0)]
    assert raised(found) == {} and all(check.verdict == "ok" for check in found)


MASKED = [
    (
        networks.LargeLogits,
        {"zero-gradients-ce", "logit-scale", "loss-functions", "black-box", "unbounded-radius", "loss-rises", "noise"},
    ),
    (
        networks.QuantisedInput,
        {"zero-gradients-ce", "zero-gradients-dlr", "zero-pixels-dlr", "black-box", "finite-differences", "noise"},
    ),
    (networks.ShatteredInput, {"finite-differences", "unbounded-radius"}),
]


@pytest.mark.parametrize(("mask", "names"), MASKED, ids=lambda value: getattr(value, "__name__", ""))
def test_a_masked_network_is_caught(mask: Callable, names: set[str], natural, images) -> None:
    net, few = mask(natural), first(images, 32)
    assert raised(before(net, *few, 10, seed=0)) == {}, "only attacks can tell"
    assert names <= raised(masking(net, *few, LARGE, 10, seed=0)).keys()


@pytest.mark.slow
@pytest.mark.parametrize(("mask", "names"), MASKED, ids=lambda value: getattr(value, "__name__", ""))
def test_a_masked_network_is_caught_in_l2(mask: Callable, names: set[str], natural, images) -> None:
    """Slow because it attacks 64 images with everything, three times."""
    found = raised(masking(mask(natural), *first(images, 64), Threat("L2", 2.0), 10, seed=0))
    assert names - {"unbounded-radius", "noise"} <= found.keys()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["source", "natural", "hardened"])
@pytest.mark.parametrize(
    "threat", [Threat("Linf", 0.02), LARGE, Threat("L2", 1.5)], ids=lambda threat: str(threat).replace(" ", "-")
)
def test_no_false_alarm_on_other_images_seeds_and_radii(name: str, threat: Threat, seed: int, images, request) -> None:
    """Slow because each of the 27 cases attacks 64 images with everything, which takes up to ten seconds."""
    net = request.getfixturevalue(name)
    net = net if isinstance(net, nn.Module) else net.model
    some = slice(64 * seed, 64 * seed + 64)
    assert raised(masking(net, images[0][some], images[1][some], threat, 10, seed=seed)) == {}


def test_what_is_returned_is_complete_and_leaves_no_trace_and_does_not_depend_on_the_batch(natural, images) -> None:
    few, done = first(images, 30), []
    state, random = {name: value.clone() for name, value in natural.state_dict().items()}, torch.get_rng_state()
    natural.train()
    found = masking(natural, *few, SMALL, 10, seed=1, tick=done.append)
    assert natural.training and torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, state[name]) for name, value in natural.state_dict().items())
    assert sum(done) == cost(30) and min(done) >= 0
    assert tuple(check.name for check in found) == NAMES
    assert found == [Check.model_validate_json(check.model_dump_json()) for check in found]
    in_parts = masking(natural, *few, SMALL, 10, seed=1, batch=16)
    assert [check.verdict for check in found] == [check.verdict for check in in_parts]
    assert [check.value for check in found] == pytest.approx([check.value for check in in_parts], abs=1e-3)
    natural.eval()


@pytest.mark.parametrize(("right", "eps"), [(24, 0.0), (0, 0.1), (19, 0.1)])
def test_without_enough_to_attack_nothing_is_claimed(right: int, eps: float, natural, images) -> None:
    x = images[0][:24]
    with torch.no_grad():
        labels = natural(x).argmax(1)
    labels[right:] = (labels[right:] + 1) % 10
    done: list[float] = []
    found = masking(natural, x, labels, Threat("Linf", eps), 10, seed=0, tick=done.append)
    assert {check.verdict for check in found} == {"skipped"} and sum(done) == cost(24)
    assert ("The radius is 0" if eps == 0 else f"Only {right} of 24 images") in found[0].text
    assert tuple(check.name for check in found) == NAMES


def test_two_classes_have_no_dlr_loss(natural, images) -> None:
    class Two(networks.Wrapped):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)[:, :2]

    done: list[float] = []
    binary = images[1] < 2
    few = images[0][binary][:30], images[1][binary][:30]
    found = masking(Two(natural), *few, LARGE, 2, seed=0, tick=done.append)
    assert {check.name for check in found if check.verdict == "skipped"} == {
        "zero-gradients-dlr",
        "zero-pixels-dlr",
        "loss-functions",
    }
    assert sum(done) == cost(30)
