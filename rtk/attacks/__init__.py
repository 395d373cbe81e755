"""Adversarial attacks, built from torchattacks; the only package that imports it.

torchattacks resets the global random state, leaves sub-modules in the wrong mode, accumulates parameter gradients and
does not check what it returns. `Attack.__call__` is the one way in, and guarantees

* every module's `training` flag, every parameter's `requires_grad` and `.grad`, every buffer and the global random
  state are as they were before, also after an exception;
* the result is a detached float32 tensor inside the ball, inside [0, 1] and finite, or `AttackError` is raised.
"""

from __future__ import annotations

from .attack import Attack, Logits, frozen, seeded
from .checks import check_ball, check_images, distance
from .ensemble import apgd, apgd_t, autoattack, fab_t, label, square
from .projected import pgd, trades_pgd

__all__ = [
    "Attack",
    "Logits",
    "apgd",
    "apgd_t",
    "autoattack",
    "check_ball",
    "check_images",
    "distance",
    "fab_t",
    "frozen",
    "label",
    "pgd",
    "seeded",
    "square",
    "trades_pgd",
]
