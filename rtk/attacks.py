"""Adversarial attacks, built from torchattacks; the only module that imports it.

torchattacks resets the global random state, leaves sub-modules in the wrong mode, accumulates parameter gradients and
does not check what it returns. `Attack.__call__` is the one way in, and guarantees

* every module's `training` flag, every parameter's `requires_grad` and `.grad`, every buffer and the global random
  state are as they were before, also after an exception;
* the result is a detached float32 tensor inside the ball, inside [0, 1] and finite, or `AttackError` is raised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .errors import AttackError, BadValue
from .threat import Threat

LINF_TOLERANCE = 1e-6  # float32 rounding of x + delta - x at |x| <= 1
L2_TOLERANCE = 1e-5  # relative: the rounding of a sum over all pixels


class Logits(nn.Module):
    """What an attack sees of a network: fresh float32 logits, and a count of the images that went through.

    Square writes into the tensor it gets, so a network that returns a stored tensor would be changed by it.
    """

    def __init__(self, model: nn.Module, tick: Callable[[int], None] | None = None):
        super().__init__()
        self.model = model
        self.tick = tick

    def forward(self, images: Tensor) -> Tensor:
        if self.tick is not None:
            self.tick(len(images))
        return self.model(images).float().clone()


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without parameter gradients; everything is put back at the end, whatever happened inside."""
    modes = [(module, module.training) for module in model.modules()]
    parameters = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    buffers = [(buffer, buffer._version, buffer.clone()) for buffer in model.buffers()]
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
            for buffer, version, value in buffers:
                if buffer._version != version:
                    buffer.copy_(value)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Run a block from `seed`; the global random state of the CPU and of `device` is as before afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@dataclass(frozen=True)
class Attack:
    """One attack with its settings; call it with a network, images and labels.

    Attributes:
        name: as reported, e.g. "pgd20", "apgd-ce".
        threat: the ball.
        settings: everything that can change the result, as stored with an evaluation (JSON).
        cost: about how many forward passes an attacked image takes; for the estimate of the time left.
    """

    name: str
    threat: Threat
    settings: dict[str, Any]
    cost: int
    build: Callable[[nn.Module, int], Any] = field(repr=False, compare=False)

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        seed: int,
        tick: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Adversarial images for `images` (N, C, H, W), float32 in [0, 1], with `labels` (N,), int64.

        Args:
            seed: decides every random draw of the attack.
            tick: called with the number of images before each forward pass.

        Raises:
            AttackError: images outside [0, 1], or a result outside the ball or the range.
        """
        check_images(images)
        if len(images) == 0 or self.threat.eps == 0 or self.settings.get("steps") == 0:
            return images.detach().clone()
        clean = images.detach().contiguous()
        with frozen(model), seeded(seed, images.device), torch.enable_grad():
            attacker = self.build(Logits(model, tick).eval(), seed)
            adversarial = attacker(clean, labels).detach()
        check_ball(clean, adversarial, self.threat, self.name)
        return adversarial


def pgd(
    threat: Threat,
    *,
    steps: int = 10,
    step_size: float | None = None,
    random_start: bool = True,
    name: str | None = None,
) -> Attack:
    """Projected gradient descent on the cross-entropy (Madry et al., ICLR 2018); the last iterate is returned.

    Args:
        step_size: in pixels of [0, 1]; eps / 4 by default, which is 2/255 at 8/255.
    """
    step = threat.eps / 4 if step_size is None else step_size
    if steps < 0 or step <= 0 < threat.eps:
        raise BadValue(f"PGD needs steps >= 0 and a step size > 0, got {steps} steps of {step}.")

    def build(model: nn.Module, seed: int) -> Any:
        import torchattacks

        kind = torchattacks.PGD if threat.norm == "Linf" else torchattacks.PGDL2
        return kind(model, eps=threat.eps, alpha=step, steps=steps, random_start=random_start)

    settings = {"steps": steps, "step_size": step, "random_start": random_start, "loss": "ce", "iterate": "last"}
    return Attack(name or f"pgd{steps}", threat, settings, cost=steps, build=build)


def trades_pgd(threat: Threat, *, steps: int = 10, step_size: float | None = None, name: str | None = None) -> Attack:
    """The training attack of TRADES (Zhang et al., ICML 2019): PGD on KL(p(x) || p(x')), from x + 0.001 N(0, 1).

    It never looks at the labels. The gradient at x itself is zero, so there is no start without noise.

    Args:
        step_size: in pixels of [0, 1]; eps / 4 by default, which is 2/255 at 8/255.

    Raises:
        BadValue: L2, which torchattacks does not have.
    """
    if threat.norm != "Linf":
        raise BadValue("The KL attack of TRADES is available for Linf; got L2.", 'loss="ce"')
    step = threat.eps / 4 if step_size is None else step_size
    if steps < 0 or step <= 0 < threat.eps:
        raise BadValue(f"PGD needs steps >= 0 and a step size > 0, got {steps} steps of {step}.")

    def build(model: nn.Module, seed: int) -> Any:
        import torchattacks

        return torchattacks.TPGD(model, eps=threat.eps, alpha=step, steps=steps)

    settings = {"steps": steps, "step_size": step, "start": "0.001 N(0, 1)", "loss": "kl", "iterate": "last"}
    return Attack(name or f"kl-pgd{steps}", threat, settings, cost=steps + 1, build=build)


def autoattack(threat: Threat, classes: int) -> tuple[Attack, ...]:
    """The four attacks of AutoAttack standard (Croce & Hein, ICML 2020) with the reference's settings, in its order.

    torchattacks.AutoAttack is not used: it runs APGD and FAB for 10 instead of 100 iterations, and Square with another
    schedule. The four attacks built here give the reference's adversarial images bit for bit (tested).

    Raises:
        BadValue: L2, where torchattacks' APGD-T and Square differ from the reference; or fewer than 4 classes, where
            the targeted DLR loss is not defined.
    """
    if threat.norm != "Linf":
        raise BadValue("AutoAttack is available for Linf; got L2.", "--suite clean,pgd20")
    if classes < 4:
        raise BadValue(
            f"AutoAttack needs 4 classes or more for its targeted loss; got {classes}.", "--suite clean,pgd20"
        )
    targets = min(9, classes - 1)

    def component(name: str, kind: str, cost: int, **settings: Any) -> Attack:
        def build(model: nn.Module, seed: int) -> Any:
            import torchattacks

            return getattr(torchattacks, kind)(model, norm=threat.norm, eps=threat.eps, seed=seed, **settings)

        return Attack(name, threat, settings, cost, build)

    gradient = {"steps": 100, "n_restarts": 1, "eot_iter": 1, "rho": 0.75}
    targeted = {"n_classes": targets + 1}
    fab = {"steps": 100, "n_restarts": 1, "alpha_max": 0.1, "eta": 1.05, "beta": 0.9, "multi_targeted": True}
    square = {"n_queries": 5000, "n_restarts": 1, "p_init": 0.8, "loss": "margin", "resc_schedule": False}
    return (
        component("apgd-ce", "APGD", 100, loss="ce", **gradient),
        component("apgd-t", "APGDT", 100 * targets, **gradient, **targeted),
        component("fab-t", "FAB", 200 * targets, **fab, **targeted),
        component("square", "Square", 5000, **square),
    )


def check_images(images: Tensor) -> None:
    """Raise AttackError unless `images` are (N, C, H, W), float32, finite and in [0, 1]."""
    if images.ndim != 4 or images.dtype != torch.float32:
        raise AttackError(f"Images must be (N, C, H, W) float32, got {tuple(images.shape)} {images.dtype}.")
    if len(images) == 0:
        return
    low, high = float(images.min()), float(images.max())
    if not (low >= -LINF_TOLERANCE and high <= 1 + LINF_TOLERANCE):  # also false for NaN
        raise AttackError(
            f"Images must lie in [0, 1], got [{low:.4g}, {high:.4g}]: normalisation belongs inside the model."
        )


def check_ball(clean: Tensor, adversarial: Tensor, threat: Threat, name: str) -> None:
    """Raise AttackError unless `adversarial` is finite, in [0, 1] and within `threat` of `clean`."""
    if adversarial.shape != clean.shape or not torch.isfinite(adversarial).all():
        raise AttackError(f"{name} returned images of another shape or with NaN.")
    if float(adversarial.min()) < 0 or float(adversarial.max()) > 1:
        raise AttackError(f"{name} left [0, 1].")
    if distance(clean, adversarial, threat.norm).max() > _radius(threat):
        worst = float(distance(clean, adversarial, threat.norm).max())
        raise AttackError(f"{name} left the ball: {threat.norm} distance {worst:.8g} > {threat.eps:.8g}.")


def distance(clean: Tensor, adversarial: Tensor, norm: str) -> Tensor:
    """Distance per sample, shape (N,)."""
    difference = (adversarial - clean).flatten(1)
    return difference.abs().amax(1) if norm == "Linf" else difference.norm(dim=1)


def _radius(threat: Threat) -> float:
    return threat.eps + LINF_TOLERANCE if threat.norm == "Linf" else threat.eps * (1 + L2_TOLERANCE) + LINF_TOLERANCE
