"""last-k against its definition, and the small networks and naive training steps that strategies of blocks share.

The ids are those of the properties B3, B4, C6, C12, C14 and C15.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from rtk_plugins.full import Full, FullConfig
from rtk_plugins.last_k import LastK, LastKConfig
from rtk_plugins.linear_probe import LinearProbe, LinearProbeConfig
from torch import Tensor, nn
from torch.nn import functional as F

from rtk import Refusal
from rtk.backbones import Backbone, Classifier, SmallResNet, inspect, open_backbone
from rtk.data.split import ArrayPixels, Split
from rtk.errors import BadBackbone, BadValue
from rtk.progress import Silent
from rtk.run import Run
from rtk.threat import Threat

from .small_run import changed, snapshot

MEAN, STD = 0.375, 0.25  # the same number in float32 and float64
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
SHORT = {"epochs": 2, "batch_size": 8, "lr": 0.05, "warmup": 0.0, "augment": "none"}


def wrap(net: nn.Module, classes: int = 10, blocks: Iterable[str] | None = None) -> Backbone:
    """`net` as a backbone; its weights are what they are."""
    model = Classifier(net, (MEAN,) * 3, (STD,) * 3).to(next(net.parameters()).dtype).eval()
    structure = inspect(model, torch.rand(1, 3, 32, 32), blocks=None if blocks is None else list(blocks))
    return Backbone("test", model, classes, None, {}, structure, True, None)


def resnet(norm: str = "batch", classes: int = 10, double: bool = False) -> Backbone:
    """A residual network of four blocks with planted norm parameters: stem, three residual blocks, classifier."""
    torch.manual_seed(0)
    net = SmallResNet(widths=(4, 4, 8, 8), depths=(1, 1, 1), classes=classes)
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            if norm == "group":
                module = nn.GroupNorm(2, module.num_features)
                net.set_submodule(name, module)
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
    return wrap(net.double() if double else net, classes)


def convnext(classes: int = 10) -> Backbone:
    """A LayerNorm network with depthwise convolutions."""
    from timm.models.convnext import ConvNeXt

    torch.manual_seed(0)
    return wrap(ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 8, 8, 16), num_classes=classes), classes)


def vit() -> Backbone:
    return open_backbone("timm:test_vit", weights="random", classes=10)


def run_of(
    backbone: Backbone, directory: Path, n: int = 21, shape: tuple[int, int] = (16, 16), **changes: object
) -> Run:
    """A run on `n` noisy images whose brightness tells the class."""
    directory.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(n) % backbone.classes
    pattern = torch.rand(backbone.classes, 3, *shape, generator=generator)
    images = (0.7 * pattern[labels] + 0.3 * torch.rand(n, 3, *shape, generator=generator)).clamp(0, 1)
    values = {
        "source": copy.deepcopy(backbone.model).eval().requires_grad_(False),
        "structure": backbone.structure,
        "train": Split(ArrayPixels(images), labels),
        "val": Split(ArrayPixels(images[:10]), labels[:10]),
        "augment": "none",
        "classes": backbone.classes,
        "new_head": True,
        "threat": Threat("Linf", 0.05),
        "seed": 0,
        "device": torch.device("cpu"),
        "directory": directory,
        "progress": Silent(),
    }
    return Run(**{**values, **changes})  # type: ignore[arg-type]


class Naive:
    """`resnet()` and its optimiser written out with plain tensors, line by line as in a textbook."""

    def __init__(self, backbone: Backbone, trainable: Iterable[str] = (), batch_norms: Iterable[str] = ()):
        self.state = snapshot(backbone.model)
        self.trainable = list(trainable)
        self.batch_norms = set(batch_norms)
        self.velocity: dict[str, Tensor] = {}

    def norm(self, x: Tensor, name: str, state: dict[str, Tensor]) -> Tensor:
        mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        if name in self.batch_norms:
            count = x.numel() / x.shape[1]
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            for key, value in (("running_mean", mean), ("running_var", variance * count / (count - 1))):
                self.state[f"{name}.{key}"] = 0.9 * self.state[f"{name}.{key}"] + 0.1 * value.detach()
            self.state[f"{name}.num_batches_tracked"] = self.state[f"{name}.num_batches_tracked"] + 1
        scale, shift = state[f"{name}.weight"], state[f"{name}.bias"]
        x = (x - mean.view(1, -1, 1, 1)) / (variance.view(1, -1, 1, 1) + 1e-5).sqrt()
        return x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)

    def __call__(self, images: Tensor, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Inputs of the blocks by name, and "logits"."""
        state = self.state if state is None else state
        x = (images.double() - MEAN) / STD
        seen = {}
        x = F.relu(self.norm(F.conv2d(x, state["conv1.weight"], stride=2, padding=1), "bn1", state))
        for number in (1, 2, 3):
            block, stride = f"layer{number}.0", 1 if number == 1 else 2
            seen[block] = x
            branch = F.conv2d(x, state[f"{block}.conv1.weight"], stride=stride, padding=1)
            branch = F.relu(self.norm(branch, f"{block}.bn1", state))
            branch = self.norm(F.conv2d(branch, state[f"{block}.conv2.weight"], padding=1), f"{block}.bn2", state)
            if f"{block}.shortcut.0.weight" in state:
                x = F.conv2d(x, state[f"{block}.shortcut.0.weight"], stride=stride)
                x = self.norm(x, f"{block}.shortcut.1", state)
            x = F.relu(branch + x)
        seen["fc"] = x.mean((2, 3))
        seen["logits"] = seen["fc"] @ state["fc.weight"].T + state["fc.bias"]
        return seen

    def leaves(self) -> dict[str, Tensor]:
        """The state with fresh leaves where something is trained."""
        return {**self.state, **{name: self.state[name].clone().requires_grad_() for name in self.trainable}}

    def step(self, loss: Tensor, state: dict[str, Tensor], lr: float, momentum: float, decay: float) -> None:
        """One step of SGD on the leaves in `state`."""
        gradients = torch.autograd.grad(loss, [state[name] for name in self.trainable])
        for name, gradient in zip(self.trainable, gradients, strict=True):
            update = gradient + decay * state[name].detach()
            self.velocity[name] = momentum * self.velocity[name] + update if name in self.velocity else update
            self.state[name] = state[name].detach() - lr * self.velocity[name]

    def difference(self, model: nn.Module) -> float:
        """Largest distance of any parameter or buffer from those of `model`."""
        found = snapshot(model)
        assert set(found) == set(self.state)
        return max(float((found[name] - value).abs().max()) for name, value in self.state.items())


def norms_in(backbone: Backbone, *blocks: str) -> set[str]:
    named = backbone.model.net.named_modules()
    return {name for name, module in named if isinstance(module, nn.BatchNorm2d) and name.startswith(blocks)}


@pytest.mark.parametrize("reuse, affine", [(None, True), (False, True), (None, False), (False, False)])
def test_the_training_equals_a_naive_one_in_float64(tmp_path: Path, reuse: bool | None, affine: bool) -> None:
    backbone = resnet(double=True)
    run = run_of(backbone, tmp_path)
    config = LastKConfig(**{**SHORT, "warmup": 1.0}, k=2, milestones=(1,), reuse_statistics=reuse, freeze_affine=affine)
    tuned = LastK(config).finetune(copy.deepcopy(backbone.model), run)

    parameters = [name for name, _ in backbone.model.net.named_parameters() if name.startswith(("layer3", "fc"))]
    if affine:
        parameters = [name for name in parameters if "bn" not in name and "shortcut.1" not in name]
    everywhere = ("bn1", "layer")
    naive = Naive(backbone, parameters, norms_in(backbone, *(everywhere if reuse is False else ("layer3",))))
    loader, rates = run.loader(batch_size=8, shuffle=True, name="fine-tune"), []
    for epoch in range(2):
        for position, batch in enumerate(loader.epoch(epoch)):
            rates.append(0.05 * (position / 3 if epoch == 0 else 0.2))
            state = naive.leaves()
            loss = F.cross_entropy(naive(batch.images, state)["logits"], batch.labels)
            naive.step(loss, state, rates[-1], 0.9, 5e-4)
    assert rates == pytest.approx([0, 0.05 / 3, 0.1 / 3, 0.01, 0.01, 0.01])
    assert naive.difference(tuned) < 1e-8
    assert changed(snapshot(backbone.model), snapshot(tuned)) >= set(parameters)


def test_B3_the_last_block_alone_is_a_linear_probe(tmp_path: Path) -> None:
    backbone = resnet()
    common = {"epochs": 2, "batch_size": 8, "lr": 0.05, "weight_decay": 5e-4, "milestones": (), "augment": "none"}
    probe = LinearProbe(LinearProbeConfig(**common)).finetune(
        copy.deepcopy(backbone.model), run_of(backbone, tmp_path / "probe")
    )
    last = LastK(LastKConfig(**common, k=1, warmup=0, select="clean")).finetune(
        copy.deepcopy(backbone.model), run_of(backbone, tmp_path / "last")
    )
    assert changed(snapshot(probe), snapshot(last)) == set()
    assert changed(snapshot(backbone.model), snapshot(last)) == {"fc.weight", "fc.bias"}


def test_B4_all_blocks_are_not_everything(tmp_path: Path) -> None:
    """The stem stays; full fine-tuning moves it."""
    backbone = resnet()
    before, common = snapshot(backbone.model), {"epochs": 1, "batch_size": 8, "lr": 0.05, "augment": "none"}
    last = LastK(LastKConfig(**common, k=4, warmup=0, freeze_affine=False, reuse_statistics=False))
    blocks = changed(before, snapshot(last.finetune(copy.deepcopy(backbone.model), run_of(backbone, tmp_path / "l"))))
    full = Full(FullConfig(**common))
    everything = changed(
        before, snapshot(full.finetune(copy.deepcopy(backbone.model), run_of(backbone, tmp_path / "f")))
    )
    assert everything - blocks == {"conv1.weight", "bn1.weight", "bn1.bias"}


def test_C12_the_moving_parameters_grow_with_k(tmp_path: Path) -> None:
    backbone, moved = resnet(), []
    for k in (1, 2, 3, 4):
        run = run_of(backbone, tmp_path / str(k))
        config = LastKConfig(**{**SHORT, "epochs": 1}, k=k, freeze_affine=False)
        tuned = LastK(config).finetune(copy.deepcopy(backbone.model), run)
        moved.append({n for n in changed(snapshot(backbone.model), snapshot(tuned)) if not n.endswith(STATISTICS)})
    assert moved[0] == {"fc.weight", "fc.bias"} and moved[0] < moved[1] < moved[2] < moved[3]
    assert not any(name.startswith(("conv1", "bn1")) for name in moved[3])


@pytest.mark.parametrize("reuse, affine", [(True, True), (None, False), (False, True)])
def test_C6_C14_C15_the_two_switches_of_batchnorm(tmp_path: Path, reuse: bool | None, affine: bool) -> None:
    """Also after an evaluation in the middle, which puts every layer in evaluation mode and back."""
    backbone = resnet()
    config = LastKConfig(**SHORT, k=2, reuse_statistics=reuse, freeze_affine=affine, select="robust")
    tuned = LastK(config).finetune(copy.deepcopy(backbone.model), run_of(backbone, tmp_path))
    moved = changed(snapshot(backbone.model), snapshot(tuned))
    outside = {name for name in moved if not name.startswith(("layer3", "fc"))}
    assert all(name.endswith(STATISTICS) for name in outside)
    assert any(name.endswith("running_mean") for name in outside) == (reuse is False)
    assert "layer3.0.bn1.running_mean" in moved
    assert ("layer3.0.bn1.weight" in moved) != affine and ("layer3.0.shortcut.1.bias" in moved) != affine


@pytest.mark.parametrize("build, norms", [(lambda: resnet("group"), 2), (convnext, 1), (vit, 2)])
def test_networks_without_running_statistics(tmp_path: Path, build, norms: int) -> None:
    """Blocks, frozen affine parameters and refusals on GroupNorm, and on LayerNorm with and without convolutions."""
    backbone = build()
    layers = [n for n, m in backbone.model.net.named_modules() if isinstance(m, nn.GroupNorm | nn.LayerNorm)]
    for affine in (True, False):
        config = LastKConfig(**{**SHORT, "epochs": 1}, k=3, freeze_affine=affine)
        tuned = LastK(config).finetune(
            copy.deepcopy(backbone.model), run_of(backbone, tmp_path / str(affine), n=9, shape=(32, 32))
        )
        moved = changed(snapshot(backbone.model), snapshot(tuned))
        inside = {module for block in backbone.structure.last(3) for module in block.modules}
        assert moved and all(name.startswith(tuple(f"{each}." for each in inside)) for name in moved)
        assert bool({f"{name}.weight" for name in layers} & moved) != affine
    with pytest.raises(Refusal, match="no running statistics to reuse"):
        LastK(LastKConfig(k=1, reuse_statistics=True)).finetune(backbone.model, run_of(backbone, tmp_path))


def test_k_beyond_the_network_and_a_network_without_blocks_are_refused(tmp_path: Path) -> None:
    backbone = resnet()
    with pytest.raises(BadValue, match="1 to 4"):
        LastK(LastKConfig(k=5)).finetune(backbone.model, run_of(backbone, tmp_path))
    plain = wrap(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)))
    with pytest.raises(BadBackbone, match="No ordered blocks"):
        LastK(LastKConfig()).finetune(plain.model, run_of(plain, tmp_path))


def test_the_published_start_of_the_classifier(tmp_path: Path) -> None:
    backbone = resnet()
    starts = []
    for seed in (0, 0, 1):
        config = LastKConfig(epochs=0, head_init="uniform")
        run = run_of(backbone, tmp_path / f"{len(starts)}", seed=seed)
        starts.append(LastK(config).finetune(copy.deepcopy(backbone.model), run).net.fc)
        assert all(value.min() >= 0 and value.max() < 1 for value in starts[-1].parameters())
    assert torch.equal(starts[0].weight, starts[1].weight) and not torch.equal(starts[0].weight, starts[2].weight)


@pytest.mark.parametrize("classes, shape", [(2, (16, 24)), (3, (40, 16))])
def test_few_classes_oblong_images_an_odd_last_batch_and_the_same_bits_again(
    tmp_path: Path, classes: int, shape: tuple[int, int]
) -> None:
    backbone = resnet(classes=classes)
    found = []
    for name in ("once", "again"):
        run = run_of(backbone, tmp_path / name, n=17, shape=shape)
        found.append(snapshot(LastK(LastKConfig(**SHORT, k=2)).finetune(copy.deepcopy(backbone.model), run)))
    assert changed(found[0], found[1]) == set() and all(torch.isfinite(value).all() for value in found[0].values())
