"""Which check catches which masked or broken network: python benchmarks/masked_networks.py --out FILE.md

The networks are the fixtures of the tests: wrappers that hide the gradients of a trained network, or spoil it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))  # for the fixtures of the tests

from rtk.attacks import frozen, pgd
from rtk.backbones import open_backbone
from rtk.checks import Check, after, before, conclude, masking
from rtk.data import open_dataset
from rtk.threat import Threat
from tests import masked_networks as fixtures

THREAT = Threat("Linf", 0.1)
COUNT = 64
KINDS = {
    "logits x 1000": (fixtures.LargeLogits, "natural"),
    "quantised input": (fixtures.QuantisedInput, "natural"),
    "shattered input": (fixtures.ShatteredInput, "natural"),
    "noise on the input": (fixtures.InputNoise, "robust"),
    "noise behind a fixed seed": (fixtures.Reseeded, "robust"),
    "softmax output": (fixtures.Probabilities, "robust"),
    "output depends on the batch": (fixtures.BatchStatistics, "robust"),
    "BatchNorm on batch statistics": (fixtures.BatchNormLive, "robust"),
    "NaN for bright images": (fixtures.NanForBright, "robust"),
    "remembers what it has seen": (fixtures.Remembers, "robust"),
    "optimises in its forward pass": (fixtures.Purifies, "robust"),
    "no gradient": (fixtures.Detached, "robust"),
    "ignores its input": (fixtures.Constant, "robust"),
}


def flags(net: nn.Module, images: Tensor, labels: Tensor) -> list[Check]:
    """Everything but "ok" that is found before, in, and after attacks; without a hard error before only."""
    found = before(net, images, labels, 10, seed=0)
    if not any(check.verdict == "error" for check in found):
        found += masking(net, images, labels, THREAT, 10, seed=0)
        with torch.no_grad(), frozen(net):
            right = net(images).argmax(1) == labels
            images, labels = images[right], labels[right]
            adversarial = pgd(THREAT, steps=20)(net, images, labels, seed=0)
            robust = net(adversarial).argmax(1) == labels
        found += conclude(after(net, images, adversarial, labels, THREAT, robust))
    return [check for check in found if check.verdict in ("warning", "error")]


def rows(name: str, found: list[Check]) -> list[str]:
    """Lines of the table for one network."""
    if not found:
        return [f"| {name} | nothing | | |"]
    lines = []
    for number, check in enumerate(found):
        flag = check.name + (" (no number)" if check.verdict == "error" else "")
        value, limit = ("" if each is None else f"{each:.3g}" for each in (check.value, check.limit))
        lines.append(f"| {'' if number else name} | {flag} | {value} | {limit} |")
    return lines


def main() -> None:
    """Train the natural network, try everything, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    test = open_dataset("fashion").split("val")
    images, labels = test.images(slice(COUNT)), test.labels[:COUNT]
    nets = {
        "natural": fixtures.train(fixtures.plain_cnn, None, images=4000, epochs=6, lr=2e-3),
        "robust": open_backbone("rtk:fashion-resnet").model,
    }
    lines = [
        "# Which check catches which masked network\n",
        "```sh\npython benchmarks/masked_networks.py --out benchmarks/masked_networks.md\n```\n",
        f"{THREAT.label}, {COUNT} validation images of `fashion`, torch {torch.__version__}, one CPU thread. Masks are"
        " put on a naturally trained\nnetwork (the first three, so that there is something to hide) or on"
        ' `rtk:fashion-resnet`. "No number": the check is\nhard, and an evaluation stops there. Values and limits as in'
        " `rtk show DIR --checks`.\n",
        "| network | flag | value | limit |\n|---|---|---|---|",
    ]
    for name, net in nets.items():
        lines += rows(f"{name}, without a mask", flags(net, images, labels))
    for name, (mask, of) in KINDS.items():
        lines += rows(name, flags(mask(nets[of]), images, labels))
        print(lines[-1], flush=True)
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
