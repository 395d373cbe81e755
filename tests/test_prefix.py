"""Cutting a network at a weight: the two parts are the whole, and the first does not depend on the weight."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from rtk.backbones import Classifier
from rtk.backbones.prefix import Operations

from .backbones_planted import from_timm, from_zoo

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-18": from_zoo("cifar10", "Linf", "Addepalli2022Efficient_RN18"),
    "PreActResNet-18": from_zoo("cifar10", "Linf", "Wong2020Fast"),
    "ConvNeXt": from_timm("convnext_atto", num_classes=10),
    "ViT": from_timm("vit_tiny_patch16_224", num_classes=10, img_size=32, patch_size=4),
    "ResNet-GN": from_timm("resnet50_gn", num_classes=10),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_parts_are_the_whole(name: str) -> None:
    torch.manual_seed(0)
    model = Classifier(NETWORKS[name]()).eval()
    images = torch.rand(4, 3, 32, 32)
    operations = Operations.of(model, torch.rand(5, 3, 32, 32))
    assert operations is not None
    weights = {name: weight for name, weight in model.net.named_parameters() if weight.ndim >= 2}
    whole, felt = model(images), []
    for name, weight in list(weights.items())[:: max(1, len(weights) // 8)]:
        parts = operations.split_at(name)
        assert parts is not None
        before, after = parts
        values = before(images)
        assert torch.equal(after(*values), whole)
        assert all(len(value) == len(images) for value in values)
        moved = {f"net.{name}": weight.detach() * 1.5}
        expected = torch.func.functional_call(model, moved, images)
        assert torch.equal(torch.func.functional_call(after, moved, values), expected)
        felt.append(not torch.equal(expected, whole))
    assert any(felt)  # not all: a branch whose last norm begins at zero says nothing yet


def test_the_classifier_needs_the_features_alone(source) -> None:
    operations = Operations.of(source.model, torch.rand(5, 3, 32, 32))
    assert operations is not None
    before, after = operations.split_at(f"{source.structure.head}.weight") or pytest.fail("the classifier is used")
    images = torch.rand(3, 3, 32, 32)
    (features,) = before(images)
    assert torch.equal(features, source.structure.features(source.model, images)[1])
    assert len(after.nodes) == 1


def test_a_network_is_left_as_it_was(source) -> None:
    modes = [module.training for module in source.model.train().modules()]
    Operations.of(source.model, torch.rand(5, 3, 32, 32))
    assert [module.training for module in source.model.modules()] == modes
    source.model.eval()


class Branching(nn.Module):
    """What it computes depends on the values of the images, so that no list of operations is right for all."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(48, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(images.flatten(1) if images.mean() > 0.5 else -images.flatten(1))


def test_what_cannot_be_traced_is_not_cut() -> None:
    assert Operations.of(Classifier(Branching()), torch.rand(5, 3, 4, 4)) is None


def test_a_weight_that_is_not_used_cuts_nothing() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 4))
    operations = Operations.of(Classifier(net), torch.rand(5, 3, 4, 4))
    assert operations is not None
    assert operations.split_at("unused.weight") is None
