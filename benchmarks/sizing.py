"""What a benchmark will cost: counted passes of images through the network, times the measured time of a pass.

    python benchmarks/sizing.py                                # passes of every strategy, times on this machine
    python benchmarks/sizing.py --backbone timm:resnet50 --image-size 224 --cells 1440 --devices 64

Passes are counted, not assumed: every strategy runs for one and for two epochs on the embedded data, and a hook on the
network counts images with gradients (forward and backward) and without (forward alone). Phases that --epochs does not
lengthen are not in the figures: rift's criticality and interpolation, lwf's and roli's training of the classifier.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import rtk
from rtk.backbones import Classifier, open_backbone
from rtk.registry import Registry

QUICKER: dict[str, dict[str, Any]] = {"lwf": {"head_epochs": 0}, "roli": {"optimizer": "sgd"}}
"""Options that change no pass of an epoch and make the counting shorter or safe on a convolutional network."""


@contextmanager
def counted() -> Iterator[Counter[bool]]:
    """Images that went through a network, by whether gradients were wanted."""
    found: Counter[bool] = Counter()

    def count(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, Classifier):
            found[torch.is_grad_enabled()] += len(inputs[0])

    handle = torch.nn.modules.module.register_module_forward_pre_hook(count)
    try:
        yield found
    finally:
        handle.remove()


def passes(strategy: str, epochs: int) -> Counter[bool]:
    """Passes of a whole run on the embedded data, its evaluation on 10 clean images included."""
    with tempfile.TemporaryDirectory() as folder, counted() as found:
        options = {"suite": "clean", "images": 10, "workers": 1, "device": "cpu", **QUICKER.get(strategy, {})}
        rtk.finetune(strategy, epochs=epochs, out=Path(folder) / "run", **options)
    return found


def seconds_per_image(backbone: str, classes: int, size: int, device: str, batch: int) -> tuple[float, float]:
    """Forward and backward, and forward alone; the best of five."""
    model = open_backbone(backbone, weights="random", classes=classes).model.to(device)
    images = torch.rand(batch, 3, size, size, device=device)

    def once(gradient: bool) -> float:
        begun = time.perf_counter()
        with torch.set_grad_enabled(gradient):
            logits = model(images.requires_grad_(gradient))
            if gradient:
                logits.sum().backward()
        if device != "cpu":
            torch.cuda.synchronize()
        return (time.perf_counter() - begun) / batch

    return min(once(True) for _ in range(5)), min(once(False) for _ in range(5))


def main() -> None:
    """Print the passes, the times, and what they come to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="robustbench:cifar10/Linf/Sehwag2021Proxy_R18")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--train-images", type=int, default=45_000)
    parser.add_argument("--test-images", type=int, default=10_000, help="for clean and PGD-20")
    parser.add_argument("--autoattack-images", type=int, default=1_000)
    parser.add_argument("--robust", type=float, default=0.5, help="share that AutoAttack does not break")
    parser.add_argument("--cells", type=int, default=1_440, help="spread evenly over the strategies")
    parser.add_argument("--devices", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=128)
    asked = parser.parse_args()

    backward, forward = seconds_per_image(asked.backbone, asked.classes, asked.image_size, asked.device, asked.batch)
    print(
        f"{asked.backbone}, {asked.image_size} pixels wide, on {asked.device}, {torch.get_num_threads()} threads:"
        f" {1 / backward:.0f} images/s forward and backward, {1 / forward:.0f} forward alone\n"
    )
    from rtk.attacks import autoattack, pgd
    from rtk.threat import Threat

    threat = Threat("Linf", 8 / 255)
    # an image that is broken leaves the cascade early: its first attack is counted, a robust image goes through all
    cascade = [attack.cost for attack in autoattack(threat, asked.classes)]
    attacked = asked.robust * sum(cascade) + (1 - asked.robust) * cascade[0]
    judged = asked.test_images * (forward + pgd(threat, steps=20).cost * backward)
    judged += asked.autoattack_images * attacked * backward
    print(f"{'strategy':<14}{'fwd+bwd':>9}{'fwd':>7}   of an image in an epoch; epochs; hours of a cell")
    total = 0.0
    names = sorted(Registry().names())
    for name in names:
        one, two = passes(name, 1), passes(name, 2)
        epoch = {wanted: (two[wanted] - one[wanted]) for wanted in (True, False)}
        images = len(rtk_train(name))
        with_gradient, without = (epoch[wanted] / images for wanted in (True, False))
        epochs = Registry().strategy(name).config_type.model_fields["epochs"].default
        trained = epochs * asked.train_images * (with_gradient * backward + without * forward)
        hours = (trained + judged) / 3600
        total += hours
        print(f"{name:<14}{with_gradient:>9.1f}{without:>7.1f}{epochs:>6}{hours:>10.2f}")
    mean = total / len(names)
    print(
        f"\n{asked.cells} cells of {mean:.2f} hours, {judged / 3600:.2f} of them evaluation:"
        f" {asked.cells * mean:.0f} hours, {asked.cells * mean / asked.devices:.1f} on {asked.devices} such devices"
    )
    weights = sum(value.numel() for value in open_backbone(asked.backbone, weights="random").model.parameters())
    gib = asked.cells * 2 * 4 * weights / 2**30
    print(f"Storage: {gib:.0f} GiB for the source and the result of each cell, {weights / 1e6:.1f} M parameters")


def rtk_train(strategy: str) -> Any:
    """The training split on which `passes` counts."""
    from rtk.data import open_dataset

    source = Registry().strategy(strategy).setting == "source"
    return open_dataset("fashion" if source else "signs").split("train")


if __name__ == "__main__":
    main()
