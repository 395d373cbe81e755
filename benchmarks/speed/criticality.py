"""RiFT's criticality of every module: rtk against the published procedure.

    python benchmarks/speed/criticality.py                      # the same ascent, ResNet-18
    python benchmarks/speed/criticality.py --defaults                                   # rtk's defaults
    python benchmarks/speed/criticality.py --defaults --backbone rtk:cifar10-at --dataset cifar10 --eps 8/255

The published procedure copies the network for each module, runs passes of SGD through all of it, and evaluates after
each; it takes the whole test split. With --defaults rtk has its own ascent on its 1,000 training images.
"""

from __future__ import annotations

from fractions import Fraction

import naive
import torch
from common import Race, parser, run
from rtk_plugins.rift import Losses, Rift, RiftConfig, code_ascent, modules
from work import SMALL, images, resnet18, run_of

import rtk
from rtk.attacks import pgd
from rtk.backbones import open_backbone
from rtk.threat import Threat


def main() -> None:
    """Compare."""
    options = parser(__doc__)
    options.add_argument("--backbone", help="with --defaults: a network; otherwise a ResNet-18 with random weights")
    options.add_argument("--dataset", default="fashion", help="those that are no part of rtk: RTK_DATA")
    options.add_argument("--eps", type=Fraction, default=Fraction(1, 10))
    options.add_argument("--count", type=int, help="images")
    options.add_argument("--passes", type=int, default=10)
    options.add_argument("--defaults", action="store_true")
    asked = options.parse_args()
    torch.set_num_threads(asked.threads)
    backbone = open_backbone(asked.backbone or SMALL) if asked.defaults else resnet18()
    model, eps, device = backbone.model.to(asked.device), float(asked.eps), asked.device
    published, names = naive.as_published(model), list(modules(model))
    x, y = (each.to(device) for each in images(asked.count or (2500 if asked.defaults else 96), "test", asked.dataset))
    adversarial = pgd(Threat("Linf", eps), steps=10)(model, x, y, seed=0)
    seeds = {name: number for number, name in enumerate(names)}

    def with_rtk() -> dict[str, float]:
        if asked.defaults:
            run_ = run_of(backbone, train=7200, device=device, eps=eps, dataset=asked.dataset)
            return Rift(RiftConfig()).criticality(model, names, run_)
        losses = Losses(model, [((adversarial,), y)])
        operations = rtk.Operations.of(losses.model, adversarial[:5])
        base = losses.mean({})
        return {
            name: code_ascent(losses.beginning_at(name, operations), name, base, 0.1, asked.passes, seeds[name])
            for name in names
        }

    def as_published() -> dict[str, float]:
        return naive.criticality(published, names, adversarial, y, epsilon=0.1, passes=asked.passes, seeds=seeds)

    def same(ours: dict[str, float], theirs: dict[str, float]) -> str:
        if asked.defaults:
            first, second = (min(found, key=lambda name: found[name]) for found in (ours, theirs))
            verdict = "the same" if first == second else "DIFFERENT"
            return f"least critical module: rtk {first}, published {second}: {verdict}"
        worst = max(abs(ours[name] - theirs[name]) / max(abs(theirs[name]), 1.0) for name in names)
        assert worst <= 1e-5, f"criticality differs by {worst:.1e}"
        return f"largest difference {worst:.0e} (relative, absolute below 1) over {len(names)} modules"

    title = "with rtk's defaults, whole procedure" if asked.defaults else "the same ascent"
    name = asked.backbone or (SMALL if asked.defaults else "ResNet-18")
    run(
        Race(
            f"RiFT criticality of all {len(names)} modules, {title}, {name}, {len(y)} images, {asked.passes} passes",
            {"rtk": with_rtk, "published procedure": as_published},
            same,
            least=5.0 if asked.defaults else 2.0,
            rounds=2,
        ),
        asked,
    )


if __name__ == "__main__":
    main()
