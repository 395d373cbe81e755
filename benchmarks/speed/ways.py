"""What each known way to a faster attack pays on this machine: layout, format, folded BatchNorm, compilation.

    python benchmarks/speed/ways.py
    python benchmarks/speed/ways.py --backbone rtk:fashion-resnet

Forward passes, and forward and backward passes to the images, in images per second; all ways take turns.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable

import naive
import torch
from common import machine, parser
from torch import Tensor
from torch.fx.experimental.optimization import fuse
from torch.nn import functional as F
from work import RESNET18

from rtk.backbones import Classifier, open_backbone

Network = Callable[[Tensor], Tensor]


def in_bfloat16(network: Network, device: str) -> Network:
    """Under autocast."""

    def forward(images: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            return network(images)

    return forward


def ways(model: Classifier, device: str) -> dict[str, Network]:
    """The same network, by what is done to it."""
    published, folded = naive.as_published(model), copy.deepcopy(model)
    folded.net = fuse(folded.net)
    return {
        "as published": published,
        "channels last": model,
        "bfloat16": in_bfloat16(published, device),
        "channels last, bfloat16 (rtk's training attack)": in_bfloat16(model, device),
        "channels last, BatchNorm folded": folded,
        "channels last, BatchNorm folded, bfloat16": in_bfloat16(folded, device),
        "compiled": torch.compile(copy.deepcopy(model), dynamic=False),
        "compiled, bfloat16": in_bfloat16(torch.compile(copy.deepcopy(model), dynamic=False), device),
    }


def passes(network: Network, images: Tensor, labels: Tensor, device: str) -> tuple[float, float]:
    """Seconds of a forward pass, and of a forward and a backward pass to the images."""
    begun = time.perf_counter()
    with torch.no_grad():
        network(images)
    _wait(device)
    half = time.perf_counter()
    leaf = images.clone().requires_grad_()
    torch.autograd.grad(F.cross_entropy(network(leaf).float(), labels), leaf)
    _wait(device)
    return half - begun, time.perf_counter() - half


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def main(asked: argparse.Namespace) -> None:
    """Measure and print."""
    torch.set_num_threads(asked.threads)
    weights = None if asked.backbone.startswith("rtk:") else "random"
    model = open_backbone(asked.backbone, weights=weights, classes=10).model.to(asked.device).requires_grad_(False)
    images = torch.rand(asked.batch, 3, 32, 32, device=asked.device)
    labels = torch.randint(10, (asked.batch,), device=asked.device)
    networks = ways(model, asked.device)
    first = {name: sum(passes(network, images, labels, asked.device)) for name, network in networks.items()}
    best = dict.fromkeys(networks, (float("inf"), float("inf")))
    for _ in range(asked.rounds or 6):
        for name, network in networks.items():
            taken = passes(network, images, labels, asked.device)
            best[name] = (min(best[name][0], taken[0]), min(best[name][1], taken[1]))
    base = best["as published"]
    rows = []
    print(
        f"{asked.backbone}, batch {asked.batch}, {asked.threads} threads: images per second (ratio); seconds to begin"
    )
    for name, (forward, both) in best.items():
        row = {
            "way": name,
            "forward": round(asked.batch / forward),
            "forward_ratio": round(base[0] / forward, 2),
            "gradient": round(asked.batch / both),
            "gradient_ratio": round(base[1] / both, 2),
            "begin": round(first[name] - forward - both, 1),
        }
        rows.append(row)
        print(
            f"  {name:48} forward {row['forward']:6} ({row['forward_ratio']}x)"
            f"  with gradient {row['gradient']:6} ({row['gradient_ratio']}x)  {row['begin']} s"
        )
    if asked.json is not None:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        facts = {"work": f"ways, {asked.backbone}", "ways": rows, "machine": machine(asked)}
        asked.json.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--backbone", default=RESNET18)
    options.add_argument("--batch", type=int, default=128)
    main(options.parse_args())
