"""Real architectures with planted random weights, built straight from their libraries, to compare loading with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from rtk.backbones import SmallResNet, zoo

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
FASHION = ((0.2190,) * 3, (0.3318,) * 3)


@dataclass(frozen=True)
class Case:
    """One architecture and what is known about it."""

    uri: str
    build: Callable[[], nn.Module]
    length: int
    norms: str
    head: str
    features: int
    size: int = 32
    normalise: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    unused: tuple[str, ...] = ()


def from_zoo(dataset: str, norm: str, name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        tables = zoo.import_robustbench().model_dicts
        found = {(d.value, t.value): models for d, threats in tables.items() for t, models in threats.items()}
        return found[dataset, norm][name]["model"]()

    return build


def from_timm(name: str, **options: object) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        zoo.import_robustbench()  # registers the XCiT networks
        return timm.create_model(name, pretrained=False, **options)

    return build


def from_torchvision(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import torchvision

        return torchvision.models.get_model(name, weights=None)

    return build


def zoo_case(path: str, length: int, norms: str, head: str, features: int, **more: object) -> Case:
    dataset, norm, name = path.split("/")
    return Case(f"robustbench:{path}", from_zoo(dataset, norm, name), length, norms, head, features, **more)  # type: ignore[arg-type]


XCIT = "debenedetti2022light_xcit_s12_cifar10_linf"
CASES = [
    Case("rtk:fashion-resnet", SmallResNet, 4, "9 BatchNorm", "fc", 64, normalise=FASHION),
    zoo_case("cifar10/Linf/Addepalli2022Efficient_RN18", 9, "20 BatchNorm", "linear", 512),
    zoo_case("cifar10/Linf/Wong2020Fast", 9, "16 BatchNorm", "linear", 512),
    zoo_case("cifar100/Linf/Rice2020Overfitting", 10, "17 BatchNorm", "linear", 512),
    zoo_case("cifar10/Linf/Rade2021Helper_R18_ddpm", 10, "17 BatchNorm", "logits", 512),
    zoo_case("cifar10/Linf/Carmon2019Unlabeled", 14, "25 BatchNorm", "fc", 640, unused=("sub_block1",)),
    zoo_case("cifar10/Linf/Addepalli2022Efficient_WRN_34_10", 17, "31 BatchNorm", "fc", 640),
    zoo_case("imagenet/Linf/Salman2020Do_R18", 9, "20 BatchNorm", "model.fc", 512, size=224),
    Case(
        "robustbench:cifar10/Linf/Debenedetti2022Light_XCiT-S12",
        from_timm(XCIT, num_classes=10),
        16,
        "16 BatchNorm, 41 LayerNorm",
        "model.head",
        384,
    ),
    Case("timm:resnet18", from_timm("resnet18"), 9, "20 BatchNorm", "fc", 512, 224, IMAGENET),
    Case("timm:resnet50_gn", from_timm("resnet50_gn"), 17, "53 GroupNorm", "fc", 2048, 224, IMAGENET),
    Case("timm:convnext_atto", from_timm("convnext_atto"), 14, "17 LayerNorm", "head.fc", 320, 224, IMAGENET),
    Case("timm:vit_tiny_patch16_224", from_timm("vit_tiny_patch16_224"), 14, "25 LayerNorm", "head", 192, 224, HALF),
    Case(
        "timm:swin_tiny_patch4_window7_224",
        from_timm("swin_tiny_patch4_window7_224"),
        14,
        "29 LayerNorm",
        "head.fc",
        768,
        224,
        IMAGENET,
    ),
    Case("torchvision:resnet18", from_torchvision("resnet18"), 9, "20 BatchNorm", "fc", 512, 224, IMAGENET),
]


def plant(case: Case, folder: Path) -> tuple[nn.Module, Path]:
    """The network of `case` with weights that no initialisation gives, and the file that holds them."""
    net = case.build().eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim <= 1 and name.rsplit(".", 1)[-1] not in ("mu", "sigma"):
                tensor.add_(torch.rand(tensor.shape, generator=generator), alpha=0.1)
    path = folder / "planted.pt"
    torch.save({"state_dict": net.state_dict()}, path)
    return net, path


def images(count: int = 2, side: int = 32) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def reference_logits(case: Case, net: nn.Module, batch: Tensor) -> Tensor:
    """What `net` gives, with resizing and normalisation written out."""
    if batch.shape[-1] != case.size:
        batch = nn.functional.interpolate(batch, (case.size, case.size), mode="bilinear", align_corners=False)
    if case.normalise is not None:
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in case.normalise)
        batch = (batch - mean) / std
    return net(batch)
