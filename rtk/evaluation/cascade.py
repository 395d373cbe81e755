"""A cascade of attacks on one chunk of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial

from torch import Tensor, nn

from ..accuracy import correct
from ..attacks import Attack, check_images
from ..backbones.folded import Folding, fold
from ..checks import Counts, after
from ..memory import Memory
from ..seeds import derive
from .measure import Judged, Tick


def judge(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attacks: tuple[Attack, ...],
    seed: int,
    tick: Tick | None = None,
    memory: Memory | None = None,
    *,
    announced: bool = False,
) -> Judged:
    """Verdicts per image: `clean`, then for each attack whether the image is still classified correctly after it.

    An image is robust only when it is correct before the first attack and after every one; what one attack breaks is
    not given to the next. Success is decided by a separate float32 forward pass of the example; NaN or infinite logits
    count as broken. The example of an image is the one that broke it, else the last attack's.

    Attacks search on `rtk.backbones.folded.fold`, which gives logits and gradients but for rounding, and sooner.

    Args:
        images: float32 (N, C, H, W) in [0, 1].
        seed: each attack gets its own, derived from it and the attack's name.
        tick: called with the work done, in image-forwards; see `cost`.
        announced: whether each attack returns an image as it was unless it broke it, so that every image that it
            changed is a success that it claims.

    Returns:
        Its facts: "counts", the `rtk.checks.Counts` of what all attacks together returned, and "folding", that of the
        network on which they searched.
    """
    check_images(images)
    tick = tick or _ignore
    memory = memory or Memory(max(len(images), 1))
    alive = memory.run(partial(correct, model, images, labels))
    examples = images.clone()
    verdicts = {"clean": alive.tolist()}
    tick(len(images))
    counts = Counts()
    searched, folding = fold(model, images) if attacks else (model, Folding())
    for attack in attacks:
        kept = alive.nonzero().flatten()
        clean, wanted = images[kept], labels[kept]
        meter = Meter(tick, len(images) * attack.cost, ceiling=len(kept) * attack.cost)
        run = partial(_attack, attack, searched, clean, wanted, derive(seed, attack.name), meter.count)
        examples[kept] = adversarial = memory.run(run)
        alive[kept] = robust = memory.run(partial(correct, model, adversarial, wanted))
        claimed = (adversarial != clean).flatten(1).any(1) if announced else None
        counts += memory.run(partial(_verify, attack, model, clean, adversarial, wanted, robust, claimed))
        verdicts[attack.name] = alive.tolist()
        meter.finish()
    facts = {"counts": asdict(counts), "folding": asdict(folding)}
    return Judged(verdicts, examples, facts) if attacks else Judged(verdicts)


def cost(attacks: tuple[Attack, ...]) -> int:
    """Image-forwards per image, when nothing breaks."""
    return 1 + sum(attack.cost for attack in attacks)


def _attack(
    attack: Attack, model: nn.Module, images: Tensor, labels: Tensor, seed: int, tick: Callable[[int], None], batch: int
) -> Tensor:
    return attack(model, images, labels, seed=seed, tick=tick, batch=batch)


def _verify(
    attack: Attack,
    model: nn.Module,
    clean: Tensor,
    adversarial: Tensor,
    labels: Tensor,
    robust: Tensor,
    claimed: Tensor | None,
    batch: int,
) -> Counts:
    return after(model, clean, adversarial, labels, attack.threat, robust, claimed=claimed, batch=batch)


class Meter:
    """Counts the work of one step: never more than it can have, and all of it in the end.

    Args:
        total: work that the step counts for.
        ceiling: the most that may be counted before it is finished.
    """

    def __init__(self, tick: Tick, total: float, ceiling: float):
        self.tick, self.total, self.ceiling = tick, total, ceiling
        self.done = 0.0

    def count(self, amount: float) -> None:
        """So much was done, or done again."""
        amount = min(float(amount), self.ceiling - self.done)
        self.done += amount
        self.tick(amount)

    def finish(self) -> None:
        """All of it is done."""
        self.tick(self.total - self.done)


def _ignore(amount: float) -> None:
    pass
