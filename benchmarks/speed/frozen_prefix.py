"""Training of the last k blocks: rtk's `last-k` and `cartl` against full forward and backward passes.

python benchmarks/speed/frozen_prefix.py
python benchmarks/speed/frozen_prefix.py --strategy cartl
"""

from __future__ import annotations

import naive
import torch
from common import Race, parser, run
from work import images, resnet18, tune

from rtk.backbones import Classifier

LR, SIZE = 0.01, 128


def main() -> None:
    """Compare."""
    options = parser(__doc__)
    options.add_argument("--count", type=int, default=1024)
    options.add_argument("--strategy", choices=("last-k", "cartl"), default="last-k")
    options.add_argument("-k", type=int, default=3)
    asked = options.parse_args()
    torch.set_num_threads(asked.threads)
    backbone, device = resnet18(), asked.device

    def plain() -> Classifier:
        model = naive.as_published(backbone.model).to(device).eval()
        x, y = (each.to(device) for each in images(asked.count))
        tail = backbone.structure.tail(asked.k)
        parameters = list(backbone.structure.named_parameters(model, tail.modules).values())
        orders = [list(torch.randperm(asked.count).split(SIZE))]
        naive.train_parameters(model, parameters, orders, x, y, lr=LR)
        return model

    def same(ours: Classifier, theirs: Classifier) -> str:
        tail, source = backbone.structure.tail(asked.k), backbone.model.native_state()
        moved = [
            {name for name, value in source.items() if name.endswith("weight") and not torch.equal(value, state[name])}
            for state in (ours.native_state(), theirs.native_state())
        ]
        assert moved[0] <= moved[1] <= set(backbone.structure.parameters_in(tail.modules)), "the prefix has moved"
        return "in both, nothing before the last blocks has moved"

    run(
        Race(
            f"{asked.strategy}, k = {asked.k}, ResNet-18, an epoch of {asked.count} images",
            {
                "rtk": lambda: tune(asked.strategy, backbone, asked.count, device=device, epochs=1, lr=LR, k=asked.k),
                "full passes": plain,
            },
            same,
            least=1.5,
        ),
        asked,
    )


if __name__ == "__main__":
    main()
