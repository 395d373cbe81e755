"""Signs of gradient masking: robustness that an attack does not see through, rather than robustness.

None of them proves anything; each is a way in which attacks on networks with masked gradients were seen to behave, and
attacks on others were not (Athalye et al., ICML 2018; Carlini et al., 2019; Croce et al., 2020; Pintor et al., 2022).
Transfer from another network is not among them: it needs one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..attacks import apgd, frozen, pgd, seeded, square
from ..threat import Threat
from .check import Check, at_least, at_most, number, points, skipped
from .gradients import DIRECTIONS, cross_entropy, dlr, finite_differences, gradient, margin, signs
from .probe import Path, Probe, is_correct

STEPS = (10, 20, 50, 100)
SHORT = 20
"""Steps of PGD wherever the number of steps is not the question."""
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Radii relative to the threat's."""
UNBOUNDED = (0.5, 1.0)
"""Radii at which any image can be turned into grey, or into any other; per pixel, for L2 as well."""
RESTARTS = 5
QUERIES = 1000
AUTO_STEPS = 100
REPEATS = 10
FEWEST = 20
"""Correct images without which nothing is said: with fewer of them a single one would decide `loss-rises`."""
DRAWS = 4
NOISE_FLOOR = 0.015
"""Share of images by which the same attack with another seed was seen to differ: 3 of 200."""

NAMES = (
    "single-step",
    "more-steps",
    "convergence",
    "loss-rises",
    "larger-radius",
    "unbounded-radius",
    "restarts",
    "noise",
    "repeated-forward",
    "zero-gradients-ce",
    "zero-gradients-dlr",
    "zero-pixels-ce",
    "zero-pixels-dlr",
    "finite-differences",
    "logit-scale",
    "loss-functions",
    "black-box",
)


def cost(images: int) -> int:
    """Image-forwards of `masking` on so many images, a step of a gradient attack counted as one."""
    steps = STEPS[-1] + 1 + SHORT * (len(FACTORS) - 1 + len(UNBOUNDED) + RESTARTS - 1)
    looks = 1 + (DRAWS + 2) + REPEATS + 2 + (1 + 2 * DIRECTIONS) + 1
    return images * (steps + 2 * AUTO_STEPS + QUERIES + looks)


def masking(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    classes: int,
    *,
    seed: int,
    tick: Callable[[float], None] | None = None,
    batch: int | None = None,
) -> list[Check]:
    """One check per name of `NAMES`, in that order; a warning says that the measured robustness may be too high.

    Only images that are classified correctly are attacked. Shares are of all images given. Call it on a network in
    which `before` found no error.

    Args:
        images: (N, C, H, W), float32 in [0, 1]; about 64 of them, always the same ones.
        labels: (N,), int64.
        seed: decides every random draw.
        tick: called with the work done, in image-forwards; see `cost`.
        batch: at most so many images go through the network at once; None for all.

    Raises:
        AttackError: images outside [0, 1], or an attack that returned NaN.
    """
    with frozen(model), seeded(seed, images.device):  # the seed is for what a randomised network draws
        probe = Probe(model, images, labels, seed, tick, batch)
        if reason := _nothing_to_mask(probe, threat):
            with probe.stage(cost(1) - 1):
                return [skipped(name, reason) for name in NAMES]
        path = probe.path(pgd(threat, steps=STEPS[-1]))
        return [
            _single_step(probe, path, threat),
            _more_steps(probe, path),
            _convergence(probe, path),
            _loss_rises(probe, path),
            _larger_radius(probe, path, threat),
            _unbounded_radius(probe, threat),
            _restarts(probe, path, threat),
            _noise(probe, path, threat),
            _repeated_forward(probe, path),
            *_zeros(probe, classes),
            _finite_differences(probe),
            _logit_scale(probe),
            *_losses_and_black_box(probe, threat, classes),
        ]


def _nothing_to_mask(probe: Probe, threat: Threat) -> str:
    """Why nothing can be said about masking; empty where it can."""
    if threat.eps == 0:
        return "The radius is 0: there is nothing to mask."
    if (right := len(probe.images)) < FEWEST:
        return f"Only {right} of {probe.total} images are classified correctly; {FEWEST} are needed to say anything."
    return ""


def _floor(probe: Probe) -> float:
    """The noise floor as a share, one image at least."""
    return max(1 / probe.total, NOISE_FLOOR)


def _left(robust: Tensor) -> int:
    """Images are counted before they are divided, so that a difference of one image is exactly one image."""
    return int(robust.sum())


def _largest_rise(counts: list[int]) -> int:
    return max(later - min(counts[: place + 1]) for place, later in enumerate(counts[1:]))


def _single_step(probe: Probe, path: Path, threat: Threat) -> Check:
    single = probe.robust(pgd(threat, steps=1, step_size=threat.eps, random_start=False, name="fgsm"))
    return at_most(
        "single-step",
        (_left(path.correct[SHORT]) - _left(single)) / probe.total,
        _floor(probe),
        f"The accuracy under PGD-{SHORT} minus that under a single step of full size",
        "gradients mislead the attack after its first step",
        show=points,
    )


def _more_steps(probe: Probe, path: Path) -> Check:
    return at_most(
        "more-steps",
        _largest_rise([_left(path.correct[steps]) for steps in STEPS]) / probe.total,
        _floor(probe),
        f"The largest rise of the accuracy under PGD when it takes more steps ({', '.join(map(str, STEPS))})",
        "following the gradient does not lead to adversarial examples",
        show=points,
    )


def _convergence(probe: Probe, path: Path) -> Check:
    before, last = STEPS[-2:]
    return at_most(
        "convergence",
        (_left(path.correct[before]) - _left(path.correct[last])) / probe.total,
        _floor(probe),
        f"The fall of the accuracy from PGD-{before} to PGD-{last}",
        f"{last} steps are not enough, and robustness is overestimated",
        show=points,
    )


def _loss_rises(probe: Probe, path: Path) -> Check:
    clean = cross_entropy(probe.logits(probe.images), probe.labels)
    return at_least(
        "loss-rises",
        float((path.loss[-1] > clean).float().mean()),
        0.95,
        f"The share of images whose cross-entropy is higher after PGD-{STEPS[-1]}",
        "the gradient does not point to where the loss rises",
    )


def _larger_radius(probe: Probe, path: Path, threat: Threat) -> Check:
    scaled = [pgd(_within(threat, factor * threat.eps), steps=SHORT) for factor in FACTORS]
    counts = [_left(path.correct[SHORT] if each.threat == threat else probe.robust(each)) for each in scaled]
    return at_most(
        "larger-radius",
        _largest_rise(counts) / probe.total,
        _floor(probe),
        f"The largest rise of the accuracy under PGD-{SHORT} when the radius grows from {FACTORS[0]:g} to"
        f" {FACTORS[-1]:g} times the threat's",
        "the attack fails in a ball that contains adversarial examples which it found in a smaller one",
        show=points,
    )


def _unbounded_radius(probe: Probe, threat: Threat) -> Check:
    pixels = math.sqrt(probe.images[0].numel()) if threat.norm == "L2" else 1.0
    balls = [_within(threat, radius * pixels) for radius in UNBOUNDED]
    return at_most(
        "unbounded-radius",
        max(_left(probe.robust(pgd(ball, steps=SHORT))) for ball in balls) / probe.total,
        max(1 / probe.total, 0.02),
        f"The accuracy under PGD-{SHORT} at {threat.norm} {balls[0].eps:.3g}, where any image can become grey, or at"
        f" {balls[1].eps:.3g}",
        "the attack fails where adversarial examples certainly exist",
    )


def _restarts(probe: Probe, path: Path, threat: Threat) -> Check:
    first = path.correct[: SHORT + 1].all(0)
    robust = first.clone()
    for repeat in range(1, RESTARTS):
        robust &= probe.path(pgd(threat, steps=SHORT), repeat).correct.all(0)
    return at_most(
        "restarts",
        (_left(first) - _left(robust)) / probe.total,
        max(2 / probe.total, 0.03),
        f"The fall of the accuracy from one to {RESTARTS} random starts of PGD-{SHORT}",
        "success depends on where the attack starts",
        show=points,
    )


def _noise(probe: Probe, path: Path, threat: Threat) -> Check:
    generator = probe.generator("noise")
    size = threat.eps if threat.norm == "Linf" else threat.eps / math.sqrt(probe.images[0].numel())

    def rise(images: Tensor) -> float:
        return float((margin(probe.logits(images), probe.labels) - clean).mean())

    with probe.stage(DRAWS + 2):
        clean = margin(probe.logits(probe.images), probe.labels)
        noisy = [rise((probe.images + size * signs(probe.images, generator)).clamp(0, 1)) for _ in range(DRAWS)]
        attacked = rise(path.end)
    return at_most(
        "noise",
        max(sum(noisy) / DRAWS, 0.0) / attacked if attacked > 0 else math.inf,
        0.5,
        f"The harm of random noise of the threat's size relative to that of PGD-{STEPS[-1]}, as mean margins,",
        "the attack gains little from the gradient",
    )


def _repeated_forward(probe: Probe, path: Path) -> Check:
    with probe.stage(REPEATS):
        correct = torch.stack([is_correct(probe.logits(path.end), probe.labels) for _ in range(REPEATS)])
    return at_most(
        "repeated-forward",
        _left(correct.any(0) & ~correct.all(0)) / probe.total,
        1 / probe.total,
        f"The share of adversarial images on which {REPEATS} forward passes disagree",
        "the network is randomised, and a single draw decides what counts as broken",
    )


def _zeros(probe: Probe, classes: int) -> list[Check]:
    """Zeros in the gradients of both losses at the clean images."""
    samples, pixels = [], []
    for name, title, loss in (("ce", "cross-entropy", cross_entropy), ("dlr", "DLR loss", dlr)):
        of_images, of_pixels = f"zero-gradients-{name}", f"zero-pixels-{name}"
        with probe.stage(1):
            if loss is dlr and classes < 3:
                samples.append(skipped(of_images, "The DLR loss needs 3 classes."))
                pixels.append(skipped(of_pixels, "The DLR loss needs 3 classes."))
                continue
            zero = gradient(probe.network, probe.images, probe.labels, loss).flatten(1) == 0
        subject, meaning = f"at which the gradient of the {title} is exactly zero", "attacks that follow it do not move"
        share = float(zero.all(1).float().mean())
        samples.append(at_most(of_images, share, 0.0, f"The share of images {subject}", meaning))
        share = float(zero.float().mean())
        pixels.append(at_most(of_pixels, share, 0.5, f"The share of pixels {subject}", meaning))
    return [*samples, *pixels]


def _finite_differences(probe: Probe) -> Check:
    with probe.stage(1 + 2 * DIRECTIONS):
        error = finite_differences(probe.network, probe.images, probe.labels, probe.generator("directions"))
    return at_most(
        "finite-differences",
        error,
        0.5,
        f"The relative difference between the gradient of the margin and finite differences in {DIRECTIONS} directions",
        "the gradient is not that of the function that is attacked",
    )


def _logit_scale(probe: Probe) -> Check:
    with probe.stage(1):
        leads = -margin(probe.logits(probe.images), probe.labels)
    return at_most(
        "logit-scale",
        float(leads.median()),
        -math.log(torch.finfo(torch.float32).tiny),
        "The median lead of the correct logit",
        "the softmax of float32 is saturated and the gradient of the cross-entropy vanishes",
        show=number,
    )


def _losses_and_black_box(probe: Probe, threat: Threat, classes: int) -> list[Check]:
    ratio = apgd(threat, loss="dlr", steps=AUTO_STEPS)
    robust = _left(probe.robust(apgd(threat, loss="ce", steps=AUTO_STEPS)))
    if classes < 3:
        with probe.stage(ratio.cost):
            losses = skipped("loss-functions", "The DLR loss needs 3 classes.")
    else:
        losses = at_most(
            "loss-functions",
            (robust - _left(probe.robust(ratio))) / probe.total,
            0.1,
            "The accuracy under APGD on the cross-entropy minus that under APGD on the DLR loss",
            "the cross-entropy has no useful gradient",
            show=points,
        )
    black_box = at_most(
        "black-box",
        (robust - _left(probe.robust(square(threat, queries=QUERIES)))) / probe.total,
        _floor(probe),
        f"The accuracy under APGD-CE minus that under Square with {QUERIES} queries, which sees no gradients,",
        "gradients hide adversarial examples from attacks that use them",
        show=points,
    )
    return [losses, black_box]


def _within(threat: Threat, eps: float) -> Threat:
    """A ball of another radius, at most the largest that a threat can have."""
    return Threat(threat.norm, min(eps, 1.0 if threat.norm == "Linf" else 1000.0))
