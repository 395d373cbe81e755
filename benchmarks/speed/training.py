"""PGD-10 adversarial training of a ResNet-18: rtk's `at`, a plain loop around torchattacks.PGD, and ART's trainer.

python benchmarks/speed/training.py                 # images per second
python benchmarks/speed/training.py --accuracy      # robust accuracy after equal epochs, on a small network
"""

from __future__ import annotations

import statistics
from typing import Any

import naive
import torch
from common import Race, flops, parser, run
from torch import nn
from work import SMALL, images, resnet18, tune

from rtk.backbones import Backbone, Classifier, open_backbone
from rtk.statistics import Estimate

STEPS, SIZE, LR = 10, 128, 0.01


def with_art(backbone: Backbone, device: str, count: int, eps: float) -> nn.Module:
    """The Adversarial Robustness Toolbox, one epoch."""
    from art.defences.trainer import AdversarialTrainerMadryPGD
    from art.estimators.classification import PyTorchClassifier

    model = naive.as_published(backbone.model).to(device)
    x, y = images(count)
    classifier = PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        (3, 32, 32),
        10,
        torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9),
        clip_values=(0.0, 1.0),
        device_type="cpu" if device == "cpu" else "gpu",
    )
    trainer = AdversarialTrainerMadryPGD(
        classifier, nb_epochs=1, batch_size=SIZE, eps=eps, eps_step=eps / 4, max_iter=STEPS
    )
    trainer.fit(x.numpy(), y.numpy())
    return model


def with_torchattacks(backbone: Backbone, device: str, count: int, **options: Any) -> Classifier:
    """The plain loop."""
    model = naive.as_published(backbone.model).to(device)
    x, y = images(count)
    naive.adversarial_training(model, x.to(device), y.to(device), size=SIZE, **options)
    return model


def learnt(ours: nn.Module, theirs: nn.Module) -> str:
    """Both have trained; whether equally well, --accuracy tells."""
    assert all(torch.isfinite(value).all() for model in (ours, theirs) for value in model.state_dict().values())
    return "both end with finite weights; robust accuracy after equal epochs: --accuracy"


def accuracy(device: str, epochs: int, seeds: int) -> None:
    """PGD-20 accuracy of the small network after equal epochs of both, from the same weights."""
    x, y = (each.to(device) for each in images(800, "val"))
    found: dict[str, list[float]] = {"rtk": [], "plain": []}
    for seed in range(seeds):
        backbone = open_backbone(SMALL, weights="random", classes=10, seed=seed)
        options: dict[str, Any] = {"eps": 0.1, "epochs": epochs, "lr": 0.05}
        models = {
            "rtk": tune("at", backbone, 7200, device=device, attack_steps=STEPS, **options),
            "plain": with_torchattacks(backbone, device, 7200, steps=STEPS, **options),
        }
        for name, model in models.items():
            robust = naive.pgd_accuracy(naive.as_published(model), x, y, eps=0.1, steps=20, size=200)
            estimate = Estimate(int(robust.sum()), len(y))
            found[name].append(estimate.value)
            low, high = (100 * each for each in estimate.interval)
            print(f"seed {seed}: {name} {100 * estimate.value:.1f} [{low:.1f}, {high:.1f}]", flush=True)
    means = {name: 100 * statistics.fmean(values) for name, values in found.items()}
    spread = {name: 100 * statistics.stdev(values) for name, values in found.items()}
    print(", ".join(f"{name} {means[name]:.1f} ± {spread[name]:.1f}" for name in found), f"PGD-20, {epochs} epochs")


def main() -> None:
    """Compare."""
    options = parser(__doc__)
    options.add_argument("--count", type=int, default=384, help="images of one epoch")
    options.add_argument("--accuracy", action="store_true", help="compare what is learnt, not the time")
    options.add_argument("--epochs", type=int, default=4, help="with --accuracy")
    options.add_argument("--seeds", type=int, default=3, help="with --accuracy")
    asked = options.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.accuracy:
        accuracy(asked.device, asked.epochs, asked.seeds)
        return
    backbone, count, eps = resnet18(), asked.count, 8 / 255
    x, _ = images(2)
    attack, step = flops(backbone.model, x), flops(backbone.model, x, weights=True)
    run(
        Race(
            f"PGD-{STEPS} adversarial training, ResNet-18, 32x32, {count} images in mini-batches of {SIZE}",
            {
                "rtk": lambda: tune(
                    "at", backbone, count, device=asked.device, eps=eps, epochs=1, lr=LR, attack_steps=STEPS
                ),
                "torchattacks": lambda: with_torchattacks(
                    backbone, asked.device, count, eps=eps, epochs=1, lr=LR, steps=STEPS
                ),
                "ART": lambda: with_art(backbone, asked.device, count, eps),
            },
            learnt,
            least=2.0 if asked.device == "cpu" else 3.0,
            flops=count * (STEPS * attack + step),
            matrix=torch.bfloat16,
            rounds=2,
        ),
        asked,
    )


if __name__ == "__main__":
    main()
