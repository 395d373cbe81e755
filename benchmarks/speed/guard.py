"""Whether rtk is still faster than plain loops: a short version of the benchmarks, with a generous margin.

    python benchmarks/speed/guard.py

Fails where a ratio to the loops in naive.py falls below its floor, which is far below what is measured on a quiet
machine. The ratios do not depend on how fast the machine is; on one without bfloat16 instructions training gains less.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import naive
import torch
from rtk_plugins.rift import Losses, code_ascent, modules
from work import SMALL, images, tune

import rtk
from rtk.backbones import Backbone, open_backbone

FLOORS = {"training": 0.75, "criticality": 1.3, "linear probe": 3.0}
ROUNDS = 3


def ratio(ours: Callable[[], Any], theirs: Callable[[], Any]) -> float:
    """The median over rounds in which both take their turn, after one that does not count."""
    found = []
    for _ in range(ROUNDS + 1):
        begun = time.perf_counter()
        ours()
        half = time.perf_counter()
        theirs()
        found.append((time.perf_counter() - half) / (half - begun))
    return statistics.median(found[1:])


def training(backbone: Backbone) -> float:
    """An epoch of PGD-10 adversarial training."""
    x, y = images(512)
    settings = {"eps": 0.1, "steps": 10, "epochs": 1, "size": 128, "lr": 0.01}
    return ratio(
        lambda: tune("at", backbone, 512, eps=0.1, epochs=1, lr=0.01, attack_steps=10),
        lambda: naive.adversarial_training(naive.as_published(backbone.model), x, y, **settings),  # type: ignore[arg-type]
    )


def criticality(backbone: Backbone) -> float:
    """RiFT's published ascent for all modules."""
    x, y = images(256)
    names = list(modules(backbone.model))
    seeds = dict.fromkeys(names, 0)

    def ours() -> None:
        losses = Losses(backbone.model, [((x,), y)])
        operations, base = rtk.Operations.of(losses.model, x[:5]), losses.mean({})
        for name in names:
            code_ascent(losses.beginning_at(name, operations), name, base, 0.1, 5, seeds[name])

    published = naive.as_published(backbone.model)
    return ratio(ours, lambda: naive.criticality(published, names, x, y, epsilon=0.1, passes=5, seeds=seeds))


def linear_probe(backbone: Backbone) -> float:
    """Forty epochs of the classifier alone."""
    x, y = images(1024)

    def theirs() -> None:
        model = naive.as_published(backbone.model).eval()
        orders = [list(torch.randperm(len(y)).split(128)) for _ in range(40)]
        naive.train_parameters(model, list(backbone.structure.head_of(model).parameters()), orders, x, y, lr=0.1)

    return ratio(lambda: tune("linear-probe", backbone, 1024, epochs=40, lr=0.1), theirs)


def main() -> None:
    """Compare, and exit with 1 where a floor is broken."""
    torch.set_num_threads(1)
    backbone, broken = open_backbone(SMALL), False
    for name, measured in (("training", training), ("criticality", criticality), ("linear probe", linear_probe)):
        found = measured(backbone)
        broken |= found < FLOORS[name]
        print(f"{found:.2f}x {name} (floor {FLOORS[name]}x)", flush=True)
    for words in (["--help"], ["strategies"], ["finetune", "--strategy", "rfit"]):
        command = [sys.executable, "-X", "importtime", "-m", "rtk.cli", *words]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
        heavy = any(line.rpartition("|")[2].strip() == "torch" for line in said.splitlines())
        broken |= heavy
        print(f"rtk {' '.join(words)}: {'IMPORTS' if heavy else 'does not import'} torch")
    sys.exit(broken)


if __name__ == "__main__":
    main()
