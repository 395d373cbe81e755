"""PGD-20 evaluation in float32: rtk's evaluation against torchattacks.PGD on every image, from the same starts.

The peer is also given only the images that are right without an attack, which somebody had to find out for it.

python benchmarks/speed/pgd.py
python benchmarks/speed/pgd.py --backbone rtk:cifar10-at --dataset cifar10 --eps 8/255
"""

from __future__ import annotations

from fractions import Fraction
from functools import partial

import naive
import torch
from common import Race, flops, parser, run
from torch import Tensor
from work import SMALL, images

from rtk.accuracy import correct
from rtk.attacks import pgd
from rtk.backbones import open_backbone
from rtk.evaluation.cascade import judge
from rtk.seeds import derive
from rtk.threat import Threat

STEPS, SIZE = 20, 128


def main() -> None:
    """Compare."""
    options = parser(__doc__)
    options.add_argument("--backbone", default=SMALL)
    options.add_argument("--dataset", default="fashion", help="those that are no part of rtk: RTK_DATA")
    options.add_argument("--eps", type=Fraction, default=Fraction(1, 10))
    options.add_argument("--random", action="store_true", help="random weights; its own predictions are the labels")
    options.add_argument("--count", type=int, default=768)
    asked = options.parse_args()
    torch.set_num_threads(asked.threads)
    eps = float(asked.eps)
    weights = "random" if asked.random else None
    model = open_backbone(asked.backbone, weights=weights, classes=10).model.to(asked.device)
    published = naive.as_published(model)
    x, y = (each.to(asked.device) for each in images(asked.count, "val", asked.dataset))
    if asked.random:
        with torch.no_grad():
            y = model(x).argmax(1)

    def with_rtk() -> Tensor:
        found = []
        for number, (part, labels) in enumerate(naive.batches(x, y, SIZE, None)):
            verdicts = judge(model, part, labels, (pgd(Threat("Linf", eps), steps=STEPS),), seed=number).verdicts
            found += verdicts[f"pgd{STEPS}"]
        return torch.tensor(found)

    right = correct(model, x, y, SIZE).cpu()
    chunks = list(torch.arange(len(y)).split(SIZE))

    def with_torchattacks(chosen: list[Tensor]) -> Tensor:
        """Which images are right before and after; where those that are right come first, their starts are rtk's."""
        found = torch.zeros(len(y), dtype=torch.bool)
        for number, indices in enumerate(chosen):
            torch.manual_seed(derive(number, f"pgd{STEPS}"))
            found[indices] = naive.pgd_accuracy(
                published, x[indices], y[indices], eps=eps, steps=STEPS, size=SIZE
            ).cpu()
        return found & right

    every = [indices[torch.argsort(~right[indices], stable=True)] for indices in chunks]
    mere = [indices[right[indices]] for indices in chunks]

    def same(ours: Tensor, theirs: Tensor) -> str:
        only_they = (ours & ~theirs).nonzero().flatten().tolist()
        only_we = (~ours & theirs).nonzero().flatten().tolist()
        return (
            f"robust: rtk {int(ours.sum())}, torchattacks {int(theirs.sum())} of {len(ours)};"
            f" broken by torchattacks alone {only_they or 'none'}, by rtk alone {only_we or 'none'}"
        )

    run(
        Race(
            f"PGD-{STEPS} evaluation in float32, {asked.backbone}, {asked.count} images",
            {
                "rtk": with_rtk,
                "torchattacks on every image": partial(with_torchattacks, every),
                "torchattacks on the images that are right": partial(with_torchattacks, mere),
            },
            same,
            least=1.3 if asked.device == "cpu" else 2.0,
            flops=int(right.sum()) * STEPS * flops(model, x),
        ),
        asked,
    )


if __name__ == "__main__":
    main()
