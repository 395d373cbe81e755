"""The network on which attacks search computes what the judged one does, or is the judged one."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rtk.attacks import pgd
from rtk.backbones import Classifier
from rtk.backbones.folded import LOGITS, fold
from rtk.evaluation import judge
from rtk.threat import Threat

from . import masked_networks as networks
from .backbones_planted import from_timm, from_zoo

FOLDED: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "ResNet-18": (from_zoo("cifar10", "Linf", "Addepalli2022Efficient_RN18"), 20),
    "WRN-28-10": (from_zoo("cifar10", "Linf", "Carmon2019Unlabeled"), 21),  # what stands before a sum is not folded
}


@pytest.mark.parametrize("name", FOLDED)
def test_a_folded_network_gives_the_same_logits_and_gradients(name: str) -> None:
    torch.manual_seed(0)
    build, layers = FOLDED[name]
    model, images = Classifier(build()).train(), torch.rand(8, 3, 32, 32)
    with torch.no_grad():
        model(torch.rand(16, 3, 32, 32))  # so that statistics are not those of a new network
    model.eval()
    found, folding = fold(model, images)
    assert folding.layers == layers and folding.difference <= LOGITS
    answers = []
    for network in (model, found):
        leaf = images.clone().requires_grad_()
        logits = network(leaf)
        (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum(), leaf)
        answers.append((logits.detach(), gradient.flatten(1)))
    assert torch.allclose(answers[0][0], answers[1][0], rtol=1e-4, atol=1e-4)
    assert (functional.cosine_similarity(answers[0][1], answers[1][1]) > 0.99).all()


def test_the_network_is_left_as_it_was(source) -> None:
    model = copy.deepcopy(source.model).train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    needed = [parameter.requires_grad for parameter in model.parameters()]
    found, folding = fold(model, torch.rand(4, 3, 32, 32))
    assert folding.layers > 0
    assert all(module.training for module in model.modules()) and not any(each.training for each in found.modules())
    assert [parameter.requires_grad for parameter in model.parameters()] == needed
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        model.net.fc.weight.zero_()
    assert found.net.fc.weight.abs().sum() > 0, "weights are its own"


class NoGradient(networks.Wrapped):
    """A part of it without gradients, which tracing does not see."""

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            known = self.net(images)
        return known + images.flatten(1)[:, :10] / 100


class Draws(networks.Wrapped):
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images + 0.01 * torch.randn_like(images))


class Branches(networks.Wrapped):
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images if images.mean() > 0.5 else 1 - images)


@pytest.mark.parametrize("kind", [NoGradient, Draws, Branches])
def test_what_tracing_does_not_see_is_not_folded(source, kind: type[networks.Wrapped]) -> None:
    model = Classifier(kind(source.model.net)).eval()
    found, folding = fold(model, torch.rand(4, 3, 32, 32))
    assert found is model and folding.layers == 0


def test_networks_with_nothing_to_fold_are_themselves() -> None:
    for net in (networks.plain_cnn(), from_timm("resnet50_gn", num_classes=10)()):
        model = Classifier(net).eval()
        assert fold(model, torch.rand(2, 3, 32, 32))[0] is model
    plain = networks.plain_cnn()
    assert fold(plain, torch.rand(2, 3, 32, 32))[0] is plain


def test_verdicts_are_those_of_an_attack_on_the_network_itself(source, images, monkeypatch: pytest.MonkeyPatch) -> None:
    attacks, few = (pgd(Threat("Linf", 0.1), steps=5),), (images[0][:64], images[1][:64])
    folded = judge(source.model, *few, attacks, 0)
    assert folded.facts["folding"]["layers"] == 9
    monkeypatch.setattr("rtk.evaluation.cascade.fold", lambda model, images: (model, fold(nn.Identity(), images)[1]))
    plain = judge(source.model, *few, attacks, 0)
    assert plain.facts["folding"]["layers"] == 0
    assert folded.verdicts == plain.verdicts and 0 < sum(plain.verdicts["pgd5"]) < sum(plain.verdicts["clean"])
