"""Which backbones there are, without importing torch: names for listings and for did-you-mean.

A backbone is named by a URI `SOURCE:NAME`. The sources are

    rtk:NAME                                embedded in the package
    robustbench:DATASET/THREAT/NAME         the RobustBench model zoo
    timm:NAME                               any classification model of timm
    torchvision:NAME                        any classification model of torchvision
    run:DIR                                 the result of an earlier run
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from ..errors import BadBackbone, UnknownName
from ..threat import Norm, Threat

SOURCES = ("rtk", "robustbench", "timm", "torchvision", "run")
EXAMPLE = "rtk finetune --backbone rtk:fashion-resnet"

# What an embedded backbone is, independent of whether its weights are installed; NAME.json beside the weights may say
# more (recipe, licence, sha256 of the file) and overrides this.
_EMBEDDED: dict[str, dict[str, Any]] = {
    "fashion-resnet": {
        "architecture": "small-resnet",
        "classes": 10,
        # Fashion-MNIST zero-padded from 28x28 to 32x32: its own 0.2860 / 0.3530 diluted by the border.
        "mean": [0.2190, 0.2190, 0.2190],
        "std": [0.3318, 0.3318, 0.3318],
        "size": [32, 32],
        "threat": {"norm": "Linf", "eps": 0.1},
        "dataset": "fashion",
    },
}

# The radius of each RobustBench leaderboard, in [0, 1] pixels.
_RADIUS: dict[tuple[str, Norm], float] = {
    ("cifar10", "Linf"): 8 / 255,
    ("cifar10", "L2"): 0.5,
    ("cifar100", "Linf"): 8 / 255,
    ("imagenet", "Linf"): 4 / 255,
    ("imagenet", "L2"): 3.0,
}
ZOO_CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}

# Several networks whose probabilities are mixed: there is no classifier to fine-tune.
ENSEMBLES = frozenset({"Chen2020Adversarial", "Bai2023Improving_edm", "Bai2023Improving_trades", "Bai2024MixedNUTS"})
# Trained on clean images only; in the zoo as the non-robust reference.
NOT_ROBUST = frozenset({"Standard", "Standard_R50"})

# The Linf and L2 identifiers of robustbench 1.1.1; a test compares them with the installed package.
_ZOO = {
    ("cifar10", "Linf"): """
        Addepalli2021Towards_RN18 Addepalli2021Towards_WRN34 Addepalli2022Efficient_RN18
        Addepalli2022Efficient_WRN_34_10 Amini2024MeanSparse_Ra_WRN_70_16 Amini2024MeanSparse_S-WRN-94-16
        Andriushchenko2020Understanding Bai2023Improving_edm Bai2024MixedNUTS Bartoldson2024Adversarial_WRN-82-8
        Bartoldson2024Adversarial_WRN-94-16 Carmon2019Unlabeled Chen2020Adversarial Chen2020Efficient
        Chen2021LTD_WRN34_10 Chen2021LTD_WRN34_20 Chen2024Data_WRN_34_10 Chen2024Data_WRN_34_20
        Cui2020Learnable_34_10 Cui2020Learnable_34_20 Cui2023Decoupled_WRN-28-10 Cui2023Decoupled_WRN-34-10
        Dai2021Parameterizing Debenedetti2022Light_XCiT-L12 Debenedetti2022Light_XCiT-M12
        Debenedetti2022Light_XCiT-S12 Ding2020MMA Engstrom2019Robustness Gowal2020Uncovering_28_10_extra
        Gowal2020Uncovering_34_20 Gowal2020Uncovering_70_16 Gowal2020Uncovering_70_16_extra
        Gowal2021Improving_28_10_ddpm_100m Gowal2021Improving_70_16_ddpm_100m Gowal2021Improving_R18_ddpm_100m
        Hendrycks2019Using Huang2020Self Huang2021Exploring Huang2021Exploring_ema Huang2022Revisiting_WRN-A4
        Jia2022LAS-AT_34_10 Jia2022LAS-AT_70_16 Kang2021Stable Pang2020Boosting Pang2022Robustness_WRN28_10
        Pang2022Robustness_WRN70_16 Peng2023Robust Rade2021Helper_R18_ddpm Rade2021Helper_R18_extra
        Rade2021Helper_ddpm Rade2021Helper_extra Rebuffi2021Fixing_106_16_cutmix_ddpm
        Rebuffi2021Fixing_28_10_cutmix_ddpm Rebuffi2021Fixing_70_16_cutmix_ddpm Rebuffi2021Fixing_70_16_cutmix_extra
        Rebuffi2021Fixing_R18_ddpm Rice2020Overfitting Sehwag2020Hydra Sehwag2021Proxy Sehwag2021Proxy_R18
        Sehwag2021Proxy_ResNest152 Sitawarin2020Improving Sridhar2021Robust Sridhar2021Robust_34_15 Standard
        Wang2020Improving Wang2023Better_WRN-28-10 Wang2023Better_WRN-70-16 Wong2020Fast Wu2020Adversarial
        Wu2020Adversarial_extra Xu2023Exploring_WRN-28-10 Zhang2019Theoretically Zhang2019You Zhang2020Attacks
        Zhang2020Geometry
    """,
    ("cifar10", "L2"): """
        Amini2024MeanSparse_S-WRN-70-16 Augustin2020Adversarial Augustin2020Adversarial_34_10
        Augustin2020Adversarial_34_10_extra Ding2020MMA Engstrom2019Robustness Gowal2020Uncovering
        Gowal2020Uncovering_extra Rade2021Helper_R18_ddpm Rebuffi2021Fixing_28_10_cutmix_ddpm
        Rebuffi2021Fixing_70_16_cutmix_ddpm Rebuffi2021Fixing_70_16_cutmix_extra Rebuffi2021Fixing_R18_cutmix_ddpm
        Rice2020Overfitting Rony2019Decoupling Sehwag2021Proxy Sehwag2021Proxy_R18 Standard Wang2023Better_WRN-28-10
        Wang2023Better_WRN-70-16 Wu2020Adversarial
    """,
    ("cifar100", "Linf"): """
        Addepalli2021Towards_PARN18 Addepalli2021Towards_WRN34 Addepalli2022Efficient_RN18
        Addepalli2022Efficient_WRN_34_10 Amini2024MeanSparse_S-WRN-70-16 Bai2023Improving_edm
        Bai2023Improving_trades Bai2024MixedNUTS Chen2020Efficient Chen2021LTD_WRN34_10 Chen2024Data_WRN_34_10
        Cui2020Learnable_34_10_LBGAT0 Cui2020Learnable_34_10_LBGAT6 Cui2020Learnable_34_10_LBGAT9_eps_8_255
        Cui2020Learnable_34_20_LBGAT6 Cui2023Decoupled_WRN-28-10 Cui2023Decoupled_WRN-34-10
        Cui2023Decoupled_WRN-34-10_autoaug Debenedetti2022Light_XCiT-L12 Debenedetti2022Light_XCiT-M12
        Debenedetti2022Light_XCiT-S12 Gowal2020Uncovering Gowal2020Uncovering_extra Hendrycks2019Using
        Jia2022LAS-AT_34_10 Jia2022LAS-AT_34_20 Pang2022Robustness_WRN28_10 Pang2022Robustness_WRN70_16
        Rade2021Helper_R18_ddpm Rebuffi2021Fixing_28_10_cutmix_ddpm Rebuffi2021Fixing_70_16_cutmix_ddpm
        Rebuffi2021Fixing_R18_ddpm Rice2020Overfitting Sehwag2021Proxy Sitawarin2020Improving
        Wang2023Better_WRN-28-10 Wang2023Better_WRN-70-16 Wu2020Adversarial
    """,
    ("imagenet", "Linf"): """
        Amini2024MeanSparse_ConvNeXt-L Amini2024MeanSparse_Swin-L Bai2024MixedNUTS Chen2024Data_WRN_50_2
        Debenedetti2022Light_XCiT-L12 Debenedetti2022Light_XCiT-M12 Debenedetti2022Light_XCiT-S12
        Engstrom2019Robustness Liu2023Comprehensive_ConvNeXt-B Liu2023Comprehensive_ConvNeXt-L
        Liu2023Comprehensive_Swin-B Liu2023Comprehensive_Swin-L Mo2022When_Swin-B Mo2022When_ViT-B Peng2023Robust
        RodriguezMunoz2024Characterizing_Swin-B RodriguezMunoz2024Characterizing_Swin-L Salman2020Do_50_2
        Salman2020Do_R18 Salman2020Do_R50 Singh2023Revisiting_ConvNeXt-B-ConvStem
        Singh2023Revisiting_ConvNeXt-L-ConvStem Singh2023Revisiting_ConvNeXt-S-ConvStem
        Singh2023Revisiting_ConvNeXt-T-ConvStem Singh2023Revisiting_ViT-B-ConvStem
        Singh2023Revisiting_ViT-S-ConvStem Standard_R50 Wong2020Fast Xu2024MIMIR_Swin-B Xu2024MIMIR_Swin-L
    """,
}

ZOO: dict[tuple[str, str], tuple[str, ...]] = {group: tuple(names.split()) for group, names in _ZOO.items()}


@dataclass(frozen=True)
class Listing:
    """One row of `rtk backbones`: `uri` to type, and what is known about it without loading it."""

    uri: str
    dataset: str | None = None
    classes: int | None = None
    threat: Threat | None = None
    note: str = ""


def list_backbones() -> tuple[Listing, ...]:
    """Every backbone that can be named, sorted by source; timm, torchvision and run have one row of pattern each."""
    rows = [
        Listing(f"rtk:{name}", facts["dataset"], facts["classes"], threat_of(facts), _embedded_note(name))
        for name, facts in sorted(embedded().items())
    ]
    for (dataset, norm), names in ZOO.items():
        for name in names:
            note = "ensemble: cannot be fine-tuned" if name in ENSEMBLES else ""
            note = "not robust" if name in NOT_ROBUST else note
            uri = f"robustbench:{dataset}/{norm}/{name}"
            rows.append(Listing(uri, dataset, ZOO_CLASSES[dataset], zoo_threat(dataset, norm, name), note))
    rows.append(Listing("timm:NAME", note="any classification model of timm, e.g. timm:resnet18"))
    rows.append(Listing("torchvision:NAME", note="any classification model of torchvision, e.g. torchvision:resnet18"))
    rows.append(Listing("run:DIR", note="the result of an earlier rtk run"))
    return tuple(rows)


def split_uri(uri: str) -> tuple[str, str]:
    """Split 'SOURCE:NAME'; BadBackbone without a source or a name, UnknownName when the source is not known."""
    source, colon, name = uri.partition(":")
    if not colon:
        wanted = ", ".join(f"{each}:NAME" for each in SOURCES[:-1])
        raise BadBackbone(f"--backbone {uri}: says not where it comes from (allowed: {wanted}, run:DIR).", EXAMPLE)
    if source not in SOURCES:
        raise UnknownName("source of backbones", source, SOURCES, EXAMPLE)
    if not name:
        raise BadBackbone(f"--backbone {uri}: a name is missing after '{source}:'.", EXAMPLE)
    return source, name


def split_zoo(name: str) -> tuple[str, str, str]:
    """Split 'DATASET/THREAT/NAME' of the RobustBench zoo and check each part against the catalogue."""
    parts = name.split("/")
    if len(parts) != 3:
        raise BadBackbone(
            f"--backbone robustbench:{name}: needs robustbench:DATASET/THREAT/NAME.",
            "rtk finetune --backbone robustbench:cifar10/Linf/Addepalli2022Efficient_RN18",
        )
    dataset, norm, model = parts
    if dataset not in ZOO_CLASSES:
        raise UnknownName("RobustBench data set", dataset, ZOO_CLASSES)
    if (dataset, norm) not in ZOO:
        raise UnknownName(f"RobustBench threat model of {dataset}", norm, [n for d, n in ZOO if d == dataset])
    if model not in ZOO[dataset, norm]:
        like = [each for each in ZOO[dataset, norm] if model.casefold() in each.casefold()]
        hint = f"--backbone robustbench:{dataset}/{norm}/{like[0]}" if like else "rtk backbones"
        raise UnknownName(f"RobustBench model of {dataset}/{norm}", model, ZOO[dataset, norm], hint)
    return dataset, norm, model


def zoo_threat(dataset: str, norm: str, name: str) -> Threat | None:
    """The threat of a RobustBench leaderboard; None for a model that was trained without an adversary."""
    if name in NOT_ROBUST:
        return None
    known: Norm = "L2" if norm == "L2" else "Linf"
    return Threat(known, _RADIUS[dataset, known])


def embedded() -> dict[str, dict[str, Any]]:
    """Metadata of every embedded backbone by name: architecture, classes, mean, std, size, threat, dataset, ...

    Raises:
        BadBackbone: a sidecar file in the package is not JSON.
    """
    facts = {name: dict(known) for name, known in _EMBEDDED.items()}
    folder = assets()
    for sidecar in sorted(folder.iterdir(), key=lambda item: item.name) if folder.is_dir() else ():
        if sidecar.name.endswith(".json"):
            found = _read_sidecar(sidecar)
            name = sidecar.name.removesuffix(".json")
            if "architecture" in found or name in facts:  # data sets have a sidecar too
                facts[name] = {"size": [32, 32], "dataset": None, **facts.get(name, {}), **found}
                lacking = [key for key in ("architecture", "classes", "mean", "std") if key not in facts[name]]
                if lacking:
                    raise BadBackbone(f"{sidecar.name} in rtk/assets lacks {', '.join(lacking)}; reinstall rtk.")
    return facts


def assets() -> Traversable:
    """The folder of files that come with the package."""
    return resources.files("rtk") / "assets"


def _read_sidecar(path: Traversable) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise BadBackbone(f"{path.name} in rtk/assets is not JSON ({problem}); reinstall rtk.") from None
    return found if isinstance(found, dict) else {}


def embedded_file(name: str) -> Traversable:
    """Where the weights of an embedded backbone are in the package; the file may be absent."""
    return assets() / f"{name}.safetensors"


def threat_of(facts: Mapping[str, Any]) -> Threat | None:
    """The `Threat` in a JSON record {"threat": {"norm": ..., "eps": ...}}; None when there is none."""
    found = facts.get("threat")
    return Threat(found["norm"], float(found["eps"])) if found else None


def _embedded_note(name: str) -> str:
    return "" if embedded_file(name).is_file() else "weights not installed; --weights random works"
