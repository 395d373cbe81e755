"""After an attack: whether what it returned is what it is counted as."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from ..attacks import Logits, frozen, seeded
from ..attacks.checks import inside
from ..threat import Threat
from .check import Check, at_most, number, skipped

REPEATS = 3
"""Fresh forward passes of every stored example; two are enough where they give the same bits."""


@dataclass(frozen=True)
class Counts:
    """Images, counted by what is wrong with them; counts of several chunks are added. All fields are JSON numbers.

    Attributes:
        images: all that were given to the attack.
        claimed: that the attack, or the verdict on record, calls broken.
        unverified: claimed, but a fresh forward pass of the stored example classifies them correctly.
        overlooked: robust on record, but a fresh forward pass of the stored example breaks them.
        outside: whose stored example leaves the ball or [0, 1] or is not finite; they are no successes.
        not_finite: whose stored example has NaN or infinite logits, which counts as broken.
        unrepeatable: that some of the fresh forward passes break and others do not.
    """

    images: int = 0
    claimed: int = 0
    unverified: int = 0
    overlooked: int = 0
    outside: int = 0
    not_finite: int = 0
    unrepeatable: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


def after(
    model: nn.Module,
    clean: Tensor,
    adversarial: Tensor,
    labels: Tensor,
    threat: Threat,
    robust: Tensor,
    *,
    claimed: Tensor | None = None,
    batch: int | None = None,
) -> Counts:
    """Judge the stored examples of one attack again, in float32, by no code of the attack or of the evaluation.

    Args:
        clean, adversarial: (N, C, H, W), float32.
        labels: (N,), int64.
        robust: (N,), bool; the verdicts on record: True where the network withstood the attack.
        claimed: (N,), bool; what the attack itself calls broken. By default what is not robust on record. An attack
            that returns an image as it was unless it broke it (APGD, FAB, Square) claims every image that it changed.
        batch: at most so many images go through the network at once; None for all.
    """
    if len(clean) == 0:
        return Counts()
    called = ~robust if claimed is None else claimed
    with frozen(model), seeded(0, clean.device), torch.no_grad():
        network = Logits(model, batch=batch)
        found = [network(adversarial), network(adversarial)]
        if not torch.equal(*found):  # a network that draws random numbers gives the same logits twice next to never
            found += [network(adversarial) for _ in range(REPEATS - 2)]
        passes = torch.stack(found)
    finite = torch.isfinite(passes).all(2)
    broken = (passes.argmax(2) != labels) | ~finite
    kept = inside(clean, adversarial, threat)
    success = broken[0] & kept
    return Counts(
        images=len(clean),
        claimed=int(called.sum()),
        unverified=int((called & ~success).sum()),
        overlooked=int((robust & success).sum()),
        outside=int((~kept).sum()),
        not_finite=int((~finite[0]).sum()),
        unrepeatable=int((broken.any(0) & ~broken.all(0)).sum()),
    )


def conclude(counts: Counts) -> list[Check]:
    """The summed counts of an evaluation as checks."""
    total = max(counts.images, 1)
    checks = [
        _verified(counts),
        at_most(
            "recorded-success",
            counts.overlooked,
            0,
            f"The number of {counts.images} images that count as robust although their stored example is misclassified",
            "the robust accuracy on record is too high",
            bad="error",
            show=number,
        ),
        at_most(
            "ball-and-range",
            counts.outside,
            0,
            f"The number of {counts.images} stored examples outside the ball or [0, 1]",
            "the attack did more than the threat model allows",
            bad="error",
            show=number,
        ),
        at_most(
            "adversarial-logits-finite",
            counts.not_finite,
            0,
            f"The number of {counts.images} stored examples with NaN or infinite logits, which count as broken,",
            "the network fails instead of being fooled",
            show=number,
        ),
        at_most(
            "repeatable",
            counts.unrepeatable / total,
            max(1 / total, 0.001),
            "The share of stored examples on which fresh forward passes disagree",
            "the network is randomised, and one draw decides what counts as broken",
        ),
    ]
    return checks if counts.images else [skipped(check.name, "No image was attacked.") for check in checks]


FEW = 3
"""As many denied successes do not say that two networks were seen: FAB's examples lie on the decision boundary, where
rounding decides, and such an image counts as robust."""


def nested(verdicts: Mapping[str, Sequence[bool]]) -> Check:
    """Whether an image that one attack broke stays broken, and every image has a verdict of every attack.

    Args:
        verdicts: per image, "clean" first and then the attacks in the order in which they ran: still correct?
    """
    columns = list(verdicts.values())
    lengths = {len(column) for column in columns}
    if len(lengths) > 1:
        sizes = ", ".join(f"{name} {len(column)}" for name, column in verdicts.items())
        text = f"Every item needs a verdict per image; found {sizes}: some images were dropped."
        return Check(name="nested-verdicts", verdict="error", text=text)
    revived = sum(any(not a and b for a, b in itertools.pairwise(row)) for row in zip(*columns, strict=True))
    return at_most(
        "nested-verdicts",
        revived,
        0,
        "The number of images that count as robust after an attack although they were broken before it",
        "the robust accuracy on record is too high",
        bad="error",
        show=number,
    )


def _verified(counts: Counts) -> Check:
    share = counts.unverified / max(counts.claimed, 1)
    return at_most(
        "verified-success",
        share,
        0,
        f"The share of {counts.claimed} claimed successes that a fresh forward pass of the stored example denies",
        "the attack and its verification see different networks",
        bad="error" if share > 0.01 and counts.unverified > FEW else "warning",
    )
