"""Projected gradient descent with a fixed step, on the cross-entropy and on the KL divergence of TRADES."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import BadValue
from ..threat import Threat
from .attack import Attack


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
    step = _step(threat, steps, step_size)

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
    step = _step(threat, steps, step_size)

    def build(model: nn.Module, seed: int) -> Any:
        import torchattacks

        return torchattacks.TPGD(model, eps=threat.eps, alpha=step, steps=steps)

    settings = {"steps": steps, "step_size": step, "start": "0.001 N(0, 1)", "loss": "kl", "iterate": "last"}
    return Attack(name or f"kl-pgd{steps}", threat, settings, cost=steps + 1, build=build)


def _step(threat: Threat, steps: int, step_size: float | None) -> float:
    step = threat.eps / 4 if step_size is None else step_size
    if steps < 0 or step <= 0 < threat.eps:
        raise BadValue(f"PGD needs steps >= 0 and a step size > 0, got {steps} steps of {step}.")
    return step
