"""Finding the classifier, the blocks and the norm layers; what happens when they cannot be found."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from rtk.backbones import Block, Classifier, SmallResNet, inspect, open_backbone, opening
from rtk.backbones.norms import NormAudit, audit
from rtk.errors import BadBackbone, BadValue, UnknownName

from .backbones_planted import images


class Sum(nn.Module):
    """Two branches on the same input, numbered like blocks: no chain."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList([_Pair(), _Pair()])
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc((self.branches[0](x) + self.branches[1](x)).mean((2, 3)))


class _Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 5)
        self.head_dist = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x).mean((2, 3))
        return (self.head(x) + self.head_dist(x)) / 2


class ConvClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3))


class Drawing(SmallResNet):
    """Draws random numbers and moves a buffer even in eval mode."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x + 0 * torch.rand(1))


class Shell(SmallResNet):
    """Holds a parameter in a module that is never called, though its child is; and a module that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.shell = _Pair()
        self.shell.scale = nn.Parameter(torch.ones(()))
        self.idle = nn.Sequential(nn.Linear(2, 2), _Pair())

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.shell.conv(x)[:, :3] * self.shell.scale)


def small() -> Classifier:
    return Classifier(SmallResNet())


@pytest.mark.parametrize(
    ("uri", "length", "norms"),
    [
        ("torchvision:vit_b_16", 14, "25 LayerNorm"),
        ("torchvision:swin_t", 14, "29 LayerNorm"),
        ("torchvision:efficientnet_b0", 18, "49 BatchNorm"),
        ("torchvision:densenet121", 60, "121 BatchNorm"),
        ("timm:regnetx_002", 14, "44 BatchNorm"),
        ("timm:resnest14d", 5, "23 BatchNorm"),
    ],
)
def test_further_architectures(uri: str, length: int, norms: str) -> None:
    structure = open_backbone(uri, weights="random").structure
    assert (len(structure.blocks), str(structure.norms)) == (length, norms)


def test_a_downsampling_layer_joins_the_next_block() -> None:
    blocks = open_backbone("timm:convnext_atto", weights="random").structure.blocks
    joined = next(block for block in blocks if block.name == "stages.1.blocks.0")
    assert joined.modules == ("stages.1.downsample.0", "stages.1.downsample.1", "stages.1.blocks.0")


def test_inspection_leaves_the_model_as_it_was() -> None:
    model = Classifier(Drawing()).train()
    model.net.layer1.eval()  # type: ignore[union-attr]
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    structure = inspect(model, images(1))
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert len(structure.blocks) == 4


def test_a_frozen_model_is_inspected_too() -> None:
    assert inspect(small().requires_grad_(False), images(1)).blocks == inspect(small(), images(1)).blocks


def test_parameters_outside_of_layers_and_idle_modules_have_a_place() -> None:
    structure = inspect(Classifier(Shell()), images(1))
    assert structure.unused == ("shell.norm", "idle")
    assert {"shell.conv", "shell.scale"} <= set(structure.stem)


def test_the_last_blocks_grow_from_the_classifier() -> None:
    structure = inspect(small(), images(1))
    assert [block.name for block in structure.last(2)] == ["layer3.0", "fc"]
    assert structure.last(4) == structure.blocks
    for count in (0, 5, -1):
        with pytest.raises(BadValue, match="1 to 4"):
            structure.last(count)


def test_parameters_are_found_by_module_and_by_name() -> None:
    model = small()
    structure = inspect(model, images(1))
    assert structure.parameters_in(["fc"]) == ("fc.weight", "fc.bias")
    assert structure.parameters_in(["fc.bias", "layer1.0.bn1"]) == (
        "layer1.0.bn1.weight",
        "layer1.0.bn1.bias",
        "fc.bias",
    )
    assert structure.parameters_in(["layer"]) == ()
    assert structure.named_parameters(model, ["fc"])["fc.weight"] is model.net.fc.weight  # type: ignore[union-attr]


def test_branches_side_by_side_are_no_chain() -> None:
    structure = inspect(Classifier(Sum()), images(1))
    assert structure.head == "fc"
    for ask in (lambda: structure.blocks, lambda: structure.last(1)):
        with pytest.raises(BadBackbone, match="--blocks NAME,NAME"):
            ask()


def test_blocks_can_be_named_in_any_order() -> None:
    structure = inspect(small(), images(1), blocks=["layer3", "layer1.0", "layer2"])
    assert [block.name for block in structure.blocks] == ["layer1.0", "layer2", "layer3", "fc"]
    partial = inspect(small(), images(1), blocks=["layer2", "fc"])
    assert partial.blocks[0] == Block("layer2", ("layer2",))
    assert partial.blocks[-1] == Block("fc", ("fc",))
    assert partial.stem[:2] == ("conv1", "bn1")


@pytest.mark.parametrize(
    ("blocks", "error", "message"),
    [
        (["layer9"], UnknownName, "Unknown block 'layer9'. Did you mean 'layer"),
        (["layer1", "layer1.0"], BadBackbone, "must not overlap"),
        (["layer1", "layer1"], BadBackbone, "each name once"),
        ([], BadBackbone, "at least one"),
        (["layer1.0.shortcut.0"], UnknownName, "Unknown block"),
    ],
)
def test_wrong_blocks_are_refused(blocks: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        inspect(small(), images(1), blocks=blocks)


def test_an_ambiguous_classifier_is_asked_for() -> None:
    with pytest.raises(BadBackbone, match=r"several layers could be it. Candidates: head, head_dist.*--head"):
        inspect(Classifier(TwoHeads()), images(1))
    assert inspect(Classifier(TwoHeads()), images(1), head="head").head == "head"


def test_a_convolution_as_classifier_is_refused() -> None:
    with pytest.raises(BadBackbone, match=r"no nn\.Linear"):
        inspect(Classifier(ConvClassifier()), images(1))


@pytest.mark.parametrize(("head", "error"), [("fcc", UnknownName), ("layer1", BadBackbone), ("", UnknownName)])
def test_a_wrong_head_is_refused(head: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="--head"):
        inspect(small(), images(1), head=head)


def test_an_output_that_is_not_logits_is_refused() -> None:
    with pytest.raises(BadBackbone, match="logits"):
        inspect(Classifier(nn.Conv2d(3, 4, 3)), images(1))
    with pytest.raises(BadBackbone, match="fails on images of shape"):
        inspect(Classifier(SmallResNet(in_channels=1)), images(1))


def test_norm_layers_are_counted_by_kind() -> None:
    from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d, GroupNorm1, LayerNorm2d, RmsNorm
    from torchvision.ops import FrozenBatchNorm2d

    layers = [nn.BatchNorm2d(4), BatchNormAct2d(4), nn.BatchNorm2d(4, track_running_stats=False), nn.SyncBatchNorm(4)]
    layers += [FrozenBatchNorm2d(4), FrozenBatchNormAct2d(4), nn.LayerNorm(4), LayerNorm2d(4), nn.GroupNorm(2, 4)]
    layers += [GroupNorm1(4), nn.InstanceNorm2d(4), nn.RMSNorm(4), RmsNorm(4), nn.Linear(4, 4), nn.ReLU()]
    found = audit(layers)
    assert found == NormAudit(2, 1, 2, 1, 2, 2, 1, 2)
    assert found.running_statistics == 3
    assert str(NormAudit()) == "no normalisation layers"
    assert str(NormAudit(batch=1, layer=2)) == "1 BatchNorm, 2 LayerNorm"


def test_resizing_and_normalising_are_inside_and_outside_the_state() -> None:
    net = SmallResNet().eval()
    model = Classifier(net, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), (24, 16)).eval()
    batch = images(2, 32).requires_grad_()
    resized = nn.functional.interpolate(batch, (24, 16), mode="bilinear", align_corners=False)
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    logits = model(batch)
    torch.testing.assert_close(logits, net((resized - mean) / std))
    (gradient,) = torch.autograd.grad(logits.sum(), batch)
    assert gradient.abs().sum() > 0
    assert all(name.startswith("net.") for name in model.state_dict())
    assert list(model.native_state()) == list(net.state_dict())


def test_the_small_resnet_is_the_documented_one() -> None:
    net = SmallResNet()
    assert sum(parameter.numel() for parameter in net.parameters()) == 78_042
    assert sum(parameter.ndim > 1 for parameter in net.parameters()) == 10
    assert net(images(2, 28)).shape == (2, 10)


def test_inception_gives_logits_while_training() -> None:
    model = open_backbone("torchvision:googlenet", weights="random", classes=3).model.train()
    assert model(images(2)).shape == (2, 3)


class Views(nn.Module):
    """Takes a view of its activations, which only the usual memory layout allows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 8 * 8, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(images).view(len(images), -1))


@pytest.mark.parametrize(("net", "innermost"), [(Views, False), (SmallResNet, True)])
def test_channels_are_innermost_where_the_network_takes_it(
    net: type[nn.Module], innermost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(opening._SOURCES, "made", lambda: SimpleNamespace(build=lambda spec: net()))
    spec = {"family": "made", "mean": None, "std": None, "size": [8, 8], "classes": 10, "native_classes": 10}
    model = opening._build(spec)
    assert model.channels_last is innermost
    assert model(torch.rand(3, 3, 8, 8)).shape[0] == 3
