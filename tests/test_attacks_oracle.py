"""Every attack of AutoAttack against the reference implementation, image by image and bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.reference_verdicts import CLASSES, Case, cases, compare, reference, robust
from rtk.attacks import apgd, apgd_t, autoattack, fab_t, square
from rtk.threat import Norm, Threat

STEPS, QUERIES = 20, 80
"""Of both sides, in the tests that run by default."""


@pytest.fixture(scope="module")
def networks() -> dict[str, Case]:
    """A BatchNorm ResNet, a vision transformer and a plain convolutional network; two are trained for some seconds."""
    return {case.name: case for case in cases()}


def assert_same(
    model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, classes: int = CLASSES, seed: int = 0
) -> set[str]:
    """Few steps and queries of every attack give the reference's images, and so its verdicts.

    Returns:
        The attacks that broke an image: the others return the clean ones, and are equal to anything that fails.
    """
    oracle = reference(model, threat, classes, seed=seed, steps=STEPS, queries=QUERIES)
    if classes < 4:  # what the reference has for this case, and does not use
        oracle["apgd-t-ce"] = oracle["apgd-t"]
        oracle["apgd-t-ce"].dlr_loss_targeted = oracle["apgd-t"].ce_loss_targeted
    attacks = [
        apgd(threat, steps=STEPS),
        *([apgd(threat, loss="dlr", steps=STEPS)] if classes > 2 else []),
        apgd_t(threat, classes, steps=STEPS),
        fab_t(threat, classes, steps=STEPS),
        square(threat, queries=QUERIES),
    ]
    broke = set()
    for attack in attacks:
        with torch.random.fork_rng(devices=[]):
            expected = oracle[attack.name].perturb(images.clone(), labels.clone())
        found = attack(model, images, labels, seed=seed)
        assert torch.equal(robust(model, found, labels), robust(model, expected, labels)), f"verdicts of {attack.name}"
        assert torch.equal(found, expected), f"images of {attack.name}"
        if not torch.equal(found, images):
            broke.add(attack.name)
    return broke


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("name", ["resnet", "vit", "plain"])
def test_equals_the_reference(networks: dict[str, Case], name: str, norm: Norm) -> None:
    case = networks[name]
    broke = assert_same(case.model, *case.images(10), Threat(norm, case.eps[norm][2]))
    assert broke >= {"apgd-ce", "apgd-t"}


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("name", ["resnet", "vit", "plain"])
def test_the_comparison_has_images_that_break_and_images_that_do_not(
    networks: dict[str, Case], name: str, norm: Norm
) -> None:
    case = networks[name]
    images, labels = case.images(60)
    attacked = apgd(Threat(norm, case.eps[norm][1]), steps=30)(case.model, images, labels, seed=0)
    before, after = (int(robust(case.model, each, labels).sum()) for each in (images, attacked))
    assert 6 <= after <= 54 and after < before


class First(nn.Module):
    """The first few logits of a network."""

    def __init__(self, net: nn.Module, classes: int):
        super().__init__()
        self.net, self.classes = net, classes

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[:, : self.classes]


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_equals_the_reference_with_few_classes(networks: dict[str, Case], classes: int, norm: Norm) -> None:
    case = networks["plain"]
    model = First(case.model, classes).eval()
    images, _ = case.images(8)
    with torch.no_grad():
        labels = model(images).argmax(1)
    broke = assert_same(model, images, labels, Threat(norm, 2 * case.eps[norm][2]), classes)
    assert broke >= {"apgd-ce", "apgd-t" if classes >= 4 else "apgd-t-ce", "square"}


@pytest.mark.parametrize("norm, eps", [("Linf", 0.05), ("L2", 1.5)])
@pytest.mark.parametrize("shape", [(8, 32), (32, 8), (16, 24)])
def test_equals_the_reference_on_images_that_are_not_square(shape: tuple[int, int], norm: Norm, eps: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(6)).eval()
    images = torch.rand(6, 3, *shape)
    with torch.no_grad():
        labels = model(images).argmax(1)
    broke = assert_same(model, images, labels, Threat(norm, eps), 6)
    assert broke >= {"apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("name", ["resnet", "vit", "plain"])
def test_all_of_autoattack_equals_the_reference(
    networks: dict[str, Case], name: str, norm: Norm, level: int, seed: int
) -> None:
    """All iterations and queries, each attack alone and their cascade; slow because FAB and Square take minutes."""
    case = networks[name]
    threat = Threat(norm, case.eps[norm][level])
    cell = compare(case, threat, 16, seed)
    assert set(cell["differences"].values()) == {0} and cell["robust"][0] == cell["robust"][1]
    assert cell["same bits"] == len(autoattack(threat, CLASSES))
