"""AutoAttack standard in float32, with the same seeds and chunks: rtk's evaluation against pyautoattack.

python benchmarks/speed/reference_autoattack.py --threads 1
python benchmarks/speed/reference_autoattack.py --backbone rtk:cifar10-at --dataset cifar10 --eps 8/255
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import naive
import torch
from common import Race, parser, run
from torch import Tensor, nn
from work import SMALL, images

from rtk.attacks import autoattack
from rtk.backbones import open_backbone
from rtk.evaluation.cascade import judge
from rtk.seeds import derive
from rtk.threat import Threat


def by_reference(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, chunk: int, seed: Callable[[int, str], int]
) -> Tensor:
    """pyautoattack, chunk by chunk, with the seeds that rtk gives to each attack; which images stay correct."""
    from pyautoattack import AutoAttack

    found = []
    for number, (part, labels) in enumerate(naive.batches(x, y, chunk, None)):
        reference = AutoAttack(model, norm="Linf", eps=eps, version="standard", device=x.device)
        seeds = iter([seed(number, name) for name in ("apgd-ce", "apgd-t", "fab-t", "square")])
        reference.get_seed = lambda seeds=seeds: next(seeds)
        with torch.random.fork_rng():
            adversarial, _ = reference.run_standard_evaluation(part, labels, batch_size=chunk)
        with torch.no_grad():
            found.append(model(adversarial).argmax(1) == labels)
    return torch.cat(found).cpu()


def main() -> None:
    """Compare."""
    options = parser(__doc__)
    options.add_argument("--backbone", default=SMALL)
    options.add_argument("--dataset", default="fashion", help="those that are no part of rtk: RTK_DATA")
    options.add_argument("--eps", type=Fraction, default=Fraction(1, 10))
    options.add_argument("--count", type=int, default=64)
    options.add_argument("--chunk", type=int, default=64)
    asked = options.parse_args()
    torch.set_num_threads(asked.threads)
    eps, chunk = float(asked.eps), asked.chunk
    model = open_backbone(asked.backbone).model.to(asked.device)
    published = naive.as_published(model)
    x, y = (each.to(asked.device) for each in images(asked.count, "val", asked.dataset))

    def with_rtk() -> Tensor:
        found = []
        for number, (part, labels) in enumerate(naive.batches(x, y, chunk, None)):
            attacks = autoattack(Threat("Linf", eps), 10)
            found += judge(model, part, labels, attacks, seed=number, announced=True).verdicts["square"]
        return torch.tensor(found)

    def same(ours: Tensor, theirs: Tensor) -> str:
        different = (ours != theirs).nonzero().flatten().tolist()
        return (
            f"robust: rtk {int(ours.sum())}, pyautoattack {int(theirs.sum())} of {len(ours)};"
            f" images with another verdict: {different or 'none'}"
        )

    run(
        Race(
            f"AutoAttack standard in float32, {asked.backbone}, {asked.count} images in chunks of {chunk}",
            {
                "rtk": with_rtk,
                "pyautoattack": lambda: by_reference(published, x, y, eps, chunk, lambda n, name: derive(n, name)),
            },
            same,
            least=1.3 if asked.device == "cpu" else 3.0,
            rounds=2,
        ),
        asked,
    )


if __name__ == "__main__":
    main()
