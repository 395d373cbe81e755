"""A step of TWINS against a step of adversarial training on a mini-batch of the same size, both rtk's.

python benchmarks/speed/twins.py
"""

from __future__ import annotations

from functools import partial

import torch
from common import Race, parser, run
from torch import nn
from work import resnet18, tune

SIZE = 128


def main() -> None:
    """Compare."""
    options = parser(__doc__)
    options.add_argument("--count", type=int, default=384)
    asked = options.parse_args()
    torch.set_num_threads(asked.threads)
    backbone = resnet18()

    def same(ours: nn.Module, theirs: nn.Module) -> str:
        return "the same data, attack and number of steps"

    run(
        Race(
            f"TWINS against adversarial training, ResNet-18, PGD-10, {asked.count} images in mini-batches of {SIZE};"
            " 0.91x is 1.1 times the time",
            {
                name: partial(tune, name, backbone, asked.count, device=asked.device, epochs=1)
                for name in ("twins", "at")
            },
            same,
            least=0.91,
            rounds=2,
        ),
        asked,
    )


if __name__ == "__main__":
    main()
