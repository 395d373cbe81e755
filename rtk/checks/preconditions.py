"""Before the attacks: whether images, labels and network are what an attack takes for granted."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..attacks import Logits, check_images, frozen, seeded
from ..errors import AttackError
from ..memory import ran_out
from .check import Check, at_least, at_most, failed, number, skipped
from .gradients import cross_entropy, dlr, gradient

FORWARDS = 5
SOME = 20
"""Images of which all but one get the same answer where it is nearly always given."""
ALONE = 8
"""Images that are also given to the network one by one."""


def before(
    model: nn.Module, images: Tensor, labels: Tensor, classes: int, *, seed: int, batch: int | None = None
) -> list[Check]:
    """Checks of the data and of the network on some images; leaves the network and the random state as they were.

    An error means that an attack on this network gives no number that could be reported. Nothing that is wrong with a
    network raises; only running out of memory does. The list ends early where the rest would be meaningless.

    Args:
        images: (N, C, H, W), float32 in [0, 1]; about 64 of them.
        labels: (N,), int64 in [0, classes).
        seed: decides the random numbers that a randomised network would draw.
        batch: at most so many images go through the network at once; None for all.
    """
    found = [_images(images), _labels(images, labels, classes)]
    if any(check.verdict == "error" for check in found):
        return found
    found.append(
        at_least(
            "pixel-range",
            float(images.max()),
            0.5,
            "The brightest pixel of all images",
            "they may have been scaled to [0, 1] twice",
            show=number,
        )
    )
    with frozen(model), seeded(seed, images.device), torch.no_grad():
        return [*found, *_Subject(model, images, labels, classes, batch or len(images)).checks()]


class _Subject:
    """A frozen network, the images, and the logits of one forward pass."""

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, classes: int, batch: int):
        self.model, self.images, self.labels, self.classes, self.batch = model, images, labels, classes, batch
        self.network = Logits(model, batch=batch).eval()
        self.logits = torch.empty(0)

    def checks(self) -> list[Check]:
        """In an order in which each check may rely on those before it."""
        state, random = _state(self.model), _random_state(self.images.device)
        found = [_guarded("logits-shape", self.shape)]
        if found[0].verdict == "error":
            return found
        found += [_guarded("logits-finite", self.finite), _guarded("no-autograd-in-forward", self.no_autograd)]
        if found[1].verdict == "ok":
            for name, check in (
                ("logits-differ", self.differ),
                ("logits-not-probabilities", self.not_probabilities),
                ("clean-accuracy", self.accuracy),
                ("answers-differ", self.answers_differ),
                ("deterministic", self.deterministic),
                ("batch-invariant", self.batch_invariant),
                ("gradient-finite", self.gradient_finite),
            ):
                found.append(_guarded(name, check))
        return [
            *found,
            _random_numbers(random, _random_state(self.images.device)),
            _unchanged(state, _state(self.model)),
        ]

    def shape(self) -> Check:
        parts = [self.model(part) for part in self.images.split(self.batch)]
        for part in parts:
            if not isinstance(part, Tensor) or not part.is_floating_point():
                kind = part.dtype if isinstance(part, Tensor) else type(part).__name__
                text = f"The network returns {kind}; a floating-point tensor of logits is needed."
                return failed("logits-shape", text)
        raw = torch.cat(parts)
        expected, given = (len(self.images), self.classes), tuple(raw.shape)
        text = (
            f"The network returns {given} for {len(self.images)} images of {self.classes} classes; needed: {expected}."
        )
        self.logits = raw.detach().float().clone()
        return Check(name="logits-shape", verdict="ok" if given == expected else "error", text=text)

    def finite(self) -> Check:
        return at_most(
            "logits-finite",
            float((~torch.isfinite(self.logits)).flatten(1).any(1).sum()),
            0,
            "The number of clean images with NaN or infinite logits",
            "the network is broken, and no attack on it is needed",
            bad="error",
            show=number,
        )

    def differ(self) -> Check:
        if len(self.images) < 2:
            return skipped("logits-differ", "One image cannot have other logits than the others.")
        return at_least(
            "logits-differ",
            self.relative(self.logits - self.logits[:1]),
            1e-6,
            "The largest difference between the logits of two images, relative to the largest logit,",
            "the network does not look at its input",
            bad="error",
            show=number,
        )

    def not_probabilities(self) -> Check:
        in_range = ((self.logits >= 0) & (self.logits <= 1)).all(1)
        sums_to_one = (self.logits.sum(1) - 1).abs() < 1e-4
        return at_most(
            "logits-not-probabilities",
            float((in_range & sums_to_one).float().mean()),
            0,
            "The share of images whose logits lie in [0, 1] and sum to 1",
            "the network returns probabilities, on which the losses of the attacks have vanishing gradients",
        )

    def accuracy(self) -> Check:
        chance, count = 1 / self.classes, len(self.labels)
        return at_least(
            "clean-accuracy",
            float((self.logits.argmax(1) == self.labels).float().mean()),
            min(1.0, chance + 2 * math.sqrt(chance * (1 - chance) / count)),
            f"The clean accuracy on {count} images",
            f"it is not above the chance of {count} guesses: wrong normalisation, wrong order of classes, or untrained",
        )

    def answers_differ(self) -> Check:
        count = len(self.labels)
        if count < SOME:
            return skipped("answers-differ", f"{count} images are too few to tell whether nearly all get one answer.")
        answered, labelled = (
            int(each.bincount(minlength=self.classes).max()) for each in (self.logits.argmax(1), self.labels)
        )
        return at_most(
            "answers-differ",
            answered / count,
            max(1 - 1 / SOME, (1 + labelled / count) / 2),
            f"The largest share of {count} clean images that get the same answer",
            "the network answers nearly always with one class: training has diverged, or nothing was learned",
        )

    def deterministic(self) -> Check:
        again = [self.network(self.images) - self.logits for _ in range(FORWARDS - 1)]
        return at_most(
            "deterministic",
            self.relative(torch.stack(again)),
            1e-4,
            f"The largest difference between the logits of {FORWARDS} equal forward passes, relative to the largest,",
            "the network is randomised, and attacks that do not average over its draws overestimate its robustness",
            bad="error",
            show=number,
        )

    def batch_invariant(self) -> Check:
        if min(len(self.images), self.batch) < 2:
            return skipped("batch-invariant", "One image makes no other batch than itself.")
        alone = torch.cat([self.network(image[None]) for image in self.images[:ALONE]])
        return at_most(
            "batch-invariant",
            self.relative(alone - self.logits[:ALONE]),
            1e-3,
            "The largest difference between the logits of an image alone and in a batch, relative to the largest,",
            "images influence each other, for example through BatchNorm with the statistics of the batch",
            bad="error",
            show=number,
        )

    def gradient_finite(self) -> Check:
        losses = [cross_entropy, *([dlr] if self.classes >= 3 else [])]
        gradients = [gradient(self.network, self.images, self.labels, loss).flatten(1) for loss in losses]
        return at_most(
            "gradient-finite",
            float((~torch.isfinite(torch.cat(gradients, 1))).any(1).sum()),
            0,
            "The number of images with NaN or infinite gradients of the cross-entropy or the DLR loss",
            "white-box attacks cannot work",
            bad="error",
            show=number,
        )

    def no_autograd(self) -> Check:
        """A forward pass that builds a graph although gradients are off is caught by what it saves for the way back."""
        saved = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal saved
            saved += 1
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            self.model(self.images[: self.batch])
        return at_most(
            "no-autograd-in-forward",
            saved,
            0,
            "The number of tensors that a forward pass without gradients keeps for a backward pass",
            "the network optimises at test time, and attacks that do not know this overestimate its robustness",
            bad="error",
            show=number,
        )

    def relative(self, difference: Tensor) -> float:
        return float(difference.abs().max() / self.logits.abs().max().clamp_min(1e-12))


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as problem:  # a network may raise anything
        if ran_out(problem):
            raise
        lines = str(problem).strip().splitlines()
        return failed(name, f"The network raised {type(problem).__name__}: {lines[0] if lines else 'no message'}")


def _images(images: Tensor) -> Check:
    try:
        if len(images) == 0:
            raise AttackError("There are no images.")
        check_images(images)
    except AttackError as problem:
        return failed("images", problem.message)
    shape = " x ".join(map(str, images.shape))
    return Check(name="images", verdict="ok", text=f"The images, {shape} float32, are finite and lie in [0, 1].")


def _labels(images: Tensor, labels: Tensor, classes: int) -> Check:
    fits = labels.dtype == torch.int64 and labels.shape == images.shape[:1]
    inside = fits and bool(((labels >= 0) & (labels < classes)).all())
    found = f"{tuple(labels.shape)} {labels.dtype}" + (
        f" from {labels.min()} to {labels.max()}" if labels.numel() else ""
    )
    text = f"The labels are {found}; needed: ({len(images)},) torch.int64 from 0 to {classes - 1}."
    return Check(name="labels", verdict="ok" if inside else "error", text=text)


def _random_numbers(start: list[Tensor], end: list[Tensor]) -> Check:
    drew = any(not torch.equal(old, new) for old, new in zip(start, end, strict=True))
    did = "changed" if drew else "did not change"
    text = (
        f"Forward passes {did} the global random state; that they do would mean that the network draws random numbers."
    )
    return Check(name="draws-nothing", verdict="warning" if drew else "ok", text=text)


def _random_state(device: torch.device) -> list[Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, and the modes of all modules."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    modes = {f"{name}.training": torch.tensor(module.training) for name, module in model.named_modules()}
    return {**{name: tensor.detach().clone() for name, tensor in tensors}, **modes}


def _unchanged(start: dict[str, Tensor], end: dict[str, Tensor]) -> Check:
    changed = [name for name in start.keys() | end.keys() if not _same(start.get(name), end.get(name))]
    return at_most(
        "state-unchanged",
        len(changed),
        0,
        "The number of parameters, buffers and modes that forward passes changed"
        + (f" ({', '.join(sorted(changed)[:3])})" if changed else ""),
        "the network depends on what it has seen before",
        bad="error",
        show=number,
    )


def _same(first: Tensor | None, second: Tensor | None) -> bool:
    if first is None or second is None or first.shape != second.shape:
        return False
    return bool(((first == second) | ((first != first) & (second != second))).all())  # NaN is as it was
