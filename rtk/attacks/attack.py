"""One attack with its settings, and the way in which it may touch a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import BadValue
from ..precision import Precision
from ..threat import Threat
from .checks import check_ball, check_images


class Logits(nn.Module):
    """What an attack sees of a network: fresh, contiguous float32 logits, and gradients that are contiguous too.

    Square writes into the tensor it gets, so a network that returns a stored tensor would be changed by it. PGDL2 and
    FAB take views of gradients, which fails for those of a network in channels_last.

    Args:
        tick: called with the number of images before each forward pass.
        batch: at most so many images go through the network at once; the others wait, and where a gradient is wanted,
            a part's activations are computed again when its turn comes, so that there are never those of two parts.
        precision: what the network computes in.
    """

    def __init__(
        self,
        model: nn.Module,
        tick: Callable[[int], None] | None = None,
        batch: int | None = None,
        precision: Precision = "float32",
    ):
        super().__init__()
        self.model = model
        self.tick = tick
        self.batch = batch
        self.precision = precision

    def forward(self, images: Tensor) -> Tensor:
        if self.tick is not None:
            self.tick(len(images))
        images = images.flatten(1).unflatten(1, images.shape[1:])  # the way back of a view is contiguous
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            if self.batch is None or len(images) <= self.batch:
                return self.model(images).float().clone()
            return torch.cat([self._part(part) for part in images.split(self.batch)]).float()

    def _part(self, images: Tensor) -> Tensor:
        if torch.is_grad_enabled() and images.requires_grad:
            return checkpoint(self.model, images, use_reentrant=False)
        return self.model(images)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without parameter gradients; everything is put back at the end, whatever happened inside."""
    modes = [(module, module.training) for module in model.modules()]
    parameters = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        model.eval()
        for parameter, _, _ in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, needed, gradient in parameters:
            parameter.requires_grad_(needed)
            parameter.grad = gradient
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer  # a forward pass may have put another tensor in its place
                # not by _version: BatchNorm moves its running statistics without raising it. A write that is not
                # needed would, and a graph that still needs the buffer could not be followed back
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Run a block from `seed`; the global random state of the CPU and of `device` is as before afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        # not torch.manual_seed, which seeds every GPU there is, and takes a millisecond to note where it was called
        torch.default_generator.manual_seed(seed)
        if devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@dataclass(frozen=True)
class Attack:
    """One attack with its settings; call it with a network, images and labels.

    Attributes:
        name: as reported, e.g. "pgd20", "apgd-ce".
        threat: the ball.
        settings: everything that can change the result, as stored with an evaluation (JSON).
        cost: about how many forward passes an attacked image takes; for the estimate of the time left.
        precision: what the network computes its logits and gradients in; bfloat16 is for training alone.
        search: gives, for a network and the images, the one to search on, which is the same function of images; None
            for the network itself.
    """

    name: str
    threat: Threat
    settings: dict[str, Any]
    cost: int
    build: Callable[[nn.Module, int], Any] = field(repr=False, compare=False)
    precision: Precision = "float32"
    search: Callable[[nn.Module, Tensor], nn.Module] | None = field(default=None, repr=False, compare=False)

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        seed: int,
        tick: Callable[[int], None] | None = None,
        batch: int | None = None,
    ) -> Tensor:
        """Adversarial images for `images` (N, C, H, W), float32 in [0, 1], with `labels` (N,), int64.

        Whether an image is broken is not said here: whoever asks judges the result by a forward pass of its own. The
        attacks of AutoAttack return an image that they could not break as it was; PGD returns its last iterate.

        Args:
            seed: decides every random draw of the attack.
            tick: called with the number of images before each forward pass.
            batch: at most so many images go through the network at once, forward and backward, for less memory at
                the price of one more forward pass per gradient. The attack itself sees all images, so that its draws
                are the same; only the rounding inside the network can depend on it. None for all of them.

        Raises:
            AttackError: images outside [0, 1], or a result outside the ball or the range.
            BadValue: `batch` below 1, or a loss that needs more classes than the network has.
        """
        if batch is not None and batch < 1:
            raise BadValue(f"An attack needs a batch of 1 image or more; got {batch}.")
        check_images(images)
        if len(images) == 0 or self.threat.eps == 0 or self.settings.get("steps") == 0:
            return images.detach().clone()
        clean = images.detach().contiguous()
        with frozen(model), seeded(seed, images.device), torch.enable_grad():
            network = model if self.search is None else self.search(model, clean)
            attacker = self.build(Logits(network, tick, batch, self.precision).eval(), seed)
            adversarial = attacker(clean, labels).detach()
        check_ball(clean, adversarial, self.threat, self.name)
        return adversarial
