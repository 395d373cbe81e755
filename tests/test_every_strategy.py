"""What every built-in strategy owes: any backbone or a refusal, any label set and image shape, any size of batch."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from torch import nn

from rtk.backbones import Backbone, Classifier, SmallResNet, inspect
from rtk.data.split import ArrayPixels, Split
from rtk.errors import Refusal
from rtk.registry import Registry
from rtk.run import Run

from .backbones_planted import from_timm, from_zoo
from .small_run import changed, small_run, snapshot

STRATEGIES = Registry().names()
SHORT = {
    "epochs": 1,
    "head_epochs": 1,
    "batch_size": 4,
    "attack_steps": 1,
    "select_steps": 1,
    "warmup": 0.0,
    "lr": 1e-3,
    "criticality_images": 4,
    "ascent_steps": 1,
    "alphas": 1,
    "k": 2,
}
BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "ResNet-18": from_zoo("cifar10", "Linf", "Addepalli2022Efficient_RN18"),
    "PreActResNet-18": from_zoo("cifar10", "Linf", "Wong2020Fast"),
    "WRN-28-10": from_zoo("cifar10", "Linf", "Carmon2019Unlabeled"),
    "ConvNeXt": from_timm("convnext_atto", num_classes=10),
    "ViT": from_timm("vit_tiny_patch16_224", num_classes=10, img_size=32, patch_size=4),
    "ResNet-GN": from_timm("resnet50_gn", num_classes=10),
}
WITHOUT_BATCHNORM = ("ConvNeXt", "ViT", "ResNet-GN")
HEAVY = "WRN-28-10"  # 36 million parameters, 5 GFLOPs an image: minutes on a CPU


def configured(name: str, **changes: object):
    """The strategy `name`, with as little work as it can have."""
    kind = Registry().strategy(name)
    wanted = {**SHORT, **changes}
    return kind(
        kind.config_type(**{key: value for key, value in wanted.items() if key in kind.config_type.model_fields})
    )


def wrap(net: nn.Module, classes: int, new_head: bool, shape: tuple[int, int] = (32, 32)) -> Backbone:
    model = Classifier(net).eval()
    return Backbone("test", model, classes, None, {}, inspect(model, torch.rand(1, 3, *shape)), new_head, None)


@lru_cache(maxsize=1)
def planted(name: str) -> Backbone:
    """A real architecture with planted weights; one at a time is kept."""
    torch.manual_seed(0)
    return wrap(BACKBONES[name](), 10, new_head=False)


def biases(report: dict) -> list[str]:
    return [name.removesuffix("weight") + "bias" for name in report["chosen"]]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == HEAVY)) for n in BACKBONES])
def test_every_strategy_trains_every_backbone_or_refuses_it(name: str, strategy: str, tmp_path: Path) -> None:
    """The decision matrix: BatchNorm, LayerNorm and GroupNorm networks. WRN-28-10 is slow for its size."""
    backbone = planted(name)
    run = small_run(backbone, tmp_path, train=5, val=2)
    if strategy == "twins" and name in WITHOUT_BATCHNORM:
        with pytest.raises(Refusal, match="TWINS needs normalisation layers with running statistics") as caught:
            configured(strategy).finetune(copy.deepcopy(backbone.model), run)
        assert "--strategy" in (caught.value.hint or "")
        return
    before = snapshot(backbone.model)
    tuned = configured(strategy).finetune(copy.deepcopy(backbone.model), run)
    after = snapshot(tuned)
    moved = changed(before, after)
    head = set(backbone.structure.parameters_in([backbone.structure.head]))
    assert all(torch.isfinite(value).all() for value in after.values())
    assert snapshot(run.source).keys() == before.keys() and not changed(before, snapshot(run.source))
    if strategy == "rift":  # which may find that no interpolation is worth it; a module is chosen all the same
        report = json.loads((tmp_path / "report.json").read_text())
        assert set(report["chosen"]) <= set(report["criticality"]) and moved <= {*report["chosen"], *biases(report)}
    else:
        assert moved == head if strategy == "linear-probe" else moved
    fresh = copy.deepcopy(backbone.model)
    fresh.load_state_dict({f"net.{key}": value for key, value in after.items()})
    images = run.val.images(torch.arange(2))
    with torch.no_grad():
        assert torch.equal(fresh.eval()(images), tuned.eval()(images))


# label sets, shapes and left-overs


def run_of(backbone: Backbone, directory: Path, count: int, shape: tuple[int, int], seed: int = 0) -> Run:
    """A run on `count` noise images of any shape, with labels of every class in turn."""
    generator = torch.Generator().manual_seed(1)

    def split(n: int) -> Split:
        images = torch.randint(0, 256, (n, 3, *shape), generator=generator, dtype=torch.uint8)
        return Split(ArrayPixels(images), torch.arange(n) % backbone.classes)

    directory.mkdir(parents=True, exist_ok=True)
    data = {"train": split(count), "val": split(6), "classes": backbone.classes, "augment": "none", "seed": seed}
    return dataclasses.replace(small_run(backbone, directory, train=4, val=4), **data)


def small(classes: int, new_head: bool, shape: tuple[int, int]) -> Backbone:
    """A BatchNorm network; images of 8x8 end in maps of 1x1, where the statistics of one image are of one value."""
    torch.manual_seed(3)
    return wrap(SmallResNet(widths=(4, 4, 8, 8), depths=(1, 1, 1), classes=classes), classes, new_head, shape)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("classes", [2, 3, 10, 120])
def test_every_strategy_takes_any_label_set_oblong_images_and_one_image_left_over(
    strategy: str, classes: int, tmp_path: Path
) -> None:
    """17 images in steps of 8, and the same seed gives the same bits, another seed others."""
    shape = (8, 8) if classes == 2 else (16, 24)
    backbone = small(classes, strategy != "rift", shape)
    found = [
        snapshot(
            configured(strategy, batch_size=8, alphas=2, lr=0.05, head_lr=0.05).finetune(
                copy.deepcopy(backbone.model), run_of(backbone, tmp_path / str(number), 17, shape, seed)
            )
        )
        for number, seed in enumerate((5, 5, 6))
    ]
    assert found[0]["fc.weight"].shape[0] == classes
    assert changed(found[0], found[1]) == set()
    if strategy != "rift":  # which may find that no interpolation is worth it, whatever the seed
        assert changed(found[0], found[2])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_trains_with_accumulated_gradients(strategy: str, tmp_path: Path) -> None:
    """What must not move does not, and what was selected on is reported whatever the strategy."""
    backbone = small(10, strategy != "rift", (16, 16))
    run = run_of(backbone, tmp_path, 21, (16, 16))
    tuned = configured(strategy, batch_size=12, accumulate=3, lr=0.05, head_lr=0.05).finetune(
        copy.deepcopy(backbone.model), run
    )
    moved = changed(snapshot(backbone.model), snapshot(tuned))
    assert moved <= {"fc.weight", "fc.bias"} if strategy == "linear-probe" else moved or strategy == "rift"
    report = json.loads((tmp_path / "report.json").read_text())
    for facts in report["selection"].values():
        assert facts["on"] == "validation split, 6 images" and facts["by"] and facts["epoch"] == 1
