"""Compare rtk's AutoAttack with the reference implementation (pyautoattack), image by image, and time both.

    OMP_NUM_THREADS=1 python benchmarks/reference_verdicts.py --out benchmarks/reference_verdicts.md

Three small networks, each attacked at three radii in Linf and two in L2: by the four attacks one by one, and by their
cascade, where an image that one attack breaks is not given to the next. Both sides get the same images and seeds, and
run in turns in one process on one thread. Finished cells are kept beside --out; the same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from pyautoattack import AutoAttack
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from rtk import files
from rtk.attacks import autoattack, pgd
from rtk.backbones import open_backbone
from rtk.data import Split, open_dataset
from rtk.evaluation import judge
from rtk.seeds import derive
from rtk.threat import Norm, Threat

CLASSES = 10
SEEDS: dict[Norm, tuple[int, ...]] = {"Linf": (0, 1), "L2": (0,)}
RADII: dict[Norm, int] = {"Linf": 3, "L2": 2}
"""How many of a case's radii, from the largest: those where images break."""
PACKAGES = ("torch", "torchattacks", "pyautoattack", "timm")


@dataclass(frozen=True)
class Case:
    """A network of 10 classes in evaluation mode, images that it was not trained on, and three radii for each norm."""

    name: str
    model: nn.Module
    split: Split
    eps: dict[Norm, tuple[float, float, float]]

    def images(self, count: int, number: int = 0) -> tuple[Tensor, Tensor]:
        """Validation images (count, 3, 32, 32) and their labels (count,): the batch with this number."""
        indices = torch.arange(count * number, count * (number + 1))
        return self.split.images(indices), self.split.labels[indices]


def cases() -> list[Case]:
    """A ResNet with BatchNorm, a vision transformer, and a plain convolutional network without norm layers.

    The first comes with rtk. The others are trained here for some seconds, adversarially, and always to the same bits.
    """
    fashion, signs = open_dataset("fashion"), open_dataset("signs")
    resnet = open_backbone("rtk:fashion-resnet").model.eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=CLASSES)
        plain = nn.Sequential(
            *(nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU()),
            *(nn.Conv2d(32, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(512, CLASSES)),
        )
    _train(vit, fashion.split("train"), eps=0.05)
    _train(plain, signs.split("train"), eps=0.015)
    return [
        Case("resnet", resnet, fashion.split("val"), {"Linf": (0.05, 0.1, 0.15), "L2": (0.75, 1.5, 2.5)}),
        Case("vit", vit, fashion.split("val"), {"Linf": (0.025, 0.05, 0.1), "L2": (0.5, 1.0, 2.0)}),
        Case("plain", plain, signs.split("val"), {"Linf": (0.01, 0.02, 0.04), "L2": (0.3, 0.6, 0.9)}),
    ]


def _train(model: nn.Module, split: Split, eps: float, steps: int = 200) -> None:
    """Adversarial training with two steps of PGD, whose radius grows to `eps`: without that it does not start."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        indices = torch.randint(len(split), (64,), generator=generator)
        images, labels = split.images(indices), split.labels[indices]
        attack = pgd(Threat("Linf", eps * min(1.0, 1.5 * step / steps)), steps=2)
        loss = F.cross_entropy(model(attack(model, images, labels, seed=step)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


def reference(
    model: nn.Module, threat: Threat, classes: int, *, seed: int, steps: int = 100, queries: int = 5000
) -> dict[str, Any]:
    """The reference's attacks by rtk's names; each has `perturb(images, labels)`, which changes the global seed."""
    shared = {"eps": threat.eps, "norm": threat.norm, "seed": seed, "device": "cpu", "n_restarts": 1}
    targets = min(9, classes - 1)
    fab = FABAttack_PT(model, n_iter=steps, targeted=True, n_target_classes=targets, **shared)
    return {
        "apgd-ce": APGDAttack(model, n_iter=steps, loss="ce", **shared),
        "apgd-dlr": APGDAttack(model, n_iter=steps, loss="dlr", **shared),
        "apgd-t": APGDAttack_targeted(model, n_iter=steps, n_target_classes=targets, **shared),
        "fab-t": fab,
        "square": SquareAttack(model, n_queries=queries, p_init=0.8, resc_schedule=False, **shared),
    }


def reference_cascade(model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, seed: int) -> Tensor:
    """Adversarial images by the reference's own sequence, with the seeds that rtk gives to each attack."""
    whole = AutoAttack(model, eps=threat.eps, norm=threat.norm, device="cpu")
    seeds = iter([derive(seed, name) for name in whole.attacks_to_run])
    whole.get_seed = lambda: next(seeds)  # asked once per attack, since all images are one batch
    return whole.run_standard_evaluation(images, labels, batch_size=len(images))[0]


def robust(model: nn.Module, adversarial: Tensor, labels: Tensor) -> Tensor:
    """Whether each image (N, C, H, W) is still classified as its label (N,)."""
    with torch.no_grad():
        return model(adversarial).argmax(1) == labels


def in_turns(sides: list[Callable[[], Tensor]], first: int) -> tuple[list[Tensor], list[float]]:
    """What both sides return, and their seconds; `first` says whose turn it is first."""
    found: list[Tensor] = [torch.empty(0)] * 2
    seconds = [0.0] * 2
    for side in (first, 1 - first):
        begun = time.perf_counter()
        with torch.random.fork_rng(devices=[]):
            found[side] = sides[side]()
        seconds[side] = time.perf_counter() - begun
    return found, seconds


def compare(case: Case, threat: Threat, count: int, seed: int) -> dict[str, Any]:
    """One cell: verdicts of both sides for each attack alone and for the cascade, and the seconds of each."""
    model, (images, labels) = case.model, case.images(count, seed)
    attacks = autoattack(threat, CLASSES)
    oracle = reference(model, threat, CLASSES, seed=seed)
    first = seed % 2
    cell: dict[str, Any] = {"differences": {}, "same bits": 0, "seconds": {}}
    for attack in attacks:
        sides: list[Callable[[], Tensor]] = [
            lambda name=attack.name: oracle[name].perturb(images.clone(), labels.clone()),  # type: ignore[misc]
            lambda attack=attack: attack(model, images, labels, seed=seed),  # type: ignore[misc]
        ]
        found, cell["seconds"][attack.name] = in_turns(sides, first)
        verdicts = [robust(model, adversarial, labels) for adversarial in found]
        cell["differences"][attack.name] = int((verdicts[0] != verdicts[1]).sum())
        cell["same bits"] += int(torch.equal(*found))
    sides = [
        lambda: robust(model, reference_cascade(model, images, labels, threat, seed), labels),
        lambda: torch.tensor(judge(model, images, labels, attacks, seed).verdicts["square"]),
    ]
    verdicts, cell["seconds"]["cascade"] = in_turns(sides, first)
    cell["differences"]["cascade"] = int((verdicts[0] != verdicts[1]).sum())
    cell["robust"] = [int(verdict.sum()) for verdict in verdicts]
    return cell


def table(cells: dict[str, dict[str, Any]], count: int) -> str:
    """Markdown: a row for each network, norm and radius, summed over the seeds."""
    names = [*(attack.name for attack in autoattack(Threat(), CLASSES)), "cascade"]
    lines = [
        "| network | norm | eps | n | robust, reference | robust, rtk | differing verdicts: "
        + ", ".join(names)
        + " | same bits | seconds, reference | seconds, rtk | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[str, list[dict[str, Any]]] = {}
    for key, cell in cells.items():
        groups.setdefault(key.rpartition(" ")[0], []).append(cell)
    groups["all"] = list(cells.values())
    for key, group in groups.items():
        network, norm, eps = key.split() if " " in key else (f"**{key}**", "", "")
        here, there = (sum(cell["robust"][side] for cell in group) for side in (1, 0))
        differences = ", ".join(str(sum(cell["differences"][name] for cell in group)) for name in names)
        bits = f"{sum(cell['same bits'] for cell in group)} of {4 * len(group)}"
        theirs, ours = (sum(sum(pair[side] for pair in cell["seconds"].values()) for cell in group) for side in (0, 1))
        lines.append(
            f"| {network} | {norm} | {eps} | {count * len(group)} | {there} | {here} | {differences} | {bits}"
            f" | {theirs:.1f} | {ours:.1f} | {ours / theirs:.2f} |"
        )
    return "\n".join(lines)


def report(cells: dict[str, dict[str, Any]], count: int, versions: dict[str, str]) -> str:
    """The whole file."""
    seeds = ", ".join(f"{' and '.join(map(str, values))} for {norm}" for norm, values in SEEDS.items())
    return f"""# rtk's AutoAttack against the reference's, image by image

```sh
OMP_NUM_THREADS=1 python benchmarks/reference_verdicts.py --images {count} --out benchmarks/reference_verdicts.md
```

{", ".join(f"{name} {version}" for name, version in versions.items())}; CPU, {torch.get_num_threads()} thread; {count}
validation images for each network, radius and seed, others for each seed; seeds {seeds}. Networks: `rtk:fashion-resnet`
(BatchNorm), a vision transformer on `fashion`, and a plain convolutional network without norm layers on `signs`, RGB.

n counts the images of all seeds. Robust: after the cascade. Differing verdicts: images on which the two disagree after
each attack alone, and after the cascade. Same bits: attacks, alone, whose adversarial images are equal bit for bit.
Seconds: the four attacks alone and the cascade together, both sides in turns in one process; ratio: rtk / reference.

{table(cells, count)}
"""


def main() -> None:
    """Fill the cells that are missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the markdown file")
    parser.add_argument("--images", type=int, default=12, help="for each network, radius and seed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    versions = {"Python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}
    partial = options.out.with_suffix(".partial.json")
    identity = json.dumps([versions, options.images])
    kept = files.read_json(partial) if partial.exists() else {}
    cells = kept.get("cells", {}) if kept.get("identity") == identity else {}
    for case in cases():
        for norm, seeds in SEEDS.items():
            for eps in case.eps[norm][-RADII[norm] :]:
                for seed in seeds:
                    key = f"{case.name} {norm} {eps} {seed}"
                    if key not in cells:
                        cells[key] = compare(case, Threat(norm, eps), options.images, seed)
                        files.write_json(partial, {"identity": identity, "cells": cells})
                        print(key, cells[key], flush=True)
    options.out.write_text(report(cells, options.images, versions), encoding="utf-8")
    partial.unlink(missing_ok=True)
    print(table(cells, options.images))


if __name__ == "__main__":
    main()
