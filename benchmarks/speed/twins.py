"""A step of TWINS against a step of adversarial training on a mini-batch of the same size, both rtk's.

python benchmarks/speed/twins.py

A turn is an epoch, its figure the median time from one step to the next: images, attack, loss, gradients, update.
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from itertools import pairwise

import torch
from common import Race, parser, run
from torch.optim.optimizer import register_optimizer_step_post_hook
from work import resnet18, tune

from rtk.backbones import Backbone

SIZE = 128


def steps(strategy: str, backbone: Backbone, count: int, device: str) -> list[float]:
    """Seconds of each step of an epoch but the first, which traces networks and takes the norms of TWINS' chart."""
    ends: list[float] = []

    def stop(*_: object) -> None:
        if device != "cpu":
            torch.cuda.synchronize()
        ends.append(time.perf_counter())

    hook = register_optimizer_step_post_hook(stop)
    try:
        tune(strategy, backbone, count, device=device, epochs=1)
    finally:
        hook.remove()
    return [after - before for before, after in pairwise(ends)]


def same(ours: list[float], theirs: list[float]) -> str:
    """As many steps; the data, the attack and its steps are rtk's in both."""
    assert len(ours) == len(theirs)
    return f"the same data and attack; median of {len(ours)} steps"


def main() -> None:
    """Compare."""
    options = parser(__doc__)
    options.add_argument("--count", type=int, default=1024)
    asked = options.parse_args()
    torch.set_num_threads(asked.threads)
    backbone = resnet18()
    run(
        Race(
            f"a step of TWINS against one of adversarial training, ResNet-18, PGD-10, mini-batches of {SIZE};"
            " 0.91x is 1.1 times the time",
            {name: partial(steps, name, backbone, asked.count, asked.device) for name in ("twins", "at")},
            same,
            least=0.91,
            timed=statistics.median,
        ),
        asked,
    )


if __name__ == "__main__":
    main()
